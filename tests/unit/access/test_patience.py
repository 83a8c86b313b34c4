"""Refusals are answered while they are few."""

from dataclasses import replace

import pytest

from streams.access import patience
from streams.access.keys import Allowance, Key
from streams.access.patience import NOT_SERVED, SERVED, Patience
from streams.access.rate import Rate

NOW_MS = 1_773_144_000_000
KEY = Key(tenant="acme", key_id="k1", proofs=(), own=Allowance())


def answered(patience: Patience, key: Key = KEY, *, served: bool, tries: int = 5000, at_ms: int = NOW_MS) -> int:
    return sum(patience.take(key, at_ms, served=served) for _ in range(tries))


@pytest.mark.parametrize(("served", "bound"), [(True, SERVED), (False, NOT_SERVED)])
def test_a_flood_of_refusals_is_answered_as_a_burst_and_then_at_a_rate(served: bool, bound: Rate) -> None:
    patience = Patience()
    assert answered(patience, served=served) == bound.burst
    assert answered(patience, served=served, at_ms=NOW_MS + 10_000) == 10 * bound.per_second


@pytest.mark.parametrize(
    ("own", "burst"),
    [(None, SERVED.burst), (Rate(1, 1), SERVED.burst), (Rate(500, 4000), 4000), (Rate(500, 1), 1)],
)
def test_a_key_that_may_ask_more_may_be_refused_more(own: Rate | None, burst: int) -> None:
    key = replace(KEY, own=Allowance(own))
    assert answered(Patience(), key, served=True) == burst
    assert answered(Patience(), key, served=False) == NOT_SERVED.burst, "a leaked key has no rate of its own"


def test_one_key_s_flood_is_not_another_s() -> None:
    patience = Patience()
    answered(patience, served=False)
    for other in (replace(KEY, key_id="k2"), replace(KEY, tenant="other")):
        assert patience.take(other, NOW_MS, served=False)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_MOST_KEYS", 2)
    bounded = Patience()
    answered(bounded, served=False)
    for name in ("k2", "k1", "k3"):
        bounded.take(replace(KEY, key_id=name), NOW_MS, served=False)
    assert len(bounded._tats) <= 2
