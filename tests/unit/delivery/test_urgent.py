"""What is urgent is read first."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from schemas.topics import KEY_COMMANDS
from streams import engine
from streams.engine import _Consumer, _Flow, put_in_order, put_last
from tests.unit.roles.test_gate import World


def test_partitions_of_urgent_topics_come_before_all_others() -> None:
    fetched = OrderedDict((TP(topic, number), None) for topic in ("a", "b", "c") for number in range(2))
    put_in_order(fetched, {"c"}, set())
    assert [tp.topic for tp in fetched] == ["c", "c", "a", "a", "b", "b"]
    put_in_order(fetched, set(), set())
    assert [tp.topic for tp in fetched] == ["c", "c", "a", "a", "b", "b"]


def test_changes_for_standbys_come_behind_all_others() -> None:
    fetched = OrderedDict((TP(topic, number), None) for topic in ("a", "b", "c") for number in range(2))
    put_in_order(fetched, {"c"}, {"a"})
    assert [tp.topic for tp in fetched] == ["c", "c", "b", "b", "a", "a"]


def test_partitions_take_turns_however_much_was_fetched_of_each() -> None:
    fetched = OrderedDict((TP("a", number), None) for number in range(3))
    put_last(fetched, [TP("a", 0), TP("a", 9)])
    assert [tp.partition for tp in fetched] == [1, 2, 0]


def test_commands_on_keys_are_urgent_and_nothing_else() -> None:
    urgent = {each.topic.name for each in World().gate.subscriptions() if each.urgent}
    assert urgent == {KEY_COMMANDS.name}


COMMANDS, REQUESTS = TP("commands", 0), TP("requests", 0)
Batch = dict[TP, list[int]]


class Consumer(_Consumer):
    """Ours on a Faust that gives what a test says: whole polls, and what has come of urgent topics meanwhile."""

    flow_active = True

    def __init__(self, polls: list[Batch], urgent: list[Batch]) -> None:
        self.app = cast(
            Any,
            SimpleNamespace(
                is_full=False, moving=False, should_stop=False, urgent={"commands"}, consumer_generation_id=1
            ),
        )
        self.polls, self.urgent = polls, urgent
        self._active_partitions = {COMMANDS, REQUESTS}
        self._flow = cast(Any, _Flow(self))
        self._urgent_flow = cast(Any, _Flow(self, only_urgent=True))
        self._urgent_left = 0

    def _to_message(self, _tp: TP, record: Any) -> Any:
        return record

    async def read(self, count: int) -> list[tuple[str, int]]:
        return [(tp.topic, number) async for tp, number in self.getmany(1.0)][:count]


@pytest.fixture(autouse=True)
def faust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Faust's consumer what ours calls."""

    async def _getmany(self: Consumer, flow: Any, _timeout: float) -> Batch:
        only_urgent = REQUESTS not in flow
        return (self.urgent.pop(0) if self.urgent else {}) if only_urgent else self.polls.pop(0)

    async def getmany(self: Consumer, timeout: float) -> AsyncIterator[tuple[TP, int]]:
        for tp, records in (await self._getmany(set(), timeout)).items():
            for record in records:
                yield tp, record

    monkeypatch.setattr(engine.driver.Consumer, "_getmany", _getmany)
    monkeypatch.setattr(engine.driver.Consumer, "getmany", getmany)
    monkeypatch.setattr(engine, "URGENT_S", -1.0)
    monkeypatch.setattr(engine, "FULL_S", 0.0)


async def test_a_command_that_comes_while_a_poll_is_handed_on_does_not_wait_for_its_end() -> None:
    consumer = Consumer([{REQUESTS: [0, 1, 2]}], [{}, {COMMANDS: [7, 8]}])
    assert await consumer.read(9) == [
        ("requests", 0),
        ("requests", 1),
        ("commands", 7),
        ("commands", 8),
        ("requests", 2),
    ]


async def test_it_is_looked_for_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "URGENT_S", 60.0)
    consumer = Consumer([{REQUESTS: [0, 1]}], [{COMMANDS: [7]}])
    assert await consumer.read(9) == [("requests", 0), ("requests", 1)]


async def test_commands_of_the_poll_itself_come_before_later_ones() -> None:
    consumer = Consumer([{COMMANDS: [5, 6], REQUESTS: [0]}], [{COMMANDS: [7]}])
    assert [number for topic, number in await consumer.read(9) if topic == "commands"] == [5, 6, 7]


async def test_a_command_is_read_though_memory_is_full() -> None:
    consumer = Consumer([{REQUESTS: [0]}], [{}, {COMMANDS: [7]}])
    cast(Any, consumer.app).is_full = True
    assert await consumer.read(9) == [("commands", 7)]


@pytest.mark.parametrize("change", [{"flow_active": False}, {"generation": 1}])
async def test_what_another_generation_has_to_read_is_not_handed_on(change: dict[str, Any]) -> None:
    consumer = Consumer([{REQUESTS: [0, 1]}], [])

    class Changing(list[Batch]):
        def pop(self, _: Any = 0) -> Batch:
            consumer.flow_active = change.get("flow_active", True)
            consumer.app.consumer_generation_id += change.get("generation", 0)
            return {COMMANDS: [7]}

    consumer.urgent = Changing([{}])
    assert ("commands", 7) not in await consumer.read(9)


async def test_an_app_without_urgent_topics_looks_for_none() -> None:
    consumer = Consumer([{REQUESTS: [0, 1]}], [{COMMANDS: [7]}])
    consumer.app.urgent.clear()
    assert await asyncio.wait_for(consumer.read(9), 5) == [("requests", 0), ("requests", 1)]
