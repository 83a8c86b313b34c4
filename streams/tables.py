"""A Faust table whose changelog can be awaited."""

from asyncio import Future
from collections.abc import Callable, Iterable, Iterator, Set
from contextvars import ContextVar
from typing import Any, Final, cast

import faust
from aiokafka.partitioner import murmur2
from faust.types import FutureMessage

from streams.installed import now_ms

changes: ContextVar[list["Future[Any]"]] = ContextVar("changes")
"""The changelog records of the handler that runs in this context; :mod:`streams.delivery` awaits them."""


EPOCH: Final = "mailvet-epoch"
"""The header of a change that says which ownership of its partition it comes from (:class:`Epochs`)."""


class Epochs:
    """Numbers the ownerships of each partition, so that changes of one that is over are known as such.

    A worker that was stopped for a while, or whose network was, may write a change after another worker has taken its
    partition over and changed the same row: in the changelog the older row then stands behind the newer one. Epochs
    rise from owner to owner: above all that the new one has read, and with the clock where it has read none.
    """

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._mine: dict[int, int] = {}
        self._highest: dict[int, int] = {}

    def begin(self, kept: Set[int]) -> None:
        """Partitions were assigned; those that stay go on, unless what is read shows that another had them meanwhile.

        The others are read from their beginning, should they come back.
        """
        self._mine = {partition: epoch for partition, epoch in self._mine.items() if partition in kept}
        self._highest = {partition: epoch for partition, epoch in self._highest.items() if partition in kept}

    def mine(self, partition: int) -> int:
        """The epoch of what this worker changes now."""
        highest = self._highest.get(partition, 0)
        if self._mine.get(partition, -1) < highest or partition not in self._mine:
            self._mine[partition] = self._highest[partition] = max(highest + 1, self._clock())
        return self._mine[partition]

    def is_over(self, partition: int, epoch: int) -> bool:
        """Whether a change that was read comes from an ownership that was over when it was written."""
        over = epoch < self._highest.get(partition, 0)
        if not over:
            self._highest[partition] = epoch
        return over


class DurableTable(faust.Table[bytes, bytes]):
    """A table that tells its handler's delivery of each changelog record on its way to the broker.

    A row belongs to the partition of the record that changed it. ``record_key`` gives that record's key for a row's
    key, for changes that no record brought (rows that the clock ends). ``on_outdated`` is told of each change that
    recovery leaves out, since it was written by a worker that had lost the partition.
    """

    record_key: Callable[[bytes], bytes]
    on_outdated: Callable[[], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_outdated = lambda: None
        self._epochs = Epochs()
        self._ours: Set[int] | None = None
        self._outdated: set[bytes] = set()

    def send_changelog(
        self, partition: int | None, key: Any, value: Any, key_serializer: Any = None, value_serializer: Any = None
    ) -> FutureMessage:
        """Faust's with the epoch; and the record's delivery goes to the handler's list."""
        future = self.changelog_topic.send_soon(
            key=key,
            value=value,
            partition=partition,
            headers={EPOCH: b"%d" % self._epoch(partition)},
            key_serializer=key_serializer or self.key_serializer,
            value_serializer=value_serializer or self.value_serializer,
            callback=self._on_changelog_sent,
            eager_partitioning=True,
        )
        changes.get([]).append(future)
        return future

    def _epoch(self, partition: int | None) -> int:
        """None of ours for another's partition: whatever still changes a row of it is outdated from the start."""
        ours = partition is not None and (self._ours is None or partition in self._ours)
        return self._epochs.mine(partition) if ours and partition is not None else 0

    def partition_for_key(self, key: bytes) -> int | None:
        """The partition of the record at hand; without one, the partition that such a record would have."""
        return super().partition_for_key(key) if faust.current_event() is not None else self._partition(key)

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Faust's, without what is another worker's now or was when it was written."""
        super().apply_changelog_batch(list(self._current(batch)))
        # Faust notes the partition of each row that it recovers, also long after the row has ended; we ask the key.
        cast(Any, self.data)._key_partition.clear()

    def _current(self, batch: Iterable[Any]) -> Iterator[Any]:
        for event in batch:
            partition, key = event.message.partition, event.message.key
            if self._ours is not None and partition not in self._ours:
                continue
            if self._epochs.is_over(partition, epoch_of(event.message.headers)):
                self._outdated.add(key)
                self.on_outdated()
            else:
                self._outdated.discard(key)
                yield event

    def heal(self) -> int:
        """Write again what stands behind an outdated change, before compaction leaves only that; how many rows."""
        healed, self._outdated = self._outdated, set()
        for key in healed:
            row = self.get(key)
            if row is None:
                self.send_changelog(self._partition(key), key, None)
            else:
                self[key] = row
        return len(healed)

    def keep_only(self, partitions: Set[int]) -> None:
        """Forget the rows of other partitions.

        Faust keeps rows that this worker wrote to partitions that are another's by now: they are out of date, would
        stand beside what is recovered when the partition comes back, and must never be ended in the other's name.
        """
        self._epochs.begin(partitions & (self._ours or frozenset()))
        self._ours = partitions
        self._outdated = {key for key in self._outdated if self._partition(key) in partitions}
        rows = self.data.data
        for key in [key for key in rows if self._partition(key) not in partitions]:
            del rows[key]

    def _partition(self, key: bytes) -> int:
        count = self.app.consumer.topic_partitions(self.changelog_topic_name) or self.partitions
        return int((murmur2(self.record_key(key)) & 0x7FFFFFFF) % count)


def epoch_of(headers: Any) -> int:
    """The epoch that a change carries; 0 where there is none, from before there were epochs: anything is newer."""
    found = dict(headers or ()).get(EPOCH, b"0")
    return int(found) if found.isdigit() else 0
