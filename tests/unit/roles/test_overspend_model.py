"""A model of gate and completion on a broker that repeats, reorders and loses its readers: nothing is charged twice.

Roles crash at any moment: of the changes to each table since the last commit only a beginning survives, of the outputs
any part. What a role writes is delivered after the changes it follows from.

The tenant has three keys, one of the configuration and two that commands made. While requests run, one of them is
rotated and another is revoked, its tenant's limits change, and every command comes again.

``MAILVET_OVERSPEND_SEEDS`` sets the number of runs (200).
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest

from schemas.keys import Create, Credential, Define, Disable, Enable, Kind, Limit, Policy, Revoke, Rotate
from schemas.pipeline import Admitted, Attempt, AttemptEntry, Position
from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    ADMITTED_BULK,
    ADMITTED_INTERACTIVE,
    ATTEMPTS,
    KEY_COMMANDS,
    KEY_EVENTS,
    REQUESTS,
    RESULTS,
    SETTLEMENTS,
)
from schemas.vocabulary import Reason
from streams.access.credentials import digest, mint
from streams.access.decisions import Account
from streams.access.keys import ConfiguredKey
from streams.access.standing import STANDING
from streams.codec import decode, encode
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.completion import Completion
from streams.roles.gate import Gate
from streams.roles.keyring import Keyring
from tests.unit.access.commands import give
from tests.unit.roles.support import KEY, NOW, NOW_MS, Clock, Log, metrics, request_bytes, run, settings
from tests.unit.roles.test_completion import finding

HOUR_MS = 3_600_000
REQUESTED = 12
TOGETHER, IN_FLIGHT = 32, 24
"""Addresses a day and in flight that the tenant's keys may have together."""
NEW_CAME_EARLY = REQUESTED
"""Requests with the new credential, read before its command, are dead letters."""
OUTCOMES = (Reason.MAILBOX_ACCEPTED, Reason.MAILBOX_NOT_FOUND, Reason.CATCH_ALL, Reason.GREYLISTED, Reason.TIMEOUT)
TOPICS = (
    REQUESTS,
    ADMISSIONS_INTERACTIVE,
    ADMISSIONS_BULK,
    ADMITTED_INTERACTIVE,
    ADMITTED_BULK,
    ATTEMPTS,
    SETTLEMENTS,
    RESULTS,
    KEY_COMMANDS,
    KEY_EVENTS,
)

Table = dict[bytes, bytes]
Change = tuple[str, bytes, bytes | None]


class Journaled(Table):
    """A table whose changes are known in their order, as a changelog has them."""

    def __init__(self, name: str, journal: list[Change]) -> None:
        super().__init__()
        self.name, self.journal = name, journal

    def __setitem__(self, key: bytes, row: bytes) -> None:
        self.journal.append((self.name, key, row))
        super().__setitem__(key, row)

    def pop(self, key: bytes, *default: Any) -> Any:
        if key in self:
            self.journal.append((self.name, key, None))
        return super().pop(key, *default)


class Role:
    """One role with its tables and where it is in each topic."""

    def __init__(self, broker: "Broker", tables: Iterable[str], make: Callable[..., Any]) -> None:
        self.broker, self.make = broker, make
        self.names = tuple(tables)
        self.durable: dict[str, Table] = {name: {} for name in self.names}
        self.committed: dict[str, int] = defaultdict(int)
        self.restart()

    def restart(self) -> None:
        """Tables are recovered from what survived."""
        self.journal: list[Change] = []
        self.tables = {name: Journaled(name, self.journal) for name in self.names}
        for name, rows in self.durable.items():
            for key, row in rows.items():
                dict.__setitem__(self.tables[name], key, row)
        self.role = self.make(**self.tables)

    def survive(self, changes: Iterable[Change]) -> None:
        """Changes that the broker has."""
        for name, key, row in changes:
            if row is None:
                self.durable[name].pop(key, None)
            else:
                self.durable[name][key] = row

    def turn(self, rng: random.Random, handlers: dict[str, str], *, crash: float) -> bool:
        """Read some records of some topics; commit them, or crash. False when there was nothing to read."""
        position = dict(self.committed)
        done: list[tuple[list[Outgoing], int]] = []
        for _ in range(rng.randint(1, 6)):
            ready = [topic for topic in handlers if position.get(topic, 0) < len(self.broker.logs[topic].records)]
            if not ready:
                break
            topic = rng.choice(ready)
            record = self.broker.logs[topic].records[position.get(topic, 0)]
            position[topic] = position.get(topic, 0) + 1
            done.append((self.handle(handlers[topic], record), len(self.journal)))
        if not done:
            return False
        if rng.random() >= crash:
            self.broker.write(rng, [output for outputs, _ in done for output in outputs])
            self.survive(self.journal)
            self.journal.clear()
            self.committed.update(position)
            return True
        able = self.crash(rng, done)
        self.broker.write(rng, [output for outputs in able for output in outputs if rng.random() < 0.5])
        self.restart()
        return True

    def crash(self, rng: random.Random, done: list[tuple[list[Outgoing], int]]) -> list[list[Outgoing]]:
        """Each table has a changelog of its own, cut anywhere; the outputs of records whose rows all survived."""
        lost = len(self.journal)
        for name in self.names:
            places = [place for place, (table, _, _) in enumerate(self.journal) if table == name]
            kept = rng.randint(0, len(places))
            self.survive(self.journal[place] for place in places[:kept])
            lost = min(lost, *places[kept:], len(self.journal))
        return [outputs for outputs, after in done if after <= lost]

    def handle(self, method: str, record: Incoming) -> list[Outgoing]:
        try:
            return list(run(getattr(self.role, method)(record)))
        except Unusable:
            return []


