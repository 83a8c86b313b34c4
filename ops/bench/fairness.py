"""Ten tenants on one worker, one of which floods it: who gets how much, and who waits how long.

A whole worker on a broker, asking a mail world on loopback. First nine tenants alone (eight steady ones and one of
single requests), then the same nine beside the flood, so that each tenant is its own comparison.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ops.bench.contest import ContestError
from ops.bench.holders import holder
from ops.brokers.base import BrokerError, cache_dir, free_port
from ops.brokers.daemon import Daemon
from ops.cli.kafka import consumer, delete_topics, producer, read_from
from ops.health import is_ready
from ops.topics import create_all, declared
from ops.world import World, WorldConfig
from ops.world.bulk import bulk_domain
from schemas.client import Presenter
from schemas.keys import Kind, Policy
from schemas.request import Request, request_uid
from schemas.topics import REQUESTS, RESULTS, physical_name
from streams.settings import Settings

PARTITIONS = 4
DOMAINS = 40
HOSTS = 10
FLOOD, SINGLE = "flood", "single"
STEADY = tuple(f"steady{number}" for number in range(1, 9))

READY_S = 60.0
ANSWER_S = 120.0
"""How long answers are waited for after the last request."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``seconds`` of each of the two parts; ``in_flight``: addresses that the flooding tenant may have in flight."""

    seconds: float = 20.0
    in_flight: int = 5_000
    rtt_ms: float = 20.0


@dataclass(frozen=True, slots=True)
class Habit:
    """What a tenant does: requests of ``size`` addresses, one each ``every_s`` seconds."""

    size: int
    every_s: float
    in_flight: int = 100_000


def habits(plan: Plan) -> dict[str, Habit]:
    """All ten tenants."""
    steady = Habit(size=50, every_s=2.0)
    return {
        FLOOD: Habit(size=1000, every_s=0.1, in_flight=plan.in_flight),
        **dict.fromkeys(STEADY, steady),
        SINGLE: Habit(size=1, every_s=0.5),
    }


@dataclass(slots=True)
class Account:
    """What came of a tenant's requests in one part."""

    size: int
    sent: int = 0
    refused: int = 0
    took_s: list[float] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Requests without an answer."""
        return self.sent - self.refused - len(self.took_s)

    @property
    def addresses(self) -> int:
        """That were answered."""
        return self.size * len(self.took_s)


@dataclass(frozen=True, slots=True)
class Line:
    """One tenant in one part; times are from sending a request to its summary."""

    part: str
    tenant: str
    requests: int
    refused: int
    answered: int
    addresses: int
    share: float
    p50_s: float | None
    p95_s: float | None
    longest_s: float | None

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def lines_of(part: str, accounts: dict[str, Account]) -> list[Line]:
    """Each tenant's line. ``share``: of all addresses that were answered, 0 to 1."""
    everything = sum(account.addresses for account in accounts.values()) or 1
    return [
        Line(
            part,
            tenant,
            account.sent,
            account.refused,
            len(account.took_s),
            account.addresses,
            account.addresses / everything,
            *(_part_of(sorted(account.took_s), share) for share in (0.5, 0.95, 1.0)),
        )
        for tenant, account in accounts.items()
    ]


