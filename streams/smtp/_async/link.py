"""The seam to the network: an open connection that bytes go into and come out of.

``_sync/link.py`` has the same methods over a blocking socket; ``tests`` have a third one, a script.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from streams.smtp.exchange import Capabilities

MAX_UNREAD = 256 * 1024
"""Octets that a server may send while nobody reads; then the connection is cut."""

LINGER_S = 1.0
"""How long QUIT and TLS's own farewell may take to leave the machine before the socket is cut."""


class AsyncLink(Protocol):
    """What a connection needs of the network."""

    capabilities: Capabilities

    def watch(self, on_activity: Callable[[], None]) -> None:
        """Call back when bytes or the end come while nobody reads."""

    def write(self, data: bytes) -> None:
        """Send all of ``data``; a lost connection is told by :meth:`read`."""

    async def read(self, timeout: float) -> bytes:
        """What has come, or the next that comes within ``timeout`` seconds; empty when the server has closed.

        :raises TimeoutError: nothing came.
        """

    def unread(self) -> bytes | None:
        """What has come while nobody read; empty when the server has closed; None: nothing. Never waits."""

    async def start_tls(self, timeout: float) -> None:
        """STARTTLS, the handshake and EHLO once more; ``capabilities`` are new then.

        :raises DialFailed: it did not work; the connection is of no use any more.
        """

    def cut(self) -> None:
        """End the connection at once; whoever reads finds the end. The synchronous twin allows it from any thread."""

    def close(self, farewell: bytes = b"") -> None:
        """Send ``farewell``, wait for nothing, close. May be called again."""


class StreamLink(asyncio.Protocol):
    """The half of an :class:`AsyncLink` that every asyncio transport shares; its dialler adds STARTTLS."""

    __slots__ = ("_chunks", "_eof", "_loop", "_on_activity", "_transport", "_unread", "_waiter")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: list[bytes] = []
        self._unread = 0
        self._eof = False
        self._waiter: asyncio.Future[None] | None = None
        self._on_activity: Callable[[], None] | None = None
        self._take_over(transport)

    def _take_over(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_protocol(self)
        # A transport that was lost before now has told the protocol that it had then.
        self._eof = transport.is_closing()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._unread += len(data)
        if self._unread > MAX_UNREAD:
            self._transport.abort()
        self._wake()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        return False  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif self._on_activity is not None:
            self._on_activity()

    # AsyncLink

    def watch(self, on_activity: Callable[[], None]) -> None:
        self._on_activity = on_activity

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    async def read(self, timeout: float) -> bytes:
        if (data := self.unread()) is not None:
            return data
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(timeout, _expire, self._waiter)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
        return self.unread() or b""

    def unread(self) -> bytes | None:
        if self._chunks:
            data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks.clear()
            self._unread = 0
            return data
        return b"" if self._eof else None

    def cut(self) -> None:
        self._transport.abort()

    def close(self, farewell: bytes = b"") -> None:
        self._on_activity = None
        if self._transport.is_closing():
            return
        if not farewell:
            self._transport.abort()
            return
        self._transport.write(farewell)
        self._transport.close()
        if self._transport.get_write_buffer_size() or self._transport.get_extra_info("sslcontext"):
            self._loop.call_later(LINGER_S, self._transport.abort)


def _expire(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
