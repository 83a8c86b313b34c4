"""How many questions lie before one name server at a time: its receive buffer takes a few hundred, the rest is lost."""

import asyncio
from collections import deque

BURST = 100
"""Questions on their way to a server. Linux' default receive buffer (212,992 octets) holds about 270 of them."""

FRESH_S = 0.1
"""What is unanswered after so long has been read: now the server waits for others, and its buffer has room again."""


class Room:
    """Places for so many at a time, first come first served.

    asyncio's semaphore looks at everybody who waits each time that one leaves, and thousands do.
    """

    __slots__ = ("_free", "_waiting")

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a place, and take it."""
        if self._free:
            self._free -= 1
            return
        called = asyncio.get_running_loop().create_future()
        self._waiting.append(called)
        try:
            await called
        except BaseException:
            if called.done() and not called.cancelled():
                self.leave()  # called and cancelled at once: the place is the next one's
            raise

    def leave(self) -> None:
        """Give the place to who has waited longest."""
        while self._waiting:
            called = self._waiting.popleft()
            if not called.done():
                called.set_result(None)
                return
        self._free += 1


class Burst:
    """Lets ``size`` questions through that are neither answered nor older than ``fresh_s`` seconds.

    Unlike a bound on questions in flight it is not used up by names that nobody answers for.
    """

    def __init__(self, size: int = BURST, fresh_s: float = FRESH_S) -> None:
        self._room = Room(size)
        self._fresh_s = fresh_s

    def turn(self) -> "Turn":
        """Wait for room, then ask within the block; the room is free again when it ends or grows old."""
        return Turn(self._room, self._fresh_s)


class Turn:
    """The room of one question."""

    __slots__ = ("_fresh_s", "_room", "_timer")

    def __init__(self, room: Room, fresh_s: float) -> None:
        self._room = room
        self._fresh_s = fresh_s
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._room.enter()
        self._timer = asyncio.get_running_loop().call_later(self._fresh_s, self._leave)

    async def __aexit__(self, *_error: object) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._room.leave()
