"""Seconds from kill -9 to processing again, for every role, with default settings: `make kill-to-work`."""

import asyncio
import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import pytest

from ops.brokers.base import Broker
from ops.world import Sample, World, WorldConfig
from schemas.vocabulary import Reason
from streams.installed import ROLES
from streams.settings import Settings
from tests.chaos.rig import Rig, rig

ALLOWED_S = 30.0
DEFAULTS = ("session_timeout_s", "heartbeat_s", "commit_interval_s", "drain_s", "broker_wait_s", "rebalance_grace_s")
REQUESTS = 8
"""Requests at a time, so that every partition that the dead worker had is asked for."""


@pytest.mark.timeout(600)
@pytest.mark.skipif("MAILVET_KILL_TO_WORK" not in os.environ, reason="long: `make kill-to-work` runs it")
async def test_every_role_works_again_soon_after_it_was_killed(killable_broker: Broker, tmp_path: Path) -> None:
    asked = [role for role in ROLES if os.environ["MAILVET_KILL_TO_WORK"] in (role, "all")]
    defaults = {name.upper(): str(Settings.model_fields[name].default) for name in DEFAULTS}
    async with World(WorldConfig(bulk_domains=8)) as world, rig(killable_broker, world, tmp_path, **defaults) as system:
        await system.start(*ROLES)
        await _ask(system, world)
        rows = [(role, await _restarted(system, role, world), await _taken_over(system, role, world)) for role in asked]
    print("\n| role | started again | taken over by another worker |\n|---|---|---|")
    for role, restarted, taken_over in rows:
        print(f"| {role} | {restarted:.1f} s | {taken_over:.1f} s |")
    assert max(max(row[1:]) for row in rows) < ALLOWED_S


def _samples(world: World) -> Iterable[Sample]:
    """Addresses that need every role: some are told "later" at the first ask, so there are new ones each time."""
    for _ in range(2):
        name = f"user{uuid.uuid4().int}@greylists.test"
        yield Sample(name, "greylists", Reason.GREYLISTED, Reason.MAILBOX_ACCEPTED)
    yield from world.bulk_addresses(REQUESTS - 2)


async def _ask(system: Rig, world: World) -> None:
    await asyncio.gather(*(system.ask([sample]) for sample in _samples(world)))


async def _restarted(system: Rig, role: str, world: World) -> float:
    """As under a supervisor: the only worker of the role is started again at once."""
    began = time.monotonic()
    await asyncio.to_thread(system.workers[role].kill)
    await asyncio.gather(asyncio.to_thread(system.workers[role].start), _ask(system, world))
    return time.monotonic() - began


async def _taken_over(system: Rig, role: str, world: World) -> float:
    """The other worker of the role takes over what the dead one had; nobody starts that again before."""
    await system.start(f"{role}-2")
    began = time.monotonic()
    await asyncio.to_thread(system.workers[role].kill)
    await _ask(system, world)
    seconds = time.monotonic() - began
    await asyncio.to_thread(system.workers[role].start)
    await system.leave(f"{role}-2")
    return seconds
