"""Reads a history off the broker: looks while a run goes on, and all of its logs in the end."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas.topics import TOPICS
from streams.installed import TABLES, app_id
from tests.chaos.history import LEDGER, READERS, Look, Written
from tests.chaos.rig import PARTITIONS, Rig

EVERY_S = 0.5
Clients = tuple[AIOKafkaAdminClient, AIOKafkaConsumer]

LOOK_S = 8.0
"""A look that takes longer is none: the broker is away."""


class Observer:
    """Looks about twice a second from the beginning of the block to its end, past the network that fails."""

    def __init__(self, system: Rig) -> None:
        self._system = system
        self.looks: list[Look] = []
        self._logical = _topics(system)
        self._partitions = [TopicPartition(name, each) for name in self._logical for each in range(PARTITIONS)]

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Looks are taken meanwhile."""
        task = asyncio.create_task(self._go_on())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def look(self) -> Look:
        """One look."""
        async with self._clients() as (admin, consumer):
            return await self._look(admin, consumer)

    @contextlib.asynccontextmanager
    async def _clients(self) -> AsyncIterator[Clients]:
        bootstrap = self._system.broker.bootstrap
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer:
            try:
                await admin.start()
                yield admin, consumer
            finally:
                await admin.close()

    async def _look(self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer) -> Look:
        """What is committed, and after that what is there."""
        committed = await self._committed(admin)
        ends = await consumer.end_offsets(self._partitions)
        at_s = time.monotonic() - self._system.began
        return Look(at_s, committed, {(self._logical[tp.topic], tp.partition): end for tp, end in ends.items()})

    async def _go_on(self) -> None:
        while True:
            # A broker that is away is one of the faults: then there is no look.
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with self._clients() as (admin, consumer):
                    while True:
                        async with asyncio.timeout(LOOK_S):
                            self.looks.append(await self._look(admin, consumer))
                        await asyncio.sleep(EVERY_S)
            await asyncio.sleep(EVERY_S)

    async def _committed(self, admin: AIOKafkaAdminClient) -> Mapping[tuple[str, str, int], int]:
        found: dict[tuple[str, str, int], int] = {}
        for reader in READERS:
            offsets = await admin.list_consumer_group_offsets(app_id(reader, self._system.namespace))
            for tp, about in offsets.items():
                if tp.topic in self._logical:
                    found[reader, self._logical[tp.topic], tp.partition] = max(0, about.offset)
        return found

    async def logs(self) -> dict[str, list[Written]]:
        """Every record of every topic, each partition in its order."""
        found: dict[str, list[Written]] = {name: [] for name in self._logical.values()}
        for physical, name in self._logical.items():
            partitions = [TopicPartition(physical, each) for each in range(PARTITIONS)]
            async with AIOKafkaConsumer(
                bootstrap_servers=self._system.broker.bootstrap,
                enable_auto_commit=False,
                max_partition_fetch_bytes=2**24,
            ) as consumer:
                consumer.assign(partitions)
                await consumer.seek_to_beginning()
                ends = await consumer.end_offsets(partitions)
                while any([await consumer.position(tp) < end for tp, end in ends.items()]):
                    for tp, batch in (await consumer.getmany(timeout_ms=200)).items():
                        found[name] += [_written(name, tp, record) for record in batch]
        return found


def _written(name: str, tp: TopicPartition, record) -> Written:  # type: ignore[no-untyped-def]
    headers = dict(reversed(record.headers))
    return Written(name, tp.partition, record.offset, record.key, record.value, headers)


def _topics(system: Rig) -> dict[str, str]:
    """Names of topics on the broker, and without the namespace."""
    [ledger] = [table for table in TABLES if table.name == LEDGER]
    names = {system.topic(topic.name): topic.name for topic in TOPICS}
    return {**names, ledger.changelog(system.namespace).name: LEDGER}
