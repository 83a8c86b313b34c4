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

from streams.smtp.breaker import BreakerState
from streams.smtp.hosts import Host

_log = logging.getLogger(__name__)


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
                Life.DRAINING: "stalled, spent or too old",
                Life.BROKEN: "closed, silent or out of step",
            }
        ),
        Life.IDLE: MappingProxyType(
            {
                Life.BUSY: "leased again",
                Life.DRAINING: "expired, evicted or too old",
                Life.BROKEN: "the server closed it",
            }
        ),
        Life.DRAINING: MappingProxyType({Life.CLOSED: "QUIT, not waited for"}),
        Life.BROKEN: MappingProxyType({Life.CLOSED: "no QUIT"}),
        Life.CLOSED: MappingProxyType({}),
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one connection. ``time`` is the pool's clock; ``host`` is None until one was dialled."""

    time: float
    provider: str
    host: Host | None
    before: Life | None
    after: Life
    cause: str


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """One connection as :meth:`snapshot` shows it."""

    provider: str
    host: Host | None
    state: Life
    age_s: float
    uses: int
    errors_left: int | None


@dataclass(frozen=True, slots=True)
class ProviderView:
    """One provider: how many of its sessions are in which state, how many callers wait for one."""

    limit: int
    states: Mapping[Life, int]
    waiters: int
    breaker: BreakerState
    hosts_left_alone: int
    """Hosts whose own breaker is not closed."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The pool at one moment; a copy, safe to keep."""

    time: float
    total: int
    states: Mapping[Life, int]
    waiters: int
    providers: Mapping[str, ProviderView]
    connections: tuple[ConnectionView, ...]
    counters: Mapping[str, int]
    """See :data:`COUNTERS`."""

    @property
    def open(self) -> int:
        """Connections that count against the limits."""
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
        "broken": "sessions that the server or the network ended",
    }
)
"""The counters of a snapshot; they only grow."""


@dataclass(slots=True)
class Recorder:
    """Tells of every change and counts. A callback that raises is logged and does no harm to the pool."""

    clock: Callable[[], float]
    on_event: Callable[[Event], None] | None = None
    lock: AbstractContextManager[object] = field(default_factory=nullcontext)
    """The pool's; a thread may hold it already."""
    counters: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTERS, 0)))

    def move(self, provider: str, host: Host | None, before: Life | None, after: Life, cause: str) -> Life:
        """``after``, when the table allows it after ``before`` (None: a new connection, which begins dialling)."""
        if after is not Life.DIALLING if before is None else after not in TRANSITIONS[before]:
            raise RuntimeError(f"a connection that is {before} can't become {after}")
        with self.lock:
            if after is Life.DRAINING:
                self.count("drained")
            elif after is Life.BROKEN and before in (Life.BUSY, Life.IDLE):
                self.count("broken")
            if self.on_event is not None:
                self._tell(Event(self.clock(), provider, host, before, after, cause))
        return after

    def count(self, counter: str) -> None:
        """One more of ``counter``, which stands in :data:`COUNTERS`."""
        with self.lock:
            self.counters[counter] += 1

    def _tell(self, event: Event) -> None:
        try:
            self.on_event(event)  # type: ignore[misc]  # move() has looked
        except Exception:  # noqa: BLE001  # whatever an observer does
            _log.exception("on_event failed on %s", event)


def diagram() -> str:
    """The table as a mermaid state diagram; ``docs/pool.md`` holds it and a test compares."""
    lines = ["stateDiagram-v2", "    [*] --> dialling: lease"]
    lines += [f"    {before} --> {after}: {why}" for before, then in TRANSITIONS.items() for after, why in then.items()]
    return "\n".join([*lines, "    closed --> [*]"])
