"""Chores are done by the clock, but not while partitions are on the move."""

import asyncio
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.topics import RESULTS
from streams import chores as module
from streams.chores import Chores
from streams.records import Outgoing

OUT = Outgoing(RESULTS.name, None, b"v")


class World:
    def __init__(self) -> None:
        self.app = SimpleNamespace(settled=asyncio.Event(), should_stop=False)
        self.delivered: list[Sequence[Outgoing]] = []
        self.fatal: list[Exception] = []
        self.failed = asyncio.Event()
        self.error: Exception | None = None
        self.chores = Chores(
            self.app,  # type: ignore[arg-type]
            [lambda now_ms: [Outgoing(RESULTS.name, None, b"%d" % now_ms)], lambda _: ()],
            deliver=self.deliver,
            clock=lambda: 7,
            on_fatal=self.fail,
        )

    def fail(self, error: Exception) -> None:
        self.fatal.append(error)
        self.failed.set()

    async def deliver(self, records: Iterable[Outgoing], also: Any = ()) -> None:
        if self.error:
            raise self.error
        self.delivered.append(list(records))


async def test_chores_get_the_time_and_what_they_give_is_written() -> None:
    world = World()
    world.app.settled.set()
    await world.chores.once()
    assert world.delivered == [[Outgoing(RESULTS.name, None, b"7")], []]


@pytest.mark.parametrize("state", ["moving", "stopping"])
async def test_nothing_is_done_while_rows_may_be_missing(state: str) -> None:
    world = World()
    if state == "stopping":
        world.app.settled.set()
        world.app.should_stop = True
    await world.chores.once()
    assert world.delivered == []


async def test_what_cannot_be_written_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0)
    world = World()
    world.app.settled.set()
    world.error = ValueError("no broker")
    async with world.chores:
        await asyncio.wait_for(world.failed.wait(), 5)
    assert world.fatal == [world.error]
