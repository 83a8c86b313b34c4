"""A broker for what operators' commands read and write, as far as they use one: topics that are lists."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as a consumer gives it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = 0


@dataclass
class FakeBroker:
    """Its own consumer and producer. ``react`` is told of each record that a command writes, and may write others."""

    logs: dict[TopicPartition, list[Stored]] = field(default_factory=lambda: defaultdict(list))
    hidden: set[str] = field(default_factory=set)
    """Topics that it shows nobody."""
    refuses: Exception | None = None
    react: Callable[[Stored], None] = lambda _: None
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def put(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int = 0,
        at_ms: int = 0,
        **headers: bytes,
    ) -> Stored:
        log = self.logs[TopicPartition(topic, partition)]
        named = tuple((name.replace("_", "-"), text) for name, text in headers.items())
        log.append(Stored(topic, partition, len(log), key, value, named, at_ms))
        return log[-1]

    def values(self, topic: str) -> list[bytes | None]:
        return [record.value for tp, log in self.logs.items() if tp.topic == topic for record in log]

    def installed(self, monkeypatch: pytest.MonkeyPatch, *modules: Any) -> "FakeBroker":
        """In place of the broker of these modules."""

        @asynccontextmanager
        async def client(*_: Any, **__: Any) -> AsyncIterator[FakeBroker]:
            yield self

        for module in modules:
            for name in ("consumer", "producer"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, client)
        return self

    # -- as a consumer ------------------------------------------------------------------------------------------------

    async def topics(self) -> set[str]:
        return ({tp.topic for tp in self.logs} | self.seen) - self.hidden

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.positions = dict.fromkeys(partitions, 0)

    def assignment(self) -> set[TopicPartition]:
        return set(self.positions)

    async def seek_to_beginning(self) -> None:
        self.positions = dict.fromkeys(self.positions, 0)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset

    async def end_offsets(self, partitions: Any) -> dict[TopicPartition, int]:
        return {each: len(self.logs[each]) for each in partitions}

    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> dict[TopicPartition, Stored | None]:
        return {
            each: next((record for record in self.logs[each] if record.timestamp >= ms), None)
            for each, ms in times.items()
        }

    async def position(self, partition: TopicPartition) -> int:
        return self.positions[partition]

    async def getmany(self, **_: Any) -> dict[TopicPartition, list[Stored]]:
        await asyncio.sleep(0)
        if self.refuses is not None:
            raise self.refuses
        found = {each: self.logs[each][at:] for each, at in self.positions.items() if self.logs[each][at:]}
        self.positions.update({each: len(self.logs[each]) for each in found})
        return found

    # -- as a producer ------------------------------------------------------------------------------------------------

    async def partitions_for(self, _topic: str) -> set[int]:
        return set(range(PARTITIONS))

    async def send_and_wait(self, topic: str, value: bytes, key: bytes | None = None, headers: Any = ()) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.react(self.put(topic, key, value, **{name.replace("-", "_"): text for name, text in headers}))


REFUSED = KafkaError("no")
