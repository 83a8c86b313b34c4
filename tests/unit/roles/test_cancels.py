"""A cancelled request: told by the gate, answered by completion, left by whoever would work on it."""

from datetime import timedelta
from typing import Any

import orjson
import pytest

from schemas.keys import Revoke
from schemas.pipeline import CancelOrder
from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    ATTEMPTS,
    CANCELS,
    RESULTS,
    SETTLEMENTS,
    TASKS_BULK,
)
from schemas.vocabulary import RETRYABLE, VERDICTS, Lane, Reason, Verdict
from streams.codec import encode
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.cancels import Cancelled
from streams.roles.route import Route
from tests.unit.roles import test_completion, test_gate, test_probe
from tests.unit.roles.support import (
    NOW,
    NOW_MS,
    Clock,
    FakeResolver,
    Log,
    admitted,
    metrics,
    run,
    settings,
    ticket,
    values,
)
from tests.unit.roles.test_completion import ACCEPTED, GREY, entry, kinds, verdicts
from tests.unit.roles.test_gate_keys import OTHER, PRIVATE, Keys
from tests.unit.roles.test_probe import PRECHECK

CANCEL = orjson.dumps({"request_id": "r1", "cancel": True})
UID = ticket(1).request_uid


def told(outputs: list[Outgoing]) -> tuple[str, str | None]:
    [said] = [value for value in values(outputs, RESULTS.name) if value["kind"] == "cancellation"]
    return said["outcome"], said["reason"]


# -- the gate ---------------------------------------------------------------------------------------------------------


class Gate(test_gate.World):
    """A gate whose cancels follow from lane to lane."""

    def cancel(self, value: bytes = CANCEL) -> list[Outgoing]:
        outputs = self.admit(self.send(value))
        while outputs and outputs[0].topic == ADMISSIONS_BULK.name:
            outputs = self.admit(self.admissions[ADMISSIONS_BULK.name].take(outputs[0]))
        return outputs


@pytest.mark.parametrize("lane", Lane)
def test_a_request_that_runs_is_cancelled_whatever_its_lane(lane: Lane) -> None:
    gate = Gate()
    gate.ask("r1", ["a@example.com"], lane=lane)
    outputs = gate.cancel()
    assert [output.topic for output in outputs] == [RESULTS.name, CANCELS.name]
    assert told(outputs) == ("accepted", None)
    order = CancelOrder.model_validate_json(outputs[1].value)
    assert (outputs[1].key, order.request_uid, order.by) == (UID.encode(), UID, "k1")
    assert order.verdict_by == NOW + timedelta(hours=3)
    assert gate.metrics.cancels.labels("accepted")._value.get() == 1


def test_a_cancel_that_is_read_again_says_the_same_until_the_request_is_over() -> None:
    gate = Gate()
    gate.ask("r1")
    record = gate.send(CANCEL)
    first = gate.admit(record)
    gate.restart()
    assert gate.admit(record) == first
    assert [output.topic for output in gate.cancel()] == [RESULTS.name, CANCELS.name]
    gate.settle("r1", given_back=1)
    assert told(gate.admit(record)) == ("finished", None)


def test_it_changes_nothing_in_the_ledger() -> None:
    gate = Gate()
    gate.ask("r1")
    before = dict(gate.ledger)
    gate.cancel()
    assert gate.ledger == before


def test_a_decision_that_a_crash_cut_off_is_found() -> None:
    gate = Gate()
    gate.ask("r1")
    del gate.ledger[f"acme:decision:{UID}".encode()]
    assert told(gate.cancel()) == ("accepted", None)


def test_what_is_over_or_never_ran_is_told_and_ordered_of_nobody() -> None:
    gate = Gate()
    assert told(gate.cancel()) == ("unknown_request", None)
    gate.ask("r1")
    gate.settle("r1")
    assert told(gate.cancel()) == ("finished", None)
    gate = Gate(dev_daily_quota=1)
    gate.ask("r1", ["a@example.com", "b@example.com"])
    outputs = gate.cancel()
    assert told(outputs) == ("not_admitted", "quota_exceeded")
    assert [output.topic for output in outputs] == [RESULTS.name]


