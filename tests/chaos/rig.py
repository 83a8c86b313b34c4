"""A whole installation for tests: the broker given, a world, and a process for each role that can be killed."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from ops.brokers.base import BrokerError, free_port
from ops.brokers.daemon import Daemon
from ops.health import is_ready
from ops.topics import create_all
from ops.world import Sample, World
from schemas.request import Request, request_uid
from schemas.topics import REQUESTS, RESULTS, physical_name
from streams.access.credentials import HEADER, mint
from streams.group import STOP_SLACK_S
from streams.settings import Settings
from tests.chaos.checker import Report
from tests.chaos.history import Place
from tests.chaos.load import Ask

TENANT = "chaos"
PARTITIONS = 4
QUICK = {
    "HELO": "probe.mailvet.test",
    "MAIL_FROM": "probe@mailvet.test",
    "RETRY_DELAYS_S": "2,4,8",
    "DNS_TIMEOUT_S": "1.5",
    "CONNECT_TIMEOUT_S": "2",
    "COMMAND_TIMEOUT_S": "3",
    "DIALOGUE_DEADLINE_S": "15",
    "SESSION_TIMEOUT_S": "6",
    "HEARTBEAT_S": "1",
    "COMMIT_INTERVAL_S": "0.5",
    "DEV_RATE_PER_S": "100000",
    "DEV_RATE_BURST": "100000",
    "DEV_DAILY_QUOTA": "100000000",
    "DEV_IN_FLIGHT": "100000000",
    "DRAIN_S": "5",
}
"""Patience in the world's seconds; limits that never speak."""


STOP_S = float(QUICK["DRAIN_S"]) + STOP_SLACK_S + 5.0
"""SIGTERM to the end of a worker, at most, whatever else goes on."""


class Reachable(Protocol):
    """What is used of a broker or a cluster."""

    @property
    def bootstrap(self) -> str: ...


