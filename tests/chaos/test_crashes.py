"""Each of the five roles and the broker are killed in mid-run: nothing is lost, decided twice or wrong."""

import asyncio
import os
from pathlib import Path

from ops.brokers.base import Broker
from ops.world import World, WorldConfig
from streams.app import ROLES
from tests.chaos.checker import check
from tests.chaos.rig import rig, shuffled

ADDRESSES = int(os.environ.get("MAILVET_CRASH_ADDRESSES", "3000"))
"""``make chaos`` asks for 10,000; the short form is part of ``make test``."""


async def test_every_role_and_the_broker_are_killed_in_mid_run(killable_broker: Broker, tmp_path: Path) -> None:
    config = WorldConfig(bulk_domains=40, bulk_hosts=8, rtt_s=0.01, tarpit_s=30.0)
    async with World(config) as world, rig(killable_broker, world, tmp_path) as system:
        await system.start(*ROLES)
        samples = shuffled([*world.samples(), *world.bulk_addresses(ADDRESSES - len(world.samples()))], seed=1)
        sending = asyncio.create_task(system.send(samples, pace_s=0.05))
        for role in ROLES:
            await system.crash(role, down_s=0.5)
        await sending
        await system.crash_broker()
        records = await system.results(within=180.0)
        report = check(system.expected, records)
        print(system.explain(report, records))
        assert not report.faults
