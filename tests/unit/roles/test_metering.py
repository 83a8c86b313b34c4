"""What the gate counts, and watches: once, wherever a crash cuts its rows off, and on its topic in the end."""

from datetime import timedelta
from typing import Any

import orjson
import pytest

from schemas.keys import Allow, Reinstate
from schemas.pipeline import Seen, Settlement
from schemas.request import request_uid
from schemas.topics import KEY_COMMANDS, KEY_EVENTS, RESULTS, USAGE
from schemas.usage import Usage
from schemas.vocabulary import Verdict
from streams.access import abuse
from streams.codec import encode
from streams.metrics import OTHER, Metrics
from streams.records import Incoming, Outgoing
from streams.roles import metering as role
from tests.unit.roles.support import NOW, NOW_MS, Log, metrics, request_bytes, run, values
from tests.unit.roles.test_gate import DAY_MS, World

GUESSES = {"victim.example": [f"name{number}" for number in range(300)]}


class Recorder(dict[bytes, bytes]):
    """A table that knows how it was after each change."""

    def __init__(self, rows: Any = ()) -> None:
        super().__init__(rows)
        self.states = [dict(self)]

    def __setitem__(self, key: bytes, row: bytes) -> None:
        super().__setitem__(key, row)
        self.states.append(dict(self))


class Metered(World):
    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.commands = Log(KEY_COMMANDS.name)

    def with_ledger(self, rows: Any) -> "Recorder":
        """A gate that starts again with these rows."""
        self.ledger = Recorder(rows)
        self.restart()
        return self.ledger

    def settlement(self, request_id: str = "r1", charged: int = 1, **fields: Any) -> Incoming:
        record = Settlement(
            request_uid=request_uid("acme", request_id),
            tenant="acme",
            key_id="k1",
            charged=charged,
            charged_day="2026-03-10",
            given_back=fields.pop("given_back", 0),
            finished_at=fields.pop("finished_at", NOW),
            **fields,
        )
        return self.settlements.append(encode(record), b"acme")

    def harvest(self, request_id: str, domains: dict[str, list[str]]) -> Incoming:
        """A request has ended that asked for many names nobody has."""
        run_all = [f"{name}@{domain}" for domain, names in domains.items() for name in names]
        self.ask(request_id, addresses=run_all)
        seen = {domain: abuse.seen_in(domain, unknown=names, found=()) for domain, names in domains.items()}
        return self.settlement(request_id, len(run_all), seen=seen)

    def ask(self, request_id: str, **fields: Any) -> list[Outgoing]:
        outputs: list[Outgoing] = list(run(self.gate.admit(self.send(request_bytes(request_id, **fields)))))
        return outputs

    def usage(self, day: str = "2026-03-10") -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.ledger[f"acme:usage:k1:{day}".encode()])["usage"]
        return found

    def command(self, verb: Any, **fields: Any) -> None:
        number = len(self.commands.records)
        given = verb(command_id=f"{number:032x}", tenant="acme", issued_at=NOW, actor="ops", **fields)
        self.obey(Outgoing(KEY_COMMANDS.name, b"acme", encode(given)))

    def obey(self, outgoing: Outgoing) -> dict[str, Any]:
        [event] = values(run(self.keyring.command(self.commands.take(outgoing))), KEY_EVENTS.name)
        return event


# -- usage --------------------------------------------------------------------------------------------------------


def test_a_day_of_a_key() -> None:
    world = Metered(dev_daily_quota=5)
    world.ask("r1", addresses=["a@example.com", "b@example.com"])
    world.ask("r1", addresses=["a@example.com", "b@example.com"])
    world.ask("r1", addresses=["other@example.com"])
    world.ask("r2", addresses=["a@example.com"] * 9)
    ended = {Verdict.UNKNOWN: 1, Verdict.DELIVERABLE: 1}
    later = NOW + timedelta(seconds=3)
    for _ in range(2):
        settled = world.settlement("r1", 2, given_back=1, verdicts=ended, finished_at=later)
        run(world.gate.settle(settled))
    usage = Usage.model_validate(world.usage())
    assert (usage.requests, usage.addresses, usage.settled, usage.given_back) == (1, 2, 1, 1)
    assert usage.refused == {"request_id_conflict": 1, "quota_exceeded": 1}
    assert (usage.verdicts, usage.seconds) == (ended, 3.0)


