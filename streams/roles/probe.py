"""Probe: asks the mail servers of one provider for the addresses of a task, and says what was learned of each.

No table. Where the same task is read twice after a crash, a mailbox may be asked for twice; completion drops the twin.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, cast

from schemas.pipeline import AttemptEntry, Task, TaskItem
from schemas.result import Finding
from schemas.topics import TASKS_BULK, TASKS_INTERACTIVE, TIERS
from schemas.vocabulary import Depth, Lane
from streams.checks.classify import meaning, past_of
from streams.checks.evidence import Prepared, Probe
from streams.checks.providers import traits_of
from streams.codec import decode
from streams.dns.answers import MailRoute
from streams.metrics import Metrics
from streams.records import Incoming, Outgoing
from streams.roles.breath import Turns, breathing
from streams.roles.credits import Credits, CreditsBy
from streams.roles.judge import (
    LANES,
    TENANT,
    Destination,
    Learned,
    Resolver,
    attempts,
    instant,
    judge,
    pieces,
    providers_of,
    shard_of,
    tasks,
)
from streams.roles.tiers import later
from streams.settings import Settings
from streams.smtp.shards import shard_name
from streams.subscription import Subscription

CONCURRENCY = 2000
"""Tasks in hand per lane; most of them wait for their provider's turn, as the bytes that were read."""

OPEN_BYTES = 256 * 1024
"""Tasks of one provider and lane that are read out of their bytes at a time: about 2,000 addresses, more than its
sessions can take. With all tasks in hand read out, Python's collector stopped everything for 0.9 s at a time."""

SHARE = CONCURRENCY // 4
"""Of these, how many may be of one partition: a provider that keeps everybody waiting holds up few others."""

PUT_ASIDE = "mailvet-put-aside"
"""Header of a task that waited too long for its provider's turn: how often that happened."""

MAX_HOPS = 3
"""How often a task follows a provider that changes; then it is asked where it is."""

PIECE = 50
"""Addresses asked for at a time: a dialogue's deadline begins with its turn, so a turn must not be long."""


class Prober(Protocol):
    """:class:`streams.checks.dialogue.Prober`."""

    async def ask(
        self,
        route: MailRoute,
        provider: str,
        prepared: Sequence[Prepared],
        *,
        catch_all_probe: bool,
        lane: Lane | None,
        timeout: float,
        source: str | None = None,
    ) -> list[Probe]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """An item of a task and where its mail goes today."""

    item: TaskItem
    learned: Learned


