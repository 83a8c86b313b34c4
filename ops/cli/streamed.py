"""Addresses from a pipe or a terminal: verified while they come, with a bounded number of them in flight."""

import asyncio
import codecs
import io
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from schemas.result import Finding
from schemas.vocabulary import Depth
from streams.checks.verify import REFILL, Verifier

READ_BYTES = 64 * 1024
"""What is read at a time; a line longer than this is taken apart, since no address is as long."""

Say = Callable[[int, str, Finding], None]
"""Told of each answer: where its address stood, as it was written there, and what was found."""


async def verify_streamed(
    verifier: Verifier, source: AsyncIterator[list[str]], depth: Depth, *, window: int, say: Say
) -> None:
    """Verify what ``source`` gives, at most ``window`` addresses at a time; nothing is read while there is no room."""
    flight = _Flight(verifier, depth, window, say)
    try:
        async with asyncio.TaskGroup() as tasks:
            async for lines in source:
                begun = 0
                while begun < len(lines):
                    free = await flight.room(len(lines) - begun)
                    tasks.create_task(flight.verify(flight.take(free), lines[begun : begun + free]))
                    begun += free
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


class _Flight:
    """The addresses that are being verified."""

    def __init__(self, verifier: Verifier, depth: Depth, window: int, say: Say) -> None:
        self._verifier, self._depth, self._window, self._say = verifier, depth, window, say
        self._taken = self._answered = 0
        self._freed = asyncio.Event()

    async def room(self, wanted: int) -> int:
        """Wait until there is room for ``wanted``, or for enough that it's worth a start; how many may start."""
        while (free := self._window - self._taken + self._answered) < min(wanted, self._window * REFILL):
            self._freed.clear()
            await self._freed.wait()
        return min(wanted, free)

    def take(self, count: int) -> int:
        """Of so many more, the place of the first."""
        self._taken += count
        return self._taken - count

    async def verify(self, first: int, lines: list[str]) -> None:
        """Tell of each of these that were taken, as it is known."""
        async with aclosing(self._verifier.verify(lines, self._depth, window=len(lines))) as answers:
            async for index, text, finding in answers:
                self._say(first + index, text, finding)
                self._answered += 1
                self._freed.set()


async def lines_of(descriptor: int, encoding: str) -> AsyncIterator[list[str]]:
    """The lines of a pipe, a terminal or a socket as they come, without their ends; empty ones are passed over.

    What is no text shows as such. Whoever waits here can be cancelled; the descriptor stays as it was (it may be the
    terminal's, which others write to: it must not become non-blocking).
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)("backslashreplace"), translate=True)
    rest = ""
    while data := await _read(descriptor):
        *lines, rest = (rest + decoder.decode(data)).split("\n")
        if len(rest) > READ_BYTES:
            lines, rest = [*lines, rest], ""
        if lines := [line for line in lines if line.strip()]:
            yield lines
    if (rest := rest + decoder.decode(b"", final=True)).strip():
        yield [rest]


async def _read(descriptor: int) -> bytes:
    """What is there, once something is; nothing at the end."""
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, there.set)
    except PermissionError:
        return os.read(descriptor, READ_BYTES)  # A device that never keeps anybody waiting, such as /dev/null.
    try:
        await there.wait()
        return os.read(descriptor, READ_BYTES)
    finally:
        loop.remove_reader(descriptor)
