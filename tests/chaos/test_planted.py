"""The suite finds defects on the real cluster too: each run takes one protection away (`make chaos-defects`).

The rules themselves are tested on recorded histories in tests/unit/chaos.
"""

import os

import pytest

from ops.brokers.base import cache_dir
from schemas.topics import ADMISSIONS_BULK, ADMISSIONS_INTERACTIVE, ATTEMPTS, TASKS_BULK, TASKS_INTERACTIVE
from streams.installed import ROLES
from tests.chaos.planted import DEFECTS
from tests.chaos.run import ANSWERED_S, Outcome, run
from tests.chaos.schedule import Fault, Kind
from tests.chaos.test_seeds import empty

ADDRESSES = 600

CRASHES = tuple(Fault(4.0 + 2.5 * place, Kind.KILL, f"{role}-1", 0.5) for place, role in enumerate(ROLES))
STOPS = tuple(Fault(at_s, Kind.TERMINATE, "probe-1", 0.5) for at_s in (3.5, 26.0, 40.0))
"""While servers that never answer have tasks in hand, which a short drain cancels; far enough from kills for a slow
machine to have started it again."""

REPEATS = tuple(
    Fault(float(place), Kind.REPEAT, topic.name)
    for place, topic in enumerate(
        (ADMISSIONS_BULK, ADMISSIONS_INTERACTIVE, ATTEMPTS, ATTEMPTS, TASKS_BULK, TASKS_INTERACTIVE)
    )
)
"""Of admissions for a second charge; of attempts and tasks for a second verdict, in the same words or in others. They
come when all is answered, so that they have something to change."""

PATIENT = {"DRAIN_S": "1", "COMMAND_TIMEOUT_S": "10", "CONNECT_TIMEOUT_S": "6", "DNS_TIMEOUT_S": "6"}
"""Servers that never answer keep their tasks in hand for long beside others; and a machine with much to do answers
late, not wrongly."""

FOUND_BY = {
    "early_ack": "past",
    "unordered_acks": "past",
    "cancelled_counts_as_done": "past",
    "dropped_retry": "past",
    "double_charge": "charges",
    "skipped_dead_letter": "unburied",
    "changed_on_replay": "changed",
}
"""The rule that finds each defect, whatever others do."""


async def _run(name: str, *, entry: tuple[str, ...] = (), answered_s: float = ANSWERED_S) -> Outcome:
    if "MAILVET_CHAOS_DEFECTS" not in os.environ:
        pytest.skip("long: `make chaos-defects` runs it")
    outcome = await run(
        1,
        addresses=ADDRESSES,
        logs=empty(cache_dir() / "chaos" / name),
        faults=CRASHES + STOPS,
        afterwards=REPEATS,
        entry=entry,
        copies=1,
        answered_s=answered_s,
        malformed_every=1,
        **PATIENT,
    )
    print(outcome)
    return outcome


@pytest.mark.timeout(300)
@pytest.mark.parametrize("defect", FOUND_BY)
async def test_what_our_protection_keeps_out_is_found_without_it(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_DEFECT", defect)
    outcome = await _run(defect, entry=("-m", "tests.chaos.planted"), answered_s=30.0)
    assert FOUND_BY[defect] in outcome.report.faults


@pytest.mark.timeout(300)
async def test_with_our_protection_the_same_run_is_good() -> None:
    outcome = await _run("protected")
    assert outcome.good, f"{outcome.report.faults} {outcome.stuck}"


def test_every_defect_has_a_rule() -> None:
    assert FOUND_BY.keys() == DEFECTS.keys()
