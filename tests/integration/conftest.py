"""Topics of its own for each test on the shared broker, and what is read from them."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from ops.brokers.base import Broker
from schemas.topics import Topic
from streams.settings import Settings

WORKER = Path(__file__).with_name("echo_worker.py")


async def until(true: Callable[[], Awaitable[object] | object], *, within: float = 60.0) -> None:
    """Return when ``true`` is; fail after ``within`` seconds."""
    async with asyncio.timeout(within):
        while True:
            said = true()
            if await said if isinstance(said, Awaitable) else said:
                return
            await asyncio.sleep(0.1)


@dataclass
class Installation:
    """Topics and groups that no other test uses, and the workers that this test started."""

    broker: Broker
    namespace: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    """Settings beside those that all tests have."""

    @property
    def settings(self) -> Settings:
        """As the workers have them."""
        return Settings.model_validate(self._fields)

    @property
    def _fields(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.broker.bootstrap,
            "namespace": self.namespace,
            "session_timeout_s": 6.0,
            "heartbeat_s": 1.0,
            "commit_interval_s": 0.2,
            **self.extra,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same settings for a process."""
        named = {f"MAILVET_{name.upper()}": str(value) for name, value in self._fields.items()}
        return {**os.environ, **named, "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap}

    async def create(self, *topics: Topic) -> None:
        """Create the topics as they are declared."""
        await self.create_named([topic.named(self.namespace) for topic in topics])

    async def create_named(self, topics: Iterable[Topic]) -> None:
        """Create topics under the names that they carry."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        await admin.start()
        try:
            await admin.create_topics(
                [NewTopic(topic.name, topic.partitions, 1, topic_configs=topic.config) for topic in topics]
            )
        finally:
            await admin.close()

    async def alter(self, topic: Topic, config: dict[str, str]) -> None:
        """Set configs of a topic; others that were set on it are forgotten."""
        name = topic.named(self.namespace).name
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        await admin.start()
        try:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, config)])
        finally:
            await admin.close()

    async def write(
        self, topic: Topic, records: Iterable[tuple[bytes | None, bytes | None]], *, partition: int | None = None
    ) -> None:
        """Write (key, value) records as a stranger would."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.broker.bootstrap, max_request_size=20 * 1024 * 1024, linger_ms=5
        ) as producer:
            name = topic.named(self.namespace).name
            sent = [await producer.send(name, value, key=key, partition=partition) for key, value in records]
            await asyncio.gather(*sent)

    async def read(self, topic: Topic) -> list[Any]:
        """Every record of the topic, aborted transactions left out."""
        name = topic.named(self.namespace).name
        async with AIOKafkaConsumer(
            bootstrap_servers=self.broker.bootstrap,
            enable_auto_commit=False,
            isolation_level="read_committed",
            max_partition_fetch_bytes=20 * 1024 * 1024,
        ) as consumer:
            partitions = [TopicPartition(name, each) for each in range(topic.partitions)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(partitions)
            found = []
            while any([await consumer.position(each) < ends[each] for each in partitions]):
                for batch in (await consumer.getmany(timeout_ms=500)).values():
                    found += batch
            return found

    async def committed(self, group: str, topic: Topic, partition: int = 0) -> int | None:
        """The group's committed offset."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(f"{self.namespace}.mailvet-{group}")
        finally:
            await admin.close()
        found = offsets.get(TopicPartition(topic.named(self.namespace).name, partition))
        return None if found is None or found.offset < 0 else found.offset

    def spawn(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a process with this installation's settings; it ends with the test at the latest."""
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def echo(self, **environment: str) -> subprocess.Popen[str]:
        """Start ``echo_worker.py`` and wait until it is ready."""
        process = self.spawn(str(WORKER), **environment)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", process.communicate(timeout=30)[1]
        return process

    def close(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=10)


def terminate(process: subprocess.Popen[str], *, within: float = 40.0) -> tuple[int, str]:
    """SIGTERM; the exit code and what it said on stderr."""
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=within)
    return process.returncode, said


@pytest.fixture
def installation(broker: Broker) -> Iterator[Installation]:
    """An installation of its own on the module's broker."""
    made = Installation(broker)
    yield made
    made.close()
