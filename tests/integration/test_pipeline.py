"""The whole pipeline on the real broker: the same verdicts as the core, hostile records, and a lane that stays free."""

import asyncio
import os
import time
from pathlib import Path

import orjson
from aiokafka import AIOKafkaProducer

from ops.brokers.base import Broker
from ops.world import World, WorldConfig
from schemas.topics import DEADLETTERS, REQUESTS
from schemas.vocabulary import Depth, Lane
from streams.access.credentials import HEADER
from streams.core import open_core
from tests.chaos.checker import check
from tests.chaos.rig import Rig, rig, shuffled
from tests.integration.hostile import hostile_values
from tests.integration.test_core import settings

FLOOD = int(os.environ.get("MAILVET_FLOOD_ADDRESSES", "20000"))
"""``make chaos`` asks for 200,000."""


async def test_the_core_alone_gives_the_same_verdicts(broker: Broker, tmp_path: Path) -> None:
    config = WorldConfig(bulk_domains=40, bulk_hosts=8, tarpit_s=30.0)
    async with World(config) as world, rig(broker, world, tmp_path, RETRY_DELAYS_S="1,2,3") as system:
        await system.start("all")
        samples = shuffled([*world.samples(), *world.bulk_addresses(1000 - len(world.samples()))], seed=2)
        await system.send(samples)
        records = await system.results(within=90.0)
        assert not check(system.expected, records).faults, system.explain(check(system.expected, records), records)
        said = {
            record["input"]: (record["verdict"], record["reason"], record["reasons"])
            for record in map(orjson.loads, records)
            if record["kind"] == "result"
        }
        async with open_core(settings(world, dns_timeout_s=5.0)) as core:
            # The world answers in this very loop, which has a thousand dialogues to lead meanwhile.
            verifier = core.verifier(retry_delays_s=(2.0, 4.0))
            addresses = [sample.address for sample in samples]
            alone = {
                text: (finding.verdict, finding.reason, list(finding.reasons))
                async for _, text, finding in verifier.verify(addresses, Depth.SMTP)
            }
        assert alone == said


async def test_a_thousand_hostile_records_are_each_a_dead_letter_or_an_answer(broker: Broker, tmp_path: Path) -> None:
    async with World() as world, rig(broker, world, tmp_path) as system:
        await system.start(*("gate", "route", "probe", "retry", "completion"))
        values = list(hostile_values(1000))
        async with AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap, max_request_size=16 * 1024 * 1024, linger_ms=5
        ) as producer:
            for number, value in enumerate(values):
                headers = [(HEADER, system.key.encode()), ("number", str(number).encode())]
                await producer.send(system.topic(REQUESTS.name), value, headers=headers)
            await producer.flush()
        # A good request behind them: whoever died of one of them would not answer it.
        await system.send(world.samples()[:2])
        report = check(system.expected, await system.results(within=60.0))
        assert not (report.lost)
        assert not (report.wrong)
        assert not (report.changed)
        answered = await _answered(system, len(values))
        assert answered == set(range(len(values)))
        assert all(worker.running for worker in system.workers.values())


async def _answered(system: Rig, wanted: int) -> set[int]:
    """Numbers of the records that became a dead letter or have a result, a rejection or a summary."""
    dead: set[int] = set()
    deadline = time.monotonic() + 60.0
    async with system.reader(DEADLETTERS.name) as letters:
        while time.monotonic() < deadline:
            for batch in (await letters.getmany(timeout_ms=500)).values():
                dead |= {int(dict(record.headers)["number"]) for record in batch if "number" in dict(record.headers)}
            ids = {str(orjson.loads(value)["request_id"]) for value in await system.results(within=3.0, quiet_s=1.0)}
            answered = {int(name.removeprefix("hostile-")) for name in ids if name.startswith("hostile-")}
            if len(dead | answered) >= wanted:
                break
    return dead | answered


async def test_small_requests_do_not_wait_behind_a_flood(broker: Broker, tmp_path: Path) -> None:
    config = WorldConfig(bulk_domains=20, bulk_hosts=1, rtt_s=0.02)
    async with World(config) as world, rig(broker, world, tmp_path) as system:
        await system.start("all")
        few = list(world.bulk_addresses(40))[:30]
        await _round_trips(system, few[:3])
        idle = await _round_trips(system, few)
        began = time.monotonic()
        await system.send(list(world.bulk_addresses(FLOOD)), size=1000, lane=Lane.BULK)
        await asyncio.sleep(3.0)
        busy = await _round_trips(system, few)
        print(f"idle {max(idle):.3f} s, behind {FLOOD} addresses {max(busy):.3f} s")
        report = check(system.expected, await system.results(within=60.0 + FLOOD / 400))
        assert not report.faults
        # Nobody waited for the flood: each was answered in a fraction of the time that it took.
        assert max(busy) < (time.monotonic() - began) / 2
        if FLOOD >= 200_000:
            assert max(busy) <= 2 * max(idle) + 1.0


async def _round_trips(system: Rig, samples: list) -> list[float]:  # type: ignore[type-arg]
    """Seconds from request to summary for ten requests of three addresses, one after the other."""
    return [await system.ask(samples[first : first + 3]) for first in range(0, len(samples), 3)]
