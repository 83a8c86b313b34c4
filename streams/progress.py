"""Liveness that means progress: a worker that reads nothing though the broker has records for it ends with a reason.

Consumers are known to stop without a word (a fetch loop that ends, a recovery that waits for ever), and then heartbeats
go on and the group waits for nobody; so may a handler that nothing wakes, or a stop. A supervisor's restart mends all
of these.
"""

import asyncio
import faulthandler
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
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

LEAVE_S: Final = 5.0
"""What closing that connection may take."""

TURNS: Final = 40
"""So many dialogues, one after the other, may the addresses need that a probe has read out for one provider (2,000, of
which 50 are asked for at a time), and where ten tenants take turns all their tasks end with the last.
"""

EXIT_SLACK_S: Final = 10.0
"""What a process may take to end beyond the stop of its workers; then it is ended."""

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

    def forgive(self, keys: Iterable[Key], *, looks: int = 0) -> None:
        """Begin anew for these, or as if they had stood still for so many looks."""
        for key in keys:
            mark, _ = self._marks[key]
            self._marks[key] = (mark, looks - 1)


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

    def working(self) -> Mapping[str, Hashable]:
        """For each kind of work, in words, what changes when some of it ends; None while there is none."""

    def broken(self) -> str | None:
        """Why it will never go on by itself, if it knows that."""


Unread = tuple[TopicPartition, int]
"""A partition that has a record which was not read, and that record's offset."""


class BrokerAway(Exception):
    """The broker could not be asked, or not in time."""


class Broker:
    """What the broker has, asked past Faust: over a connection of its own, closed at once.

    On a busy machine an answer takes long: each failure allows twice the time to the next question, ``stall_s`` at
    most.
    """

    def __init__(self, settings: Settings) -> None:
        self._options = client_options(settings, "mailvet-progress")
        self._wait_s, self._most_s = BROKER_S, max(BROKER_S, settings.stall_s)

    async def unread(self, starts: Mapping[TopicPartition, int | None]) -> Unread | None:
        """A partition that has a record at its start or after it; None if there is none.

        The record is read, since offsets alone don't tell: transactions leave marks that no reader ever sees. Each
        partition is asked for by itself: one without a leader says nothing of the others.

        Raises:
            BrokerAway: some of them could not be asked for, and the others have none.
        """
        async with self._reader() as reader:
            places = await asyncio.gather(*(self._place(reader, *each) for each in starts.items()))
            told = dict(zip(starts, places, strict=True))
            found = await _first_record(reader, {each: at for each, at in told.items() if at is not None and at >= 0})
        if found is None and None in places:
            raise BrokerAway
        return found

    async def answers(self) -> bool:
        """It is there: waiting for it is not what keeps a worker."""
        try:
            async with self._reader():
                return True
        except BrokerAway:
            return False

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[AIOKafkaConsumer]:
        reader = AIOKafkaConsumer(**self._options, enable_auto_commit=False)
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, self._most_s)
        try:
            async with asyncio.timeout(wait_s):
                await reader.start()
                yield reader
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerAway from error
        finally:
            await _close(reader)
        self._wait_s = BROKER_S

    async def _place(self, reader: AIOKafkaConsumer, partition: TopicPartition, start: int | None) -> int | None:
        """Where what is unread begins, -1 where nothing is; None where nobody says."""
        try:
            async with asyncio.timeout(self._wait_s / 4):  # Of what the question has, a half or less.
                firsts = await reader.beginning_offsets([partition])
                ends = await reader.end_offsets([partition])
        except (KafkaError, OSError, TimeoutError):
            return None
        place = max(start or 0, firsts[partition])
        return place if place < ends[partition] else -1


async def _first_record(reader: AIOKafkaConsumer, places: Mapping[TopicPartition, int]) -> Unread | None:
    if not places:
        return None
    reader.assign(list(places))
    for partition, place in places.items():
        reader.seek(partition, place)
    found = await reader.getmany(timeout_ms=2000, max_records=1)
    return next(((partition, record.offset) for partition, [record] in found.items()), None)


async def _close(reader: AIOKafkaConsumer) -> None:
    """A client that does not end is left behind: whoever looks must not stand still himself."""
    closing = asyncio.ensure_future(reader.stop())
    closing.add_done_callback(lambda closed: closed.cancelled() or closed.exception())
    await asyncio.wait({closing}, timeout=LEAVE_S)
    closing.cancel()


