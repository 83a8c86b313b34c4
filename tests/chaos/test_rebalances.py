"""A second worker joins and leaves while records pass: nothing is lost, and no partition stands still for long."""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

import orjson

from ops.brokers.base import Broker
from ops.brokers.daemon import Daemon
from ops.world import Sample, World, WorldConfig
from schemas.request import request_uid
from schemas.topics import REQUESTS, RESULTS
from tests.chaos.checker import check
from tests.chaos.rig import QUICK, TENANT, Rig, rig, shuffled

ADDRESSES = 3000
REQUEST_SIZE = 25
RATE = 40.0
"""Addresses a second, for as long as workers come and go."""

STANDSTILL_S = float(QUICK["SESSION_TIMEOUT_S"]) + 15.0
"""The group finds out that a worker was killed; the rest takes what was its, recovers tables and catches up."""


async def test_a_worker_that_comes_and_goes_stops_nobody_for_long(broker: Broker, tmp_path: Path) -> None:
    async with (
        World(WorldConfig(bulk_domains=40, bulk_hosts=8, rtt_s=0.01)) as world,
        rig(broker, world, tmp_path) as system,
    ):
        await system.start("all")
        over = asyncio.Event()
        sending = asyncio.create_task(_send(system, shuffled(world.bulk_addresses(ADDRESSES), seed=2), over))
        second = system.workers["second"] = system.worker("second", "all")
        for leave in (Daemon.stop, Daemon.kill, Daemon.stop):
            await asyncio.to_thread(second.start)
            system.note("the second worker is ready")
            await asyncio.sleep(5.0)
            await asyncio.to_thread(leave, second)
            system.note(f"the second worker has left: {leave.__name__}")
            await asyncio.sleep(3.0)
        over.set()
        await sending
        records = await system.results(within=60.0)
        report = check(system.expected, records)
        waits = await _waits(system)
        print(system.explain(report, records), f"slowest: {sorted(waits)[-5:]} s", sep="\n")
        assert not report.faults
        assert max(waits) < STANDSTILL_S


async def _send(system: Rig, samples: Sequence[Sample], over: asyncio.Event) -> None:
    """Requests at a steady rate until all is over, round and round the list."""
    for first in itertools.cycle(range(0, len(samples), REQUEST_SIZE)):
        if over.is_set():
            return
        await system.send(samples[first : first + REQUEST_SIZE], size=REQUEST_SIZE, pace_s=REQUEST_SIZE / RATE)


async def _waits(system: Rig) -> list[float]:
    """Seconds from each request to its last new result: one partition of one topic that stands still shows here."""
    asked = {
        request_uid(TENANT, orjson.loads(value)["request_id"]): ms for value, ms in await _read(system, REQUESTS.name)
    }
    first: dict[tuple[str, int], int] = {}
    for value, ms in await _read(system, RESULTS.name):
        record = orjson.loads(value)
        if record["kind"] == "result":
            place = (record["request_uid"], record["index"])
            first[place] = min(ms, first.get(place, ms))
    return [(ms - asked[uid]) / 1000 for (uid, _), ms in first.items()]


async def _read(system: Rig, topic: str) -> list[tuple[bytes, int]]:
    """Every value with the milliseconds at which it was written."""
    async with system.reader(topic) as consumer:
        ends = await consumer.end_offsets(list(consumer.assignment()))
        found: list[tuple[bytes, int]] = []
        while any([await consumer.position(each) < end for each, end in ends.items()]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                found += [(record.value, record.timestamp) for record in batch]
        return found
