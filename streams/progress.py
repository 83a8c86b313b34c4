"""Liveness that means progress: a worker that reads nothing though the broker has records for it ends with a reason.

Consumers are known to stop without a word (a fetch loop that ends, a recovery that waits for ever), and then heartbeats
go on and the group waits for nobody. A supervisor's restart mends all of these.
"""

import asyncio
import faulthandler
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from mode import Service

from streams.group import WorkerFailed
from streams.kafka import client_options
from streams.settings import Settings

LOOKS: Final = 10
"""How often one looks within the time that is allowed."""

JOIN_S: Final = 60.0
"""What a rebalance may take on top: the broker waits so long for the group's other workers."""

CONFIRM_S: Final = 5.0
"""A record that is there gets so long to be read, since it may have come just now."""

BROKER_S: Final = 10.0

Key = TypeVar("Key", bound=Hashable)


class Patience(Generic[Key]):
    """Counts the looks at which nothing had moved. Looks, not seconds: a process that was stopped is not late."""

    def __init__(self, looks: int) -> None:
        self._allowed = looks
        self._marks: dict[Key, tuple[Hashable, int]] = {}

    def look(self, standing: Mapping[Key, Hashable]) -> set[Key]:
        """Those that stand where they stood for as many looks as are allowed; None is an excuse."""
        before, self._marks = self._marks, {}
        for key, mark in standing.items():
            last, looks = before.get(key, (None, 0))
            self._marks[key] = (mark, looks + 1 if mark is not None and mark == last else 0)
        return {key for key, (_, looks) in self._marks.items() if looks >= self._allowed}

    def forgive(self, keys: Iterable[Key]) -> None:
        """Begin anew for these."""
        for key in keys:
            self._marks.pop(key, None)


class Watched(Protocol):
    """What is asked of :class:`streams.engine.Engine`."""

    settled: asyncio.Event

    @property
    def name(self) -> str:
        """The consumer group's."""

    @property
    def should_stop(self) -> bool:
        """It is on its way out."""

    def standing(self) -> Mapping[TopicPartition, Hashable]:
        """For each partition that it reads what changes when it moves; None while work of it is in hand."""

    def committed(self, partition: TopicPartition) -> int | None:
        """The offset to begin at; None if nothing was ever committed."""

    def recovered(self) -> Hashable:
        """What changes while tables are recovered."""


class Broker:
    """What the broker has, asked past Faust: over a connection of its own, closed at once."""

    def __init__(self, settings: Settings) -> None:
        self._options = client_options(settings, "mailvet-progress")

    async def unread(self, starts: Mapping[TopicPartition, int | None]) -> tuple[TopicPartition, int] | None:
        """A partition that has a record at its start or after it, and that record's offset; None if there is none.

        The record is read, since offsets alone don't tell: transactions leave marks that no reader ever sees. A
        broker that can't be asked has none.
        """
        try:
            async with asyncio.timeout(BROKER_S), AIOKafkaConsumer(**self._options, enable_auto_commit=False) as reader:
                return await _first_record(reader, starts)
        except (KafkaError, OSError, TimeoutError):
            return None

    async def answers(self) -> bool:
        """It is there: waiting for it is not what keeps a worker."""
        try:
            async with asyncio.timeout(BROKER_S), AIOKafkaConsumer(**self._options):
                return True
        except (KafkaError, OSError, TimeoutError):
            return False


async def _first_record(
    reader: AIOKafkaConsumer, starts: Mapping[TopicPartition, int | None]
) -> tuple[TopicPartition, int] | None:
    firsts, ends = await reader.beginning_offsets(list(starts)), await reader.end_offsets(list(starts))
    places = {partition: max(start or 0, firsts[partition]) for partition, start in starts.items()}
    behind = {partition: place for partition, place in places.items() if place < ends[partition]}
    if not behind:
        return None
    reader.assign(list(behind))
    for partition, place in behind.items():
        reader.seek(partition, place)
    found = await reader.getmany(timeout_ms=2000, max_records=1)
    return next(((partition, record.offset) for partition, [record] in found.items()), None)


class Heartbeat(Service):
    """Ends the process with the stacks of all its threads where its event loop has not moved for ``stall_s`` seconds.

    Nothing that runs in the loop could say so. It is the interpreter's own watchdog (`faulthandler`), which does not
    need the interpreter's lock; there is one in a process, so a command starts it and not a library.
    """

    def __init__(self, stall_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._stall_s = stall_s

    @Service.task
    async def _beat(self) -> None:
        while not self.should_stop:
            faulthandler.dump_traceback_later(self._stall_s, exit=True)
            await self.sleep(self._stall_s / LOOKS)

    async def on_stop(self) -> None:
        """Whoever stops has deadlines of its own."""
        faulthandler.cancel_dump_traceback_later()


class ProgressWatch(Service):
    """Looks at all engines of a process, and tells ``on_fatal`` once one of them stands still.

    A partition is given ``stall_s`` seconds, of settled time, in which neither is read nor committed what the broker
    has; a rebalance with its recovery as many and :data:`JOIN_S` seconds in which no row is recovered.
    """

    def __init__(
        self,
        engines: Sequence[Watched],
        settings: Settings,
        *,
        on_fatal: Callable[[Exception], None],
        broker: Broker | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._engines, self._on_fatal, self._stall_s = engines, on_fatal, settings.stall_s
        self._broker = broker or Broker(settings)
        self._every_s = settings.stall_s / LOOKS
        self._flows = {engine.name: Patience[TopicPartition](LOOKS) for engine in engines}
        self._moves = Patience[str](round(LOOKS * (1 + JOIN_S / settings.stall_s)))

    @Service.task
    async def _go_on(self) -> None:
        while not self.should_stop:
            await self.sleep(self._every_s)
            await self.once()

    async def once(self) -> None:
        """Look once at every engine."""
        here = [engine for engine in self._engines if not engine.should_stop]
        for engine in here:
            if engine.settled.is_set():
                await self._look(engine)
        late = self._moves.look({each.name: None if each.settled.is_set() else each.recovered() for each in here})
        if late and await self._broker.answers():
            self._on_fatal(WorkerFailed(f"{min(late)} was not ready {self._stall_s + JOIN_S:.0f} s after a rebalance"))
        self._moves.forgive(late)

    async def _look(self, engine: Watched) -> None:
        patience, standing = self._flows[engine.name], engine.standing()
        still = patience.look(standing)
        patience.forgive(still)
        found = await self._broker.unread({each: engine.committed(each) for each in still}) if still else None
        if found is None:
            return
        partition, offset = found
        await self.sleep(CONFIRM_S)
        if engine.settled.is_set() and engine.standing().get(partition) == standing[partition]:
            where = f"{partition.topic}[{partition.partition}]"
            reason = f"nothing of {where} was read for {self._stall_s:.0f} s, where offset {offset} waits"
            self._on_fatal(WorkerFailed(reason))
