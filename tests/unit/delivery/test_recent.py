"""The last minutes of a topic, on a clock that a test turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from streams.delivery.recent import MIN_DEAD, PIECE_S, PIECES, Recent
from streams.metrics import REASONS, Metrics


class Minutes:
    def __init__(self, limit: float = 0.1) -> None:
        self.now = 1000.0
        self.recent = Recent(limit, lambda: self.now)

    def pass_(self, dead: int, begun: int, age_s: float = 0.0) -> None:
        self.recent.begun(age_s, begun)
        for _ in range(dead):
            self.recent.died()


def test_nothing_read_is_no_share() -> None:
    minutes = Minutes()
    assert (minutes.recent.share, minutes.recent.too_many, minutes.recent.oldest_s) == (0.0, False, 0.0)


@pytest.mark.parametrize(
    ("dead", "begun", "too_many"),
    [(MIN_DEAD, 50, True), (MIN_DEAD - 1, 9, False), (MIN_DEAD, 100, False), (11, 100, True)],
)
def test_a_share_above_the_limit_counts_when_it_is_more_than_a_handful(dead: int, begun: int, too_many: bool) -> None:
    minutes = Minutes()
    minutes.pass_(dead, begun)
    assert minutes.recent.share == dead / begun
    assert minutes.recent.too_many is too_many


def test_five_minutes_are_remembered_and_no_more() -> None:
    minutes = Minutes()
    minutes.pass_(50, 50, age_s=7200.0)
    minutes.now += PIECE_S * (PIECES - 1)
    minutes.pass_(0, 50, age_s=3.0)
    assert (minutes.recent.share, minutes.recent.oldest_s) == (0.5, 7200.0)
    minutes.now += PIECE_S
    assert (minutes.recent.share, minutes.recent.oldest_s) == (0.0, 3.0)
    minutes.now += 3600
    assert minutes.recent.oldest_s == 0.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(0, 400)), max_size=60))
def test_it_is_always_a_share_in_bounded_memory(steps: list[tuple[int, int, float]]) -> None:
    minutes = Minutes()
    for dead, begun, seconds in steps:
        minutes.pass_(dead, begun)
        minutes.now += seconds
        assert 0.0 <= minutes.recent.share <= 1.0
    assert len(minutes.recent._pieces) <= PIECES


def test_prometheus_sees_it() -> None:
    minutes, metrics = Minutes(), Metrics(CollectorRegistry())
    minutes.recent.show(metrics, ("gate", "mailvet.requests.v1"))
    minutes.pass_(20, 40, age_s=5.0)
    labels = {"role": "gate", "topic": "mailvet.requests.v1"}
    seen = {
        name: metrics.registry.get_sample_value(f"mailvet_{name}", labels)
        for name in ("dead_letter_share", "dead_letters_over_limit", "read_age_seconds")
    }
    assert seen == {"dead_letter_share": 0.5, "dead_letters_over_limit": 1.0, "read_age_seconds": 5.0}


def test_every_reason_is_shown_before_the_first_dead_letter() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.expect_dead_letters("gate")
    for reason in REASONS:
        labels = {"role": "gate", "reason": reason}
        assert metrics.registry.get_sample_value("mailvet_dead_letters_total", labels) == 0.0
