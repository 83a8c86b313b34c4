"""GCRA: a burst at once, then the rate; a refusal costs nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.access.rate import Rate, take

RATE = Rate(per_second=10, burst=3)


def drive(times_ms: list[int], rate: Rate = RATE) -> list[int | None]:
    tat, waits = 0.0, []
    for now in times_ms:
        decision = take(rate, tat, now)
        tat = decision.tat_ms
        waits.append(decision.retry_after_ms)
    return waits


def test_a_burst_passes_and_the_next_waits_an_interval() -> None:
    assert drive([1000, 1000, 1000, 1000]) == [None, None, None, 100]


def test_a_refused_request_costs_nothing() -> None:
    assert drive([1000, 1000, 1000, 1050, 1099, 1100]) == [None, None, None, 50, 1, None]


def test_a_pause_earns_no_more_than_the_burst() -> None:
    assert drive([1000, 900_000, 900_000, 900_000, 900_000]) == [None, None, None, None, 100]


@given(st.lists(st.integers(0, 400), min_size=1, max_size=200), st.integers(1, 50), st.integers(1, 20))
def test_never_more_than_burst_plus_rate_in_any_window(gaps: list[int], per_second: int, burst: int) -> None:
    now, admitted = 1_000_000, []
    tat = 0.0
    for gap in gaps:
        now += gap
        decision = take(Rate(per_second, burst), tat, now)
        tat = decision.tat_ms
        if decision.retry_after_ms is None:
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            window_s = (admitted[last] - admitted[first]) / 1000
            assert last - first + 1 <= burst + window_s * per_second + 1e-6


@pytest.mark.parametrize("wait", [0, 1])
def test_the_hint_is_exact(wait: int) -> None:
    tat = 0.0
    for _ in range(3):
        tat = take(RATE, tat, 1000).tat_ms
    hint = take(RATE, tat, 1000).retry_after_ms
    assert hint is not None
    assert (take(RATE, tat, 1000 + hint - wait).retry_after_ms is None) is (wait == 0)


def test_a_faster_rate_holds_at_once_whatever_a_slower_one_left_behind() -> None:
    tat = take(Rate(per_second=0.001, burst=5), 0.0, 1000).tat_ms
    tat = take(Rate(per_second=0.001, burst=5), tat, 1000).tat_ms
    refused = take(RATE, tat, 1000)
    assert refused.retry_after_ms == 100
    assert take(RATE, refused.tat_ms, 1100).retry_after_ms is None
