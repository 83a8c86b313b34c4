"""What a run leaves behind: every record of every topic, and now and then what was committed and what was there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    ADMITTED_BULK,
    ADMITTED_INTERACTIVE,
    ATTEMPTS,
    REQUESTS,
    SETTLEMENTS,
    TASKS_BULK,
    TASKS_INTERACTIVE,
    TIERS,
)

Place = tuple[str, int]
"""Request uid and index."""

Partition = tuple[str, int]
"""Topic, without a namespace, and partition."""

Cursor = tuple[str, str, int]
"""Group, without a namespace, topic and partition."""

LEDGER = "ledger"
"""Stands for the topic of the gate's changelog."""

READERS: Mapping[str, tuple[str, ...]] = {
    "gate": (REQUESTS.name, ADMISSIONS_INTERACTIVE.name, ADMISSIONS_BULK.name, SETTLEMENTS.name),
    "route-interactive": (ADMITTED_INTERACTIVE.name,),
    "route-bulk": (ADMITTED_BULK.name,),
    "probe-interactive": (TASKS_INTERACTIVE.name,),
    "probe-bulk": (TASKS_BULK.name,),
    **{f"retry-{tier.name.split('.')[2]}": (tier.name,) for tier in TIERS},
    "completion": (ADMITTED_INTERACTIVE.name, ADMITTED_BULK.name, ATTEMPTS.name),
}
"""What each group reads."""


@dataclass(frozen=True, slots=True)
class Written:
    """A record as it stands in a log; ``topic`` has no namespace."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def json(self) -> dict[str, object]:
        """Its value."""
        found: dict[str, object] = orjson.loads(self.value or b"{}")
        return found


@dataclass(frozen=True, slots=True)
class Look:
    """What was committed, and then what was there: whatever was committed by then had to be there."""

    at_s: float
    committed: Mapping[Cursor, int]
    ends: Mapping[Partition, int]


@dataclass
class History:
    """A whole run.

    ``expected``: what is asked, and the reason that each place has in the end. ``malformed``: SHA-256 of each record
    that nobody can use. ``charges``: addresses that each request is charged. ``outages``: the world that is asked
    failed for a while.
    """

    expected: dict[Place, str] = field(default_factory=dict)
    malformed: set[str] = field(default_factory=set)
    logs: dict[str, list[Written]] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    outages: bool = False

    def log(self, topic: str) -> Sequence[Written]:
        """All records of a topic."""
        return self.logs.get(topic, ())

    def all(self) -> Iterator[Written]:
        """All records."""
        for records in self.logs.values():
            yield from records
