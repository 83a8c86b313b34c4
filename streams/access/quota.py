"""Quotas in addresses per UTC day and month, and the cap on addresses in flight: pure functions.

Times are milliseconds since 1970. Nothing here runs by itself: days turn and shares expire when they are looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

BUCKET_MS = 60_000
"""Addresses in flight are counted by the minute in which they expire, so that a row stays small whatever the load."""


@dataclass(frozen=True, slots=True)
class Limits:
    """In addresses; ``None`` is without limit."""

    daily: int | None = None
    monthly: int | None = None
    in_flight: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What was charged on ``day`` (YYYY-MM-DD) and in ``month`` (YYYY-MM)."""

    day: str = ""
    day_used: int = 0
    month: str = ""
    month_used: int = 0


def day_of(now_ms: int) -> str:
    """The UTC day."""
    return _moment(now_ms).strftime("%Y-%m-%d")


def current(usage: Usage, now_ms: int) -> Usage:
    """The usage as it stands now: a new day or month begins at nothing."""
    day = day_of(now_ms)
    month = day[:7]
    return Usage(day, usage.day_used if usage.day == day else 0, month, usage.month_used if usage.month == month else 0)


def charge(usage: Usage, limits: Limits, count: int, now_ms: int) -> Usage | datetime:
    """``count`` addresses charged, or the moment at which the quota that is used up begins anew."""
    usage = current(usage, now_ms)
    if limits.monthly is not None and usage.month_used + count > limits.monthly:
        return next_month(now_ms)
    if limits.daily is not None and usage.day_used + count > limits.daily:
        return next_day(now_ms)
    return replace(usage, day_used=usage.day_used + count, month_used=usage.month_used + count)


def give_back(usage: Usage, day: str, count: int) -> Usage:
    """Back to the day and month that were charged; what lies behind them is over and nobody's loss."""
    return replace(
        usage,
        day_used=max(0, usage.day_used - count) if usage.day == day else usage.day_used,
        month_used=max(0, usage.month_used - count) if usage.month == day[:7] else usage.month_used,
    )


def remaining(usage: Usage, limits: Limits, now_ms: int) -> tuple[int | None, int | None, datetime]:
    """Limit, what is left of it and when it begins anew: of the month where that is nearer to its end."""
    usage = current(usage, now_ms)
    of_day = None if limits.daily is None else limits.daily - usage.day_used
    of_month = None if limits.monthly is None else limits.monthly - usage.month_used
    if of_month is not None and (of_day is None or of_month < of_day):
        return limits.monthly, max(0, of_month), next_month(now_ms)
    return limits.daily, None if of_day is None else max(0, of_day), next_day(now_ms)


def next_day(now_ms: int) -> datetime:
    """The next UTC midnight."""
    return _midnight(now_ms) + timedelta(days=1)


def next_month(now_ms: int) -> datetime:
    """UTC midnight of the first of the next month."""
    return (_midnight(now_ms).replace(day=1) + timedelta(days=32)).replace(day=1)


InFlight = Mapping[int, int]
"""Addresses by the end of the minute in which their request must be answered (:func:`bucket_of`)."""


def bucket_of(verdict_by_ms: int) -> int:
    """Where a request that must be answered by then is counted: the end of that minute."""
    return -(-verdict_by_ms // BUCKET_MS) * BUCKET_MS


def live(in_flight: InFlight, now_ms: int) -> dict[int, int]:
    """Without those whose time is over: a settlement that never comes blocks nobody for longer."""
    return {bucket: count for bucket, count in in_flight.items() if bucket > now_ms}


def release(in_flight: InFlight, bucket: int, count: int) -> dict[int, int]:
    """A request has been settled."""
    left = {**in_flight, bucket: in_flight.get(bucket, 0) - count}
    return {bucket: count for bucket, count in left.items() if count > 0}


def _moment(now_ms: int) -> datetime:
    return datetime.fromtimestamp(now_ms / 1000, UTC)


def _midnight(now_ms: int) -> datetime:
    return _moment(now_ms).replace(hour=0, minute=0, second=0, microsecond=0)
