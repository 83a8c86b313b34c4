"""Delivery on a stream that is a list: what is acknowledged when, and what stops the worker."""

import asyncio
from asyncio import Future
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from schemas.pipeline import DeadLetter
from schemas.topics import ADMISSIONS_BULK, DEADLETTERS, REQUESTS, RESULTS, Topic
from streams.delivery import Delivery, DeliveryFailed, OffsetGap, TooLarge, runner
from streams.delivery.dead_letters import HEADER
from streams.delivery.runner import incoming
from streams.metrics import Metrics
from streams.records import Incoming, Outgoing, Unusable
from streams.subscription import Subscription
from streams.tables import changes
from streams.wire import UNREADABLE

OUT = Outgoing(RESULTS.name, b"k", b"v")


@dataclass
class World:
    """One Delivery between a stream, a handler and a broker that a test plays."""

    handle: Callable[[Incoming], Awaitable[Sequence[Outgoing]]]
    topic: Topic = ADMISSIONS_BULK
    concurrency: int = 10
    generation: int | None = 1
    start: int | None = None
    share: int | None = None
    held: list[tuple[int, bool]] = field(default_factory=list)
    acked: list[tuple[int, int]] = field(default_factory=list)
    delivered: list[Outgoing] = field(default_factory=list)
    fatal: list[Exception] = field(default_factory=list)
    broker: Callable[[Sequence[Outgoing], Sequence["Future[Any]"]], Awaitable[None]] | None = None
    now: float = 100.0

    def __post_init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.delivery = Delivery(
            "gate",
            Subscription(self.topic, self.handle, self.concurrency, share=self.share),
            deliver=self.deliver,
            generation=lambda: self.generation,
            on_fatal=self.fatal.append,
            metrics=self.metrics,
            start=lambda _: self.start,
            hold=lambda partition, held: self.held.append((partition, held)),
            clock=lambda: self.now,
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )
        self.running = asyncio.create_task(self.delivery.run(self.events()))

    async def deliver(self, records: Iterable[Outgoing], also: Sequence["Future[Any]"] = ()) -> None:
        records = list(records)
        if self.broker is not None:
            await self.broker(records, also)
        self.delivered += records

    async def events(self) -> AsyncIterator[Any]:
        while (event := await self.queue.get()) is not None:
            yield event

    def feed(
        self,
        *offsets: int,
        partition: int = 0,
        generation: int | None = 1,
        value: bytes = b"x",
        key: bytes = b"k",
        headers: Any = (),
    ) -> None:
        for offset in offsets:
            message = SimpleNamespace(
                partition=partition,
                offset=offset,
                key=key,
                value=value,
                headers=headers,
                timestamp=1.5,
                timestamp_type=1,
                generation_id=generation,
            )

            def ack(place: tuple[int, int] = (partition, offset)) -> bool:
                self.acked.append(place)
                return True

            self.queue.put_nowait(SimpleNamespace(message=message, ack=ack))

    def count(self, name: str, *labels: str) -> float:
        names = {"records_in": ("role", "topic"), "dead_letters": ("role", "reason"), "records_out": ("role", "topic")}
        value = self.metrics.registry.get_sample_value(
            f"mailvet_{name}_total", dict(zip(names[name], ("gate", *labels), strict=True))
        )
        return value or 0.0

    def oldest(self) -> float:
        return self.delivery.oldest_unacked()["gate", self.topic.name]


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(30):
        await asyncio.sleep(0)


