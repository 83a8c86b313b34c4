"""Retry: a task waits in its tier until the tier's delay has passed since it was appended, and goes back to its lane.

Every record of a tier waits equally long, so the first in is the first due and a partition's head says when to look
again. Nothing waits in memory: what is not due stays in the topic, its partition paused and wound back to it. A plain
consumer for each tier; offsets are committed after the broker has what was forwarded.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from mode import Service

from schemas.pipeline import Task
from schemas.topics import TIERS, Topic
from streams.codec import decode
from streams.delivery import Producer, Recent, dead_letter
from streams.installed import app_id
from streams.kafka import client_options, join_knowingly
from streams.metrics import Metrics
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.judge import LANES
from streams.settings import Settings
from streams.wire import read_anything

logger = logging.getLogger(__name__)

ROLE = "retry"
MAX_WAIT_S = 1.0
"""How long the consumer waits for records before it looks at the clock again."""

SPREAD = 0.05
"""Partitions of a tier wait up to so much of its delay longer, each its own part, so that what was told "later" in one
moment (an outage, a restart) does not come back in one moment. Nothing is early, and nobody overtakes."""

BATCH = 500
BACK_OFF_S = 1.0
LEAVE_S = 5.0


@dataclass(frozen=True, slots=True)
class Due:
    """What of a partition's records is forwarded now; ``rest`` is the first that waits, until ``wake_ms``."""

    ready: tuple[Incoming, ...]
    rest: int | None = None
    wake_ms: int | None = None


def due(records: Sequence[Incoming], delay_ms: int, now_ms: int) -> Due:
    """Those before the first that is not due yet: later ones stay behind it, whatever their own time says."""
    for place, record in enumerate(records):
        wake_ms = record.timestamp_ms + delay_ms
        if wake_ms > now_ms:
            return Due(tuple(records[:place]), record.offset, wake_ms)
    return Due(tuple(records))


def spread(delay_ms: int, partition: int) -> int:
    """The delay of one partition of a tier: the same after a restart. Neighbours lie far apart (golden ratio)."""
    return delay_ms + round(delay_ms * SPREAD * (partition * 0.6180339887 % 1))


def forward(record: Incoming) -> Outgoing:
    """The task back to its lane, bytes and key as they are. Raises :class:`Unusable` for what is no task."""
    task = decode(Task, record.value)
    return Outgoing(LANES[task.ticket.lane], record.key, record.value, tuple(record.headers.items()))


class Consumer(Protocol):
    """What is used of ``aiokafka.AIOKafkaConsumer``."""

    async def getmany(self, *, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Any]]: ...
    def assignment(self) -> frozenset[TopicPartition]: ...
    def pause(self, *partitions: TopicPartition) -> None: ...
    def resume(self, *partitions: TopicPartition) -> None: ...
    def seek(self, partition: TopicPartition, offset: int) -> None: ...
    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None: ...
    async def committed(self, partition: TopicPartition) -> int | None: ...


Deliver = Callable[[Sequence[Outgoing]], Awaitable[None]]

Clock = Callable[[], int]
"""Milliseconds since 1970."""


