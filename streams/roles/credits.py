"""Bounds on addresses that are worked on at a time: first come, first served, and a large taker is never overtaken."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager


class Credits:
    """``limit`` credits. Who asks for more than there are waits for all of them and takes those."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def idle(self) -> bool:
        """Nobody has credits or waits for some."""
        return self._free == self._limit and not self._waiting

    @asynccontextmanager
    async def take(self, count: int) -> AsyncIterator[None]:
        """Wait for ``count`` credits; they are given back at the end."""
        count = min(count, self._limit)
        await self._acquire(count)
        try:
            yield
        finally:
            self._give(count)

    async def _acquire(self, count: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(count)
            else:
                self._waiting.remove((count, turn))
                self._wake()
            raise

    def _give(self, count: int) -> None:
        self._free += count
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            count, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= count
                turn.set_result(None)


class CreditsBy:
    """Credits of their own for each name; a name that nobody uses costs nothing."""

    def __init__(self, limit: Callable[[Hashable], int]) -> None:
        self._limit = limit
        self._by_name: dict[Hashable, Credits] = {}

    @asynccontextmanager
    async def take(self, name: Hashable, count: int) -> AsyncIterator[None]:
        """Wait for ``count`` credits of this name."""
        credits = self._by_name.setdefault(name, Credits(self._limit(name)))
        try:
            async with credits.take(count):
                yield
        finally:
            if credits.idle:
                self._by_name.pop(name, None)

    def __len__(self) -> int:
        return len(self._by_name)
