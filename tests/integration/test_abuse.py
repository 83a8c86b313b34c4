"""A tenant that guesses names, on a running pipeline and a real broker: suspended, metered, and let in again."""

import asyncio
import json
from pathlib import Path

import orjson

from ops import keys
from ops.brokers.base import Broker
from ops.usage import read_usage
from ops.world import Sample, World, WorldConfig
from tests.chaos.rig import TENANT, Rig, rig
from tests.integration.conftest import until


async def outcome(system: Rig, sample: Sample) -> str:
    """Ask for one address; ``answered``, or why it was rejected."""
    await system.send([sample])
    uid = list(system.expected)[-1][0]
    found: list[str] = []

    async def is_there() -> bool:
        records = map(orjson.loads, await system.results(within=1.0, quiet_s=0.5))
        said = [record for record in records if record["request_uid"] == uid]
        found.extend(record["reason"] if record["kind"] == "rejection" else "answered" for record in said)
        return bool(found)

    await until(is_there, within=30)
    return found[0]


async def suspended(system: Rig) -> bool:
    book = await keys.read_book(system.broker.bootstrap, system.namespace, TENANT)
    return book.tenant(TENANT).suspended is not None


async def test_who_guesses_names_is_suspended_and_who_cleans_a_list_is_not(broker: Broker, tmp_path: Path) -> None:
    async with (
        World(WorldConfig(bulk_domains=1, bulk_hosts=1)) as world,
        rig(broker, world, tmp_path, ABUSE_UNKNOWN="100") as system,
    ):
        await system.start("all")
        dirty = list(world.bulk_addresses(100, missing=0.6))
        await system.send(dirty)
        await system.results(within=60.0)
        assert not await suspended(system), "a list with more dead addresses than living ones"

        await system.send(list(world.bulk_addresses(1000, missing=1.0))[100:], size=1000)
        await until(lambda: suspended(system), within=60)
        sample = dirty[0]
        assert await outcome(system, sample) == "suspended"
        [event] = [
            json.loads(line) for line in system.operate("keys", "show", TENANT, "--history", "--json").splitlines()
        ]
        assert (event["verb"], event["actor"], event["outcome"]) == ("suspend", "mailvet gate", "applied")
        assert "d0001.bulk.mailvet.test" in event["why"]

        system.operate("keys", "allow", TENANT, "bulk.mailvet.test", "--reason", "its own domain")
        system.operate("keys", "reinstate", TENANT, "--reason", "a mistake of ours")
        assert await outcome(system, sample) == "answered"
        await system.send(list(world.bulk_addresses(2000, missing=1.0))[1500:], size=1000)

        async def metered() -> bool:
            days = await read_usage(broker.bootstrap, system.namespace)
            return [(day.requests, day.settled, day.refused) for day in days] == [(4, 4, {"suspended": 1})]

        await until(metered, within=60)
        await asyncio.sleep(1)  # All is settled, so whoever is to be suspended has been told by now.
        assert not await suspended(system), "allowed"
        [day] = await read_usage(broker.bootstrap, system.namespace)
        assert day.addresses == sum(day.verdicts.values()) == 100 + 900 + 1 + 500
        assert system.operate("keys", "usage", "--csv").count(f"{TENANT}_k1") == 1