class Tier(ConsumerRebalanceListener):  # type: ignore[misc]
    """One tier's records, from a consumer to the lanes. ``settled`` is set while partitions are assigned."""

    def __init__(
        self,
        topic: Topic,
        delay_s: float,
        *,
        consumer: Consumer,
        deliver: Deliver,
        metrics: Metrics,
        recent: Recent,
        clock: Clock,
        settled: asyncio.Event | None = None,
    ) -> None:
        self._topic = topic
        self._recent = recent
        self._delay_ms = round(delay_s * 1000)
        self._consumer = consumer
        self._deliver = deliver
        self._metrics = metrics
        self._clock = clock
        self._paused: dict[TopicPartition, int] = {}
        self._working: TopicPartition | None = None
        self._settled = settled or asyncio.Event()
        self.committed: dict[TopicPartition, int | None] = {}
        """The offset of each partition that is to be read next after a restart."""

    def standing(self) -> dict[TopicPartition, int | None]:
        """For each partition what changes when it moves; None while it waits for the clock or for the broker."""
        late_ms = self._clock() - round(2 * MAX_WAIT_S * 1000)
        waiting = {partition for partition, wake_ms in self._paused.items() if wake_ms > late_ms}
        busy = waiting if self._working is None else waiting | {self._working}
        return {each: None if each in busy else start or 0 for each, start in self.committed.items()}

    def working(self) -> dict[str, Hashable]:
        """What is committed of the partition whose records are forwarded; None while there are none."""
        busy = self._working
        return {f"the forwarding of {self._topic.name}": None if busy is None else (busy, self.committed.get(busy))}

    async def step(self) -> None:
        """Wait for records or for the time of those that are paused; forward what is due, and commit it."""
        self._resume()
        batches = await self._consumer.getmany(timeout_ms=self._wait_ms(), max_records=BATCH)
        for partition, messages in batches.items():
            await self._work(partition, [_read(self._topic, message) for message in messages])

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Whoever gets them begins at what was committed."""
        self._settled.clear()
        for partition in revoked:
            self._paused.pop(partition, None)
            self.committed.pop(partition, None)

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """They flow from the start; what is not due is found again."""
        self._paused.clear()
        self.committed = {partition: await self._consumer.committed(partition) for partition in assigned}
        self._settled.set()

    def _resume(self) -> None:
        now_ms = self._clock()
        for partition in [partition for partition, wake_ms in self._paused.items() if wake_ms <= now_ms]:
            del self._paused[partition]
            if partition in self._consumer.assignment():
                self._consumer.resume(partition)

    def _wait_ms(self) -> int:
        nearest = min(self._paused.values(), default=self._clock() + round(MAX_WAIT_S * 1000))
        return max(1, min(nearest - self._clock(), round(MAX_WAIT_S * 1000)))

    async def _work(self, partition: TopicPartition, records: Sequence[Incoming]) -> None:
        found = due(records, spread(self._delay_ms, partition.partition), self._clock())
        if found.rest is not None and found.wake_ms is not None:
            self._hold(partition, found.rest, found.wake_ms)
        if found.ready:
            self._recent.begun((self._clock() - found.ready[0].timestamp_ms) / 1000, len(found.ready))
            outputs = [self._output(record) for record in found.ready]
            self._working = partition
            await self._deliver(outputs)
            self._metrics.records_in.labels(ROLE, self._topic.name).inc(len(outputs))
            for output in outputs:
                self._metrics.records_out.labels(ROLE, output.topic).inc()
            await self._commit(partition, found.ready[-1].offset + 1)
            self._working = None

    def _hold(self, partition: TopicPartition, offset: int, wake_ms: int) -> None:
        """Wind back to the first that waits. A partition that was taken away meanwhile is nobody's business here."""
        if partition not in self._consumer.assignment():
            return
        self._consumer.pause(partition)
        self._consumer.seek(partition, offset)
        self._paused[partition] = wake_ms

    def _output(self, record: Incoming) -> Outgoing:
        try:
            return forward(record)
        except Unusable as unusable:
            self._metrics.dead_letters.labels(ROLE, unusable.reason).inc()
            self._recent.died()
            return dead_letter(record, unusable, role=ROLE, at=datetime.fromtimestamp(self._clock() / 1000, UTC))

    async def _commit(self, partition: TopicPartition, offset: int) -> None:
        try:
            await self._consumer.commit({partition: offset})
            self.committed[partition] = offset
        except (CommitFailedError, IllegalStateError):
            logger.info("%s moved to another worker, which forwards its last records again", partition)


