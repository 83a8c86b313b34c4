"""How long a contestant runs, and at which number of addresses in flight."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from ops.bench import contest as bench
from ops.bench.contest import Contestant, ContestError, Measure, RunningSink, contest
from ops.bench.lists import LISTS

ROWS = LISTS["A"]
SECONDS = 30.0

Run = tuple[int, int]
"""Addresses in flight, and passes."""


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Measure, list[Run], list[str]]]:
    """A contest whose runs take as many seconds as ``took(in flight, passes)`` says: its outcome, and what was run."""

    def hold(
        took: Callable[[int, int], float], *sweep: int, first_pass: int = 0
    ) -> tuple[Measure, list[Run], list[str]]:
        runs: list[Run] = []
        asked: list[str] = []

        def run(who: Contestant, _: RunningSink, name: str, addresses: Sequence[str], in_flight: int) -> Measure:
            asked.extend(addresses)
            runs.append((in_flight, len(addresses) // ROWS.size))
            count = len(addresses)
            return Measure(who.name, name, in_flight, count, count, took(*runs[-1]), 1.0, 1.0)

        monkeypatch.setattr(bench, "run", run)
        sink = RunningSink.__new__(RunningSink)  # nobody talks to it
        return contest(Contestant("who", (), sweep), sink, ROWS, SECONDS, first_pass=first_pass), runs, asked

    return hold


def test_run_up_does_not_decide_which_number_is_best(taking) -> None:
    """More in flight take longer to begin with and less from then on."""
    slow_start = {1000: (0.3, 0.2), 5000: (1.2, 0.1)}
    best, runs, _ = taking(lambda n, passes: slow_start[n][0] + slow_start[n][1] * passes, 1000, 5000)
    assert best.in_flight == 5000
    assert best.seconds >= SECONDS
    for number, (start, each) in slow_start.items():
        last_trial = max(passes for n, passes in runs if n == number and passes < 100)
        assert SECONDS / 10 <= start + each * last_trial < SECONDS / 10 * 1.5


def test_who_is_slow_has_one_pass_a_trial_and_no_other_run(taking) -> None:
    best, runs, _ = taking(lambda n, _: 80.0 if n == 5 else 70.0, 5, 10)
    assert (best.in_flight, best.seconds, runs) == (10, 70.0, [(5, 1), (10, 1)])


def test_a_run_is_longer_by_a_tenth_at_least_and_twenty_times_at_most(taking) -> None:
    """However fast the last one was: it may have been luck, and then the next takes long."""
    best, runs, _ = taking(lambda _, passes: 1e-6 if passes < 20 else 0.06 * passes, 7)
    assert runs[:2] == [(7, 1), (7, 20)]
    counts = [passes for _, passes in runs]
    assert all(1.1 * one <= other <= bench.LONGER_MAX * one for one, other in pairwise(counts))
    assert SECONDS <= best.seconds < SECONDS * 1.2


def test_no_address_is_asked_twice_and_the_first_pass_is_the_one_that_was_named(taking) -> None:
    _, runs, asked = taking(lambda _, passes: 0.5 * passes, 1, 2, first_pass=1_000)
    assert asked[: ROWS.size] == ROWS.one_pass(1_000)
    assert len(set(asked)) == len(asked) == sum(passes for _, passes in runs) * ROWS.size


def test_a_contestant_without_a_number_to_try_is_an_error(taking) -> None:
    with pytest.raises(ContestError, match="no number"):
        taking(lambda *_: 1.0)
