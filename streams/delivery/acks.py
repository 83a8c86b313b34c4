"""Which records of a partition may be acknowledged: those before which nothing is unfinished.

Faust commits the highest offset that was acknowledged, whatever was not (measured: twenty records, all acknowledged
but offset 7, give the committed offset 20). So nothing is acknowledged out of order.
"""

from collections import deque


class OffsetGap(Exception):
    """Offsets are missing where none can be: records were dropped on their way to us."""

    def __init__(self, expected: int, offset: int) -> None:
        super().__init__(f"offset {offset} came where {expected} was expected")
        self.expected = expected
        self.offset = offset


class OrderedAcks:
    """The unfinished records of one partition, from one assignment to the next.

    ``contiguous``: a missing offset is refused with :class:`OffsetGap`, since acknowledging across it would lose
    what stood there. ``start``: where the partition is read from, if that is known: the first offset is held against
    it.
    """

    def __init__(self, *, contiguous: bool, start: int | None = None) -> None:
        self._contiguous = contiguous
        self._start = start
        self._waiting: deque[int] = deque()
        self._done: set[int] = set()
        self._last: int | None = None

    def add(self, offset: int) -> None:
        """Take on a record. Offsets rise.

        Raises:
            OffsetGap: the one before it never came.
            ValueError: it stands before one that came already.
        """
        if self._last is not None and offset <= self._last:
            raise ValueError(f"offset {offset} came after {self._last}")
        expected = self._start if self._last is None else self._last + 1
        # Before its start a partition begins where Faust goes back once more: that is a repeat, and no loss.
        if self._contiguous and expected is not None and offset > expected:
            raise OffsetGap(expected, offset)
        self._last = offset
        self._waiting.append(offset)

    def done(self, offset: int) -> list[int]:
        """The offsets that may be acknowledged now that this one is finished, in order; often none."""
        self._done.add(offset)
        acks: list[int] = []
        while self._waiting and self._waiting[0] in self._done:
            acks.append(self._waiting.popleft())
        self._done.difference_update(acks)
        return acks

    @property
    def last(self) -> int | None:
        """The offset that came last."""
        return self._last

    @property
    def oldest(self) -> int | None:
        """The first offset that may not be acknowledged."""
        return self._waiting[0] if self._waiting else None
