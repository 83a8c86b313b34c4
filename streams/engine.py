"""Faust as mailvet uses it: its settings, and every override of a private method (but for recovery's own steps, which
are in :mod:`streams.recovery`), in one place.

Overridden, and noticed by the tests of delivery should Faust change: how long a rebalance waits for work in flight,
how long a fetch waits at the broker, what is read and when partitions flow after a recovery, and when changelogs are
flushed.
"""

import asyncio
import atexit
import contextlib
import logging
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Set
from pathlib import Path
from time import monotonic
from typing import Any, cast

import faust
import faust.streams
from aiokafka.errors import IllegalStateError, KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from schemas.topics import Topic
from streams.assignor import WarmAssignor
from streams.delivery import Delivery, OrderedAcks, Producer
from streams.delivery.producer import LINGER_MS, MAX_BATCH_BYTES, MAX_RECORD_BYTES
from streams.installed import TableDeclaration, app_id
from streams.kafka import StartupError, faust_options, join_knowingly
from streams.metrics import Metrics
from streams.recovery import BatchRecovery, BatchTables
from streams.settings import Settings
from streams.subscription import Subscription
from streams.tables import DurableTable
from streams.wire import read_anything, weight

logger = logging.getLogger(__name__)

STREAM_BUFFER = 16_384
"""Records that wait in memory for an agent; with Faust's 4,096 the consumer slept (4,200 against 6,000 a second)."""

STREAM_BYTES = 128 * 1024 * 1024
"""Nothing is read while the records in memory are larger: strangers write up to 16 MiB, thousands of them at a time.
To look costs 20 us of a core a poll where little waits and 2 ms where the buffer is full: with 100 records a poll at
most 20 us of the millisecond that a record costs.
"""

FULL_S = 0.05
"""How soon one looks again whether there is room."""

URGENT_S = 0.1
"""How often what is urgent is looked for while other records are handed on."""

POLL_RECORDS = 100

POLL_CHANGES = 5000
"""As many at once while tables are recovered: each call goes to another thread and back."""

MAX_IDLE_S = 10 * 365 * 86_400.0
"""How long a consumer may be without a fetch. aiokafka leaves the group after that and joins again only once something
is fetched, which a worker without partitions, or whose partitions are all held, does not do: with Faust's 1,000 s a
spare worker would end every 19 minutes. The progress watch looks after those that stand still.
"""

CHANGELOG_BUFFER = 5000
"""Changes of rows on their way to the changelogs; with Faust's 100 the consumer stops again and again."""


