"""A group of services: what starts when, what ends the process, and with which words."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from mode import Service

from streams import group as module
from streams.group import Group, WorkerFailed


class Part(Service):
    """A service that says what happens to it; also stands in for a Faust app."""

    def __init__(self, name: str, said: list[str], *, settled: bool = True, stops: bool = True) -> None:
        super().__init__()
        self.name, self.said, self.stops, self.drain_s = name, said, stops, 20.0
        self.settled = asyncio.Event()
        if settled:
            self.settled.set()

    async def on_start(self) -> None:
        self.said.append(f"start {self.name}")

    async def on_stop(self) -> None:
        self.said.append(f"stop {self.name}")
        if not self.stops:
            await asyncio.Event().wait()


class World:
    def __init__(self, **app: Any) -> None:
        self.said: list[str] = []
        self.app = Part("app", self.said, **app)
        self.group = Group([Part("producer", self.said)], [self.app])  # type: ignore[list-item]
        self.group.also(Part("chores", self.said))
        self.stop = asyncio.Event()

    async def until(self, what: str) -> None:
        for _ in range(1000):
            if what in self.said:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{what} was never said")

    async def run(self, drain_s: float = 20.0) -> None:
        await self.group.run(self.stop.wait(), lambda: self.said.append("ready"), drain_s)


async def test_what_others_need_starts_first_and_stops_last() -> None:
    world = World()
    running = asyncio.create_task(world.run())
    await world.until("ready")
    assert world.group.ready
    world.stop.set()
    await running
    assert world.said == [
        "start producer",
        "start app",
        "start chores",
        "ready",
        "stop app",
        "stop chores",
        "stop producer",
    ]
    assert world.group.alive


async def test_it_is_ready_when_partitions_are_settled() -> None:
    world = World(settled=False)
    running = asyncio.create_task(world.run())
    await world.until("start chores")
    assert not world.group.ready
    world.app.settled.set()
    await world.until("ready")
    world.stop.set()
    await running


async def test_what_is_no_engine_may_be_waited_for_too() -> None:
    world = World()
    tier = asyncio.Event()
    world.group = Group([], [world.app], awaited=[world.app.settled, tier])  # type: ignore[list-item]
    running = asyncio.create_task(world.run())
    await world.until("start app")
    assert not world.group.ready
    tier.set()
    await world.until("ready")
    world.stop.set()
    await running


async def test_the_first_failure_ends_it_without_waiting_for_work_in_flight() -> None:
    world = World()
    running = asyncio.create_task(world.run())
    await world.until("ready")
    world.group.fail(ValueError("the first"))
    world.group.fail(ValueError("the second"))
    assert not world.group.alive
    with pytest.raises(WorkerFailed, match="the first"):
        await running
    assert world.app.drain_s == 0
    assert "stop app" in world.said


async def test_a_part_that_crashes_ends_it() -> None:
    world = World()
    running = asyncio.create_task(world.run())
    await world.until("ready")
    await world.app.crash(KeyError())
    with pytest.raises(WorkerFailed, match="KeyError"):
        await running


async def test_a_part_that_does_not_start_ends_it() -> None:
    world = World()

    async def on_start() -> None:
        raise OSError("no such broker")

    world.app.on_start = on_start  # type: ignore[method-assign]
    with pytest.raises(WorkerFailed, match="no such broker"):
        await world.run()


async def test_a_part_that_does_not_stop_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SLACK_S", 0.01)
    world = World(stops=False)
    world.stop.set()
    with pytest.raises(WorkerFailed, match="did not stop within 0 s"):
        await world.run(drain_s=0.01)


async def test_a_strange_end_has_a_name() -> None:
    assert str(module._as_exception(SystemExit(1))) == "SystemExit(1)"


async def test_a_part_that_goes_on_when_it_is_cancelled_is_left_behind_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """mode's services do: each goes on with its next child."""
    monkeypatch.setattr(module, "STOP_SLACK_S", 0.01)
    world, let_go = World(), asyncio.Event()

    async def on_stop() -> None:
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()

    world.app.on_stop = on_stop  # type: ignore[method-assign]
    world.stop.set()
    running = asyncio.create_task(world.run(drain_s=0.01))
    done, _ = await asyncio.wait({running}, timeout=5)
    let_go.set()
    assert done, "it waits for ever"
    with pytest.raises(WorkerFailed, match="did not stop within 0 s"):
        await running


async def test_why_it_stops_is_said_at_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.group.fail(ValueError("the first"))
    world.group.fail(ValueError("the second"))
    assert [record.message for record in caplog.records] == ["the worker stops: the first"]
