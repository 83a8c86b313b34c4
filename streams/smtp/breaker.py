"""When a host or a provider that fails is left alone, and when it is tried again: pure decisions.

A breaker is closed while dials succeed. After so many failures it opens: nobody dials for a while, which doubles with
each failure that follows (with jitter, so that workers do not come back together). Then it is half open: one caller
may try, the others are sent on. Success closes it.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from schemas.vocabulary import Stage
from streams.smtp.errors import DialAttempt, DialFailure
from streams.smtp.hosts import Host
from streams.smtp.policy import ProviderPolicy
from streams.smtp.replies import Reply
from streams.smtp.window import ErrorWindow

MAX_HOSTS = 1000
"""Failing hosts of one provider that are remembered; the oldest are forgotten first."""

PROVIDER_FACTOR = 2
"""Customers of one provider have hosts of their own, some of them dead: it takes more hosts to call a provider down."""

JITTER = 0.2
"""The part of a wait that chance may take away."""


class BreakerState(StrEnum):
    """Whether a dial is allowed."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class Breaker:
    """One breaker. ``culprits`` are what failed since the last success: the provider's counts each host once."""

    threshold: int
    base_s: float
    max_s: float
    culprits: set[Hashable] = field(default_factory=set)
    opened: int = 0
    retry_at: float = 0.0
    trying: bool = False
    told: BreakerState = BreakerState.CLOSED
    """The state that was told of last."""

    def state(self, now: float) -> BreakerState:
        """At this moment; "half open" as soon as one caller may try, or does."""
        if not self.opened:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self.trying or now >= self.retry_at else BreakerState.OPEN

    def allows(self, now: float) -> bool:
        """True when a caller may dial now; while half open, one does and must report what became of it."""
        state = self.state(now)
        if state is BreakerState.HALF_OPEN and not self.trying:
            self.trying = True
            return True
        return state is BreakerState.CLOSED

    def failed(self, culprit: Hashable, now: float, chance: float) -> None:
        """A dial failed. ``chance``: a random number of 0 to 1."""
        self.culprits.add(culprit)
        if self.trying or (not self.opened and len(self.culprits) >= self.threshold):
            wait = min(self.base_s * 2**self.opened, self.max_s)
            self.opened += 1
            self.trying = False
            self.retry_at = now + wait * (1 - JITTER * chance)

    def abandoned(self) -> None:
        """A caller went away before anything was learned: another one may try."""
        self.trying = False


Change = tuple[Host | None, BreakerState]
"""Whose breaker (None: the provider's) is now what."""


