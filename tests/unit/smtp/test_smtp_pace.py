"""Rates that give way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.smtp.pace import CEILING_S, FLOOR, OBSERVED_S, STEP_S, Breadth, Pace, Throttle
from streams.smtp.policy import ProviderPolicy


def test_without_a_limit_nothing_waits():
    throttle = Throttle(0)
    assert [throttle.reserve(100, 0.0) for _ in range(5)] == [0.0] * 5


def test_a_large_write_is_paid_for_by_the_next():
    throttle = Throttle(10)
    assert throttle.reserve(30, 0.0) == 0.0
    assert throttle.reserve(10, 0.0) == pytest.approx(2.0)
    assert throttle.reserve(10, 1.0) == pytest.approx(2.0)
    assert throttle.reserve(1, 99.0) == 0.0


def test_whoever_gives_up_leaves_no_debt():
    throttle = Throttle(1)
    assert throttle.reserve(11, 0.0) == 0.0
    for _ in range(5):
        assert throttle.reserve(7, 0.0) == pytest.approx(10.0)
        throttle.give_back(7)


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 20)), min_size=1, max_size=50), st.floats(0.5, 50))
def test_over_time_no_more_than_the_rate(asks, rate):
    throttle, now = Throttle(rate), 0.0
    done: list[tuple[float, int]] = []
    for pause, count in asks:
        now += pause
        done.append((now + throttle.reserve(count, now), count))
    last, largest = max(when for when, _ in done), max(count for _, count in done)
    assert sum(count for _, count in done) <= max(1.0, rate) + rate * last + largest + 1e-6


def test_a_complaint_halves_what_was_asked_of_late_and_time_brings_it_back():
    throttle = Throttle(0)
    for second in range(10):
        throttle.reserve(8, float(second))
    assert throttle.complained(10.0)
    assert throttle.rate == pytest.approx(4.0)
    assert not throttle.complained(10.0 + STEP_S - 0.1), "those that come together are one"
    assert not throttle.content(10.0 + STEP_S - 0.1)
    now, rates = 10.0, []
    while throttle.rate:
        now += STEP_S
        assert throttle.content(now)
        rates.append(throttle.rate)
    assert rates == pytest.approx([5.0, 6.25, 7.8125, 0.0])
    assert not throttle.content(now + STEP_S)


def test_it_stays_between_the_floor_and_the_limit():
    throttle = Throttle(2)
    now = 0.0
    for _ in range(10):
        now += STEP_S
        throttle.complained(now)
    assert throttle.rate == FLOOR
    for _ in range(30):
        now += STEP_S
        throttle.content(now)
    assert throttle.rate == 2


def test_what_was_long_ago_is_not_what_was_too_fast():
    throttle = Throttle(0)
    throttle.reserve(10_000, 0.0)
    throttle.reserve(30, 10 * OBSERVED_S)
    throttle.reserve(30, 10 * OBSERVED_S + 10)
    throttle.complained(10 * OBSERVED_S + 10)
    assert throttle.rate == pytest.approx(3.0)


def test_the_measure_moves_on_with_time():
    throttle = Throttle(0)
    for second in range(100):
        throttle.reserve(10, float(second))
    throttle.complained(100.0)
    assert throttle.rate == pytest.approx(5.0, rel=0.2)


def test_a_pace_is_blank_while_nothing_is_held_back():
    assert Pace(ProviderPolicy()).blank
    assert not Pace(ProviderPolicy(recipients_per_s=5)).blank


def widened(breadth: Breadth, answers: int, now: float = 0.0) -> int:
    for _ in range(answers):
        breadth.used = breadth.limit
        breadth.content(now)
    return breadth.limit


def test_one_session_more_for_as_many_good_answers_as_there_are():
    breadth = Breadth(4, 10)
    assert [widened(breadth, 4), widened(breadth, 5), widened(breadth, 500)] == [4, 5, 10]


def test_nothing_is_believed_that_was_not_tried():
    breadth = Breadth(4, 10)
    breadth.used = 3
    assert not any(breadth.content(0.0) for _ in range(100))
    assert breadth.blank


def test_what_callers_keep_free_need_not_be_in_use():
    breadth = Breadth(4, 10, kept_free=lambda limit: limit // 4)
    breadth.used = 2
    assert not any(breadth.content(0.0) for _ in range(100))
    for expected, used in ((5, 3), (6, 4), (7, 5)):
        breadth.used = used
        assert any(breadth.content(0.0) for _ in range(expected))
        assert breadth.limit == expected


def test_without_a_higher_bound_it_stays_as_it_is():
    assert widened(Breadth(4, 0), 500) == 4


def test_a_complaint_halves_the_sessions_and_what_was_too_many_is_left_alone_for_a_while():
    breadth = Breadth(4, 10)
    widened(breadth, 500)
    assert breadth.complained(100.0)
    assert breadth.limit == 5
    assert not breadth.complained(101.0), "complaints that come together are one"
    assert widened(breadth, 500, 100.0 + CEILING_S - 1) == 9
    assert widened(breadth, 500, 100.0 + CEILING_S) == 10


def test_one_session_is_the_least():
    breadth = Breadth(1, 10)
    assert not breadth.complained(100.0)
    assert breadth.limit == 1


@given(
    st.integers(1, 20),
    st.integers(0, 50),
    st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.floats(0, 100)), max_size=200),
)
def test_sessions_stay_within_their_bounds(least, most, happened):
    breadth, now = Breadth(least, most), 0.0
    for good, used, pause in happened:
        now += pause
        breadth.used = used
        before = breadth.limit
        changed = breadth.content(now) if good else breadth.complained(now)
        assert 1 <= breadth.limit <= max(least, most)
        assert changed == (breadth.limit != before)
