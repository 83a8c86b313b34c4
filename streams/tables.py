"""A Faust table whose changelog can be awaited."""

from asyncio import Future
from collections import defaultdict
from collections.abc import Callable, Iterable, Set
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final, Protocol, cast

import faust
from aiokafka.partitioner import murmur2
from faust.types import TP, FutureMessage

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

    def begin(self, kept: Set[int], read: Set[int] = frozenset()) -> None:
        """Partitions were assigned; those that stay go on, unless what is read shows that another had them meanwhile.

        ``read``: partitions that were another's, and were read along. The others are read from their beginning, should
        they come back.
        """
        known = kept | read
        self._mine = {partition: epoch for partition, epoch in self._mine.items() if partition in kept}
        self._highest = {partition: epoch for partition, epoch in self._highest.items() if partition in known}

    def mine(self, partition: int) -> int:
        """The epoch of what this worker changes now."""
        highest = self._highest.get(partition, 0)
        if self._mine.get(partition, -1) < highest or partition not in self._mine:
            self._mine[partition] = self._highest[partition] = max(highest + 1, self._clock())
        return self._mine[partition]

    def is_mine(self, partition: int, epoch: int) -> bool:
        """Whether what was changed under this epoch was changed in the ownership of now."""
        return self._mine.get(partition) == epoch

    def is_over(self, partition: int, epoch: int) -> bool:
        """Whether a change that was read comes from an ownership that was over when it was written."""
        over = epoch < self._highest.get(partition, 0)
        if not over:
            self._highest[partition] = epoch
        return over


