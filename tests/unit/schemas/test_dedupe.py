"""Repeats are dropped, and memory has a bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dedupe import Dedupe
from schemas.result import Rejection, Result, Summary
from tests.unit.schemas.samples import SAMPLES

NAMES = st.tuples(
    st.sampled_from("abc"),
    st.one_of(
        st.tuples(st.just("result"), st.integers(0, 1000)),
        st.tuples(st.sampled_from(["summary", "rejection"]), st.none()),
    ),
)


@given(st.lists(NAMES))
def test_every_name_is_new_once(names: list[tuple[str, tuple[str, int | None]]]) -> None:
    dedupe, seen = Dedupe(), set()
    for uid, (kind, index) in names:
        assert dedupe.is_new(uid, kind, index) is ((uid, kind, index) not in seen)
        seen.add((uid, kind, index))


def test_the_requests_least_lately_seen_are_forgotten_first() -> None:
    dedupe = Dedupe(requests=2)
    assert dedupe.is_new("a", "result", 0)
    assert dedupe.is_new("b", "result", 0)
    assert not dedupe.is_new("a", "result", 0)
    assert dedupe.is_new("c", "result", 0)
    assert not dedupe.is_new("a", "result", 0)
    assert dedupe.is_new("b", "result", 0), "forgotten for c"


def test_records_pass_once_in_their_order() -> None:
    result, rejection, summary = SAMPLES["result"], SAMPLES["rejection"], SAMPLES["summary"]
    assert isinstance(result, Result)
    assert isinstance(rejection, Rejection)
    assert isinstance(summary, Summary)
    second = result.model_copy(update={"index": 1})
    came = [result, second, result, summary, second, rejection, summary]
    assert list(Dedupe().fresh(came)) == [result, second, summary, rejection]


def test_no_room_at_all_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Dedupe(requests=0)
