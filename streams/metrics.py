"""Every metric, declared once. Base units, bounded labels: never an address, a key or a server's text; a
tenant only as :meth:`Metrics.tenant` names it.

``docs/metrics.md`` is written from here: ``python -m streams.metrics > docs/metrics.md``.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from schemas.pipeline import DeadLetter

OTHER = "other"
"""The label of tenants beyond the first that a process met. Where a tenant has this name, the two are one series."""

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 10800)
"""Seconds; the long tail is the retry tiers."""

DIALOGUE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

REASONS: Final = get_args(DeadLetter.model_fields["reason"].annotation)
"""Why a record can be a dead letter."""

_TOPIC = ("role", "topic")

Labels = tuple[str, ...]
Snapshot = Callable[[], Mapping[Labels, float]]
"""Read when Prometheus scrapes: label values to value."""


class Metrics:
    """The metrics of one process, registered in ``registry``."""

    def __init__(self, registry: CollectorRegistry, *, tenants: int = 100) -> None:  # noqa: PLR0915  a list
        """``tenants``: how many have a label of their own."""
        self.registry = registry
        self._tenants: set[str] = set()
        self._most_tenants = tenants

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mailvet_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"mailvet_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = LATENCY_BUCKETS) -> Histogram:
            return Histogram(f"mailvet_{name}", text, labels, registry=registry, buckets=buckets)

        # Records: what every role does with Kafka
        self.records_in = counter("records_in", "Records that a role began to work on.", "role", "topic")
        self.records_out = counter("records_out", "Records that the broker has confirmed.", "role", "topic")
        self.dead_letters = counter("dead_letters", "Records that could not be used.", "role", "reason")
        self.record_seconds = histogram("record_seconds", "From reading a record to its end.", "role", "topic")
        self.records_in_flight = gauge("records_in_flight", "Records being worked on.", "role", "topic")
        self.outdated_changes = counter(
            "outdated_changes",
            "Changes of rows left out of a recovery: their writer had lost the partition, by a pause or a network.",
            "table",
        )
        self.ready = gauge("ready", "1 when partitions are assigned and tables recovered.", "role")

        # Requests and verdicts: what clients see
        self.requests = counter("requests", "Decisions of admission: admitted, or the reason of a refusal.", "decision")
        self.cancels = counter("cancels", "Requests to cancel another one, by what became of them.", "outcome")
        self.authentications = counter(
            "authentications", "Credentials that were checked, by kind: accepted or refused.", "kind", "outcome"
        )
        self.key_commands = counter(
            "key_commands", "Commands on keys: applied, unchanged, or why refused.", "command", "outcome"
        )
        self.tenant_requests = counter(
            "tenant_requests", "Requests that were decided, by tenant: admitted or refused.", "tenant", "outcome"
        )
        self.tenant_addresses = counter(
            "tenant_addresses", "Verdicts of requests that have ended, by tenant.", "tenant", "verdict"
        )
        self.abuse_alarms = counter(
            "abuse_alarms", "Tenants that looked like harvesters: by unknown or dictionary.", "kind", "action"
        )
        self.verdicts = counter("verdicts", "Verdicts published, one an address.", "verdict", "reason")
        self.request_seconds = histogram("request_seconds", "From admission to the summary of a request.", "lane")
        self.address_seconds = histogram("address_seconds", "From admission to the verdict on an address.", "lane")
        self.retries = counter("retries", "Addresses that were sent to a retry tier.", "tier", "reason")
        self.tasks_put_aside = counter(
            "tasks_put_aside", "Tasks that waited too long for their provider's turn and come again later.", "lane"
        )
        self.addresses_in_flight = gauge("addresses_in_flight", "Addresses in dialogue or waiting for one.", "lane")

        self.opt_outs = gauge("opt_outs", "Domains on the do-not-probe list, as this worker knows it.")

        # SMTP and DNS
        self.smtp_dialogue_seconds = histogram(
            "smtp_dialogue_seconds", "One pipelined write to its last reply.", buckets=DIALOGUE_BUCKETS
        )
        self.smtp_replies = counter(
            "smtp_replies", "Replies by stage and class: 2xx to 5xx, or none.", "stage", "class"
        )
        self.smtp_events = counter("smtp_events", "What happened to sessions: opened, reused, closed, ...", "event")
        self.smtp_wait_seconds = histogram(
            "smtp_wait_seconds", "Waiting for a session, where one had to.", "outcome", buckets=DIALOGUE_BUCKETS
        )
        self.smtp_dial_seconds = histogram(
            "smtp_dial_seconds", "From a dial to the session or its failure.", "outcome", buckets=DIALOGUE_BUCKETS
        )
        self.smtp_health_checks = counter("smtp_health_checks", "What the pool asked for itself.", "outcome")
        self.smtp_blocks = counter("smtp_blocks", "Blocks of our own address that were believed or lifted.", "outcome")
        self.smtp_pace_changes = counter("smtp_pace_changes", "Providers that are asked slower or faster.", "change")
        self.smtp_breaker_changes = counter(
            "smtp_breaker_changes", "Breakers that came into a state; of a provider or a host.", "scope", "state"
        )
        self.smtp_way_dials = counter(
            "smtp_way_dials", "Dials by our way out and what became of them.", "way", "outcome"
        )
        self.smtp_way_changes = counter(
            "smtp_way_changes", "Ways out that went down, came up, or were taken in place of another.", "way", "change"
        )
        self.dns_queries = counter("dns_queries", "Queries that were not answered from the cache.", "outcome")
        self.dns_seconds = histogram("dns_seconds", "Looking up where a domain's mail goes.", buckets=DIALOGUE_BUCKETS)

        # Read at the scrape, so that a worker that is stuck shows what it is stuck on
        self.oldest_unacked_seconds = _AtScrape(
            "oldest_unacked_seconds", "Age of the oldest record that is not acknowledged.", ("role", "topic"), registry
        )
        self.unacked_span = _AtScrape(
            "unacked_span",
            "Records of a partition from the oldest that is not acknowledged to the newest; of the widest partition.",
            ("role", "topic"),
            registry,
        )
        self.smtp_sessions = _AtScrape("smtp_sessions", "Sessions of the pool, by state.", ("state",), registry)
        self.smtp_breakers = _AtScrape("smtp_breakers", "Breakers of providers, by state.", ("state",), registry)
        self.smtp_blocked_providers = _AtScrape(
            "smtp_blocked_providers", "Providers that are believed to block our address.", (), registry
        )
        self.smtp_error_ratio = _AtScrape(
            "smtp_error_ratio", "Of the last minute's dials and asks, the part that did not end well.", (), registry
        )
        self.smtp_way_sessions = _AtScrape("smtp_way_sessions", "Sessions of the pool, by way out.", ("way",), registry)
        self.smtp_way_up = _AtScrape(
            "smtp_way_up", "0 while a way out is left alone: its proxy or its source address fails.", ("way",), registry
        )
        self.smtp_way_blocked_providers = _AtScrape(
            "smtp_way_blocked_providers", "Providers that are believed to block a way out.", ("way",), registry
        )
        self.smtp_waiters = _AtScrape("smtp_waiters", "Callers that wait for a session.", (), registry)
        self.dead_letter_share = _AtScrape(
            "dead_letter_share", "Of the records of five minutes, the part that was not usable.", _TOPIC, registry
        )
        self.dead_letters_over_limit = _AtScrape(
            "dead_letters_over_limit", "1 while that part is above MAILVET_DEAD_LETTER_LIMIT.", _TOPIC, registry
        )
        self.read_age_seconds = _AtScrape(
            "read_age_seconds", "Age of the oldest record of five minutes when it was read.", _TOPIC, registry
        )
        self.decisions_kept_seconds = _AtScrape(
            "decisions_kept_seconds", "How long a repeat is known as one (MAILVET_DECISIONS_KEPT).", (), registry
        )
        self.table_rows = _AtScrape("table_rows", "Rows of the tables that this worker holds.", ("table",), registry)
        self.standby_rows = _AtScrape(
            "standby_rows", "Rows of other workers' partitions that this one keeps at hand.", ("table",), registry
        )
        self.standby_behind = _AtScrape(
            "standby_behind", "Changes of those rows that this worker has not read yet.", ("table",), registry
        )

    def expect_dead_letters(self, role: str) -> None:
        """Show 0 for every reason from the start: a counter that begins at 1 has never risen, as Prometheus sees it."""
        for reason in REASONS:
            self.dead_letters.labels(role, reason)

    def tenant(self, name: str) -> str:
        """The tenant as a label: its name while the process has met few of them, then :data:`OTHER`."""
        if name not in self._tenants:
            if len(self._tenants) >= self._most_tenants:
                return OTHER
            self._tenants.add(name)
        return name

    def document(self) -> str:
        """A Markdown page that lists every metric."""
        rows = [_row(metric) for metric in vars(self).values() if isinstance(metric, MetricWrapperBase | _AtScrape)]
        return "\n".join([*_HEADING, *sorted(rows), ""])


_HEADING = (
    "# Metrics",
    "",
    "Served at `/metrics`. Written by `python -m streams.metrics`; a test compares.",
    "",
    "| metric | type | labels | what it says |",
    "|---|---|---|---|",
)


class _AtScrape(Collector):
    """A gauge whose values are asked for when Prometheus scrapes."""

    def __init__(self, name: str, text: str, labels: Labels, registry: CollectorRegistry) -> None:
        self._name, self._text, self._labelnames = f"mailvet_{name}", text, labels
        self._sources: list[Snapshot] = []
        registry.register(self)

    def read(self, source: Snapshot) -> None:
        """Ask ``source`` too at every scrape."""
        self._sources.append(source)

    def describe(self) -> list[GaugeMetricFamily]:
        return [GaugeMetricFamily(self._name, self._text, labels=self._labelnames)]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        [family] = self.describe()
        for source in self._sources:
            for labels, value in source().items():
                family.add_metric(labels, value)
        yield family


def _row(metric: Any) -> str:
    [family] = metric.describe()
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    return f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


if __name__ == "__main__":
    print(Metrics(CollectorRegistry()).document(), end="")
