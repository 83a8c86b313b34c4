"""Days and months in UTC, giving back to the day that was charged, and shares in flight that end by themselves."""

from datetime import UTC, datetime

import pytest

from streams.access import quota
from streams.access.quota import Limits, Usage


def ms(*moment: int) -> int:
    return round(datetime(*moment, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


NOON = ms(2026, 3, 10, 12)
LIMITS = Limits(daily=100, monthly=250)


def test_charges_add_up_to_the_limit_and_no_further() -> None:
    usage = quota.charge(Usage(), LIMITS, 60, NOON)
    assert usage == Usage("2026-03-10", 60, "2026-03", 60)
    assert quota.charge(usage, LIMITS, 40, NOON) == Usage("2026-03-10", 100, "2026-03", 100)
    assert quota.charge(usage, LIMITS, 41, NOON) == datetime(2026, 3, 11, tzinfo=UTC)


def test_a_new_day_begins_at_nothing_and_the_month_goes_on() -> None:
    usage = Usage("2026-03-10", 100, "2026-03", 200)
    assert quota.charge(usage, LIMITS, 50, ms(2026, 3, 11)) == Usage("2026-03-11", 50, "2026-03", 250)
    assert quota.charge(usage, LIMITS, 51, ms(2026, 3, 11)) == datetime(2026, 4, 1, tzinfo=UTC)
    assert quota.charge(usage, LIMITS, 51, ms(2026, 4, 1)) == Usage("2026-04-01", 51, "2026-04", 51)


def test_no_limit_is_no_limit() -> None:
    assert quota.charge(Usage(), Limits(), 10**9, NOON) == Usage("2026-03-10", 10**9, "2026-03", 10**9)


def test_the_last_month_of_a_year_ends_with_it() -> None:
    assert quota.next_month(ms(2026, 12, 31, 23)) == datetime(2027, 1, 1, tzinfo=UTC)
    assert quota.next_month(ms(2026, 1, 31)) == datetime(2026, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "left"),
    [
        ("2026-03-10", Usage("2026-03-10", 70, "2026-03", 170)),
        ("2026-03-09", Usage("2026-03-10", 100, "2026-03", 170)),
        ("2026-02-28", Usage("2026-03-10", 100, "2026-03", 200)),
    ],
)
def test_what_is_given_back_goes_to_the_day_and_month_that_were_charged(day: str, left: Usage) -> None:
    assert quota.give_back(Usage("2026-03-10", 100, "2026-03", 200), day, 30) == left


def test_nothing_is_given_back_below_zero() -> None:
    assert quota.give_back(Usage("2026-03-10", 1, "2026-03", 1), "2026-03-10", 5) == Usage(
        "2026-03-10", 0, "2026-03", 0
    )


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(daily=100), (100, 40, datetime(2026, 3, 11, tzinfo=UTC))),
        (Limits(daily=100, monthly=90), (90, 20, datetime(2026, 4, 1, tzinfo=UTC))),
        (Limits(daily=10, monthly=500), (10, 0, datetime(2026, 3, 11, tzinfo=UTC))),
        (Limits(monthly=50), (50, 0, datetime(2026, 4, 1, tzinfo=UTC))),
        (Limits(), (None, None, datetime(2026, 3, 11, tzinfo=UTC))),
    ],
)
def test_what_is_left_is_told_of_the_nearer_end(limits: Limits, expected: object) -> None:
    assert quota.remaining(Usage("2026-03-10", 60, "2026-03", 70), limits, NOON) == expected


def test_shares_in_flight_end_with_their_minute() -> None:
    bucket = quota.bucket_of(NOON + 1)
    assert bucket == NOON + 60_000
    assert quota.bucket_of(NOON) == NOON
    assert quota.live({bucket: 5, NOON: 3}, NOON) == {bucket: 5}
    assert quota.live({bucket: 5}, bucket) == {}


def test_what_is_settled_leaves_its_bucket() -> None:
    assert quota.release({60: 5, 120: 1}, 60, 3) == {60: 2, 120: 1}
    assert quota.release({60: 5}, 60, 5) == {}
    assert quota.release({}, 60, 5) == {}
