"""A round-trip time: what goes in comes out in the same order, all of it so many seconds later."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

EARLY_S = 0.0005
"""Timers are no finer than a millisecond: what is due so soon is due."""


class DelayLine:
    """One timer for all that waits. ``clock``: in seconds; the loop's, unless its whole milliseconds are too coarse."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, clock: Callable[[], float] | None = None
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._clock = clock or loop.time
        self._waiting: deque[tuple[float, Callable[..., None], object]] = deque()

    def put(self, call: Callable[[T], None], what: T) -> None:
        """Have ``call(what)`` called."""
        self._waiting.append((self._clock() + self._seconds, call, what))
        if len(self._waiting) == 1:
            self._loop.call_later(self._seconds, self._run)

    def _run(self) -> None:
        now, waiting = self._clock(), self._waiting
        while waiting and waiting[0][0] <= now + EARLY_S:
            _, call, what = waiting[0]
            call(what)
            # Only now: a call that puts something in must not start a second timer.
            waiting.popleft()
        if waiting:
            self._loop.call_later(waiting[0][0] - now, self._run)