class Change(Protocol):
    """A record of a changelog, as aiokafka gives it."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Any: ...


class DurableTable(faust.Table[bytes, bytes]):
    """A table that tells its handler's delivery of each changelog record on its way to the broker.

    A row belongs to the partition of the record that changed it. ``record_key`` gives that record's key for a row's
    key, for changes that no record brought (rows that the clock ends). ``on_outdated`` is told of each change that
    recovery leaves out, since it was written by a worker that had lost the partition.

    Rows of *standby* partitions, which are another worker's, stand apart until the partition comes over: nobody finds,
    counts or ends them here.
    """

    record_key: Callable[[bytes], bytes]
    on_outdated: Callable[[], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_outdated = lambda: None
        self._epochs = Epochs()
        self._ours: Set[int] | None = None
        self._standby: dict[int, dict[bytes, bytes]] = {}
        self.caught_up: set[int] = set()
        """Standby partitions that recovery found to be up to date, once."""
        self._places: dict[int, int] = {}
        self._outdated: defaultdict[int, set[bytes]] = defaultdict(set)
        self._strays: set[bytes] = set()

    @property
    def standby_rows(self) -> int:
        """How many rows of other workers' partitions are at hand."""
        return sum(map(len, self._standby.values()))

    # -- changes of ours ----------------------------------------------------------------------------------------------

    def send_changelog(
        self, partition: int | None, key: Any, value: Any, key_serializer: Any = None, value_serializer: Any = None
    ) -> FutureMessage:
        """Faust's with the epoch; and the record's delivery goes to the handler's list."""
        if not self._is_ours(partition):
            self._strays.add(key)
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
        return self._epochs.mine(partition) if partition is not None and self._is_ours(partition) else 0

    def _is_ours(self, partition: int | None) -> bool:
        return partition is not None and (self._ours is None or partition in self._ours)

    def _on_changelog_sent(self, future: FutureMessage) -> None:
        """What only we have written since the place that we know needs no reading after the next rebalance.

        If it is still in our rows: a partition that went and came back has them from its changelog.
        """
        sent, epoch = future.result(), epoch_of(future.message.headers)
        if self._epochs.is_mine(sent.partition, epoch) and self._places.get(sent.partition) == sent.offset - 1:
            self._places[sent.partition] = sent.offset

    def partition_for_key(self, key: bytes) -> int | None:
        """The partition of the record at hand; without one, the partition that such a record would have."""
        return super().partition_for_key(key) if faust.current_event() is not None else self._partition(key)

    # -- changes that are read ----------------------------------------------------------------------------------------

    def persisted_offset(self, tp: TP) -> int:
        """The last change of the partition that our rows are made of; -1 before the first."""
        return self._places.get(tp.partition, -1)

    def read(self, partition: int, found: Iterable[Change]) -> int:
        """Apply what comes next in a partition's changelog; the offset of the last change that is known by now.

        What is another worker's partition now is left out, and what was when it was written.
        """
        rows, place = self._rows(partition), self._places.get(partition, -1)
        if rows is None:
            return place
        outdated, headers, over = self._outdated[partition], None, False
        for change in found:
            if change.offset <= place:
                continue
            place = change.offset
            if change.headers != headers or headers is None:
                headers = change.headers
                over = self._epochs.is_over(partition, epoch_of(headers))
            if over:
                outdated.add(change.key)
                self.on_outdated()
                continue
            outdated.discard(change.key)
            if change.value is None:
                rows.pop(change.key, None)
            else:
                rows[change.key] = change.value
        self._places[partition] = place
        return place

    def _rows(self, partition: int) -> dict[bytes, bytes] | None:
        if partition in self._standby:
            return self._standby[partition]
        return cast(dict[bytes, bytes], self.data.data) if self._is_ours(partition) else None

    def heal(self) -> int:
        """Write again what stands behind an outdated change, before compaction leaves only that; how many rows."""
        ours = [partition for partition in self._outdated if partition not in self._standby]
        healed = {key for partition in ours for key in self._outdated.pop(partition)}
        for key in healed:
            row = self.get(key)
            if row is None:
                self.send_changelog(self._partition(key), key, None)
            else:
                self[key] = row
        return len(healed)

    # -- partitions that come and go ----------------------------------------------------------------------------------

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Before Faust asks from where each changelog is to be read."""
        assignor, name = self.app.assignor, self.changelog_topic_name
        self.keep_only(
            {tp.partition for tp in assignor.assigned_actives() if tp.topic == name},
            {tp.partition for tp in assignor.assigned_standbys() if tp.topic == name},
        )
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)

    def keep_only(self, partitions: Set[int], standbys: Set[int] = frozenset()) -> None:
        """Forget the rows of other partitions. ``standbys`` are read along, for the day on which they come over.

        Faust keeps rows that this worker wrote to partitions that are another's by now: they are out of date, would
        stand beside what is recovered when the partition comes back, and must never be ended in the other's name.
        So a partition of ours that becomes a standby is read from its beginning.
        """
        stay = partitions & (self._ours or frozenset())
        read_along = (partitions | standbys) & self._standby.keys()
        known = stay | read_along
        self._epochs.begin(stay, read_along)
        self._forget_rows(partitions)
        self._places = {each: self._places.get(each, -1) if each in known else -1 for each in partitions | standbys}
        self._outdated = defaultdict(set, {each: keys for each, keys in self._outdated.items() if each in known})
        for partition in partitions & self._standby.keys():
            self.data.data.update(self._standby.pop(partition))
        self.caught_up &= standbys & self._standby.keys()
        self._standby = {partition: self._standby.get(partition, {}) for partition in standbys}
        self._ours = partitions

    def _forget_rows(self, partitions: Set[int]) -> None:
        rows, strays = self.data.data, self._strays
        for key in strays:
            rows.pop(key, None)
        self._strays = set()
        if self._ours is None or not self._ours <= partitions:
            count, record_key = self._count(), self.record_key  # Of millions of rows, half a microsecond each.
            for key in [key for key in rows if _hash(record_key(key)) % count not in partitions]:
                del rows[key]

    def _partition(self, key: bytes) -> int:
        return _hash(self.record_key(key)) % self._count()

    def _count(self) -> int:
        return int(self.app.consumer.topic_partitions(self.changelog_topic_name) or self.partitions or 1)


@lru_cache(maxsize=2**16)
def _hash(record_key: bytes) -> int:
    """As producers hash keys; rows of one record key are many."""
    return int(murmur2(record_key)) & 0x7FFFFFFF


def epoch_of(headers: Any) -> int:
    """The epoch that a change carries; 0 where there is none, from before there were epochs: anything is newer."""
    found = dict(headers or ()).get(EPOCH, b"0")
    return int(found) if found.isdigit() else 0
