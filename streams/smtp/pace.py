"""How fast a provider is asked: a rate that gives way when servers complain, and comes back step by step. Pure."""

from collections.abc import Callable

from streams.smtp.policy import ProviderPolicy

FLOOR = 0.2
"""A second, whatever a server says: one in five seconds."""

STEP_S = 5.0
"""Complaints that come together are one, and after each such time without one the rate grows."""

CEILING_S = 600.0
"""How long the number of sessions that was too many is not tried again."""

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

    def give_back(self, count: int) -> None:
        """Who could not wait did nothing: those who come later do not wait for it."""
        self._tokens += count

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


def nothing_kept_free(_: int) -> int:
    """Every caller may have all sessions."""
    return 0


class Breadth:
    """How many sessions a provider is asked over: more while it serves well, half when it complains.

    The growth is that of Postfix's scheduler: one more for as many good answers as there are sessions, and only while
    all of them are in use, so that nothing is believed which was not tried; but for those that callers keep free for
    others (``kept_free``, of a number of sessions), who may never come.
    """

    __slots__ = ("_ceiling", "_ceiling_until", "_kept_free", "_least", "_most", "_width", "used")

    def __init__(self, least: int, most: int, kept_free: Callable[[int], int] = nothing_kept_free) -> None:
        self._least = least
        self._most = max(least, most)
        self._width = float(least)
        self._ceiling = self._most
        self._ceiling_until = float("-inf")
        self._kept_free = kept_free
        self.used = 0
        """Sessions that are open; the books say."""

    @property
    def limit(self) -> int:
        """Sessions that may be open now."""
        return int(self._width)

    @property
    def blank(self) -> bool:
        """It is what it was at first."""
        return self._width == self._least

    def content(self, now: float) -> bool:
        """A write was answered well; true when there may be one more session now."""
        if self._width >= self._most or self.used < self.limit - self._kept_free(self.limit):
            return False
        ceiling = self._ceiling if now < self._ceiling_until else self._most
        before = self.limit
        self._width = min(float(ceiling), self._width + 1 / self._width)
        return self.limit > before

    def complained(self, now: float) -> bool:
        """A server said that we are too many; true when there may be fewer now. What was too many is not tried soon."""
        if now < self._ceiling_until - CEILING_S + STEP_S:
            return False
        before = self.limit
        self._ceiling, self._ceiling_until = max(1, before - 1), now + CEILING_S
        self._width = max(1.0, before // 2)
        return self.limit < before


SLOW_S = 5.0
"""So much later than as a rule is late; less may be our own doing, since a loop that is busy reads late."""

SLOW_FACTOR = 4.0
OF_LATE = 1 / 4
AS_A_RULE = 1 / 64
"""The part that one reply has in each mean: what is slow for long becomes the rule, and is complained of no more."""


class Latency:
    """How long a provider takes to its first reply, of late and as a rule, and to the last of a write; seconds."""

    __slots__ = ("late", "round_trip", "rule", "whole")

    def __init__(self) -> None:
        self.late: float | None = None
        self.rule = 0.0
        self.whole: float | None = None
        """Never less than the last write took, since a mean would be too short every other time."""
        self.round_trip = float("inf")
        """The quickest step of a dial, of late: hardly ever too short, but for the nearest of several hosts."""

    @property
    def leave_s(self) -> float:
        """When the place of a session that has one more write before it can go to another, from the write before on.

        The next session is with the server when its handshake is over, one and a half round trips from there; QUIT
        will be half a round trip after the last reply, and half a round trip before that. But the server reads it when
        it is done with the recipients before it, which take as long as these: where that is more than half a round
        trip, these are answered first, and nobody leaves.
        """
        if self.whole is None:
            return float("inf")
        return self.whole + max(0.0, self.whole - self.round_trip) - self.round_trip / 2

    def dialled(self, seconds: float) -> None:
        """Note how long the quickest step of a dial took."""
        longer = seconds > self.round_trip
        self.round_trip = self.round_trip + (seconds - self.round_trip) * AS_A_RULE if longer else seconds

    def answered(self, seconds: float) -> None:
        """Note when the last reply to a write had come."""
        before = seconds if self.whole is None else self.whole
        self.whole = max(seconds, before + (seconds - before) * OF_LATE)

    def slow(self, seconds: float) -> bool:
        """Note one reply; true when the provider is much slower of late than as a rule."""
        if self.late is None:
            self.late = self.rule = seconds
            return False
        self.late += (seconds - self.late) * OF_LATE
        self.rule += (seconds - self.rule) * (AS_A_RULE if seconds > self.rule else OF_LATE)
        return self.late > self.rule * SLOW_FACTOR and self.late > self.rule + SLOW_S


class Pace:
    """What one provider bears: new connections and recipients a second, sessions at a time. And how fast it answers."""

    __slots__ = ("connections", "latency", "recipients", "sessions")

    def __init__(self, policy: ProviderPolicy, kept_free: Callable[[int], int] = nothing_kept_free) -> None:
        self.connections = Throttle(policy.connections_per_s)
        self.recipients = Throttle(policy.recipients_per_s)
        self.sessions = Breadth(policy.sessions, policy.sessions_max, kept_free)
        self.latency = Latency()

    def judge(self, now: float, *, told_off: bool, stalled: bool, ended: object, slow: bool = False) -> list[str]:
        """An exchange is over: what changes. ``told_off``: by 421 at once; ``slow``: it was answered late; ``ended``:
        true where the session is too."""
        changes = []
        if told_off or slow or stalled:
            # A stall has made the next writes smaller already, and comes of errors, not of sessions.
            too_much = told_off or slow
            if (too_much or self.recipients.rate) and self.recipients.complained(now):
                changes.append("recipients slower")
            if too_much and self.sessions.complained(now):
                changes.append("sessions fewer")
        elif not ended:
            if self.recipients.content(now):
                changes.append("recipients faster")
            if self.sessions.content(now):
                changes.append("sessions more")
        return changes

    @property
    def blank(self) -> bool:
        """Nothing is held back, and nothing was learned."""
        return not (self.connections.rate or self.recipients.rate) and self.sessions.blank
