"""What the pool needs of threads beside the network; ``_async/waiting.py`` has the same of asyncio."""

import threading
from collections.abc import Callable

Lock = threading.RLock


class Turn:
    """Somebody waits until somebody else rings, once."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def ring(self) -> None:
        """Wake the one that waits, now or later."""
        self._event.set()

    def wait(self, timeout: float) -> bool:
        """True when it rang within ``timeout`` seconds."""
        return self._event.wait(max(0.0, timeout))


class Background:
    """Work that the pool does for itself, beside its callers. Its threads never keep a program alive."""

    __slots__ = ("_threads",)

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()

    def __len__(self) -> int:
        return len(self._threads)

    def start(self, work: Callable[..., None], *arguments: object) -> None:
        """Run ``work``; nobody waits for it."""

        def run() -> None:
            try:
                work(*arguments)
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.add(thread)
        thread.start()

    def stop(self) -> None:
        """What is under way ends with its sessions, which the pool closes."""


class Alarm:
    """One timer that runs a function; setting it again moves it. The thread behind it never keeps a program alive."""

    __slots__ = ("_run", "_timer", "due")

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self._timer: threading.Timer | None = None
        self.due: float | None = None
        """When it rings, by the clock of whoever set it; None: not set."""

    def set(self, due: float, delay: float) -> None:
        """Ring in ``delay`` seconds, which the caller's clock calls ``due``."""
        self.cancel()
        self.due = due
        self._timer = threading.Timer(delay, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.due = None

    def _ring(self) -> None:
        # Set anew meanwhile? Then that timer is not ours to forget.
        if threading.current_thread() is self._timer:
            self._timer = self.due = None
        self._run()
