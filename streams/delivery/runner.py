"""Runs one subscription on a stream of Faust: bounded work in flight, delivery, acks in order."""

import asyncio
import logging
import traceback
from asyncio import Future
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Protocol

from streams.delivery.acks import OrderedAcks
from streams.delivery.dead_letters import dead_letter
from streams.delivery.producer import DeliveryFailed, TooLarge
from streams.delivery.recent import Recent
from streams.metrics import Labels, Metrics
from streams.records import Incoming, Outgoing, Unusable
from streams.subscription import Subscription
from streams.tables import changes
from streams.wire import UNREADABLE, weight

LOG_APPEND_TIME = 1
"""Kafka's number for timestamps of the broker."""

logger = logging.getLogger(__name__)

MAX_SPAN = 10_000
"""Records of a partition from the oldest that is not acknowledged to the newest: what is done behind one that hangs is
kept in memory, and is done again after a crash. A partition that has come so far is not read on."""


class Message(Protocol):
    """What we use of ``faust.types.tuples.Message``. The timestamp is in seconds."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes]] | Mapping[str, bytes] | None
    timestamp: float | None
    timestamp_type: int | None
    generation_id: int | None


class Event(Protocol):
    """What we use of ``faust.Event``."""

    message: Message

    def ack(self) -> bool: ...


class Deliver(Protocol):
    """:meth:`streams.delivery.Producer.deliver`."""

    async def __call__(self, records: Iterable[Outgoing], also: "Sequence[Future[Any]]" = ()) -> None: ...


@dataclass(slots=True, eq=False)
class _Lane:
    """The unfinished records of one partition, from one assignment (a generation of the group) to the next."""

    generation: int | None
    acks: OrderedAcks
    events: dict[int, Event] = field(default_factory=dict)
    since: dict[int, float] = field(default_factory=dict)
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    held_bytes: int = 0
    acked: int | None = None
    """The offset after the last that was acknowledged."""
    by_key: dict[bytes | None, dict[int, "asyncio.Task[None]"]] = field(default_factory=dict)
    """The tasks of each key, by offset."""
    is_held: bool = False
    """Its partition is not read on."""

    @property
    def span(self) -> int:
        """From the oldest record that is not acknowledged to the newest."""
        oldest, last = self.acks.oldest, self.acks.last
        return 0 if oldest is None or last is None else last - oldest + 1

    def is_full(self, share: int) -> bool:
        """It has as much in hand as it may have."""
        return len(self.tasks) >= share or self.span >= MAX_SPAN

    def has_room(self, share: int) -> bool:
        """There is room for more than a few."""
        return len(self.tasks) <= share // 2 and self.span <= MAX_SPAN // 2

    def add(self, record: Incoming, task: "asyncio.Task[None]") -> None:
        """A task begins."""
        self.tasks.add(task)
        self.by_key.setdefault(record.key, {})[record.offset] = task

    def remove(self, record: Incoming, task: "asyncio.Task[None]") -> None:
        """It has ended."""
        self.tasks.discard(task)
        of_key = self.by_key[record.key]
        del of_key[record.offset]
        if not of_key:
            del self.by_key[record.key]

    def earlier(self, record: Incoming) -> "list[asyncio.Task[None]]":
        """The tasks of records with the same key that came before."""
        return [task for offset, task in self.by_key[record.key].items() if offset < record.offset]

    def cancel(self) -> None:
        """Give up: nothing of this lane is acknowledged any more."""
        for task in self.tasks:
            task.cancel()
        self.events.clear()
        self.since.clear()
        self.held_bytes = 0


class Delivery:
    """Feeds one subscription's handler and acknowledges in order what is finished.

    Args:
        role: for metrics, logs and dead letters.
        subscription: what to read, who handles it, how many at a time.
        deliver: writes records and returns when the broker has them.
        generation: the group's generation now; a record of another one is never acknowledged.
        on_fatal: told once why nothing more can be promised; the worker has to stop.
        start: the offset that a partition is read from in this generation; None where that is not known.
        hold: stops reading a partition (true) or goes on (false); what was fetched may still come.
        dead_letter_limit: the share of dead letters above which a metric asks for attention.
        acks: makes the order of acks; tests put a wrong one here.
    """

    def __init__(
        self,
        role: str,
        subscription: Subscription,
        *,
        deliver: Deliver,
        generation: Callable[[], int | None],
        on_fatal: Callable[[Exception], None],
        metrics: Metrics,
        start: Callable[[int], int | None] = lambda _: None,
        hold: Callable[[int, bool], None] = lambda partition, held: None,
        dead_letter_limit: float = 0.05,
        acks: Callable[..., OrderedAcks] = OrderedAcks,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._role, self._subscription, self._topic = role, subscription, subscription.topic.name
        self._deliver, self._generation, self._on_fatal = deliver, generation, on_fatal
        self._start, self._acks, self._clock, self._now = start, acks, clock, now
        self._lanes: dict[int, _Lane] = {}
        self._hold, self._share = hold, subscription.share or subscription.concurrency
        self._concurrency = subscription.concurrency
        self._slots = asyncio.Semaphore(self._concurrency)
        self._failed = False
        self._in_hand = self._finished = 0
        self._metrics = metrics
        self._records_in = metrics.records_in.labels(role, self._topic)
        self._in_flight = metrics.records_in_flight.labels(role, self._topic)
        self._seconds = metrics.record_seconds.labels(role, self._topic)
        metrics.oldest_unacked_seconds.read(self.oldest_unacked)
        metrics.unacked_span.read(self.widest_span)
        metrics.expect_dead_letters(role)
        self._recent = Recent(dead_letter_limit, clock)
        self._recent.show(metrics, (role, self._topic))

    async def run(self, events: AsyncIterator[Event]) -> None:
        """Work until the stream ends or this task is cancelled; what is unfinished then is not acknowledged."""
        begun = 0
        try:
            while True:
                # A slot first: an event in hand without one would hold up every rebalance.
                await self._slots.acquire()
                try:
                    event = await anext(events)
                except BaseException:
                    self._slots.release()
                    raise
                self._begin(event)
                begun += 1
                if begun % self._subscription.burst == 0:
                    await asyncio.sleep(0)  # Others have their turn, however many records wait here.
        except StopAsyncIteration:
            pass
        except Exception as error:  # noqa: BLE001  whatever it is, the worker must not go on as if all were well
            self._fail(error)
        finally:
            self.forget(all_of_them=True)

    def forget(self, *, all_of_them: bool = False) -> None:
        """Drop what was read before the last rebalance: it is read again, here or elsewhere."""
        for partition, lane in list(self._lanes.items()):
            if all_of_them or lane.generation != self._generation():
                del self._lanes[partition]
                lane.cancel()

    def standing(self, partition: int) -> int | None:
        """The last offset read, -1 before the first; None while it is worked on, or while there's room for no more."""
        lane = self._lanes.get(partition)
        if (lane and lane.events) or sum(len(each.tasks) for each in self._lanes.values()) >= self._concurrency:
            return None
        return -1 if lane is None or lane.acks.last is None else lane.acks.last

    @property
    def working(self) -> int | None:
        """How many records were finished so far; None while none is in hand."""
        busy = self._in_hand or any(lane.events for lane in self._lanes.values())
        return self._finished if busy else None

    def acked(self, partition: int) -> int | None:
        """The offset after the last that was acknowledged in this generation; None before the first."""
        lane = self._lanes.get(partition)
        return None if lane is None else lane.acked

    @property
    def held_bytes(self) -> int:
        """Of the records that are worked on, or wait for their turn to be acknowledged."""
        return sum(lane.held_bytes for lane in self._lanes.values())

    def oldest_unacked(self) -> Mapping[Labels, float]:
        """The age in seconds of the oldest record that is not acknowledged, for metrics."""
        firsts = [lane.since[oldest] for lane in self._lanes.values() if (oldest := lane.acks.oldest) in lane.since]
        return {(self._role, self._topic): self._clock() - min(firsts) if firsts else 0.0}

    def widest_span(self) -> Mapping[Labels, float]:
        """The most records that a partition spans from its oldest unacknowledged one on, for metrics."""
        return {(self._role, self._topic): float(max((lane.span for lane in self._lanes.values()), default=0))}

    def _begin(self, event: Event) -> None:
        message = event.message
        if message.generation_id != self._generation():
            # It is read again, here or elsewhere; rows of its partition may be another's, or not recovered yet.
            self._slots.release()
            return
        lane = self._lane(message)
        lane.acks.add(message.offset)
        lane.events[message.offset] = event
        lane.held_bytes += weight(message)
        lane.since[message.offset] = self._clock()
        self._records_in.inc()
        self._recent.begun(max(0.0, self._now().timestamp() - (message.timestamp or 0.0)))
        self._in_flight.inc()
        self._in_hand += 1
        record = incoming(self._topic, message)
        task = asyncio.create_task(self._work(lane, record))
        lane.add(record, task)
        task.add_done_callback(lambda task: self._ended(lane, record, task))
        if lane.is_full(self._share):
            lane.is_held = True
            self._hold(message.partition, True)  # Again with each record that comes: Faust lets go by its own rules.

    def _lane(self, message: Message) -> _Lane:
        lane = self._lanes.get(message.partition)
        if lane is not None and lane.generation == message.generation_id and _rises(lane, message):
            return lane
        if lane is not None:
            lane.cancel()  # A rebalance, or Faust went back to the committed offset.
            if lane.is_held:
                self._hold(message.partition, False)
        acks = self._acks(contiguous=self._subscription.topic.contiguous, start=self._start(message.partition))
        lane = self._lanes[message.partition] = _Lane(message.generation_id, acks)
        return lane

    async def _work(self, lane: _Lane, record: Incoming) -> None:
        changed: list[Future[Any]] = []
        changes.set(changed)
        outputs = await self._handle(record)
        if changed:
            # Rows first: an output whose row was lost in a crash may be decided otherwise when its record comes again.
            await self._deliver((), changed)
        if any(output.closing for output in outputs):
            await self._all_said(lane.earlier(record))
        try:
            await self._deliver(outputs)
        except TooLarge as error:
            outputs = [self._dead_letter(record, Unusable("internal_error", f"an output of it: {error}"))]
            await self._deliver(outputs)
        self._count_out(outputs)
        self._finish(lane, record)

    async def _all_said(self, tasks: "Sequence[asyncio.Task[None]]") -> None:
        """Wait for these tasks; where one did not end well, not all is said."""
        if tasks:
            await asyncio.wait(tasks)
        if self._failed or any(task.cancelled() or task.exception() for task in tasks):
            raise DeliveryFailed("an earlier record of the same key was not delivered")

    async def _handle(self, record: Incoming) -> Sequence[Outgoing]:
        try:
            _refuse_unreadable(record)
            return await self._subscription.handle(record)
        except Unusable as unusable:
            return [self._dead_letter(record, unusable)]
        except Exception as error:  # noqa: BLE001  a bug of a role costs one record, not the stream
            where = _where(error)
            logger.error("%s failed on %s: %s", self._role, _name(record), where)
            return [self._dead_letter(record, Unusable("internal_error", where))]

    def _dead_letter(self, record: Incoming, unusable: Unusable) -> Outgoing:
        self._metrics.dead_letters.labels(self._role, unusable.reason).inc()
        self._recent.died()
        return dead_letter(record, unusable, role=self._role, at=self._now())

    def _count_out(self, outputs: Iterable[Outgoing]) -> None:
        for topic, count in Counter(output.topic for output in outputs).items():
            self._metrics.records_out.labels(self._role, topic).inc(count)

    def _finish(self, lane: _Lane, record: Incoming) -> None:
        if self._lanes.get(record.partition) is not lane or lane.generation != self._generation() or self._failed:
            return  # The partition has moved on: this record is read again.
        self._seconds.observe(self._clock() - lane.since[record.offset])
        self._finished += 1
        for offset in lane.acks.done(record.offset):
            lane.acked = offset + 1
            del lane.since[offset]
            event = lane.events.pop(offset)
            lane.held_bytes -= weight(event.message)
            event.ack()

    def _let_go(self, lane: _Lane, partition: int) -> None:
        """Read a partition on that was held back, once there is room again."""
        if lane.is_held and self._lanes.get(partition) is lane and lane.has_room(self._share):
            lane.is_held = False
            self._hold(partition, False)

    def _ended(self, lane: _Lane, record: Incoming, task: "asyncio.Task[None]") -> None:
        lane.remove(record, task)
        self._let_go(lane, record.partition)
        self._slots.release()
        self._in_flight.dec()
        self._in_hand -= 1
        if task.cancelled():
            if lane in self._lanes.values():
                # Not by us: a handler awaited something that was cancelled. Its record would never end.
                self._fail(DeliveryFailed(f"a handler of {self._topic} was cancelled from within"))
        elif (error := task.exception()) is not None:
            self._fail(error if isinstance(error, Exception) else DeliveryFailed(repr(error)))

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self._on_fatal(error)


