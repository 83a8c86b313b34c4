"""The Metadata request and its answer, as bytes."""

import struct

import pytest

from ops.brokers.wire import brokers_in, metadata_request

ONE_BROKER = struct.pack(">iii", 1, 0, 1) + b"rest"


def test_the_request_asks_for_no_topic_and_creates_none() -> None:
    request = metadata_request()
    (size,) = struct.unpack_from(">i", request)
    key, version, correlation, name = struct.unpack_from(">hhih", request, 4)
    assert size == len(request) - 4
    assert (key, version, correlation, name) == (3, 4, 1, len("mailvet"))
    assert request[14:] == b"mailvet" + struct.pack(">i?", 0, False)


@pytest.mark.parametrize(
    ("response", "count"),
    [
        (ONE_BROKER, 1),
        (struct.pack(">iii", 1, 0, 0), 0),
        (struct.pack(">iii", 1, 0, -1), 0),
        (struct.pack(">iii", 2, 0, 1), 0),
        (b"\0\0\0\1", 0),
        (b"", 0),
    ],
    ids=["one", "none yet", "null array", "another correlation", "cut short", "empty"],
)
def test_only_a_broker_that_was_let_in_counts(response: bytes, count: int) -> None:
    assert brokers_in(response) == count
