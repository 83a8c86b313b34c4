"""Ctrl-C and SIGTERM as something to wait for, so that a command ends in good order."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from ops.cli.errors import Interrupted

T = TypeVar("T")

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the user wants the command to end, and by which signal it was said."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self, number: int = signal.SIGINT) -> None:
        """Ask for the end, as signal `number` does."""
        self.number = number
        self._event.set()

    async def wait(self) -> None:
        """Return when the end was asked for."""
        await self._event.wait()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """For the length of the block SIGINT and SIGTERM set the `Stop` that is yielded; a second one acts as usual, so
    that nobody has to wait for the good order. Must be entered inside a running event loop of the main thread."""
    loop = asyncio.get_running_loop()
    stop = Stop()

    def restore() -> None:
        for number in STOPPING:
            loop.remove_signal_handler(number)

    def received(number: int) -> None:
        restore()
        stop.set(number)

    for number in STOPPING:
        loop.add_signal_handler(number, received, number)
    try:
        yield stop
    finally:
        restore()


async def unless_stopped(work: Coroutine[Any, Any, T], stop: Stop) -> T:
    """Do `work`, or cancel it when the user wants to stop: it must be able to end at any await.

    Raises:
        Interrupted: the user stopped it.
    """
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Interrupted("interrupted", stop.number or 0)
        return working.result()
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
