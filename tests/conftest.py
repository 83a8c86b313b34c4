"""What all tests share: real brokers and mail servers for those that ask for one, and a line that says which it was.

`make test` runs two processes, which share all tests: each fills the other's waits, and has brokers of its own.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import settings

from ops.brokers.base import Broker
from ops.brokers.real import broker as real_broker
from ops.mta.packages import MtaMissing
from ops.mta.server import Server

# How long one example takes is the machine's affair.
settings.register_profile("mailvet", deadline=None)
settings.load_profile("mailvet")

_USED: dict[str, int] = {}
_NOTES: set[str] = set()


MODULES_A_BROKER = 4
"""Test modules that share one broker: a start takes ten seconds, and each topic that is left costs it a little."""


class Brokers:
    """Hands out a broker to one module after the other, and now and then a new one."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._broker: Broker | None = None
        self._modules = 0

    def take(self) -> Broker:
        """For one more module."""
        if self._broker is None or self._modules == MODULES_A_BROKER:
            self.close()
            self._broker, self._modules = self._running.enter_context(real_broker(os.environ, note=_NOTES.add)), 0
            _USED[self._broker.name] = _USED.get(self._broker.name, 0) + 1
        self._modules += 1
        return self._broker

    def close(self) -> None:
        """End the one that runs."""
        self._running.close()


@pytest.fixture(scope="session")
def brokers() -> Iterator[Brokers]:
    """For all modules."""
    made = Brokers()
    yield made
    made.close()


@pytest.fixture(scope="module")
def broker(brokers: Brokers) -> Broker:
    """A broker for one test module; others have used it and will use it, so all that is made on it needs its own name.

    A real Apache Kafka where one can be had (see `ops.brokers.real`); a test may `kill` and `restart` it.
    """
    return brokers.take()


@pytest.fixture
def killable_broker(broker: Broker) -> Broker:
    """The same broker for tests that crash it: skipped on one that somebody else runs, or that keeps no records."""
    if not (broker.killable and broker.durable):
        pytest.skip(f"needs a broker that outlives a crash, and this is {broker.name}")
    return broker


@pytest.fixture
def start_mta() -> Iterator[Callable[[Callable[[], Server]], Server]]:
    """Starts a real mail server (see `ops.mta`) for one test.

    Where none can be had, the test is skipped with what to install; with ``CI=true`` it fails.
    """
    with ExitStack() as running:

        def start(make: Callable[[], Server]) -> Server:
            try:
                return running.enter_context(make())
            except MtaMissing as missing:
                if os.environ.get("CI", "").lower() in {"true", "1"}:
                    pytest.fail(f"CI=true needs real mail servers: {missing}")
                _NOTES.add(f"NOTE: NO REAL MAIL SERVER, so tests are skipped. {missing}")
                pytest.skip(str(missing))

        yield start


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several hands on what it has to say."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output.update(used=_USED, notes=sorted(_NOTES))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take it over; one that crashed has handed on nothing."""
    said = getattr(node, "workeroutput", {})
    _NOTES.update(said.get("notes", ()))
    for name, times in said.get("used", {}).items():
        _USED[name] = _USED.get(name, 0) + times


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once which broker the tests ran on."""
    for note in sorted(_NOTES):
        terminalreporter.write_line(note, yellow=True)
    for name, times in sorted(_USED.items()):
        terminalreporter.write_line(f"broker: {name}, started {times} time{'s' if times > 1 else ''}")
