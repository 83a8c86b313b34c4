"""What must hold of the results, whatever happened on the way: a pure function of what was sent and what came out."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

Place = tuple[str, int]
"""Request uid and index."""


@dataclass(frozen=True, slots=True)
class Report:
    """Every list is empty in a good run; ``repeats`` are allowed, because at-least-once may say a thing twice."""

    lost: list[Place] = field(default_factory=list)
    changed: list[Place] = field(default_factory=list)
    wrong: list[tuple[Place, str, str]] = field(default_factory=list)
    stray: list[Place] = field(default_factory=list)
    unsummed: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    results: int = 0
    repeats: int = 0

    @property
    def faults(self) -> dict[str, int]:
        """How many of each; empty when all is well."""
        kinds = ("lost", "changed", "wrong", "stray", "unsummed", "rejected")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}


def check(expected: Mapping[Place, str], records: Iterable[bytes]) -> Report:
    """Compare the records of a results topic with the reason that each place must have in the end.

    ``lost``: no result. ``changed``: results of one place that differ in a byte. ``wrong``: place, expected, said.
    ``stray``: nobody asked. ``unsummed``: requests without exactly one summary, or whose summary does not add up.
    """
    results: dict[Place, set[bytes]] = defaultdict(set)
    summaries: dict[str, set[bytes]] = defaultdict(set)
    rejected: list[str] = []
    count = 0
    for value in records:
        record = orjson.loads(value)
        uid = record["request_uid"]
        if record["kind"] == "result":
            results[uid, record["index"]].add(value)
            count += 1
        elif record["kind"] == "summary":
            summaries[uid].add(value)
        else:
            rejected.append(uid)
    said = {place: orjson.loads(min(values))["reason"] for place, values in results.items()}
    return Report(
        lost=sorted(set(expected) - set(results)),
        changed=sorted(place for place, values in results.items() if len(values) > 1),
        wrong=[(place, want, said[place]) for place, want in expected.items() if place in said and said[place] != want],
        stray=sorted(set(results) - set(expected)),
        unsummed=_unsummed(expected, said, summaries),
        rejected=rejected,
        results=len(results),
        repeats=count - len(results),
    )


def _unsummed(
    expected: Mapping[Place, str], said: Mapping[Place, str], summaries: Mapping[str, set[bytes]]
) -> list[str]:
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for (uid, _), reason in said.items():
        reasons[uid][reason] += 1
    return sorted(uid for uid in {uid for uid, _ in expected} if not _adds_up(summaries.get(uid, set()), reasons[uid]))


def _adds_up(summaries: set[bytes], reasons: Counter[str]) -> bool:
    return len(summaries) == 1 and orjson.loads(next(iter(summaries)))["reasons"] == dict(reasons)
