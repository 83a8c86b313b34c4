"""The first dashboard, as a table of panels. ``python -m ops.grafana.dashboard`` prints the JSON that Grafana loads.

``ops/grafana/dashboards/mailvet.json`` is that output; a test compares them, and looks every metric up among those
that `streams.metrics` declares.
"""

import json
from dataclasses import dataclass
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "mailvet-prometheus"}
_COLUMNS = 24
_HEIGHT = 8


@dataclass(frozen=True, slots=True)
class Panel:
    """One time series panel. `unit` is Grafana's name of it; queries are (PromQL, legend)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    description: str = ""


def _quantiles(histogram: str, by: str = "") -> tuple[tuple[str, str], ...]:
    """The median and the 99th percentile of a histogram, by one label."""
    group, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    rate = f"sum by ({group}) (rate({histogram}_bucket[$__rate_interval]))"
    return tuple((f"histogram_quantile({q}, {rate})", f"p{q * 100:.0f}{legend}") for q in (0.5, 0.99))


def _rate(counter: str, by: str) -> tuple[tuple[str, str]]:
    labels = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return ((f"sum by ({by}) (rate({counter}[$__rate_interval]))", labels),)


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "What clients see",
        (
            Panel("Verdicts", "ops", _rate("mailvet_verdicts_total", "verdict")),
            Panel("Why unknown", "ops", ((
                'sum by (reason) (rate(mailvet_verdicts_total{verdict="unknown"}[$__rate_interval]))', "{{reason}}",
            ),)),
            Panel("Admission", "ops", _rate("mailvet_requests_total", "decision")),
            Panel("Address: admission to verdict", "s", _quantiles("mailvet_address_seconds", "lane")),
            Panel("Request: admission to summary", "s", _quantiles("mailvet_request_seconds", "lane")),
            Panel("Addresses in flight", "short", (("sum by (lane) (mailvet_addresses_in_flight)", "{{lane}}"),)),
        ),
    ),
    (
        "Kafka",
        (
            Panel("Records read", "ops", _rate("mailvet_records_in_total", "role, topic")),
            Panel("Records confirmed", "ops", _rate("mailvet_records_out_total", "role, topic")),
            Panel("Dead letters", "ops", _rate("mailvet_dead_letters_total", "role, reason")),
            Panel(
                "Oldest record not acknowledged", "s",
                (("max by (role, topic) (mailvet_oldest_unacked_seconds)", "{{role}} {{topic}}"),),
                "Grows without end when a worker is stuck.",
            ),
            Panel("Retries", "ops", _rate("mailvet_retries_total", "tier, reason")),
            Panel(
                "Ready workers", "short", (("sum by (role) (mailvet_ready)", "{{role}}"),),
                "Partitions assigned and tables recovered.",
            ),
        ),
    ),
    (
        "SMTP and DNS",
        (
            Panel("Sessions", "short", (("sum by (state) (mailvet_smtp_sessions)", "{{state}}"),)),
            Panel("Session events", "ops", _rate("mailvet_smtp_events_total", "event")),
            Panel("Replies", "ops", _rate("mailvet_smtp_replies_total", "stage, class")),
            Panel("SMTP round trip", "s", _quantiles("mailvet_smtp_dialogue_seconds")),
            Panel("Sessions by way out", "short", (("sum by (way) (mailvet_smtp_way_sessions)", "{{way}}"),)),
            Panel("Dials by way out", "ops", _rate("mailvet_smtp_way_dials_total", "way, outcome")),
            Panel(
                "Changes of ways out", "ops", _rate("mailvet_smtp_way_changes_total", "way, change"),
                "Down and up again, or taken in place of one that the network failed.",
            ),
            Panel("DNS queries", "ops", _rate("mailvet_dns_queries_total", "outcome")),
            Panel("DNS lookup", "s", _quantiles("mailvet_dns_seconds")),
        ),
    ),
)  # fmt: skip


def _panel(panel: Panel, number: int, x: int, y: int, width: int) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
        for index, (expression, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"h": _HEIGHT, "w": width, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def _panels(per_line: int = 3) -> list[dict[str, Any]]:
    """A heading for every row, its panels below, three in a line."""
    panels: list[dict[str, Any]] = []
    y, width = 0, _COLUMNS // per_line
    for title, row in ROWS:
        heading = {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": []}
        panels.append({**heading, "gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": y}})
        for index, panel in enumerate(row):
            line, column = divmod(index, per_line)
            panels.append(_panel(panel, len(panels) + 1, column * width, y + 1 + line * _HEIGHT, width))
        y += 1 + -(-len(row) // per_line) * _HEIGHT
    return panels


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana 10 and later load it (schema version 39)."""
    return {
        "uid": "mailvet",
        "title": "mailvet",
        "tags": ["mailvet"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "utc",
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": _panels(),
    }


def document() -> str:
    """The file that Grafana loads."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    print(document(), end="")