def _part_of(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


def measure(bootstrap: str, plan: Plan, *, own_broker: bool) -> list[Line]:
    """Both parts, on topics that are made for it and removed.

    Raises:
        ContestError: the worker did not start, or requests were not answered.
    """
    return asyncio.run(_measure(bootstrap, plan, own_broker=own_broker))


async def _measure(bootstrap: str, plan: Plan, *, own_broker: bool) -> list[Line]:
    settings = Settings(bootstrap_servers=bootstrap, namespace=f"bench-{secrets.token_hex(4)}")
    topics = [topic.name for topic in declared(settings, partitions=PARTITIONS)]
    await create_all(bootstrap, settings, partitions=PARTITIONS)
    try:
        config = WorldConfig(bulk_domains=DOMAINS, bulk_hosts=HOSTS, rtt_s=plan.rtt_ms / 1000)
        async with World(config) as world, _worker(settings, world, own_broker=own_broker):
            tenants = habits(plan)
            holders = await _new_keys(settings, tenants)
            quiet = {name: habit for name, habit in tenants.items() if name != FLOOD}
            async with _Players(settings, holders).ready() as players:
                await players.play({**dict.fromkeys(quiet, Habit(1, 1.0))}, 2.0)  # Whatever is done once is done.
                alone = await players.play(quiet, plan.seconds)
                beside = await players.play(tenants, plan.seconds)
            return [*lines_of("alone", alone), *lines_of("beside the flood", beside)]
    finally:
        if not own_broker:
            await delete_topics(bootstrap, topics)


@contextlib.asynccontextmanager
async def _worker(settings: Settings, world: World, *, own_broker: bool) -> AsyncIterator[None]:
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAILVET_")}
    ours = {
        "NAMESPACE": settings.namespace,
        "IDEMPOTENT_PRODUCER": str(not own_broker).lower(),
        "FETCH_WAIT_MS": "25" if own_broker else "500",
        "RESOLVERS": world.resolver,
        "SMTP_PORT": str(world.smtp_port),
        "ALLOWED_NETWORKS": world.network,
        "METRICS_PORT": str(port),
        "HELO": "bench.mailvet.test",
        "DRAIN_S": "2",
        # This is about sharing.
        "ABUSE_UNKNOWN": "0",
    }
    environment = inherited | {"KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers}
    worker = Daemon(
        [sys.executable, "-m", "ops.cli.main", "worker", "all"],
        log=cache_dir() / "logs" / f"fairness-worker-{port}.log",
        ready=lambda: is_ready(port),
        start_timeout=READY_S,
        name="the worker",
        environment=environment | {f"MAILVET_{name}": value for name, value in ours.items()},
    )
    try:
        await asyncio.to_thread(worker.start)
        yield
    except BrokerError as error:
        raise ContestError(str(error)) from None
    finally:
        await asyncio.to_thread(worker.stop)


async def _new_keys(settings: Settings, tenants: dict[str, Habit]) -> dict[str, Presenter]:
    """A key for each tenant, as an operator makes it."""

    async def new_key(tenant: str, habit: Habit) -> Presenter:
        policy = Policy(rate_per_s=50, burst=100, in_flight=habit.in_flight)
        return await holder(settings, tenant, Kind.SIGNATURE, policy, READY_S)

    made = await asyncio.gather(*(new_key(tenant, habit) for tenant, habit in tenants.items()))
    return dict(zip(tenants, made, strict=True))


class _Players:
    """The tenants at work, and one reader of all results."""

    def __init__(self, settings: Settings, holders: dict[str, Presenter]) -> None:
        self._settings = settings
        self._holders = holders
        self._sent: dict[str, tuple[Account, float]] = {}
        self._numbers = itertools.count()
        self._addresses = _addresses()
        self._writer: AIOKafkaProducer
        self._failure: BaseException | None = None

    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator["_Players"]:
        bootstrap, results = self._settings.bootstrap_servers, physical_name(RESULTS.name, self._settings.namespace)
        async with consumer(bootstrap, fetch_wait_ms=25) as reader, producer(bootstrap) as self._writer:
            await read_from(reader, results, await self._writer.partitions_for(results), {})
            listening = asyncio.create_task(self._listen(reader))
            try:
                yield self
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    async def play(self, tenants: dict[str, Habit], seconds: float) -> dict[str, Account]:
        """Everybody for so long; returns when all that they sent is answered."""
        accounts = {tenant: Account(habit.size) for tenant, habit in tenants.items()}
        await asyncio.gather(
            *(self._act(tenant, habit, accounts[tenant], seconds) for tenant, habit in tenants.items())
        )
        deadline = time.monotonic() + ANSWER_S
        while any(account.missing for account in accounts.values()):
            if time.monotonic() > deadline:
                late = ", ".join(f"{tenant} {each.missing}" for tenant, each in accounts.items() if each.missing)
                raise ContestError(f"requests without an answer after {ANSWER_S:.0f} s: {late}")
            await asyncio.sleep(0.05)
        return accounts

    async def _act(self, tenant: str, habit: Habit, account: Account, seconds: float) -> None:
        topic = physical_name(REQUESTS.name, self._settings.namespace)
        begun = time.monotonic()
        # Not all at the same moment: nobody's clients are.
        offset_s = habit.every_s * (list(self._holders).index(tenant) / len(self._holders))
        for turn in itertools.count():
            await asyncio.sleep(max(0.0, begun + offset_s + turn * habit.every_s - time.monotonic()))
            if time.monotonic() - begun >= seconds:
                return
            name = f"{tenant}-{next(self._numbers)}"
            request = Request(request_id=name, addresses=tuple(itertools.islice(self._addresses, habit.size)))
            value = request.model_dump_json(exclude_none=True).encode()
            account.sent += 1
            self._sent[request_uid(tenant, name)] = (account, time.monotonic())
            await self._writer.send(topic, value, headers=self._holders[tenant].headers(topic, name, value))

    async def _listen(self, reader: AIOKafkaConsumer) -> None:
        while True:
            for batch in (await reader.getmany(timeout_ms=200)).values():
                now = time.monotonic()
                for record in batch:
                    if dict(record.headers).get("mailvet-kind") != b"result":
                        self._take(record.value, now)

    def _take(self, value: bytes, now: float) -> None:
        output = orjson.loads(value)
        account, sent_at = self._sent.pop(output["request_uid"], (None, 0.0))
        if account is None:
            return
        if output["kind"] == "rejection":
            account.refused += 1
        else:
            account.took_s.append(now - sent_at)


def _addresses() -> Iterator[str]:
    """Addresses of the world's bulk domains, no two the same, one in ten missing: all ask the same providers."""
    for number in itertools.count():
        local, domain = divmod(number, DOMAINS)
        yield f"{'user' if local % 10 else 'nobody'}{local}@{bulk_domain(domain + 1)}"


def table(lines: Iterable[Line]) -> str:
    """Aligned columns, for people and for docs/fairness.md."""
    heading = ("", "tenant", "requests", "refused", "answered", "addresses", "share", "p50 s", "p95 s", "longest s")
    rows = [heading, *(_row(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    ruler = tuple("-" * width for width in widths)
    shown = [rows[0], ruler, *rows[1:]]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in shown)


def _row(line: Line) -> tuple[str, ...]:
    times = ("-" if each is None else f"{each:.2f}" for each in (line.p50_s, line.p95_s, line.longest_s))
    counts = (line.requests, line.refused, line.answered, line.addresses)
    return (line.part, line.tenant, *(f"{each:,}" for each in counts), f"{line.share:.1%}", *times)