class Broker:
    """Topics of one partition; writers of one moment come in any order, but each record key in its own."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.logs = {topic.name: Log(topic.name) for topic in TOPICS}

    def write(self, rng: random.Random, outputs: list[Outgoing]) -> None:
        for output in outputs:
            self.clock.now_ms += rng.randint(0, 3)
            self.logs[output.topic].take(output, self.clock.now_ms)


class Prober:
    """In place of route and probe: makes attempts of what was admitted; some come twice, differ, or never come."""

    def __init__(self) -> None:
        self.seen = dict.fromkeys((ADMITTED_INTERACTIVE.name, ADMITTED_BULK.name), 0)
        self.waiting: list[Outgoing] = []

    def turn(self, rng: random.Random, broker: Broker) -> bool:
        fresh = [record for topic, seen in self.seen.items() for record in broker.logs[topic].records[seen:]]
        self.seen = {topic: len(broker.logs[topic].records) for topic in self.seen}
        for record in fresh:
            for _ in range(rng.choice((1, 1, 2))):
                self.waiting += _attempts(rng, decode(Admitted, record.value))
        rng.shuffle(self.waiting)
        count = rng.randint(0, len(self.waiting))
        broker.write(rng, self.waiting[:count])
        del self.waiting[:count]
        return bool(fresh or self.waiting)


def _attempts(rng: random.Random, admitted: Admitted) -> list[Outgoing]:
    groups: dict[str, list[Position]] = defaultdict(list)
    for index, text in enumerate(admitted.addresses):
        groups[text].append(Position(index=index, input=text))
    entries = []
    for positions in groups.values():
        for final in (False, True) if rng.random() < 0.3 else (True,):
            reason = rng.choice(OUTCOMES) if final else Reason.GREYLISTED
            if rng.random() > 0.1:
                entries.append(AttemptEntry(positions=tuple(positions), final=final, finding=finding(reason)))
    rng.shuffle(entries)
    records = []
    while entries:
        size = rng.randint(1, 3)
        attempt = Attempt(ticket=admitted.ticket, origin="probe", entries=tuple(entries[:size]))
        records.append(Outgoing(ATTEMPTS.name, admitted.ticket.request_uid.encode(), encode(attempt)))
        del entries[:size]
    return records


def _bearer(name: str, mark: bytes) -> str:
    return mint("acme", name, mark * 16)


OLD, NEW, LEAKED = _bearer("ka", b"1"), _bearer("ka", b"2"), _bearer("kb", b"3")


def _proof(token: str) -> Credential:
    return Credential(kind=Kind.BEARER, proof=digest(token))


def _commands(rng: random.Random, broker: Broker) -> None:
    """Two keys made before all else; then what happens to them, in this order, and all of it once more."""
    log = broker.logs[KEY_COMMANDS.name]
    commands: list[Any] = [
        give(Define, NOW, name="small", policy=Policy(daily=20)),
        give(Create, NOW, key="ka", credential=_proof(OLD), policy="small"),
        give(Create, NOW, key="kb", credential=_proof(LEAKED)),
        give(Limit, NOW, limits=Policy(daily=TOGETHER, in_flight=IN_FLIGHT)),
    ]
    later = [
        give(Rotate, NOW, key="ka", credential=_proof(NEW), grace_s=rng.choice((0, 3600))),
        give(Disable, NOW, key="ka"),
        give(Enable, NOW, key="ka"),
        give(Revoke, NOW, key="kb"),
        give(Define, NOW, name="small", policy=Policy(daily=rng.choice((10, 30)))),
    ]
    again = [*commands, *later]
    rng.shuffle(again)
    for command in (*commands, *later, *again):
        log.append(encode(command), b"acme")


def _requests(rng: random.Random, broker: Broker) -> None:
    for number in range(REQUESTED):
        names = [f"a{rng.randint(0, 5)}@x.example" for _ in range(rng.randint(1, 6))]
        value = request_bytes(f"r{number}", names)
        key = rng.choice((KEY, KEY, OLD, NEW, LEAKED))
        for _ in range(rng.choice((1, 1, 2, 3))):
            broker.logs[REQUESTS.name].append(value, headers={"mailvet-key": key.encode()})
        if rng.random() < 0.2:
            other = request_bytes(f"r{number}", [*names, "other@x.example"])
            key = rng.choice((KEY, key, LEAKED))
            broker.logs[REQUESTS.name].append(other, headers={"mailvet-key": key.encode()})
    rng.shuffle(broker.logs[REQUESTS.name].records)
    records = [
        Incoming(r.topic, 0, offset, r.key, r.value, r.headers)
        for offset, r in enumerate(broker.logs[REQUESTS.name].records)
    ]
    broker.logs[REQUESTS.name].records[:] = records


class Watched(Gate):
    """A gate whose limits are looked at after each record: not for a moment is one passed."""

    async def admit(self, record: Incoming) -> Any:
        outputs = await super().admit(record)
        for row, daily, in_flight in (("acme:account", TOGETHER, IN_FLIGHT), ("acme:account:k1", 28, 24)):
            account = decode(Account, self._ledger.get(row.encode(), b"{}"))
            assert account.day_used <= daily
            assert sum(account.in_flight.values()) <= in_flight
        return outputs


def play(seed: int) -> tuple[Broker, Role]:
    """One run, to its end: every reader has read everything and every deadline has passed."""
    rng, clock = random.Random(seed), Clock()
    config = settings(dev_daily_quota=28, dev_in_flight=24, interactive_up_to=3)
    broker, counted = Broker(clock), metrics()
    _requests(rng, broker)
    _commands(rng, broker)

    def make_gate(ledger: Table, keys: Table) -> Gate:
        keyring = Keyring(counted, keys, ConfiguredKey(config), config.decisions_kept)
        # The role reads its commands through the same object as its requests.
        gate = Watched(config, counted, keyring, ledger, clock)
        gate.command = keyring.command  # type: ignore[attr-defined]
        return gate

    gate = Role(broker, ["ledger", "keys"], make_gate)
    completion = Role(broker, ["requests", "progress"], lambda **tables: Completion(config, counted, **tables))
    prober = Prober()
    commands = {KEY_COMMANDS.name: "command"}
    gate_reads = {
        REQUESTS.name: "intake",
        ADMISSIONS_INTERACTIVE.name: "admit",
        ADMISSIONS_BULK.name: "admit",
        SETTLEMENTS.name: "settle",
        **commands,
    }
    completion_reads = {ADMITTED_INTERACTIVE.name: "admitted", ADMITTED_BULK.name: "admitted", ATTEMPTS.name: "attempt"}
    while gate.committed[KEY_COMMANDS.name] < 4:  # The keys are there before anybody uses them.
        gate.turn(rng, commands, crash=0.3)
    for late in (False, True):
        busy = True
        while busy:
            crash = 0.0 if rng.random() < 0.3 else 0.5
            busy = gate.turn(rng, gate_reads, crash=crash)
            busy |= prober.turn(rng, broker)
            busy |= completion.turn(rng, completion_reads, crash=crash)
            if late:
                swept = completion.role.sweep(NOW_MS + 4 * HOUR_MS)
                broker.write(rng, [record for record in swept if rng.random() < 0.9])
                busy |= bool(swept)
                if not busy and any(completion.role._asked(row) for row in completion.tables["requests"]):
                    completion.restart()  # forgets what it has swept, as a minute would
                    busy = True
    return broker, gate


def distinct(outputs: Iterable[Incoming], *fields: str) -> dict[tuple[Any, ...], set[bytes]]:
    """The different bytes that were published under each name."""
    found: dict[tuple[Any, ...], set[bytes]] = defaultdict(set)
    for record in outputs:
        value = orjson.loads(record.value)
        found[tuple(value.get(field) for field in fields)].add(record.value)
    return found


FREES_THE_ID = {"request_id_conflict", *STANDING}
"""Rejections that leave a request id to another request."""


def check(broker: Broker, gate: Role) -> None:
    results = broker.logs[RESULTS.name].records
    decided = [r for r in results if orjson.loads(r.value).get("reason") not in FREES_THE_ID]
    published = distinct(decided, "kind", "request_uid", "index")
    assert all(len(repeats) == 1 for repeats in published.values()), "a repeat is the same to the last byte"
    written = {r.value for topic in (ADMITTED_INTERACTIVE, ADMITTED_BULK) for r in broker.logs[topic.name].records}
    admitted = {orjson.loads(value)["ticket"]["request_uid"]: orjson.loads(value) for value in written}
    assert len(written) == len(admitted)
    rejected = {uid for kind, uid, _ in published if kind == "rejection"}
    assert not rejected & admitted.keys()
    charged: Counter[str] = Counter()
    for uid, request in admitted.items():
        indexes = sorted(index for kind, u, index in published if kind == "result" and u == uid)
        assert indexes == list(range(len(request["addresses"]))), "one verdict an address"
        given_back = _free(request, [next(iter(published["result", uid, index])) for index in indexes])
        [summary] = published["summary", uid, None]
        assert orjson.loads(summary)["given_back"] == given_back
        charged[request["ticket"]["key_id"]] += len(indexes) - given_back
    settlements = distinct(broker.logs[SETTLEMENTS.name].records, "request_uid")
    assert settlements.keys() == {(uid,) for uid in admitted}
    assert all(len(repeats) == 1 for repeats in settlements.values())
    for name, spent in (*charged.items(), ("", charged.total())):
        row = gate.tables["ledger"][f"acme:account:{name}".rstrip(":").encode()]
        account = orjson.loads(row)
        assert (account["day_used"], account["in_flight"]) == (spent, {}), "charged once, given back once"
    refused = {orjson.loads(r.value)["request_uid"] for r in results if r not in decided}
    unauthenticated = REQUESTED - len(admitted.keys() | rejected | refused)
    assert 0 <= unauthenticated <= NEW_CAME_EARLY
    check_keys(broker, gate)


def check_keys(broker: Broker, gate: Role) -> None:
    """Every command has one answer, whatever crashed and however often it came; the revoked key is dead."""
    commands = broker.logs[KEY_COMMANDS.name].records
    events = distinct(broker.logs[KEY_EVENTS.name].records, "command_id")
    assert events.keys() == {(orjson.loads(record.value)["command_id"],) for record in commands}
    assert all(len(answers) == 1 for answers in events.values())
    keys = {name: orjson.loads(gate.tables["keys"][f"acme:key:{name}".encode()]) for name in ("ka", "kb")}
    assert (keys["kb"]["status"], keys["ka"]["status"]) == ("revoked", "active")
    assert [each["credential"]["proof"] for each in keys["ka"]["versions"]] == [digest(OLD), digest(NEW)]


def _free(request: dict[str, Any], results: list[bytes]) -> int:
    verdicts = [orjson.loads(result)["verdict"] for result in results]
    addresses = request["addresses"]
    return sum(verdict == "unknown" or addresses[index] in addresses[:index] for index, verdict in enumerate(verdicts))


@pytest.mark.parametrize("first", range(0, int(os.environ.get("MAILVET_OVERSPEND_SEEDS", "200")), 20))
def test_one_verdict_an_address_and_no_address_charged_twice(first: int) -> None:
    for seed in range(first, first + 20):
        check(*play(seed))


def test_the_model_meets_everything_it_is_for() -> None:
    """Crashes that change nothing prove nothing: runs hold repeats, refusals, conflicts and deadlines."""
    met: set[str] = set()
    for seed in range(20):
        broker, _ = play(seed)
        values = [orjson.loads(record.value) for record in broker.logs[RESULTS.name].records]
        met |= {value["reason"] for value in values if "reason" in value}
        results = distinct(broker.logs[RESULTS.name].records, "kind", "request_uid", "index")
        met |= {"repeats"} if len(broker.logs[RESULTS.name].records) > len(results) else set()
        origins = {orjson.loads(record.value)["origin"] for record in broker.logs[ATTEMPTS.name].records}
        met |= origins
    assert met >= {"repeats", "deadline", "quota_exceeded", "in_flight_exceeded", "request_id_conflict"}
    assert met >= {"key_revoked", "key_expired", "key_disabled"}
