"""Seeds of faults on a real cluster: nothing is lost, decided twice, wrong or overcharged, whatever happens when.

``make chaos SEEDS=25`` runs seeds 1 to 25, ``make chaos SEED=17`` that one again; `make test` runs a short form.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from ops.brokers.base import BrokerMissing, cache_dir
from ops.brokers.jars import kafka_jars
from tests.chaos.run import run

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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", seeds(dict(os.environ)))
async def test_nothing_is_lost_decided_twice_wrong_or_overcharged(seed: int) -> None:
    try:
        kafka_jars()
    except BrokerMissing as missing:
        pytest.skip(str(missing))
    outcome = await run(seed, addresses=ADDRESSES, logs=empty(cache_dir() / "chaos" / f"seed-{seed}"))
    print(outcome)
    assert outcome.good, f"seed {seed}: {outcome.report.faults} {outcome.stuck}"