class Engine(faust.App):
    """The Faust app of one role. Build it with :func:`engine`."""

    mailvet: Settings
    settled: asyncio.Event
    """Set while partitions are assigned and tables recovered."""
    drain_s: float
    """How long a stop waits for work in flight."""
    deliveries: dict[str, Delivery]
    """By the name of the topic on the broker."""
    starts: dict[TP, int]
    """Where each source partition is read from since it was assigned, as far as the broker could be asked."""
    queues: dict[str, "asyncio.Queue[Any]"]
    """What waits for them, by the same names."""
    urgent: set[str]
    """Topics on the broker that are read before the others."""

    _assignments: int = 0
    """The rebalance that the partitions of now come from, by its number."""

    @property
    def moving(self) -> bool:
        """A rebalance has begun, and its partitions are not assigned yet."""
        return self.rebalancing_count != self._assignments

    def assigned(self) -> None:
        """The rebalance that was begun last has assigned its partitions."""
        self._assignments = self.rebalancing_count

    @property
    def name(self) -> str:
        """The consumer group's."""
        return str(self.conf.id)

    def standing(self) -> dict[TP, tuple[int | None, int] | None]:
        """For each source partition what changes when it moves: what is committed and what was read.

        None while work of it is in hand: that has deadlines of its own.
        """
        standing: dict[TP, tuple[int | None, int] | None] = {}
        for tp in self.consumer.assignment():
            if tp.topic in self.deliveries:
                read = self.deliveries[tp.topic].standing(tp.partition)
                standing[tp] = None if read is None else (self.committed(tp), read)
        return standing

    def working(self) -> dict[str, Hashable]:
        """For each topic how many records were finished, and for each partition what is committed; None where there is
        nothing to finish or to commit.
        """
        work: dict[str, Hashable] = {f"the work on {topic}": each.working for topic, each in self.deliveries.items()}
        held = self.consumer.assignment() if self.settled.is_set() else ()
        sources = [tp for tp in held if tp.topic in self.deliveries]
        return work | {f"the commits of {tp.topic}[{tp.partition}]": self._uncommitted(tp) for tp in sources}

    def _uncommitted(self, tp: TP) -> int | None:
        """What is committed; None where that is all that was acknowledged."""
        acked, committed = self.deliveries[tp.topic].acked(tp.partition), self.committed(tp) or 0
        return committed if acked is not None and acked > committed else None

    def broken(self) -> str | None:
        """Why its consumer will never go on by itself.

        aiokafka tells so whoever calls its consumer for records. Faust takes them from the fetcher, past that: the
        coordination of the group waits for ever to have its error asked for, and a task that died is not missed.
        """
        consumer = None if self._consumer is None else cast(_Consumer, self._consumer)._thread._consumer
        if consumer is None or consumer._coordinator is None:  # It was not started yet.
            return None
        coordinator = consumer._coordinator
        if coordinator._pending_exception is not None:
            return f"the coordination of its group has failed: {coordinator._pending_exception!r}"
        parts = {
            "the coordination of its group": coordinator._coordination_task,
            "the fetching of records": consumer._fetcher._fetch_task,
            "the renewal of metadata": consumer._client._sync_task,
        }
        return next((f"{part} has ended" for part, task in parts.items() if task is not None and task.done()), None)

    @property
    def is_full(self) -> bool:
        """The records in memory are as large as may be."""
        held = sum(delivery.held_bytes for delivery in self.deliveries.values())
        waiting = (event.message for queue in self.queues.values() for event in cast(Any, queue)._queue)
        sizes: Iterable[int] = (message.serialized_value_size for message in waiting)
        return held + sum(sizes) > STREAM_BYTES

    def committed(self, tp: TP) -> int | None:
        """The offset that was committed last, as far as is known; None if none was."""
        return cast(driver.Consumer, self.consumer)._committed_offset.get(tp)

    @property
    def recovery(self) -> BatchRecovery:
        """The recovery of its tables."""
        return cast(BatchTables, self.tables).recovery

    def join_again(self) -> None:
        """Ask the group for a rebalance, as soon as may be."""
        cast(_Consumer, self.consumer).join_again()

    def recovered(self) -> int:
        """Changes while tables are recovered."""
        return sum(offset for offset in self.recovery.active_offsets.values() if offset is not None)

    def on_rebalance_start(self) -> None:
        """Partitions are about to change: nothing is served until they are settled. Called in the consumer's thread."""
        self.settled.clear()
        super().on_rebalance_start()

    def on_rebalance_end(self) -> None:
        """Partitions are assigned, tables are recovered, the stream flows."""
        if not self.moving:  # Else it is the end of one that the next has overtaken.
            super().on_rebalance_end()
            self.settled.set()

    async def _consumer_wait_empty(self, consumer: Any, logger: logging.Logger) -> None:
        # Faust waits for the slowest handler however long it takes; what is unfinished after ours is done again.
        limit = self.drain_s if self.should_stop else self.mailvet.rebalance_grace_s
        waiting = asyncio.ensure_future(super()._consumer_wait_empty(consumer, logger))
        try:
            await asyncio.wait({waiting}, timeout=limit)
        finally:
            waiting.cancel()

    def _new_transport(self) -> "_Transport":
        return _Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> "_Transport":
        return _Transport(self.conf.broker_producer, self)


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        # Faust has 1.5 s written in its call; the embedded broker does not wake a fetch that waits.
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = cast(Engine, self.app).mailvet.fetch_wait_ms
        return consumer

    async def on_start(self) -> None:
        await super().on_start()
        join_knowingly(self._ensure_consumer())

    async def _fetch_records(
        self, consumer: Any, active_partitions: Any, timeout: float | None = None, max_records: int | None = None
    ) -> Any:
        # aiokafka gives what it has fetched partition by partition, each to its end, a megabyte of them: with 24
        # partitions and little CPU one of them was not read for a minute, and its worker took that for a stall.
        app, fetched = cast(Engine, self.app), consumer._fetcher._records
        put_in_order(fetched, app.urgent, app.tables.changelog_topics)
        if app.in_recovery:
            max_records = POLL_CHANGES
        given = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        put_last(fetched, given)
        return given


