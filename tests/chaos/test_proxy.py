"""The network that fails, on loopback."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from ops.brokers.base import free_port
from tests.chaos.proxy import Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def front() -> AsyncIterator[tuple[Proxy, int]]:
    """A proxy before a server that says back what it is told."""
    behind, port = free_port(), free_port()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(100):
            writer.write(said)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", behind)
    async with Proxy(port, behind) as proxy:
        yield proxy, port
    server.close()


async def ask(streams: Streams, said: bytes) -> bytes:
    reader, writer = streams
    writer.write(said)
    return await asyncio.wait_for(reader.readexactly(len(said)), 5)


async def test_what_is_said_passes_both_ways(front: tuple[Proxy, int]) -> None:
    streams = await asyncio.open_connection("127.0.0.1", front[1])
    assert await ask(streams, b"hello") == b"hello"
    streams[1].close()


async def test_a_stall_holds_everything_back_and_loses_nothing(front: tuple[Proxy, int]) -> None:
    proxy, port = front
    streams = await asyncio.open_connection("127.0.0.1", port)
    assert await ask(streams, b"a") == b"a"
    proxy.stall(True)
    answer = asyncio.create_task(ask(streams, b"held back"))
    done, _ = await asyncio.wait({answer}, timeout=0.1)
    assert not done
    proxy.stall(False)
    assert await answer == b"held back"
    streams[1].close()


async def test_a_reset_ends_what_is_open_and_refuses_what_comes(front: tuple[Proxy, int]) -> None:
    proxy, port = front
    streams = await asyncio.open_connection("127.0.0.1", port)
    assert await ask(streams, b"a") == b"a"
    proxy.refuse(True)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(streams[0].read(), 5)
    reader, _ = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.readexactly(1), 5)
    proxy.refuse(False)
    streams = await asyncio.open_connection("127.0.0.1", port)
    assert await ask(streams, b"again") == b"again"
    streams[1].close()
