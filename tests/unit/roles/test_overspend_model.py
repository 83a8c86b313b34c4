"""A model of gate and completion on a broker that repeats, reorders and loses its readers: nothing is charged twice.

Roles crash at any moment: of the changes to a table since the last commit only a beginning survives, of the outputs
any part. What the gate writes is delivered after the changes it follows from; completion's decisions depend on the
log alone, so that its outputs may be ahead of its table.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest

from schemas.pipeline import Admitted, Attempt, AttemptEntry, Position
from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    ADMITTED_BULK,
    ADMITTED_INTERACTIVE,
    ATTEMPTS,
    REQUESTS,
    RESULTS,
    SETTLEMENTS,
)
from schemas.vocabulary import Reason
from streams.access.keys import ConfiguredKey
from streams.codec import decode, encode
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.completion import Completion
from streams.roles.gate import Gate
from streams.roles.keyring import Keyring
from tests.unit.roles.support import KEY, NOW_MS, Clock, Log, metrics, request_bytes, run, settings
from tests.unit.roles.test_completion import finding

HOUR_MS = 3_600_000
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
        kept = rng.randint(0, len(self.journal))
        self.survive(self.journal[:kept])
        able = [outputs for outputs, after in done if after <= kept]
        self.broker.write(rng, [output for outputs in able for output in outputs if rng.random() < 0.5])
        self.restart()
        return True

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


def _requests(rng: random.Random, broker: Broker) -> None:
    for number in range(12):
        names = [f"a{rng.randint(0, 5)}@x.example" for _ in range(rng.randint(1, 6))]
        value = request_bytes(f"r{number}", names)
        for _ in range(rng.choice((1, 1, 2, 3))):
            broker.logs[REQUESTS.name].append(value, headers={"mailvet-key": KEY.encode()})
        if rng.random() < 0.2:
            other = request_bytes(f"r{number}", [*names, "other@x.example"])
            broker.logs[REQUESTS.name].append(other, headers={"mailvet-key": KEY.encode()})
    rng.shuffle(broker.logs[REQUESTS.name].records)
    records = [
        Incoming(r.topic, 0, offset, r.key, r.value, r.headers)
        for offset, r in enumerate(broker.logs[REQUESTS.name].records)
    ]
    broker.logs[REQUESTS.name].records[:] = records


def play(seed: int) -> tuple[Broker, Role]:
    """One run, to its end: every reader has read everything and every deadline has passed."""
    rng, clock = random.Random(seed), Clock()
    config = settings(dev_daily_quota=28, dev_in_flight=24, interactive_up_to=3)
    broker, counted = Broker(clock), metrics()
    _requests(rng, broker)
    gate = Role(
        broker,
        ["ledger"],
        lambda ledger: Gate(
            config, counted, Keyring(counted, {}, ConfiguredKey(config), config.decisions_kept), ledger, clock
        ),
    )
    completion = Role(broker, ["requests", "progress"], lambda **tables: Completion(config, counted, **tables))
    prober = Prober()
    gate_reads = {
        REQUESTS.name: "intake",
        ADMISSIONS_INTERACTIVE.name: "admit",
        ADMISSIONS_BULK.name: "admit",
        SETTLEMENTS.name: "settle",
    }
    completion_reads = {ADMITTED_INTERACTIVE.name: "admitted", ADMITTED_BULK.name: "admitted", ATTEMPTS.name: "attempt"}
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


def check(broker: Broker, gate: Role) -> None:
    results = broker.logs[RESULTS.name].records
    decided = [r for r in results if orjson.loads(r.value).get("reason") != "request_id_conflict"]
    published = distinct(decided, "kind", "request_uid", "index")
    assert all(len(repeats) == 1 for repeats in published.values()), "a repeat is the same to the last byte"
    written = {r.value for topic in (ADMITTED_INTERACTIVE, ADMITTED_BULK) for r in broker.logs[topic.name].records}
    admitted = {orjson.loads(value)["ticket"]["request_uid"]: orjson.loads(value) for value in written}
    assert len(written) == len(admitted)
    rejected = {uid for kind, uid, _ in published if kind == "rejection"}
    assert not rejected & admitted.keys()
    charged = 0
    for uid, request in admitted.items():
        indexes = sorted(index for kind, u, index in published if kind == "result" and u == uid)
        assert indexes == list(range(len(request["addresses"]))), "one verdict an address"
        given_back = _free(request, [next(iter(published["result", uid, index])) for index in indexes])
        [summary] = published["summary", uid, None]
        assert orjson.loads(summary)["given_back"] == given_back
        charged += len(indexes) - given_back
    settlements = distinct(broker.logs[SETTLEMENTS.name].records, "request_uid")
    assert settlements.keys() == {(uid,) for uid in admitted}
    assert all(len(repeats) == 1 for repeats in settlements.values())
    account = orjson.loads(gate.tables["ledger"][b"acme:account:k1"])
    assert (account["day_used"], account["in_flight"]) == (charged, {}), "charged once, given back once"
    assert len(admitted) + len(rejected) == 12


def _free(request: dict[str, Any], results: list[bytes]) -> int:
    verdicts = [orjson.loads(result)["verdict"] for result in results]
    addresses = request["addresses"]
    return sum(verdict == "unknown" or addresses[index] in addresses[:index] for index, verdict in enumerate(verdicts))


@pytest.mark.parametrize("first", range(0, 200, 20))
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
