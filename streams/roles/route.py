"""Route: how deep to look, what is decided without asking a mail server, and who is asked for the rest.

No table: the answers depend on the record and on DNS alone, and a repeat is dropped by completion.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain

from schemas.pipeline import Admitted, AttemptEntry, Position, TaskItem, Ticket
from schemas.topics import ADMITTED_BULK, ADMITTED_INTERACTIVE
from schemas.vocabulary import Depth, Lane
from streams.checks import sandbox
from streams.checks.classify import past_of
from streams.checks.evidence import Prepared
from streams.codec import decode
from streams.dns.answers import MailRoute
from streams.metrics import Metrics
from streams.records import Incoming, Outgoing
from streams.roles.breath import Turns, breathing
from streams.roles.credits import Credits
from streams.roles.judge import (
    LANES,
    Destination,
    Learned,
    Resolver,
    attempts,
    instant,
    judge,
    providers_of,
    shard_of,
    tasks,
)
from streams.roles.tiers import later
from streams.settings import Settings
from streams.subscription import Subscription

CONCURRENCY = 100
"""Requests at a time per lane; most of them wait, since addresses have a bound of their own."""

IN_WORK = 5_000
"""Addresses at a time per lane: five large requests, so that domains that are slow to look up hold up few."""

LOOKUPS = 500
"""Domains looked up at a time per lane."""

UNRESOLVED = "unresolved"
"""Stands for the provider of a domain whose DNS did not answer; who takes the task looks again."""

UNRESOLVED_SHARDS = 16

Groups = defaultdict[Destination, list[TaskItem]]


class Route:
    """``clock``: milliseconds since 1970. ``cancelled``: uids of requests that nobody waits for any more."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        precheck: Callable[[str], Prepared],
        resolver: Resolver,
        clock: Callable[[], int],
        opted_out: Callable[[str], bool],
        cancelled: Container[str] = (),
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._precheck = precheck
        self._risky = frozenset(settings.risky_flags)
        self._resolver = resolver
        self._clock = clock
        self._cancelled = cancelled
        self._opted_out = opted_out
        self._in_work = {lane: Credits(IN_WORK) for lane in Lane}
        self._lookups = {lane: asyncio.Semaphore(LOOKUPS) for lane in Lane}
        self._turns = Turns()

    def subscriptions(self) -> tuple[Subscription, ...]:
        """What route reads: a lane each."""
        return (
            Subscription(ADMITTED_INTERACTIVE, self.handle, CONCURRENCY),
            Subscription(ADMITTED_BULK, self.handle, CONCURRENCY),
        )

    async def handle(self, record: Incoming) -> Sequence[Outgoing]:
        """Findings for what is decided, tasks for the rest: together every address once.

        A request that was cancelled is completion's to answer.
        """
        admitted = decode(Admitted, record.value)
        ticket = admitted.ticket
        async with self._in_work[ticket.lane].take(len(admitted.addresses), ticket.tenant):
            if ticket.request_uid in self._cancelled:
                return ()
            async with self._turns.take(ticket.lane, ticket.tenant):
                addresses = await self._read(admitted.addresses)
            routes = await self._routes(ticket, addresses)
            async with self._turns.take(ticket.lane, ticket.tenant):
                return [record async for record in self._outputs(ticket, addresses, routes)]

    async def _outputs(
        self, ticket: Ticket, addresses: Iterable[Learned], routes: Mapping[str, MailRoute]
    ) -> AsyncIterator[Outgoing]:
        now = instant(self._clock())
        entries: list[AttemptEntry] = []
        items: Groups = defaultdict(list)
        providers = await providers_of(routes)
        async for address in breathing(addresses):
            learned = self._learned(address, routes, providers)
            if self._is_asked(ticket, learned):
                items[self._destination(ticket, learned)].append(_item(learned))
            else:
                entries.append(self._decide(ticket, learned, now, items))
        decided = attempts(ticket, "route", entries)
        asked = (task for to, group in items.items() for task in tasks(ticket, to, group, now))
        async for record in breathing(chain(decided, asked), every=1):
            yield record

    async def _read(self, addresses: Iterable[str]) -> list[Learned]:
        """Each address once, with every place where it stands. The case of a local part means something."""
        places: dict[tuple[bool, str], tuple[Prepared, list[Position]]] = {}
        async for index, text in breathing(enumerate(addresses)):
            prepared = self._precheck(text)
            wrong = prepared.syntax_error is not None
            name = (wrong, text if wrong else prepared.address)
            places.setdefault(name, (prepared, []))[1].append(Position(index=index, input=text))
        return [Learned(prepared, tuple(positions)) for prepared, positions in places.values()]

    async def _routes(self, ticket: Ticket, addresses: Iterable[Learned]) -> Mapping[str, MailRoute]:
        """Where mail goes for every domain that has to be asked for, looked up side by side."""
        if ticket.depth is Depth.SYNTAX:
            return {}
        domains = dict.fromkeys(each.prepared.domain for each in addresses if _is_public(each.prepared))
        routes = await asyncio.gather(*(self._look_up(ticket.lane, domain) for domain in domains))
        return dict(zip(domains, routes, strict=True))

    async def _look_up(self, lane: Lane, domain: str) -> MailRoute:
        async with self._lookups[lane]:
            return await self._resolver.route(domain)

    def _is_asked(self, ticket: Ticket, learned: Learned) -> bool:
        if ticket.depth is not Depth.SMTP or learned.opted_out:
            return False
        return learned.route is not None and learned.route.has_hosts

    def _learned(self, address: Learned, routes: Mapping[str, MailRoute], providers: Mapping[str, str]) -> Learned:
        domain = address.prepared.domain
        if not _is_public(address.prepared):
            return address
        return replace(
            address, route=routes.get(domain), provider=providers.get(domain), opted_out=self._opted_out(domain)
        )

    def _destination(self, ticket: Ticket, learned: Learned) -> Destination:
        provider = learned.provider or UNRESOLVED
        shards = self._settings.provider_shards.get(provider, 1)
        return Destination(LANES[ticket.lane], provider, shard_of(learned.prepared.domain, shards))

    def _decide(self, ticket: Ticket, learned: Learned, now: datetime, items: Groups) -> AttemptEntry:
        """The finding of an address that is not asked for; where DNS said "later", a task that looks again."""
        prepared = learned.prepared
        answer = sandbox.finding(prepared, now) if prepared.syntax_error is None else None
        finding = answer or judge(learned, ticket.depth, self._risky, now)
        again = later(ticket, 1, now, self._settings.retry_delays_s) if finding.retryable and answer is None else None
        if again is None:
            return AttemptEntry(positions=learned.positions, final=True, finding=finding)
        self._metrics.retries.labels(again.tier, finding.reason).inc()
        shard = shard_of(prepared.domain, UNRESOLVED_SHARDS)
        to = Destination(again.tier, UNRESOLVED, shard, attempt=2)
        items[to].append(_item(replace(learned, past=(past_of(finding),))))
        known = finding.model_copy(update={"next_attempt_at": again.due})
        return AttemptEntry(positions=learned.positions, final=False, finding=known)


def _is_public(prepared: Prepared) -> bool:
    """Whether there is a domain in the world to ask for."""
    return prepared.syntax_error is None and not sandbox.is_sandbox(prepared)


def _item(learned: Learned) -> TaskItem:
    return TaskItem(positions=learned.positions, address=learned.prepared.address, past=learned.past)
