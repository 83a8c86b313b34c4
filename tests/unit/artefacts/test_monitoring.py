"""Prometheus scrapes what there is, and the dashboard asks for metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from ops.grafana.dashboard import DATASOURCE, ROWS, dashboard, document
from streams.metrics import Metrics

ROOT = Path(__file__).resolve().parents[3]
PROMETHEUS = ROOT / "ops" / "prometheus" / "prometheus.yml"
ALERTS = ROOT / "ops" / "prometheus" / "alerts.yml"
ALERT_TESTS = Path(__file__).with_name("alerts_test.yml")
RUNBOOKS = ROOT / "docs" / "runbooks.md"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
GRAFANA = ROOT / "ops" / "grafana"
EXPRESSIONS = [query for _, panels in ROWS for panel in panels for query, _ in panel.queries]


def declared() -> dict[str, set[str]]:
    """Every series that a worker can show, with its labels."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", Metrics(CollectorRegistry()).document(), re.MULTILINE)
    series: dict[str, set[str]] = {}
    for name, kind, labels in rows:
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            series[name + suffix] = set(re.findall(r"`(\w+)`", labels))
    return series


def test_the_metrics_were_read() -> None:
    assert declared()["mailvet_verdicts_total"] == {"verdict", "reason"}
    assert "mailvet_address_seconds_bucket" in declared()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_panel_asks_for_a_metric_that_is_declared(expression: str) -> None:
    series = declared()
    asked = re.findall(r"\bmailvet_\w+", expression)
    assert asked
    for name in asked:
        assert name in series
    [labels] = re.findall(r"by \((.*?)\)", expression) or [""]
    grouped = {label.strip() for label in labels.split(",")} - {"le", ""}
    assert grouped <= set.union(*(series[name] for name in asked))


def test_the_dashboard_on_disk_is_the_declared_one() -> None:
    stored = (GRAFANA / "dashboards" / "mailvet.json").read_text()
    assert stored == document(), "run: python -m ops.grafana.dashboard > ops/grafana/dashboards/mailvet.json"


def test_panels_are_numbered_once_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for box in (panel["gridPos"] for panel in panels)
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_grafana_finds_the_datasource_and_the_dashboard() -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/mailvet.yml").read_text())["providers"]
    mounts = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    assert (source["type"], source["uid"]) == (DATASOURCE["type"], DATASOURCE["uid"])
    assert f"./ops/grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert json.loads(document())["panels"][1]["targets"][0]["datasource"]["uid"] == source["uid"]


def test_prometheus_scrapes_every_role() -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]}
    [discovery] = jobs["mailvet"]["dns_sd_configs"]
    assert set(discovery["names"]) == {"gate", "route", "probe", "retry", "completion"}
    assert discovery["port"] == 9464


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_takes_the_configuration_and_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    for command in (["promtool", "check", "config", PROMETHEUS], ["promtool", "check", "rules", file]):
        checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_asks_for_declared_metrics_and_has_its_runbook_and_tests(rule: dict[str, Any]) -> None:
    series = declared() | {"up": {"job", "instance"}}
    asked = re.findall(r"\b(?:mailvet_\w+|up)\b", rule["expr"].replace('job="mailvet"', ""))
    assert asked
    assert set(asked) <= series.keys()
    assert rule["labels"]["severity"] in {"warning", "critical"}
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert named <= set.union(*(series[name] for name in asked))
    page, anchor = rule["annotations"]["runbook_url"].split("#")
    assert ROOT / page == RUNBOOKS
    assert anchor == rule["alert"].lower()
    assert f"## {rule['alert']}\n" in RUNBOOKS.read_text()
    tested = [
        (bool(each["exp_alerts"]))
        for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"]
        for each in test["alert_rule_test"]
        if each["alertname"] == rule["alert"]
    ]
    assert (tested.count(True), tested.count(False) >= 3) == (1, True), "it fires, ends, and is silent without a cause"


def test_a_runbook_is_for_an_alert_and_prometheus_reads_the_rules() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.MULTILINE) == [rule["alert"] for rule in RULES]
    assert yaml.safe_load(PROMETHEUS.read_text())["rule_files"] == [ALERTS.name]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_alerts_fire_end_and_stay_silent(tmp_path: Path) -> None:
    file = tmp_path / "alerts_test.yml"
    file.write_text(ALERT_TESTS.read_text().replace("ALERTS", str(ALERTS)))
    for command in (["promtool", "check", "rules", ALERTS], ["promtool", "test", "rules", file]):
        checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
