"""Who runs a domain's exchangers. Work is shared out by provider, so that one worker at a time talks to its hosts."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from ipaddress import ip_address

from streams.checks.lists import DATA, suffixes
from streams.checks.suggest import public_suffixes
from streams.dns.answers import MailHost, MailRoute


@dataclass(frozen=True, slots=True)
class Traits:
    """How a provider's answers are to be read.

    ``hides_mailboxes``: it accepts every recipient at RCPT, so that a 250 says nothing. ``catch_all_probe_useful``:
    false where asking for a mailbox that can't exist teaches nothing.
    """

    hides_mailboxes: bool = False
    catch_all_probe_useful: bool = True


ORDINARY = Traits()


@dataclass(frozen=True, slots=True)
class Directory:
    """Suffixes of MX host names to providers, and what is known of each provider."""

    by_suffix: Mapping[str, str]
    traits: Mapping[str, Traits]


@cache
def directory() -> Directory:
    """The table that comes with mailvet, read when first asked for."""
    table = tomllib.loads((DATA / "providers.toml").read_text(encoding="utf-8"))
    by_suffix = {suffix: name for name, row in table.items() for suffix in row["suffixes"]}
    traits = {name: _traits(row) for name, row in table.items()}
    return Directory(by_suffix, traits)


def _traits(row: Mapping[str, bool]) -> Traits:
    hides = row.get("hides_mailboxes", False)
    return Traits(hides, row.get("catch_all_probe", not hides))


def traits_of(provider: str | None) -> Traits:
    """What is known of a provider; one that is not in the table is an ordinary one, and so is none at all."""
    return directory().traits.get(provider, ORDINARY) if provider else ORDINARY


def provider_of(route: MailRoute) -> str:
    """The provider of a route, the same for the same records in whatever order they came; empty without hosts.

    Its name in the table that comes with mailvet, else the registrable domain of the preferred host; a domain that is
    its own exchanger goes by the lowest address of that host, so that the many domains on one machine are one provider.
    """
    if not route.has_hosts:
        return ""
    runs, address = _run_by(route.hosts)
    its_own = route.domain.endswith(runs) and runs == _registrable(route.domain)
    return address if its_own else runs


@lru_cache(maxsize=16_384)
def _run_by(hosts: tuple[MailHost, ...]) -> tuple[str, str]:
    """The provider that hosts are of, and the one of a domain whose own they are."""
    preferred = _preferred(hosts)
    if name := next(filter(None, (_known(host.name) for host in preferred)), None):
        return name, name
    host = preferred[0]
    address = min(host.addresses, key=_numeric)
    return _registrable(host.name) or address, address


@lru_cache(maxsize=16_384)
def _registrable(name: str) -> str | None:
    """The domain below the public suffix, under which somebody registered; null where there is none."""
    return public_suffixes().privatesuffix(name)


def _preferred(hosts: tuple[MailHost, ...]) -> list[MailHost]:
    """The hosts of the best preference by name, since the resolver shuffles them."""
    best = min(host.preference for host in hosts)
    return sorted((host for host in hosts if host.preference == best), key=lambda host: host.name)


@lru_cache(maxsize=16_384)
def _known(host: str) -> str | None:
    """Who runs a host by the table that comes with mailvet."""
    table = directory().by_suffix
    return next((table[name] for name in suffixes(host) if name in table), None)


def _numeric(address: str) -> tuple[int, int]:
    parsed = ip_address(address)
    return parsed.version, int(parsed)
