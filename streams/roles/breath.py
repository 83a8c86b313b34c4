"""Long work on one record lets others have the event loop, which all roles of a process share (docs/decisions/0006)."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

from streams.roles.credits import Credits

T = TypeVar("T")

BREATH = 20
"""Addresses between two looks at what else waits: about half a millisecond."""


async def breathing(things: Iterable[T], every: int = BREATH) -> AsyncIterator[T]:
    """The things one by one; after every few of them whatever else is ready runs."""
    for number, thing in enumerate(things, start=1):
        yield thing
        if number % every == 0:
            await asyncio.sleep(0)


class Turns:
    """Of all the work of one name, one piece computes at a time: a flood has one turn in each round of the loop."""

    def __init__(self) -> None:
        self._turns: defaultdict[str, Credits] = defaultdict(lambda: Credits(1))

    @asynccontextmanager
    async def take(self, name: str, who: Hashable = None) -> AsyncIterator[None]:
        """Wait for the turn, which goes round those who ask. Hold it to compute, never to wait for the network."""
        async with self._turns[name].take(1, who):
            yield
            await asyncio.sleep(0)
