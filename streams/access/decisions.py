"""Whether a request may run: pure functions of what a key has used, the request, and the time stamped at intake.

Three rows stand in the gate's ledger. The *accounts* of a tenant and of a key hold what they have used; the *decision*
on a request says what was decided and charged, so that the same record, read again, decides and charges the same. The
tenant's account also carries a copy of the two that changed with it: whatever a crash cuts off behind it can be written
again from it, and what it says is never charged twice.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import Field

from schemas.base import Part
from schemas.keys import OPTIONS
from schemas.request import Request
from schemas.result import Quota
from schemas.vocabulary import Lane, Reason
from streams.access import quota, rate
from streams.access.keys import Allowance, Key

MAX_VERDICT_BY = timedelta(hours=24)
"""A client can't ask for a later verdict: topics keep what a running request needs for three days."""

MIN_VERDICT_BY = timedelta(seconds=1)
"""A client whose clock is wrong gets an answer nevertheless, if a poor one."""

IN_FLIGHT_HINT_MS = 1000
"""Nobody knows when addresses in flight are answered; until then asking once a second is no burden."""


class Decision(Part):
    """What was decided on a request (a row of the ledger). ``reason`` is null where it was admitted."""

    uid: str
    key_id: str
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
    """What a key, or a tenant with all its keys, has used (a row of the ledger)."""

    now_ms: int = 0
    tat_ms: float = 0.0
    day: str = ""
    day_used: int = 0
    month: str = ""
    month_used: int = 0
    in_flight: Mapping[int, int] = Field(default_factory=dict)

    @property
    def usage(self) -> quota.Usage:
        """The charged addresses."""
        return quota.Usage(self.day, self.day_used, self.month, self.month_used)

    def is_idle(self, now_ms: int) -> bool:
        """Nothing in here matters any more: a key never used would decide the same."""
        used = quota.current(self.usage, now_ms)
        return not used.month_used and self.tat_ms <= now_ms and not quota.live(self.in_flight, now_ms)


class Last(Part):
    """The change that a tenant's account was written with: whose account it changed too, and what was decided."""

    account: Account
    decision: Decision


class TenantAccount(Account):
    """The account of a tenant. It is written first; what a crash cuts off behind it is written again from ``last``."""

    last: Last | None = None


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
    refusal: "Refusal | None" = None
    """Why a key of today's standing is not served at all (:func:`streams.access.standing.standing`)."""


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


def verdict_by(request: Request, stamped_ms: int, default: timedelta) -> int:
    """When every address shall have its verdict, in milliseconds since 1970, within our bounds.

    A function of the record alone, never of an account: with the uid it names the request's rows downstream.
    """
    asked = request.verdict_by
    asked_ms = stamped_ms + _ms(default) if asked is None else math.ceil(asked.timestamp() * 1000)
    return min(max(asked_ms, stamped_ms + _ms(MIN_VERDICT_BY)), stamped_ms + _ms(MAX_VERDICT_BY))


def decide(key: Key, tenant: TenantAccount, own: Account, asked: Asked) -> TenantAccount:
    """The tenant's account after the request, with the key's and the decision on it in ``last``.

    Limits of the key and of its tenant hold both, and both are charged or neither. The rate is charged for each
    request that keeps to it, quotas for admitted ones only.
    """
    now_ms, count = asked.now_ms, len(asked.request.addresses)
    sides = (_Side(key.own, own, "this key"), _Side(key.shared, tenant, "all keys of this tenant together"))
    refusal = asked.refusal or _scope(key, asked.request, asked.lane) or _size(sides, count)
    tats = tuple(side.account.tat_ms for side in sides)
    if refusal is None:
        taken = [side.take(now_ms) for side in sides]
        refusal = _stricter(side.rate_refusal(each) for side, each in zip(sides, taken, strict=True))
        tats = tuple(
            each.tat_ms if each.retry_after_ms is not None or refusal is None else before
            for each, before in zip(taken, tats, strict=True)
        )
    refusal = (
        refusal
        or _stricter(side.quota_refusal(count, now_ms) for side in sides)
        or _stricter(side.in_flight_refusal(count, now_ms) for side in sides)
    )
    charged = 0 if refusal else count
    after = [side.after(tat, charged, asked) for side, tat in zip(sides, tats, strict=True)]
    decision = _decision(key, asked, charged, refusal, _least_left(sides, after, now_ms))
    return _with_last(after[1], after[0], decision)


def settle(tenant: TenantAccount, own: Account, decision: Decision, *, given_back: int, now_ms: int) -> TenantAccount:
    """The accounts after a request has ended: what it did not cost is given back, its share in flight released."""
    back = min(max(given_back, 0), decision.charged)
    after = [_settled(account, decision, back, now_ms) for account in (own, tenant)]
    return _with_last(after[1], after[0], decision.model_copy(update={"settled": True}))