class Health:
    """The breakers of one provider and of its hosts. Hosts that never failed have none."""

    __slots__ = ("_last", "_policy", "_serial", "_verdict", "block", "changes", "hosts", "provider", "window")

    def __init__(self, policy: ProviderPolicy) -> None:
        self._policy = policy
        self.provider = self._breaker(PROVIDER_FACTOR)
        self.hosts: OrderedDict[Host, Breaker] = OrderedDict()
        self._last: dict[Host, DialAttempt] = {}
        self._serial = 0
        self.window = ErrorWindow()
        self.block = self._blocks()
        """Open while our address is believed to be blocked; its culprits are the domains that said so."""
        self._verdict: tuple[Stage, Reply] | None = None
        self.changes: list[Change] = []
        """What became of breakers; whoever tells of it empties the list."""

    @property
    def blank(self) -> bool:
        """Nothing has failed of late."""
        return not self.hosts and not (self.provider.culprits or self.block.culprits) and self.window.clean

    # A block of our own address

    def blocked(self, domain: str, stage: Stage, reply: Reply, now: float, chance: float) -> bool:
        """``domain`` reports that our address is blocked; true when that makes it believed, or believed again."""
        before = self.block.opened
        self.block.failed(domain, now, chance)
        if self.block.opened > before:
            self._verdict = stage, reply
        return self.block.opened > before

    def served(self) -> bool:
        """The provider spoke of a mailbox, so it does not block us; true when a block was believed until now."""
        believed = bool(self.block.opened)
        if self.block.culprits:
            self.block = self._blocks()
        return believed

    def barred(self, host: Host, now: float) -> DialAttempt | None:
        """None: a session may be had, and while half open its holder is the one that tries. Else what to tell."""
        if self._verdict is None or self.block.allows(now):
            return None
        stage, reply = self._verdict
        wait = max(0.0, self.block.retry_at - now)
        return DialAttempt(
            host, stage, reply, detail=f"our address is blocked; not asked again for {wait:.0f} s", old=True
        )

    def _blocks(self) -> Breaker:
        return Breaker(self._policy.block_domains, self._policy.block_base_s, self._policy.block_max_s)

    def retry_at(self, host: Host) -> float:
        """When a host that is left alone may be dialled again."""
        own = self.hosts.get(host)
        return max(self.provider.retry_at, own.retry_at if own is not None else 0.0)

    def left_alone(self, now: float) -> int:
        """Hosts whose breaker is not closed."""
        return sum(breaker.state(now) is not BreakerState.CLOSED for breaker in self.hosts.values())

    def spared(self, host: Host, now: float) -> DialAttempt | None:
        """None: dial, and report. Else what to tell in place of a dial: the last failure, and that it is an old one."""
        breaker = self.hosts.get(host)
        if breaker is not None and not breaker.allows(now):
            return self._old(host, breaker, now)
        if not self.provider.allows(now):
            if breaker is not None:
                breaker.abandoned()
            return self._old(host, self.provider, now)
        self._tell_of(host, now, BreakerState.HALF_OPEN)
        return None

    def succeeded(self, host: Host) -> None:
        """The host is well, and so its provider is not down."""
        own = self.hosts.pop(host, None)
        self._last.pop(host, None)
        if own is not None and own.opened:
            self.changes.append((host, BreakerState.CLOSED))
        if self.provider.opened:
            self.changes.append((None, BreakerState.CLOSED))
        self.provider = self._breaker(PROVIDER_FACTOR)

    def failed(self, attempt: DialAttempt, now: float, chance: float) -> None:
        """The host failed."""
        host = attempt.host
        self._serial += 1  # tells one failure from another: a host's own breaker counts each
        self.hosts.setdefault(host, self._breaker()).failed(self._serial, now, chance)
        self.provider.failed(host, now, chance)
        self._last[host] = attempt
        self._tell_of(host, now, BreakerState.OPEN)
        if len(self.hosts) > MAX_HOSTS:
            oldest, _ = self.hosts.popitem(last=False)
            self._last.pop(oldest, None)

    def abandoned(self, host: Host) -> None:
        """The caller went away in mid-dial."""
        self.provider.abandoned()
        if (breaker := self.hosts.get(host)) is not None:
            breaker.abandoned()

    def _tell_of(self, host: Host, now: float, state: BreakerState) -> None:
        """Those of the two breakers of a dial that have come into ``state`` by it."""
        own = self.hosts.get(host)
        for name, breaker in ((host, own), (None, self.provider)):
            if breaker is not None and breaker.told is not state and breaker.state(now) is state:
                breaker.told = state
                self.changes.append((name, state))

    def _old(self, host: Host, breaker: Breaker, now: float) -> DialAttempt:
        last = self._last.get(host) or DialAttempt(
            host, Stage.CONNECT, failure=DialFailure.CONNECT, detail="other hosts of its provider failed"
        )
        wait = f"not dialled again for {max(0.0, breaker.retry_at - now):.1f} s"
        return replace(last, detail=f"{last.detail}; {wait}" if last.detail else wait, old=True)

    def _breaker(self, factor: int = 1) -> Breaker:
        policy = self._policy
        return Breaker(factor * policy.breaker_failures, policy.breaker_base_s, policy.breaker_max_s)
