"""Seeds of faults on a real cluster: nothing is lost, decided twice, wrong or overcharged, whatever happens when.

``make chaos SEEDS=25`` runs seeds 1 to 25, ``make chaos SEED=17`` that one again; `make test` runs a short form.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ops.brokers.base import BrokerMissing, cache_dir
from ops.brokers.jars import kafka_jars
from tests.chaos.run import Outcome, run

ADDRESSES = int(os.environ.get("MAILVET_CHAOS_ADDRESSES", "2000"))
"""``make chaos`` asks for 10,000 a seed."""


def seeds(environment: dict[str, str]) -> Iterable[int]:
    """Those that were asked for: one, or so many."""
    if one := environment.get("MAILVET_CHAOS_SEED"):
        return [int(one)]
    return range(1, int(environment.get("MAILVET_CHAOS_SEEDS") or "1") + 1)


def empty(folder: Path) -> Path:
    """The folder without what an earlier run left there; it stays after the run, to look into."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@dataclass
class Tally:
    """What all seeds of a run add up to."""

    seeds: int = 0
    addresses: int = 0
    faults: int = 0
    found: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """One more seed."""
        self.seeds += 1
        self.addresses += len(outcome.history.expected)
        self.faults += len(outcome.faults)
        self.found.update(outcome.report.faults)

    def __str__(self) -> str:
        kinds = {"lost": "lost", "changed": "decided twice", "wrong": "wrong", "charges": "charged wrongly"}
        said = ", ".join(f"{self.found[kind]} {words}" for kind, words in kinds.items())
        other = sum(count for kind, count in self.found.items() if kind not in kinds)
        return f"{self.seeds} seeds, {self.addresses} addresses, {self.faults} faults: {said}, {other} other"


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    """Told when the last seed is over."""
    made = Tally()
    yield made
    print(f"\n{made}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", seeds(dict(os.environ)))
async def test_nothing_is_lost_decided_twice_wrong_or_overcharged(seed: int, tally: Tally) -> None:
    try:
        kafka_jars()
    except BrokerMissing as missing:
        if os.environ.get("CI", "").lower() in {"true", "1"}:
            raise
        pytest.skip(str(missing))
    outcome = await run(seed, addresses=ADDRESSES, logs=empty(cache_dir() / "chaos" / f"seed-{seed}"))
    tally.add(outcome)
    print(outcome)
    assert outcome.good, f"seed {seed}: {outcome.report.faults} {outcome.stuck}"
