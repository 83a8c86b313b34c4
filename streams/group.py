"""Everything that runs in one process: started in parallel, drained in parallel, and stopped by the first failure."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mode import Service

from streams.engine import Engine

logger = logging.getLogger(__name__)

STOP_SLACK_S = 10.0
"""What leaving the consumer groups and closing connections may take after the drain."""


class WorkerFailed(Exception):
    """The worker stopped by itself; nothing unfinished was acknowledged, so starting it again is all there is to do."""


class Group(Service):
    """Starts ``first`` in order (what the others need), then everything else at once; stops in the other order.

    ``awaited``: it is ready when all of these are set; else when all engines are settled.

    Faust's own way starts apps one after the other: 5.5 s against 1.9 s for four of them.
    """

    def __init__(
        self,
        first: Sequence[Service],
        engines: Sequence[Engine],
        services: Sequence[Service] = (),
        *,
        awaited: Sequence[asyncio.Event] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._awaited = [engine.settled for engine in engines] if awaited is None else awaited
        self._first = tuple(first)
        self._engines = tuple(engines)
        self._services = list(services)
        self._failure: Exception | None = None
        self._failed = asyncio.Event()

    def also(self, service: Service) -> None:
        """Run this service too; before the start."""
        self._services.append(service)

    async def on_start(self) -> None:
        """Start what the others need."""
        for each in self._first:
            await self.add_runtime_dependency(each)

    async def on_started(self) -> None:
        """Start the others, in parallel; returns when tables are recovered."""
        await asyncio.gather(*(self.add_runtime_dependency(each) for each in (*self._engines, *self._services)))

    async def on_stop(self) -> None:
        """Drain, in parallel."""
        await asyncio.gather(*(each.stop() for each in (*self._engines, *self._services)))

    def fail(self, error: Exception) -> None:
        """Stop the worker: nothing more can be promised. The first error is the one that is told."""
        if self._failure is None:
            logger.error("the worker stops: %s", _sentence(error))  # At once, should the stop take long.
            self._failure = error
            self._failed.set()

    @property
    def failure(self) -> BaseException | None:
        """Why the worker has to stop, if it has to."""
        return self._failure or self.crash_reason

    @property
    def alive(self) -> bool:
        """Nothing has died."""
        return self.failure is None and not any(each.crashed for each in (*self._engines, *self._services))

    @property
    def ready(self) -> bool:
        """All partitions are assigned, all tables recovered, and nothing has died."""
        return self.alive and self.started and all(each.is_set() for each in self._awaited)

    async def run(self, stop: Awaitable[None], on_ready: Callable[[], None], drain_s: float) -> None:
        """Work until ``stop`` is done, then drain and return.

        Raises:
            WorkerFailed: something died, or the drain took longer than ``drain_s`` and a few seconds.
        """
        work = asyncio.create_task(self._work(on_ready))
        ends = [work, *map(asyncio.ensure_future, (stop, self._failed.wait(), self.wait_until_stopped()))]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            self.fail(_as_exception(work.exception()))
        if self.failure is not None:
            drain_s = self._give_up()
        try:
            await self._stop_within(drain_s + STOP_SLACK_S)
        finally:
            for end in ends:
                end.cancel()
        if self.failure is not None:
            raise WorkerFailed(_sentence(self.failure)) from self.failure

    async def _stop_within(self, seconds: float) -> None:
        # wait(), not wait_for(), which waits for what it has cancelled: mode's services may go on after that.
        stopping = asyncio.ensure_future(self.stop())
        await asyncio.wait({stopping}, timeout=seconds)
        if stopping.done():
            stopping.result()
        else:
            stopping.cancel()
            self.fail(WorkerFailed(f"the worker did not stop within {seconds:.0f} s"))

    async def _work(self, on_ready: Callable[[], None]) -> None:
        await self.start()
        await asyncio.gather(*(each.wait() for each in self._awaited))
        on_ready()
        await asyncio.Event().wait()

    def _give_up(self) -> float:
        for engine in self._engines:
            engine.drain_s = 0.0
        return 0.0


def _as_exception(error: BaseException | None) -> Exception:
    return error if isinstance(error, Exception) else WorkerFailed(repr(error))


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__
