"""Many addresses through one machine: is nothing lost, and does no worker's memory grow with what it has done?

A process for each role on a broker, with default settings, asking fast mail servers on loopback: distinct addresses of
new domains without end, most of them with a few large providers and some with one of their own, for many tenants in
requests of every size. Caches, books and labels so meet their bounds, and what has none shows.
"""

import asyncio
import contextlib
import itertools
import os
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ops.bench.contest import ContestError, running_sink
from ops.bench.holders import holder
from ops.bench.lists import EXISTS, LATER, exists, mail_domain
from ops.bench.memory import Growth, Sample, growths, resident, table
from ops.bench.sink import SinkConfig
from ops.brokers.base import BrokerError, cache_dir, free_port
from ops.brokers.daemon import Daemon
from ops.cli.kafka import consumer, delete_topics, producer, read_from
from ops.health import is_ready
from ops.topics import create_all, declared
from schemas.client import Presenter
from schemas.keys import STANDARD, Kind
from schemas.request import Request, request_uid
from schemas.topics import REQUESTS, RESULTS, physical_name
from streams.installed import ROLES
from streams.settings import Settings

PARTITIONS = 4
HOSTS = 400
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Addresses of a request; both lanes."""

FILLING = 0.05
"""The part of a run that fills caches."""

ASKED_AGAIN_EVERY = 50
"""One request of so many is for addresses that are greylisted, and comes back from the first retry tier."""

READY_S = 90.0
SILENCE_S = 600.0
"""So long without any answer, and what is missing is lost; the first retry tier is half of it."""

SAMPLE_S = 0.5
NEW_KEYS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Domains:
    """Domains of 1 to ``most`` addresses; the part ``own`` of them has a provider of its own, others one of a few."""

    most: int
    own: float


FEW = Domains(most=1, own=0.25)
USUAL = Domains(most=19, own=0.05)


@dataclass(frozen=True, slots=True)
class Plan:
    """``in_flight``: addresses that are asked for and not answered yet, at most; ``greylisting``: servers do that."""

    addresses: int = 1_000_000
    tenants: int = 120
    in_flight: int = 20_000
    greylisting: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """What a run showed. ``lost``: addresses without a verdict; ``wrong``: how many have another one than their server
    gave, by what was said of them."""

    addresses: int
    requests: int
    seconds: float
    lost: int
    wrong: Mapping[str, int] = field(default_factory=dict)
    growths: Sequence[Growth] = ()

    @property
    def rate(self) -> float:
        """Addresses a second, from the first request to the last verdict but for those that were greylisted."""
        return self.addresses / self.seconds

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        whole = {"addresses": self.addresses, "requests": self.requests, "seconds": round(self.seconds, 1)}
        return {
            **whole,
            "rate": round(self.rate, 1),
            "lost": self.lost,
            "wrong": dict(self.wrong),
            "roles": [growth.as_dict() for growth in self.growths],
        }


def text(report: Report) -> str:
    """For people."""
    whole = f"{report.addresses:,} addresses in {report.requests:,} requests, {report.rate:,.0f} addresses/s"
    return f"{table(report.growths)}\n{whole}, {report.lost:,} lost, {sum(report.wrong.values()):,} wrong"


def failures(report: Report, most: float) -> list[str]:
    """What is not as it must be, a sentence each; ``most``: what may be held at the end by what was at one tenth."""
    grown = [f"{each.name} holds {each.ratio:.2f} times" for each in report.growths if each.ratio > most]
    return [
        *([f"{', '.join(grown)} of what it held at one tenth, and may hold {most:g} times"] if grown else []),
        *([f"{report.lost:,} addresses have no verdict"] if report.lost else []),
        *(f"{number:,} verdicts are wrong: {said}" for said, number in report.wrong.items()),
    ]


# -- what is asked ----------------------------------------------------------------------------------------------------


def lists(addresses: int, *, greylisting: bool) -> Iterator[list[str]]:
    """The addresses of each request, no two the same, so many in all; the same each time.

    The first of them have a domain each: with a million, what is kept of domains and providers is full by one tenth.
    """
    dice, domains, left = random.Random(addresses), itertools.count(), addresses
    for number in itertools.count(1):
        if not left:
            return
        size = min(dice.choice(SIZES), left)
        kind = FEW if left > addresses * (1 - FILLING) else USUAL
        left -= size
        later = greylisting and number % ASKED_AGAIN_EVERY == 0
        yield list(itertools.islice(_addresses(domains, dice, kind, LATER if later else EXISTS), size))


def _addresses(domains: Iterator[int], dice: random.Random, kind: Domains, local: str) -> Iterator[str]:
    """Of new domains; one address of ten is missing."""
    for number in domains:
        own = dice.random() < kind.own
        provider = HOSTS + number if own else int(dice.paretovariate(1.0)) % HOSTS
        name = mail_domain(f"d{number}", provider)
        for index in range(dice.randint(1, kind.most)):
            yield f"{local if dice.random() < 0.9 else 'gone'}{index}@{name}"


# -- what comes back --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """A request that is not answered whole: its addresses, and those that have no verdict yet."""

    addresses: list[str]
    missing: set[int]


@dataclass(slots=True)
class Tally:
    """Counts verdicts by their place; a repeat counts nothing."""

    answered: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    open: dict[str, _Open] = field(default_factory=dict)
    waiting: int = 0
    """Addresses without a verdict, but for those that servers greylist: these hold nobody up."""

    def ask(self, uid: str, addresses: list[str]) -> None:
        """A request goes out."""
        self.requests += 1
        self.open[uid] = _Open(addresses, set(range(len(addresses))))
        self.waiting += _hurried(addresses)

    def take(self, value: bytes) -> None:
        """A record of the results topic.

        Raises:
            ContestError: a request was refused.
        """
        record = orjson.loads(value)
        asked = self.open.get(record["request_uid"])
        if record["kind"] == "rejection":
            raise ContestError(f"a request was rejected: {record['reason']}: {record['message']}")
        if asked is None or record["kind"] != "result" or record["index"] not in asked.missing:
            return
        address = asked.addresses[record["index"]]
        asked.missing.discard(record["index"])
        self.answered += 1
        self.waiting -= _hurried([address])
        right = "deliverable" if exists(address) or address.startswith(LATER) else "undeliverable"
        if record["verdict"] != right:
            self.wrong[f"{record['verdict']} ({record['reason']}) in place of {right}"] += 1
        if not asked.missing:
            del self.open[record["request_uid"]]

    @property
    def lost(self) -> int:
        """Addresses that were asked for and have no verdict."""
        return sum(len(each.missing) for each in self.open.values())


def _hurried(addresses: Sequence[str]) -> int:
    return sum(not address.startswith(LATER) for address in addresses)


# -- the run ----------------------------------------------------------------------------------------------------------


def measure(bootstrap: str, plan: Plan, *, embedded: bool, told: Callable[[str], None]) -> Report:
    """A run on topics that are made for it and removed. ``embedded``: the broker is the demo's; ``told``: of progress.

    Raises:
        ContestError: a worker did not start or ended, or a request was refused.
    """
    try:
        return asyncio.run(_measure(bootstrap, plan, embedded=embedded, told=told))
    except BrokerError as error:
        raise ContestError(str(error)) from None


async def _measure(bootstrap: str, plan: Plan, *, embedded: bool, told: Callable[[str], None]) -> Report:
    settings = Settings(bootstrap_servers=bootstrap, namespace=f"soak-{secrets.token_hex(4)}")
    topics = [topic.name for topic in declared(settings, partitions=PARTITIONS)]
    await create_all(bootstrap, settings, partitions=PARTITIONS)
    sink_config = SinkConfig(hosts=HOSTS, client_connections=0)
    try:
        with running_sink(sink_config) as sink:
            ours = {
                "NAMESPACE": settings.namespace,
                "RESOLVERS": sink.resolver,
                "SMTP_PORT": str(sink.smtp_port),
                "ALLOWED_NETWORKS": "127.0.0.0/8",
                "HELO": "soak.mailvet.test",
            }
            if embedded:  # It can't do otherwise.
                ours |= {"IDEMPOTENT_PRODUCER": "false", "FETCH_WAIT_MS": "25"}
            async with _workers(bootstrap, ours) as workers:
                told(f"ready: {', '.join(workers)}, a process each")
                holders = await _new_keys(settings, plan.tenants)
                return await _Soak(settings, plan, workers, holders, told).run()
    finally:
        await delete_topics(bootstrap, topics)


@contextlib.asynccontextmanager
async def _workers(bootstrap: str, ours: dict[str, str]) -> AsyncIterator[dict[str, Daemon]]:
    workers = {role: _worker(role, bootstrap, ours, free_port()) for role in ROLES}
    try:
        await asyncio.gather(*(asyncio.to_thread(worker.start) for worker in workers.values()))
        yield workers
    finally:
        await asyncio.gather(*(asyncio.to_thread(worker.stop, timeout=60.0) for worker in workers.values()))


def _worker(role: str, bootstrap: str, ours: dict[str, str], port: int) -> Daemon:
    """With default settings, but for where it finds its world: no setting of the user's own applies."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAILVET_")}
    named = {f"MAILVET_{name}": value for name, value in {**ours, "METRICS_PORT": str(port)}.items()}
    return Daemon(
        [sys.executable, "-m", "ops.cli.main", "worker", "--role", role],
        log=cache_dir() / "logs" / f"soak-{role}-{port}.log",
        ready=lambda: is_ready(port),
        start_timeout=READY_S,
        name=f"the worker {role}",
        environment={**inherited, "KAFKA_BOOTSTRAP_SERVERS": bootstrap, **named},
    )


