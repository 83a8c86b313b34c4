"""Our own producer: records go out in batches, and each one is confirmed before its input is acknowledged."""

import asyncio
from asyncio import Future
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from mode import Service

from schemas.topics import physical_name
from streams.kafka import client_options
from streams.records import Outgoing
from streams.settings import Settings

LINGER_MS = 5
MAX_BATCH_BYTES = 256 * 1024
MAX_RECORD_BYTES = 4 * 1024 * 1024 - 64 * 1024
"""A topic takes batches of 4 MiB; the rest is room for the headers and the batch's own."""


LOOK_S = 5.0
"""How often one looks whether aiokafka's own tasks go on."""

CHANGELOG = "a changelog"
"""Stands for the topic of a row's change, which Faust sends."""


class DeliveryFailed(Exception):
    """The broker did not confirm a record: the worker stops, and what it was working on is read again."""


class TooLarge(Exception):
    """A record that its topic will never take."""


class Producer(Service):
    """One aiokafka producer for everything that a process writes.

    What waits is bounded: one batch a partition; then :meth:`deliver` waits for the broker. Give it to a Faust app's
    group so that it starts before the apps and stops after them.
    """

    def __init__(self, settings: Settings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None

    async def on_start(self) -> None:
        """Connect."""
        self._producer = AIOKafkaProducer(
            **client_options(self._settings, "mailvet-producer"),
            acks="all",
            enable_idempotence=self._settings.idempotent_producer,
            linger_ms=LINGER_MS,
            max_batch_size=MAX_BATCH_BYTES,
            max_request_size=MAX_RECORD_BYTES,
        )
        await self._producer.start()

    @Service.task
    async def _look_after(self) -> None:
        # Without them what is handed over waits until its time is over, and nobody says why.
        while not self.should_stop:
            await self.sleep(LOOK_S)
            assert self._producer is not None  # noqa: S101  on_start() made it
            parts = {"sending": self._producer._sender.sender_task, "metadata": self._producer.client._sync_task}
            for part, task in parts.items():
                if task is not None and task.done() and not self.should_stop:
                    raise DeliveryFailed(f"the producer's task for {part} has ended")

    async def on_stop(self) -> None:
        """Send what is left, within the drain's time."""
        if self._producer is not None:
            try:
                await asyncio.wait_for(self._producer.stop(), self._settings.drain_s)
            except TimeoutError:
                self.log.error("the broker did not take the last records in time; they will be made again")

    async def deliver(self, records: Iterable[Outgoing], also: Sequence["Future[Any]"] = ()) -> None:
        """Write all records, in order, and return when the broker has confirmed them and what ``also`` stands for.

        Raises:
            TooLarge: a record is larger than its topic takes; the others are written.
            DeliveryFailed: the broker did not confirm within ``delivery_timeout_s``, or refused.
        """
        limit = self._settings.delivery_timeout_s
        sent = [(CHANGELOG, future) for future in also]
        sending = CHANGELOG
        try:
            async with asyncio.timeout(limit):
                for record in records:
                    sending = record.topic
                    sent.append((sending, await self._send(record)))
                # wait(), not gather(): if we are cancelled, what is on its way goes on.
                if sent:
                    await asyncio.wait([future for _, future in sent])
        except TimeoutError:
            late = next((topic for topic, future in sent if not future.done()), sending)
            raise DeliveryFailed(f"the broker did not confirm a record for {late} within {limit:.0f} s") from None
        _raise_first_error(sent)

    async def _send(self, record: Outgoing) -> "Future[Any]":
        assert self._producer is not None, "the producer was not started"  # noqa: S101  a bug of ours
        topic = physical_name(record.topic, self._settings.namespace)
        while True:
            try:
                future: Future[Any] = await self._producer.send(
                    topic, record.value, key=record.key, headers=list(record.headers)
                )
            except KafkaTimeoutError:
                continue  # The broker is away and the batch is full: the caller's time limit ends this.
            except KafkaError as error:
                future = asyncio.get_running_loop().create_future()
                future.set_exception(error)
            return future


def _raise_first_error(sent: Iterable[tuple[str, "Future[Any]"]]) -> None:
    errors = [(topic, error) for topic, future in sent if (error := _error(future))]
    for topic, error in errors:
        if not isinstance(error, MessageSizeTooLargeError):
            raise DeliveryFailed(f"the broker refused a record for {topic}: {error!r}") from error
    for topic, error in errors:
        raise TooLarge(f"a record is larger than {topic} takes (max.message.bytes)") from error


def _error(future: "Future[Any]") -> BaseException | None:
    return asyncio.CancelledError() if future.cancelled() else future.exception()
