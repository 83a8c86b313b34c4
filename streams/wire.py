"""What Kafka's protocol lets strangers write and aiokafka can't read: header names that are not UTF-8.

Brokers pass them on (measured on Kafka 4.4.0) and aiokafka raises where it unpacks the batch, so that one such record
would end every worker that meets it. Here its names are read with escapes, and the record ends as any other.
"""

import struct
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_LENGTH = struct.Struct(">8xi")
"""The head of every batch (Kafka protocol, record batch): base offset, and the length of what follows."""


def read_any_header() -> None:
    """Let every consumer of this process read such records."""
    fetcher.MemoryRecords = LenientRecords


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
    """A batch that is unpacked as ever, and once more by hand if that fails."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
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