async def _new_keys(settings: Settings, tenants: int) -> list[Presenter]:
    """A key for each tenant, as an operator makes it, of both kinds in turn; with the limits of every new key."""
    turns = asyncio.Semaphore(NEW_KEYS_AT_ONCE)

    async def new_key(tenant: str, kind: Kind) -> Presenter:
        async with turns:
            return await holder(settings, tenant, kind, STANDARD, READY_S)

    kinds = itertools.cycle(Kind)
    return await asyncio.gather(*(new_key(f"tenant{number}", next(kinds)) for number in range(tenants)))


class _Soak:
    """One who asks, one who reads, and one who looks at memory."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        workers: dict[str, Daemon],
        holders: Sequence[Presenter],
        told: Callable[[str], None],
    ) -> None:
        self._settings, self._plan, self._workers, self._holders, self._told = settings, plan, workers, holders, told
        self._tally = Tally()
        self._samples: list[Sample] = []
        self._begun = self._heard = self._last = time.monotonic()
        self._tenths = 0

    async def run(self) -> Report:
        bootstrap, results = self._settings.bootstrap_servers, physical_name(RESULTS.name, self._settings.namespace)
        async with consumer(bootstrap, fetch_wait_ms=25) as reader, producer(bootstrap) as writer:
            await read_from(reader, results, await writer.partitions_for(results), {})
            self._begun = self._heard = time.monotonic()
            asking = asyncio.create_task(self._ask(writer))
            looking = asyncio.create_task(self._look())
            try:
                await self._read(reader, asking, looking)
            finally:
                for each in (asking, looking):
                    each.cancel()
                await asyncio.gather(asking, looking, return_exceptions=True)
        self._sample()
        seconds = self._last - self._begun
        tally, asked = self._tally, self._plan.addresses
        return Report(asked, tally.requests, seconds, tally.lost, tally.wrong, growths(self._samples))

    async def _ask(self, writer: AIOKafkaProducer) -> None:
        topic = physical_name(REQUESTS.name, self._settings.namespace)
        turns = itertools.cycle(self._holders)
        for number, addresses in enumerate(lists(self._plan.addresses, greylisting=self._plan.greylisting)):
            while self._tally.waiting > self._plan.in_flight:  # noqa: ASYNC110  what ends it comes record by record
                await asyncio.sleep(0.01)
            holder, name = next(turns), f"soak-{number}"
            request = Request(request_id=name, addresses=tuple(addresses))
            value = request.model_dump_json(exclude_none=True).encode()
            self._tally.ask(request_uid(holder.tenant, name), addresses)
            await writer.send(topic, value, headers=holder.headers(topic, name, value))
        await writer.flush()

    async def _read(self, reader: AIOKafkaConsumer, *others: "asyncio.Task[None]") -> None:
        """Until all is answered, or nothing comes any more, or one of the others has failed."""
        while self._tally.answered < self._plan.addresses and time.monotonic() - self._heard < SILENCE_S:
            for other in others:
                if other.done():
                    other.result()
            for batch in (await reader.getmany(timeout_ms=200)).values():
                for record in batch:
                    self._tally.take(record.value)
                self._heard = time.monotonic()
            if self._tally.waiting:
                self._last = self._heard

    async def _look(self) -> None:
        while True:
            for worker in self._workers.values():
                if not worker.running:
                    raise ContestError(f"a worker has ended: {worker.last_words()}")
            self._sample()
            await asyncio.sleep(SAMPLE_S)

    def _sample(self) -> None:
        done = self._tally.answered / self._plan.addresses
        held = {role: resident(worker.pid) for role, worker in self._workers.items() if worker.pid}
        self._samples.append(Sample(done, held))
        if done * 10 >= self._tenths + 1:
            self._tenths = int(done * 10)
            memory = ", ".join(f"{role} {size / 2**20:.0f}" for role, size in held.items())
            self._told(f"{self._tally.answered:>9,} after {time.monotonic() - self._begun:.0f} s; MiB: {memory}")
