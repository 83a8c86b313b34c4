"""What the roles that learn something of addresses share: judging it, and writing down what comes of it."""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Literal, Protocol, TypeVar

from schemas.pipeline import MAX_TASK_ADDRESSES, Attempt, AttemptEntry, Position, Task, TaskItem, Ticket
from schemas.result import Finding, PastAttempt
from schemas.topics import ATTEMPTS, TASKS_BULK, TASKS_INTERACTIVE
from schemas.vocabulary import Depth, Lane, Reason
from streams.checks.classify import Circumstances, classify
from streams.checks.evidence import Prepared, Probe
from streams.checks.providers import provider_of, traits_of
from streams.codec import encode
from streams.dns.answers import MailRoute
from streams.records import Outgoing
from streams.roles.breath import breathing

LANES: Mapping[Lane, str] = {Lane.INTERACTIVE: TASKS_INTERACTIVE.name, Lane.BULK: TASKS_BULK.name}
"""The topic of each lane's tasks."""

TENANT = "mailvet-tenant"
"""Header of a task: whose it is, so that its turn can be told before it is read out."""

T = TypeVar("T")


class Resolver(Protocol):
    """Whoever knows where a domain's mail goes (:class:`streams.dns.resolver.MailResolver`)."""

    async def route(self, domain: str) -> MailRoute: ...


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of an address at one attempt; ``route`` and ``probe`` as far as it came."""

    prepared: Prepared
    positions: tuple[Position, ...]
    route: MailRoute | None = None
    probe: Probe | None = None
    provider: str | None = None
    attempt: int = 1
    past: tuple[PastAttempt, ...] = ()
    waited_ms: int = 0
    opted_out: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an address goes next: who is asked, and whether at once or after a tier's delay."""

    topic: str
    provider: str
    shard: int = 0
    attempt: int = 1
    hops: int = 0
    source: str | None = None


async def providers_of(routes: Mapping[str, MailRoute]) -> dict[str, str]:
    """The provider of each domain that has somebody to ask."""
    return {domain: provider_of(route) async for domain, route in breathing(routes.items()) if route.has_hosts}


def judge(learned: Learned, depth: Depth, risky: frozenset[Reason], now: datetime) -> Finding:
    """What the evidence means; the time that it waited for its turn with us is part of the time it was queued."""
    given = Circumstances(
        learned.route,
        learned.provider,
        depth,
        risky,
        now,
        hides_mailboxes=traits_of(learned.provider).hides_mailboxes,
        attempt=learned.attempt,
        opted_out=learned.opted_out,
    )
    finding = classify(learned.prepared, learned.probe, given, learned.past)
    if not learned.waited_ms:
        return finding
    timing = finding.timing.model_copy(update={"queued_ms": finding.timing.queued_ms + learned.waited_ms})
    return finding.model_copy(update={"timing": timing})


def instant(now_ms: int) -> datetime:
    """Milliseconds since 1970 as a point in time."""
    return datetime.fromtimestamp(now_ms / 1000, UTC)


def shard_of(domain: str, shards: int) -> int:
    """Which of a provider's shards a domain belongs to: always the same one, in every process."""
    return zlib.crc32(domain.encode()) % shards if shards > 1 else 0


def attempts(
    ticket: Ticket, origin: Literal["route", "probe", "deadline", "cancel"], entries: Iterable[AttemptEntry]
) -> Iterator[Outgoing]:
    """The entries in records of bounded size."""
    for piece in pieces(entries):
        record = Attempt(ticket=ticket, origin=origin, entries=tuple(piece))
        yield Outgoing(ATTEMPTS.name, ticket.request_uid.encode(), encode(record))


def tasks(ticket: Ticket, to: Destination, items: Iterable[TaskItem], now: datetime) -> Iterator[Outgoing]:
    """The items on their way, in tasks of bounded size."""
    for piece in pieces(items):
        task = Task(
            ticket=ticket,
            provider=to.provider,
            shard=to.shard,
            items=tuple(piece),
            attempt=to.attempt,
            hops=to.hops,
            source=to.source,
            created_at=now,
        )
        key = f"{to.provider}#{to.shard}".encode()
        yield Outgoing(to.topic, key, encode(task), ((TENANT, ticket.tenant.encode()),))


def pieces(things: Iterable[T], size: int = MAX_TASK_ADDRESSES) -> Iterator[Sequence[T]]:
    """At most ``size`` at a time, in order."""
    left = iter(things)
    while piece := list(islice(left, size)):
        yield piece
