"""Long work on one record lets others have the event loop: all roles of a process may share it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")

BREATH = 50
"""Things done between two looks at what else waits: one to two milliseconds (docs/decisions/0006)."""


async def breathing(things: Iterable[T], every: int = BREATH) -> AsyncIterator[T]:
    """The things one by one; after every few of them whatever else is ready runs."""
    for number, thing in enumerate(things, start=1):
        yield thing
        if number % every == 0:
            await asyncio.sleep(0)