class TierRunner:
    """One tier in one process, from one consumer to the next; the progress watch looks at it as at an engine."""

    def __init__(
        self, topic: Topic, delay_s: float, *, settings: Settings, producer: Producer, metrics: Metrics, clock: Clock
    ) -> None:
        self.name = app_id(f"{ROLE}-{topic.name.split('.')[2]}", settings.namespace)
        self.settled = asyncio.Event()
        self.should_stop = False
        self._topic, self._delay_s, self._settings = topic, delay_s, settings
        self._producer, self._metrics, self._clock = producer, metrics, clock
        self._recent = Recent(settings.dead_letter_limit)
        self._recent.show(metrics, (ROLE, topic.name))
        self._tier: Tier | None = None

    def standing(self) -> Mapping[TopicPartition, int | None]:
        """For each partition that it reads what changes when it moves; None while it may stand still."""
        return {} if self._tier is None else self._tier.standing()

    def committed(self, partition: TopicPartition) -> int | None:
        """The offset to begin at."""
        return None if self._tier is None else self._tier.committed.get(partition)

    def recovered(self) -> int:
        """No table is recovered here: whatever keeps it from its partitions does not move."""
        return 0

    def working(self) -> Mapping[str, Hashable]:
        """What changes when records that are due are forwarded; None while none are."""
        return {} if self._tier is None else self._tier.working()

    def broken(self) -> None:
        """Never: aiokafka tells its consumer's caller, which begins again."""

    async def run(self) -> None:
        """Consume until :attr:`should_stop`."""
        while not self.should_stop:
            try:
                await self._session()
            except KafkaError as error:
                logger.warning("%s: %r; beginning again at what was committed", self._topic.name, error)
                await asyncio.sleep(BACK_OFF_S)

    async def _session(self) -> None:
        """One consumer, from its start to the first error: a new one begins at the committed offset."""
        consumer = AIOKafkaConsumer(
            **client_options(self._settings, f"mailvet-{ROLE}"),
            group_id=self.name,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=round(self._settings.session_timeout_s * 1000),
            heartbeat_interval_ms=round(self._settings.heartbeat_s * 1000),
            fetch_max_wait_ms=self._settings.fetch_wait_ms,
        )
        self._tier = tier = Tier(
            self._topic,
            self._delay_s,
            consumer=consumer,
            deliver=self._producer.deliver,
            metrics=self._metrics,
            recent=self._recent,
            clock=self._clock,
            settled=self.settled,
        )
        await consumer.start()
        try:
            join_knowingly(consumer)
            consumer.subscribe([self._topic.named(self._settings.namespace).name], listener=tier)
            while not self.should_stop:
                await tier.step()
        finally:
            self.settled.clear()
            self._tier = None
            # Leaving the group and closing connections must not hold up a stop.
            with suppress(TimeoutError):
                await asyncio.wait_for(consumer.stop(), LEAVE_S)


class RetryService(Service):
    """The three tiers of one process: start it after the producer, stop it before."""

    def __init__(self, settings: Settings, producer: Producer, metrics: Metrics, clock: Clock, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._metrics = metrics
        self.tiers = tuple(
            TierRunner(topic, delay_s, settings=settings, producer=producer, metrics=metrics, clock=clock)
            for topic, delay_s in zip(TIERS, settings.retry_delays_s, strict=True)
        )

    @property
    def settled(self) -> bool:
        """Every tier has its partitions."""
        return all(tier.settled.is_set() for tier in self.tiers)

    async def on_started(self) -> None:
        """Consume every tier until the service stops."""
        read_anything()
        self._metrics.expect_dead_letters(ROLE)
        for tier in self.tiers:
            self.add_future(tier.run())

    async def on_stop(self) -> None:
        """No tier begins anything more."""
        for tier in self.tiers:
            tier.should_stop = True


def _read(topic: Topic, message: Any) -> Incoming:
    """aiokafka's record as roles see it."""
    return Incoming(
        topic=topic.name,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value or b"",
        headers=dict(message.headers),
        timestamp_ms=message.timestamp,
    )
