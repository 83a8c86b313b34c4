"""What was learned, kept for as long as its source allows; concurrent asks for one key are one ask."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

DOMAINS = 50_000
"""What is known of so many domains is kept, by every part alike."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class FlightCache(Generic[K, V]):
    """At most ``size`` values, the least recently used going first, each with its own time to live.

    ``load(key)`` gives a value and its time to live in seconds; it must end by itself. It runs in a task of its own,
    so that an asker who gives up takes nothing from the others.
    """

    def __init__(
        self, load: Callable[[K], Awaitable[tuple[V, float]]], *, size: int, clock: Callable[[], float]
    ) -> None:
        self._load = load
        self._size = size
        self._clock = clock
        self._values: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._flights: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def peek(self, key: K) -> V | None:
        """The value where it is still good, without asking anybody."""
        if (entry := self._values.get(key)) is None:
            return None
        value, expires = entry
        if self._clock() >= expires:
            del self._values[key]
            return None
        self._values.move_to_end(key)
        return value

    async def get(self, key: K) -> V:
        """The value, loaded once for all who ask meanwhile."""
        if (value := self.peek(key)) is not None:
            return value
        if (flight := self._flights.get(key)) is None:
            flight = self._flights[key] = asyncio.create_task(self._fly(key))
        return await asyncio.shield(flight)

    async def _fly(self, key: K) -> V:
        try:
            value, ttl = await self._load(key)
            self._values[key] = (value, self._clock() + ttl)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
            return value
        finally:
            del self._flights[key]

    async def aclose(self) -> None:
        """Cancel what is still being loaded; who waits for it is cancelled too."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
