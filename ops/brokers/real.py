"""A real broker for the tests: the one that is given, else a container, else Apache Kafka's jars, else the embedded."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping

from ops.brokers.base import Broker, BrokerError, BrokerMissing
from ops.brokers.container import ContainerKafka
from ops.brokers.embedded import Embedded
from ops.brokers.kafka import JarKafka

Maker = Callable[[], Broker]


class Given:
    """A broker that somebody else runs: used as it stands, never killed, nothing of it removed."""

    killable = False
    durable = True

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.name = f"the broker given by KAFKA_BOOTSTRAP_SERVERS ({bootstrap})"

    def kill(self) -> None:
        """Refused."""
        raise BrokerError(f"{self.name} is not ours to kill")

    def restart(self) -> None:
        """Refused."""
        raise BrokerError(f"{self.name} is not ours to restart")

    def stop(self) -> None:
        """Nothing to do."""


def start(
    environment: Mapping[str, str],
    *,
    note: Callable[[str], None] = print,
    real: tuple[Maker, ...] = (ContainerKafka, JarKafka),
    fallback: Maker = Embedded,
) -> Broker:
    """Start the best broker to be had.

    Args:
        environment: ``KAFKA_BOOTSTRAP_SERVERS`` names a broker to use; with ``CI=true`` a missing real one is an error.
        note: told what had to be passed over, and why.
        real: makers of real brokers, best first; one that raises `BrokerError` is passed over.
        fallback: the maker of the last resort.

    Raises:
        BrokerMissing: ``CI=true`` and no real broker; the sentence says what each lacked.
    """
    if given := environment.get("KAFKA_BOOTSTRAP_SERVERS", "").strip():
        return Given(given)
    lacking = []
    for maker in real:
        try:
            return maker()
        except BrokerError as missing:
            lacking.append(str(missing))
    reasons = "; ".join(lacking)
    if environment.get("CI", "").lower() in {"true", "1"}:
        raise BrokerMissing(f"CI=true needs a real Apache Kafka and there is none: {reasons}")
    note(f"NOTE: NO REAL KAFKA, so the embedded broker stands in; crash and offset tests prove less. {reasons}")
    return fallback()


@contextlib.contextmanager
def broker(environment: Mapping[str, str] | None = None, *, note: Callable[[str], None] = print) -> Iterator[Broker]:
    """The best broker to be had (see `start`), for the length of a ``with`` block.

    Raises:
        BrokerMissing: ``CI=true`` and no real broker.
    """
    running = start(os.environ if environment is None else environment, note=note)
    try:
        yield running
    finally:
        running.stop()
