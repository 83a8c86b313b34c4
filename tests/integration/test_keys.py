"""Keys on a running gate and a real broker: revocation, rotation and replays under load, limits across kill -9.

``MAILVET_REVOCATIONS`` (3), ``MAILVET_KEY_RATE`` (200 requests a second), ``MAILVET_KEY_FLOOD`` (0 requests that wait
when the first key is revoked), ``MAILVET_KEY_ALL`` (all roles in one process) and ``MAILVET_OVERSPEND_RUNS`` (1)
ask for longer forms; the figures are printed (``pytest -s``).
"""

import asyncio
import itertools
import json
import os
import random
import secrets
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from ops import keys
from ops.bench.gate import worker_cost
from ops.cli.keyfile import mint
from schemas.client import Presenter
from schemas.keys import Create, Disable, KeyEvent, Kind, Limit, Outcome, Policy, Revoke, Rotate
from schemas.topics import (
    ADMITTED_BULK,
    ADMITTED_INTERACTIVE,
    DEADLETTERS,
    KEY_COMMANDS,
    KEY_EVENTS,
    REQUESTS,
    RESULTS,
    Topic,
    physical_name,
)
from streams.installed import topics_of
from tests.integration.conftest import Installation, terminate, until

REVOCATIONS = int(os.environ.get("MAILVET_REVOCATIONS", "3"))
RATE = float(os.environ.get("MAILVET_KEY_RATE", "200"))
FLOOD = int(os.environ.get("MAILVET_KEY_FLOOD", "0"))
TOGETHER = (("all",),) if os.environ.get("MAILVET_KEY_ALL") else (("--role", "gate"), ("--role", "route"))
OVERSPEND_RUNS = int(os.environ.get("MAILVET_OVERSPEND_RUNS", "1"))

MAILVET = (sys.executable, "-m", "ops.cli.main")
ADMITTED = (ADMITTED_INTERACTIVE, ADMITTED_BULK)
NO_DNS = "127.0.0.1:9"


@pytest.fixture
async def installed(installation: Installation) -> Installation:
    """An installation with its topics."""
    await installation.create_named(topics_of(installation.settings))
    return installation


