"""A worker with one role, `echo`, for the tests of delivery: it writes what it reads.

HOLD: offsets of partition 0 that never end. SECONDS: how long each record takes. ACKS=unordered: acknowledge at once,
as Faust does by itself. TABLE=1: count each key in a table and write the count. SOURCE: the topic to read.
DEAF=1: read no more once the first record came, as a consumer does that died without a word.
ECHO_LOGS: a folder for what Faust and aiokafka say at DEBUG, a file for each process.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from ops.cli.signals import stop_on_signals
from schemas.topics import ADMITTED_BULK, REQUESTS, RESULTS
from streams.delivery import OrderedAcks, Producer
from streams.engine import engine, subscribe, table
from streams.group import Group, WorkerFailed
from streams.installed import TableDeclaration
from streams.metrics import Metrics
from streams.progress import ProgressWatch
from streams.records import Incoming, Outgoing, Unusable
from streams.settings import Settings
from streams.subscription import Subscription

COUNTS = TableDeclaration("echo", "counts", replace(ADMITTED_BULK, partitions=2))
SOURCES = {"admitted": replace(ADMITTED_BULK, partitions=2), "requests": replace(REQUESTS, partitions=2)}


class Unordered(OrderedAcks):
    """The mistake that loses records."""

    def done(self, offset: int) -> list[int]:
        return [offset]


class Echo:
    def __init__(self) -> None:
        self._held = {int(each) for each in os.environ.get("HOLD", "").split(",") if each}
        self._seconds = float(os.environ.get("SECONDS", "0"))
        self.counts: dict[bytes, bytes] | None = None
        self.first: Callable[[], None] | None = None

    async def handle(self, record: Incoming) -> Sequence[Outgoing]:
        if self.first is not None:
            self.first()
        value = record.value if self.counts is None else self._count(record)
        if record.value.startswith(b"bad"):
            raise Unusable("invalid", "it is bad")
        if record.partition == 0 and record.offset in self._held:
            await asyncio.Event().wait()
        await asyncio.sleep(self._seconds)
        return [Outgoing(RESULTS.name, record.key, value if len(value) < 100 else str(len(value)).encode())]

    def _count(self, record: Incoming) -> bytes:
        # Idempotent as every table of ours: the row remembers which record it counted last.
        assert self.counts is not None
        assert record.key is not None
        count, last = map(int, self.counts.get(record.key, b"0 -1").split())
        if record.offset > last:
            count, last = count + 1, record.offset
            self.counts[record.key] = f"{count} {last}".encode()
        return str(count).encode()


async def main() -> int:
    settings = Settings()
    metrics, producer, echo = Metrics(CollectorRegistry()), Producer(settings), Echo()
    app = engine("echo", settings)
    if os.environ.get("TABLE"):
        echo.counts = table(app, COUNTS, lambda key: key)  # type: ignore[assignment]
    group = Group([producer], [app])
    group.also(ProgressWatch([app], settings, on_fatal=group.fail))
    if os.environ.get("DEAF"):
        echo.first = lambda: app.consumer.pause_partitions(app.consumer.assignment())
    subscribe(
        app,
        "echo",
        [Subscription(SOURCES[os.environ.get("SOURCE", "admitted")], echo.handle, 200)],
        producer=producer,
        metrics=metrics,
        on_fatal=group.fail,
        acks=Unordered if os.environ.get("ACKS") == "unordered" else OrderedAcks,
    )
    with stop_on_signals() as stop:
        try:
            await group.run(stop.wait(), lambda: print("ready", flush=True), settings.drain_s)
        except WorkerFailed as failure:
            print(f"failed: {failure}", file=sys.stderr)
            return 1
    return 0


def set_up_logging() -> None:
    """Errors to stderr as `mailvet worker` does it: aiokafka calls every step of a rebalance an error."""
    if folder := os.environ.get("ECHO_LOGS"):
        file = Path(folder) / f"echo-{os.getpid()}.log"
        logging.basicConfig(
            filename=file, level=logging.DEBUG, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        return
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    set_up_logging()
    sys.exit(asyncio.run(main()))
