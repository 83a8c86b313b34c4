"""Ways out: the addresses of ours, and the proxies, that servers are asked from. Which one it is, decided without I/O.

Every provider has a home among the ways, the same one in every process and after every restart (rendezvous hashing,
Thaler and Ravishankar 1998): what was greylisted must be asked again from the address that it was asked from, and a
way that comes or goes moves only the providers that are its own. Another way is taken only where the network fails.
Never to get around a refusal: a provider that has refused one of our ways is asked by that way alone, until it serves
it again or some time has passed.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address

from streams.smtp.breaker import Breaker, BreakerState
from streams.smtp.identity import Identity
from streams.smtp.policy import ProviderPolicy
from streams.smtp.shards import whole_provider

MAX_REFUSALS = 10_000
"""Providers whose refusals are remembered; the oldest are forgotten first."""

MAX_RANKED = 4096
"""Providers whose order of ways is at hand."""

MAX_CREDENTIAL = 255
"""Octets of a user name or password (RFC 1929 section 2)."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A SOCKS5 proxy (RFC 1928); user name and password (RFC 1929) stand in no log, and come both or not at all.

    :raises ValueError: a port that is none, or credentials that can't be said; the sentence does not repeat them.
    """

    host: str
    port: int = 1080
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.host or not 0 < self.port < 65536:
            raise ValueError("a proxy needs a host, and a port from 1 to 65535")
        if bool(self.username) != bool(self.password):
            raise ValueError("a proxy wants both a user name and a password, or neither")
        for text in (self.username, self.password):
            if not text.isascii() or len(text) > MAX_CREDENTIAL:
                raise ValueError(f"user name and password of a proxy are ASCII, up to {MAX_CREDENTIAL} characters each")


@dataclass(frozen=True, slots=True)
class Way:
    """One way out and who we are there. Without ``sources`` and ``proxy`` the system chooses our address.

    ``sources`` are addresses of this machine, one of each family at most; a family that is not among them is not asked
    by this way. ``name`` stands in results, metrics and logs.

    :raises ValueError: a source that is no address, two of a family, or sources with a proxy.
    """

    name: str
    identity: Identity
    sources: tuple[str, ...] = ()
    proxy: Proxy | None = None

    def __post_init__(self) -> None:
        families = [ip_address(source).version for source in self.sources]
        if len(set(families)) < len(families):
            raise ValueError("a way has one source address of each family at most")
        if self.sources and self.proxy:
            raise ValueError("a way has source addresses or a proxy, not both")

    @property
    def plain(self) -> bool:
        """The system chooses: there is nothing of its own that could fail."""
        return not self.sources and self.proxy is None

    def reaches(self, address: str) -> bool:
        """True unless the way has no address of the family of ``address``."""
        return not self.sources or self.source_for(address) is not None

    def source_for(self, address: str) -> str | None:
        """The address of ours that ``address`` is dialled from; None: the system's choice."""
        version = ip_address(address).version if self.sources else 0
        return next((source for source in self.sources if ip_address(source).version == version), None)


class Ways:
    """The ways of a pool, and which of them a provider is asked by. Callers hold the pool's lock."""

    __slots__ = ("_breakers", "_by_name", "_order", "_ranked", "_refusals", "sole")

    def __init__(self, ways: Sequence[Way], policy: ProviderPolicy) -> None:
        """:raises ValueError: no way, or two that can't be told apart."""
        self._by_name = {way.name: way for way in ways}
        if not ways or len(self._by_name) < len(ways) or ("" in self._by_name and len(ways) > 1):
            raise ValueError("a pool has at least one way; of several each has a name of its own")
        self.sole = len(ways) == 1
        """There is nothing to choose."""
        self._order = tuple(ways)
        self._ranked = lru_cache(maxsize=MAX_RANKED)(self._rank)
        self._breakers = {
            way.name: Breaker(policy.breaker_failures, policy.breaker_base_s, policy.breaker_max_s)
            for way in ways
            if not way.plain
        }
        self._refusals: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def __getitem__(self, name: str) -> Way:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Way]:
        return iter(self._order)

    # Which way

    def home(self, provider: str, source: str | None = None) -> Way:
        """The way that ``provider`` is asked by as long as the network and the provider let it.

        ``source`` is the way that the earlier attempts of the same addresses took; one that is no more counts for
        nothing.
        """
        if self.sole:
            return self._order[0]
        return self._by_name.get(source or "") or self._ranked(whole_provider(provider))[0]

    def order(self, provider: str, source: str | None, now: float) -> tuple[Way, ...]:
        """The home, then those that are taken where the network fails; after a refusal none but the refused one."""
        if self.sole:
            return self._order
        if (refused := self.refused_by(provider, now)) is not None:
            return (refused,)
        home = self.home(provider, source)
        return (home, *(way for way in self._ranked(whole_provider(provider)) if way is not home))

    def _rank(self, provider: str) -> tuple[Way, ...]:
        return tuple(sorted(self._order, key=lambda way: _weight(provider, way.name), reverse=True))

    # Refusals

    @property
    def welcome(self) -> bool:
        """No refusal is remembered."""
        return not self._refusals

    def refused_by(self, provider: str, now: float) -> Way | None:
        """The way that ``provider`` has refused of late."""
        if not self._refusals:
            return None
        until, name = self._refusals.get(whole_provider(provider), (0.0, ""))
        return self._by_name[name] if now < until else None

    def refuse(self, provider: str, way: str, until: float) -> None:
        """``provider`` said to ``way`` that it does not want us: no other way asks it before ``until``."""
        if self.sole:
            return
        whole = whole_provider(provider)
        self._refusals[whole] = max(self._refusals.pop(whole, (until, way)), (until, way))
        if len(self._refusals) > MAX_REFUSALS:
            self._refusals.popitem(last=False)

    def serve(self, provider: str, way: str) -> None:
        """``provider`` spoke of a mailbox to ``way``: if that is the one that it had refused, all is well again."""
        if self._refusals and self._refusals.get(whole := whole_provider(provider), (0.0, None))[1] == way:
            del self._refusals[whole]

    # What may fail of a way itself: its proxy, its source address

    def state(self, way: str, now: float) -> BreakerState:
        """The way's own breaker; a plain way has nothing that could fail."""
        breaker = self._breakers.get(way)
        return breaker.state(now) if breaker is not None else BreakerState.CLOSED

    def allows(self, way: str, now: float) -> bool:
        """True when the way may be dialled by; where it was down one caller tries, and tells what became of it."""
        breaker = self._breakers.get(way)
        return breaker is None or breaker.allows(now)

    def failed(self, way: str, now: float, chance: float) -> bool:
        """No host was reached for the way's own sake; true when it is left alone from now on."""
        breaker = self._breakers.get(way)
        if breaker is None:
            return False
        before = breaker.opened
        breaker.failed(object(), now, chance)
        return breaker.opened > before

    def works(self, way: str) -> bool:
        """A host was reached, or the way is not to blame; true when it had been left alone."""
        breaker = self._breakers.get(way)
        if breaker is None or not breaker.culprits:
            return False
        was_down = bool(breaker.opened)
        breaker.culprits.clear()
        breaker.opened, breaker.trying = 0, False
        return was_down

    def abandoned(self, way: str) -> None:
        """The caller went away in mid-dial: another one may try."""
        if (breaker := self._breakers.get(way)) is not None:
            breaker.abandoned()


def _weight(provider: str, way: str) -> bytes:
    """The highest bidder for a provider is its home."""
    return blake2b(f"{len(provider)}:{provider}{way}".encode(), digest_size=16).digest()
