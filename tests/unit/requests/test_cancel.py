"""The end of a request: asked for with its key, or ordered by an operator; what is waited for, and for how long."""

from collections.abc import Callable
from typing import Any

import pytest

from ops.cli.errors import Unfinished, UserError
from ops.requests import cancel
from ops.requests.status import State, Status
from schemas.client import BearerKey
from schemas.request import request_uid
from schemas.result import Cancellation, CancelOutcome, Summary
from schemas.topics import CANCELS, REQUESTS, RESULTS
from streams.codec import encode
from tests.unit.requests.broker import REFUSED, FakeBroker, Stored
from tests.unit.roles.support import KEY, NOW
from tests.unit.schemas.samples import SAMPLES

UID = request_uid("acme", "r1")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    made = FakeBroker().installed(monkeypatch, cancel)
    made.seen = {REQUESTS.name, RESULTS.name, CANCELS.name}
    return made


def says(broker: FakeBroker, outcome: CancelOutcome, *, summed: bool) -> Callable[[Stored], None]:
    """A gate, and completion where it is `summed`. Others' answers stand between."""

    def react(_: Stored) -> None:
        answer = SAMPLES["cancellation"].model_copy(update={"request_uid": UID, "outcome": outcome, "reason": None})
        broker.put(RESULTS.name, b"x", encode(SAMPLES["summary"].model_copy(update={"request_uid": "0" * 64})))
        broker.put(RESULTS.name, UID.encode(), b"{")
        broker.put(RESULTS.name, UID.encode(), encode(answer))
        if summed:
            broker.put(RESULTS.name, UID.encode(), encode(SAMPLES["summary"].model_copy(update={"request_uid": UID})))

    return react


async def ask(within_s: float = 5.0) -> tuple[Cancellation, Summary | None]:
    return await cancel.ask_to_cancel("b", "", BearerKey(KEY), "r1", within_s=within_s)


async def test_the_summary_of_what_is_cancelled_is_waited_for(broker: FakeBroker) -> None:
    broker.react = says(broker, CancelOutcome.ACCEPTED, summed=True)
    answer, summary = await ask()
    assert answer.outcome is CancelOutcome.ACCEPTED
    assert summary is not None
    assert summary.request_uid == UID
    assert broker.values(REQUESTS.name) == [b'{"schema_version":1,"request_id":"r1","cancel":true}']


async def test_of_what_is_over_there_is_none(broker: FakeBroker) -> None:
    broker.react = says(broker, CancelOutcome.FINISHED, summed=False)
    answer, summary = await ask()
    assert (answer.outcome, summary) == (CancelOutcome.FINISHED, None)


async def test_an_answer_without_its_summary_is_given_when_the_time_is_over(broker: FakeBroker) -> None:
    broker.react = says(broker, CancelOutcome.ACCEPTED, summed=False)
    answer, summary = await ask(within_s=0.01)
    assert (answer.outcome, summary) == (CancelOutcome.ACCEPTED, None)


async def test_no_answer_and_a_broker_that_refuses_are_said(broker: FakeBroker) -> None:
    with pytest.raises(Unfinished, match=r"no answer came within 0.01 s"):
        await ask(within_s=0.01)
    broker.refuses = REFUSED
    with pytest.raises(Unfinished, match="the broker refused the request"):
        await ask()
    broker.seen.clear()
    broker.logs.clear()
    with pytest.raises(UserError, match="has no topic"):
        await ask()


# -- as an operator ---------------------------------------------------------------------------------------------------


def stands(monkeypatch: pytest.MonkeyPatch, *states: State, **changes: Any) -> None:
    """How the request stands, look by look."""
    left = list(states)

    async def find(*_: Any, **__: Any) -> Status:
        state = left.pop(0) if len(left) > 1 else left[0]
        return Status(request_id="r1", tenant="acme", request_uid=UID, state=state, **{"verdict_by": NOW, **changes})

    monkeypatch.setattr(cancel, "find", find)


async def order(within_s: float = 5.0) -> Status:
    return await cancel.order_to_cancel(
        "b", "", "acme", "r1", by="ops", delays_s=(300.0, 900.0, 3600.0), within_s=within_s
    )


async def test_what_runs_is_ordered_to_end_and_looked_at_until_it_has(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands(monkeypatch, State.RUNNING, State.CANCELLING, State.FINISHED)
    assert (await order()).state is State.FINISHED
    [written] = broker.values(CANCELS.name)
    assert b'"by":"ops"' in (written or b"")
    assert UID.encode() in (written or b"")


@pytest.mark.parametrize("state", [State.UNKNOWN, State.REJECTED, State.FINISHED])
async def test_what_does_not_run_is_left_alone(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    stands(monkeypatch, state)
    assert (await order()).state is state
    assert broker.values(CANCELS.name) == []


async def test_who_sees_no_tables_orders_nothing(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    stands(monkeypatch, State.RUNNING, verdict_by=None)
    with pytest.raises(UserError, match="this is no operator"):
        await order()
    assert broker.values(CANCELS.name) == []


async def test_an_order_that_nobody_carries_out_stands(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    stands(monkeypatch, State.RUNNING)
    with pytest.raises(Unfinished, match="The order stands"):
        await order(within_s=0.05)
    assert len(broker.values(CANCELS.name)) == 1
    broker.refuses = REFUSED
    with pytest.raises(Unfinished, match="the broker refused the order"):
        await order()
