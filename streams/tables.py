"""The tables of the roles, and a Faust table whose changelog can be awaited."""

from asyncio import Future
from collections.abc import Callable, Container
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import faust
from aiokafka.partitioner import murmur2
from faust.types import FutureMessage

from schemas.topics import ADMISSIONS_BULK, ATTEMPTS, KEY_COMMANDS, Topic
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class TableDeclaration:
    """A table of bytes, co-partitioned with the topic whose records change it."""

    role: str
    name: str
    source: Topic

    def changelog(self, namespace: str = "") -> Topic:
        """The topic that the table is recovered from, under the name that Faust gives it."""
        return Topic(
            f"{app_id(self.role, namespace)}-{self.name}-changelog",
            key=self.source.key,
            value=f"rows of the table {self.name}",
            retention_ms=-1,
            partitions=self.source.partitions,
            cleanup_policy="compact",
            # Rows shrink to their last value soon enough that a restart reads little more than the table.
            extra={"min.cleanable.dirty.ratio": "0.2", "segment.ms": "3600000"},
        )


TABLES = (
    # Accounts and decisions in one: their changes reach the changelog in the order in which they were made.
    TableDeclaration("gate", "ledger", ADMISSIONS_BULK),
    TableDeclaration("gate", "keys", KEY_COMMANDS),
    TableDeclaration("completion", "requests", ATTEMPTS),
    TableDeclaration("completion", "progress", ATTEMPTS),
)


def app_id(role: str, namespace: str = "") -> str:
    """The Faust app's id, which is its consumer group too."""
    return f"{namespace}.mailvet-{role}" if namespace else f"mailvet-{role}"


def changelog_topics(settings: Settings) -> tuple[Topic, ...]:
    """Every changelog, as `mailvet topics apply` creates it."""
    return tuple(table.changelog(settings.namespace) for table in TABLES)


changes: ContextVar[list["Future[Any]"]] = ContextVar("changes")
"""The changelog records of the handler that runs in this context; :mod:`streams.delivery` awaits them."""


class DurableTable(faust.Table[bytes, bytes]):
    """A table that tells its handler's delivery of each changelog record on its way to the broker.

    A row belongs to the partition of the record that changed it. ``record_key`` gives that record's key for a row's
    key, for changes that no record brought (rows that the clock ends).
    """

    record_key: Callable[[bytes], bytes]

    def send_changelog(self, *args: Any, **kwargs: Any) -> FutureMessage:
        """Faust's, and the record's delivery goes to the handler's list."""
        future = super().send_changelog(*args, **kwargs)
        changes.get([]).append(future)
        return future

    def partition_for_key(self, key: bytes) -> int | None:
        """The partition of the record at hand; without one, the partition that such a record would have."""
        return super().partition_for_key(key) if faust.current_event() is not None else self._partition(key)

    def keep_only(self, partitions: Container[int]) -> None:
        """Forget the rows of other partitions.

        Faust keeps rows that this worker wrote to partitions that are another's by now: they are out of date, would
        stand beside what is recovered when the partition comes back, and must never be ended in the other's name.
        """
        rows = self.data.data
        for key in [key for key in rows if self._partition(key) not in partitions]:
            del rows[key]

    def _partition(self, key: bytes) -> int:
        count = self.app.consumer.topic_partitions(self.changelog_topic_name) or self.partitions
        return int((murmur2(self.record_key(key)) & 0x7FFFFFFF) % count)
