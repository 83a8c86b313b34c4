"""A SOCKS5 proxy in a few lines, for one test: leads to loopback, or fails as it is told to."""

import asyncio
import ipaddress
from dataclasses import dataclass, field

BOUND = b"\x01\x7f\x00\x00\x01\x00\x00"


@dataclass
class SocksServer:
    """``code`` is its reply to CONNECT (RFC 1928 section 6); with ``login`` it wants that (RFC 1929).

    ``hangs`` at "greeting", "login" or "connect"; ``says`` that in place of its first reply. ``asked``: what it was
    asked to reach, by the kind of address.
    """

    code: int = 0
    login: tuple[str, str] | None = None
    hangs: str = ""
    says: bytes = b""
    source: str = "127.0.0.1"
    asked: list[tuple[int, str, int]] = field(default_factory=list)
    connections: int = 0
    gone: int = 0
    port: int = 0
    _open: list[asyncio.StreamWriter] = field(default_factory=list)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.append(writer)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.gone += 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = (await reader.readexactly(2))[1]
        await reader.readexactly(count)
        await self._maybe_hang("greeting", reader)
        if self.says:
            writer.write(self.says)
            return
        writer.write(b"\x05\x02" if self.login else b"\x05\x00")
        if self.login and not await self._logged_in(reader, writer):
            return
        host, port = await self._target(reader)
        await self._maybe_hang("connect", reader)
        if self.code:
            writer.write(bytes([5, self.code, 0]) + BOUND)
            return
        there = await asyncio.open_connection(host, port, local_addr=(self.source, 0))
        self._open.append(there[1])
        writer.write(b"\x05\x00\x00" + BOUND)
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))

    async def _logged_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        given = []
        await reader.readexactly(1)
        for _ in range(2):
            length = (await reader.readexactly(1))[0]
            given.append((await reader.readexactly(length)).decode())
        await self._maybe_hang("login", reader)
        good = tuple(given) == self.login
        writer.write(b"\x01\x00" if good else b"\x01\x01")
        return good

    async def _target(self, reader: asyncio.StreamReader) -> tuple[str, int]:
        kind = (await reader.readexactly(4))[3]
        size = {1: 4, 4: 16}.get(kind) or (await reader.readexactly(1))[0]
        address = await reader.readexactly(size)
        host = str(ipaddress.ip_address(address)) if kind in (1, 4) else address.decode()
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append((kind, host, port))
        return host, port

    async def _maybe_hang(self, at: str, reader: asyncio.StreamReader) -> None:
        if self.hangs == at:
            await reader.read()
            raise ConnectionError


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    finally:
        writer.close()
