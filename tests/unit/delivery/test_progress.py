"""A worker that stands still: what counts as that, what excuses it, and what it says."""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from streams import progress as module
from streams.progress import JOIN_S, LOOKS, Broker, BrokerAway, Heartbeat, Patience, ProgressWatch, hang_s
from streams.settings import Settings

HERE, THERE = TopicPartition("t", 0), TopicPartition("t", 1)
MOVING = round(LOOKS * (1 + JOIN_S / 60.0))
HANGING = round(LOOKS * 3600.0 / 60.0)


@dataclass
class App:
    """An engine as the watch sees it."""

    name: str = "g"
    should_stop: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    stands: dict[TopicPartition, Hashable] = field(default_factory=lambda: {HERE: (7, 6)})
    rows: int = 0
    work: dict[str, Hashable] = field(default_factory=dict)
    why: str | None = None

    def standing(self) -> Mapping[TopicPartition, Hashable]:
        return dict(self.stands)

    def committed(self, _: TopicPartition) -> int | None:
        return 7

    def recovered(self) -> Hashable:
        return self.rows

    def working(self) -> Mapping[str, Hashable]:
        return dict(self.work)

    def broken(self) -> str | None:
        return self.why


@dataclass
class Kafka:
    """The broker: records that wait, and what it was asked."""

    waiting: dict[TopicPartition, int] = field(default_factory=dict)
    there: bool = True
    asked: list[Mapping[TopicPartition, int | None]] = field(default_factory=list)

    async def unread(self, starts: Mapping[TopicPartition, int | None]) -> tuple[TopicPartition, int] | None:
        self.asked.append(starts)
        if not self.there:
            raise BrokerAway
        return next(((each, self.waiting[each]) for each in starts if each in self.waiting), None)

    async def answers(self) -> bool:
        return self.there


class World:
    def __init__(self, *apps: App, settled: bool = True) -> None:
        self.apps = apps or (App(),)
        self.app = self.apps[0]
        for app in self.apps:
            if settled:
                app.settled.set()
        self.kafka = Kafka({HERE: 9})
        self.fatal: list[str] = []
        self.failed = asyncio.Event()
        self.watch = ProgressWatch(
            self.apps,
            Settings(),
            on_fatal=self.fail,
            broker=self.kafka,  # type: ignore[arg-type]
        )

    def fail(self, error: Exception) -> None:
        self.fatal.append(str(error))
        self.failed.set()

    async def look(self, times: int = LOOKS + 1) -> list[str]:
        for _ in range(times):
            await self.watch.once()
        return self.fatal


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONFIRM_S", 0.0)


def test_patience_counts_looks_without_a_move() -> None:
    patience: Patience[str] = Patience(2)
    assert [patience.look({"a": 1, "b": each}) for each in range(3)] == [set(), set(), {"a"}]
    patience.forgive({"a"})
    assert [patience.look({"a": 1}) for _ in range(3)] == [set(), set(), {"a"}]


def test_an_excuse_or_an_absence_begins_anew() -> None:
    patience: Patience[str] = Patience(1)
    assert patience.look({"a": 1}) == set()
    assert patience.look({"a": None}) == patience.look({"a": 1}) == set()
    assert patience.look({}) == patience.look({"a": 1}) == set()
    assert patience.look({"a": 1}) == {"a"}
    assert patience.look({"a": None}) == patience.look({"a": None}) == set()


async def test_records_that_wait_for_a_still_partition_end_the_worker() -> None:
    world = World()
    assert await world.look(LOOKS) == []
    assert await world.look(1) == ["nothing of t[0] was read for 60 s, where offset 9 waits"]
    assert world.kafka.asked == [{HERE: 7}]


async def test_nothing_to_read_is_no_standstill() -> None:
    world = World()
    world.kafka.waiting = {}
    assert await world.look(5 * LOOKS) == []
    assert len(world.kafka.asked) == 4


async def test_one_partition_that_moves_does_not_hide_another() -> None:
    world = World()
    for each in range(LOOKS + 1):
        world.app.stands[THERE] = each
        await world.look(1)
    assert len(world.fatal) == 1


