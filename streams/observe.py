"""What the pool tells, as metrics: the pool itself knows of none."""

from collections import Counter
from collections.abc import Callable

from streams.metrics import Labels, Metrics
from streams.smtp.breaker import BreakerState
from streams.smtp.lifecycle import Event, Kind, Life, Notice, Snapshot, WayView

DEFAULT_WAY = "default"
"""What the only way out is called where the operator has named none."""


class PoolObserver:
    """Counts what a pool tells of, and reads the rest from its snapshot at a scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._events = {life: metrics.smtp_events.labels(life) for life in Life}

    def on_event(self, event: Event) -> None:
        """A session of the pool is in another state."""
        self._events[event.after].inc()

    def on_notice(self, notice: Notice) -> None:
        """A wait, a dial, a health check, a breaker or a way out."""
        metrics = self._metrics
        match notice.kind:
            case Kind.WAIT:
                metrics.smtp_wait_seconds.labels(notice.outcome.replace(" ", "_")).observe(notice.seconds or 0.0)
            case Kind.DIAL:
                metrics.smtp_dial_seconds.labels(notice.outcome).observe(notice.seconds or 0.0)
                metrics.smtp_way_dials.labels(notice.way or DEFAULT_WAY, notice.outcome).inc()
            case Kind.WAY:
                metrics.smtp_way_changes.labels(notice.way, notice.outcome).inc()
            case Kind.HEALTH_CHECK:
                metrics.smtp_health_checks.labels(notice.outcome).inc()
            case Kind.BLOCK:
                metrics.smtp_blocks.labels(notice.outcome).inc()
            case Kind.PACE:
                metrics.smtp_pace_changes.labels(notice.outcome.replace(" ", "_")).inc()
            case _:
                scope = "provider" if notice.host is None else "host"
                metrics.smtp_breaker_changes.labels(scope, notice.outcome).inc()

    def read(self, snapshot: Callable[[], Snapshot]) -> None:
        """Ask the pool at every scrape; a state that nobody is in shows 0."""
        self._metrics.smtp_sessions.read(lambda: sessions(snapshot()))
        self._metrics.smtp_breakers.read(lambda: breakers(snapshot()))
        self._metrics.smtp_blocked_providers.read(lambda: {(): float(blocked(snapshot()))})
        self._metrics.smtp_error_ratio.read(lambda: {(): error_ratio(snapshot())})
        self._metrics.smtp_way_sessions.read(lambda: by_way(snapshot(), lambda way: way.sessions))
        self._metrics.smtp_way_up.read(lambda: by_way(snapshot(), lambda way: way.breaker is BreakerState.CLOSED))
        self._metrics.smtp_way_blocked_providers.read(lambda: by_way(snapshot(), lambda way: way.blocked))
        self._metrics.smtp_waiters.read(lambda: {(): float(snapshot().waiters)})


def sessions(seen: Snapshot) -> dict[Labels, float]:
    """By state; what is draining hears its last replies, and what is broken or closed stands in no snapshot."""
    shown = [life for life in Life if life not in (Life.BROKEN, Life.CLOSED)]
    return {(life,): float(seen.states.get(life, 0)) for life in shown}


def breakers(seen: Snapshot) -> dict[Labels, float]:
    """Providers by the state of their breaker; closed ones only while there is business with them."""
    counts = Counter(provider.breaker for provider in seen.providers.values())
    return {(state,): float(counts[state]) for state in BreakerState}


def blocked(seen: Snapshot) -> int:
    """Providers that block our address, as far as we believe, those included that are tried again."""
    return sum(provider.block is not BreakerState.CLOSED for provider in seen.providers.values())


def by_way(seen: Snapshot, value: Callable[[WayView], float]) -> dict[Labels, float]:
    """One number of each way out."""
    return {(name or DEFAULT_WAY,): float(value(way)) for name, way in seen.ways.items()}


def error_ratio(seen: Snapshot) -> float:
    """Over all providers of the snapshot."""
    rates = [provider.error_rate for provider in seen.providers.values()]
    operations = sum(rate.operations for rate in rates)
    return sum(rate.errors for rate in rates) / operations if operations else 0.0
