"""A child process that serves on a port and never outlives us."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from ops.brokers.base import BrokerError

_TAIL_LINES = 5


@cache
def _spawner() -> ThreadPoolExecutor:
    """The one thread that starts processes: Linux sends the parent-death signal when the *thread* that forked ends,
    and the thread of a caller (``asyncio.to_thread``) may end long before the tests do."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="broker-spawner")


def _bound_to_us(command: Sequence[str]) -> list[str]:
    """The same command, but killed by the kernel when we die (util-linux's setpriv; elsewhere as it stands)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--", *command] if setpriv else list(command)


def wait_until(done: Callable[[], bool], *, timeout: float, what: str) -> None:
    """Ask until `done`, at most `timeout` seconds.

    Raises:
        BrokerError: it never was; says `what` was waited for.
    """
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise BrokerError(f"{what} within {timeout:.0f} s")
        time.sleep(0.05)


class Daemon:
    """One command, started as often as asked.

    Args:
        command: program and arguments.
        log: both its outputs are appended here; named in every error.
        ready: asked again and again until it says that the process serves.
        start_timeout: seconds until it must serve.
        name: what it is called in errors.
        environment: its environment variables; ours when None.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        ready: Callable[[], bool],
        start_timeout: float = 60.0,
        name: str = "the broker",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name = name
        self._environment = environment
        self._command = _bound_to_us(command)
        self._log = log
        self._ready = ready
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the last process that was started, and of its process group."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            BrokerError: it ended, or did not serve in time; it is gone then.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = _spawner().submit(self._spawn, log.fileno()).result()
        try:
            wait_until(self._serves, timeout=self._start_timeout, what=f"{self._name} did not serve")
        except BaseException as error:
            self.kill()
            if isinstance(error, BrokerError):
                raise BrokerError(f"{error}: {self.last_words()}") from None
            raise

    def _serves(self) -> bool:
        status = self._process.poll() if self._process else None
        if status is not None:
            raise BrokerError(f"{self._name} ended with status {status}")
        return self._ready()

    def _spawn(self, log: int) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C on the terminal is ours to handle, the broker goes last.
        return subprocess.Popen(  # noqa: S603  our own command, no shell
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=self._environment,
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; nothing happens where there is none."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    @property
    def status(self) -> int | None:
        """How it ended; None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def stop(self, *, timeout: float = 10.0) -> None:
        """SIGTERM; SIGKILL after `timeout` seconds."""
        if self._process is None or not self.running:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self) -> str:
        """The end of its log, and where all of it lies."""
        lines = self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return " | ".join(line.strip() for line in lines) + f" (all of it: {self._log})"