def incoming(topic: str, message: Message) -> Incoming:
    """The record as a role sees it; ``topic`` is its name without a namespace."""
    headers: dict[str, bytes] = {}
    repeated: set[str] = set()
    pairs = message.headers.items() if isinstance(message.headers, Mapping) else message.headers or ()
    for name, value in pairs:
        if name in headers:
            repeated.add(name)
        else:
            headers[name] = value or b""
    return Incoming(
        topic=topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value or b"",
        headers=headers,
        repeated=frozenset(repeated),
        timestamp_ms=round(max(message.timestamp or 0.0, 0.0) * 1000),
        broker_time=message.timestamp_type == LOG_APPEND_TIME,
    )


def _refuse_unreadable(record: Incoming) -> None:
    """A batch that was not unpacked (:mod:`streams.wire`). Whoever writes that header himself has a dead letter too."""
    if UNREADABLE in record.headers:
        raise Unusable("too_large", "its batch can't be unpacked, or not to a bearable size")


def _rises(lane: _Lane, message: Message) -> bool:
    return lane.acks.last is None or message.offset > lane.acks.last


def _name(record: Incoming) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"


def _where(error: Exception) -> str:
    """The error's type and the lines it passed, without its words: those may quote the record."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    lines = " < ".join(f"{_file(frame.filename)}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__} at {lines}"


def _file(path: str) -> str:
    return "/".join(path.rsplit("/", 2)[-2:])
