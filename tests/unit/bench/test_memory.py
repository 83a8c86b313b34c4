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


@pytest.mark.parametrize("done", [0.1, 1.0])
def test_what_was_not_sampled_is_not_told(done: float) -> None:
    with pytest.raises(ValueError, match="too short"):
        growths([sample(done, 1), sample(0.5, 1)])


def test_what_this_process_holds_and_one_that_has_ended(tmp_path: Path) -> None:
    assert resident(os.getpid()) > MIB
    assert resident(1, tmp_path) == 0


def test_the_table_has_a_line_for_each_role() -> None:
    [heading, _, line] = table([Growth("gate", 100 * MIB, 121 * MIB, 130 * MIB)]).splitlines()
    assert heading.startswith("| role ")
    assert line.split() == ["|", "gate", "|", "100.0", "|", "121.0", "|", "1.21", "|", "130.0", "|"]
