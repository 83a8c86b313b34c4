"""Fail when too little is covered: every branch of the parts that decide, 90 % of all the rest with them.

Usage: ``python -m ops.coverage_gate coverage.json`` (the report of ``coverage json``).
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OVERALL = 90.0
"""Per cent of all lines and branches."""

COMPLETE = ("schemas/", "streams/smtp/", "streams/dns/", "streams/checks/", "streams/access/")
"""Where every line and branch is covered."""


@dataclass(frozen=True, slots=True)
class File:
    """What is not covered of one file: lines, and branches as ``from->to`` (negative: the way out of a block)."""

    path: str
    lines: tuple[int, ...]
    branches: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        missing = [f"line {line}" for line in self.lines] + [f"branch {a}->{b}" for a, b in self.branches]
        return f"{self.path}: {', '.join(missing)}"


def incomplete(report: Mapping[str, Any]) -> list[File]:
    """The files under `COMPLETE` with anything missing."""
    files = (
        File(path, tuple(data["missing_lines"]), tuple((a, b) for a, b in data["missing_branches"]))
        for path, data in sorted(report["files"].items())
        if path.startswith(COMPLETE)
    )
    return [file for file in files if file.lines or file.branches]


def unmeasured(report: Mapping[str, Any]) -> list[str]:
    """The parts of `COMPLETE` that the report has no file of: a renamed folder must not pass."""
    return [part for part in COMPLETE if not any(path.startswith(part) for path in report["files"])]


def verdict(report: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that is too little; empty when all is well."""
    sentences = [f"nothing of {part} was measured" for part in unmeasured(report)]
    sentences += [f"not covered: {file}" for file in incomplete(report)]
    overall = float(report["totals"]["percent_covered"])
    if overall < OVERALL:
        sentences.append(f"{overall:.1f} % of lines and branches are covered, {OVERALL:.0f} % are needed")
    return sentences


def main(path: str) -> int:
    """Print the verdict; 1 when something is too little."""
    report = json.loads(Path(path).read_text())
    sentences = verdict(report)
    for sentence in sentences:
        print(sentence)
    print(f"coverage: {report['totals']['percent_covered']:.1f} % overall; complete where it must be: {not sentences}")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