def test_a_request_belongs_to_the_day_on_which_it_was_decided() -> None:
    world = Metered()
    world.ask("r1")
    run(world.gate.settle(world.settlement("r1", finished_at=NOW + timedelta(days=1))))
    assert world.usage()["settled"] == 1
    world.clock.now_ms += DAY_MS
    world.ask("r2")
    assert (world.usage()["requests"], world.usage("2026-03-11")["requests"]) == (1, 1)


def test_wherever_a_crash_cuts_the_rows_off_everything_is_counted_once() -> None:
    world = Metered(dev_daily_quota=2)
    settlement = world.harvest("r0", {"example.com": ["gone"]})
    refused = world.send(request_bytes("r1", ["a@example.com"] * 3))
    admission = world.send(request_bytes("r2"))
    conflict = world.send(request_bytes("r2", ["b@example.com"]))
    steps = [
        lambda: world.gate.admit(refused),
        lambda: world.gate.admit(admission),
        lambda: world.gate.admit(conflict),
        lambda: world.gate.settle(settlement),
    ]
    for done in range(len(steps)):
        world.with_ledger(world.ledger)
        before = dict(world.ledger)
        run(steps[done]())
        after = dict(world.ledger)
        assert after != before
        for state in world.ledger.states:
            world.with_ledger(state)
            run(steps[done]())
            assert world.ledger == after
        world.with_ledger(after)


def test_the_topic_gets_each_row_that_changed_now_and_then() -> None:
    world = Metered()
    world.ask("r1")
    world.ask("r2")
    [record] = world.gate.report(NOW_MS)
    assert (record.topic, record.key) == (USAGE.name, b"acme:k1:2026-03-10")
    assert orjson.loads(record.value) == world.usage()
    world.ask("r3")
    assert list(world.gate.report(NOW_MS + role.EVERY_MS - 1)) == []
    [record] = world.gate.report(NOW_MS + role.EVERY_MS)
    assert orjson.loads(record.value)["requests"] == 3
    assert list(world.gate.report(NOW_MS + 3 * role.EVERY_MS)) == []


def test_whoever_takes_over_writes_the_rows_that_the_other_may_not_have_written() -> None:
    world = Metered()
    world.ask("r1")
    list(world.gate.report(NOW_MS))
    world.restart()
    assert [record.key for record in world.gate.report(NOW_MS)] == [b"acme:k1:2026-03-10"]


def test_a_report_is_bounded_and_passes_over_rows_that_are_anothers_by_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role, "MOST", 1)
    world = Metered()
    world.ask("r1")
    world.clock.now_ms += DAY_MS
    world.ask("r2")
    assert [len(list(world.gate.report(NOW_MS + turn * role.EVERY_MS))) for turn in range(3)] == [1, 1, 0]
    world.ask("r3")
    world.ledger.clear()
    assert list(world.gate.report(NOW_MS + 4 * role.EVERY_MS)) == []
    assert not world.gate._metering.is_over(b"acme:usage:k1:2026-03-10", NOW_MS + 90 * DAY_MS)


def test_a_row_that_changed_does_not_wait_behind_those_that_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Metered()
    for day in range(3):
        world.ask(f"r{day}")
        world.clock.now_ms += DAY_MS
    assert len(list(world.gate.report(NOW_MS))) == 3
    monkeypatch.setattr(role, "MOST", 1)
    list(world.gate.report(NOW_MS + 1))
    world.ask("r4")
    [record] = world.gate.report(NOW_MS + role.EVERY_MS)
    assert record.key == b"acme:k1:2026-03-13"