class Gates:
    """A handler whose records a test lets go one by one."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []
        self.said: dict[tuple[int, int], Sequence[Outgoing]] = {}
        self._gates: dict[tuple[int, int], asyncio.Event] = {}

    async def __call__(self, record: Incoming) -> Sequence[Outgoing]:
        place = (record.partition, record.offset)
        self.started.append(place)
        await self._gates.setdefault(place, asyncio.Event()).wait()
        return self.said.get(place, [OUT])

    def open(self, *offsets: int, partition: int = 0) -> None:
        for offset in offsets:
            self._gates.setdefault((partition, offset), asyncio.Event()).set()


async def test_what_is_unfinished_is_never_acknowledged_past() -> None:
    gates = Gates()
    world = World(gates)
    world.feed(5, 6, 7)
    await settle()
    gates.open(6, 7)
    await settle()
    assert world.acked == []
    gates.open(5)
    await settle()
    assert world.acked == [(0, 5), (0, 6), (0, 7)]
    assert (world.count("records_in", ADMISSIONS_BULK.name), world.count("records_out", RESULTS.name)) == (3, 3)


async def test_a_partition_that_has_its_share_in_hand_is_not_read_on_and_others_are() -> None:
    gates = Gates()
    world = World(gates, share=4)
    world.feed(0, 1, 2)
    await settle()
    assert world.held == []
    world.feed(3)
    world.feed(0, partition=1)
    await settle()
    assert world.held == [(0, True)]
    assert (1, 0) in gates.started
    gates.open(0)
    await settle()
    assert world.held == [(0, True)], "not for one"
    gates.open(2)
    await settle()
    assert world.held == [(0, True), (0, False)]


async def test_a_partition_with_one_record_that_hangs_is_not_read_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_SPAN", 6)
    gates = Gates()
    world = World(gates)
    gates.open(*range(1, 6))
    world.feed(*range(6))
    await settle()
    assert world.held == [(0, True)], "five are done, and none can be acknowledged"
    assert world.delivery.widest_span() == {("gate", ADMISSIONS_BULK.name): 6.0}
    gates.open(0)
    await settle()
    assert world.held == [(0, True), (0, False)]
    assert len(world.acked) == 6
    assert world.delivery.widest_span() == {("gate", ADMISSIONS_BULK.name): 0.0}


async def test_a_partition_that_begins_anew_is_not_held_for_what_was_before() -> None:
    gates = Gates()
    world = World(gates, share=2)
    world.feed(3, 4)
    await settle()
    world.feed(3)  # Faust went back to the committed offset
    await settle()
    assert world.held == [(0, True), (0, False)]


async def test_a_rebalance_lets_nothing_go_that_is_not_held_any_more() -> None:
    gates = Gates()
    world = World(gates, share=1)
    world.feed(0)
    await settle()
    world.generation = 2
    world.delivery.forget()
    gates.open(0)
    await settle()
    assert world.held == [(0, True)]


async def test_what_closes_waits_for_earlier_records_of_the_same_key() -> None:
    gates = Gates()
    world = World(gates)
    gates.said[0, 7] = [replace(OUT, closing=True)]
    world.feed(5, 6, 7)
    gates.open(6, 7)
    await settle()
    assert world.delivered == [OUT], "of 6; 7 waits for 5"
    gates.open(5)
    await settle()
    assert world.delivered == [OUT, OUT, replace(OUT, closing=True)]
    assert world.acked == [(0, 5), (0, 6), (0, 7)]


async def test_what_closes_waits_for_no_other_key_and_for_nothing_later() -> None:
    gates = Gates()
    world = World(gates)
    gates.said[0, 6] = [replace(OUT, closing=True)]
    world.feed(5, key=b"another")
    world.feed(6, 7)
    gates.open(6)
    await settle()
    assert world.delivered == [replace(OUT, closing=True)]


async def test_what_closes_is_not_said_when_something_before_it_could_not_be() -> None:
    gates = Gates()
    world = World(gates)
    gates.said[0, 6] = [replace(OUT, closing=True)]

    async def broker(records: Sequence[Outgoing], _: Sequence["Future[Any]"]) -> None:
        if OUT in records:
            raise DeliveryFailed("refused")

    world.broker = broker
    world.feed(5, 6)
    gates.open(5, 6)
    await settle()
    assert (world.delivered, world.acked) == ([], [])
    assert [str(each) for each in world.fatal] == ["refused"]


async def test_partitions_do_not_wait_for_each_other() -> None:
    gates = Gates()
    world = World(gates)
    world.feed(5, partition=0)
    world.feed(9, partition=1)
    gates.open(9, partition=1)
    await settle()
    assert world.acked == [(1, 9)]


@pytest.mark.parametrize("unusable", [False, True])
async def test_the_broker_has_changes_of_tables_then_outputs_then_the_record_is_acknowledged(unusable: bool) -> None:
    changed, confirmed = asyncio.get_running_loop().create_future(), asyncio.Event()
    written: list[str] = []

    async def handle(_: Incoming) -> Sequence[Outgoing]:
        changes.get().append(changed)
        if unusable:
            raise Unusable("invalid", "seen after the row was changed")
        return [OUT]

    async def broker(records: Sequence[Outgoing], also: Sequence["Future[Any]"]) -> None:
        written.extend(record.topic for record in records)
        await asyncio.gather(*also)
        if records:
            await confirmed.wait()

    world = World(handle, topic=REQUESTS, broker=broker)
    world.feed(0)
    await settle()
    assert (written, world.acked) == ([], [])
    changed.set_result(None)
    await settle()
    assert (written, world.acked) == ([DEADLETTERS.name if unusable else OUT.topic], [])
    confirmed.set()
    await settle()
    assert world.acked == [(0, 0)]


async def test_where_a_change_of_a_table_is_not_confirmed_no_output_goes_out() -> None:
    lost = DeliveryFailed("the broker is away")

    async def handle(_: Incoming) -> Sequence[Outgoing]:
        changes.get().append(asyncio.get_running_loop().create_future())
        return [OUT]

    async def broker(_: Sequence[Outgoing], also: Sequence["Future[Any]"]) -> None:
        if also:
            raise lost

    world = World(handle, broker=broker)
    world.feed(0)
    await settle()
    assert (world.delivered, world.acked, world.fatal) == ([], [], [lost])


async def test_a_record_that_changes_no_table_waits_for_its_outputs_alone() -> None:
    calls: list[int] = []

    async def handle(_: Incoming) -> Sequence[Outgoing]:
        return [OUT]

    async def broker(records: Sequence[Outgoing], _: Sequence["Future[Any]"]) -> None:
        calls.append(len(records))

    world = World(handle, broker=broker)
    world.feed(0)
    await settle()
    assert (calls, world.acked) == ([1], [(0, 0)])


async def test_changes_of_one_record_are_not_awaited_by_another() -> None:
    rows = [asyncio.get_running_loop().create_future() for _ in range(2)]

    async def handle(record: Incoming) -> Sequence[Outgoing]:
        await asyncio.sleep(0)
        changes.get().append(rows[record.offset])
        return [Outgoing(RESULTS.name, None, str(record.offset).encode())]

    async def broker(_: Sequence[Outgoing], also: Sequence["Future[Any]"]) -> None:
        await asyncio.gather(*also)

    world = World(handle, broker=broker)
    world.feed(0, 1)
    await settle()
    rows[1].set_result(None)
    await settle()
    assert [record.value for record in world.delivered] == [b"1"]


async def test_no_more_are_worked_on_than_was_said() -> None:
    gates = Gates()
    world = World(gates, concurrency=2)
    world.feed(0, 1, 2)
    await settle()
    assert gates.started == [(0, 0), (0, 1)]
    gates.open(1)
    await settle()
    assert gates.started == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize(("burst", "rounds"), [(1, [1, 2, 3]), (3, [3, 3, 3])])
async def test_a_burst_of_records_leaves_others_their_turn(burst: int, rounds: list[int]) -> None:
    started: list[int] = []

    async def handle(record: Incoming) -> Sequence[Outgoing]:
        started.append(record.offset)
        return []

    world = World(handle)
    object.__setattr__(world.delivery._subscription, "burst", burst)
    world.feed(0, 1, 2)
    seen = []
    for _ in range(20):
        await asyncio.sleep(0)
        seen.append(len(started))
    assert [count for count in seen if count][:3] == rounds


async def test_an_unusable_record_is_a_dead_letter_and_the_stream_goes_on() -> None:
    async def handle(record: Incoming) -> Sequence[Outgoing]:
        if record.value == b"bad":
            raise Unusable("not_json", "no JSON")
        return [OUT]

    world = World(handle, topic=REQUESTS)
    world.feed(0, value=b"bad")
    world.feed(1)
    await settle()
    assert world.acked == [(0, 0), (0, 1)]
    assert [(each.topic, each.value) for each in world.delivered] == [(DEADLETTERS.name, b"bad"), (OUT.topic, b"v")]
    assert world.count("dead_letters", "not_json") == 1
    assert world.fatal == []


async def test_a_bug_costs_one_record_and_its_words_are_kept_from_logs(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(record: Incoming) -> Sequence[Outgoing]:
        raise KeyError("secret of the payload")

    world = World(handle)
    world.feed(0)
    await settle()
    about = DeadLetter.model_validate_json(dict(world.delivered[0].headers)[HEADER])
    assert about.reason == "internal_error"
    assert about.detail.startswith("KeyError at delivery/test_runner.py:")
    assert (world.acked, world.fatal) == ([(0, 0)], [])
    [line] = caplog.messages
    assert line.startswith("gate failed on mailvet.admissions.bulk.v1[0]@0: KeyError at ")
    assert "secret" not in line + about.detail


async def test_an_output_that_is_too_large_is_a_dead_letter_of_its_input() -> None:
    async def broker(records: Sequence[Outgoing], _: Sequence["Future[Any]"]) -> None:
        if records[0].topic != DEADLETTERS.name:
            raise TooLarge("a record is larger than its topic takes")

    async def handle(_: Incoming) -> Sequence[Outgoing]:
        return [OUT]

    world = World(handle, broker=broker)
    world.feed(0)
    await settle()
    assert [each.topic for each in world.delivered] == [DEADLETTERS.name]
    assert (world.acked, world.fatal) == ([(0, 0)], [])


@pytest.mark.parametrize("error", [DeliveryFailed("the broker is away"), TooLarge("not even the dead letter")])
async def test_what_cannot_be_delivered_stops_the_worker_unacknowledged(error: Exception) -> None:
    async def broker(*_: object) -> None:
        raise error

    async def handle(_: Incoming) -> Sequence[Outgoing]:
        return [OUT]

    world = World(handle, broker=broker)
    world.feed(0, 1)
    await settle()
    assert world.fatal == [error]
    assert world.acked == []


async def test_after_a_failure_nothing_is_acknowledged_any_more() -> None:
    gates = Gates()
    world = World(gates)
    world.feed(0, 1, 5)
    await settle()
    gates.open(0, 1)
    await settle()
    assert world.acked == []
    assert [str(each) for each in world.fatal] == ["offset 5 came where 2 was expected"]
    assert isinstance(world.fatal[0], OffsetGap)


async def test_records_missing_at_the_start_of_a_generation_stop_the_worker() -> None:
    world = World(Gates(), start=3)
    world.feed(5, 6)
    await settle()
    assert world.acked == []
    assert [str(each) for each in world.fatal] == ["offset 5 came where 3 was expected"]


async def test_a_record_of_an_older_generation_is_not_worked_on() -> None:
    """Rows of its partition may be another's by now, or not recovered yet; it is read again."""
    gates = Gates()
    world = World(gates, start=3, concurrency=1)
    world.feed(9, generation=0)
    world.feed(3, 4)
    gates.open(9, 3, 4)
    await settle()
    assert gates.started == [(0, 3), (0, 4)], "and it takes nobody's place"
    assert (world.acked, world.fatal) == ([(0, 3), (0, 4)], [])