def worker(installation: Installation, *what: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A worker that is ready, and where its metrics are."""
    process = installation.spawn("-m", "ops.cli.main", "worker", "--metrics-port", "0", *what, **environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate(timeout=30)[1]
    return process, line.split()[-1]


async def give(installation: Installation, verb: Any, **fields: Any) -> KeyEvent:
    """Give a command to the gate and see it applied."""
    command = verb(command_id=secrets.token_hex(16), tenant="acme", issued_at=datetime.now(UTC), actor="test", **fields)
    event = await keys.carry_out(installation.broker.bootstrap, installation.namespace, command, 30)
    assert event.outcome is Outcome.APPLIED, event.message
    return event


async def new_key(installation: Installation, key: str, kind: Kind = Kind.SIGNATURE, **fields: Any) -> Presenter:
    minted = mint(kind, "acme", key)
    free = {"policy": Policy(), **fields}
    await give(installation, Create, key=key, credential=minted.credential, **free)
    return minted.presenter()


@dataclass
class Load:
    """Requests at a steady rate, each by whoever is named at its moment; remembers when each was sent."""

    installation: Installation
    who: Callable[[int], tuple[str, Presenter]]
    depth: str = "dns"
    sent: dict[str, tuple[str, float]] = field(default_factory=dict)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), task.exception()

    async def _run(self) -> None:
        topic = REQUESTS.named(self.installation.namespace).name
        begun = time.monotonic()
        async with AIOKafkaProducer(bootstrap_servers=self.installation.broker.bootstrap, linger_ms=2) as producer:
            for number in itertools.count():
                name, key = self.who(number)
                request_id = f"{name}-{number}"
                value = orjson.dumps(
                    {"request_id": request_id, "addresses": [f"a{number}@nobody.example"], "depth": self.depth}
                )
                headers = key.headers(topic, request_id, value)
                await producer.send(topic, value, headers=headers)
                self.sent[request_id] = (name, time.time())
                await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))


async def all_decided(installation: Installation, sent: Iterable[str]) -> dict[str, str]:
    """Request id to ``admitted`` or the reason of its rejection, once each of these has one."""
    found: dict[str, str] = {}
    missing = set(sent)
    within_s = 120 + FLOOD / 100 + REVOCATIONS * 10
    async with (
        asyncio.timeout(within_s),
        AIOKafkaConsumer(bootstrap_servers=installation.broker.bootstrap, enable_auto_commit=False) as consumer,
    ):
        topics = [topic.named(installation.namespace) for topic in (*ADMITTED, RESULTS)]
        consumer.assign([TopicPartition(topic.name, each) for topic in topics for each in range(topic.partitions)])
        await consumer.seek_to_beginning()
        while missing:
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                for request_id, outcome in filter(None, map(_outcome, batch)):
                    assert found.setdefault(request_id, outcome) == outcome, "one outcome a request"
                    missing.discard(request_id)
    return found


def _outcome(record: Any) -> tuple[str, str] | None:
    said = orjson.loads(record.value)
    if "ticket" in said:
        return said["ticket"]["request_id"], "admitted"
    return (said["request_id"], said["reason"]) if said["kind"] == "rejection" else None


async def test_a_revoked_key_is_refused_at_once_under_load_while_dns_is_down(installed: Installation) -> None:
    """What was sent after the answer to the command is refused, all of it; p99 over many runs is the long form's."""
    workers = [await asyncio.to_thread(worker, installed, *each, MAILVET_RESOLVERS=NO_DNS) for each in TOGETHER]
    names = [f"k{number}" for number in range(REVOCATIONS)]
    holders = {name: await new_key(installed, name) for name in names}
    holders["steady"] = await new_key(installed, "steady")
    alive = list(holders)
    took, answered, appended = {}, {}, {}
    load = Load(installed, lambda number: (name := alive[number % len(alive)], holders[name]))
    async with load.running():
        await asyncio.sleep(1)
        await flood(installed, holders["steady"])
        for name in names:
            commanded = time.time()
            appended[name] = (await give(installed, Revoke, key=name)).at.timestamp()
            answered[name] = time.time()
            took[name] = (commanded, answered[name] - commanded)
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.5)
    waits = sorted(seconds for _, seconds in took.values())
    print(f"\n{REVOCATIONS} commands to their answers: p50 {waits[len(waits) // 2]:.2f} s, at most {waits[-1]:.2f} s")
    found = await all_decided(installed, load.sent)
    late, since_written = {}, []
    for name in names:
        admitted = [at for request, (who, at) in load.sent.items() if who == name and found[request] == "admitted"]
        refused = [at for request, (who, at) in load.sent.items() if who == name and found[request] != "admitted"]
        assert admitted
        assert refused
        assert max(admitted) <= answered[name]
        late[name] = max(0.0, max(admitted) - took[name][0])
        since_written.append(max(0.0, max(admitted) - appended[name]))
    reasons = Counter(reason for request, reason in found.items() if not request.startswith("steady"))
    assert set(reasons) == {"admitted", "key_revoked"}
    assert all(reason == "admitted" for request, reason in found.items() if request.startswith("steady"))
    worst = sorted(late.values())
    print(f"{len(load.sent)} requests at {RATE:g}/s; from a revocation to the last request let in, p50 and p99:")
    for since, seconds in (("the operator's call", worst), ("the broker has the command", sorted(since_written))):
        middle, high = seconds[len(seconds) // 2], seconds[-(-len(seconds) * 99 // 100) - 1]
        print(f"  since {since}: {middle:.2f} s, {high:.2f} s")
    if REVOCATIONS >= 20:
        assert worst[-(-len(worst) * 99 // 100) - 1] < 2
    for each, _ in workers:
        assert (await asyncio.to_thread(terminate, each))[0] == 0


async def test_a_rotation_under_load_refuses_no_request_and_a_replay_raises_no_key(installed: Installation) -> None:
    process, _ = await asyncio.to_thread(worker, installed, "--role", "gate")
    old = await new_key(installed, "k1", Kind.BEARER)
    dead = await new_key(installed, "dead")
    await give(installed, Disable, key="dead")
    await give(installed, Revoke, key="dead")
    holder = [old]
    load = Load(installed, lambda number: ("k1", random.choice(holder)))
    async with load.running():
        await asyncio.sleep(0.5)
        for kind in (Kind.BEARER, Kind.SIGNATURE):
            minted = mint(kind, "acme", "k1")
            await give(installed, Rotate, key="k1", credential=minted.credential, grace_s=3600)
            holder.append(minted.presenter())
            await asyncio.sleep(0.5)
        copies = await installed.read(KEY_COMMANDS)
        await installed.write(KEY_COMMANDS, [(record.key, record.value) for record in copies])
        await until(lambda: _at_least(installed, KEY_EVENTS, 2 * len(copies)))
        await asyncio.sleep(0.5)
    found = await all_decided(installed, load.sent)
    assert set(found.values()) == {"admitted"}, "no valid request was refused"
    events: dict[str, set[bytes]] = {}
    for record in await installed.read(KEY_EVENTS):
        events.setdefault(orjson.loads(record.value)["command_id"], set()).add(record.value)
    assert len(events) == len(copies)
    assert all(len(answers) == 1 for answers in events.values()), "a command that comes again is answered alike"
    async with Load(installed, lambda _: ("dead", dead)).running() as late:
        await until(lambda: len(late.sent) > 5)
    assert set((await all_decided(installed, late.sent)).values()) == {"admitted", "key_revoked"}
    assert (await asyncio.to_thread(terminate, process))[0] == 0


async def flood(installation: Installation, key: Presenter) -> None:
    """Requests of no interest, written as fast as the broker takes them."""
    topic = REQUESTS.named(installation.namespace).name
    async with AIOKafkaProducer(bootstrap_servers=installation.broker.bootstrap, linger_ms=20) as producer:
        for number in range(FLOOD):
            value = orjson.dumps(
                {"request_id": f"flood-{number}", "addresses": ["a@nobody.example"], "depth": "syntax"}
            )
            await producer.send(topic, value, headers=key.headers(topic, f"flood-{number}", value))
        await producer.flush()


async def _at_least(installation: Installation, topic: Any, count: int) -> bool:
    return len(await installation.read(topic)) >= count


# -- secrets -------------------------------------------------------------------------------------------------


def mailvet(installation: Installation, *arguments: str, code: int = 0, **environment: str) -> tuple[str, str]:
    """A command of an operator or a client: what it said on stdout and on stderr."""
    done = subprocess.run(
        [*MAILVET, *arguments],
        env={**installation.environment, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


async def test_the_life_of_a_key_by_commands_leaves_no_secret_anywhere(installed: Installation, tmp_path: Path) -> None:
    process, metrics = await asyncio.to_thread(worker, installed, "all")
    said: list[str] = []

    async def run(*arguments: str, code: int = 0, **environment: str) -> str:
        out, err = await asyncio.to_thread(mailvet, installed, *arguments, code=code, **environment)
        said.append(err)
        return out

    pem, second, table = tmp_path / "key.pem", tmp_path / "second.pem", tmp_path / "in.csv"
    table.write_text("email\nok@sandbox.mailvet.test\nfull@sandbox.mailvet.test\n")
    said.append(await run("keys", "create", "acme_signs", "--out", str(pem), "--daily", "5", "--actor", "ann"))
    assert pem.stat().st_mode & 0o777 == 0o600
    token = (await run("keys", "create", "acme_bears", "--type", "bearer")).strip()
    assert token.startswith("mv_acme_bears_")
    private = pem.read_text().split("-----")[2].replace("\n", "")

    ask = ("submit", str(table), "--column", "email", "--request-size", "1")
    said.append(await run(*ask, "--out", str(tmp_path / "1.csv"), "--key-file", str(pem)))
    said.append(await run(*ask, "--out", str(tmp_path / "2.csv"), MAILVET_KEY=token))
    for number in (1, 2):
        assert (tmp_path / f"{number}.csv").read_text().count("sandbox.mailvet.test") == 2

    said.append(await run("keys", "rotate", "acme_signs", "--grace", "1h", "--out", str(second), "--reason", "yearly"))
    said.append(await run(*ask, "--out", str(tmp_path / "3.csv"), "--key-file", str(second)))
    said.append(await run("keys", "rollback", "acme_signs"))
    refused = await run(*ask, "--out", str(tmp_path / "4.csv"), "--key-file", str(second), code=1)
    assert refused == ""
    assert "key_expired" in said[-1]
    said.append(await run("keys", "policy", "acme_signs", "--scope", "depth:dns"))
    await run(*ask, "--out", str(tmp_path / "5.csv"), "--key-file", str(pem), code=1)
    assert "scope_denied" in said[-1]
    said.append(await run("keys", "disable", "acme_bears"))
    said.append(await run("keys", "enable", "acme_bears"))
    said.append(await run("keys", "revoke", "acme_bears", "--reason", "leaked"))
    await run("keys", "enable", "acme_bears", code=1)
    assert "refused, key_revoked" in said[-1]

    listed = {each["key"]: each for each in map(json.loads, (await run("keys", "list", "--json")).splitlines())}
    assert (listed["bears"]["standing"], listed["signs"]["standing"]) == ("revoked", "active")
    assert listed["signs"]["last_used_at"]
    history = await run("keys", "show", "acme_bears", "--history")
    assert [line.split()[1] for line in history.splitlines()] == ["create", "disable", "enable", "revoke", "enable"]
    said += [
        history,
        await run("keys", "list"),
        await run("keys", "show", "acme_signs"),
        await run("keys", "show", "acme"),
    ]

    scraped = await asyncio.to_thread(get, metrics)
    said.append(scraped)
    code, errors = await asyncio.to_thread(terminate, process)
    assert code == 0
    said.append(errors)
    everything = {topic.name: await read_raw(installed, topic) for topic in topics_of(installed.settings)}
    assert everything[physical_name(KEY_EVENTS.name, installed.namespace)]
    secret = token.split("_")[3]
    for text in said:
        assert secret not in text
        assert private not in text
    for name, parts in everything.items():
        assert not any(private.encode() in part for part in parts), name
        if name != physical_name(REQUESTS.name, installed.namespace):
            assert not any(secret.encode() in part for part in parts), name
    assert not any(name in scraped for name in ("signs", "bears")), "no key in a metric"


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  our own worker on loopback
        return str(answer.read().decode())


async def read_raw(installation: Installation, topic: Topic) -> list[bytes]:
    """Everything that stands in a topic: keys, values, headers."""
    async with AIOKafkaConsumer(bootstrap_servers=installation.broker.bootstrap, enable_auto_commit=False) as consumer:
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        found: list[bytes] = []
        while any([await consumer.position(each) < ends[each] for each in partitions]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                for record in batch:
                    found += [record.key or b"", record.value or b"", *(value for _, value in record.headers)]
        return found


async def test_strangers_reach_the_dead_letters_only_and_without_their_credentials(installed: Installation) -> None:
    process, _ = await asyncio.to_thread(worker, installed, "--role", "gate", MAILVET_BEARER_KEYS="false")
    await new_key(installed, "victim")
    forger = mint(Kind.SIGNATURE, "acme", "victim").presenter()
    token = mint(Kind.BEARER, "acme", "victim")
    topic = REQUESTS.named(installed.namespace).name
    value = b'{"request_id":"r1","addresses":["a@nobody.example"]}'
    signature = forger.headers(topic, "r1", value)
    tries = [signature, [*signature, signature[2]], token.presenter().headers(topic, "r1", value), []]
    async with AIOKafkaProducer(bootstrap_servers=installed.broker.bootstrap) as producer:
        for headers in tries:
            await producer.send_and_wait(topic, value, headers=headers)
    await until(lambda: _at_least(installed, DEADLETTERS, len(tries)))
    letters = await installed.read(DEADLETTERS)
    shown = b"".join(value for record in letters for _, value in record.headers)
    assert signature[2][1] not in shown
    assert token.secret is not None
    assert token.secret.strip().encode() not in shown
    assert await installed.read(RESULTS) == []
    assert (await asyncio.to_thread(terminate, process))[0] == 0


# -- limits across kill -9 -----------------------------------------------------------------------------------

QUOTA = 150


@pytest.mark.parametrize("seed", range(OVERSPEND_RUNS))
async def test_a_tenant_overspends_nothing_across_kill_9(installed: Installation, seed: int) -> None:
    """Two keys of a tenant share a quota; requests come up to three times, on any partition, while gates are killed."""
    rng = random.Random(seed)
    first, _ = await asyncio.to_thread(worker, installed, "--role", "gate")
    await give(installed, Limit, limits=Policy(daily=QUOTA))
    holders = {
        "bears": await new_key(installed, "bears", Kind.BEARER, policy=Policy(daily=100)),
        "signs": await new_key(installed, "signs"),
    }
    topic = REQUESTS.named(installed.namespace).name
    records = []
    for number in range(90):
        name = rng.choice(list(holders))
        addresses = [f"a{index}@nobody.example" for index in range(rng.randint(1, 6))]
        value = orjson.dumps({"request_id": f"r{number}", "addresses": addresses})
        records += [(holders[name].headers(topic, f"r{number}", value), value)] * rng.choice((1, 1, 2, 3))
    rng.shuffle(records)
    half = len(records) // 2
    await send(installed, rng, records[:half])
    await asyncio.sleep(rng.random())
    first.kill()
    second, third = await asyncio.gather(
        asyncio.to_thread(worker, installed, "--role", "gate"), asyncio.to_thread(worker, installed, "--role", "gate")
    )
    await send(installed, rng, records[half:])
    await asyncio.sleep(rng.random())
    second[0].kill()
    found = await all_decided(installed, {f"r{number}" for number in range(90)})
    assert set(found.values()) == {"admitted", "quota_exceeded"}
    tickets = {}
    for each in ADMITTED:
        for record in await installed.read(each):
            ticket = orjson.loads(record.value)["ticket"]
            assert tickets.setdefault(ticket["request_uid"], ticket) == ticket, "decided once"
    spent: Counter[str] = Counter()
    for ticket in tickets.values():
        spent[ticket["key_id"]] += ticket["charged"]
    assert spent.total() <= QUOTA
    assert spent["bears"] <= 100
    assert spent.total() > QUOTA - 6, "the quota can be used"
    assert (await asyncio.to_thread(terminate, third[0]))[0] == 0
    accounts = await ledger(installed)
    assert accounts["acme:account"] == spent.total()
    assert {name: accounts[f"acme:account:{name}"] for name in holders} == dict(spent)


async def send(installation: Installation, rng: random.Random, records: list[Any]) -> None:
    topic = REQUESTS.named(installation.namespace).name
    async with AIOKafkaProducer(bootstrap_servers=installation.broker.bootstrap) as producer:
        for headers, value in records:
            key = rng.choice((None, b"a", value))
            await producer.send(topic, value, key=key, headers=headers, partition=rng.randrange(8))
            await asyncio.sleep(0.01)
        await producer.flush()


async def ledger(installation: Installation) -> dict[str, int]:
    """The addresses charged by account, as the changelog has them last."""
    name = f"{installation.namespace}.mailvet-gate-ledger-changelog"
    rows: dict[str, int] = {}
    async with AIOKafkaConsumer(bootstrap_servers=installation.broker.bootstrap, enable_auto_commit=False) as consumer:
        partitions = [TopicPartition(name, number) for number in range(8)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(each) < ends[each] for each in partitions]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                for record in batch:
                    if b":account" in record.key and record.value is not None:
                        rows[record.key.decode()] = orjson.loads(record.value)["day_used"]
    return rows


async def test_a_command_that_nobody_answers_is_said_to_be_open(installed: Installation) -> None:
    _, err = await asyncio.to_thread(mailvet, installed, "keys", "create", "acme_k1", "--timeout", "1", code=1)
    assert "the gate did not answer within 1 s: is a worker with the role gate running?" in err
    command_id = err.split("--command-id ")[1].split()[0]
    process, _ = await asyncio.to_thread(worker, installed, "--role", "gate")
    again = ("keys", "create", "acme_k1", "--command-id", command_id)
    _, err = await asyncio.to_thread(mailvet, installed, *again, code=1)
    assert "mailvet keys rotate acme_k1 --grace 0" in err, "its secret was never shown"
    assert (await asyncio.to_thread(mailvet, installed, "keys", "rotate", "acme_k1", "--grace", "0"))[0]
    assert (await asyncio.to_thread(terminate, process))[0] == 0


async def test_the_cost_of_a_worker_is_measured_and_nothing_is_left_behind(installation: Installation) -> None:
    cost = await worker_cost(installation.broker.bootstrap, 50, Kind.SIGNATURE, size=10)
    assert cost.us > 0
    async with AIOKafkaConsumer(bootstrap_servers=installation.broker.bootstrap) as consumer:
        assert not [topic for topic in await consumer.topics() if topic.startswith("bench-")]
