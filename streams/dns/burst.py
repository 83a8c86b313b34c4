"""How many questions lie before one name server at a time: its receive buffer takes a few hundred, the rest is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BURST = 100
"""Questions on their way to a server. Linux' default receive buffer (212,992 octets) holds about 270 of them."""

FRESH_S = 0.1
"""What is unanswered after so long has been read: now the server waits for others, and its buffer has room again."""


class Burst:
    """Lets ``size`` questions through that are neither answered nor older than ``fresh_s`` seconds.

    Unlike a bound on questions in flight it is not used up by names that nobody answers for.
    """

    def __init__(self, size: int = BURST, fresh_s: float = FRESH_S) -> None:
        self._room = asyncio.Semaphore(size)
        self._fresh_s = fresh_s

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for room, then ask within the block; the room is free again when it ends or grows old."""
        await self._room.acquire()
        held = True

        def leave() -> None:
            nonlocal held
            if held:
                held = False
                self._room.release()

        timer = asyncio.get_running_loop().call_later(self._fresh_s, leave)
        try:
            yield
        finally:
            timer.cancel()
            leave()
