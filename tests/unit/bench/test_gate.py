"""The benchmark of the gate measures what it says: every part, both kinds of key."""

import pytest

from ops.bench import gate
from schemas.keys import Kind
from schemas.request import Request


def test_every_part_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "ROUND", 5)
    found = {cost.what: cost.us for cost in gate.costs(0.001)}
    assert len(found) == 2 + len(Kind) * len(gate.SIZES)
    assert all(us > 0 for us in found.values())
    assert "a request of 100 is let in by its signature" in found
    assert "a request of 1,000 is let in by its bearer key" in found


def test_its_requests_are_ours() -> None:
    request = Request.model_validate_json(gate.request_bytes("r1", 100), strict=True)
    assert len(set(request.addresses)) == 100
