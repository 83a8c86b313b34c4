"""Every topic, declared once: name, key, partitions, retention, timestamp type."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from schemas.base import KEY_NAME_PATTERN

PREFIX = "mailvet."
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FOR_EVER = -1

SEGMENT_MS = 6 * HOUR_MS
"""Kafka deletes whole segments, so a record lives this much longer than its topic's retention; 7 days by default."""

Key = Literal["anything", "tenant", "request_uid", "provider#shard", "original key", "domain", "tenant:key:day"]


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it is created. Retention is in milliseconds, -1 for ever."""

    name: str
    key: Key
    value: str
    retention_ms: int
    partitions: int = 8
    timestamp_type: Literal["LogAppendTime", "CreateTime"] = "LogAppendTime"
    cleanup_policy: Literal["delete", "compact"] = "delete"
    max_message_bytes: int = 4 * 1024 * 1024
    writers: Literal["ours", "anyone"] = "ours"
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, str]:
        """The topic-level configuration as Kafka names it."""
        return {
            "cleanup.policy": self.cleanup_policy,
            "retention.ms": str(self.retention_ms),
            "message.timestamp.type": self.timestamp_type,
            "max.message.bytes": str(self.max_message_bytes),
            **({"segment.ms": str(SEGMENT_MS)} if self.cleanup_policy == "delete" else {}),
            **self.extra,
        }

    @property
    def contiguous(self) -> bool:
        """Whether each record's offset is the one before plus one: compaction and transactions leave gaps."""
        return self.cleanup_policy == "delete" and self.writers == "ours"

    def named(self, namespace: str) -> "Topic":
        """The same topic as one installation of several on a broker calls it; see :func:`physical_name`."""
        return replace(self, name=physical_name(self.name, namespace))


def physical_name(name: str, namespace: str) -> str:
    """The topic's name on the broker: installations that share one differ by their namespace (`MAILVET_NAMESPACE`)."""
    return f"{namespace}.{name}" if namespace else name


# As in a bearer key: without "_", for Kafka takes "a.b" and "a_b" for names that collide.
TENANT = re.compile(KEY_NAME_PATTERN, re.ASCII)


def own_results(tenant: str) -> Topic:
    """The results topic that is this tenant's alone; no name leads to another topic than the tenant's.

    Raises:
        ValueError: no tenant is called so.
    """
    if not TENANT.fullmatch(tenant):
        raise ValueError("a tenant's name has 1 to 64 of A-Z a-z 0-9 . - and begins with a letter or digit")
    return replace(RESULTS, name=f"{PREFIX}results.{tenant}.v1")


# The broker takes what is far too large, so that it ends as a dead letter that says why.
REQUESTS = Topic(
    PREFIX + "requests.v1",
    "anything",
    "Request",
    3 * DAY_MS,
    max_message_bytes=16 * 1024 * 1024,
    writers="anyone",
)
ADMISSIONS_INTERACTIVE = Topic(PREFIX + "admissions.interactive.v1", "tenant", "raw bytes of a Request", 3 * DAY_MS)
ADMISSIONS_BULK = Topic(PREFIX + "admissions.bulk.v1", "tenant", "raw bytes of a Request", 3 * DAY_MS)
ADMITTED_INTERACTIVE = Topic(PREFIX + "admitted.interactive.v1", "request_uid", "Admitted", 3 * DAY_MS)
ADMITTED_BULK = Topic(PREFIX + "admitted.bulk.v1", "request_uid", "Admitted", 3 * DAY_MS)
TASKS_INTERACTIVE = Topic(PREFIX + "tasks.interactive.v1", "provider#shard", "Task", 3 * DAY_MS)
TASKS_BULK = Topic(PREFIX + "tasks.bulk.v1", "provider#shard", "Task", 3 * DAY_MS)
RETRIES_5M = Topic(PREFIX + "retries.5m.v1", "provider#shard", "Task", 3 * DAY_MS)
RETRIES_15M = Topic(PREFIX + "retries.15m.v1", "provider#shard", "Task", 3 * DAY_MS)
RETRIES_60M = Topic(PREFIX + "retries.60m.v1", "provider#shard", "Task", 3 * DAY_MS)
ATTEMPTS = Topic(PREFIX + "attempts.v1", "request_uid", "Attempt", 3 * DAY_MS)
CANCELS = Topic(PREFIX + "cancels.v1", "request_uid", "CancelOrder", 3 * DAY_MS)
RESULTS = Topic(PREFIX + "results.v1", "request_uid", "Result | Rejection | Summary", 7 * DAY_MS)
SETTLEMENTS = Topic(PREFIX + "settlements.v1", "tenant", "Settlement", 3 * DAY_MS)
KEY_COMMANDS = Topic(PREFIX + "key-commands.v1", "tenant", "Command", FOR_EVER, max_message_bytes=64 * 1024)
KEY_EVENTS = Topic(PREFIX + "key-events.v1", "tenant", "KeyEvent", FOR_EVER)
# The newest record of a key's day says all of that day: what is kept for good is a record a key and day.
USAGE = Topic(PREFIX + "usage.v1", "tenant:key:day", "Usage", FOR_EVER, cleanup_policy="compact")
# One partition: whoever asks mail servers reads all of it, and it holds a record a domain.
OPT_OUTS = Topic(
    PREFIX + "opt-outs.v1",
    "domain",
    "OptOut",
    FOR_EVER,
    partitions=1,
    cleanup_policy="compact",
    max_message_bytes=64 * 1024,
)
DEADLETTERS = Topic(PREFIX + "deadletters.v1", "original key", "raw bytes", 28 * DAY_MS)

TOPICS = (
    REQUESTS,
    ADMISSIONS_INTERACTIVE,
    ADMISSIONS_BULK,
    ADMITTED_INTERACTIVE,
    ADMITTED_BULK,
    TASKS_INTERACTIVE,
    TASKS_BULK,
    RETRIES_5M,
    RETRIES_15M,
    RETRIES_60M,
    ATTEMPTS,
    CANCELS,
    RESULTS,
    SETTLEMENTS,
    KEY_COMMANDS,
    KEY_EVENTS,
    USAGE,
    OPT_OUTS,
    DEADLETTERS,
)
_LEADING_NOWHERE = (RESULTS, DEADLETTERS, KEY_COMMANDS, KEY_EVENTS, USAGE, OPT_OUTS)
LEADING = tuple(topic for topic in TOPICS if topic not in _LEADING_NOWHERE)
"""Those whose records lead to rows of tables: a row has to outlive the record, lest a repeat is taken for new.

Commands on keys are kept for good: of them a tenant's rows tell a repeat by its time (:mod:`streams.roles.keyring`).
"""

TIERS = (RETRIES_5M, RETRIES_15M, RETRIES_60M)
"""The retry tiers, shortest delay first."""
