"""Clients as users have them, on a real broker: examples, two partitioners, `mailvet request`, cancels in crashes."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer as ConfluentProducer

from ops.brokers.base import Broker
from ops.cli.keyfile import mint
from ops.keys import carry_out
from ops.requests import reading
from ops.requests.status import State, Status
from ops.world import World
from schemas.client import BearerKey, Client, Pending, Record
from schemas.keys import Create, Kind, Outcome, Policy
from schemas.result import CancelOutcome
from schemas.topics import RESULTS
from schemas.vocabulary import Depth
from streams.installed import ROLES
from tests.chaos.rig import TENANT, Rig, rig
from tests.integration.conftest import until
from tests.unit.access.commands import give

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
SLOW = {"RETRY_DELAYS_S": "300,900,3600"}
"""What is greylisted waits for longer than any test."""

REFUSED = "zoe.missing@accepts.test"
SANDBOX = "mailbox-full@sandbox.mailvet.test"


def environment(system: Rig, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KAFKA_BOOTSTRAP_SERVERS": system.broker.bootstrap,
        "MAILVET_NAMESPACE": system.namespace,
        **more,
    }


async def program(system: Rig, *command: str, **more: str) -> tuple[int, list[str], str]:
    """Run a Python program as a user does: its exit code, the lines that it wrote, what it said on stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=environment(system, **more), cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, said = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode is not None
    return process.returncode, out.decode().splitlines(), said.decode()


async def mailvet(system: Rig, *command: str, **more: str) -> tuple[int, list[str], str]:
    return await program(system, "-m", "ops.cli.main", *command, **more)