def _settled(account: Account, decision: Decision, back: int, now_ms: int) -> Account:
    usage = quota.give_back(account.usage, decision.charged_day, back)
    bucket = quota.bucket_of(decision.verdict_by_ms)
    return account.model_copy(
        update={
            "now_ms": max(account.now_ms, now_ms),
            "day_used": usage.day_used,
            "month_used": usage.month_used,
            "in_flight": quota.release(account.in_flight, bucket, decision.charged),
        }
    )


def _with_last(tenant: Account, own: Account, decision: Decision) -> TenantAccount:
    last = Last(account=own, decision=decision)
    return TenantAccount.model_construct(**{**dict(tenant), "last": last})


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two whose limits a request must keep to."""

    allowance: Allowance
    account: Account
    who: str

    def take(self, now_ms: int) -> rate.RateDecision:
        if self.allowance.rate is None:
            return rate.RateDecision(self.account.tat_ms)
        return rate.take(self.allowance.rate, self.account.tat_ms, now_ms)

    def rate_refusal(self, taken: rate.RateDecision) -> Refusal | None:
        if taken.retry_after_ms is None:
            return None
        return Refusal(Reason.RATE_EXCEEDED, f"more requests a second than {self.who} may send", taken.retry_after_ms)

    def quota_refusal(self, count: int, now_ms: int) -> Refusal | None:
        resets_at = quota.charge(self.account.usage, self.allowance.limits, count, now_ms)
        if isinstance(resets_at, quota.Usage):
            return None
        message = f"the quota of {self.who} is used up until {resets_at:%Y-%m-%dT%H:%MZ}"
        return Refusal(Reason.QUOTA_EXCEEDED, message, math.ceil(resets_at.timestamp() * 1000) - now_ms)

    def in_flight_refusal(self, count: int, now_ms: int) -> Refusal | None:
        cap = self.allowance.limits.in_flight
        running = sum(quota.live(self.account.in_flight, now_ms).values())
        if cap is None or running + count <= cap:
            return None
        message = f"{running} addresses of {self.who} are in flight, {cap} may be: wait for results first"
        return Refusal(Reason.IN_FLIGHT_EXCEEDED, message, IN_FLIGHT_HINT_MS)

    def after(self, tat_ms: float, charged: int, asked: Asked) -> Account:
        used = quota.current(self.account.usage, asked.now_ms)
        in_flight = quota.live(self.account.in_flight, asked.now_ms)
        if charged:
            bucket = quota.bucket_of(asked.verdict_by_ms)
            in_flight[bucket] = in_flight.get(bucket, 0) + charged
        return Account(
            now_ms=asked.now_ms,
            tat_ms=tat_ms,
            day=used.day,
            day_used=used.day_used + charged,
            month=used.month,
            month_used=used.month_used + charged,
            in_flight=in_flight,
        )


def _stricter(refusals: Iterable[Refusal | None]) -> Refusal | None:
    """The one that lasts longer: whoever waits for it is not refused for the other."""
    found = [refusal for refusal in refusals if refusal is not None]
    return max(found, key=lambda refusal: refusal.retry_after_ms or 0, default=None)


def _least_left(sides: Sequence[_Side], after: Sequence[Account], now_ms: int) -> Quota:
    """What is left by the stricter of the two, and when that begins anew."""
    quotas = [
        Quota(limit=limit, remaining=left, resets_at=resets_at)
        for side, account in zip(sides, after, strict=True)
        for limit, left, resets_at in (quota.remaining(account.usage, side.allowance.limits, now_ms),)
    ]
    return min(quotas, key=lambda each: math.inf if each.remaining is None else each.remaining)


def _decision(key: Key, asked: Asked, charged: int, refusal: Refusal | None, left: Quota) -> Decision:
    return Decision(
        uid=asked.uid,
        key_id=key.key_id,
        body=asked.body,
        decided_by=asked.record,
        at_ms=asked.now_ms,
        reason=refusal.reason if refusal else None,
        message=refusal.message if refusal else "",
        retry_after_ms=refusal.retry_after_ms if refusal else None,
        lane=asked.lane,
        verdict_by_ms=asked.verdict_by_ms,
        charged=charged,
        quota=left,
    )


def _scope(key: Key, request: Request, lane: Lane) -> Refusal | None:
    if request.depth not in key.depths:
        return Refusal(Reason.SCOPE_DENIED, f"this key may not ask for depth {request.depth}")
    if lane not in key.lanes:
        return Refusal(Reason.SCOPE_DENIED, f"this key may not use the {lane} lane")
    for name in sorted(OPTIONS - key.options):
        if getattr(request.options, name):
            return Refusal(Reason.SCOPE_DENIED, f"this key may not use {name}: set options.{name} to false")
    return None


def _size(sides: Iterable[_Side], count: int) -> Refusal | None:
    most = min(side.allowance.most for side in sides)
    if count <= most:
        return None
    return Refusal(Reason.TOO_LARGE, f"this key may send {most} addresses in a request")


def instant(ms: int) -> datetime:
    """Milliseconds since 1970 as a point in time."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
