"""How far a request is: pure functions of what was decided before and one record of ``attempts.v1``."""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import not_

from pydantic import Field, TypeAdapter

from schemas.base import Instant, Part
from schemas.pipeline import Attempt, AttemptEntry, Position, Seen, Settlement, Ticket
from schemas.result import Summary
from schemas.vocabulary import VERDICTS, Reason, Verdict
from streams.checks.sandbox import SANDBOX_DOMAIN
from streams.roles.sightings import sighted

_ENTRIES: TypeAdapter[tuple[AttemptEntry, ...]] = TypeAdapter(tuple[AttemptEntry, ...])


class Progress(Part):
    """How far a request is (a row of the table ``progress``). Records are named partition-offset."""

    by: dict[str, tuple[int, ...]] = Field(default_factory=dict, description="Which record decided which indexes.")
    reasons: dict[Reason, int] = Field(default_factory=dict)
    given_back: int = 0
    seen: dict[str, Seen] = Field(default_factory=dict, description="Mailboxes by domain, until it is settled.")
    known: tuple[str, ...] = Field(default=(), description="Records whose findings may still become the answer.")
    cancelled_at: Instant | None = Field(
        default=None, exclude_if=not_, description="When it was cancelled: what is not decided is not looked into."
    )
    finished_by: str | None = None
    finished_at: Instant | None = None

    def decided(self) -> set[int]:
        """All indexes that have their verdict."""
        return {index for indexes in self.by.values() for index in indexes}


def pack(entries: Sequence[AttemptEntry]) -> bytes:
    """What a record knows without deciding it, as a row of its own."""
    return zlib.compress(_ENTRIES.dump_json(tuple(entries)), 1)


def unpack(row: bytes) -> tuple[AttemptEntry, ...]:
    """The entries of such a row."""
    return _ENTRIES.validate_json(zlib.decompress(row))


@dataclass(frozen=True, slots=True)
class Place:
    """One position of an attempt, with the entry that speaks of it."""

    position: Position
    entry: AttemptEntry

    @property
    def is_given_back(self) -> bool:
        """Whether the client pays nothing for it: not learned, of the sandbox, or probed once for several positions."""
        finding = self.entry.finding
        repeated = self.position.index != self.entry.positions[0].index
        unlearned = finding.verdict is Verdict.UNKNOWN or Reason.NOT_PROBED in finding.reasons
        return repeated or unlearned or finding.domain == SANDBOX_DOMAIN


def places(attempt: Attempt, indexes: Iterable[int], *, final: bool) -> Iterator[Place]:
    """Where this record says something of ``indexes``; of each once."""
    left = set(indexes)
    for entry in attempt.entries:
        for position in entry.positions if entry.final is final else ():
            if position.index in left:
                left.discard(position.index)
                yield Place(position, entry)


def decide(before: Progress, name: str, attempt: Attempt, at: datetime) -> Progress:
    """The progress after the record ``name``, appended to the log at ``at``.

    What no earlier record has decided is this one's. What it knows without deciding is kept until all is decided.
    """
    undecided = set(range(attempt.ticket.total)) - before.decided()
    mine = list(places(attempt, undecided, final=True))
    left = len(undecided) - len(mine)
    changes: dict[str, object] = {}
    if mine:
        reasons = Counter(before.reasons) + Counter(place.entry.finding.reason for place in mine)
        changes = {
            "by": {**before.by, name: tuple(place.position.index for place in mine)},
            "reasons": {reason: reasons[reason] for reason in Reason if reason in reasons},
            "seen": sighted(before.seen, (place.entry.finding for place in mine)),
            "given_back": before.given_back + sum(place.is_given_back for place in mine),
        }
        if not left:
            changes |= {"finished_by": name, "finished_at": max(at, attempt.ticket.admitted_at), "known": ()}
    if left and name not in before.known and any(places(attempt, undecided, final=False)):
        changes["known"] = (*before.known, name)
    return before.model_copy(update=changes)


def summary_of(ticket: Ticket, progress: Progress, finished_at: datetime) -> Summary:
    """The last record of a request, for the client."""
    return Summary(
        request_uid=ticket.request_uid,
        request_id=ticket.request_id,
        key_id=ticket.key_id,
        total=ticket.total,
        verdicts=_verdicts(progress),
        reasons=progress.reasons,
        charged=ticket.charged,
        given_back=min(progress.given_back, ticket.charged),
        quota=ticket.quota,
        admitted_at=ticket.admitted_at,
        finished_at=finished_at,
    )


def settlement_of(ticket: Ticket, progress: Progress, finished_at: datetime) -> Settlement:
    """What the request really cost, for the gate."""
    return Settlement(
        request_uid=ticket.request_uid,
        tenant=ticket.tenant,
        key_id=ticket.key_id,
        charged=ticket.charged,
        charged_day=ticket.charged_day,
        given_back=min(progress.given_back, ticket.charged),
        finished_at=finished_at,
        verdicts=_verdicts(progress),
        seen=progress.seen,
    )


def _verdicts(progress: Progress) -> dict[Verdict, int]:
    verdicts = Counter[Verdict]()
    for reason, count in progress.reasons.items():
        verdicts[VERDICTS[reason]] += count
    return {verdict: verdicts[verdict] for verdict in Verdict if verdict in verdicts}
