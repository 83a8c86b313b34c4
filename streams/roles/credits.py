"""Bounds on addresses that are worked on at a time: in turn by who asks, and a large taker is never overtaken."""

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from itertools import count as count_up

Waiter = tuple[int, "asyncio.Future[int]"]
"""How many are wanted, and the promise of those that are given."""


class Credits:
    """``limit`` credits. Who asks for more than there are waits for all of them and takes those.

    Those who wait are served in turn and get equally much, as in start-time fair queueing (Goyal, Vin and Cheng, 1996):
    whoever takes fifty at a time has one turn where another, who takes one at a time, has fifty. So whoever asks for a
    thousand times as much as others holds none of them up by more than one take of his. One who waits alone is served
    first come, first served.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = limit
        self._waiting: dict[Hashable, deque[Waiter]] = {}
        self._order: list[tuple[int, int, Hashable]] = []
        """A heap of those who wait, each once: by what he had taken when his turn came up, then by when that was."""
        self._taken: dict[Hashable, int] = {}
        """Of those only who are ahead of the level."""
        self._level = 0
        """What those who are served now had taken; who comes new begins there."""
        self._numbers = count_up()

    @property
    def idle(self) -> bool:
        """Nobody has credits or waits for some."""
        return self._free == self._limit and not self._order

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
        if who not in self._waiting:
            self._waiting[who] = deque()
            self._line_up(who)
        self._waiting[who].append((count, turn))
        self._wake()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(turn.result())
            else:
                self._wake()
            raise

    def _line_up(self, who: Hashable) -> None:
        taken = self._taken[who] = max(self._level, self._taken.get(who, 0))
        heapq.heappush(self._order, (taken, next(self._numbers), who))

    def _give(self, count: int) -> None:
        self._free += count
        self._wake()

    def _wake(self) -> None:
        while self._order:
            taken, _, who = self._order[0]
            queue = self._waiting[who]
            while queue and queue[0][1].done():
                queue.popleft()  # He has given up.
            if queue and min(queue[0][0], self._limit) > self._free:
                return
            heapq.heappop(self._order)
            if queue:
                self._serve(who, taken, *queue.popleft())
            if queue:
                self._line_up(who)
            else:
                del self._waiting[who]
        self._taken = {who: taken for who, taken in self._taken.items() if taken > self._level}

    def _serve(self, who: Hashable, taken: int, wanted: int, turn: "asyncio.Future[int]") -> None:
        count = min(wanted, self._limit)
        self._level, self._taken[who] = taken, taken + count
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
