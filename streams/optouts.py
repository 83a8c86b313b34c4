"""The do-not-probe list of a running worker: read whole before anybody is asked, and followed from then on.

Every worker that asks mail servers reads all of ``opt-outs.v1``, without a group: it is a list, not work to share.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from mode import Service
from pydantic import ValidationError

from schemas.optouts import OptOut
from schemas.topics import OPT_OUTS, physical_name
from streams.checks.optouts import OptOuts
from streams.kafka import StartupError, client_options
from streams.settings import Settings

logger = logging.getLogger(__name__)

WAIT_MS = 1000
LEAVE_S = 5.0


class OptOutReader(Service):
    """Keeps ``opt_outs`` as the topic says. Start it before whoever asks."""

    def __init__(
        self, settings: Settings, opt_outs: OptOuts, *, on_fatal: Callable[[Exception], None], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._settings = settings
        self._opt_outs = opt_outs
        self._on_fatal = on_fatal
        self._topic = physical_name(OPT_OUTS.name, settings.namespace)
        self._consumer: AIOKafkaConsumer | None = None

    async def on_start(self) -> None:
        """Read the list as it is. Raises :class:`StartupError` where that takes longer than ``broker_wait_s``."""
        consumer = self._consumer = AIOKafkaConsumer(
            self._topic,
            **client_options(self._settings, "mailvet-opt-outs"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=self._settings.fetch_wait_ms,
        )
        try:
            async with asyncio.timeout(self._settings.broker_wait_s):
                await consumer.start()
                await self._read_all(consumer)
        except (TimeoutError, KafkaError) as error:
            raise StartupError(
                f"the do-not-probe list ({self._topic}) could not be read ({error!r}): nobody is asked without it"
            ) from None

    async def on_stop(self) -> None:
        """Close the connection."""
        if self._consumer is not None:
            try:
                await asyncio.wait_for(self._consumer.stop(), LEAVE_S)
            except (TimeoutError, KafkaError) as error:
                logger.warning("the consumer of %s did not close: %r", self._topic, error)

    async def _read_all(self, consumer: AIOKafkaConsumer) -> None:
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(each) < end for each, end in ends.items()]):
            await self._step(consumer)

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        for batch in (await consumer.getmany(timeout_ms=WAIT_MS)).values():
            apply(self._opt_outs, batch)

    @Service.task
    async def _follow(self) -> None:
        assert self._consumer is not None  # noqa: S101  on_start() opened it
        try:
            while not self.should_stop:
                await self._step(self._consumer)
        except Exception as error:  # noqa: BLE001  a worker whose list stands still would ask who wants it no more
            if not self.should_stop:
                self._on_fatal(error)


def apply(opt_outs: OptOuts, records: Iterable[Any]) -> None:
    """What records of the topic say, in their order. One that can't be read changes nothing and is logged."""
    for record in records:
        domain = (record.key or b"").decode("ascii", "replace")
        try:
            listed = record.value is not None and OptOut.model_validate_json(record.value).listed
        except ValidationError:
            logger.error("record %d of %s is no entry of the do-not-probe list", record.offset, record.topic)
            continue
        opt_outs.put(domain, listed=listed)
