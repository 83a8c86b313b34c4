"""Nothing connects where it shouldn't."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.dns.networks import may_be_dialled, parse_networks


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "192.0.1.1",
        "100.128.0.1",
        "223.255.255.255",
        "2001:4860:4860::8888",
        "2a00::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_global_addresses_may_be_dialled(address: str) -> None:
    assert may_be_dialled(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.1", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.31.0.1", "192.0.0.9"),
        *("192.0.2.1", "192.168.1.1", "198.19.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1"),
        *("240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1", "4000::1"),
        pytest.param("::ffff:10.0.0.1", id="mapped"),
        pytest.param("::7f00:1", id="compatible"),
        pytest.param("2002:7f00:1::1", id="6to4"),
        pytest.param("64:ff9b::a00:1", id="NAT64"),
        pytest.param("64:ff9b:1::808:808", id="local NAT64"),
        pytest.param("2001:0:808:808:0:0:f5ff:fffe", id="Teredo of 10.0.0.1"),
        pytest.param("2001:0:a00:1:0:0:f7f7:f7f7", id="Teredo by 10.0.0.1"),
        pytest.param("mail.test", id="a name"),
        pytest.param("", id="nothing"),
        pytest.param("fe80::1%eth0", id="a zone"),
    ],
)
def test_all_others_may_not(address: str) -> None:
    assert not may_be_dialled(address)


def test_the_operator_may_allow_a_network() -> None:
    allowed = parse_networks(["127.0.0.0/8", "fd00::/8", "10.1.2.3"])
    for address in ("127.0.0.1", "fd00::1", "10.1.2.3", "::ffff:127.0.0.1", "8.8.8.8"):
        assert may_be_dialled(address, allowed), address
    for address in ("10.1.2.4", "192.168.0.1", "fe80::1", "::1"):
        assert not may_be_dialled(address, allowed), address


def test_a_tunnel_to_a_private_address_needs_that_address_allowed() -> None:
    assert may_be_dialled("2002:0808:0808::1")
    assert may_be_dialled("2002:7f00:1::1", parse_networks(["127.0.0.0/8"]))


def test_what_is_no_network_is_named() -> None:
    with pytest.raises(ValueError, match="300"):
        parse_networks(["300.0.0.0/8"])


@given(st.text(max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    may_be_dialled(text, parse_networks(["127.0.0.0/8"]))
