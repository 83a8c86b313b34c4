"""Seconds from kill -9 of a gate with very many keys until it works again: `make recovery KEYS=1000000`."""

import asyncio
import os
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.partitioner import murmur2
from prometheus_client.parser import text_string_to_metric_families

from ops.brokers.base import Broker
from ops.world import World, WorldConfig
from schemas.pipeline import Admitted
from schemas.request import Request, request_uid
from schemas.topics import ADMITTED_INTERACTIVE, REQUESTS
from streams.access.credentials import HEADER
from streams.codec import decode
from streams.settings import Settings
from tests.chaos.rig import PARTITIONS, Rig, rig
from tests.chaos.rows import DAILY, KEYS, USED, Written, fill, tenant, token

SHORT = 2000
ALLOWED_S = {"started again": 60.0, "taken over": 30.0}
DEFAULTS = ("session_timeout_s", "heartbeat_s", "commit_interval_s")


@dataclass(frozen=True)
class Took:
    """Seconds from SIGKILL to ready, as the worker says, and until a request of every partition was admitted.

    ``cpu``: seconds of one core that it worked until it was ready, which other work on the machine does not change.
    """

    how: str
    ready: float
    cpu: float
    admitted: float


@pytest.mark.timeout(1800)
async def test_a_gate_that_was_killed_knows_all_keys_again(broker: Broker, tmp_path: Path) -> None:
    keys = int(os.environ.get("MAILVET_RECOVERY_KEYS") or SHORT)
    defaults = {name.upper(): str(Settings.model_fields[name].default) for name in DEFAULTS}
    options = defaults if keys > SHORT else {}
    async with (
        World(WorldConfig(bulk_domains=1)) as world,
        rig(broker, world, tmp_path, STANDBY_REPLICAS="1", STALL_S="60", **options) as system,
    ):
        system.start_timeout = 400.0
        settings = Settings(namespace=system.namespace)
        written = await asyncio.to_thread(fill, broker.bootstrap, settings, keys, PARTITIONS)
        asking = Asking(system, keys // KEYS, written.rows)
        await system.start("gate")
        await asking.once()
        took = [await _started_again(system, asking)] if keys > SHORT else []  # Other tests do that with few rows.
        await system.start("gate-2")
        await _warm(system)
        took.append(await _taken_over(system, asking))
    print("\n" + _table(keys, written, took))
    assert all(each.admitted < ALLOWED_S[each.how] for each in took)


async def _started_again(system: Rig, asking: "Asking") -> Took:
    """The only gate, as a supervisor does it: at once."""
    began = time.monotonic()
    await asyncio.to_thread(system.workers["gate"].kill)
    admitted = asyncio.create_task(asking.once())
    await asyncio.to_thread(system.workers["gate"].start)
    ready, cpu = time.monotonic() - began, _cpu_s(system, "gate")
    await admitted
    return Took("started again", ready, cpu, time.monotonic() - began)


async def _taken_over(system: Rig, asking: "Asking") -> Took:
    """The gate that answers for all partitions is killed, and the one that stands by takes them over."""
    began, spent = time.monotonic(), _cpu_s(system, "gate-2")
    await asyncio.to_thread(system.workers["gate"].kill)
    admitted = asyncio.create_task(asking.once())
    # Until the group has noticed, the other one is ready for what it had.
    await _until(system, "gate-2", "mailvet_table_rows", lambda rows: rows >= asking.rows)
    await _until(system, "gate-2", "mailvet_ready", bool)
    ready, cpu = time.monotonic() - began, _cpu_s(system, "gate-2") - spent
    await admitted
    return Took("taken over", ready, cpu, time.monotonic() - began)


def _table(keys: int, written: Written, took: Sequence[Took]) -> str:
    head = f"{keys:,} keys, {written.rows:,} rows, {written.bytes / 2**20:,.0f} MiB"
    rows = [f"| {each.how} | {each.ready:.1f} s | {each.admitted:.1f} s | {each.cpu:.1f} s |" for each in took]
    title = "| gate | ready | every partition's next request admitted | CPU until ready |"
    return "\n".join([head, "", title, "|---|---|---|---|", *rows])


class Asking:
    """A request of a tenant of every partition at a time, each with a key of its own."""

    def __init__(self, system: Rig, tenants: int, rows: int) -> None:
        self._system, self.rows = system, rows
        partitions = {(murmur2(tenant(each).encode()) & 0x7FFFFFFF) % PARTITIONS: each for each in range(tenants)}
        assert len(partitions) == PARTITIONS
        self._tenants = tuple(partitions.values())
        self._asked = 0

    async def once(self) -> None:
        """Returns when each is admitted, with what its key had used before."""
        bootstrap, topic = self._system.broker.bootstrap, self._system.topic(ADMITTED_INTERACTIVE.name)
        async with (
            AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer,
            AIOKafkaProducer(bootstrap_servers=bootstrap) as producer,
        ):
            consumer.assign([TopicPartition(topic, each) for each in range(PARTITIONS)])
            await consumer.seek_to_end()
            asked = set()
            for each in self._tenants:
                request = Request(request_id=uuid4().hex, addresses=("user@example.com",))
                value = request.model_dump_json(exclude_none=True).encode()
                headers = [(HEADER, token(each).encode())]
                await producer.send_and_wait(self._system.topic(REQUESTS.name), value, headers=headers)
                asked.add(request_uid(tenant(each), request.request_id))
            self._asked += 1
            left = set()
            while asked:  # A repeat of what was asked before may come between.
                ticket = decode(Admitted, (await consumer.getone()).value).ticket
                if ticket.request_uid in asked and ticket.quota is not None:
                    asked.discard(ticket.request_uid)
                    left.add(ticket.quota.remaining)
        assert left == {DAILY - USED - self._asked}, "what a key has used was recovered wrongly"


async def _warm(system: Rig) -> None:
    """Each of both has the other's rows at hand."""
    for name in ("gate", "gate-2"):
        await _until(system, name, "mailvet_standby_rows", bool)
        await _until(system, name, "mailvet_standby_behind", lambda left: not left)


async def _until(system: Rig, worker: str, metric: str, true: Callable[[float], bool]) -> None:
    while not true(await _sum(system, worker, metric)):  # noqa: ASYNC110  it is another process's
        await asyncio.sleep(0.2)


def _cpu_s(system: Rig, worker: str) -> float:
    """User and system time of its process (proc(5))."""
    spent = Path(f"/proc/{system.workers[worker].pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")


async def _sum(system: Rig, worker: str, metric: str) -> float:
    url = f"http://127.0.0.1:{system.ports[worker]}/metrics"

    def scrape() -> str:
        with urllib.request.urlopen(url, timeout=30) as reply:
            return str(reply.read().decode())

    families = text_string_to_metric_families(await asyncio.to_thread(scrape))
    return sum(sample.value for family in families if family.name == metric for sample in family.samples)