async def test_a_record_that_came_just_now_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def sleep(_: float) -> None:
        world.app.stands[HERE] = (7, 9)

    monkeypatch.setattr(world.watch, "sleep", sleep)
    assert await world.look() == []


@pytest.mark.parametrize("excuse", ["busy", "moving", "stopping"])
async def test_what_excuses_a_partition(excuse: str) -> None:
    world = World()
    if excuse == "busy":
        world.app.stands[HERE] = None
    elif excuse == "moving":
        world.app.settled.clear()
    else:
        world.app.should_stop = True
    assert await world.look(LOOKS + 5) == []
    assert world.kafka.asked == []


async def test_a_rebalance_within_the_last_moments_excuses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def sleep(_: float) -> None:
        world.app.settled.clear()

    monkeypatch.setattr(world.watch, "sleep", sleep)
    assert await world.look() == []


async def test_a_recovery_that_stands_still_ends_the_worker() -> None:
    world = World(settled=False)
    assert await world.look(MOVING) == []
    assert await world.look(1) == ["g was not ready 120 s after a rebalance"]


async def test_a_recovery_that_goes_on_may_take_long() -> None:
    world = World(settled=False)
    for each in range(3):
        world.app.rows = each
        await world.look(MOVING - 1)
    assert world.fatal == []


async def test_a_broker_that_is_away_is_waited_for() -> None:
    world = World(settled=False)
    world.kafka.there = False
    assert await world.look(3 * MOVING) == []


