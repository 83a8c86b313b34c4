"""The retry role on a real broker: a wait that outlives its worker, and a dead letter that can't be written."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka import AIOKafkaProducer

from schemas.pipeline import Position, Task, TaskItem
from schemas.topics import DEADLETTERS, RETRIES_5M, TASKS_BULK
from streams.codec import encode
from streams.installed import topics_of
from tests.integration.conftest import Installation, terminate, until
from tests.integration.test_worker import worker
from tests.unit.roles.support import ticket

DELAY_MS = 300_000


@pytest.fixture
async def installed(installation: Installation) -> Installation:
    """An installation whose tier takes the writer's timestamps, so that a wait can be nearly over when it begins, and
    whose dead letters may not be large."""
    others = [topic for topic in topics_of(installation.settings) if topic.name not in _names(installation)]
    await installation.create_named(others)
    await installation.create(
        replace(RETRIES_5M, timestamp_type="CreateTime"), replace(DEADLETTERS, max_message_bytes=1000)
    )
    return installation


def _names(installation: Installation) -> set[str]:
    return {topic.named(installation.namespace).name for topic in (RETRIES_5M, DEADLETTERS)}


async def wait_in_tier(installation: Installation, value: bytes, *, left_ms: int) -> int:
    """Put a record into the tier whose delay will have passed so soon; its timestamp."""
    timestamp_ms = round(time.time() * 1000) - DELAY_MS + left_ms
    async with AIOKafkaProducer(bootstrap_servers=installation.broker.bootstrap) as producer:
        name = RETRIES_5M.named(installation.namespace).name
        await producer.send_and_wait(name, value, key=b"p#0", partition=0, timestamp_ms=timestamp_ms)
    return timestamp_ms


def waiting_task() -> bytes:
    now = datetime.now(UTC)
    asked = ticket(1, admitted_at=now, verdict_by=now + timedelta(hours=3))
    item = TaskItem(positions=(Position(index=0, input="a@x.example"),), address="a@x.example")
    return encode(Task(ticket=asked, provider="p", items=(item,), attempt=2, created_at=now))


async def test_kill_9_in_the_middle_neither_loses_nor_restarts_a_wait(installed: Installation) -> None:
    value = waiting_task()
    since_ms = await wait_in_tier(installed, value, left_ms=10_000)
    first, _ = await asyncio.to_thread(worker, installed, "--role", "retry")
    first.kill()
    assert await installed.read(TASKS_BULK) == [], "the wait is not over"
    second, _ = await asyncio.to_thread(worker, installed, "--role", "retry")
    # A wait that begins again takes five minutes.
    await until(lambda: _forwarded(installed))
    [record] = await installed.read(TASKS_BULK)
    assert (record.key, record.value) == (b"p#0", value)
    assert record.timestamp - since_ms >= DELAY_MS
    assert await asyncio.to_thread(terminate, second) == (0, "")


async def test_a_dead_letter_of_a_tier_that_cannot_be_written_stops_the_worker(installed: Installation) -> None:
    await wait_in_tier(installed, b"garbage" * 1000, left_ms=0)
    process, _ = await asyncio.to_thread(worker, installed, "--role", "retry")
    _, said = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 1
    assert "the worker stopped: a record is larger than mailvet.deadletters.v1 takes (max.message.bytes)" in said
    assert await installed.read(DEADLETTERS) == []


async def _forwarded(installation: Installation) -> bool:
    return bool(await installation.read(TASKS_BULK))