async def test_a_gap_is_no_failure_where_strangers_write() -> None:
    gates = Gates()
    world = World(gates, topic=REQUESTS)
    world.feed(0, 5)
    gates.open(0, 5)
    await settle()
    assert (world.acked, world.fatal) == ([(0, 0), (0, 5)], [])


async def test_a_handler_that_is_cancelled_from_within_stops_the_worker() -> None:
    async def handle(_: Incoming) -> Sequence[Outgoing]:
        raise asyncio.CancelledError

    world = World(handle)
    world.feed(0)
    await settle()
    assert world.acked == []
    assert [str(each) for each in world.fatal] == ["a handler of mailvet.admissions.bulk.v1 was cancelled from within"]


async def test_cancelling_the_stream_acknowledges_nothing_that_is_unfinished() -> None:
    gates = Gates()
    world = World(gates)
    world.feed(0, 1)
    await settle()
    world.running.cancel()
    await settle()
    gates.open(0, 1)
    await settle()
    assert (world.acked, world.delivered, world.fatal) == ([], [], [])
    assert world.running.cancelled()


async def test_the_end_of_the_stream_is_the_end() -> None:
    world = World(Gates())
    world.queue.put_nowait(None)
    await settle()
    assert world.running.done()
    assert world.fatal == []


async def test_after_a_rebalance_old_records_are_given_up_and_read_again() -> None:
    gates = Gates()
    world = World(gates)
    world.feed(5, 6)
    await settle()
    world.generation = 2
    gates.open(5)
    await settle()
    assert world.acked == []  # Its partition may be another's by now.
    world.feed(5, 6, generation=2)
    await settle()
    assert gates.started == [(0, 5), (0, 6), (0, 5), (0, 6)]
    gates.open(6)
    await settle()
    assert world.acked == [(0, 5), (0, 6)]


