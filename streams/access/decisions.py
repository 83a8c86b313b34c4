"""Whether a request may run: pure functions of what a key has used, the request, and the time stamped at intake.

Two rows stand in the gate's ledger. The *account* of a key holds what it has used; the *decision* on a request says
what was decided and charged, so that the same record, read again, decides and charges the same. The account also
carries a copy of the decision that changed it last: whatever a crash cuts off behind the account can be written again
from it, and what the account says is never charged twice.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import Field

from schemas.base import Part
from schemas.request import Request
from schemas.result import Quota
from schemas.vocabulary import Lane, Reason
from streams.access import quota, rate
from streams.access.keys import Key

MAX_VERDICT_BY = timedelta(hours=24)
"""A client can't ask for a later verdict: topics keep what a running request needs for three days."""

MIN_VERDICT_BY = timedelta(seconds=1)
"""A client whose clock is wrong gets an answer nevertheless, if a poor one."""

IN_FLIGHT_HINT_MS = 1000
"""Nobody knows when addresses in flight are answered; until then asking once a second is no burden."""


class Decision(Part):
    """What was decided on a request (a row of the ledger). ``reason`` is null where it was admitted."""

    uid: str
    body: str = Field(description="SHA-256 of the request's bytes.")
    decided_by: str = Field(description="The record of admissions.<lane>.v1 that was decided: lane-partition-offset.")
    at_ms: int
    reason: Reason | None = None
    message: str = ""
    retry_after_ms: int | None = None
    lane: Lane
    verdict_by_ms: int
    charged: int = 0
    quota: Quota | None = None
    settled: bool = False

    @property
    def charged_day(self) -> str:
        """The UTC day whose quota was charged."""
        return quota.day_of(self.at_ms)


class Account(Part):
    """What a key has used (a row of the ledger)."""

    now_ms: int = 0
    tat_ms: float = 0.0
    day: str = ""
    day_used: int = 0
    month: str = ""
    month_used: int = 0
    in_flight: Mapping[int, int] = Field(default_factory=dict)
    last: Decision | None = None

    @property
    def usage(self) -> quota.Usage:
        """The charged addresses."""
        return quota.Usage(self.day, self.day_used, self.month, self.month_used)

    def is_idle(self, now_ms: int) -> bool:
        """Nothing in here matters any more: a key never used would decide the same."""
        used = quota.current(self.usage, now_ms)
        return not used.month_used and self.tat_ms <= now_ms and not quota.live(self.in_flight, now_ms)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that authenticated, with the names under which it is decided."""

    request: Request
    uid: str
    body: str
    record: str
    now_ms: int
    lane: Lane
    verdict_by_ms: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, as a sentence for the client's developer, and when to ask again."""

    reason: Reason
    message: str
    retry_after_ms: int | None = None


def lane_of(request: Request, interactive_up_to: int) -> Lane:
    """The lane asked for; else by size."""
    if request.lane is not None:
        return request.lane
    return Lane.INTERACTIVE if len(request.addresses) <= interactive_up_to else Lane.BULK


def verdict_by(request: Request, now_ms: int, default: timedelta) -> int:
    """When every address shall have its verdict, in milliseconds since 1970, within our bounds."""
    asked = now_ms + _ms(default) if request.verdict_by is None else math.ceil(request.verdict_by.timestamp() * 1000)
    return min(max(asked, now_ms + _ms(MIN_VERDICT_BY)), now_ms + _ms(MAX_VERDICT_BY))


