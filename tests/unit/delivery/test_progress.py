"""A worker that stands still: what counts as that, what excuses it, and what it says."""

import asyncio
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import pytest
from aiokafka import TopicPartition

from streams import progress as module
from streams.progress import JOIN_S, LOOKS, Heartbeat, Patience, ProgressWatch
from streams.settings import Settings

HERE, THERE = TopicPartition("t", 0), TopicPartition("t", 1)
MOVING = round(LOOKS * (1 + JOIN_S / 60.0))


@dataclass
class App:
    """An engine as the watch sees it."""

    name: str = "g"
    should_stop: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    stands: dict[TopicPartition, Hashable] = field(default_factory=lambda: {HERE: (7, 6)})
    rows: int = 0

    def standing(self) -> Mapping[TopicPartition, Hashable]:
        return dict(self.stands)

    def committed(self, _: TopicPartition) -> int | None:
        return 7

    def recovered(self) -> Hashable:
        return self.rows


@dataclass
class Kafka:
    """The broker: records that wait, and what it was asked."""

    waiting: dict[TopicPartition, int] = field(default_factory=dict)
    there: bool = True
    asked: list[Mapping[TopicPartition, int | None]] = field(default_factory=list)

    async def unread(self, starts: Mapping[TopicPartition, int | None]) -> tuple[TopicPartition, int] | None:
        self.asked.append(starts)
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
    async with Heartbeat(60.0):
        await asyncio.wait_for(beaten.wait(), 10)
    assert said == [(60.0, True), "over"]