async def test_partitions_that_did_not_come_back_are_given_up_too() -> None:
    gates = Gates()
    world = World(gates)
    world.feed(5)
    await settle()
    world.now += 7
    assert world.oldest() == 7
    world.generation = 2
    world.delivery.forget()
    gates.open(5)
    await settle()
    assert (world.acked, world.delivered, world.oldest()) == ([], [], 0)


async def test_going_back_to_the_committed_offset_begins_anew() -> None:
    gates = Gates()
    world = World(gates)
    world.feed(5, 6)
    await settle()
    world.feed(5)
    await settle()
    gates.open(5, 6)
    await settle()
    assert (world.acked, world.fatal) == ([(0, 5)], [])


async def test_the_age_of_the_oldest_unacknowledged_record_is_known() -> None:
    gates = Gates()
    world = World(gates)
    world.feed(0, 1)
    await settle()
    world.now += 3
    world.feed(0, partition=1)
    await settle()
    gates.open(1)
    await settle()
    assert world.oldest() == 3
    gates.open(0)
    await settle()
    assert world.oldest() == 0
    gauge = {"role": "gate", "topic": ADMISSIONS_BULK.name}
    assert world.metrics.registry.get_sample_value("mailvet_oldest_unacked_seconds", gauge) == 0
    assert world.metrics.registry.get_sample_value("mailvet_records_in_flight", gauge) == 1


