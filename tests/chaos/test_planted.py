"""The suite finds defects on the real cluster too: each run takes one protection away (`make chaos-defects`).

The rules themselves are tested on recorded histories in tests/unit/chaos.
"""

import os

import pytest

from ops.brokers.base import cache_dir
from schemas.topics import ADMISSIONS_BULK, ADMISSIONS_INTERACTIVE, ATTEMPTS
from streams.app import ROLES
from tests.chaos.planted import DEFECTS
from tests.chaos.run import run
from tests.chaos.schedule import Fault, Kind
from tests.chaos.test_seeds import empty

ADDRESSES = 600

CRASHES = tuple(Fault(4.0 + 2.5 * place, Kind.KILL, f"{role}-1", 0.5) for place, role in enumerate(ROLES))
REPEATS = tuple(
    Fault(19.0 + place, Kind.REPEAT, topic.name)
    for place, topic in enumerate((ADMISSIONS_BULK, ADMISSIONS_INTERACTIVE, ATTEMPTS, ATTEMPTS))
)
FAULTS = (*CRASHES, *REPEATS)

PATIENT = {"COMMAND_TIMEOUT_S": "10", "CONNECT_TIMEOUT_S": "6"}
"""Servers that never answer keep their tasks in hand for long beside others."""

REBALANCED = frozenset({"cancelled_counts_as_done"})
"""Shows only in a worker that others come to and leave."""

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


@pytest.mark.timeout(300)
@pytest.mark.parametrize("defect", FOUND_BY)
async def test_what_our_protection_keeps_out_is_found_without_it(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "MAILVET_CHAOS_DEFECTS" not in os.environ:
        pytest.skip("long: `make chaos-defects` runs it")
    monkeypatch.setenv("CHAOS_DEFECT", defect)
    outcome = await run(
        1,
        addresses=ADDRESSES,
        logs=empty(cache_dir() / "chaos" / defect),
        faults=FAULTS,
        entry=("-m", "tests.chaos.planted"),
        copies=2 if defect in REBALANCED else 1,
        answered_s=30.0,
        **PATIENT,
    )
    print(outcome)
    assert FOUND_BY[defect] in outcome.report.faults


def test_every_defect_has_a_rule() -> None:
    assert FOUND_BY.keys() == DEFECTS.keys()
