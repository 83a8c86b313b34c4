"""The page: ratios, goals reached and missed, limits."""

import math
from dataclasses import replace

import pytest

from ops.bench.contest import Measure
from ops.bench.limits import limit_rate
from ops.bench.lists import LISTS
from ops.bench.page import Goal, document, goals, table
from ops.bench.pools import PoolRates
from ops.bench.postfix import PostfixRuns
from ops.bench.run import Plan, Report


def seen(who: str, name: str, seconds: float, **sink: float) -> Measure:
    return Measure(who, name, 2000, 2000, 1990, seconds, 0.3, 60.0, sink)


def report() -> Report:
    return Report(
        Plan(peers=("aftership", "reacher")),
        "2 cores",
        "2030-01-02",
        measures=[seen("mailvet", "A", 1.0), seen("aftership", "A", 9.0), seen("reacher", "A", 20.0)],
        limits={"A": 4000.0},
        passes={"A": seen("mailvet", "A", 1.0, connections=200, reads=700, dns_queries=200)},
        alone={"mailvet": 0.32},
        pools=PoolRates(32, 1000.0, 400.0, 0),
    )


def test_the_ratio_is_against_the_better_peer_and_only_where_both_ran() -> None:
    assert report().ratio("A") == pytest.approx(9.0)
    assert report().ratio("Z") is None


def test_goals_are_reached_missed_or_not_measured() -> None:
    outcomes = {goal.what: goal.outcome for goal in goals(report())}
    assert outcomes["addresses/s on list A, by the better peer's"] == "must reached"
    assert outcomes["client writes for one pass of list A"] == "**missed**"
    assert outcomes["DNS queries for one pass of list A"] == "aim reached"
    assert outcomes["addresses/s on list Z, by the better peer's"] == "not measured"
    assert outcomes["synchronous pool, 32 threads, by the asynchronous one"] == "**missed**"
    assert Goal("x", "-", 4, 8, 8.0, at_most=False).outcome == "aim reached"


def test_postfix_is_judged_by_right_verdicts() -> None:
    made = report()
    late = {"late_replies": 7}
    hasty = Measure("reacher", "B on Postfix", 2000, 2000, 100, 1.0, 0.3, 60.0, late)
    steady = Measure("aftership", "B on Postfix", 100, 2000, 2000, 20.0, 0.3, 60.0, late)
    mine = Measure("mailvet, 4 sessions", "B on Postfix", 2000, 2000, 2000, 8.0, 0.3, 60.0, late)
    made.postfix = PostfixRuns({4: mine}, [hasty, steady])
    assert made.postfix.ratio(4) == pytest.approx(2.5)
    assert made.postfix.ratio(20) is None
    outcomes = {goal.what: goal.outcome for goal in goals(made)}
    assert outcomes["list B on real Postfix, 4 sessions a provider, by the better peer's"] == "must reached"
    assert outcomes["list B on real Postfix, 20 sessions a provider, by the better peer's"] == "not measured"
    assert "| B on Postfix | mailvet, 4 sessions | 2,000 | 250 |" in table(made)
    assert "held back for a second, reacher: 7." in document(made, "mailvet bench engine --postfix")
    assert "real Postfix with its default limits" in document(made, "mailvet bench engine --postfix")
    assert made.as_dict()["postfix"]["ratios"] == {4: pytest.approx(2.5)}


def test_the_page_says_how_it_was_made_and_every_run() -> None:
    page = document(report(), "mailvet bench engine")
    assert "`mailvet bench engine`" in page
    assert "2030-01-02" in page
    assert "| A | aftership | 2,000 | 221 |" in page
    assert "50%" in table(report())


def test_a_run_with_more_sessions_is_held_against_the_limit_of_those() -> None:
    made = report()
    made.plan = replace(made.plan, wide=40)
    made.measures.append(replace(seen("mailvet, 40 sessions", "A", 1.0), sessions=40))
    assert made.limit_of(made.measures[-1]) == pytest.approx(limit_rate(LISTS["A"], 0.05, 40))
    assert "| A | mailvet, 40 sessions | 2,000 | 1,990 | 0% |" in table(made)
    assert "grow to 16 (by default), and 40 from the start where that is said" in document(made, "mailvet bench engine")


def test_the_limit_is_that_of_sessions_and_errors() -> None:
    # 20 addresses a session (10 errors, half missing), 4 round trips of 50 ms each, 4 sessions: 400/s a provider.
    assert limit_rate(LISTS["A"], 0.05, 4) == pytest.approx(100 * 400)
    assert limit_rate(LISTS["B"], 0.05, 4) == pytest.approx(5 * 400)
    assert limit_rate(LISTS["A"], 0.0, 4) == math.inf