async def new_key(system: Rig, kind: Kind, tenant: str = TENANT, **fields: Any) -> str:
    """The secret of a new key of that tenant."""
    minted = mint(kind, tenant, "new")
    command = give(Create, at=datetime.now(UTC), tenant=tenant, key="new", credential=minted.credential, **fields)
    event = await carry_out(system.broker.bootstrap, system.namespace, command, 30)
    assert event.outcome is Outcome.APPLIED, event.message
    return minted.secret or ""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One installation for the tests that crash nothing."""
    async with World() as world, rig(broker, world, tmp_path_factory.mktemp("client"), **SLOW) as made:
        await made.start("all")
        yield made


# -- the examples -----------------------------------------------------------------------------------------------------


async def test_the_examples_verify_heed_limits_and_cancel_at_their_deadline(system: Rig, tmp_path: Path) -> None:
    # Three addresses at a time: of a window of nine most are told "in flight", and asked again.
    key = tmp_path / "new.pem"
    key.write_text(await new_key(system, Kind.SIGNATURE, policy=Policy(in_flight=3)))
    others = [f"a{number}.missing@accepts.test" for number in range(7)]
    bearer = {"MAILVET_KEY": system.key}
    quick = ["--size", "3", "--window", "9", "--deadline", "60"]
    runs = [
        program(system, str(EXAMPLES / "aiokafka_client.py"), REFUSED, SANDBOX, *others, *quick, **bearer),
        program(
            system, str(EXAMPLES / "confluent_client.py"), REFUSED, SANDBOX, *others, *quick, "--key-file", str(key)
        ),
    ]
    for code, lines, said in await asyncio.gather(*runs):
        assert (code, said) == (0, "")
        assert sorted(lines) == sorted(
            [f"{SANDBOX},risky,mailbox_full", *(f"{a},undeliverable,mailbox_not_found" for a in (REFUSED, *others))]
        )
    # Each its own: whoever is asked for a second time is greylisted no more.
    late = {name: f"user{number}@greylists.test" for number, name in enumerate(("aiokafka", "confluent"))}
    quick = ["--size", "2", "--deadline", "4"]
    runs = [
        program(system, str(EXAMPLES / f"{name}_client.py"), waits, REFUSED, *quick, **bearer)
        for name, waits in late.items()
    ]
    for (code, lines, said), waits in zip(await asyncio.gather(*runs), late.values(), strict=True):
        assert (code, said) == (0, "")
        assert lines == [f"{waits},unknown,cancelled", f"{REFUSED},undeliverable,mailbox_not_found"]


# -- partitioners -----------------------------------------------------------------------------------------------------


Write = Callable[[list[Record]], Awaitable[list[int]]]
"""Writes records, and tells where they came to lie."""


def by_murmur2(bootstrap: str, *, keyed: bool = True) -> Write:
    async def write(records: list[Record]) -> list[int]:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            sent = [
                await producer.send_and_wait(r.topic, r.value, key=r.key if keyed else None, headers=r.headers)
                for r in records
            ]
        return [each.partition for each in sent]

    return write


def by_crc32(bootstrap: str) -> Write:
    async def write(records: list[Record]) -> list[int]:
        producer, placed = ConfluentProducer({"bootstrap.servers": bootstrap}), dict[bytes, int]()
        for r in records:
            producer.produce(
                r.topic, r.value, key=r.key, headers=r.headers,
                on_delivery=lambda _, message: placed.update({message.key(): message.partition()}),
            )  # fmt: skip
        assert await asyncio.to_thread(producer.flush, 30) == 0
        return [placed[record.key] for record in records]

    return write


async def answers(system: Rig, client: Client, wanted: list[Pending], *, within: float = 60.0) -> None:
    """Read the results topic from its beginning until these are done."""
    async with system.reader(RESULTS.name) as consumer, asyncio.timeout(within):
        while not all(pending.done for pending in wanted):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                for record in batch:
                    client.take(record.value)


async def test_requests_are_charged_once_whoever_s_partitioner_placed_them(broker: Broker, system: Rig) -> None:
    quota = 1000
    token = await new_key(system, Kind.BEARER, "charged", policy=Policy(daily=quota))
    client = Client(BearerKey(token.strip()), namespace=system.namespace)
    asked = [client.ask([f"{number} is no address", f"nor is {number}"], depth=Depth.SYNTAX) for number in range(30)]
    pending, records = [each for each, _ in asked], [record for _, record in asked]
    writers = [by_murmur2(broker.bootstrap), by_crc32(broker.bootstrap), by_murmur2(broker.bootstrap, keyed=False)]
    # Each writes a third first, and then all of them everything: a repeat under another partitioner.
    for number, write in enumerate(writers):
        await write(records[number * 10 : number * 10 + 10])
    placed = [await write(records) for write in writers]
    assert placed[0] != placed[1], "the partitioners agree, so this shows nothing"
    await answers(system, client, pending)
    last, record = client.ask(["the last one"], depth=Depth.SYNTAX)
    await writers[0]([record])
    await answers(system, client, [last])
    assert all(each.summary is not None and each.summary.given_back == 0 for each in (*pending, last))
    assert last.summary is not None
    assert last.summary.quota is not None
    assert last.summary.quota.remaining == quota - 61, "each address is charged once"
    found = Counter[str]()
    async with system.reader("mailvet.settlements.v1") as consumer:
        for partition in consumer.assignment():
            end = (await consumer.end_offsets([partition]))[partition]
            while await consumer.position(partition) < end:
                for record_ in (await consumer.getmany(partition, timeout_ms=500)).get(partition, []):
                    settled = orjson.loads(record_.value)
                    found[settled["request_uid"]] += settled["tenant"] == "charged"
    assert +found == Counter(each.request_uid for each in (*pending, last))


# -- mailvet request --------------------------------------------------------------------------------------------------


async def test_status_and_cancel_of_a_request_that_waits(
    broker: Broker, system: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(BearerKey(system.key), namespace=system.namespace)
    write = by_murmur2(broker.bootstrap)
    key = {"MAILVET_KEY": system.key, "MAILVET_RETRY_DELAYS_S": SLOW["RETRY_DELAYS_S"]}
    pending, record = client.ask([REFUSED, "carol@greylists.test", SANDBOX], request_id="r1")
    await write([record])

    async def look(name: str) -> Status:
        delays_s = (300.0, 900.0, 3600.0)
        return await reading.find(broker.bootstrap, system.namespace, TENANT, name, delays_s=delays_s, within_s=30)

    async def waits(name: str) -> bool:
        return bool((await look(name)).waiting)

    await until(lambda: waits("r1"))
    code, lines, said = await mailvet(system, "request", "status", "r1", "--tenant", TENANT, "--json", **key)
    assert (code, said) == (0, "")
    found = json.loads(lines[0])
    assert (found["state"], found["total"], found["decided"]) == ("running", 3, 2)
    [waiting] = found["waiting"]
    assert (waiting["tier"], waiting["addresses"], waiting["reasons"]) == ("retries.5m.v1", 1, {"greylisted": 1})

    code, lines, said = await mailvet(system, "request", "cancel", "r1", **key)
    assert (code, said) == (0, "")
    assert lines == ["request r1 is cancelled: 1 risky, 1 undeliverable, 1 unknown; 2 given back"]
    await answers(system, client, [pending])
    assert {index: result.reason for index, result in pending.results.items()} == {
        0: "mailbox_not_found",
        1: "cancelled",
        2: "mailbox_full",
    }
    assert pending.results[1].reasons == ("cancelled", "greylisted")
    assert pending.cancellation is not None
    assert pending.cancellation.outcome is CancelOutcome.ACCEPTED
    ended = await look("r1")
    assert (ended.state, ended.decided, ended.waiting, ended.given_back) == (State.FINISHED, 3, (), 2)

    code, lines, _ = await mailvet(system, "request", "cancel", "r1", **key)
    assert (code, lines) == (0, ["request r1 is finished: nothing to cancel"])
    code, lines, said = await mailvet(system, "request", "cancel", "r2", **key)
    assert (code, lines) == (1, [])
    assert "unknown_request" in said
    code, lines, said = await mailvet(system, "request", "status", "r2", **key)
    assert (code, lines) == (1, [])
    assert "nothing is known of request r2 of chaos" in said

    # An operator needs no key; and the client's own view is what was published.
    pending, record = client.ask(["bob@greylists.test"], request_id="r3")
    await write([record])
    await until(lambda: waits("r3"))
    code, lines, said = await mailvet(system, "request", "cancel", "r3", "--tenant", TENANT, "--actor", "ops", **key)
    assert (code, said) == (0, "")
    assert lines[0] == "request r3 of chaos is finished"
    await answers(system, client, [pending])
    assert pending.results[0].reason == "cancelled"
    monkeypatch.setattr(reading._Place, "has_tables", False)
    seen = await look("r1")
    assert (seen.state, seen.decided, seen.given_back, seen.waiting) == (State.FINISHED, 3, 2, None)


# -- crashes ----------------------------------------------------------------------------------------------------------


async def test_what_is_cancelled_gets_one_verdict_through_crashes(broker: Broker, tmp_path: Path) -> None:
    async with World() as world, rig(broker, world, tmp_path, **SLOW) as system:
        await system.start(*ROLES)
        client = Client(BearerKey(system.key), namespace=system.namespace)
        asked = [
            client.ask([REFUSED, *(f"g{number}x{each}@greylists.test" for each in range(4))]) for number in range(40)
        ]
        write = by_murmur2(broker.bootstrap)
        await write([record for _, record in asked])
        pending = [each for each, _ in asked]
        cancels = [client.cancel(each.request.request_id) for each in pending]
        for role, piece in (("gate", cancels[:20]), ("completion", cancels[10:30]), ("probe", cancels[20:])):
            await write(piece)
            await system.crash(role)
        await answers(system, client, pending, within=120)
        assert {each.results[0].reason for each in pending} <= {"mailbox_not_found", "cancelled"}
        # A probe that was killed asks again, and the greylist lets in whom it has seen: what is first in the log holds.
        waited = {result.reason for each in pending for index, result in each.results.items() if index}
        assert "cancelled" in waited
        assert waited <= {"cancelled", "mailbox_not_found"}
        records: dict[tuple[str, str, int | None], set[bytes]] = {}
        async with system.reader(RESULTS.name) as consumer:
            ends = await consumer.end_offsets(consumer.assignment())
            while any([await consumer.position(partition) < end for partition, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=500)).values():
                    for record in batch:
                        said = orjson.loads(record.value)
                        if said["kind"] != "cancellation":
                            name = (said["request_uid"], said["kind"], said.get("index"))
                            records.setdefault(name, set()).add(record.value)
        assert len(records) == 40 * 6
        assert all(len(values) == 1 for values in records.values()), "said differently"