class Probing:
    """``clock``: milliseconds since 1970. ``sessions_of``: how many sessions a provider, or a shard of one, bears now.

    ``cancelled``: uids of requests that nobody waits for any more.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        precheck: Callable[[str], Prepared],
        resolver: Resolver,
        prober: Prober,
        clock: Callable[[], int],
        opted_out: Callable[[str], bool],
        sessions_of: Callable[[str], int] | None = None,
        cancelled: Container[str] = (),
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._precheck = precheck
        self._risky = frozenset(settings.risky_flags)
        self._resolver = resolver
        self._prober = prober
        self._clock = clock
        self._cancelled = cancelled
        self._opted_out = opted_out
        self._computing = Turns()
        self._open = CreditsBy(lambda _: OPEN_BYTES)
        sessions_of = sessions_of or (lambda _: settings.sessions_per_provider)
        self._turns = CreditsBy(lambda turn: PIECE * sessions_of(cast(tuple[Lane, str], turn)[1]))
        self._lanes = {lane: Credits(settings.in_flight_addresses) for lane in Lane}

    def subscriptions(self) -> tuple[Subscription, ...]:
        """What probe reads: a lane each."""
        return (
            Subscription(TASKS_INTERACTIVE, self.handle, CONCURRENCY, share=SHARE),
            Subscription(TASKS_BULK, self.handle, CONCURRENCY, share=SHARE),
        )

    async def handle(self, record: Incoming) -> Sequence[Outgoing]:
        """What was learned of each address of the task, and tasks for those that are asked again.

        A task whose time is over, or whose request was cancelled, is dropped: completion answers with what is known.
        One that waits too long for its provider's turn makes room for others, and comes again after the shortest delay.
        """
        since_ms = self._clock()
        who = record.headers.get(TENANT)
        async with AsyncExitStack() as turn:
            try:
                async with asyncio.timeout(self._settings.turn_wait_s):
                    await turn.enter_async_context(self._open.take((record.topic, record.key), len(record.value), who))
            except TimeoutError:
                return self._put_aside(record)
            return await self._work(decode(Task, record.value), max(0, self._clock() - since_ms))

    def _put_aside(self, record: Incoming) -> Sequence[Outgoing]:
        """The task as it is, to the first tier, unless its time is over. Its attempts are not used up: nobody was
        asked."""
        task = decode(Task, record.value)
        if not self._left_s(task):
            return ()
        self._metrics.tasks_put_aside.labels(task.ticket.lane).inc()
        times = record.headers.get(PUT_ASIDE, b"0")
        count = int(times) + 1 if times.isdigit() else 1
        kept = ((name, value) for name, value in record.headers.items() if name != PUT_ASIDE)
        return (Outgoing(TIERS[0].name, record.key, record.value, (*kept, (PUT_ASIDE, b"%d" % count))),)

    async def _work(self, task: Task, waited_ms: int) -> Sequence[Outgoing]:
        if not self._left_s(task):
            return ()
        targets = await self._targets(task)
        moved = [target for target in targets if self._has_moved(task, target)]
        stay = [target for target in targets if not self._has_moved(task, target)]
        learned = await self._ask_all(task, stay, waited_ms)
        async with self._computing.take(task.ticket.lane, task.ticket.tenant):
            return (*self._hand_on(task, moved), *await self._conclude(task, learned))

    def _left_s(self, task: Task) -> float:
        if task.ticket.request_uid in self._cancelled:
            return 0.0
        return max(0.0, task.ticket.verdict_by.timestamp() - self._clock() / 1000)

    # -- where mail goes today --------------------------------------------------------------------------------------

    async def _targets(self, task: Task) -> list[Target]:
        async with self._computing.take(task.ticket.lane, task.ticket.tenant):
            prepared = [self._precheck(item.address) async for item in breathing(task.items)]
        domains = dict.fromkeys(each.domain for each in prepared if each.syntax_error is None)
        routes = await asyncio.gather(*(self._resolver.route(domain) for domain in domains))
        by_domain = dict(zip(domains, routes, strict=True))
        async with self._computing.take(task.ticket.lane, task.ticket.tenant):
            providers = await providers_of(by_domain)
            return [
                Target(item, _learned(task, item, each, by_domain.get(each.domain), providers.get(each.domain)))
                async for item, each in breathing(zip(task.items, prepared, strict=True))
            ]

    def _has_moved(self, task: Task, target: Target) -> bool:
        provider = target.learned.provider
        if provider is None or task.ticket.depth is not Depth.SMTP:
            return False
        return provider != task.provider and task.hops < MAX_HOPS

    def _hand_on(self, task: Task, moved: Iterable[Target]) -> list[Outgoing]:
        """To whoever talks to the provider of today."""
        groups: defaultdict[Destination, list[TaskItem]] = defaultdict(list)
        for target in moved:
            provider = str(target.learned.provider)
            shard = shard_of(target.learned.prepared.domain, self._settings.provider_shards.get(provider, 1))
            to = Destination(LANES[task.ticket.lane], provider, shard, task.attempt, task.hops + 1)
            groups[to].append(target.item)
        now = instant(self._clock())
        return [record for to, items in groups.items() for record in tasks(task.ticket, to, items, now)]

    # -- the dialogue -----------------------------------------------------------------------------------------------

    async def _ask_all(self, task: Task, targets: Iterable[Target], waited_ms: int) -> list[Learned]:
        """Domains side by side; each address without somebody to ask stays as it is."""
        silent: list[Learned] = []
        by_domain: defaultdict[str, list[Learned]] = defaultdict(list)
        for learned in (target.learned for target in targets):
            if learned.provider is None or task.ticket.depth is not Depth.SMTP:
                silent.append(learned)
            else:
                by_domain[learned.prepared.domain].append(learned)
        asked = await asyncio.gather(
            *(self._ask(task, piece, waited_ms) for group in by_domain.values() for piece in pieces(group, PIECE))
        )
        return [*silent, *(learned for piece in asked for learned in piece)]

    async def _ask(self, task: Task, piece: Sequence[Learned], waited_ms: int) -> list[Learned]:
        """One domain's addresses, when it is the provider's turn; none when their time is over by then."""
        route, provider, lane = piece[0].route, piece[0].provider, task.ticket.lane
        assert route is not None and provider is not None  # noqa: S101, PT018 - _ask_all() chose them
        asked = shard_name(provider, task.shard, self._settings.provider_shards.get(provider, 1))
        since_ms = self._clock()
        with self._in_flight(lane, len(piece)):
            tenant = task.ticket.tenant
            async with (
                self._turns.take((lane, asked), len(piece), tenant),
                self._lanes[lane].take(len(piece), tenant),
            ):
                waited_ms += max(0, self._clock() - since_ms)
                left_s = self._left_s(task)
                if not left_s:
                    return []
                if self._opted_out(piece[0].prepared.domain):  # Only now: it may have waited for hours.
                    return [replace(learned, opted_out=True) for learned in piece]
                probes = await self._prober.ask(
                    route,
                    asked,
                    [learned.prepared for learned in piece],
                    catch_all_probe=task.ticket.options.catch_all_probe and traits_of(provider).catch_all_probe_useful,
                    lane=lane,
                    timeout=min(self._settings.dialogue_deadline_s, left_s),
                    source=task.source,
                )
        return [
            replace(learned, probe=probe, waited_ms=waited_ms) for learned, probe in zip(piece, probes, strict=True)
        ]

    @contextmanager
    def _in_flight(self, lane: Lane, count: int) -> Iterator[None]:
        gauge = self._metrics.addresses_in_flight.labels(lane)
        gauge.inc(count)
        try:
            yield
        finally:
            gauge.dec(count)

    # -- what comes of it -------------------------------------------------------------------------------------------

    async def _conclude(self, task: Task, learned: Iterable[Learned]) -> list[Outgoing]:
        """One attempt for what is final and what is not, and the tasks that ask again."""
        now = instant(self._clock())
        entries: list[AttemptEntry] = []
        again: defaultdict[Destination, list[TaskItem]] = defaultdict(list)
        async for each in breathing(learned):
            finding = judge(each, task.ticket.depth, self._risky, now)
            wait = None
            if finding.retryable:
                hint_s = _hint_s(each.probe)
                wait = later(task.ticket, task.attempt, now, self._settings.retry_delays_s, hint_s=hint_s)
            if wait is not None:
                source = _source(task, each.probe)
                to = Destination(wait.tier, task.provider, task.shard, task.attempt + 1, source=source)
                again[to].append(_again(each, finding))
                self._metrics.retries.labels(wait.tier, finding.reason).inc()
                finding = finding.model_copy(update={"next_attempt_at": wait.due})
            entries.append(AttemptEntry(positions=each.positions, final=wait is None, finding=finding))
        retries = (record for to, items in again.items() for record in tasks(task.ticket, to, items, now))
        return [*attempts(task.ticket, "probe", entries), *retries]


def _learned(task: Task, item: TaskItem, prepared: Prepared, route: MailRoute | None, provider: str | None) -> Learned:
    return Learned(prepared, item.positions, route=route, provider=provider, attempt=task.attempt, past=item.past)


def _again(learned: Learned, finding: Finding) -> TaskItem:
    return TaskItem(
        positions=learned.positions, address=learned.prepared.address, past=(*learned.past, past_of(finding))
    )


def _source(task: Task, probe: Probe | None) -> str | None:
    """The way out to be taken again: the one that a server has answered by, since it may have greylisted that."""
    return probe.way if probe is not None and probe.reply is not None and probe.way else task.source


def _hint_s(probe: Probe | None) -> int | None:
    """How long the server asked us to wait, where it said so."""
    found = meaning(probe) if probe is not None else None
    return found.retry_after_s if found is not None else None