def decide(key: Key, account: Account, asked: Asked) -> Account:
    """The account after the request, with the decision on it in ``last``.

    The rate is charged for each request that keeps to it, quotas for admitted ones only.
    """
    now_ms = asked.now_ms
    count = len(asked.request.addresses)
    refusal = _scope(key, asked)
    tat_ms = account.tat_ms
    if refusal is None:
        taken = rate.take(key.rate, tat_ms, now_ms)
        tat_ms, refusal = taken.tat_ms, _rate(taken)
    charged = quota.charge(account.usage, key.limits, count, now_ms)
    if refusal is None and isinstance(charged, datetime):
        refusal = _quota(charged, now_ms)
    in_flight = quota.live(account.in_flight, now_ms)
    if refusal is None:
        refusal = _in_flight(key.limits, sum(in_flight.values()), count)
    if refusal is None and isinstance(charged, quota.Usage):
        usage, admitted = charged, count
        bucket = quota.bucket_of(asked.verdict_by_ms)
        in_flight[bucket] = in_flight.get(bucket, 0) + count
    else:
        usage, admitted = quota.current(account.usage, now_ms), 0
    return Account(
        now_ms=now_ms,
        tat_ms=tat_ms,
        day=usage.day,
        day_used=usage.day_used,
        month=usage.month,
        month_used=usage.month_used,
        in_flight=in_flight,
        last=_decision(key, asked, usage, admitted, refusal),
    )


def settle(account: Account, decision: Decision, given_back: int, now_ms: int) -> Account:
    """The account after a request has ended: what it did not cost is given back, its share in flight released."""
    back = min(max(given_back, 0), decision.charged)
    usage = quota.give_back(account.usage, decision.charged_day, back)
    bucket = quota.bucket_of(decision.verdict_by_ms)
    return account.model_copy(
        update={
            "now_ms": max(account.now_ms, now_ms),
            "day_used": usage.day_used,
            "month_used": usage.month_used,
            "in_flight": quota.release(account.in_flight, bucket, decision.charged),
            "last": decision.model_copy(update={"settled": True}),
        }
    )


def _decision(key: Key, asked: Asked, usage: quota.Usage, charged: int, refusal: Refusal | None) -> Decision:
    limit, left, resets_at = quota.remaining(usage, key.limits, asked.now_ms)
    return Decision(
        uid=asked.uid,
        body=asked.body,
        decided_by=asked.record,
        at_ms=asked.now_ms,
        reason=refusal.reason if refusal else None,
        message=refusal.message if refusal else "",
        retry_after_ms=refusal.retry_after_ms if refusal else None,
        lane=asked.lane,
        verdict_by_ms=asked.verdict_by_ms,
        charged=charged,
        quota=Quota(limit=limit, remaining=left, resets_at=resets_at),
    )


def _scope(key: Key, asked: Asked) -> Refusal | None:
    request = asked.request
    if request.depth not in key.depths:
        return Refusal(Reason.SCOPE_DENIED, f"this key may not ask for depth {request.depth}")
    if asked.lane not in key.lanes:
        return Refusal(Reason.SCOPE_DENIED, f"this key may not use the {asked.lane} lane")
    most = min(key.max_addresses, key.limits.in_flight or key.max_addresses)
    if len(request.addresses) > most:
        return Refusal(Reason.TOO_LARGE, f"this key may send {most} addresses in a request")
    return None


def _rate(taken: rate.RateDecision) -> Refusal | None:
    if taken.retry_after_ms is None:
        return None
    return Refusal(Reason.RATE_EXCEEDED, "more requests a second than this key may send", taken.retry_after_ms)


def _quota(resets_at: datetime, now_ms: int) -> Refusal:
    wait = math.ceil(resets_at.timestamp() * 1000) - now_ms
    return Refusal(Reason.QUOTA_EXCEEDED, f"the quota of this key is used up until {resets_at:%Y-%m-%dT%H:%MZ}", wait)


def _in_flight(limits: quota.Limits, running: int, count: int) -> Refusal | None:
    if limits.in_flight is None or running + count <= limits.in_flight:
        return None
    message = f"{running} addresses of this key are in flight, it may have {limits.in_flight}: wait for results first"
    return Refusal(Reason.IN_FLIGHT_EXCEEDED, message, IN_FLIGHT_HINT_MS)


def instant(ms: int) -> datetime:
    """Milliseconds since 1970 as a point in time."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
