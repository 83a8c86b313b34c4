"""How fast a provider is asked: a rate that gives way when servers complain, and comes back step by step. Pure."""

from streams.smtp.policy import ProviderPolicy

FLOOR = 0.2
"""A second, whatever a server says: one in five seconds."""

STEP_S = 5.0
"""Complaints that come together are one, and after each such time without one the rate grows."""

GROWTH = 1.25
OBSERVED_S = 30.0
"""The time over which the rate is measured that was too fast, where none was set."""


class Throttle:
    """A token bucket of one second's depth. ``limit``: how many a second at most, 0: as many as come.

    Without a limit nothing is held back until a server complains: then half of what it was asked of late is the rate.
    """

    __slots__ = ("_at", "_began", "_done", "_goal", "_stepped", "_tokens", "limit", "rate")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.rate = limit
        """How many a second now; 0: as many as come."""
        self._goal = limit
        self._tokens = max(1.0, limit)
        self._at = self._stepped = self._began = float("-inf")
        self._done = 0.0

    def reserve(self, count: int, now: float) -> float:
        """Seconds to wait before ``count`` may be done. They are taken at once: who comes later waits longer."""
        self._observe(count, now)
        if not self.rate:
            return 0.0
        self._tokens = min(max(1.0, self.rate), self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = max(self._at, now)
        # What is taken beyond the bucket is a debt: a large write goes out whole, and the next one waits for it.
        wait = max(0.0, -self._tokens / self.rate)
        self._tokens -= count
        return wait

    def complained(self, now: float) -> bool:
        """A server said that it is too fast; true when the rate has changed."""
        if now < self._stepped + STEP_S:
            return False
        fast = self.rate or self._done / max(1.0, now - self._began)
        self._goal = self._goal or fast
        self.rate = max(FLOOR, min(fast / 2, self.limit or fast))
        self._stepped = now
        return True

    def content(self, now: float) -> bool:
        """A server had nothing to say against it; true when the rate has changed."""
        if self.rate == self.limit or now < self._stepped + STEP_S:
            return False
        self.rate *= GROWTH
        if self.rate >= self._goal:
            self.rate = self._goal = self.limit
        self._stepped = now
        return True

    def _observe(self, count: int, now: float) -> None:
        age = now - self._began
        if age > 2 * OBSERVED_S:
            self._began, self._done = now, 0.0
        elif age > OBSERVED_S:
            self._began, self._done = self._began + age / 2, self._done / 2
        self._done += count


class Pace:
    """The throttles of one provider: of its new connections, and of its recipients."""

    __slots__ = ("connections", "recipients")

    def __init__(self, policy: ProviderPolicy) -> None:
        self.connections = Throttle(policy.connections_per_s)
        self.recipients = Throttle(policy.recipients_per_s)

    @property
    def blank(self) -> bool:
        """Nothing is held back."""
        return not (self.connections.rate or self.recipients.rate)
