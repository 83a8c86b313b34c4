"""The life of a connection: states, the table of what may follow what, events, counters and the snapshot.

Every change goes through :meth:`Recorder.move`: what the table does not allow is a bug here and raises.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from streams.smtp.breaker import BreakerState
from streams.smtp.hosts import Host
from streams.smtp.window import ErrorRate

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Life(StrEnum):
    """Where a connection stands, seen from the pool."""

    DIALLING = "dialling"
    GREETING = "greeting"
    READY = "ready"
    BUSY = "busy"
    IDLE = "idle"
    DRAINING = "draining"
    BROKEN = "broken"
    CLOSED = "closed"


TRANSITIONS: Mapping[Life, Mapping[Life, str]] = MappingProxyType(
    {
        Life.DIALLING: MappingProxyType(
            {Life.GREETING: "the banner came", Life.BROKEN: "refused, silent or cancelled"}
        ),
        Life.GREETING: MappingProxyType(
            {
                Life.READY: "EHLO was answered",
                Life.DIALLING: "the next host, or the same without TLS",
                Life.BROKEN: "refused, silent or cancelled",
            }
        ),
        Life.READY: MappingProxyType({Life.BUSY: "leased", Life.DRAINING: "the pool was closed meanwhile"}),
        Life.BUSY: MappingProxyType(
            {
                Life.IDLE: "given back",
                Life.DRAINING: "stalled, spent or too old; or its last recipients are asked for, now or next",
                Life.BROKEN: "closed, silent or out of step",
            }
        ),
        Life.IDLE: MappingProxyType(
            {
                Life.BUSY: "leased again, or asked whether it lives",
                Life.DRAINING: "expired, evicted or too old",
                Life.BROKEN: "the server closed it",
            }
        ),
        Life.DRAINING: MappingProxyType(
            {Life.CLOSED: "QUIT, not waited for", Life.BROKEN: "closed, silent or out of step before the last reply"}
        ),
        Life.BROKEN: MappingProxyType({Life.CLOSED: "no QUIT"}),
        Life.CLOSED: MappingProxyType({}),
    }
)


class Event(NamedTuple):
    """One change of one connection. ``time`` is the pool's clock; ``host`` is None until one was dialled."""

    time: float
    provider: str
    host: Host | None
    before: Life | None
    after: Life
    cause: str
    way: str = ""
    """The name of the way out, where there are several; here and below."""


class Kind(StrEnum):
    """What a :class:`Notice` tells of."""

    WAIT = "wait"
    """A lease waited for a session; outcome "served" or "in vain"."""
    DIAL = "dial"
    """One host was dialled; outcome "ok", the reply's class ("4xx", "5xx") or the failure."""
    HEALTH_CHECK = "health_check"
    """The pool asked for itself; outcome "alive" or "dead" (NOOP), "recovered" or "down" (a dial)."""
    BLOCK = "block"
    """A block of our own address is "believed" (each time it is confirmed, too) or "lifted"; ``host`` is None."""
    PACE = "pace"
    """What is allowed a second has changed; outcome "connections slower", "recipients faster" and so on."""
    BREAKER = "breaker"
    """A breaker is in another state, the outcome; ``host`` is None for that of the provider."""
    WAY = "way"
    """``way`` is "down" (its proxy or its source address fails) or "up" again; or it was "taken" for ``provider`` in
    place of one that the network failed."""


class Notice(NamedTuple):
    """What happened to a provider, beside the changes of its connections. ``seconds``: how long it took, where told."""

    time: float
    kind: Kind
    provider: str
    outcome: str
    host: Host | None = None
    seconds: float | None = None
    way: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """One connection as :meth:`snapshot` shows it."""

    provider: str
    host: Host | None
    state: Life
    age_s: float
    uses: int
    errors_left: int | None
    way: str = ""


@dataclass(frozen=True, slots=True)
class ProviderView:
    """One provider: how many of its sessions are in which state, how many callers wait for one."""

    limit: int
    states: Mapping[Life, int]
    waiters: int
    breaker: BreakerState
    hosts_left_alone: int
    """Hosts whose own breaker is not closed."""
    error_rate: ErrorRate
    """Of the last minute."""
    connections_per_s: float = 0.0
    """New connections that are allowed now; 0: as many as are needed."""
    recipients_per_s: float = 0.0
    """RCPTs, likewise."""
    block: BreakerState = BreakerState.CLOSED
    """Open: our address is believed to be blocked, and nothing is asked."""


