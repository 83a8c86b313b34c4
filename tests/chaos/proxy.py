"""A network that fails: stands between clients and a broker, and stalls, refuses or resets when it is told to."""

import asyncio
import socket
import struct
from contextlib import suppress

PIECE = 64 * 1024
_LINGER_NOT = struct.pack("ii", 1, 0)
"""``SO_LINGER`` of nothing: closing says RST, as a network that lost its state does."""


class Proxy:
    """Listens at ``front`` of loopback and passes everything on to ``behind``; one for each broker."""

    def __init__(self, front: int, behind: int) -> None:
        self._front, self._behind = front, behind
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._front, limit=PIECE)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self, stalled: bool) -> None:
        """Connections stay open and nothing passes any more; what was sent meanwhile passes afterwards."""
        if stalled:
            self._flowing.clear()
        else:
            self._flowing.set()

    def refuse(self, refusing: bool) -> None:
        """Whoever comes is sent away by a reset."""
        self._refusing = refusing

    def reset(self) -> None:
        """Every open connection ends by a reset."""
        for writer in list(self._open):
            _abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        # asyncio asks this task for its exception: a cancelled one would be an error to it.
        with suppress(asyncio.CancelledError):
            await self._between(reader, writer)
        self._open.discard(writer)
        _abort(writer)

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._behind, limit=PIECE)
        except OSError:
            return  # The broker is down.
        self._open.add(back)
        try:
            ways = {asyncio.create_task(self._pass(reader, back)), asyncio.create_task(self._pass(there, writer))}
            _, left = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in left:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._open.discard(back)
            _abort(back)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(PIECE):
                await self._flowing.wait()
                writer.write(piece)
                await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
