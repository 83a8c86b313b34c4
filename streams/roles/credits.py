"""Bounds on addresses that are worked on at a time: in turn by who asks, and a large taker is never overtaken."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

Waiter = tuple[int, "asyncio.Future[int]"]
"""How many are wanted, and the promise of those that are given."""


class Credits:
    """``limit`` credits. Who asks for more than there are waits for all of them and takes those.

    Those who wait are served in turn, one request of each before the next of any: so whoever asks for a thousand times
    as much as others holds none of them up by more than one request. One who waits alone is served first come, first
    served.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = limit
        self._waiting: OrderedDict[Hashable, deque[Waiter]] = OrderedDict()

    @property
    def idle(self) -> bool:
        """Nobody has credits or waits for some."""
        return self._free == self._limit and not self._waiting

    def allow(self, limit: int) -> None:
        """There are ``limit`` from now on; who holds more than that keeps them until it gives them back."""
        self._free += limit - self._limit
        self._limit = limit
        self._wake()

    @asynccontextmanager
    async def take(self, count: int, who: Hashable = None) -> AsyncIterator[None]:
        """Wait for ``count`` credits; they are given back at the end."""
        given = await self._acquire(count, who)
        try:
            yield
        finally:
            self._give(given)

    async def _acquire(self, count: int, who: Hashable) -> int:
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append((count, turn))
        self._wake()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(turn.result())
            else:
                self._leave(who, (count, turn))
                self._wake()
            raise

    def _leave(self, who: Hashable, waiter: Waiter) -> None:
        queue = self._waiting.get(who, deque())
        if waiter in queue:  # Else its turn came after it had given up, and passed.
            queue.remove(waiter)
            if not queue:
                del self._waiting[who]

    def _give(self, count: int) -> None:
        self._free += count
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            who, queue = next(iter(self._waiting.items()))
            wanted, turn = queue[0]
            count = min(wanted, self._limit)
            if count > self._free:
                return
            queue.popleft()
            del self._waiting[who]
            if queue:
                self._waiting[who] = queue  # Behind all others.
            if not turn.done():
                self._free -= count
                turn.set_result(count)


class CreditsBy:
    """Credits of their own for each name, as many as ``limit`` says when somebody comes for some.

    A name that nobody uses costs nothing.
    """

    def __init__(self, limit: Callable[[Hashable], int]) -> None:
        self._limit = limit
        self._by_name: dict[Hashable, Credits] = {}

    @asynccontextmanager
    async def take(self, name: Hashable, count: int, who: Hashable = None) -> AsyncIterator[None]:
        """Wait for ``count`` credits of this name, in turn by ``who`` asks."""
        limit = self._limit(name)
        credits = self._by_name.setdefault(name, Credits(limit))
        credits.allow(limit)
        try:
            async with credits.take(count, who):
                yield
        finally:
            if credits.idle:
                self._by_name.pop(name, None)

    def __len__(self) -> int:
        return len(self._by_name)
