"""What an installation has: roles, topics, tables. Free of Faust, so that no command waits for it."""

import time
from dataclasses import dataclass
from typing import Final

from schemas.topics import ADMISSIONS_BULK, ATTEMPTS, KEY_COMMANDS, TOPICS, Topic, own_results
from streams.settings import Settings

ROLES: Final = ("gate", "route", "probe", "retry", "completion")
"""Every role; ``mailvet worker all`` runs them together."""


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


def topics_of(settings: Settings) -> tuple[Topic, ...]:
    """Every topic of an installation, those of tenants and changelogs included, under its name on the broker."""
    topics = (*TOPICS, *map(own_results, dict.fromkeys(settings.tenant_topics)))
    return (*(topic.named(settings.namespace) for topic in topics), *changelog_topics(settings))


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
