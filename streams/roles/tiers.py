"""When an address that was told "later" is asked again: pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from schemas.pipeline import Ticket
from schemas.topics import TIERS


@dataclass(frozen=True, slots=True)
class Later:
    """The topic of the tier that a task goes to, and when it will come back."""

    tier: str
    due: datetime


def later(
    ticket: Ticket, attempt: int, now: datetime, delays_s: Sequence[float], *, hint_s: int | None = None
) -> Later | None:
    """Where to wait after ``attempt`` (from 1), or ``None`` when what is known now is the answer.

    As many attempts follow as there are tiers. A server that said how long to wait is believed: the shortest delay
    that is not shorter. Nothing is asked again that could not be answered before ``verdict_by``.
    """
    if not ticket.options.retry or attempt > len(delays_s):
        return None
    chosen = attempt - 1 if hint_s is None else _tier_for(hint_s, delays_s)
    due = now + timedelta(seconds=delays_s[chosen])
    return Later(TIERS[chosen].name, due) if due < ticket.verdict_by else None


def _tier_for(hint_s: int, delays_s: Sequence[float]) -> int:
    """The first tier that waits long enough; the longest where none does."""
    return next((tier for tier, delay in enumerate(delays_s) if delay >= hint_s), len(delays_s) - 1)
