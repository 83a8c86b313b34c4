"""The producer: what it waits for, and which failure means what."""

import asyncio
from asyncio import Future
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, TopicAuthorizationFailedError

from schemas.topics import RESULTS
from streams.delivery import DeliveryFailed, Producer, TooLarge, producer
from streams.records import Outgoing
from streams.settings import Settings

OUT = Outgoing(RESULTS.name, b"k", b"v", (("h", b"1"),))


class FakeKafka:
    """Stands in for AIOKafkaProducer; a test says what comes of each send."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.sent: list[tuple[str, bytes, bytes | None, list[tuple[str, bytes]]]] = []
        self.answers: list[Any] = []
        self.stopping = asyncio.Event()
        self.stopping.set()
        self._sender = SimpleNamespace(sender_task=None)
        self.client = SimpleNamespace(_sync_task=None)

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await self.stopping.wait()

    async def send(self, topic: str, value: bytes, *, key: bytes | None, headers: list[tuple[str, bytes]]) -> Any:
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception) and getattr(answer, "at_once", False):
            raise answer
        self.sent.append((topic, value, key, headers))
        future: Future[Any] = asyncio.get_running_loop().create_future()
        if isinstance(answer, Exception):
            future.set_exception(answer)
        elif answer != "silence":
            future.set_result(None)
        return future


def at_once(error: Exception) -> Exception:
    error.at_once = True  # type: ignore[attr-defined]
    return error


class Made:
    kafka: FakeKafka
    producer: Producer


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made()

    def make(**options: Any) -> FakeKafka:
        made.kafka = FakeKafka(**options)
        return made.kafka

    monkeypatch.setattr(producer, "AIOKafkaProducer", make)
    made.producer = Producer(Settings(namespace="t1", delivery_timeout_s=0.05, drain_s=0.01))
    await made.producer.on_start()
    return made


async def test_records_go_out_in_order_under_the_names_of_the_installation(made: Made) -> None:
    await made.producer.deliver([OUT, Outgoing(RESULTS.name, None, b"w")])
    assert made.kafka.sent == [
        ("t1.mailvet.results.v1", b"v", b"k", [("h", b"1")]),
        ("t1.mailvet.results.v1", b"w", None, []),
    ]
    assert (made.kafka.options["acks"], made.kafka.options["enable_idempotence"]) == ("all", True)


async def test_nothing_to_write_is_done_at_once(made: Made) -> None:
    await made.producer.deliver([])
    assert made.kafka.sent == []


async def test_a_change_of_a_table_is_waited_for_too(made: Made) -> None:
    changed: Future[None] = asyncio.get_running_loop().create_future()
    with pytest.raises(DeliveryFailed, match=r"did not confirm a record for a changelog within 0 s"):
        await made.producer.deliver([OUT], [changed])
    changed.set_result(None)
    await made.producer.deliver([OUT], [changed])


async def test_silence_is_a_failure_when_the_time_is_over(made: Made) -> None:
    made.kafka.answers = ["silence"]
    with pytest.raises(DeliveryFailed, match=r"did not confirm a record for mailvet.results.v1 within"):
        await made.producer.deliver([OUT])


async def test_a_refusal_is_a_failure_whatever_the_other_records_did(made: Made) -> None:
    made.kafka.answers = [None, TopicAuthorizationFailedError("no"), MessageSizeTooLargeError("big")]
    with pytest.raises(DeliveryFailed, match="TopicAuthorizationFailedError"):
        await made.producer.deliver([OUT, OUT, OUT])
    assert len(made.kafka.sent) == 3


@pytest.mark.parametrize("error", [MessageSizeTooLargeError("broker"), at_once(MessageSizeTooLargeError("client"))])
async def test_a_record_that_its_topic_never_takes_is_told_apart(made: Made, error: Exception) -> None:
    made.kafka.answers = [error]
    with pytest.raises(TooLarge, match=r"larger than mailvet.results.v1 takes \(max.message.bytes\)"):
        await made.producer.deliver([OUT])


async def test_a_full_batch_is_waited_for(made: Made) -> None:
    made.kafka.answers = [at_once(KafkaTimeoutError()), at_once(KafkaTimeoutError())]
    await made.producer.deliver([OUT])
    assert len(made.kafka.sent) == 1


async def test_a_change_that_was_given_up_is_a_failure(made: Made) -> None:
    changed: Future[None] = asyncio.get_running_loop().create_future()
    changed.cancel()
    with pytest.raises(DeliveryFailed, match="CancelledError"):
        await made.producer.deliver([], [changed])


async def test_a_stop_does_not_wait_for_ever(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    made.kafka.stopping.clear()
    await made.producer.on_stop()
    assert "did not take the last records in time" in caplog.text


async def test_a_producer_that_never_started_stops(made: Made) -> None:
    await Producer(Settings()).on_stop()


@pytest.mark.parametrize(("part", "name"), [("_sender", "sender_task"), ("client", "_sync_task")])
async def test_a_task_of_the_client_that_ends_is_missed_at_once(
    made: Made, monkeypatch: pytest.MonkeyPatch, part: str, name: str
) -> None:
    monkeypatch.setattr(producer, "LOOK_S", 0.001)
    async with Producer(Settings(drain_s=0.01)) as running:
        task = asyncio.create_task(asyncio.Event().wait())
        setattr(getattr(made.kafka, part), name, task)
        await asyncio.sleep(0.02)
        assert not running.crashed
        task.cancel()
        await asyncio.wait_for(running._crashed.wait(), 10)
        assert "has ended" in str(running.crash_reason)
