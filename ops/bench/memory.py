"""What processes hold in memory while they work, and whether that grows. Pure but for /proc."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 1024 * 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")

AROUND = 0.02
"""What is held at some part of the work is the most that was seen within so much of it: between two garbage
collections, and from one batch to the next, a process goes up and down."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What each process held when ``done`` of the work was done; ``done`` is 0 to 1, ``held`` in bytes by name."""

    done: float
    held: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Growth:
    """One process: bytes held at one tenth of the work and at its end, and the most of all its samples."""

    name: str
    at_tenth: int
    at_end: int
    peak: int

    @property
    def ratio(self) -> float:
        """The end by one tenth."""
        return self.at_end / self.at_tenth

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "ratio": round(self.ratio, 3)}


def growths(samples: Sequence[Sample]) -> list[Growth]:
    """Of each process in the samples, of which there is one at least."""
    tenth, end = _around(samples, 0.1), _around(samples, 1.0)
    return [Growth(name, _most(name, tenth), _most(name, end), _most(name, samples)) for name in end[-1].held]


def _around(samples: Sequence[Sample], done: float) -> Sequence[Sample]:
    """Those near so much of the work; the nearest where none is, since the work was short."""
    nearest = min(samples, key=lambda sample: abs(sample.done - done))
    return [sample for sample in samples if abs(sample.done - done) <= AROUND] or [nearest]


def _most(name: str, samples: Iterable[Sample]) -> int:
    return max(sample.held[name] for sample in samples)


def resident(pid: int, proc: Path = Path("/proc")) -> int:
    """Bytes of a process that are in memory now (proc(5), statm); 0 when it has ended."""
    try:
        return int((proc / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except FileNotFoundError:
        return 0


def table(growths: Iterable[Growth]) -> str:
    """Aligned columns, for people and for docs/reliability.md; MiB."""
    heading = ("role", "MiB at 1/10", "MiB at the end", "ratio", "MiB at most")
    rows = [heading, *map(_row, growths)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    ruler = tuple("-" * width for width in widths)
    return "\n".join(_joined(row, widths) for row in (rows[0], ruler, *rows[1:]))


def _joined(row: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(map(str.ljust, row, widths)) + " |"


def _row(growth: Growth) -> tuple[str, ...]:
    tenth, end, peak = (f"{size / MIB:.1f}" for size in (growth.at_tenth, growth.at_end, growth.peak))
    return (growth.name, tenth, end, f"{growth.ratio:.2f}", peak)
