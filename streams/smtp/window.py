"""How much of a provider's recent work failed: a window that moves with time, kept in a few numbers."""

from dataclasses import dataclass

BUCKET_S = 10
BUCKETS = 6
"""The window is the last minute, give or take a bucket."""


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Dials and asks of the window, and how many of them a server or the network ended; refusals are no errors."""

    operations: int = 0
    errors: int = 0

    @property
    def ratio(self) -> float:
        """0 to 1; 0 where nothing was done."""
        return self.errors / self.operations if self.operations else 0.0


class ErrorWindow:
    """Counts by bucket of time; older ones are dropped as newer ones come."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: list[tuple[int, int, int]] = []

    def add(self, now: float, *, failed: bool) -> None:
        """One dial or ask has ended."""
        slot = int(now // BUCKET_S)
        operations = errors = 0
        if self._buckets and self._buckets[-1][0] == slot:
            _, operations, errors = self._buckets.pop()
        self._buckets.append((slot, operations + 1, errors + failed))
        del self._buckets[:-BUCKETS]

    def rate(self, now: float) -> ErrorRate:
        """Of the window that ends now."""
        oldest = int(now // BUCKET_S) - BUCKETS
        recent = [bucket for bucket in self._buckets if bucket[0] > oldest]
        return ErrorRate(sum(bucket[1] for bucket in recent), sum(bucket[2] for bucket in recent))

    @property
    def clean(self) -> bool:
        """No error is remembered."""
        return not any(errors for _, _, errors in self._buckets)