@pytest.mark.parametrize(
    ("headers", "seen", "repeated"),
    [
        ([("a", b"1"), ("a", b"2"), ("b", None)], {"a": b"1", "b": b""}, {"a"}),
        ({"a": b"1"}, {"a": b"1"}, set()),
        (None, {}, set()),
    ],
)
def test_a_record_as_a_role_sees_it(headers: Any, seen: dict[str, bytes], repeated: set[str]) -> None:
    message = SimpleNamespace(
        partition=1,
        offset=2,
        key=None,
        value=None,
        headers=headers,
        timestamp=1.2345,
        timestamp_type=1,
        generation_id=1,
    )
    assert incoming("t", message) == Incoming("t", 1, 2, None, b"", seen, frozenset(repeated), 1234, broker_time=True)


@pytest.mark.parametrize("timestamp", [None, -0.001])
def test_a_record_without_a_time(timestamp: float | None) -> None:
    message = SimpleNamespace(
        partition=1, offset=2, key=b"", value=b"", headers=(), timestamp=timestamp, timestamp_type=0, generation_id=1
    )
    seen = incoming("t", message)
    assert (seen.timestamp_ms, seen.broker_time) == (0, False)


async def test_where_a_partition_stands_is_told_when_nothing_is_in_hand() -> None:
    done = asyncio.Event()

    async def handle(record: Incoming) -> Sequence[Outgoing]:
        if record.partition == 0:
            await done.wait()
        return [OUT]

    world = World(handle, concurrency=2)
    assert world.delivery.standing(0) == -1
    world.feed(5)
    world.feed(8, partition=1)
    await settle()
    assert (world.delivery.standing(0), world.delivery.standing(1)) == (None, 8)
    world.feed(6)
    await settle()
    assert world.delivery.standing(1) is None, "there is room for no more"
    done.set()
    await settle()
    assert (world.delivery.standing(0), world.delivery.standing(1)) == (6, 8)


