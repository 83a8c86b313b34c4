"""A server that closes in the same segment as its EHLO reply: either twin calls that a failed dial, not a mistake."""

import asyncio
import contextlib

import pytest

from streams.smtp._async.pool import AsyncSMTPPool
from streams.smtp._sync.pool import SMTPPool
from streams.smtp.errors import ConnectFailed
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.session import Ended

ME = Identity("probe.mailvet.test")


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mx.test ESMTP\r\n")
    await reader.readline()
    writer.write(b"250-mx.test\r\n250 PIPELINING\r\n")
    writer.close()


def _sync_lease(host: Host) -> str:
    with SMTPPool(identity=ME) as pool, pool.lease("p", [host], timeout=5) as connection:
        return str(connection.ask(["a@b.test"]).ended)


async def _async_lease(host: Host) -> str:
    async with AsyncSMTPPool(identity=ME) as pool, pool.lease("p", [host], timeout=5) as connection:
        return str((await connection.ask(["a@b.test"])).ended)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_nobody_is_left_to_ask(kind: str) -> None:
    server = await asyncio.start_server(_hang_up, "127.0.0.1", 0)
    host = Host("mx.test", *server.sockets[0].getsockname()[:2])
    async with server:
        for _ in range(20):
            with contextlib.suppress(ConnectFailed):
                said = await (_async_lease(host) if kind == "async" else asyncio.to_thread(_sync_lease, host))
                assert said == Ended.CLOSED
