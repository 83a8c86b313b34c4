"""How a request stands: made of the rows of the gate and of completion, or of what its client can read. No I/O."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from schemas.base import Instant, Part
from schemas.pipeline import AttemptEntry
from schemas.request import request_uid
from schemas.result import Finding, Output, Quota, Rejection, Result, Summary
from schemas.topics import PREFIX, TIERS
from schemas.vocabulary import VERDICTS, Lane, Reason, Verdict
from streams.access.decisions import Decision, instant
from streams.roles.progress import Progress


class State(StrEnum):
    """Where a request is on its way."""

    UNKNOWN = "unknown"
    REJECTED = "rejected"
    RUNNING = "running"
    CANCELLING = "cancelling"
    FINISHED = "finished"


class Waiting(Part):
    """Addresses that are asked again, in a retry tier: when the first and the last of them are due, and why."""

    tier: str
    addresses: int
    first_due: Instant
    last_due: Instant
    reasons: dict[Reason, int]


class Refused(Part):
    """Why a request was not served."""

    reason: Reason
    message: str
    retry_after_ms: int | None = None


class Status(Part):
    """What is known of a request. What only the tables tell is null where only results could be read."""

    request_id: str
    tenant: str
    request_uid: str
    state: State = State.UNKNOWN
    key_id: str | None = None
    lane: Lane | None = None
    admitted_at: Instant | None = None
    verdict_by: Instant | None = None
    total: int | None = None
    decided: int = 0
    verdicts: dict[Verdict, int] = Field(default_factory=dict)
    reasons: dict[Reason, int] = Field(default_factory=dict)
    waiting: tuple[Waiting, ...] | None = None
    rejected: Refused | None = None
    cancelled_at: Instant | None = None
    finished_at: Instant | None = None
    charged: int | None = None
    given_back: int | None = None
    quota: Quota | None = None

    @property
    def under_way(self) -> int:
        """Addresses that have no verdict and do not wait: they are looked up, in a queue or in a dialogue."""
        return (self.total or 0) - self.decided - sum(each.addresses for each in self.waiting or ())


def of_tables(
    tenant: str,
    request_id: str,
    decision: Decision | None,
    progress: Progress,
    known: Mapping[str, Sequence[AttemptEntry]],
    *,
    now: datetime,
    delays_s: Sequence[float],
) -> Status:
    """The status by the gate's decision and completion's rows.

    Args:
        known: what records said without deciding, by their name (:attr:`Progress.known`).
        delays_s: of the retry tiers.
    """
    status = Status(request_id=request_id, tenant=tenant, request_uid=request_uid(tenant, request_id))
    if decision is None:
        return status
    status = status.model_copy(
        update={"key_id": decision.key_id, "lane": decision.lane, "admitted_at": instant(decision.at_ms)}
    )
    if decision.reason is not None:
        refused = Refused(reason=decision.reason, message=decision.message, retry_after_ms=decision.retry_after_ms)
        return status.model_copy(update={"state": State.REJECTED, "rejected": refused, "admitted_at": None})
    decided = progress.decided()
    finished = progress.finished_by is not None
    running = State.CANCELLING if progress.cancelled_at is not None else State.RUNNING
    return status.model_copy(
        update={
            "state": State.FINISHED if finished else running,
            "verdict_by": instant(decision.verdict_by_ms),
            "total": decision.charged,
            "decided": len(decided),
            "verdicts": _verdicts(progress.reasons),
            "reasons": progress.reasons,
            "waiting": _waiting(progress, known, decided, now, delays_s),
            "cancelled_at": progress.cancelled_at,
            "finished_at": progress.finished_at,
            "charged": decision.charged,
            "given_back": min(progress.given_back, decision.charged) if finished else None,
            "quota": decision.quota,
        }
    )


def _waiting(
    progress: Progress,
    known: Mapping[str, Sequence[AttemptEntry]],
    decided: set[int],
    now: datetime,
    delays_s: Sequence[float],
) -> tuple[Waiting, ...]:
    """The latest word on each address without a verdict, by tier; what is due already waits no longer."""
    latest: dict[int, Finding] = {}
    for name in progress.known:
        for entry in known.get(name, ()):
            latest.update((position.index, entry.finding) for position in entry.positions)
    tiers: defaultdict[str, list[tuple[datetime, Reason]]] = defaultdict(list)
    for index, finding in latest.items():
        due = finding.next_attempt_at
        if index not in decided and due is not None and due > now:
            tiers[_tier((due - finding.checked_at).total_seconds(), delays_s)].append((due, finding.reason))
    return tuple(_group(tier, tiers[tier]) for tier in _TIER_NAMES if tier in tiers)


_TIER_NAMES = tuple(tier.name.removeprefix(PREFIX) for tier in TIERS)


def _tier(delay_s: float, delays_s: Sequence[float]) -> str:
    """The tier that waits so long; the nearest where the workers' delays are others than ours."""
    return min(zip(_TIER_NAMES, delays_s, strict=True), key=lambda each: abs(each[1] - delay_s))[0]


def _group(tier: str, found: Sequence[tuple[datetime, Reason]]) -> Waiting:
    return Waiting(
        tier=tier,
        addresses=len(found),
        first_due=min(due for due, _ in found),
        last_due=max(due for due, _ in found),
        reasons=dict(Counter(reason for _, reason in found)),
    )


def of_results(tenant: str, request_id: str, outputs: Iterable[Output]) -> Status:
    """The status by what was published for the client; a record may stand among them twice."""
    status = Status(request_id=request_id, tenant=tenant, request_uid=request_uid(tenant, request_id))
    results: dict[int, Result] = {}
    for output in outputs:
        match output:
            case Result():
                results.setdefault(output.index, output)
            case Rejection():
                status = status.model_copy(update=_rejected(output))
            case Summary():
                status = status.model_copy(update=_summed(output))
    if not results:
        return status
    reasons = dict(Counter(result.reason for result in results.values()))
    some = next(iter(results.values()))
    return status.model_copy(
        update={
            "state": State.RUNNING if status.state is State.UNKNOWN else status.state,
            "key_id": some.key_id,
            "total": some.total,
            "decided": len(results),
            "verdicts": _verdicts(reasons),
            "reasons": reasons,
        }
    )


def _rejected(rejection: Rejection) -> dict[str, object]:
    refused = Refused(reason=rejection.reason, message=rejection.message, retry_after_ms=rejection.retry_after_ms)
    return {"state": State.REJECTED, "key_id": rejection.key_id, "rejected": refused}


def _summed(summary: Summary) -> dict[str, object]:
    return {
        "state": State.FINISHED,
        "key_id": summary.key_id,
        "total": summary.total,
        "decided": summary.total,
        "verdicts": summary.verdicts,
        "reasons": summary.reasons,
        "admitted_at": summary.admitted_at,
        "finished_at": summary.finished_at,
        "charged": summary.charged,
        "given_back": summary.given_back,
        "quota": summary.quota,
    }


def _verdicts(reasons: Mapping[Reason, int]) -> dict[Verdict, int]:
    counted = Counter[Verdict]()
    for reason, count in reasons.items():
        counted[VERDICTS[reason]] += count
    return {verdict: counted[verdict] for verdict in Verdict if verdict in counted}
