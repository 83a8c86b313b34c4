"""The benchmark runs, and every verdict is right; how fast is not asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ops.bench import contest
from ops.bench.contest import Contestant, ContestError, run, running_sink
from ops.bench.lists import LISTS, exists
from ops.bench.pools import compare
from ops.bench.postfix import measure_on_postfix
from ops.bench.run import tarpits
from ops.bench.sink import SinkConfig
from ops.brokers.base import Broker
from ops.mta.postfix import Postfix
from streams.installed import ROLES

PARTS = ("alone", "beside the flood")


def test_the_command_measures_a_list_and_writes_a_page(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    command = [sys.executable, "-m", "ops.cli.main", "bench", "engine", "--quick", "--json", "--list", "A"]
    done = subprocess.run(
        [*command, "--seconds", "0.1", "--rtt-ms", "5", "--write", str(page)],
        capture_output=True,
        timeout=120,
        check=True,
    )
    [measured] = json.loads(done.stdout)["measures"]
    assert measured["right_share"] == 1
    assert measured["sink"]["late_replies"] == 0
    assert measured["sink"]["dns_queries"] <= 200 * measured["addresses"] / LISTS["A"].size
    assert "| A | mailvet |" in page.read_text(encoding="utf-8")


def test_a_short_soak_loses_nothing_and_tells_what_each_role_holds(broker: Broker) -> None:
    """Too short to show whether memory grows: `make soak` does."""
    options = ["--addresses", "2000", "--tenants", "4", "--no-greylisting", "--growth", "100"]
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli.main", "bench", "soak", "--json", "--bootstrap", broker.bootstrap, *options],
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert (report["addresses"], report["lost"], report["wrong"]) == (2000, 0, {})
    assert [each["name"] for each in report["roles"]] == list(ROLES)
    assert all(each["at_tenth"] > 0 for each in report["roles"])


def test_a_contestant_that_says_yes_to_all_is_half_right() -> None:
    script = "import sys; a = sys.stdin.read().split(); print('ready'); [print(f'{x}\\tdeliverable') for x in a]"
    addresses = LISTS["A"].one_pass(0)
    with running_sink(SinkConfig(hosts=1)) as sink:
        seen = run(Contestant("yes", (sys.executable, "-c", script), (1,)), sink, "A", addresses, 1)
    assert seen.right == sum(map(exists, addresses)) == len(addresses) / 2
    assert 1 < seen.rss_mb < 30, "its own memory, not that of who started it"


@pytest.mark.parametrize("script", ["input()", "print('ready', flush=True); input()"], ids=["at once", "later"])
def test_a_contestant_that_hangs_is_ended(script, monkeypatch) -> None:
    monkeypatch.setattr(contest, "PATIENCE_S", 0.5)
    command = (sys.executable, "-c", f"import time; {script}; time.sleep(60)")
    with running_sink(SinkConfig(hosts=1)) as sink, pytest.raises(ContestError, match=r"ready|exit code -9"):
        run(Contestant("slow", command, (1,)), sink, "A", ["a@x.test"], 1)


def test_both_pools_ask_everybody_and_leave_nothing_open() -> None:
    with running_sink(SinkConfig(hosts=1)) as sink:
        rates = compare(sink, 400, workers=8)
    assert rates.leaked == 0
    assert min(rates.synchronous, rates.asynchronous) > 0


def test_tarpits_hold_a_session_each() -> None:
    seen = tarpits(20, deadline_s=2.0)
    # The impossible recipient of each domain rides in the same write.
    assert (seen.sink["connections"], seen.sink["recipients"], seen.right) == (20, 40, 0)


def test_list_b_on_real_postfix_is_right_over_few_connections(start_mta) -> None:
    start_mta(Postfix).stop()  # it is to be had
    runs = measure_on_postfix([], 0.1, 0.01, lambda _: None, sweep=(2000,))
    assert [each.right_share for each in runs.measures] == [1.0, 1.0]
    assert all(each.sink["refused"] >= each.addresses / 2 for each in runs.measures)
    assert all(each.sink["connections"] < each.sink["recipients"] / 5 for each in runs.measures)


def test_ten_tenants_share_a_worker_and_only_the_flood_is_refused() -> None:
    command = [sys.executable, "-m", "ops.cli.main", "bench", "fairness", "--seconds", "2", "--in-flight", "1000"]
    done = subprocess.run([*command, "--json"], capture_output=True, timeout=280, check=True)
    lines = {(line["part"], line["tenant"]): line for line in json.loads(done.stdout)}
    alone, beside = ({tenant: line for (part, tenant), line in lines.items() if part == which} for which in PARTS)
    assert (len(alone), len(beside)) == (9, 10)
    assert beside["flood"]["refused"] > 0
    for line in (*alone.values(), *beside.values()):
        assert line["requests"] == line["answered"] + line["refused"] > 0
        assert line["tenant"] == "flood" or line["refused"] == 0
    assert abs(sum(line["share"] for line in beside.values()) - 1) < 0.001
