"""A request looked for on the broker: one partition of each topic that may hold it, within a time, in little memory.

Who may read the tables' changelogs (an operator) learns all of it; a tenant, who sees its results topic, what was
published.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import consumer, producer, read_to_end
from ops.requests.status import Status, of_results, of_tables
from ops.tables import current
from schemas.client import read_output
from schemas.request import request_uid
from schemas.result import Output
from schemas.topics import RESULTS, own_results
from streams.access.decisions import MAX_VERDICT_BY, Decision
from streams.codec import decode
from streams.installed import TABLES
from streams.roles.progress import Progress, unpack

SINCE = MAX_VERDICT_BY + timedelta(hours=1)
"""How far back results are read: no request runs for longer."""


async def find(
    bootstrap: str, namespace: str, tenant: str, request_id: str, *, delays_s: Sequence[float], within_s: float
) -> Status:
    """How the request stands.

    Raises:
        UserError: no broker, or neither tables nor results are ours to see.
        Unfinished: what there is could not be read within ``within_s`` seconds.
    """
    async with consumer(bootstrap) as reader, producer(bootstrap) as writer:
        try:
            async with asyncio.timeout(within_s):
                place = _Place(reader, writer, await reader.topics(), namespace, tenant, request_id)
                return await _find(place, delays_s)
        except TimeoutError:
            raise Unfinished(f"not all could be read within {within_s:g} s: give it more with --timeout") from None
        except KafkaError as error:
            raise UserError(f"the broker does not let us read: {error!r}") from None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request is looked for. ``seen``: the topics that the broker shows us."""

    reader: AIOKafkaConsumer
    writer: AIOKafkaProducer
    seen: set[str]
    namespace: str
    tenant: str
    request_id: str

    @property
    def uid(self) -> str:
        """Of the request."""
        return request_uid(self.tenant, self.request_id)

    def changelog(self, name: str) -> str:
        """That of a table."""
        [table] = [table for table in TABLES if table.name == name]
        return table.changelog(self.namespace).name

    @property
    def has_tables(self) -> bool:
        """Whether the tables are ours to see."""
        return {self.changelog("ledger"), self.changelog("progress")} <= self.seen

    @property
    def results(self) -> str:
        """The tenant's own results topic where there is one. Raises :class:`UserError`."""
        names = [topic.named(self.namespace).name for topic in (own_results(self.tenant), RESULTS)]
        for name in names:
            if name in self.seen:
                return name
        raise UserError(f"neither tables nor {names[-1]} are to be seen: run `mailvet topics apply` first")

    async def partition(self, topic: str, key: str) -> TopicPartition:
        """Where records of this key are, as our own producers place them."""
        count = len(await self.writer.partitions_for(topic))
        return TopicPartition(topic, (murmur2(key.encode()) & 0x7FFFFFFF) % count)


async def _find(place: _Place, delays_s: Sequence[float]) -> Status:
    if not place.has_tables:
        return of_results(place.tenant, place.request_id, await _outputs(place))
    decision, rows = await _rows(place)
    progress, known = Progress(), {}
    for key, row in rows.items():
        _, _, *name = key.decode().split(":")
        if name:
            known[name[0]] = unpack(row)
        else:
            progress = decode(Progress, row)
    return of_tables(
        place.tenant, place.request_id, decision, progress, known, now=datetime.now(UTC), delays_s=delays_s
    )


async def _rows(place: _Place) -> tuple[Decision | None, dict[bytes, bytes]]:
    """The gate's decision, and completion's rows by their keys."""
    decision: Decision | None = None
    rows: dict[bytes, bytes] = {}
    decided, ours = f"{place.tenant}:decision:{place.uid}".encode(), f"{place.uid}:".encode()
    ledger, progress = place.changelog("ledger"), place.changelog("progress")
    partitions = [await place.partition(ledger, place.tenant), await place.partition(progress, place.uid)]
    async for record in current(read_to_end(place.reader, partitions)):
        if record.key == decided:
            decision = None if record.value is None else decode(Decision, record.value)
        elif record.topic == progress and record.key.startswith(ours):
            if record.value is None:
                rows.pop(record.key, None)
            else:
                rows[record.key] = record.value
    return decision, rows


async def _outputs(place: _Place) -> list[Output]:
    found = []
    since_ms = round((time.time() - SINCE.total_seconds()) * 1000)
    partition = await place.partition(place.results, place.uid)
    async for record in read_to_end(place.reader, [partition], since_ms=since_ms):
        if record.key == place.uid.encode() and (output := read_output(record.value)) is not None:
            found.append(output)
    return found
