"""A connection's way back to the client: replies leave in order, each not before its time."""

import asyncio
from collections import deque

PIECE_PAUSE_S = 0.0003
"""Between pieces of one byte: enough for them to arrive one by one."""


class Wire:
    """A delay line in front of a transport; nothing sleeps, one timer waits for the head of the queue.

    What the server does takes ``pause_s``, one thing after the other; ``rtt_s`` comes on top for all of it alike, so
    that pipelined replies share one round trip.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        rtt_s: float = 0.0,
        *,
        one_byte_pieces: bool = False,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._rtt_s = rtt_s
        self._pieces = one_byte_pieces
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._busy_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def outstanding(self) -> bool:
        """Whether something still waits to be sent."""
        return bool(self._queue)

    def send(self, data: bytes, pause_s: float = 0.0) -> None:
        """Write after the pause (infinity: never), behind everything that was sent before."""
        if self._pieces:
            for piece in data:
                self._put(bytes((piece,)), pause_s)
                pause_s = PIECE_PAUSE_S
        elif data:
            self._put(data, pause_s)

    def close(self) -> None:
        """Close when everything before has been sent."""
        self._put(None, 0.0)

    def drop(self) -> None:
        """Forget what waits, because the connection is gone."""
        self._queue.clear()
        if self._timer:
            self._timer.cancel()

    def _put(self, data: bytes | None, pause_s: float) -> None:
        now = self._loop.time()
        self._busy_until = max(now, self._busy_until) + pause_s
        due = self._busy_until + self._rtt_s
        if due <= now and not self._queue:
            self._write(data)
            return
        self._queue.append((due, data))
        if len(self._queue) == 1:
            self._timer = self._loop.call_at(due, self._flush)

    def _flush(self) -> None:
        self._write(self._queue.popleft()[1])
        now = self._loop.time()
        while self._queue and self._queue[0][0] <= now:
            self._write(self._queue.popleft()[1])
        if self._queue:
            self._timer = self._loop.call_at(self._queue[0][0], self._flush)

    def _write(self, data: bytes | None) -> None:
        if data is None:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write(data)
