"""Requests per second with a burst: the generic cell rate algorithm (ITU-T I.371), as a pure function.

The whole state is one number, the *theoretical arrival time*: when the next request would come at the full rate.
Times are milliseconds since 1970, on the clock that intake stamped.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_second`` requests on average, and ``burst`` of them at once (1 or more)."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class RateDecision:
    """``tat_ms`` is the new state. With ``retry_after_ms`` the request does not conform and cost nothing."""

    tat_ms: float
    retry_after_ms: int | None = None


def take(rate: Rate, tat_ms: float, now_ms: int) -> RateDecision:
    """One request at ``now_ms``; ``tat_ms`` is 0 for a key that was never used."""
    interval = 1000 / rate.per_second
    # No state of this rate lies further ahead: what an earlier, slower one left behind counts no longer.
    tat_ms = min(tat_ms, now_ms + interval * rate.burst)
    allowed_at = tat_ms - interval * (rate.burst - 1)
    if now_ms < allowed_at:
        return RateDecision(tat_ms, math.ceil(allowed_at - now_ms))
    return RateDecision(max(tat_ms, now_ms) + interval)
