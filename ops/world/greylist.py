"""A greylist's memory: triplets of client, sender and recipient, and when each was first seen."""

import math

MAX_TRIPLETS = 500_000
"""The oldest are forgotten beyond it."""


class Greylist:
    """Says how long a triplet still has to wait; asking too early does not start the wait anew."""

    __slots__ = ("_delay_s", "_seen")

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._seen: dict[tuple[str, str, str], float] = {}

    def wait(self, client: str, sender: str, recipient: str, now: float) -> int:
        """Whole seconds that are left, rounded up; 0 for a triplet that may pass."""
        triplet = (client, sender.lower(), recipient.lower())
        if triplet not in self._seen and len(self._seen) >= MAX_TRIPLETS:
            del self._seen[next(iter(self._seen))]
        first = self._seen.setdefault(triplet, now)
        return max(0, math.ceil(first + self._delay_s - now))
