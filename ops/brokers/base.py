"""What every broker offers, and the small things they share."""

import os
import random
import socket
from collections import deque
from pathlib import Path
from typing import Protocol

# Below Linux's ephemeral range (32768 and up): after a kill no client's own port can sit on the broker's.
PORTS = range(12_000, 32_000)

KEPT_LOGS = 40


class BrokerError(RuntimeError):
    """A broker did not do what was asked; the sentence says why, and where its log lies."""


class BrokerMissing(BrokerError):
    """There is nothing on this machine that this kind of broker could be made of; the sentence says what to install."""


class Broker(Protocol):
    """A running broker. All methods block, within bounds, and raise `BrokerError` with a sentence."""

    @property
    def name(self) -> str:
        """What it is, for a reader: ``Apache Kafka 4.4.0 (Maven Central jars)``."""

    @property
    def bootstrap(self) -> str:
        """``HOST:PORT``, the same over its whole life."""

    @property
    def killable(self) -> bool:
        """Whether `kill` and `restart` can be used: not on a broker that somebody else runs."""

    @property
    def durable(self) -> bool:
        """Whether records outlive `kill` and `restart`."""

    def kill(self) -> None:
        """SIGKILL: the crash of a machine."""

    def restart(self) -> None:
        """Start it again on the same port and the same data; returns when it serves. One that runs is stopped first."""

    def stop(self) -> None:
        """End it for good and remove its data. Calling it twice does no harm."""


_GIVEN: deque[int] = deque(maxlen=len(PORTS) // 2)
"""What was handed out last: who got it may not listen on it yet."""


def free_port() -> int:
    """A port of loopback that nobody listens on now, and that was not given to anybody in this process of late.

    Raises:
        BrokerError: none of a hundred tries was free.
    """
    for port in random.sample(sorted(set(PORTS).difference(_GIVEN)), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _GIVEN.append(port)
            return port
    raise BrokerError(f"no free port between {PORTS.start} and {PORTS.stop} on 127.0.0.1")


def cache_dir() -> Path:
    """Where downloads and logs are kept: ``MAILVET_CACHE``, else ``.kafka`` in a checkout, else the user's cache."""
    given = os.environ.get("MAILVET_CACHE")
    checkout = Path(__file__).resolve().parents[2]
    if given:
        directory = Path(given)
    elif (checkout / "pyproject.toml").is_file():
        directory = checkout / ".kafka"
    else:
        directory = Path.home() / ".cache" / "mailvet"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def log_file(name: str) -> Path:
    """Where a broker writes what it says: kept after it ended, until `KEPT_LOGS` newer ones are there."""
    folder = cache_dir() / "logs"
    folder.mkdir(exist_ok=True)
    by_age = sorted(folder.glob("*.log"), key=_modified, reverse=True)
    for old in by_age[KEPT_LOGS - 1 :]:
        old.unlink(missing_ok=True)
    return folder / f"{name}.log"


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another run has just removed it
        return 0.0