def put_in_order(fetched: "OrderedDict[TP, Any]", first: Set[str], last: Set[str]) -> None:
    """Put the partitions of some topics before all others, and those of some behind: standbys have time."""
    for tp in [tp for tp in fetched if tp.topic in first]:
        fetched.move_to_end(tp, last=False)
    for tp in [tp for tp in fetched if tp.topic in last]:
        fetched.move_to_end(tp)


def put_last(fetched: "OrderedDict[TP, Any]", given: Iterable[TP]) -> None:
    """Put these partitions, which had their turn, behind all others."""
    for tp in given:
        if tp in fetched:
            fetched.move_to_end(tp)


class _Flow:
    """The partitions that may be read at this moment, asked again for each: ``tp in flow``.

    Faust hands aiokafka its own set of them, which changes while a fetch waits, and aiokafka takes an empty one for
    "all": between the last record of a changelog and the return to the committed offsets it took records of sources
    that Faust then threw away. Their partition stood still until the next rebalance (measured: 3 of 8 rebalances).
    """

    def __init__(self, consumer: "_Consumer", *, only_urgent: bool = False) -> None:
        self._consumer = consumer
        self._only_urgent = only_urgent

    def __contains__(self, tp: object) -> bool:
        if self._only_urgent and cast(TP, tp).topic not in self._consumer.app.urgent:
            return False
        return self._consumer.flow_active and tp in self._consumer._active_partitions


