"""The coverage gate, on reports made up here."""

import json
from pathlib import Path
from typing import Any

import pytest

from ops.coverage_gate import COMPLETE, main, verdict


def file(lines: tuple[int, ...] = (), branches: tuple[tuple[int, int], ...] = ()) -> dict[str, Any]:
    return {"missing_lines": list(lines), "missing_branches": [list(branch) for branch in branches]}


def report(overall: float = 95.0, **files: dict[str, Any]) -> dict[str, Any]:
    complete = {f"{part}a.py": file() for part in COMPLETE}
    return {"files": {**complete, **files}, "totals": {"percent_covered": overall}}


def test_all_is_well() -> None:
    assert verdict(report(**{"ops/x.py": file(lines=(1, 2))})) == []


def test_a_line_that_is_not_covered_is_named() -> None:
    assert verdict(report(**{"streams/dns/b.py": file(lines=(7,))})) == ["not covered: streams/dns/b.py: line 7"]


def test_a_branch_that_is_not_covered_is_named() -> None:
    [sentence] = verdict(report(**{"schemas/b.py": file(branches=((3, -1),))}))
    assert sentence == "not covered: schemas/b.py: branch 3->-1"


def test_too_little_of_all_is_told() -> None:
    assert verdict(report(overall=89.9)) == ["89.9 % of lines and branches are covered, 90 % are needed"]


def test_a_part_that_was_not_measured_does_not_pass() -> None:
    empty = {"files": {}, "totals": {"percent_covered": 100.0}}
    assert verdict(empty) == [f"nothing of {part} was measured" for part in COMPLETE]


@pytest.mark.parametrize(("overall", "status"), [(95.0, 0), (50.0, 1)])
def test_the_exit_code_says_it(overall: float, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "coverage.json"
    path.write_text(json.dumps(report(overall=overall)))
    assert main(str(path)) == status
    assert f"coverage: {overall:.1f} % overall" in capsys.readouterr().out