async def test_one_that_could_not_be_asked_is_asked_again_soon_but_has_time_to_give_what_waits() -> None:
    world = World()
    world.kafka.there = False
    assert await world.look() == []
    world.kafka.there = True
    assert await world.look(LOOKS // 2) == []
    assert await world.look(1) == ["nothing of t[0] was read for 60 s, where offset 9 waits"]


async def test_a_rebalance_that_waits_for_the_broker_is_looked_at_again_soon() -> None:
    world = World(settled=False)
    world.kafka.there = False
    await world.look(MOVING + 1)
    world.kafka.there = True
    assert await world.look(MOVING - LOOKS // 2) == []
    assert len(await world.look(1)) == 1


async def test_work_in_hand_of_which_nothing_ends_stops_the_worker_in_the_end() -> None:
    world = World(App(stands={HERE: None}, work={"the work on t": 7, "the commits of t[0]": None}))
    assert await world.look(HANGING) == []
    assert await world.look(1) == ["g: the work on t did not move for 3600 s"]


@pytest.mark.parametrize("change", [lambda work: work["t"] + 1, lambda _: None])
async def test_work_that_ends_may_go_on_for_ever(change: Callable[[dict[str, Any]], int | None]) -> None:
    world = World(App(stands={}, work={"t": 7}))
    for _ in range(3):
        await world.look(HANGING - 1)
        world.app.work["t"] = change(world.app.work) if world.app.work["t"] is not None else 7
    assert world.fatal == []


async def test_work_that_waits_for_a_broker_is_waited_for() -> None:
    world = World(App(stands={}, work={"t": 7}))
    world.kafka.there = False
    assert await world.look(2 * HANGING) == []


async def test_work_is_looked_at_in_a_rebalance_too() -> None:
    world = World(App(work={"t": 7}, stands={}), settled=False)
    for each in range(HANGING + 1):
        world.app.rows = each
        await world.look(1)
    assert world.fatal == ["g: t did not move for 3600 s"]


def test_no_task_of_ours_is_taken_for_hung() -> None:
    assert hang_s(Settings()) == 3600.0
    assert hang_s(Settings(hang_s=60.0)) == 120.0 + 40 * 60.0 + 2 * 120.0
    assert hang_s(Settings(turn_wait_s=3600.0)) == 3600.0 + 40 * 60.0 + 2 * 120.0


async def test_an_engine_that_knows_that_it_is_broken_ends_at_once() -> None:
    world = World()
    world.app.why = "a part of it has ended"
    assert await world.look(1) == ["g can't go on: a part of it has ended"]


async def test_every_engine_is_watched() -> None:
    world = World(App("a", stands={}), App("b"))
    assert len(await world.look()) == 1


async def test_it_looks_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(world.watch, "sleep", sleep)
    async with world.watch:
        await asyncio.wait_for(world.failed.wait(), 10)
    assert slept[:LOOKS] == [6.0] * LOOKS


async def test_the_event_loop_is_watched_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    beaten = asyncio.Event()

    def later(seconds: float, *, exit: bool) -> None:
        said.append((seconds, exit))
        beaten.set()

    monkeypatch.setattr(module.faulthandler, "dump_traceback_later", later)
    monkeypatch.setattr(module.faulthandler, "cancel_dump_traceback_later", lambda: said.append("over"))
    async with Heartbeat(60.0, 40.0):
        await asyncio.wait_for(beaten.wait(), 10)
    assert said == [(60.0, True), (40.0, True)], "a stop that hangs is ended too"


class Reader:
    """aiokafka's consumer: what each partition has, where that is said."""

    def __init__(self, ends: Mapping[TopicPartition, int], *, starts: bool = True, stops: bool = True) -> None:
        self.ends, self.starts, self.stops = ends, starts, stops
        self.places: dict[TopicPartition, int] = {}
        self.stopped = False

    async def start(self) -> None:
        if not self.starts:
            raise KafkaConnectionError

    async def stop(self) -> None:
        while not self.stops:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        self.stopped = True

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 3)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        if not set(partitions) <= set(self.ends):
            await asyncio.Event().wait()  # Without a leader it waits for one.
        return {each: self.ends[each] for each in partitions}

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.places = dict.fromkeys(partitions, 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.places[partition] = offset

    async def getmany(self, **_: int) -> dict[TopicPartition, list[Any]]:
        [(partition, offset), *_] = self.places.items()
        return {partition: [SimpleNamespace(offset=offset)]} if offset < self.ends[partition] else {}


def broker(
    monkeypatch: pytest.MonkeyPatch, ends: Mapping[TopicPartition, int], **reader: bool
) -> tuple[Broker, Reader]:
    made = Reader(ends, **reader)
    monkeypatch.setattr(module, "AIOKafkaConsumer", lambda **_: made)
    monkeypatch.setattr(module, "BROKER_S", 0.4)
    monkeypatch.setattr(module, "LEAVE_S", 0.01)
    return Broker(Settings()), made


async def test_what_is_unread_begins_at_the_start_and_not_before_the_first_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kafka, reader = broker(monkeypatch, {HERE: 9, THERE: 9})
    assert await kafka.unread({HERE: 9, THERE: None}) == (THERE, 3)
    assert await kafka.unread({HERE: 7}) == (HERE, 7)
    assert await kafka.unread({HERE: 9, THERE: 9}) is None
    assert reader.stopped


async def test_a_partition_without_a_leader_does_not_hide_what_others_have(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, _ = broker(monkeypatch, {THERE: 9})
    assert await kafka.unread({HERE: 7, THERE: 7}) == (THERE, 7)
    with pytest.raises(BrokerAway):
        await kafka.unread({HERE: 7, THERE: 9})


async def test_a_broker_that_is_not_there_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, reader = broker(monkeypatch, {}, starts=False)
    assert not await kafka.answers()
    with pytest.raises(BrokerAway):
        await kafka.unread({HERE: 7})
    assert reader.stopped, "nothing is left of a client that could not start"
    reader.starts = True
    assert await kafka.answers()


async def test_a_client_that_does_not_end_does_not_keep_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, reader = broker(monkeypatch, {HERE: 9}, stops=False)
    assert await asyncio.wait_for(kafka.unread({HERE: 7}), 10) == (HERE, 7)
    reader.stops = True


async def test_each_failure_allows_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka, reader = broker(monkeypatch, {}, starts=False)
    allowed: list[float | None] = []
    timeout = asyncio.timeout

    def noting(seconds: float | None) -> asyncio.Timeout:
        allowed.append(seconds)
        return timeout(seconds)

    monkeypatch.setattr(module.asyncio, "timeout", noting)
    for starts in [False] * 12 + [True, True]:
        reader.starts = starts
        await kafka.answers()
    assert allowed[:3] == [0.4, 0.8, 1.6]
    assert (allowed[11], allowed[12], allowed[13]) == (60.0, 60.0, 0.4)