class _Consumer(driver.Consumer):
    """After the recovery of tables Faust lets records flow, then goes back to the committed offsets, then clears the
    queues of its agents: what was read in between is lost (measured; the guard of offsets found it).
    Here nothing flows from an assignment on but what recovery asks for, which is changelogs, until the last of these
    steps, which is `resume_flow`; and nothing at all once the next rebalance has begun.

    Faust hands on the records of a poll one by one, and each of them takes several rounds of the loop: where rounds are
    long, a poll takes seconds. So what is urgent is looked for in between, and also while nothing else is read.
    """

    app: Engine

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: set[TP] = set()
        self._fetched_in = -1
        self._flow = cast(set[TP], _Flow(self))
        self._urgent_flow = cast(set[TP], _Flow(self, only_urgent=True))
        self._urgent_left = 0

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        # Faust stops the flow of a worker that had partitions, and goes on adding those whose buffers were full.
        self.stop_flow()
        self._held.clear()
        self._buffered_partitions.clear()
        self.app.starts.clear()
        self.app.assigned()
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        # Whatever Faust reads and throws away after this, the first record that comes shows it (delivery's guard).
        await super().perform_seek()
        sources = [tp for tp in self.assignment() if tp.topic in self.app.deliveries]
        try:
            earliest = await self.earliest_offsets(*sources) if sources else {}
        except KafkaError as error:
            logger.warning("the broker did not tell where partitions begin, so that is not checked: %r", error)
            return
        self.app.starts.update({tp: max(self._read_offset[tp] or 0, offset) for tp, offset in earliest.items()})

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        tps = set(tps)
        self._held -= tps
        super().pause_partitions(tps)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        tps = set(tps)
        changelogs = {tp for tp in tps if self._is_changelog_tp(tp)}
        self._held |= tps - changelogs
        super().resume_partitions(changelogs)

    def resume_flow(self) -> None:
        if not self.app.moving:
            held, self._held = self._held, set()
            super().resume_partitions(held)
            super().resume_flow()

    async def _wait_for_ack(self, timeout: float) -> None:
        # Faust takes a cancellation for an ack: a wait that was given up went on, with a full collection of garbage and
        # a commit for each ack, until nothing was unfinished, which under load is never; one more with each rebalance.
        self._waiting_for_ack = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({self._waiting_for_ack}, timeout=timeout)
        finally:
            self._waiting_for_ack = None

    def _to_message(self, tp: TP, record: Any) -> Any:
        # Nobody else asks for this size; the sum over all that wait is asked for again and again.
        message = super()._to_message(tp, record)
        message.serialized_value_size = weight(record)
        return message

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        # Nobody is told when a record's bytes are let go, so one looks.
        while self.app.is_full and not (self.app.moving or self.app.should_stop):
            if urgent := await self._urgent():
                return self._counted(urgent)
            await asyncio.sleep(FULL_S)
        self._fetched_in = self.app.consumer_generation_id
        return self._counted(await super()._getmany(self._flow, timeout))

    def _counted(self, records: Any) -> Any:
        self._urgent_left = sum(len(each) for tp, each in records.items() if tp.topic in self.app.urgent)
        return records

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """As Faust's, with what is urgent in between."""
        looked = monotonic()
        async for tp, message in super().getmany(timeout):
            yield tp, message
            self._urgent_left -= tp.topic in self.app.urgent
            # What a poll gave of them comes first: a partition that runs backwards is thrown away.
            if self._urgent_left <= 0 and monotonic() - looked > URGENT_S:
                for urgent_tp, records in (await self._urgent()).items():
                    for record in records:
                        yield urgent_tp, self._to_message(urgent_tp, record)
                looked = monotonic()

    async def _urgent(self) -> Any:
        """What has come of it by now; nothing that another generation has to read."""
        if not self.app.urgent:
            return {}
        generation = self.app.consumer_generation_id
        records = await super()._getmany(self._urgent_flow, 0.0)
        return records if self.flow_active and generation == self.app.consumer_generation_id else {}

    async def _wait_next_records(self, timeout: float) -> Any:
        records, active = await super()._wait_next_records(timeout)
        changelogs = {tp: found for tp, found in (records or {}).items() if self._is_changelog_tp(tp)}
        if not changelogs:
            return records, active
        await self._read(changelogs)
        return {tp: found for tp, found in (records or {}).items() if tp not in changelogs}, active

    async def _read(self, changelogs: Mapping[TP, Any]) -> None:
        # What was asked for before a rebalance may be of a partition that went and came back: it is read again, from
        # the place that its table knows.
        if self.flow_active and self._fetched_in == self.app.consumer_generation_id:
            self.app.recovery.read(changelogs)
            return
        with contextlib.suppress(IllegalStateError):  # It is another's by now.
            for tp in changelogs:
                await self._thread.call_thread(
                    self._thread._ensure_consumer().seek, tp, self.app.recovery.place(tp) + 1
                )

    def join_again(self) -> None:
        """In the thread of aiokafka's consumer."""
        coordinator = self._thread._ensure_consumer()._coordinator
        self._thread.thread_loop.call_soon_threadsafe(coordinator.request_rejoin)

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class _Producer(driver.Producer):
    """Faust's producer, which only writes changelogs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.buffer.max_messages = CHANGELOG_BUFFER

    async def flush(self) -> None:
        # Faust flushes before each commit, and under load the buffer is never empty: a commit took 11 s. What is
        # acknowledged was confirmed before; only where rows change hands everything has to be out.
        if self.app.rebalancing or self.app.should_stop:
            await super().flush()


class _Transport(driver.Transport):
    Consumer = _Consumer
    Producer = _Producer


def engine(role: str, settings: Settings) -> Engine:
    """The Faust app of a role, a consumer group of its own.

    Raises:
        StartupError: Faust's compiled streams are missing (the other ones acknowledge what they did not handle), or
            the folder of the settings can't be made.
    """
    if getattr(faust.streams, "_CStreamIterator", None) is None:
        raise StartupError("Faust's compiled extension is missing or NO_CYTHON is set: install faust-streaming's wheel")
    read_anything()
    app = Engine(
        app_id(role, settings.namespace),
        **faust_options(settings),
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.heartbeat_s,
        broker_commit_interval=settings.commit_interval_s,
        broker_max_poll_records=POLL_RECORDS,
        broker_max_poll_interval=MAX_IDLE_S,
        stream_buffer_maxsize=STREAM_BUFFER,
        producer_max_request_size=MAX_RECORD_BYTES,
        producer_linger=LINGER_MS / 1000,
        producer_max_batch_size=MAX_BATCH_BYTES,
        stream_wait_empty=True,
        Table=DurableTable,
        TableManager=BatchTables,
        PartitionAssignor=WarmAssignor,
        store="memory://",
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        datadir=_folder(settings, role),
    )
    app.mailvet = settings
    app.settled = asyncio.Event()
    app.drain_s = settings.drain_s
    app.deliveries, app.starts, app.queues, app.urgent = {}, {}, {}, set()
    app.finalize()
    return app


def _folder(settings: Settings, role: str) -> str:
    # Faust makes a folder even where tables live in memory, by default in the working directory.
    if settings.data_dir:
        folder = Path(settings.data_dir) / role
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartupError(f"MAILVET_DATA_DIR: {folder} can't be made: {error.strerror}") from None
        return str(folder)
    folder = Path(tempfile.mkdtemp(prefix="mailvet-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(folder)


def table(app: Engine, declared: TableDeclaration, record_key: Callable[[bytes], bytes]) -> DurableTable:
    """The table in this app. ``record_key``: see :class:`DurableTable`."""
    app.conf.table_standby_replicas = app.mailvet.standby_replicas
    partitions = declared.source.partitions
    made = cast(DurableTable, app.Table(declared.name, key_type=bytes, value_type=bytes, partitions=partitions))
    made.record_key = record_key
    return made


def subscribe(
    app: Engine,
    role: str,
    subscriptions: Iterable[Subscription],
    *,
    producer: Producer,
    metrics: Metrics,
    on_fatal: Callable[[Exception], None],
    acks: Callable[..., OrderedAcks] = OrderedAcks,
) -> None:
    """Bind each subscription to an agent of the app. ``acks`` is for the tests of delivery."""
    for subscription in subscriptions:
        delivery = Delivery(
            role,
            subscription,
            deliver=producer.deliver,
            generation=lambda: app.consumer_generation_id,
            start=_starts(app, subscription.topic),
            hold=_holds(app, subscription.topic),
            on_fatal=on_fatal,
            metrics=metrics,
            dead_letter_limit=app.mailvet.dead_letter_limit,
            acks=acks,
        )
        _bind(app, subscription, delivery)


def _starts(app: Engine, topic: Topic) -> Callable[[int], int | None]:
    name = topic.named(app.mailvet.namespace).name
    return lambda partition: app.starts.get(TP(name, partition))


def _holds(app: Engine, topic: Topic) -> Callable[[int, bool], None]:
    name = topic.named(app.mailvet.namespace).name

    def hold(partition: int, held: bool) -> None:
        # As for a buffer that is full: what was fetched still comes, nothing more is asked for.
        change = app.consumer.on_buffer_full if held else app.consumer.on_buffer_drop
        change(TP(name, partition))

    return hold


def _bind(app: Engine, subscription: Subscription, delivery: Delivery) -> None:
    topic = subscription.topic
    source = app.topic(
        topic.named(app.mailvet.namespace).name,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        allow_empty=True,
        partitions=topic.partitions,
    )

    async def agent(stream: Any) -> None:
        app.queues[source.get_topic_name()] = stream.channel.queue
        await delivery.run(stream.noack().events())

    async def forget(*_: object, **__: object) -> None:
        delivery.forget()

    app.deliveries[source.get_topic_name()] = delivery
    if subscription.urgent:
        app.urgent.add(source.get_topic_name())
    app.agent(source, name=topic.name)(agent)
    app.on_partitions_assigned.connect(forget, weak=False)
