"""What Kafka's protocol lets strangers write and aiokafka can't read, or not in bounded memory.

Brokers pass all of it on (measured on Kafka 4.4.0):

- Header names that are not UTF-8: aiokafka raises where it unpacks the batch, so that one such record would end every
  worker that meets it. Here its names are read with escapes, and the record ends as any other.
- Batches of a few kilobytes that unpack to gigabytes: a topic's ``max.message.bytes`` counts what is compressed. Here
  such a batch is one record that says so (:data:`UNREADABLE`), and becomes a dead letter. So does one of far too many
  records, or with far too many headers (measured: eight million in 16 KB, which aiokafka reads in 10 s and 560 MB).
- Large records, hundreds at a time: one poll gives :data:`POLL_BYTES` of a partition, or one record. Keys and headers
  may be as large as values, so they count too (:func:`weight`).
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import cramjam
from aiokafka.codec import _detect_xerial_stream, snappy_decode
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

MAX_RECORDS: Final = 100_000
"""Of a batch: one of 16 MiB has room for so many requests."""

MAX_HEADERS: Final = 1000
"""Of a record."""

POLL_BYTES: Final = 4 * 1024 * 1024

HEADER_BYTES: Final = 100
"""What a header takes in memory besides its text and value, about."""

Packed = bytes | bytearray | memoryview

UNREADABLE: Final = "mailvet-unreadable"
"""Header of the record that stands for a batch that was not unpacked; its value is the batch as it came."""


def read_anything() -> None:
    """Let every consumer of this process read such records."""
    fetcher.MemoryRecords = LenientRecords
    if fetcher.FetchResult is not BoundedResult:
        fetcher.FetchResult = BoundedResult


class Weighed(Protocol):
    """What aiokafka's records and Faust's messages have in common."""

    key: bytes | None
    value: bytes | None
    headers: Any


def weight(record: Weighed) -> int:
    """About how many bytes of memory a record takes."""
    size = len(record.value or b"") + len(record.key or b"")
    headers: Iterable[tuple[str, bytes | None]] = record.headers or ()
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        size += len(name) + len(value or b"") + HEADER_BYTES
    return size


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
            room -= weight(record)
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


# -- batches that can't be borne ---------------------------------------------------------------------------------------


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
    """Why this batch is not read, in a sentence; None if it may be."""
    magic, attributes, count = _HEAD.unpack_from(raw)
    if magic != 2:  # Brokers of today rewrite what older clients wrote.
        return None
    if count > MAX_RECORDS:
        return f"a batch of {count} records, {MAX_RECORDS} may be"
    try:
        unpacked = _CODECS[attributes & _CODEC](raw[_HEAD.size :], MAX_BATCH_BYTES)
        if unpacked is None:
            return f"a batch of {count} records unpacks to more than {MAX_BATCH_BYTES // 2**20} MiB"
        most = max(_header_counts(unpacked, count), default=0)
    except (KeyError, ValueError, IndexError, zlib.error, cramjam.DecompressionError, struct.error):
        return f"a batch of {count} records can't be unpacked"
    return f"a record of {most} headers, {MAX_HEADERS} may be" if most > MAX_HEADERS else None


def _stand_in(raw: memoryview, why: str) -> _Record:
    """One record in the place of the batch's last, so that reading goes on behind it."""
    first, distance, timestamp = _PLACE.unpack_from(raw)
    return _Record(first + distance, timestamp, LOG_APPEND_TIME, None, bytes(raw), [(UNREADABLE, why.encode())])


def _header_counts(records: Packed, count: int) -> Iterator[int]:
    """How many headers each record has (Kafka protocol, record), read past everything else."""
    place = 0
    for _ in range(count):
        length, place = _varint(records, place)
        if length <= 0:
            raise ValueError("a record of nothing")
        end = place + length
        place += 1  # attributes
        for _ in ("timestamp", "offset"):
            _, place = _varint(records, place)
        for _ in ("key", "value"):
            size, place = _varint(records, place)
            place += max(size, 0)
        yield _varint(records, place)[0]
        place = end


def _varint(data: Packed, place: int) -> tuple[int, int]:
    """A number, zigzag in 7 bits a byte, and the place behind it. aiokafka's own reads on behind the end."""
    number = shift = 0
    while shift < 70:
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), place
        shift += 7
    raise ValueError("a number of more than 64 bits")


def _gunzip(packed: memoryview, limit: int) -> Packed | None:
    """One member, as clients write it: aiokafka would read all that follow, however large."""
    member = zlib.decompressobj(31)
    unpacked = member.decompress(packed, limit + 1)
    if len(unpacked) > limit:
        return None
    if not member.eof or member.unused_data:
        raise ValueError("cut off, or more than one member")
    return unpacked


def _unsnap(packed: memoryview, limit: int) -> Packed | None:
    if not _detect_xerial_stream(packed):
        size = cramjam.snappy.decompress_raw_len(packed)
    else:
        size, place = 0, 16
        while place < len(packed) and size <= limit:
            [block] = struct.unpack_from(">i", packed, place)
            if block < 0:
                raise ValueError("a block of less than nothing")
            size += cramjam.snappy.decompress_raw_len(packed[place + 4 : place + 4 + block])
            place += 4 + block
    return None if size > limit else bytes(snappy_decode(packed.tobytes()))


def _into(codec: Any, packed: memoryview, limit: int) -> Packed | None:
    """A buffer of the whole limit costs some milliseconds, so a smaller one is tried first."""
    for size in (min(limit, 64 * 1024 + 16 * len(packed)), limit):
        room = bytearray(size)
        try:
            length = codec.decompress_into(packed, room)
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
        else:
            return memoryview(room)[:length]
    return None


_CODECS: Final[Mapping[int, Callable[[memoryview, int], Packed | None]]] = {
    0: lambda plain, _: plain,
    1: _gunzip,
    2: _unsnap,
    3: lambda packed, limit: _into(cramjam.lz4, packed, limit),
    4: lambda packed, limit: _into(cramjam.zstd, packed, limit),
}
"""By the number in a batch's attributes (Kafka protocol): none, gzip, snappy, lz4, zstd. None: it is too large."""
