"""Completion: one verdict an address, in the order of the log; then the end of the request, once."""

from datetime import timedelta
from typing import Any, Literal

import orjson
import pytest

from schemas.pipeline import Attempt, AttemptEntry, Position, Ticket
from schemas.result import Evidence, Finding
from schemas.topics import ADMITTED_BULK, ADMITTED_INTERACTIVE, ATTEMPTS, CANCELS, RESULTS, SETTLEMENTS
from schemas.vocabulary import RETRYABLE, VERDICTS, Reason, Stage
from streams.codec import encode
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.completion import Completion
from tests.unit.roles.support import NOW, NOW_MS, Log, admitted, metrics, run, settings, ticket, values

ROLE = Reason.ROLE_ACCOUNT
ACCEPTED, REFUSED, GREY = Reason.MAILBOX_ACCEPTED, Reason.MAILBOX_NOT_FOUND, Reason.GREYLISTED
HOUR_MS = 3_600_000
DEADLINE_MS = NOW_MS + 3 * HOUR_MS


def finding(reason: Reason, **changes: Any) -> Finding:
    values: dict[str, Any] = {
        "domain": "x.example",
        "verdict": VERDICTS[reason],
        "reason": reason,
        "reasons": (reason,),
        "score": 50,
        "retryable": reason in RETRYABLE,
        "evidence": Evidence(stage=Stage.RCPT),
        "checked_at": NOW,
    }
    return Finding(**{**values, **changes})


def entry(reason: Reason, *indexes: int, final: bool = True, **changes: Any) -> AttemptEntry:
    positions = tuple(Position(index=index, input=f"a{index}@x.example") for index in indexes)
    return AttemptEntry(positions=positions, final=final, finding=finding(reason, **changes))


class World:
    """Completion with its topics."""

    def __init__(self, total: int = 2, **changes: Any) -> None:
        self.ticket: Ticket = ticket(total, **changes)
        self.requests: dict[bytes, bytes] = {}
        self.progress: dict[bytes, bytes] = {}
        self.log = Log(ATTEMPTS.name)
        self.metrics = metrics()
        self.restart()

    def restart(self) -> None:
        self.role = Completion(settings(), self.metrics, requests=self.requests, progress=self.progress)

    def admit(self) -> None:
        addresses = [f"a{index}@x.example" for index in range(self.ticket.total)]
        record = admitted(addresses, lane=self.ticket.lane, verdict_by=self.ticket.verdict_by)
        assert run(self.role.admitted(record)) == ()

    def record(self, *entries: AttemptEntry, origin: Literal["route", "probe", "deadline"] = "probe") -> Incoming:
        return self.log.append(encode(Attempt(ticket=self.ticket, origin=origin, entries=entries)), at_ms=NOW_MS + 5000)

    def read(self, record: Incoming) -> list[Outgoing]:
        return list(run(self.role.attempt(record)))

    def attempt(self, *entries: AttemptEntry) -> list[Outgoing]:
        return self.read(self.record(*entries))


def verdicts(outputs: list[Outgoing]) -> dict[int, str]:
    return {r["index"]: r["reason"] for r in values(outputs, RESULTS.name) if r["kind"] == "result"}


def kinds(outputs: list[Outgoing]) -> list[str]:
    return [dict(output.headers).get("mailvet-kind", b"settlement").decode() for output in outputs]


def test_each_address_gets_its_verdict_and_the_last_one_ends_the_request() -> None:
    world = World(3)
    world.admit()
    assert verdicts(world.attempt(entry(ACCEPTED, 0))) == {0: "mailbox_accepted"}
    outputs = world.attempt(entry(REFUSED, 1), entry(Reason.CATCH_ALL, 2))
    assert kinds(outputs) == ["result", "result", "summary", "settlement"]
    assert {output.key for output in outputs} == {world.ticket.request_uid.encode(), b"acme"}
    assert verdicts(outputs) == {1: "mailbox_not_found", 2: "catch_all"}
    [summary] = [value for value in values(outputs, RESULTS.name) if value["kind"] == "summary"]
    assert summary["verdicts"] == {"deliverable": 1, "risky": 1, "undeliverable": 1}
    assert summary["reasons"] == {"mailbox_accepted": 1, "mailbox_not_found": 1, "catch_all": 1}
    assert (summary["total"], summary["charged"], summary["given_back"]) == (3, 3, 0)
    assert (summary["admitted_at"], summary["finished_at"]) == ("2026-03-10T12:00:00Z", "2026-03-10T12:00:05Z")


def test_a_result_says_all_that_was_found() -> None:
    world = World(1, key_id="k1")
    [result] = [v for v in values(world.attempt(entry(ACCEPTED, 0, score=97)), RESULTS.name) if v["kind"] == "result"]
    assert result["request_uid"] == world.ticket.request_uid
    assert (result["request_id"], result["key_id"], result["index"], result["total"]) == ("r1", "k1", 0, 1)
    assert (result["input"], result["score"], result["verdict"]) == ("a0@x.example", 97, "deliverable")
    assert result["schema_version"] == 1


