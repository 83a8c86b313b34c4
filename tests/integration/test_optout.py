"""The do-not-probe list on a running pipeline and a real broker: it holds at once, and after a restart."""

import time
from pathlib import Path

import orjson

from ops import optouts
from ops.brokers.base import Broker
from ops.world import Sample, World, WorldConfig
from schemas.vocabulary import Reason
from tests.chaos.rig import Rig, rig
from tests.integration.conftest import until


async def answer(system: Rig, sample: Sample) -> str:
    """Ask for the sample and wait; the reason of the answer."""
    await system.ask([sample])
    asked = list(system.expected)[-1]
    results = [record for record in map(orjson.loads, await system.results(within=30.0)) if record["kind"] == "result"]
    [reason] = {each["reason"] for each in results if (each["request_uid"], each["index"]) == asked}
    return str(reason)


async def test_a_domain_is_not_asked_from_a_second_after_it_opted_out(broker: Broker, tmp_path: Path) -> None:
    async with World(WorldConfig(bulk_domains=4, bulk_hosts=1)) as world, rig(broker, world, tmp_path) as system:
        await system.start("all")
        sample = next(each for each in world.bulk_addresses(40) if each.reason is Reason.MAILBOX_ACCEPTED)
        domain = sample.address.rpartition("@")[2]
        assert await answer(system, sample) == "mailbox_accepted"

        assert system.operate("optout", "add", domain, "--reason", "asked by mail") == "1 domain put on the list\n"
        told = time.monotonic()
        await until(lambda: _is(system, sample, "do_not_probe"), within=30)
        print(f"the first answer that follows came {time.monotonic() - told:.1f} s after the command")

        # Whoever starts reads the list before it asks anybody.
        await system.crash("all")
        assert await answer(system, sample) == "do_not_probe"

        [entry] = (await optouts.read_list(broker.bootstrap, system.namespace)).values()
        [change] = entry.changes
        assert (entry.domain, change.actor, change.why, change.listed) == (domain, "ops", "asked by mail", True)
        assert domain in system.operate("optout", "list")

        system.operate("optout", "remove", domain, "--reason", "asked by phone")
        await until(lambda: _is(system, sample, "mailbox_accepted"), within=30)


async def _is(system: Rig, sample: Sample, reason: str) -> bool:
    return await answer(system, sample) == reason
