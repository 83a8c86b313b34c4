"""What a process holds at one tenth and at the end, from samples made by hand."""

import os
from pathlib import Path

import pytest

from ops.bench.memory import MIB, Growth, Sample, growths, resident, table


def sample(done: float, gate: int, probe: int = 1) -> Sample:
    return Sample(done, {"gate": gate, "probe": probe})


def test_a_tenth_and_the_end_are_the_most_that_was_seen_about_them() -> None:
    seen = [
        sample(0.0, 50),
        sample(0.09, 90),
        sample(0.11, 80),
        sample(0.5, 300),
        sample(0.99, 120),
        sample(1.0, 70, 9),
    ]
    gate, probe = growths(seen)
    assert gate == Growth("gate", 90, 120, 300)
    assert gate.ratio == pytest.approx(4 / 3)
    assert probe == Growth("probe", 1, 9, 9)
    assert gate.as_dict()["ratio"] == 1.333


def test_of_work_that_was_too_short_the_nearest_samples_count() -> None:
    [gate, _] = growths([sample(0.0, 10), sample(0.2, 20), sample(0.6, 30), sample(0.9, 40)])
    assert (gate.at_tenth, gate.at_end) == (10, 40)


def test_what_this_process_holds_and_one_that_has_ended(tmp_path: Path) -> None:
    assert resident(os.getpid()) > MIB
    assert resident(1, tmp_path) == 0


def test_the_table_has_a_line_for_each_role() -> None:
    [heading, _, line] = table([Growth("gate", 100 * MIB, 121 * MIB, 130 * MIB)]).splitlines()
    assert heading.startswith("| role ")
    assert line.split() == ["|", "gate", "|", "100.0", "|", "121.0", "|", "1.21", "|", "130.0", "|"]
