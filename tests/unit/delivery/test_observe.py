"""What the pool tells becomes metrics."""

from prometheus_client import CollectorRegistry, generate_latest

from streams.metrics import Metrics
from streams.observe import PoolObserver
from streams.smtp.breaker import BreakerState
from streams.smtp.hosts import Host
from streams.smtp.lifecycle import Event, Kind, Life, Notice, ProviderView, Snapshot, WayView
from streams.smtp.window import ErrorRate

HOST = Host("mx.test", "192.0.2.1")


def scraped(observer: PoolObserver, metrics: Metrics, seen: Snapshot) -> str:
    observer.read(lambda: seen)
    return generate_latest(metrics.registry).decode()


def test_an_idle_pool_shows_zero_for_each_state() -> None:
    metrics = Metrics(CollectorRegistry())
    text = scraped(PoolObserver(metrics), metrics, Snapshot(0.0, 10, {}, 0, {}, (), {}))
    for state in ("dialling", "greeting", "ready", "busy", "idle", "draining"):
        assert f'mailvet_smtp_sessions{{state="{state}"}} 0.0' in text
    assert 'mailvet_smtp_breakers{state="open"} 0.0' in text
    assert "mailvet_smtp_error_ratio 0.0" in text


def test_what_the_snapshot_says() -> None:
    metrics = Metrics(CollectorRegistry())
    view = ProviderView(4, {Life.BUSY: 2}, 3, BreakerState.OPEN, 1, ErrorRate(8, 2), block=BreakerState.OPEN)
    text = scraped(PoolObserver(metrics), metrics, Snapshot(0.0, 10, {Life.BUSY: 2}, 3, {"p": view}, (), {}))
    assert 'mailvet_smtp_sessions{state="busy"} 2.0' in text
    assert 'mailvet_smtp_breakers{state="open"} 1.0' in text
    assert "mailvet_smtp_error_ratio 0.25" in text
    assert "mailvet_smtp_waiters 3.0" in text
    assert "mailvet_smtp_blocked_providers 1.0" in text


def test_every_way_out_is_shown() -> None:
    metrics = Metrics(CollectorRegistry())
    ways = {"": WayView(2, BreakerState.CLOSED, 1), "eu-2": WayView(0, BreakerState.HALF_OPEN, 0)}
    text = scraped(PoolObserver(metrics), metrics, Snapshot(0.0, 10, {}, 0, {}, (), {}, ways))
    for line in (
        'smtp_way_sessions{way="default"} 2.0',
        'smtp_way_up{way="default"} 1.0',
        'smtp_way_up{way="eu-2"} 0.0',
        'smtp_way_blocked_providers{way="default"} 1.0',
    ):
        assert line in text


def test_what_happens_is_counted() -> None:
    metrics = Metrics(CollectorRegistry())
    observer = PoolObserver(metrics)
    observer.on_event(Event(0.0, "p", HOST, Life.BUSY, Life.IDLE, "given back"))
    for kind, outcome, host in (
        (Kind.WAIT, "in vain", None),
        (Kind.DIAL, "4xx", HOST),
        (Kind.HEALTH_CHECK, "alive", HOST),
        (Kind.BREAKER, "open", HOST),
        (Kind.BREAKER, "open", None),
        (Kind.PACE, "recipients slower", HOST),
        (Kind.BLOCK, "believed", None),
        (Kind.WAY, "taken", None),
    ):
        observer.on_notice(Notice(0.0, kind, "p", outcome, host, 0.5, "eu-1"))
    text = generate_latest(metrics.registry).decode()
    for line in (
        'smtp_events_total{event="idle"} 1.0',
        'smtp_wait_seconds_sum{outcome="in_vain"} 0.5',
        'smtp_dial_seconds_count{outcome="4xx"} 1.0',
        'smtp_way_dials_total{outcome="4xx",way="eu-1"} 1.0',
        'smtp_way_changes_total{change="taken",way="eu-1"} 1.0',
        'smtp_pace_changes_total{change="recipients_slower"} 1.0',
        'smtp_blocks_total{outcome="believed"} 1.0',
        'smtp_health_checks_total{outcome="alive"} 1.0',
        'smtp_breaker_changes_total{scope="host",state="open"} 1.0',
        'smtp_breaker_changes_total{scope="provider",state="open"} 1.0',
    ):
        assert line in text
