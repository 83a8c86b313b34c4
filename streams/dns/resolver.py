"""Where a domain's mail goes (RFC 5321 section 5.1): MX, else the domain itself; null MX; and when nobody knows."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from streams.dns.answers import MailHost, MailRoute, RouteKind
from streams.dns.burst import Room
from streams.dns.cache import DOMAINS, FlightCache
from streams.dns.nameservers import name_servers
from streams.dns.networks import may_be_dialled, parse_networks
from streams.dns.transport import Answer, Exchange, RecordType, Status, Transport
from streams.dns.udp import UdpTransport

MIN_TTL, MAX_TTL = 30.0, 3600.0
"""Bounds in seconds of what we keep: a TTL of 0 would ask for each address, one of a week would hide a move."""

NEGATIVE_TTL = 60.0
"""For a denial without an SOA record (RFC 2308 leaves it open)."""

FAILURE_TTL = (5.0, 15.0)
"""A failure is kept for a random time between these: long enough to spare a server in trouble, and not in step."""

MAX_EXCHANGES = 20
"""Exchangers looked at, the most preferred first: a hostile answer may name thousands."""

MAX_ADDRESSES = 16
MAX_ALIASES = 8
MAX_IN_FLIGHT = 1000


@dataclass(frozen=True, slots=True)
class _HostAddresses:
    """What DNS says of one host: the addresses that may be dialled, how many may not, and whether it could be asked."""

    addresses: tuple[str, ...]
    refused: tuple[str, ...]
    status: Status
    detail: str = ""


class MailResolver:
    """Finds mail routes and remembers them. Belongs to the event loop that first uses it; close it with ``aclose``.

    ``nameservers``: ``HOST[:PORT]``, the system's when empty. ``allowed_networks``: CIDRs that may be dialled though
    they are not global. ``timeout`` in seconds bounds each question, counted from its turn among ``MAX_IN_FLIGHT``.
    ``ipv6``: ask for AAAA beside A; without it AAAA is asked only of hosts that have no IPv4 address
    which may be dialled.
    ``on_query(name, type, status, seconds)`` is called after each question that went out. Raises ValueError for a name
    server or a network that is none.
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        allowed_networks: Sequence[str] = (),
        timeout: float = 5.0,
        ipv6: bool = False,
        cache_size: int = DOMAINS,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        on_query: Callable[[str, str, str, float], None] | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._allowed = parse_networks(allowed_networks)
        self._transport = transport or UdpTransport(name_servers(nameservers), timeout=timeout)
        self._ipv6 = ipv6
        self._clock = clock
        self._rng = rng or random.Random()
        self._on_query = on_query
        self._turns = Room(MAX_IN_FLIGHT)
        self._exchanges = FlightCache(self._load_exchanges, size=cache_size, clock=clock)
        self._hosts = FlightCache(self._load_host, size=cache_size, clock=clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End what is under way and close the sockets."""
        self._exchanges.close()
        self._hosts.close()
        await self._transport.aclose()

    async def route(self, domain: str) -> MailRoute:
        """Where mail for an ASCII domain or an address literal (``[192.0.2.1]``) goes. Raises nothing but
        cancellation: what can't be learned is a route of kind ``temporary``."""
        started = self._clock()
        name = domain.lower().removesuffix(".")
        if name.startswith("["):
            return self._literal_route(name)
        answer = self._exchanges.peek(name)
        cached = answer is not None
        if answer is None:
            answer = await self._exchanges.get(name)
        order = self._order(name, answer)
        found = self._known(order)
        if found is None:
            cached = False
            found = await self._addresses_of(order)
        kind, hosts, detail = _conclusion(answer, order, found)
        elapsed_ms = round((self._clock() - started) * 1000)
        return MailRoute(name, kind, hosts, detail, cached, elapsed_ms)

    def _literal_route(self, literal: str) -> MailRoute:
        address = literal.removeprefix("[").removesuffix("]").removeprefix("ipv6:")
        if not may_be_dialled(address, self._allowed):
            return MailRoute(literal, RouteKind.UNROUTABLE, detail=f"{address} is not an address that may be dialled")
        return MailRoute(literal, RouteKind.IMPLICIT_MX, (MailHost(literal, 0, (address,)),))

    def _order(self, name: str, answer: Answer) -> Sequence[Exchange]:
        """Whose addresses are needed, the preferred first and equals by chance: without MX it is the domain itself (RFC
        5321 section 5.1)."""
        exchanges = answer.exchanges
        if len(exchanges) > 1:
            return sorted(exchanges, key=lambda each: (each.preference, self._rng.random()))[:MAX_EXCHANGES]
        if not exchanges and answer.status is Status.NODATA:
            return (Exchange(0, name),)
        return exchanges

    def _known(self, exchanges: Sequence[Exchange]) -> list[_HostAddresses] | None:
        """Their addresses where the cache has all of them."""
        known = [host for each in exchanges if (host := self._hosts.peek(each.host)) is not None]
        return known if len(known) == len(exchanges) else None

    async def _addresses_of(self, exchanges: Sequence[Exchange]) -> list[_HostAddresses]:
        """Of all at a time; without a task where there is but one."""
        if len(exchanges) == 1:
            return [await self._hosts.get(exchanges[0].host)]
        return await asyncio.gather(*(self._hosts.get(each.host) for each in exchanges))

    async def _load_exchanges(self, name: str) -> tuple[Answer, float]:
        answer = await self._ask(name, RecordType.MX)
        return answer._replace(exchanges=_usable(answer.exchanges)), self._time_to_live(answer)

    async def _load_host(self, name: str) -> tuple[_HostAddresses, float]:
        answers = await self._ask_families(name)
        addresses = [address for answer in answers for address in answer.addresses[:MAX_ADDRESSES]]
        good = tuple(address for address in addresses if may_be_dialled(address, self._allowed))
        refused = tuple(address for address in addresses if address not in good)
        # Some servers never answer for AAAA: where addresses came, a failure of the other family is not asked again.
        worst = next((answer for answer in answers if answer.status.temporary), answers[0])
        ttl = min(self._time_to_live(answer) for answer in answers if answer.addresses or not good)
        return _HostAddresses(good, refused, worst.status, worst.detail), ttl

    async def _ask_families(self, name: str) -> list[Answer]:
        if self._ipv6:
            return list(await asyncio.gather(self._ask(name, RecordType.A), self._ask(name, RecordType.AAAA)))
        first = await self._ask(name, RecordType.A)
        dead_end = first.status is Status.OK and not any(may_be_dialled(a, self._allowed) for a in first.addresses)
        if first.status is not Status.NODATA and not dead_end:
            return [first]
        return [first, await self._ask(name, RecordType.AAAA)]

    async def _ask(self, name: str, rdtype: RecordType) -> Answer:
        """One question; a CNAME that the server left for us to follow is followed."""
        asked = name
        for _ in range(MAX_ALIASES):
            answer = await self._query(asked, rdtype)
            if answer.status is not Status.NODATA or answer.canonical in ("", asked):
                return answer
            asked = answer.canonical
        return Answer(Status.SERVFAIL, name, detail=f"{name} leads through more than {MAX_ALIASES} CNAME records")

    async def _query(self, name: str, rdtype: RecordType) -> Answer:
        await self._turns.enter()
        started = self._clock()
        try:
            answer = await self._transport.query(name, rdtype)
        finally:
            self._turns.leave()
        if self._on_query is not None:
            self._on_query(name, rdtype.name, answer.status.value, self._clock() - started)
        return answer

    def _time_to_live(self, answer: Answer) -> float:
        if answer.status.temporary:
            return self._rng.uniform(*FAILURE_TTL)
        return min(max(NEGATIVE_TTL if answer.ttl is None else answer.ttl, MIN_TTL), MAX_TTL)


def _usable(exchanges: Sequence[Exchange]) -> tuple[Exchange, ...]:
    """Without the root, which is no host (RFC 7505), and each host once, at its best preference."""
    best: dict[str, Exchange] = {}
    for each in sorted(exchanges):
        if each.host:
            best.setdefault(each.host, each)
    return tuple(best.values())


def _conclusion(
    answer: Answer, order: Sequence[Exchange], found: Sequence[_HostAddresses]
) -> tuple[RouteKind, tuple[MailHost, ...], str]:
    """What follows from the answer for MX and the addresses of those that it leads to."""
    hosts = [
        MailHost(each.host, each.preference, host.addresses)
        for each, host in zip(order, found, strict=True)
        if host.addresses
    ]
    if hosts:
        return RouteKind.MX if answer.exchanges else RouteKind.IMPLICIT_MX, tuple(hosts), ""
    kind, detail = _why_nobody(answer, order, found) if order else _why_no_exchanger(answer)
    return kind, (), detail


def _why_no_exchanger(answer: Answer) -> tuple[RouteKind, str]:
    if answer.status.temporary:
        return RouteKind.TEMPORARY, answer.detail
    if answer.status is Status.NXDOMAIN:
        return RouteKind.NOT_FOUND, answer.detail or "the domain does not exist"
    return RouteKind.NULL_MX, "the domain says that it takes no mail (RFC 7505)"


def _why_nobody(answer: Answer, order: Sequence[Exchange], found: Sequence[_HostAddresses]) -> tuple[RouteKind, str]:
    if failed := next((host for host in found if host.status.temporary), None):
        return RouteKind.TEMPORARY, failed.detail
    for each, host in zip(order, found, strict=True):
        if host.refused:
            return RouteKind.UNROUTABLE, f"{each.host} has only addresses that may not be dialled: {host.refused[0]}"
    if answer.exchanges:
        return RouteKind.UNROUTABLE, f"{order[0].host} has no address"
    return RouteKind.NOT_FOUND, "the domain has neither MX nor address records"