async def test_what_is_held_in_memory_is_known_to_the_byte() -> None:
    gates = Gates()
    world = World(gates)
    world.feed(0, 1, value=b"x" * 100)
    world.feed(0, partition=1, value=b"y" * 7)
    await settle()
    assert world.delivery.held_bytes == 210
    gates.open(1)
    await settle()
    assert world.delivery.held_bytes == 210, "a record that can't be acknowledged yet is held"
    gates.open(0)
    await settle()
    assert world.delivery.held_bytes == 8
    world.generation = 2
    world.delivery.forget()
    assert world.delivery.held_bytes == 0


async def test_a_batch_that_was_not_unpacked_is_a_dead_letter_whoever_reads_it() -> None:
    async def handle(_: Incoming) -> Sequence[Outgoing]:
        raise AssertionError("nobody reads it")

    world = World(handle)
    world.feed(0, headers=[(UNREADABLE, b"why")])
    await settle()
    assert world.acked == [(0, 0)]
    [letter] = world.delivered
    assert DeadLetter.model_validate_json(dict(letter.headers)[HEADER]).reason == "too_large"
    assert (
        world.metrics.registry.get_sample_value(
            "mailvet_dead_letter_share", {"role": "gate", "topic": ADMISSIONS_BULK.name}
        )
        == 1.0
    )


async def test_work_counts_while_some_is_in_hand() -> None:
    gates = Gates()
    world = World(gates)
    assert world.delivery.working is None
    world.feed(5, 6, 7)
    await settle()
    assert (world.delivery.working, world.delivery.acked(0)) == (0, None)
    gates.open(6)
    await settle()
    assert (world.delivery.working, world.delivery.acked(0)) == (1, None)
    gates.open(5)
    await settle()
    assert (world.delivery.working, world.delivery.acked(0)) == (2, 7)
    gates.open(7)
    await settle()
    assert (world.delivery.working, world.delivery.acked(0), world.delivery.acked(1)) == (None, 8, None)


async def test_work_that_ignores_its_cancellation_is_in_hand_until_it_ends() -> None:
    done = asyncio.Event()

    async def handle(_: Incoming) -> Sequence[Outgoing]:
        while not done.is_set():
            with suppress(asyncio.CancelledError):
                await done.wait()
        return [OUT]

    world = World(handle)
    world.feed(5)
    await settle()
    world.generation = 2
    world.delivery.forget()
    await settle()
    assert world.delivery.working == 0
    done.set()
    await settle()
    assert world.delivery.working is None


async def test_a_stream_that_is_begun_anew_has_all_of_its_slots() -> None:
    gates = Gates()
    world = World(gates, concurrency=2)
    for _ in range(3):
        await settle()
        world.running.cancel()
        await asyncio.wait({world.running})
        world.running = asyncio.create_task(world.delivery.run(world.events()))
    world.feed(1, 2, 3)
    await settle()
    assert gates.started == [(0, 1), (0, 2)]
