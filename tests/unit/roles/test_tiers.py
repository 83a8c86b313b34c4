"""When an address is asked again, and the whole way of one that is always told "later"."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.topics import ATTEMPTS, TIERS
from streams.roles.tiers import later
from tests.unit.roles.support import NOW, Log, ticket, values
from tests.unit.roles.test_probe import World, task

DELAYS = (300.0, 900.0, 3600.0)


def test_each_attempt_has_its_tier_and_comes_back_after_its_delay() -> None:
    found = [later(ticket(1), attempt, NOW, DELAYS) for attempt in (1, 2, 3, 4)]
    assert [each and (each.tier, each.due) for each in found] == [
        *((topic.name, NOW + timedelta(seconds=delay)) for topic, delay in zip(TIERS, DELAYS, strict=True)),
        None,
    ]


@given(
    st.integers(1, 6),
    st.none() | st.integers(0, 100_000),
    st.integers(-10, 30_000),
    st.lists(st.floats(0.01, 10_000), min_size=3, max_size=3).map(sorted),
)
def test_a_wait_is_as_long_as_was_asked_and_ends_before_the_answer_is_due(
    attempt: int, hint_s: int | None, left_s: int, delays: list[float]
) -> None:
    asked = ticket(1, verdict_by=NOW + timedelta(seconds=left_s))
    found = later(asked, attempt, NOW, delays, hint_s=hint_s)
    if found is None:
        return
    waits = (found.due - NOW).total_seconds()
    assert attempt <= len(delays)
    assert found.due < asked.verdict_by
    assert any(waits == pytest.approx(each, abs=1e-5) for each in delays)
    if hint_s is not None:
        assert waits >= min(hint_s, delays[-1]) - 1e-5


def way_of(address: str, verdict_by: timedelta) -> tuple[list[dict[str, Any]], list[datetime]]:
    """What is said of an address at each attempt, and when it is asked, where every wait is as long as its tier's."""
    world, tiers = World(), {topic.name: delay for topic, delay in zip(TIERS, DELAYS, strict=True)}
    start_ms, log, record = world.clock.now_ms, Log("tasks"), task([address], verdict_by=NOW + verdict_by)
    findings, times = [], []
    while record is not None:
        times.append(NOW + timedelta(milliseconds=world.clock.now_ms - start_ms))
        outputs = world.handle(record)
        findings += [attempt["entries"][0] for attempt in values(outputs, ATTEMPTS.name)]
        waiting = [output for output in outputs if output.topic in tiers]
        record = log.take(waiting[0]) if waiting else None
        world.clock.now_ms += round(1000 * tiers[waiting[0].topic]) if waiting else 0
    return findings, times


def test_after_the_last_tier_the_answer_is_unknown_with_all_attempts_in_its_evidence() -> None:
    findings, times = way_of("grey@x.example", timedelta(hours=3))
    assert [round((each - NOW).total_seconds()) for each in times] == [0, 300, 1200, 4800]
    assert [each["final"] for each in findings] == [False, False, False, True]
    last = findings[-1]["finding"]
    assert (last["verdict"], last["reason"], last["attempt"], last["next_attempt_at"]) == (
        "unknown",
        "greylisted",
        4,
        None,
    )
    assert [past["attempt"] for past in last["attempts"]] == [1, 2, 3]
    assert [datetime.fromisoformat(past["at"]) for past in last["attempts"]] == times[:3]
    assert {past["text"] for past in last["attempts"]} == {"4.7.1 Greylisted, try again later"}
    due = [datetime.fromisoformat(each["finding"]["next_attempt_at"]) for each in findings[:3]]
    assert due == times[1:]


@pytest.mark.parametrize(("minutes", "asked"), [(180, 4), (79, 3), (19, 2), (4, 1)])
def test_what_could_not_come_back_in_time_is_answered_with_what_is_known(minutes: int, asked: int) -> None:
    findings, times = way_of("grey@x.example", timedelta(minutes=minutes))
    assert len(times) == asked
    assert findings[-1]["final"]
    assert findings[-1]["finding"]["reason"] == "greylisted"
