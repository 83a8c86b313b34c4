"""Floods of requests that are refused: answered for a while, then dead letters that leave nothing behind."""

from collections.abc import Callable

import pytest

from schemas.keys import Reinstate, Revoke, Suspend
from schemas.topics import RESULTS
from streams.access import patience
from streams.access.rate import Rate
from streams.records import Incoming, Outgoing, Unusable
from tests.unit.roles.support import KEY, request_bytes
from tests.unit.roles.test_cancels import CANCEL, told
from tests.unit.roles.test_gate import World, is_admitted, reason_of
from tests.unit.roles.test_gate_keys import Keys


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "NOT_SERVED", Rate(1, 3))
    monkeypatch.setattr(patience, "SERVED", Rate(300, 3))


def tries(attempt: Callable[[int], list[Outgoing]], count: int = 8) -> tuple[int, int]:
    """How many of them were answered, and how many became dead letters."""
    answered = dead = 0
    for number in range(count):
        try:
            outputs = attempt(number)
        except Unusable as unusable:
            dead += unusable.reason == "refused"
        else:
            assert [output.topic for output in outputs] == [RESULTS.name]
            answered += 1
    return answered, dead


@pytest.mark.parametrize(("verb", "fields"), [(Revoke, {}), (Suspend, {"why": "harvesting"})])
def test_a_key_that_is_not_served_is_told_so_only_so_often(verb: type, fields: dict[str, str]) -> None:
    world = Keys()
    world.command(verb, **fields)
    assert tries(lambda number: world.signed(f"r{number}")) == (3, 5)
    assert len([row for row in world.ledger if b":decision:" in row]) == 3, "what is not answered leaves nothing"
    world.clock.now_ms += 2000
    assert tries(lambda number: world.signed(f"later-{number}")) == (2, 6)


def test_the_same_refused_request_again_and_again_is_a_flood_too() -> None:
    world = Keys()
    world.command(Revoke)
    assert tries(lambda _: world.signed("r1")) == (3, 5)


def test_a_leaked_key_takes_nothing_of_what_its_tenant_s_other_keys_may() -> None:
    world = Keys()
    world.command(Revoke)
    tries(lambda number: world.signed(f"r{number}"))
    assert is_admitted(world.with_token("r1"))


def test_a_key_that_is_served_is_refused_as_often_as_it_may_be() -> None:
    world = World(dev_daily_quota=1)
    assert is_admitted(world.ask("first"))
    assert tries(lambda number: world.ask(f"r{number}")) == (3, 5)
    world.clock.now_ms += 86_400_000
    assert is_admitted(world.ask("r7")), "the id of one that was not answered is free"
    assert reason_of(world.ask("r1")) == "quota_exceeded", "and what was decided stays"


def test_conflicts_and_cancels_of_nothing_count_too() -> None:
    world = World()
    world.ask("r1")
    assert tries(lambda number: world.ask("r1", [f"b{number}@example.com"])) == (3, 5)
    world = World()
    world.ask("r1")
    cancels = [told(world.admit(world.send(CANCEL)))[0] for _ in range(8)]
    assert set(cancels) == {"accepted"}, "what ends a request is no refusal"
    gate = Keys()
    gate.signed("r1")
    gate.command(Revoke)
    assert tries(lambda _: gate.admit(gate.write(CANCEL, gate.sign(CANCEL)))) == (3, 5)


def test_a_record_that_is_read_again_is_answered_as_it_was_however_many_there_were() -> None:
    world = World(dev_daily_quota=1)
    world.ask("first")
    records: list[Incoming] = [world.send(request_bytes(f"r{number}"), KEY) for number in range(3)]
    before = [world.admit(record) for record in records]
    for _ in range(3):
        assert [world.admit(record) for record in records] == before


def test_a_request_that_was_not_answered_is_served_once_its_key_is() -> None:
    world = Keys()
    world.command(Suspend, why="harvesting")
    tries(lambda number: world.signed(f"r{number}"))
    world.command(Reinstate)
    assert is_admitted(world.signed("r6"))
    assert is_admitted(world.signed("r0")), "the same body, as ever"