def test_a_record_read_again_publishes_the_same_bytes() -> None:
    world = World(3)
    records = [
        world.record(entry(ACCEPTED, 0), entry(GREY, 1, final=False)),
        world.record(entry(REFUSED, 0, 1)),
        world.record(entry(ACCEPTED, 2)),
    ]
    first = [world.read(record) for record in records]
    world.restart()
    assert [world.read(record) for record in records] == first
    assert [world.read(record) for record in reversed(records)] == first[::-1]
    assert [verdicts(outputs) for outputs in first] == [
        {0: "mailbox_accepted"},
        {1: "mailbox_not_found"},
        {2: "mailbox_accepted"},
    ]


def test_a_late_twin_publishes_nothing() -> None:
    world = World(2)
    world.attempt(entry(ACCEPTED, 0), entry(ACCEPTED, 1))
    before = dict(world.progress)
    assert world.attempt(entry(REFUSED, 0), entry(REFUSED, 1)) == []
    assert world.attempt(entry(GREY, 0, final=False)) == []
    assert world.progress == before


def test_the_first_in_the_log_decides() -> None:
    world = World(2)
    assert verdicts(world.attempt(entry(REFUSED, 0))) == {0: "mailbox_not_found"}
    assert verdicts(world.attempt(entry(ACCEPTED, 0, 1))) == {1: "mailbox_accepted"}


def test_an_index_twice_in_a_record_or_out_of_the_request_counts_for_nothing() -> None:
    world = World(2)
    outputs = world.attempt(entry(ACCEPTED, 0), entry(REFUSED, 0), entry(REFUSED, 7))
    assert verdicts(outputs) == {0: "mailbox_accepted"}
    assert kinds(outputs) == ["result"]


@pytest.mark.parametrize(
    ("entries", "given_back"),
    [
        ([entry(ACCEPTED, 0), entry(REFUSED, 1), entry(ACCEPTED, 2)], 0),
        ([entry(ACCEPTED, 0, 1, 2)], 2),
        ([entry(GREY, 0), entry(Reason.TIMEOUT, 1), entry(Reason.NOT_PROBED, 2)], 3),
        ([entry(GREY, 0, 1), entry(ACCEPTED, 2)], 2),
        (
            [
                entry(ROLE, 0, reasons=(ROLE, Reason.NOT_PROBED)),
                entry(ROLE, 1, reasons=(ROLE, ACCEPTED)),
                entry(ROLE, 2),
            ],
            1,
        ),
        ([entry(ACCEPTED, 0, domain="sandbox.mailvet.test"), entry(ACCEPTED, 1), entry(Reason.SYNTAX_INVALID, 2)], 1),
    ],
)
def test_what_was_not_learned_probed_or_asked_once_is_given_back(entries: list[AttemptEntry], given_back: int) -> None:
    outputs = World(3).attempt(*entries)
    [settlement] = values(outputs, SETTLEMENTS.name)
    assert (settlement["charged"], settlement["charged_day"], settlement["given_back"]) == (3, "2026-03-10", given_back)
    assert [v["given_back"] for v in values(outputs, RESULTS.name) if v["kind"] == "summary"] == [given_back]


def test_what_is_not_final_publishes_nothing() -> None:
    world = World(1)
    assert world.attempt(entry(GREY, 0, final=False)) == []


def test_attempts_may_come_before_the_request() -> None:
    world = World(1)
    world.attempt(entry(ACCEPTED, 0))
    world.admit()
    assert world.requests == {}
    assert world.role.sweep(DEADLINE_MS) == []


def test_an_unfinished_request_is_answered_with_what_is_known_when_its_time_is_over() -> None:
    world = World(4)
    world.admit()
    world.attempt(entry(GREY, 0, 1, final=False, next_attempt_at=NOW + timedelta(hours=1), attempt=1))
    world.attempt(entry(Reason.RATE_LIMITED, 1, final=False, attempt=2), entry(ACCEPTED, 2))
    assert world.role.sweep(DEADLINE_MS - 1) == []
    [deadline] = world.role.sweep(DEADLINE_MS)
    assert (deadline.topic, deadline.key) == (ATTEMPTS.name, world.ticket.request_uid.encode())
    assert world.role.sweep(DEADLINE_MS + 1000) == [], "once, until it is clear that it was lost"
    outputs = world.read(world.log.take(deadline))
    assert verdicts(outputs) == {0: "greylisted", 1: "rate_limited", 3: "timeout"}
    assert kinds(outputs)[-2:] == ["summary", "settlement"]
    results = [value for value in values(outputs, RESULTS.name) if value["kind"] == "result"]
    assert {r["next_attempt_at"] for r in results} == {None}
    assert {r["verdict"] for r in results} == {"unknown"}
    assert world.role.sweep(DEADLINE_MS + HOUR_MS) == []


