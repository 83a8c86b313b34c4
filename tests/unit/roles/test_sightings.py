"""What completion tells of a domain's mailboxes: only where a server told one from another."""

from typing import Any

import pytest

from schemas.pipeline import AttemptEntry, Position, Seen
from schemas.result import Evidence, Finding, Flags
from schemas.topics import SETTLEMENTS
from schemas.vocabulary import VERDICTS, Reason, Stage
from streams.checks.sandbox import SANDBOX_DOMAIN
from streams.roles.completion import SEEN_KEPT_MS
from streams.roles.sightings import sighted
from tests.unit.roles.support import NOW, NOW_MS, settings, values
from tests.unit.roles.test_completion import World


def finding(address: str, reason: Reason, stage: Stage = Stage.RCPT, **fields: Any) -> Finding:
    return Finding(
        ascii_address=address,
        domain=address.rpartition("@")[2],
        verdict=VERDICTS[reason],
        reason=reason,
        reasons=(reason,),
        score=0,
        evidence=Evidence(stage=stage),
        checked_at=NOW,
        **fields,
    )


GONE = Reason.MAILBOX_NOT_FOUND


def sizes(seen: dict[str, Seen]) -> dict[str, tuple[int, int]]:
    return {domain: (len(each.unknown), len(each.found)) for domain, each in seen.items()}


def test_mailboxes_by_domain_each_once() -> None:
    first = sighted({}, [finding("a@x.example", GONE), finding("A@x.example", GONE), finding("b@y.example", GONE)])
    second = sighted(first, [finding("a@x.example", GONE), finding("c@x.example", Reason.MAILBOX_ACCEPTED)])
    assert sizes(first) == {"x.example": (1, 0), "y.example": (1, 0)}
    assert sizes(second) == {"x.example": (1, 1), "y.example": (1, 0)}


@pytest.mark.parametrize(
    "nothing",
    [
        finding("a@x.example", Reason.CATCH_ALL, flags=Flags(catch_all=True)),
        finding("a@x.example", Reason.ROLE_ACCOUNT, flags=Flags(catch_all=True)),
        finding("a@x.example", Reason.NOT_PROBED, Stage.DNS),
        finding("a@x.example", Reason.ROLE_ACCOUNT, Stage.DNS),
        finding("a@x.example", Reason.GREYLISTED),
        finding(f"a@{SANDBOX_DOMAIN}", GONE),
        finding("a@x.example", GONE).model_copy(update={"ascii_address": None}),
        finding("a@x.example", GONE).model_copy(update={"domain": None}),
    ],
)
def test_what_tells_nothing_of_a_mailbox_is_passed_over(nothing: Finding) -> None:
    assert sighted({}, [nothing]) == {}


def test_the_settlement_carries_them_also_when_it_is_written_again_and_then_no_row_keeps_them() -> None:
    world = World(2)
    world.admit()
    for index, reason in enumerate((GONE, Reason.MAILBOX_ACCEPTED)):
        positions = (Position(index=index, input="x"),)
        outputs = world.attempt(
            AttemptEntry(positions=positions, final=True, finding=finding(f"a{index}@x.example", reason))
        )
    [settlement] = values(outputs, SETTLEMENTS.name)
    assert {domain: (len(each["unknown"]), len(each["found"])) for domain, each in settlement["seen"].items()} == {
        "x.example": (1, 1)
    }
    assert settlement["verdicts"] == {"deliverable": 1, "undeliverable": 1}
    kept_ms = round(settings().delivery_timeout_s * 1000) + SEEN_KEPT_MS
    assert world.role.forget_seen(NOW_MS) == 0
    world.restart()  # Before the settlement was on the broker: its record is read again.
    assert values(world.read(world.log.records[-1]), SETTLEMENTS.name) == [settlement]
    assert [world.role.forget_seen(NOW_MS + each) for each in (0, kept_ms - 1, kept_ms)] == [0, 0, 1]
    assert not any(b'"x.example"' in row for row in world.progress.values())
    assert values(world.read(world.log.records[-1]), SETTLEMENTS.name) == [{**settlement, "seen": {}}]


def test_what_was_seen_is_left_to_whoever_has_the_row_by_then() -> None:
    world = World(1)
    world.attempt(
        AttemptEntry(positions=(Position(index=0, input="x"),), final=True, finding=finding("a@x.example", GONE))
    )
    world.role.forget_seen(NOW_MS)
    world.progress.clear()
    assert world.role.forget_seen(NOW_MS + 10**9) == 0
    assert not world.progress
