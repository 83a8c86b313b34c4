"""Metrics are declared once, documented, and read at the scrape where that is what tells the truth."""

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from streams.metrics import Metrics

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_document_is_up_to_date() -> None:
    assert Metrics(CollectorRegistry()).document() == DOCUMENT.read_text(), "run python -m streams.metrics"


def test_every_metric_has_a_help_text_base_units_and_our_prefix() -> None:
    families = list(Metrics(CollectorRegistry()).registry.collect())
    assert families
    for family in families:
        assert family.name.startswith("mailvet_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_ms", "_milliseconds", "_kb"))


def test_gauges_that_are_read_at_the_scrape_ask_all_their_sources() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.table_rows.read(lambda: {("ledger",): 2.0})
    metrics.table_rows.read(lambda: {("progress",): 3.0})
    text = generate_latest(metrics.registry).decode()
    assert 'mailvet_table_rows{table="ledger"} 2.0' in text
    assert 'mailvet_table_rows{table="progress"} 3.0' in text
