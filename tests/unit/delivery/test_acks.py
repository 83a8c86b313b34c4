"""Acks are the contiguous prefix, in order, whatever finishes when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.delivery import OffsetGap, OrderedAcks


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int]]:
    """Records come in order from any offset, and finish in any order after they came."""
    first = draw(st.integers(0, 2**60))
    offsets = [first + step for step in range(draw(st.integers(0, 30)))]
    open_, history, left = [], [], list(offsets)
    while left or open_:
        if left and (not open_ or draw(st.booleans())):
            open_.append(left[0])
            history.append(("add", left.pop(0)))
        else:
            history.append(("done", open_.pop(draw(st.integers(0, len(open_) - 1)))))
    return history


@given(histories())
def test_nothing_is_acknowledged_past_what_is_unfinished(history: list[tuple[str, int]]) -> None:
    acks = OrderedAcks(contiguous=True)
    added, finished, acked = [], set(), []
    for what, offset in history:
        if what == "add":
            acks.add(offset)
            added.append(offset)
        else:
            finished.add(offset)
            acked += acks.done(offset)
        unfinished = [each for each in added if each not in finished]
        assert acked == added[: len(acked)]
        assert acks.oldest == (unfinished[0] if unfinished else None)
        assert acked == [each for each in added if not unfinished or each < unfinished[0]]
        assert acks.last == (added[-1] if added else None)
    assert acked == added


def test_a_gap_is_refused_where_none_can_be() -> None:
    acks = OrderedAcks(contiguous=True)
    acks.add(5)
    with pytest.raises(OffsetGap, match="offset 8 came where 6 was expected") as refused:
        acks.add(8)
    assert (refused.value.expected, refused.value.offset) == (6, 8)


def test_a_gap_is_passed_over_where_transactions_or_compaction_leave_some() -> None:
    acks = OrderedAcks(contiguous=False)
    acks.add(5)
    acks.add(8)
    assert acks.done(8) == []
    assert acks.done(5) == [5, 8]


def test_the_first_offset_is_held_against_where_the_partition_is_read_from() -> None:
    with pytest.raises(OffsetGap, match="offset 8 came where 6 was expected"):
        OrderedAcks(contiguous=True, start=6).add(8)
    for first in (6, 5):  # Faust went back once more: a repeat
        acks = OrderedAcks(contiguous=True, start=6)
        acks.add(first)
        assert acks.done(first) == [first]
    OrderedAcks(contiguous=False, start=6).add(8)


@pytest.mark.parametrize("offset", [5, 4])
def test_offsets_rise(offset: int) -> None:
    acks = OrderedAcks(contiguous=False)
    acks.add(5)
    with pytest.raises(ValueError, match="came after 5"):
        acks.add(offset)
