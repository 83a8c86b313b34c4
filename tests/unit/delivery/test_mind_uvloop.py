"""A connection that uvloop has closed is a broken one to aiokafka."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError

from streams.kafka import mind_uvloop


class Closed:
    """A writer on uvloop's transport that is closed."""

    def write(self, _: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("send", "_send_sasl_token"):
        monkeypatch.setattr(AIOKafkaConnection, name, getattr(AIOKafkaConnection, name))


def connection() -> Any:
    made = AIOKafkaConnection("127.0.0.1", 1)
    made._writer, made._reader = Closed(), SimpleNamespace(at_eof=lambda: False)
    made._read_task = asyncio.create_task(asyncio.sleep(0))
    return made


def request() -> Any:
    struct = SimpleNamespace(encode=lambda: b"", build_request_header=lambda **_: SimpleNamespace(encode=lambda: b""))
    return SimpleNamespace(prepare=lambda _: struct)


async def test_aiokafka_does_not_expect_it() -> None:
    with pytest.raises(RuntimeError):
        connection().send(request())


async def test_it_is_closed_and_said_to_be_broken() -> None:
    mind_uvloop()
    made = connection()
    with pytest.raises(KafkaConnectionError, match="closed"):
        made.send(request())
    assert not made.connected(), "the next request opens another one"
    made = connection()
    with pytest.raises(KafkaConnectionError):
        made._send_sasl_token(b"")
