"""What Kafka's protocol lets strangers write and aiokafka can't read, or not in bounded memory.

Brokers pass all of it on (measured on Kafka 4.4.0):

- Header names that are not UTF-8: aiokafka raises where it unpacks the batch, so that one such record would end every
  worker that meets it. Here its names are read with escapes, and the record ends as any other.
- Batches of a few kilobytes that unpack to gigabytes: a topic's ``max.message.bytes`` counts what is compressed. Here
  such a batch is one record that says so (:data:`UNREADABLE`), and becomes a dead letter.
- Large records, hundreds at a time: one poll gives :data:`POLL_BYTES` of a partition, or one record.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import cramjam
from aiokafka.codec import _detect_xerial_stream
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_LENGTH = struct.Struct(">8xi")
"""The head of every batch (Kafka protocol, record batch): base offset, and the length of what follows."""


_HEAD: Final = struct.Struct(">16xb4xh34xi")
"""Of a batch: its magic, its attributes, and how many records it has."""

_PLACE: Final = struct.Struct(">q15xi8xq")
"""Its first offset, the distance of its last one, and its last timestamp."""

_CODEC: Final = 0b111
LOG_APPEND_TIME: Final = 1

MAX_BATCH_BYTES: Final = 16 * 1024 * 1024 + 64 * 1024
"""A batch that is larger when it is unpacked is not unpacked: `requests.v1` takes batches of 16 MiB."""

POLL_BYTES: Final = 4 * 1024 * 1024

UNREADABLE: Final = "mailvet-unreadable"
"""Header of the record that stands for a batch that was not unpacked; its value is the batch as it came."""


def read_anything() -> None:
    """Let every consumer of this process read such records."""
    fetcher.MemoryRecords = LenientRecords
    if fetcher.FetchResult is not BoundedResult:
        fetcher.FetchResult = BoundedResult


class BoundedResult(fetcher.FetchResult):  # type: ignore[misc]
    """aiokafka's, but what it gives at a time is bounded by its size too."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        """As aiokafka's."""
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        found: list[Any] = []
        room = POLL_BYTES
        for record in self._partition_records:
            found.append(record)
            room -= len(record.value or b"")
            if room <= 0 or len(found) == max_records:
                self._update_position()
                return found
        self._update_position()
        self._partition_records = None
        return found


class LenientRecords:
    """aiokafka's ``MemoryRecords``, whose batches never raise for the name of a header."""

    def __init__(self, data: bytes) -> None:
        self._records = MemoryRecords(data)
        self._left = memoryview(data)
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> "_Batch":
        """The next batch; there is one while ``has_next()``."""
        end = _LENGTH.size + _LENGTH.unpack_from(self._left)[0]
        raw, self._left = self._left[:end], self._left[end:]
        return _Batch(self._records.next_batch(), raw)


class _Batch:
    """A batch that is unpacked as ever, and once more by hand if that fails; never to more than is bearable."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        if (why := _unbearable(self._raw)) is not None:
            yield _stand_in(self._raw, why)
            return
        given = 0
        try:
            for record in self._batch:
                yield record
                given += 1
        except UnicodeDecodeError:
            yield from _lenient(self._raw, given)


def _lenient(raw: memoryview, skip: int) -> Iterator[Any]:
    """The batch's records from number ``skip`` on, read by aiokafka's own Python code from a buffer that bears more."""
    batch = _DefaultRecordBatchPy(raw)
    batch._maybe_uncompress()
    batch._buffer = _Buffer(batch._buffer)
    for number, record in enumerate(batch):
        if number >= skip:
            yield record


class _Buffer(bytearray):
    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Text(found) if isinstance(place, slice) else found


class _Text(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """With escapes for what is no text."""
        return super().decode(encoding, "backslashreplace")


# -- batches that unpack to too much ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Record:
    """What aiokafka asks of a record."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    checksum: int | None = None


def _unbearable(raw: memoryview) -> str | None:
    """Why this batch is not unpacked, in a sentence; None if it may be."""
    magic, attributes, count = _HEAD.unpack_from(raw)
    codec = attributes & _CODEC
    if magic != 2 or not codec:
        return None  # Brokers of today rewrite what older clients compressed.
    packed = raw[_HEAD.size :]
    try:
        if _CODECS[codec](packed, MAX_BATCH_BYTES):
            return None
    except (KeyError, ValueError, zlib.error, cramjam.DecompressionError, struct.error):
        return f"a batch of {count} records can't be unpacked"
    return f"a batch of {count} records unpacks to more than {MAX_BATCH_BYTES // 2**20} MiB"


def _stand_in(raw: memoryview, why: str) -> _Record:
    """One record in the place of the batch's last, so that reading goes on behind it."""
    first, distance, timestamp = _PLACE.unpack_from(raw)
    return _Record(first + distance, timestamp, LOG_APPEND_TIME, None, bytes(raw), [(UNREADABLE, why.encode())])


def _gzip_fits(packed: memoryview, limit: int) -> bool:
    return len(zlib.decompressobj(31).decompress(packed, limit + 1)) <= limit


def _snappy_fits(packed: memoryview, limit: int) -> bool:
    if not _detect_xerial_stream(packed):
        return bool(cramjam.snappy.decompress_raw_len(packed) <= limit)
    place = 16
    while place < len(packed) and limit >= 0:
        [size] = struct.unpack_from(">i", packed, place)
        if size < 0:
            raise ValueError("a block of less than nothing")
        limit -= cramjam.snappy.decompress_raw_len(packed[place + 4 : place + 4 + size])
        place += 4 + size
    return limit >= 0


def _into(codec: Any, packed: memoryview, limit: int) -> bool:
    """Whether it fits. A buffer of the whole limit costs some milliseconds, so a smaller one is tried first."""
    for size in (min(limit, 64 * 1024 + 16 * len(packed)), limit):
        try:
            codec.decompress_into(packed, bytearray(size))
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
        else:
            return True
    return False


_CODECS: Final[Mapping[int, Callable[[memoryview, int], bool]]] = {
    1: _gzip_fits,
    2: _snappy_fits,
    3: lambda packed, limit: _into(cramjam.lz4, packed, limit),
    4: lambda packed, limit: _into(cramjam.zstd, packed, limit),
}
"""By the number in a batch's attributes (Kafka protocol): gzip, snappy, lz4, zstd."""
