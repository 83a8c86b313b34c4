"""The tables of the roles, and a Faust table whose changelog can be awaited."""

from asyncio import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import faust
from faust.types import FutureMessage

from schemas.topics import ADMISSIONS, ATTEMPTS, Topic
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
    TableDeclaration("gate", "ledger", ADMISSIONS),
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
    """A table that tells its handler's delivery of each changelog record on its way to the broker."""

    def send_changelog(self, *args: Any, **kwargs: Any) -> FutureMessage:
        future = super().send_changelog(*args, **kwargs)
        changes.get([]).append(future)
        return future
