"""Batches as strangers may write them: read in bounded memory, whatever they unpack to."""

import gzip
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis.strategies import binary, lists, sampled_from

from streams import wire
from streams.wire import MAX_BATCH_BYTES, MAX_HEADERS, UNREADABLE, BoundedResult, LenientRecords

CODECS = {"plain": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


Headers = list[tuple[str, bytes]]


def batch(codec: str, *values: bytes, first: int = 0, headers: Headers | None = None) -> bytes:
    """A record batch as aiokafka's producer makes it."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=CODECS[codec],
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for offset, value in enumerate(values):
        builder.append(offset, timestamp=1000 + offset, key=b"k", value=value, headers=headers or [("h", b"v")])
    raw = bytearray(builder.build())
    raw[:8] = first.to_bytes(8, "big")
    return bytes(raw)


def read(raw: bytes) -> list[Any]:
    records, found = LenientRecords(raw), []
    while records.has_next():
        found += list(records.next_batch())
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_bearable_is_read_as_ever(codec: str) -> None:
    values = [b"one", b"x" * 3_000_000, b""]
    found = read(batch(codec, *values, first=7))
    assert [(each.offset, each.value, each.headers) for each in found] == [
        (7 + number, value, [("h", b"v")]) for number, value in enumerate(values)
    ]


@pytest.mark.parametrize("codec", [each for each in CODECS if each != "plain"])
def test_a_bomb_is_one_record_that_says_so_and_reading_goes_on(codec: str) -> None:
    bomb = batch(codec, b"before", b"\0" * MAX_BATCH_BYTES, first=3)
    assert len(bomb) < MAX_BATCH_BYTES / 10
    stand_in, after = read(bomb + batch("plain", b"after", first=5))
    assert (stand_in.offset, stand_in.timestamp, stand_in.key) == (4, 1001, None)
    assert stand_in.value == bomb
    assert stand_in.headers == [(UNREADABLE, b"a batch of 2 records unpacks to more than 16 MiB")]
    assert (after.offset, after.value) == (5, b"after")


def test_what_follows_the_first_member_of_gzip_is_no_way_round_the_bound() -> None:
    plain = batch("plain", b"before", b"\0" * MAX_BATCH_BYTES)
    head, records = bytearray(plain[:61]), plain[61:]
    head[22] |= CODECS["gzip"]
    packed = bytes(head) + gzip.compress(records[:20]) + gzip.compress(records[20:])
    [stand_in] = read((len(packed) - 12).to_bytes(4, "big").join((packed[:8], packed[12:])))
    assert stand_in.headers == [(UNREADABLE, b"a batch of 2 records can't be unpacked")]


@pytest.mark.parametrize("codec", CODECS)
def test_a_record_of_far_too_many_headers_is_not_read(codec: str) -> None:
    most = batch(codec, b"x", b"y", headers=[("h", b"v")] * MAX_HEADERS)
    assert [each.value for each in read(most)] == [b"x", b"y"]
    [stand_in] = read(batch(codec, b"x", b"y", first=3, headers=[("h", b"v")] * (MAX_HEADERS + 1)))
    assert stand_in.offset == 4
    assert stand_in.headers == [(UNREADABLE, b"a record of 1001 headers, 1000 may be")]


def test_a_batch_of_far_too_many_records_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_RECORDS", 2)
    assert len(read(batch("zstd", b"x", b"y"))) == 2
    [stand_in] = read(batch("zstd", b"x", b"y", b"z"))
    assert stand_in.headers == [(UNREADABLE, b"a batch of 3 records, 2 may be")]


@pytest.mark.parametrize("records", [b"\x00", b"\xff" * 20, b"\x7e\x00", b"\x14\x00\x00\x00\xfe\xff\xff\xff\x0f"])
def test_records_that_end_too_soon_or_never_are_not_read(records: bytes) -> None:
    cut = batch("plain", b"x")[:61] + records
    [stand_in] = read((len(cut) - 12).to_bytes(4, "big").join((cut[:8], cut[12:])))
    assert stand_in.headers == [(UNREADABLE, b"a batch of 1 records can't be unpacked")]


@settings(deadline=None)
@given(values=lists(binary(max_size=300), min_size=1, max_size=20), codec=sampled_from(sorted(CODECS)))
def test_whatever_a_producer_writes_is_read(values: list[bytes], codec: str) -> None:
    assert [each.value for each in read(batch(codec, *values))] == values


@pytest.mark.parametrize("codec", [each for each in CODECS if each != "plain"])
def test_what_can_not_be_unpacked_is_one_record_too(codec: str) -> None:
    raw = bytearray(batch(codec, b"x" * 1000))
    raw[61:] = b"\xff" * (len(raw) - 61)
    [stand_in] = read(bytes(raw))
    assert stand_in.headers == [(UNREADABLE, b"a batch of 1 records can't be unpacked")]


def test_an_unknown_codec_is_one_record_too() -> None:
    raw = bytearray(batch("gzip", b"x"))
    raw[22] |= 0b111
    [stand_in] = read(bytes(raw))
    assert b"can't be unpacked" in stand_in.headers[0][1]


def test_a_poll_is_bounded_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "POLL_BYTES", 100)
    result = polled([b"x" * 60] * 5 + [b"y" * 1000, None, b"z"])
    polls = []
    while result.has_more():
        polls.append([len(record.value or b"") for record in result.getall(200)])
    assert polls == [[60, 60], [60, 60], [60, 1000], [0, 1]]


@pytest.mark.parametrize("more", [{"key": b"k" * 60}, {"headers": [("h", b"v" * 59)]}, {"headers": [("h" * 60, b"")]}])
def test_keys_and_headers_count_as_values_do(more: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "POLL_BYTES", 100)
    monkeypatch.setattr(wire, "HEADER_BYTES", 0)
    result = polled([b""] * 5, **more)
    assert [len(result.getall(200)) for _ in range(3)] == [2, 2, 1]


def test_a_poll_is_bounded_by_number() -> None:
    result = polled([b"x"] * 5)
    assert [len(result.getall(each)) for each in (2, 2, 2)] == [2, 2, 1]
    assert not result.has_more()


class Records:
    """What aiokafka unpacks, a record at a time."""

    def __init__(self, values: list[bytes | None], key: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        self._left = iter(enumerate(values))
        self._key, self._headers = key, headers
        self.next_fetch_offset = 0

    def __iter__(self) -> "Records":
        return self

    def __next__(self) -> Any:
        offset, value = next(self._left)
        self.next_fetch_offset = offset + 1
        return SimpleNamespace(offset=offset, value=value, key=self._key, headers=self._headers)


def polled(values: list[bytes | None], key: bytes | None = None, headers: list[tuple[str, bytes]] | None = None) -> Any:
    state = SimpleNamespace(paused=False, position=0)
    state.consumed_to = lambda position: setattr(state, "position", position)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)
    return BoundedResult("tp", assignment=assignment, partition_records=Records(values, key, headers or []), backoff=0)


def test_every_consumer_of_the_process_reads_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)
    monkeypatch.setattr(fetcher, "FetchResult", fetcher.FetchResult)
    for _ in range(2):
        wire.read_anything()
        assert fetcher.MemoryRecords is LenientRecords
        assert fetcher.FetchResult is BoundedResult
