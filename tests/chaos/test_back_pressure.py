"""A mail server that never answers: others are served, offsets go on, no stop and no rebalance waits for it."""

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

from ops.brokers.base import Broker
from ops.world import Sample, World, WorldConfig
from streams.group import STOP_SLACK_S
from tests.chaos.checker import check
from tests.chaos.history import READERS
from tests.chaos.observe import Observer
from tests.chaos.rig import Rig, rig

HANGS = "mx.bulk1.test"
DIALOGUE_S = 20.0
CONFIG = WorldConfig(bulk_domains=8, bulk_hosts=8, rtt_s=0.01)


def split(world: World, count: int) -> tuple[list[Sample], list[Sample]]:
    """Addresses of the host that hangs, and of the others."""
    hung = [s for s in world.bulk_addresses(count) if s.address.endswith("@d0001.bulk.mailvet.test")]
    return hung, [s for s in world.bulk_addresses(count) if s not in hung]


async def test_a_provider_that_hangs_holds_up_nobody_else_and_no_offsets_for_ever(
    broker: Broker, tmp_path: Path
) -> None:
    """Its tasks come one by one, more of them than a partition may have in hand at the defaults of a small lane."""
    options = {"DIALOGUE_DEADLINE_S": "6", "COMMAND_TIMEOUT_S": "6", "TURN_WAIT_S": "5", "RETRY_DELAYS_S": "20,20,60"}
    async with World(CONFIG) as world, rig(broker, world, tmp_path, **options) as system:
        await system.start("all")
        hung, others = split(world, 4400)
        world.freeze_host(HANGS)
        await system.send(hung, size=1)
        await system.send(others, size=100)
        places = len(others)
        served = await _served(system, others, within=60.0)
        assert len(served) == places, f"{len(served)} of {places} were served while one provider hung"
        observer = Observer(system)
        await _until_taken(observer, within=120.0)
        world.freeze_host(HANGS, frozen=False)
        records = await system.results(within=120.0)
        report = check(system.expected, records)
        print(system.explain(report, records))
        assert not report.faults


async def test_neither_a_stop_nor_a_rebalance_waits_for_a_dialogue_that_hangs(broker: Broker, tmp_path: Path) -> None:
    slow = ("DIALOGUE_DEADLINE_S", "COMMAND_TIMEOUT_S", "CONNECT_TIMEOUT_S")
    options = {**dict.fromkeys(slow, str(DIALOGUE_S)), "DRAIN_S": "3"}
    async with World(CONFIG) as world, rig(broker, world, tmp_path, **options) as system:
        await system.start("gate", "route", "retry", "completion", "probe-1")
        hung, others = split(world, 800)
        world.freeze_host(HANGS)
        await system.send([*hung, *others], size=50)
        await _served(system, others, within=30.0)
        began = time.monotonic()
        await system.start("probe-2")
        joined = time.monotonic() - began
        began = time.monotonic()
        await system.leave("probe-1")
        left = time.monotonic() - began
        world.freeze_host(HANGS, frozen=False)
        records = await system.results(within=90.0)
        report = check(system.expected, records)
        print(system.explain(report, records), f"joined after {joined:.1f} s, left after {left:.1f} s", sep="\n")
        assert system.workers["probe-1"].status == 0, "it drained and left, and was not given up"
        assert not report.faults
        assert joined < DIALOGUE_S
        assert left < float(options["DRAIN_S"]) + STOP_SLACK_S


async def _served(system: Rig, samples: Iterable[Sample], *, within: float) -> set[str]:
    """The addresses of these samples that have a result, once all have or the time is over."""
    wanted, found = {sample.address for sample in samples}, set[str]()
    by_place = system.addresses
    deadline = time.monotonic() + within
    async with system.reader("mailvet.results.v1") as reader:
        while not wanted <= found and time.monotonic() < deadline:
            for batch in (await reader.getmany(timeout_ms=500)).values():
                for record in batch:
                    said = check({}, [record.value])
                    found |= {by_place[place] for place in said.stray if place in by_place}
    return wanted & found


async def _until_taken(observer: Observer, *, within: float) -> None:
    """Every task is committed, though one provider still hangs: what could not be asked waits in the retry tier."""
    async with asyncio.timeout(within):
        while True:
            look = await observer.look()
            probes = [(reader, topic) for reader in ("probe-bulk", "probe-interactive") for topic in READERS[reader]]
            left = [
                end - look.committed.get((reader, topic, partition), 0)
                for reader, topic in probes
                for (name, partition), end in look.ends.items()
                if name == topic
            ]
            if not any(left):
                return
            await asyncio.sleep(0.5)
