"""What Faust reads ahead is bounded by size."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from mode.utils.futures import notify

from streams import engine
from streams.engine import Engine, _Consumer
from streams.settings import Settings
from streams.wire import HEADER_BYTES, weight


def record(value: bytes | None, key: bytes | None = None, headers: Any = ()) -> Any:
    """As aiokafka gives it."""
    return ConsumerRecord("t", 0, 7, 1000, 1, key, value, None, 0, 0, headers)


def app(held: int, *waiting: bytes | None) -> Any:
    """An engine as far as it is asked here."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    for value in waiting:
        message = SimpleNamespace(serialized_value_size=weight(record(value)))
        queue.put_nowait(SimpleNamespace(message=message))
    return SimpleNamespace(deliveries={"t": SimpleNamespace(held_bytes=held)}, queues={"t": queue})


def is_full(made: Any) -> bool:
    return bool(cast(Any, Engine.is_full).fget(made))


def test_it_is_full_when_what_is_held_and_what_waits_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "STREAM_BYTES", 100)
    assert not is_full(app(0))
    assert not is_full(app(50, b"x" * 50, None))
    assert is_full(app(50, b"x" * 51))
    assert is_full(app(101))


def test_what_waits_counts_with_its_key_and_its_headers() -> None:
    consumer = cast(Any, object.__new__(_Consumer))
    consumer.app = SimpleNamespace(consumer_generation_id=3)
    headers = (("a", b"b" * 5), ("c", None))
    message = consumer._to_message(TopicPartition("t", 0), record(b"x" * 100, b"y" * 30, headers))
    assert message.serialized_value_size == 100 + 30 + 6 + 1 + 2 * HEADER_BYTES
    assert (message.offset, message.headers, message.generation_id) == (7, headers, 3)


@pytest.mark.parametrize("let_go", [{"is_full": False}, {"moving": True}, {"should_stop": True}])
async def test_nothing_is_read_while_it_is_full_but_a_rebalance_and_a_stop_do_not_wait(
    let_go: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "FULL_S", 0.0)
    read: list[object] = []

    async def getmany(_self: object, flow: object, _timeout: float) -> dict[Any, Any]:
        read.append(flow)
        return {}

    monkeypatch.setattr(engine.driver.Consumer, "_getmany", getmany)
    consumer = cast(Any, object.__new__(_Consumer))
    consumer.app = SimpleNamespace(
        is_full=True, moving=False, should_stop=False, urgent=set(), consumer_generation_id=1
    )
    consumer._flow = "flow"
    reading = asyncio.create_task(consumer._getmany(set(), 1.0))
    for _ in range(20):
        await asyncio.sleep(0)
    assert read == []
    vars(consumer.app).update(let_go)
    assert await reading == {}
    assert read == ["flow"]


class Unfinished:
    """A message that nobody acknowledges."""

    acked = False
    refcount = 1


async def test_a_wait_for_work_in_flight_is_over_when_it_is_given_up() -> None:
    app = engine.engine("route", Settings(rebalance_grace_s=0.01))
    consumer, message, commits = cast(Any, app.consumer), Unfinished(), []

    async def commit(*_: object, **__: object) -> bool:
        commits.append(1)
        return False

    consumer.commit = commit
    consumer._unacked_messages.add(message)
    before = asyncio.all_tasks()
    await app._consumer_wait_empty(consumer, logging.getLogger())
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before, "Faust's would go on, with a full collection of garbage for each ack"
    assert (len(commits), consumer._waiting_for_ack) == (1, None)


async def test_an_ack_ends_the_wait_for_it() -> None:
    consumer = cast(Any, engine.engine("route", Settings()).consumer)
    waiting = asyncio.create_task(consumer._wait_for_ack(60.0))
    await asyncio.sleep(0)
    notify(consumer._waiting_for_ack)
    await asyncio.wait_for(waiting, 5)
    await consumer._wait_for_ack(0.001)
    assert consumer._waiting_for_ack is None
