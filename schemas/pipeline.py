"""The records that the roles write to one another."""

from operator import not_
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Instant, Name, Part, Record, RequestId, Uid
from schemas.request import Options
from schemas.result import Finding, PastAttempt, Quota
from schemas.vocabulary import Depth, Lane, Verdict

MAX_TASK_ADDRESSES = 200
"""Addresses of one task or attempt: a record costs about 1 ms of a core, an address inside it almost nothing."""


class Ticket(Part):
    """What every record of an admitted request carries, so that no role has to look it up."""

    request_uid: Uid
    request_id: RequestId
    tenant: Name
    key_id: str
    total: int
    depth: Depth
    lane: Lane
    options: Options = Options()
    charged: int = 0
    charged_day: str = Field(default="", description="The UTC day (YYYY-MM-DD) whose quota was charged.")
    quota: Quota | None = None
    own_topic: bool = Field(default=False, exclude_if=not_, description="Answers go to the tenant's own results topic.")
    admitted_at: Instant
    verdict_by: Instant


class Admitted(Record):
    """A request that may run (``admitted.<lane>.v1``, keyed by request uid)."""

    ticket: Ticket
    addresses: tuple[str, ...]


class Position(Part):
    """Where an address stands in its request, and as the client wrote it there."""

    index: int
    input: str


class TaskItem(Part):
    """One address to probe; it may stand several times in the request."""

    positions: tuple[Position, ...]
    address: str
    past: tuple[PastAttempt, ...] = ()


class Task(Record):
    """Addresses of one request for one provider (``tasks.<lane>.v1`` and ``retries.<tier>.v1``)."""

    ticket: Ticket
    provider: str
    shard: int = 0
    items: Annotated[tuple[TaskItem, ...], Field(min_length=1, max_length=MAX_TASK_ADDRESSES)]
    attempt: int = 1
    hops: int = Field(default=0, description="How often the provider has changed on the way.")
    source: str | None = Field(default=None, description="The way out of the earlier attempts (a greylisted triplet).")
    created_at: Instant


class AttemptEntry(Part):
    """What one attempt learned of one address. ``final`` ones decide; the others are kept for ``verdict_by``."""

    positions: tuple[Position, ...]
    final: bool
    finding: Finding


class Attempt(Record):
    """What one attempt learned (``attempts.v1``, keyed by request uid)."""

    ticket: Ticket
    origin: Literal["route", "probe", "deadline", "cancel"]
    entries: Annotated[tuple[AttemptEntry, ...], Field(min_length=1)]


class CancelOrder(Record):
    """An admitted request shall end (``cancels.v1``, keyed by request uid): from the gate, or from an operator.

    Completion answers what is not decided; whoever would work on the request's addresses leaves them. ``verdict_by`` is
    the request's own: the order means nothing after it.
    """

    request_uid: Uid
    verdict_by: Instant
    by: str = Field(description="The tenant's key that ordered it, or the operator.")


class Seen(Part):
    """Mailboxes of a domain, told apart by the smallest of their hashes (:mod:`streams.access.abuse`)."""

    unknown: tuple[int, ...] = Field(default=(), description="That do not exist.")
    found: tuple[int, ...] = Field(default=(), description="That do.")
    counted: tuple[int, ...] = Field(default=(), description="Unknown ones whose names only counting makes.")


class Settlement(Record):
    """What a finished request really cost (``settlements.v1``, keyed by tenant)."""

    request_uid: Uid
    tenant: Name
    key_id: str
    charged: int
    charged_day: str
    given_back: int
    finished_at: Instant
    verdicts: dict[Verdict, int] = Field(default_factory=dict)
    seen: dict[str, Seen] = Field(default_factory=dict, description="By domain, where a mail server was asked.")


class DeadLetter(Record):
    """Why a record could not be used; its bytes are the dead letter's value, this stands in its headers."""

    reason: Literal[
        "too_large",
        "not_utf8",
        "not_json",
        "invalid",
        "unknown_version",
        "not_authenticated",
        "refused",
        "internal_error",
    ]
    detail: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None = None
    role: str
    size: int
    sha256: str
    at: Instant


class Replayed(Record):
    """That a dead letter was sent back to its origin (a header of a record on ``deadletters.v1`` without a value).

    It stands in the dead letter's own partition, behind it, so it is kept as long and no second replay misses it.
    """

    partition: int
    offset: int
    topic: str
    replays: int = Field(description="How often the record has been replayed by now, this time included.")
    at: Instant
