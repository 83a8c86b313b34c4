"""What was learned, kept for as long as its source allows; concurrent asks for one key are one ask."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

DOMAINS = 50_000
"""What is known of so many domains is kept, by every part alike."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Flight(Generic[V]):
    """A value that is being loaded: by whom, and who else waits for it."""

    loader: "asyncio.Task[Any]"
    waiting: "list[asyncio.Future[V | None]]" = field(default_factory=list)

    def land(self, value: V | None) -> None:
        """Tell who waits; null where the loader has none, and the next is to load it."""
        for each in self.waiting:
            if not each.done():
                each.set_result(value)

    def cancel(self) -> None:
        """Nobody is to wait any more."""
        for each in (*self.waiting, self.loader):
            each.cancel()


class FlightCache(Generic[K, V]):
    """At most ``size`` values, the least recently used going first, each with its own time to live.

    ``load(key)`` gives a value and its time to live in seconds; it must end by itself. Who asks first loads for all who
    ask meanwhile, without a task for it; where he gives up, the next one loads.
    """

    def __init__(
        self, load: Callable[[K], Awaitable[tuple[V, float]]], *, size: int, clock: Callable[[], float]
    ) -> None:
        self._load = load
        self._size = size
        self._clock = clock
        self._values: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._flights: dict[K, _Flight[V]] = {}

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
        while (flight := self._flights.get(key)) is not None:
            landed: asyncio.Future[V | None] = flight.loader.get_loop().create_future()
            flight.waiting.append(landed)
            if (value := await landed) is not None:
                return value
        return await self._fly(key)

    async def _fly(self, key: K) -> V:
        flight: _Flight[V] = _Flight(cast("asyncio.Task[Any]", asyncio.current_task()))
        self._flights[key] = flight
        value = None
        try:
            value, ttl = await self._load(key)
            self._values[key] = (value, self._clock() + ttl)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
            return value
        finally:
            del self._flights[key]
            flight.land(value)

    def close(self) -> None:
        """Cancel whoever still loads, in a task of his own, and who waits for it."""
        for flight in self._flights.values():
            flight.cancel()
