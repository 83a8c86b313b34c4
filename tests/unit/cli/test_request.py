"""`mailvet request` without a broker: whose request it is, what is shown, which exit code it ends with."""

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from ops.cli import request
from ops.cli.main import run
from ops.requests import cancel as cancelling
from ops.requests.status import State, Status
from schemas.request import request_uid
from schemas.result import Cancellation, CancelOutcome, Summary
from schemas.vocabulary import Reason
from tests.unit.roles.support import KEY, NOW
from tests.unit.schemas.samples import SAMPLES

SUMMARY = SAMPLES["summary"]
Say = Callable[..., tuple[int, str, str]]


def status(state: State = State.RUNNING, **changes: Any) -> Status:
    values = {"request_id": "r1", "tenant": "acme", "request_uid": request_uid("acme", "r1"), "state": state}
    return Status(**{**values, **changes})


def answered(outcome: CancelOutcome, **changes: Any) -> Cancellation:
    answer = SAMPLES["cancellation"]
    assert isinstance(answer, Cancellation)
    return answer.model_copy(update={"outcome": outcome, "reason": None, **changes})


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run the command: its exit code, what it wrote, what it said on stderr."""
    for name in ("MAILVET_KEY", "MAILVET_KEY_ID", "MAILVET_ACTOR"):
        monkeypatch.delenv(name, raising=False)

    def say(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mailvet", "request", *arguments])
        code = run()
        out, err = capsys.readouterr()
        return code, out, err

    return say


def returns(monkeypatch: pytest.MonkeyPatch, name: str, value: object, module: Any = request) -> list[Any]:
    """Puts a coroutine in place that gives this; what it is called with is kept."""
    calls: list[Any] = []

    async def fake(*arguments: Any, **options: Any) -> object:
        calls.append((*arguments, options))
        return value.pop(0) if isinstance(value, list) else value

    monkeypatch.setattr(module, name, fake)
    return calls


def test_the_status_is_shown_to_people_and_to_programs(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = returns(monkeypatch, "find", status(total=3, decided=1))
    code, out, err = say("status", "r1", "--tenant", "acme")
    assert (code, out.splitlines()[0], err) == (0, "request r1 of acme runs", "")
    assert calls[0][2:4] == ("acme", "r1")
    code, out, _ = say("status", "r1", "--tenant", "acme", "--json")
    assert (code, json.loads(out)["state"]) == (0, "running")


def test_whose_request_it_is_says_the_key(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = returns(monkeypatch, "find", status())
    monkeypatch.setenv("MAILVET_KEY", KEY)
    assert say("status", "r1")[0] == 0
    assert calls[0][2] == "acme"
    monkeypatch.delenv("MAILVET_KEY")
    code, _, err = say("status", "r1")
    assert (code, "MAILVET_KEY" in err) == (2, True)


def test_what_is_not_known_ends_with_1(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    returns(monkeypatch, "find", status(State.UNKNOWN))
    code, out, err = say("status", "r1", "--tenant", "acme")
    assert (code, out) == (1, "")
    assert "nothing is known of request r1 of acme" in err
    code, out, _ = say("status", "r1", "--tenant", "acme", "--json")
    assert (code, json.loads(out)["state"]) == (1, "unknown")


@pytest.mark.parametrize(
    ("answer", "code", "shown", "said"),
    [
        ((answered(CancelOutcome.ACCEPTED), SUMMARY), 0, "request r1 is cancelled: 2 risky; 1 given back\n", ""),
        ((answered(CancelOutcome.FINISHED), None), 0, "request r1 is finished: nothing to cancel\n", ""),
        ((answered(CancelOutcome.ACCEPTED), None), 1, "", "its summary did not come"),
        ((answered(CancelOutcome.UNKNOWN_REQUEST), None), 1, "", "not cancelled, unknown_request: "),
        (
            (answered(CancelOutcome.REFUSED, reason=Reason.KEY_REVOKED), None),
            1,
            "",
            "refused, key_revoked: ",
        ),
    ],
)
def test_what_became_of_a_cancel(
    say: Say,
    monkeypatch: pytest.MonkeyPatch,
    *,
    answer: tuple[Cancellation, Summary | None],
    code: int,
    shown: str,
    said: str,
) -> None:
    returns(monkeypatch, "ask_to_cancel", answer)
    monkeypatch.setenv("MAILVET_KEY", KEY)
    ended, out, err = say("cancel", "r1")
    assert (ended, out) == (code, shown)
    assert said in err
    ended, out, _ = say("cancel", "r1", "--json")
    assert ended == code
    assert json.loads(out)["cancellation"]["outcome"] == answer[0].outcome


# -- an operator's ----------------------------------------------------------------------------------------------------


def ordered(monkeypatch: pytest.MonkeyPatch, *found: Status) -> list[Any]:
    returns(monkeypatch, "find", list(found), cancelling)
    monkeypatch.setattr(cancelling.asyncio, "sleep", _at_once)
    return returns(monkeypatch, "_order", None, cancelling)


async def _at_once(_: float) -> None:
    pass


def test_an_operator_orders_the_end_and_waits_for_it(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    running = status(verdict_by=NOW + timedelta(hours=3))
    orders = ordered(monkeypatch, running, running, running, status(State.FINISHED))
    code, out, err = say("cancel", "r1", "--tenant", "acme", "--actor", "ann")
    assert (code, out, err) == (0, "request r1 of acme is finished\n", "")
    [(_, _, order, _)] = orders
    assert (order.request_uid, order.verdict_by, order.by) == (running.request_uid, running.verdict_by, "ann")


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (status(State.FINISHED), 0, ""),
        (status(State.REJECTED), 1, "the request was rejected"),
        (status(State.UNKNOWN), 1, "nothing is known"),
        (status(State.RUNNING), 2, "this is no operator"),
    ],
)
def test_what_does_not_run_is_told_and_not_ordered(
    say: Say, monkeypatch: pytest.MonkeyPatch, found: Status, code: int, said: str
) -> None:
    orders = ordered(monkeypatch, found)
    ended, _, err = say("cancel", "r1", "--tenant", "acme")
    assert (ended, orders) == (code, [])
    assert said in err


@pytest.mark.parametrize("verb", ["status", "cancel"])
@pytest.mark.parametrize("name", ["", "a\nb", "\udcff", "x" * 129])
def test_what_can_be_no_request_id_is_said_so(say: Say, verb: str, name: str) -> None:
    code, _, err = say(verb, name, "--tenant", "acme")
    assert (code, "is no request id: 1 to 128 printable characters" in err) == (2, True)
