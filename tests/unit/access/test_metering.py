"""Usage is counted once, whatever is read again, and told as bounds of a histogram."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.usage import LATENCY_BOUNDS_S
from schemas.vocabulary import Reason, Verdict
from streams.access import metering
from streams.access.metering import Metered

ROW = metering.fresh("acme", "k1", "2026-03-10")


def settle(row: Metered, record: str, took_s: float = 0.2) -> Metered:
    return metering.settled(row, record, verdicts={Verdict.UNKNOWN: 1}, given_back=1, took_s=took_s)


def test_decisions_by_their_outcome() -> None:
    row = metering.decided(ROW, "bulk-3-7", None, 100)
    row = metering.decided(row, "interactive-3-7", Reason.RATE_EXCEEDED, 5)
    row = metering.decided(row, "interactive-3-8", Reason.RATE_EXCEEDED, 5)
    usage = row.usage
    assert (usage.requests, usage.addresses, usage.revision) == (1, 100, 3)
    assert usage.refused == {"rate_exceeded": 2}
    assert row.marks == {"bulk-3": 7, "interactive-3": 8}


def test_settlements_by_verdict_and_time() -> None:
    row = settle(settle(ROW, "settlements-0-1"), "settlements-0-2", took_s=1e6)
    usage = row.usage
    assert (usage.settled, usage.verdicts, usage.given_back, usage.seconds) == (2, {"unknown": 2}, 2, 1000000.2)
    assert sum(usage.latency) == 2
    assert usage.latency[1] == usage.latency[-1] == 1
    assert [metering.within_s(usage, part) for part in (0.5, 0.95)] == [0.25, float("inf")]
    assert metering.within_s(ROW.usage, 0.5) is None


@pytest.mark.parametrize(("took_s", "bound"), [(0.0, 0.1), (0.1, 0.1), (0.10001, 0.25), (10800.0, 10800.0)])
def test_a_bound_holds_what_took_just_as_long(took_s: float, bound: float) -> None:
    assert metering.within_s(settle(ROW, "settlements-0-1", took_s).usage, 0.5) == bound
    assert len(LATENCY_BOUNDS_S) + 1 == len(ROW.usage.latency)


@given(st.lists(st.tuples(st.sampled_from(["bulk-1", "interactive-1"]), st.integers(1, 5)), max_size=40))
def test_however_often_a_partition_is_read_again_from_the_middle_each_record_counts_once(
    restarts: list[tuple[str, int]],
) -> None:
    """Sources are read in order; a crash goes back by some records, never before what was never read."""
    row, read = ROW, {"bulk-1": 0, "interactive-1": 0}
    for source, back in restarts:
        for offset in range(max(0, read[source] - back), read[source] + 2):
            record = f"{source}-{offset}"
            if not row.has(record):
                row = metering.decided(row, record, None, 1)
        read[source] += 2
    assert row.usage.requests == row.usage.addresses == sum(read.values())