def test_a_cancel_of_an_unknown_request_stands_behind_it_in_the_other_lane() -> None:
    gate = Gate()
    cancel = gate.send(CANCEL)
    [moved] = gate.admit(cancel)
    assert (cancel.topic, moved.topic) == (ADMISSIONS_INTERACTIVE.name, ADMISSIONS_BULK.name)
    assert (moved.key, moved.value, dict(moved.headers)) == (cancel.key, cancel.value, dict(cancel.headers))


def of_key(gate: Keys, private: Any = PRIVATE) -> Incoming:
    return gate.write(CANCEL, gate.sign(CANCEL, "r1", private))


def test_only_the_key_that_made_a_request_cancels_it_while_it_is_served() -> None:
    gate = Keys()
    gate.signed("r1")
    assert told(gate.admit(gate.write(CANCEL, {"mailvet-key": gate.TOKEN.encode()}))) == ("refused", "scope_denied")
    with pytest.raises(Unusable, match="not_authenticated"):
        gate.admit(of_key(gate, OTHER))
    with pytest.raises(Unusable, match="not_authenticated"):
        gate.admit(gate.write(CANCEL, gate.sign(CANCEL, "r2")))
    waiting = of_key(gate)
    gate.command(Revoke)
    assert told(gate.admit(waiting)) == ("refused", "key_revoked")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"request_id":"r1","cancel":false}', "invalid: cancel: literal_error"),
        (b'{"request_id":"r1","cancel":true,"addresses":["a@x.example"]}', "invalid"),
        (b'{"request_id":"r1"}', "invalid"),
        (b'{"request_id":"r1","cancel":true,"schema_version":2}', "unknown_version"),
        (b'{"request_id":"","cancel":true}', "invalid"),
    ],
)
def test_what_is_no_cancel_and_no_request_is_a_dead_letter(value: bytes, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        Gate().send(value)


# -- completion -------------------------------------------------------------------------------------------------------


class Completion(test_completion.World):
    """Completion that reads orders too."""

    orders: Log

    def restart(self) -> None:
        super().restart()
        self.orders = Log(CANCELS.name)

    def order(self) -> Incoming:
        order = CancelOrder(request_uid=self.ticket.request_uid, verdict_by=self.ticket.verdict_by, by="k1")
        return self.orders.append(encode(order), at_ms=NOW_MS + 1000)

    def cancel(self, record: Incoming | None = None) -> list[Outgoing]:
        return list(run(self.role.cancel(record or self.order())))


def test_what_is_not_decided_is_answered_and_given_back() -> None:
    world = Completion(3)
    world.admit()
    world.attempt(entry(ACCEPTED, 0), entry(GREY, 1, final=False, next_attempt_at=NOW + timedelta(hours=1)))
    [attempt] = world.cancel()
    assert (attempt.topic, attempt.key) == (ATTEMPTS.name, UID.encode())
    assert orjson.loads(attempt.value)["origin"] == "cancel"
    outputs = world.read(world.log.take(attempt))
    assert verdicts(outputs) == {1: "cancelled", 2: "cancelled"}
    assert kinds(outputs) == ["result", "result", "summary", "settlement"]
    greyed, silent, summary = values(outputs, RESULTS.name)
    assert (greyed["verdict"], greyed["reasons"], greyed["next_attempt_at"]) == (
        "unknown",
        ["cancelled", "greylisted"],
        None,
    )
    assert (silent["reasons"], silent["retryable"], silent["checked_at"]) == (
        ["cancelled"],
        False,
        "2026-03-10T12:00:01Z",
    )
    assert summary["reasons"] == {"mailbox_accepted": 1, "cancelled": 2}
    assert [value["given_back"] for value in values(outputs, SETTLEMENTS.name)] == [2]
    assert world.cancel() == [], "it is over"


def test_an_order_before_its_request_ends_it_when_it_comes() -> None:
    world = Completion(2)
    assert world.cancel() == []
    outputs = list(run(world.role.admitted(world_record(world))))
    assert verdicts(world.read(world.log.take(outputs[0]))) == {0: "cancelled", 1: "cancelled"}
    assert list(run(world.role.admitted(world_record(world)))) == []


def world_record(world: Completion) -> Incoming:
    return admitted([f"a{index}@x.example" for index in range(world.ticket.total)])


def test_read_again_it_says_the_same_and_the_twin_publishes_nothing() -> None:
    world = Completion(2)
    world.admit()
    record = world.order()
    first = world.cancel(record)
    world.restart()
    assert world.cancel(record) == first
    [one, two] = [world.log.take(first[0]), world.log.take(first[0])]
    said = world.read(one)
    assert world.read(two) == []
    assert world.read(one) == said


def test_a_verdict_that_stands_before_it_in_the_log_wins() -> None:
    world = Completion(2)
    world.admit()
    [attempt] = world.cancel()
    assert verdicts(world.attempt(entry(ACCEPTED, 0))) == {0: "mailbox_accepted"}
    assert verdicts(world.read(world.log.take(attempt))) == {1: "cancelled"}
    assert world.attempt(entry(ACCEPTED, 1)) == []


def test_a_large_request_is_ended_in_pieces() -> None:
    world = Completion(450)
    world.admit()
    outputs = [output for piece in world.cancel() for output in world.read(world.log.take(piece))]
    assert len(verdicts(outputs)) == 450
    assert kinds(outputs)[-2:] == ["summary", "settlement"]


# -- whoever would work on it -----------------------------------------------------------------------------------------


def order_bytes(uid: str, **changes: Any) -> bytes:
    return encode(CancelOrder(**{"request_uid": uid, "verdict_by": NOW + timedelta(hours=1), "by": "k1", **changes}))


def test_route_looks_up_nothing_for_it() -> None:
    resolver = FakeResolver()
    cancelled = Cancelled(Clock())
    cancelled.read(order_bytes(UID))
    role = Route(
        settings(),
        metrics(),
        precheck=PRECHECK,
        resolver=resolver,
        clock=Clock(),
        opted_out=lambda _: False,
        cancelled=cancelled,
    )
    assert run(role.handle(admitted(["a@x.example"]))) == ()
    [task] = run(role.handle(admitted(["a@x.example"], request_id="r2")))
    assert (task.topic, resolver.asked) == (TASKS_BULK.name, ["x.example"])


def test_orders_are_remembered_while_they_matter_and_within_a_bound() -> None:
    clock = Clock()
    cancelled = Cancelled(clock, limit=2)
    for uid in ("a" * 64, "b" * 64, "c" * 64):
        cancelled.read(order_bytes(uid))
    assert [uid * 64 in cancelled for uid in "abc"] == [False, True, True]
    cancelled.read(order_bytes("d" * 64, verdict_by=NOW))
    cancelled.read(None)
    cancelled.read(b"{}")
    assert ["d" * 64 in cancelled, "b" * 64 in cancelled] == [False, True]


def test_probe_asks_nobody_for_it_not_even_for_what_waits_its_turn() -> None:
    world, cancelled = test_probe.World(), Cancelled(Clock())
    world.role._cancelled = cancelled
    assert world.handle(test_probe.task(["a@x.example"]))
    cancelled.read(order_bytes(UID))
    assert world.handle(test_probe.task(["a@x.example"])) == []
    assert world.handle(test_probe.task(["a@x.example"], request_id="r2"))
    assert [names for _, names, _ in world.prober.asked] == [("a@x.example",)] * 2


def test_the_reason_is_an_unknown_that_is_not_asked_again() -> None:
    assert VERDICTS[Reason.CANCELLED] is Verdict.UNKNOWN
    assert Reason.CANCELLED not in RETRYABLE
