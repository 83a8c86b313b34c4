"""Which requests were cancelled, known in every process that would work on them.

Every worker reads all of ``cancels.v1``, without a group. It only saves work: completion answers what was cancelled,
and an order that is not known here yet, or not any more, costs probes that nobody waits for.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from mode import Service

from schemas.pipeline import CancelOrder
from schemas.topics import CANCELS
from streams.codec import decode
from streams.kafka import client_options
from streams.records import Unusable
from streams.settings import Settings
from streams.wire import read_anything

REMEMBERED = 100_000
"""The latest requests; about 20 MB."""

BACK_OFF_S = 1.0
WAIT_MS = 1000
LEAVE_S = 5.0


class Cancelled:
    """The uids of requests that were cancelled and are not over yet. ``clock``: milliseconds since 1970."""

    def __init__(self, clock: Callable[[], int], limit: int = REMEMBERED) -> None:
        self._clock = clock
        self._limit = limit
        self._uids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, uid: object) -> bool:
        return uid in self._uids

    def read(self, value: bytes | None) -> None:
        """Note an order; what is none is completion's to write down as a dead letter."""
        try:
            order = decode(CancelOrder, value or b"")
        except Unusable:
            return
        if order.verdict_by.timestamp() * 1000 > self._clock():
            self._uids[order.request_uid] = None
            if len(self._uids) > self._limit:
                self._uids.popitem(last=False)


class CancelWatch(Service):
    """Follows ``cancels.v1`` from its beginning until the service stops."""

    def __init__(self, settings: Settings, cancelled: Cancelled, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = settings
        self._cancelled = cancelled

    async def on_started(self) -> None:
        """Read on."""
        read_anything()
        self.add_future(self._follow())

    async def _follow(self) -> None:
        while not self.should_stop:
            try:
                await self._session()
            except KafkaError as error:
                self.log.warning("%s: %r; beginning again", CANCELS.name, error)
                await self.sleep(BACK_OFF_S)

    async def _session(self) -> None:
        """One consumer, from its start to the first error."""
        consumer = AIOKafkaConsumer(
            CANCELS.named(self._settings.namespace).name,
            **client_options(self._settings, "mailvet-cancels"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=self._settings.fetch_wait_ms,
        )
        await consumer.start()
        try:
            while not self.should_stop:
                for batch in (await consumer.getmany(timeout_ms=WAIT_MS)).values():
                    for record in batch:
                        self._cancelled.read(record.value)
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(consumer.stop(), LEAVE_S)