def test_no_more_tenants_than_were_asked_for_have_a_label() -> None:
    few = Metrics(metrics().registry.__class__(), tenants=2)
    assert [few.tenant(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]
    world = Metered()
    world.ask("r1")
    run(world.gate.settle(world.settlement("r1", verdicts={Verdict.RISKY: 2})))
    sample = world.metrics.registry.get_sample_value
    assert sample("mailvet_tenant_requests_total", {"tenant": "acme", "outcome": "admitted"}) == 1
    assert sample("mailvet_tenant_addresses_total", {"tenant": "acme", "verdict": "risky"}) == 2


# -- abuse --------------------------------------------------------------------------------------------------------


def test_a_tenant_that_guesses_names_is_suspended_and_the_audit_trail_says_why() -> None:
    world = Metered()
    record = world.harvest("r1", GUESSES)
    [command] = run(world.gate.settle(record))
    event = world.obey(command)
    assert (event["verb"], event["actor"], event["outcome"]) == ("suspend", "mailvet gate", "applied")
    assert "mailboxes of victim.example were asked for that do not exist" in event["why"]
    [rejection] = values(world.ask("r2"), RESULTS.name)
    assert rejection["reason"] == "suspended"


def test_the_same_record_read_again_gives_the_same_command_and_others_none() -> None:
    world = Metered()
    record = world.harvest("r1", GUESSES)
    [command] = run(world.gate.settle(record))
    world.restart()
    world.clock.now_ms += 60_000
    [again] = run(world.gate.settle(record))
    ids = {orjson.loads(each.value)["command_id"] for each in (command, again)}
    assert len(ids) == 1
    assert run(world.gate.settle(world.settlement("r1", 300))) == (), "a twin of it"


def test_wherever_a_crash_cuts_the_rows_off_the_suspension_comes() -> None:
    world = Metered()
    record = world.harvest("r1", GUESSES)
    world.with_ledger(world.ledger)
    [command] = run(world.gate.settle(record))
    after = dict(world.ledger)
    for state in world.ledger.states:
        world.with_ledger(state)
        assert run(world.gate.settle(record)) == (command,)
        assert world.ledger == after


def test_after_a_reinstatement_twice_as_much_has_to_come() -> None:
    world = Metered()
    [command] = run(world.gate.settle(world.harvest("r1", GUESSES)))
    world.obey(command)
    world.command(Reinstate)
    assert run(world.gate.settle(world.harvest("r2", GUESSES))) == ()
    more = {"victim.example": [f"more{number}" for number in range(900)]}
    [command] = run(world.gate.settle(world.harvest("r3", more)))
    assert world.obey(command)["outcome"] == "applied"


@pytest.mark.parametrize("domain", ["victim.example", "*"])
def test_what_the_operator_allows_is_no_abuse(domain: str) -> None:
    world = Metered()
    world.command(Allow, domain=domain)
    assert run(world.gate.settle(world.harvest("r1", GUESSES))) == ()
    assert not any(b":watch:" in row for row in world.ledger)


@pytest.mark.parametrize("changes", [{"abuse_unknown": 0}, {"abuse_action": "report"}])
def test_watching_can_be_switched_off_or_only_tell(changes: dict[str, Any]) -> None:
    world = Metered(**changes)
    assert run(world.gate.settle(world.harvest("r1", GUESSES))) == ()
    told = world.metrics.registry.get_sample_value(
        "mailvet_abuse_alarms_total", {"kind": "dictionary", "action": "report"}
    )
    assert told == (1.0 if "abuse_action" in changes else None)


def test_a_domain_is_watched_from_its_first_unknown_mailboxes_on() -> None:
    world = Metered()
    found = {"seen": {"a.example": abuse.seen_in("a.example", unknown=(), found=["x"])}}
    gone = {"seen": {"a.example": abuse.seen_in("a.example", unknown=["y"], found=())}}
    for number, (fields, charged) in enumerate([(found, 1), (gone, 51), (gone, 50), (found, 1)]):
        world.ask(f"r{number}", addresses=["a@a.example"] * charged)
        run(world.gate.settle(world.settlement(f"r{number}", charged, **fields)))
        row = world.ledger.get(b"acme:watch:a.example")
        assert (row is not None) is (number >= 2)
    seen = Seen.model_validate(orjson.loads(row or b"")["seen"])
    assert (len(seen.unknown), len(seen.found)) == (1, 1)


def test_rows_of_the_watch_end_with_their_window_and_what_can_be_read_again() -> None:
    world = Metered()
    run(world.gate.settle(world.harvest("r1", GUESSES)))
    names = [name for name in world.ledger if b":watch:" in name]
    assert len(names) == 2
    assert not any(world.gate._is_over(name, NOW_MS + 11 * DAY_MS) for name in names)
    assert all(world.gate._is_over(name, NOW_MS + 11 * DAY_MS + 1) for name in names)
