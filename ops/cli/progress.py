"""How far a long command is: a bar on a terminal, a plain line now and then elsewhere; both on stderr."""

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ops.cli.output import counted, duration

PLAIN_EVERY_S = 10.0
RATE_OVER_S = 30.0


class Rate:
    """Things done per second over the last `RATE_OVER_S`; `clock` gives seconds that never run backwards."""

    def __init__(self, done: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._samples = deque([(clock(), done)])

    def note(self, done: int) -> None:
        """So many are done now."""
        now = self._clock()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= RATE_OVER_S:
            self._samples.popleft()

    @property
    def per_second(self) -> float:
        """0.0 as long as nothing was done."""
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def left(self, remaining: int) -> float | None:
        """Seconds that `remaining` will take at this rate; None when nothing moves."""
        return remaining / self.per_second if self.per_second > 0 else None


class Meter:
    """Shows how many of `total` addresses are answered; enter it, then call :meth:`show` as often as you like."""

    def __init__(
        self, total: int, done: int, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._clock = clock
        self._console = console or Console(stderr=True)
        self._rate = Rate(done, clock)
        self._next_line = clock() + PLAIN_EVERY_S
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, done: int, in_flight: int, note: str = "") -> None:
        """So many addresses are answered and so many asked; `note` says what is waited for, if anything."""
        self._rate.note(done)
        if self._bar:
            self._bar.update(self._task, completed=done, description=self._line(done, in_flight, note))
        elif self._clock() >= self._next_line:
            self._next_line = self._clock() + PLAIN_EVERY_S
            self._console.print(self._line(done, in_flight, note), markup=False, highlight=False, soft_wrap=True)

    def _line(self, done: int, in_flight: int, note: str) -> str:
        left = self._rate.left(self._total - done)
        parts = [
            f"{done:,} of {counted(self._total, 'address', 'addresses')}",
            f"{self._rate.per_second:,.0f}/s",
            f"{duration(left)} left" if left is not None else "time left unknown",
            f"{in_flight:,} in flight",
        ]
        return ", ".join(parts) + (f"; {note}" if note else "")