@dataclass(frozen=True, slots=True)
class WayView:
    """One way out."""

    sessions: int
    """Connections that are open, those that hear their last replies among them."""
    breaker: BreakerState
    """Of the way itself: open while its proxy or its source address fails."""
    blocked: int
    """Providers that are believed to block it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The pool at one moment; a copy, safe to keep."""

    time: float
    total: int
    states: Mapping[Life, int]
    waiters: int
    providers: Mapping[str, ProviderView]
    """Those with sessions or waiters, and those that are left alone; with several ways, ``provider via way``."""
    connections: tuple[ConnectionView, ...]
    counters: Mapping[str, int]
    """See :data:`COUNTERS`."""
    ways: Mapping[str, WayView] = field(default_factory=dict)
    """By name; "" is the only one of a pool that was given none."""

    @property
    def open(self) -> int:
        """Connections that count against :attr:`total`: those that hear their last replies, too."""
        return len(self.connections)

    @property
    def utilisation(self) -> float:
        """The part of ``total`` that is open, 0 to 1."""
        return self.open / self.total


COUNTERS: Mapping[str, str] = MappingProxyType(
    {
        "leases": "sessions given out",
        "reused": "of them, those that needed no dial",
        "waited": "leases that had to wait for a session",
        "wait_timeouts": "callers that gave up, or had to, before a session was free",
        "dials": "connections begun",
        "dials_failed": "of them, those that no host answered well",
        "dials_spared": "hosts that were not dialled because their breaker was open",
        "drained": "sessions that we ended",
        "parted": "of them, those that gave their place away before their last replies had come",
        "broken": "sessions that the server or the network ended",
        "checks": "health checks begun: NOOP on idle sessions, dials of hosts that were left alone",
    }
)
"""The counters of a snapshot; they only grow."""


@dataclass(slots=True)
class Recorder:
    """Tells of every change and counts. A callback that raises is logged and does no harm to the pool."""

    clock: Callable[[], float]
    on_event: Callable[[Event], None] | None = None
    on_notice: Callable[[Notice], None] | None = None
    lock: AbstractContextManager[object] = field(default_factory=nullcontext)
    """The pool's; a thread may hold it already."""
    counters: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTERS, 0)))

    def move(
        self, provider: str, host: Host | None, before: Life | None, after: Life, cause: str, *, way: str = ""
    ) -> Life:
        """``after``, when the table allows it after ``before`` (None: a new connection, which begins dialling)."""
        if after is not Life.DIALLING if before is None else after not in TRANSITIONS[before]:
            raise RuntimeError(f"a connection that is {before} can't become {after}")
        with self.lock:
            if after is Life.DRAINING:
                self.count("drained")
            elif after is Life.BROKEN and before in (Life.BUSY, Life.IDLE, Life.DRAINING):
                self.count("broken")
            _tell(self.on_event, lambda: Event(self.clock(), provider, host, before, after, cause, way))
        return after

    def notice(
        self,
        kind: Kind,
        provider: str,
        outcome: str,
        *,
        host: Host | None = None,
        seconds: float | None = None,
        way: str = "",
    ) -> None:
        """Tell of what is no change of a connection."""
        with self.lock:
            _tell(self.on_notice, lambda: Notice(self.clock(), kind, provider, outcome, host, seconds, way))

    def count(self, counter: str) -> None:
        """One more of ``counter``, which stands in :data:`COUNTERS`."""
        with self.lock:
            self.counters[counter] += 1


def _tell(observer: Callable[[T], None] | None, make: Callable[[], T]) -> None:
    if observer is None:
        return
    told = make()
    try:
        observer(told)
    except Exception:  # noqa: BLE001  # whatever an observer does
        _log.exception("an observer failed on %s", told)


def diagram() -> str:
    """The table as a mermaid state diagram; ``docs/pool.md`` holds it and a test compares."""
    lines = ["stateDiagram-v2", "    [*] --> dialling: lease"]
    lines += [f"    {before} --> {after}: {why}" for before, then in TRANSITIONS.items() for after, why in then.items()]
    return "\n".join([*lines, "    closed --> [*]"])
