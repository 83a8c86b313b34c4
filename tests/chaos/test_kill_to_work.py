"""Seconds from kill -9 to processing again, for every role, with default settings: `make kill-to-work`."""

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from ops.brokers.base import Broker
from ops.world import Sample, World, WorldConfig
from streams.app import ROLES
from streams.settings import Settings
from tests.chaos.rig import Rig, rig

ALLOWED_S = 30.0
DEFAULTS = ("session_timeout_s", "heartbeat_s", "commit_interval_s", "drain_s", "broker_wait_s", "rebalance_grace_s")
REQUESTS = 8
"""Requests at a time, so that every partition that the dead worker had is asked for."""


@pytest.mark.timeout(600)
async def test_every_role_works_again_soon_after_it_was_killed(killable_broker: Broker, tmp_path: Path) -> None:
    if "MAILVET_KILL_TO_WORK" not in os.environ:
        pytest.skip("long: `make kill-to-work` runs it")
    defaults = {name.upper(): str(Settings.model_fields[name].default) for name in DEFAULTS}
    async with World(WorldConfig(bulk_domains=8)) as world, rig(killable_broker, world, tmp_path, **defaults) as system:
        await system.start(*ROLES)
        samples = list(_samples(world))
        await _ask(system, samples)
        rows = [
            (role, await _restarted(system, role, samples), await _taken_over(system, role, samples)) for role in ROLES
        ]
    print("\n| role | started again | taken over by another worker |\n|---|---|---|")
    for role, restarted, taken_over in rows:
        print(f"| {role} | {restarted:.1f} s | {taken_over:.1f} s |")
    assert max(max(row[1:]) for row in rows) < ALLOWED_S


def _samples(world: World) -> Iterable[Sample]:
    """Addresses that need every role: some are told "later" first."""
    later = [sample for sample in world.samples() if sample.eventually]
    yield from later[:2]
    yield from world.bulk_addresses(REQUESTS - 2)


async def _ask(system: Rig, samples: Sequence[Sample]) -> None:
    await asyncio.gather(*(system.ask([sample]) for sample in samples))


async def _restarted(system: Rig, role: str, samples: Sequence[Sample]) -> float:
    """As under a supervisor: the only worker of the role is started again at once."""
    began = time.monotonic()
    await asyncio.to_thread(system.workers[role].kill)
    await asyncio.gather(asyncio.to_thread(system.workers[role].start), _ask(system, samples))
    return time.monotonic() - began


async def _taken_over(system: Rig, role: str, samples: Sequence[Sample]) -> float:
    """The other worker of the role takes over what the dead one had; nobody starts that again before."""
    await system.start(f"{role}-2")
    began = time.monotonic()
    await asyncio.to_thread(system.workers[role].kill)
    await _ask(system, samples)
    seconds = time.monotonic() - began
    await asyncio.to_thread(system.workers[role].start)
    await system.leave(f"{role}-2")
    return seconds