def test_a_verdict_that_stands_before_the_deadline_in_the_log_wins() -> None:
    world = World(2)
    world.admit()
    [deadline] = world.role.sweep(DEADLINE_MS)
    assert verdicts(world.attempt(entry(ACCEPTED, 0))) == {0: "mailbox_accepted"}
    assert verdicts(world.read(world.log.take(deadline))) == {1: "timeout"}


def test_a_deadline_that_was_lost_comes_again() -> None:
    world = World(1)
    world.admit()
    assert len(world.role.sweep(DEADLINE_MS)) == 1
    assert len(world.role.sweep(DEADLINE_MS + 60_000)) == 1
    world.restart()
    assert len(world.role.sweep(DEADLINE_MS + 60_001)) == 1


def test_what_was_swept_is_not_remembered_where_its_row_has_moved_to_another_worker() -> None:
    world = World(1)
    world.admit()
    assert world.role.sweep(DEADLINE_MS)
    world.requests.clear()
    assert world.role.sweep(DEADLINE_MS + 59_999) == []
    assert len(world.role._swept_ms) == 1
    assert world.role.sweep(DEADLINE_MS + 60_000) == []
    assert len(world.role._swept_ms) == 0


def test_a_sweep_is_bounded_and_gets_through() -> None:
    world = World(1)
    for number in range(5):
        world.ticket = ticket(900, request_id=f"r{number}")
        value = admitted([f"a{n}@x.example" for n in range(900)], request_id=f"r{number}")
        run(world.role.admitted(value))
    swept = [len({output.key for output in world.role.sweep(DEADLINE_MS + step)}) for step in range(4)]
    assert swept == [3, 2, 0, 0]


def test_after_the_end_only_what_decided_is_kept() -> None:
    world = World(300)
    world.admit()
    world.attempt(*(entry(GREY, index, final=False) for index in range(200)))
    assert len(world.progress) == 2
    world.attempt(*(entry(ACCEPTED, index) for index in range(300)))
    assert world.requests == {}
    assert len(world.progress) == 1


def test_a_large_request_does_not_rewrite_a_large_row() -> None:
    world = World(1000)
    world.admit()
    for index in range(1000):
        world.attempt(entry(ACCEPTED, index))
    assert max(len(row) for row in world.progress.values()) < 32_000
    world = World(1000)
    for first in range(0, 1000, 200):
        world.attempt(*(entry(GREY, index, final=False) for index in range(first, first + 200)))
    assert max(len(row) for row in world.progress.values()) < 10_000, "what is known is packed, a row a record"


def test_rows_end_when_no_record_can_ask_for_them() -> None:
    world = World(2)
    world.admit()
    world.attempt(entry(GREY, 0, final=False))
    over = DEADLINE_MS + 4 * 24 * HOUR_MS
    assert world.role.expire(over) == 0
    assert world.role.expire(over + 1) == 3
    assert (world.requests, world.progress) == ({}, {})


def test_known_rows_that_are_gone_are_done_without() -> None:
    world = World(1)
    world.admit()
    world.attempt(entry(GREY, 0, final=False))
    for row in [row for row in world.progress if row.count(b":") == 2]:
        del world.progress[row]
    [deadline] = world.role.sweep(DEADLINE_MS)
    assert orjson.loads(deadline.value)["entries"][0]["finding"]["reason"] == "timeout"


def test_verdicts_are_counted_once() -> None:
    world = World(2)
    record = world.record(entry(ACCEPTED, 0, 1))
    world.read(record)
    world.read(record)
    assert world.metrics.verdicts.labels("deliverable", "mailbox_accepted")._value.get() == 2
    assert world.metrics.request_seconds.labels("bulk")._sum.get() == 5


def test_completion_reads_requests_and_attempts_and_refuses_anything_else() -> None:
    world = World()
    read = [s.topic.name for s in world.role.subscriptions()]
    assert read == [ADMITTED_INTERACTIVE.name, ADMITTED_BULK.name, ATTEMPTS.name, CANCELS.name]
    with pytest.raises(Unusable, match="invalid"):
        world.read(world.log.append(b"{}"))
    with pytest.raises(Unusable, match="not_json"):
        run(world.role.admitted(world.log.append(b"x")))


@pytest.mark.parametrize(("own", "topic"), [(True, "mailvet.results.acme.v1"), (False, RESULTS.name)])
def test_answers_go_where_the_gate_has_said(own: bool, topic: str) -> None:
    world = World(1, own_topic=own)
    world.admit()
    outputs = world.attempt(entry(ACCEPTED, 0))
    assert [output.topic for output in outputs] == [topic, topic, SETTLEMENTS.name]