class Heartbeat(Service):
    """Ends the process with the stacks of all its threads where its event loop has not moved for ``stall_s`` seconds,
    or where it still runs ``stop_s`` seconds after it was told to stop.

    Nothing that runs in the loop could say so. It is the interpreter's own watchdog (`faulthandler`), which does not
    need the interpreter's lock; there is one in a process, so a command starts it and not a library.
    """

    def __init__(self, stall_s: float, stop_s: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._stall_s, self._stop_s = stall_s, stop_s

    @Service.task
    async def _beat(self) -> None:
        while not self.should_stop:
            faulthandler.dump_traceback_later(self._stall_s, exit=True)
            await self.sleep(self._stall_s / LOOKS)

    async def on_stop(self) -> None:
        """What stops has deadlines of its own, but threads and clients of others are known to ignore them."""
        faulthandler.dump_traceback_later(self._stop_s, exit=True)


class ProgressWatch(Service):
    """Looks at all engines of a process, and tells ``on_fatal`` once one of them stands still.

    A partition is given ``stall_s`` seconds, of settled time, in which neither is read nor committed what the broker
    has; a rebalance with its recovery as many and :data:`JOIN_S` seconds in which no row is recovered; work in hand,
    which has deadlines of its own, ``hang_s`` seconds in which nothing of it ends.
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
        self._hang_s = hang_s(settings)
        self._broker = broker or Broker(settings)
        self._every_s = settings.stall_s / LOOKS
        self._flows = {engine.name: Patience[TopicPartition](LOOKS) for engine in engines}
        self._moves = Patience[str](round(LOOKS * (1 + JOIN_S / settings.stall_s)))
        self._work = Patience[tuple[str, str]](round(LOOKS * self._hang_s / settings.stall_s))

    @Service.task
    async def _go_on(self) -> None:
        while not self.should_stop:
            await self.sleep(self._every_s)
            await self.once()

    async def once(self) -> None:
        """Look once at every engine."""
        here = [engine for engine in self._engines if not engine.should_stop]
        for engine in here:
            if reason := engine.broken():
                self._on_fatal(WorkerFailed(f"{engine.name} can't go on: {reason}"))
            if engine.settled.is_set():
                await self._look(engine)
        late = self._moves.look({each.name: None if each.settled.is_set() else each.recovered() for each in here})
        waited_s = self._stall_s + JOIN_S
        await self._unless_away(
            self._moves, {name: f"{name} was not ready {waited_s:.0f} s after a rebalance" for name in late}
        )
        hung = self._work.look({(each.name, what): mark for each in here for what, mark in each.working().items()})
        await self._unless_away(
            self._work, {each: f"{each[0]}: {each[1]} did not move for {self._hang_s:.0f} s" for each in hung}
        )

    async def _unless_away(self, patience: Patience[Key], reasons: Mapping[Key, str]) -> None:
        """What stands still is fatal, unless it is the broker that it waits for."""
        if reasons and await self._broker.answers():
            self._on_fatal(WorkerFailed(min(reasons.values())))
        patience.forgive(reasons, looks=LOOKS // 2)

    async def _look(self, engine: Watched) -> None:
        patience, standing = self._flows[engine.name], engine.standing()
        still = patience.look(standing)
        try:
            found = await self._broker.unread({each: engine.committed(each) for each in still}) if still else None
        except BrokerAway:
            patience.forgive(still, looks=LOOKS // 2)  # Asked again soon; one that comes back is given time first.
            return
        patience.forgive(still)
        if found is None:
            return
        partition, offset = found
        await self.sleep(CONFIRM_S)
        if engine.settled.is_set() and engine.standing().get(partition) == standing[partition]:
            where = f"{partition.topic}[{partition.partition}]"
            reason = f"nothing of {where} was read for {self._stall_s:.0f} s, where offset {offset} waits"
            self._on_fatal(WorkerFailed(reason))


def hang_s(settings: Settings) -> float:
    """In how many seconds something of the work in hand has to end: never less than all of it may take."""
    dialogues_s = TURNS * settings.dialogue_deadline_s
    return max(settings.hang_s, settings.turn_wait_s + dialogues_s + 2 * settings.delivery_timeout_s)
