"""Which addresses may be dialled: global ones, and those that the operator allows."""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The IANA special-purpose address registries (RFC 6890 and its updates), as far as they are not globally reachable,
# with multicast and reserved space. Written out, since `ipaddress.is_global` differs from one Python to the next.
_NOT_GLOBAL: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001:2::/48",
        "2001:10::/28",
        "2001:20::/28",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
    )
)

# Of IPv6 only this block is given out as global unicast (RFC 4291); NAT64 maps IPv4 into a prefix outside it.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """CIDRs, or single addresses; a ValueError names the one that is neither."""
    return tuple(ip_network(text, strict=False) for text in texts)


def may_be_dialled(text: str, allowed: Sequence[Network] = ()) -> bool:
    """True for a global address, or one within ``allowed``; false for anything else, and for what is no address.

    An IPv6 address that carries an IPv4 one (mapped, compatible, 6to4, Teredo, NAT64) leads there, so that one
    decides too.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return any(_within(address, network) for network in allowed) or all(
        _is_global(each) or any(_within(each, network) for network in allowed) for each in _destinations(address)
    )


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _is_global(address: Address) -> bool:
    if any(_within(address, network) for network in _NOT_GLOBAL):
        return False
    return address.version == 4 or address in _GLOBAL_UNICAST


def _destinations(address: Address) -> Iterator[Address]:
    """The addresses that a packet to this one may end at."""
    if isinstance(address, IPv4Address):
        yield address
    elif address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _NAT64 or address in _COMPATIBLE:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
    else:
        yield address
        if address.sixtofour is not None:
            yield address.sixtofour
        yield from address.teredo or ()
