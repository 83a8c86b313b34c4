"""What roles do by the clock rather than for a record."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mode import Service

from streams.delivery.runner import Deliver
from streams.engine import Engine
from streams.records import Outgoing

EVERY_S = 1.0

Chore = Callable[[int], Iterable[Outgoing]]
"""Called with milliseconds since 1970; gives records to write. Bounded: some tens of milliseconds a call."""


class Chores(Service):
    """Calls the chores of one app about once a second, while its partitions are settled and its tables whole."""

    def __init__(
        self,
        app: Engine,
        chores: Sequence[Chore],
        *,
        deliver: Deliver,
        clock: Callable[[], int],
        on_fatal: Callable[[Exception], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._app, self._chores, self._deliver, self._clock, self._on_fatal = app, chores, deliver, clock, on_fatal

    @Service.task
    async def _go_on(self) -> None:
        try:
            while not self.should_stop:
                await self.sleep(EVERY_S)
                await self.once()
        except Exception as error:  # noqa: BLE001  a worker whose deadlines are not kept has to be started anew
            self._on_fatal(error)

    async def once(self) -> None:
        """Every chore once, unless partitions are on the move: then rows may be missing or another's."""
        for chore in self._chores:
            if self._app.settled.is_set() and not self._app.should_stop:
                await self._deliver(list(chore(self._clock())))
