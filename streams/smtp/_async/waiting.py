"""What the pool needs of asyncio beside the network; ``_sync/waiting.py`` has the same of threads."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType


class Lock:
    """One event loop, no thread: what has no ``await`` in it is not interrupted."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Turn:
    """Somebody waits until somebody else rings, once."""

    __slots__ = ("_future", "_rung")

    def __init__(self) -> None:
        self._rung = False
        self._future: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the one that waits, now or later."""
        self._rung = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout: float) -> bool:
        """True when it rang within ``timeout`` seconds."""
        if self._rung:
            return True
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer = loop.call_later(max(0.0, timeout), self._expire)
        try:
            await self._future
        finally:
            timer.cancel()
        return self._rung

    def _expire(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class Background:
    """Work that the pool does for itself, beside its callers."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Callable[..., Coroutine[None, None, None]], *arguments: object) -> None:
        """Run ``work``; nobody waits for it."""
        task = asyncio.get_running_loop().create_task(work(*arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Alarm:
    """One timer that runs a function; setting it again moves it."""

    __slots__ = ("_run", "_timer", "due")

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self._timer: asyncio.TimerHandle | None = None
        self.due: float | None = None
        """When it rings, by the clock of whoever set it; None: not set."""

    def set(self, due: float, delay: float) -> None:
        """Ring in ``delay`` seconds, which the caller's clock calls ``due``."""
        self.cancel()
        self.due = due
        self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def cancel(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.due = None

    def _ring(self) -> None:
        self._timer = self.due = None
        self._run()