@dataclass
class Rig:
    """An installation in a namespace of its own. Workers use ``bootstrap`` where it is given, tests the broker's."""

    broker: Reachable
    world: World
    logs: Path
    namespace: str = field(default_factory=lambda: f"c{uuid.uuid4().hex[:8]}")
    key: str = field(default_factory=lambda: mint(TENANT, "k1", os.urandom(20)), repr=False)
    options: dict[str, str] = field(default_factory=dict)
    workers: dict[str, Daemon] = field(default_factory=dict)
    expected: dict[Place, str] = field(default_factory=dict)
    addresses: dict[Place, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    timeline: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    bootstrap: str = ""
    start_timeout: float = 90.0
    """How long a worker may take until it is ready."""
    entry: tuple[str, ...] = ("-m", "ops.cli.main")
    """What Python runs as `mailvet`."""
    wanted: set[str] = field(default_factory=set)
    """Workers that the supervisor starts again when they have ended."""
    stuck: list[str] = field(default_factory=list)
    """Workers that SIGTERM did not end."""

    def topic(self, name: str) -> str:
        """Its name on the broker."""
        return physical_name(name, self.namespace)

    def note(self, what: str) -> None:
        """Add to the timeline."""
        self.timeline.append(f"{time.monotonic() - self.began:7.2f} s  {what}")

    # -- workers --------------------------------------------------------------------------------------------------

    def worker(self, name: str, *arguments: str) -> Daemon:
        """A worker process of that name, not started."""
        port = self.ports[name] = free_port()
        settings = {
            **QUICK,
            "NAMESPACE": self.namespace,
            "DEV_KEY": self.key,
            "RESOLVERS": self.world.resolver,
            "SMTP_PORT": str(self.world.smtp_port),
            "ALLOWED_NETWORKS": self.world.network,
            "METRICS_PORT": str(port),
            **self.options,
        }
        environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap or self.broker.bootstrap}
        return Daemon(
            [sys.executable, *self.entry, "worker", *arguments],
            log=self.logs / f"{self.namespace}-{name}.log",
            ready=lambda: is_ready(port),
            start_timeout=self.start_timeout,
            name=f"worker {name}",
            environment=environment | {f"MAILVET_{name}": value for name, value in settings.items()},
        )

    async def start(self, *roles: str) -> None:
        """Start a process for each role, side by side; ``all`` is every role in one, ``gate-2`` another gate."""
        for name in roles:
            role = name.partition("-")[0]
            self.workers[name] = self.worker(name, *(("all",) if role == "all" else ("--role", role)))
        await asyncio.gather(*(asyncio.to_thread(self.workers[role].start) for role in roles))
        self.note(f"ready: {', '.join(roles)}")

    async def crash(self, role: str, *, down_s: float = 0.0) -> None:
        """SIGKILL, and start again ``down_s`` seconds later."""
        await asyncio.to_thread(self.workers[role].kill)
        self.note(f"SIGKILL {role}")
        await asyncio.sleep(down_s)
        await asyncio.to_thread(self.workers[role].start)
        self.note(f"ready: {role}")

    async def leave(self, name: str) -> None:
        """SIGTERM, and wait until it has ended; one that does not end is killed, and is a fault of its own."""
        worker = self.workers[name]
        await asyncio.to_thread(worker.stop, timeout=STOP_S)
        if worker.status == -signal.SIGKILL:
            self.stuck.append(name)
            self.note(f"{name} did not end within {STOP_S:.0f} s")

    async def ask_where_they_wait(self) -> None:
        """Have the workers write their stacks into their logs, and note who says that it is ready."""
        running = {name: worker for name, worker in self.workers.items() if worker.running}
        for worker in running.values():
            worker.signal(signal.SIGUSR2)
        ready = [name for name in running if await asyncio.to_thread(is_ready, self.ports[name])]
        self.note(f"of {', '.join(running)} these are ready: {', '.join(ready)}; their stacks are in their logs")

    @contextlib.asynccontextmanager
    async def supervised(self) -> AsyncIterator[None]:
        """Workers that are ``wanted`` are started again when they have ended, as any supervisor does."""
        self.wanted = set(self.workers)
        over = asyncio.Event()
        tasks = [asyncio.create_task(self._supervise(name, over)) for name in self.workers]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*tasks)

    async def _supervise(self, name: str, over: asyncio.Event) -> None:
        worker = self.workers[name]
        while not over.is_set():
            if name in self.wanted and not worker.running:
                await self._start_again(name, worker)
            await asyncio.sleep(0.2)

    async def _start_again(self, name: str, worker: Daemon) -> None:
        if (worker.status or 0) > 0:
            self.note(f"{name} has ended by itself: {worker.last_words()}")
        try:
            await asyncio.to_thread(worker.start)
            self.note(f"ready: {name}")
        except BrokerError as error:
            self.note(str(error))

    def operate(self, *arguments: str) -> str:
        """A command as an operator runs it: what it printed; nothing may be wrong with it."""
        done = subprocess.run(
            [sys.executable, "-m", "ops.cli.main", *arguments],
            env={
                **os.environ,
                "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap,
                "MAILVET_NAMESPACE": self.namespace,
                "MAILVET_ACTOR": "ops",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def close(self) -> None:
        """Kill every worker."""
        for worker in self.workers.values():
            worker.kill()

    # -- requests and results -------------------------------------------------------------------------------------

    async def send(self, samples: Sequence[Sample], *, size: int = 100, pace_s: float = 0.0, **fields: object) -> None:
        """Ask for all samples in requests of ``size``; their right verdicts are expected from now on."""
        async with AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap, linger_ms=5) as producer:
            for first in range(0, len(samples), size):
                piece = samples[first : first + size]
                request = Request(request_id=uuid.uuid4().hex, addresses=tuple(s.address for s in piece), **fields)
                uid = request_uid(TENANT, request.request_id)
                self.expected |= {(uid, index): sample.reason for index, sample in enumerate(piece)}
                self.addresses |= {(uid, index): sample.address for index, sample in enumerate(piece)}
                await producer.send(
                    self.topic(REQUESTS.name),
                    request.model_dump_json(exclude_none=True).encode(),
                    headers=[(HEADER, self.key.encode())],
                )
                await asyncio.sleep(pace_s)
            await producer.flush()

    async def ask_all(self, asks: Sequence[Ask], *, seconds: float) -> None:
        """Write these records, spread over so many seconds, and return when the broker has them all."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.broker.bootstrap, acks="all", linger_ms=5, max_request_size=2**24
        ) as producer:
            sent = []
            for ask in asks:
                self.expected |= {(ask.uid, index): sample.reason for index, sample in enumerate(ask.samples)}
                self.addresses |= {(ask.uid, index): sample.address for index, sample in enumerate(ask.samples)}
                topic = self.topic(REQUESTS.name)
                sent.append(await producer.send(topic, ask.value, key=ask.key, headers=list(ask.headers)))
                await asyncio.sleep(seconds / len(asks))
            await asyncio.gather(*sent)

    async def results(self, *, within: float, quiet_s: float = 2.0) -> list[bytes]:
        """Every record of the results topic, once all that is expected is there and nothing new came for a while.

        Returns what there is when ``within`` seconds are over.
        """
        found: list[bytes] = []
        places: set[Place] = set()
        summed: set[str] = set()
        requests = {uid for uid, _ in self.expected}
        deadline = time.monotonic() + within
        async with self.reader(RESULTS.name) as consumer:
            last = time.monotonic()
            while (now := time.monotonic()) < deadline:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    last = now
                    for record in batch:
                        found.append(record.value)
                        _see(record.value, places, summed)
                if now - last > quiet_s and len(places) >= len(self.expected) and summed >= requests:
                    break
        return found

    async def ask(self, samples: Sequence[Sample]) -> float:
        """Seconds from writing one request to reading its summary, with a consumer that waits at the end."""
        async with (
            AIOKafkaConsumer(
                bootstrap_servers=self.broker.bootstrap, enable_auto_commit=False, fetch_max_wait_ms=50
            ) as consumer,
            AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap) as producer,
        ):
            consumer.assign([TopicPartition(self.topic(RESULTS.name), each) for each in range(PARTITIONS)])
            await consumer.seek_to_end()
            request = Request(request_id=uuid.uuid4().hex, addresses=tuple(s.address for s in samples))
            uid = request_uid(TENANT, request.request_id)
            self.expected |= {(uid, index): sample.reason for index, sample in enumerate(samples)}
            began = time.monotonic()
            headers = [(HEADER, self.key.encode())]
            value = request.model_dump_json(exclude_none=True).encode()
            await producer.send_and_wait(self.topic(REQUESTS.name), value, headers=headers)
            async with asyncio.timeout(60):
                async for record in consumer:
                    said = orjson.loads(record.value)
                    if said["request_uid"] == uid and said["kind"] == "summary":
                        break
            return time.monotonic() - began

    def explain(self, report: Report, records: Iterable[bytes]) -> str:
        """What happened when, and all that was said of the places with a fault."""
        odd = {place for place, _, _ in report.wrong} | {*report.lost, *report.changed}
        said = [value.decode() for value in records if _place(value) in odd]
        return "\n".join(
            [
                *self.timeline,
                f"{report.results} results, {report.repeats} repeats, {report.unknown} that could not be learned",
                f"faults: {report.faults}",
                *report.examples(),
                *[f"{self.addresses.get(place)} {self.expected.get(place)}" for place in sorted(odd)][:20],
                *said[:20],
            ]
        )

    @contextlib.asynccontextmanager
    async def reader(self, name: str) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer of a whole topic from its beginning."""
        async with AIOKafkaConsumer(
            bootstrap_servers=self.broker.bootstrap,
            enable_auto_commit=False,
            max_partition_fetch_bytes=20 * 1024 * 1024,
        ) as consumer:
            consumer.assign([TopicPartition(self.topic(name), each) for each in range(PARTITIONS)])
            await consumer.seek_to_beginning()
            yield consumer


def _place(value: bytes) -> Place | None:
    record = orjson.loads(value)
    return (record["request_uid"], record["index"]) if record["kind"] == "result" else None


def _see(value: bytes, places: set[Place], summed: set[str]) -> None:
    record = orjson.loads(value)
    if record["kind"] == "summary":
        summed.add(record["request_uid"])
    elif record["kind"] == "result":
        places.add((record["request_uid"], record["index"]))


@contextlib.asynccontextmanager
async def rig(broker: Reachable, world: World, logs: Path, **options: str) -> AsyncIterator[Rig]:
    """An installation on ``broker`` with its topics; its workers end with the block. ``options`` are settings."""
    made = Rig(broker, world, logs, options=options)
    await create_all(broker.bootstrap, Settings(namespace=made.namespace), partitions=PARTITIONS)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.close)


def shuffled(samples: Iterable[Sample], seed: int) -> list[Sample]:
    """The same samples in another order, the same one for a seed."""
    mixed = list(samples)
    random.Random(seed).shuffle(mixed)
    return mixed
