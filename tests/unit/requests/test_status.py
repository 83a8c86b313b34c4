"""How a request stands, by rows as the roles write them, and by what was published."""

from datetime import timedelta
from typing import Any

import orjson
import pytest

from ops.cli import requestpage
from ops.requests.status import State, Status, of_results, of_tables
from schemas.client import read_output
from schemas.result import Output
from schemas.topics import RESULTS
from streams.access.decisions import Decision
from streams.codec import decode
from streams.records import Outgoing
from streams.roles.progress import Progress, unpack
from tests.unit.roles import test_completion, test_gate
from tests.unit.roles.support import NOW, run
from tests.unit.roles.test_cancels import Completion, world_record
from tests.unit.roles.test_completion import ACCEPTED, GREY, REFUSED, entry

DELAYS_S = (300.0, 900.0, 3600.0)
FIRST, SECOND = NOW + timedelta(seconds=300), NOW + timedelta(seconds=900)


def decided(addresses: int, **changes: Any) -> Decision | None:
    """The gate's decision on a request of so many addresses."""
    gate = test_gate.World(**changes)
    gate.ask("r1", [f"a{number}@x.example" for number in range(addresses)])
    [row] = [row for key, row in gate.ledger.items() if key.startswith(b"acme:decision:")]
    return decode(Decision, row)


def of_world(world: test_completion.World, decision: Decision | None, seconds: float = 0.0) -> Status:
    progress, known = Progress(), {}
    for key, row in world.progress.items():
        name = key.decode().split(":")[2:]
        if name:
            known[name[0]] = unpack(row)
        else:
            progress = decode(Progress, row)
    now = NOW + timedelta(seconds=seconds)
    return of_tables("acme", "r1", decision, progress, known, now=now, delays_s=DELAYS_S)


def outputs_of(*outputs: Outgoing) -> list[Output]:
    found = [read_output(output.value) for output in outputs if output.topic == RESULTS.name]
    assert None not in found
    return [each for each in found if each is not None]


def test_of_a_request_that_nobody_decided_nothing_is_known() -> None:
    status = of_world(test_completion.World(), None)
    assert (status.state, status.total, status.request_id, status.tenant) == (State.UNKNOWN, None, "r1", "acme")


def test_one_that_was_refused_says_why() -> None:
    status = of_world(test_completion.World(), decided(2, dev_daily_quota=1))
    assert status.state is State.REJECTED
    assert status.rejected is not None
    assert (status.rejected.reason, status.admitted_at) == ("quota_exceeded", None)
    assert requestpage.page(status).splitlines()[:2] == [
        "request r1 of acme was rejected",
        "rejected:    quota_exceeded: the quota of this key is used up until 2026-03-11T00:00Z; again in 43200 s",
    ]


def test_one_that_runs_says_what_is_decided_and_what_waits_where_until_when() -> None:
    world = test_completion.World(6)
    world.admit()
    world.attempt(
        entry(ACCEPTED, 0),
        entry(REFUSED, 1),
        entry(GREY, 2, 3, final=False, next_attempt_at=FIRST),
        entry(
            GREY, 4, final=False, next_attempt_at=FIRST + timedelta(seconds=2), checked_at=NOW + timedelta(seconds=2)
        ),
    )
    # Asked again, it waits in the second tier: the latest word counts.
    world.attempt(entry(GREY, 3, final=False, next_attempt_at=SECOND))
    status = of_world(world, decided(6))
    assert (status.state, status.total, status.decided, status.under_way) == (State.RUNNING, 6, 2, 1)
    assert status.verdicts == {"deliverable": 1, "undeliverable": 1}
    first, second = status.waiting or ()
    assert (first.tier, first.addresses, first.first_due, first.last_due) == (
        "retries.5m.v1",
        2,
        FIRST,
        FIRST + timedelta(seconds=2),
    )
    assert (second.tier, second.addresses, second.reasons) == ("retries.15m.v1", 1, {"greylisted": 1})
    assert requestpage.page(status).splitlines() == [
        "request r1 of acme runs",
        "admitted:    2026-03-10 12:00:00Z, key k1, interactive lane",
        "decided:     2 of 6 addresses: 1 deliverable, 1 undeliverable (1 mailbox_accepted, 1 mailbox_not_found)",
        "waiting:     2 in retries.5m.v1, until 2026-03-10 12:05:00Z to 2026-03-10 12:05:02Z (2 greylisted)",
        "waiting:     1 in retries.15m.v1, until 2026-03-10 12:15:00Z (1 greylisted)",
        "under way:   1",
        "verdicts by: 2026-03-10 15:00:00Z",
        "charged:     6",
    ]
    later = of_world(world, decided(6), seconds=301)
    assert [each.addresses for each in later.waiting or ()] == [1, 1], "what is due waits no longer"
    assert later.under_way == 2


def test_what_a_later_record_decided_waits_no_longer() -> None:
    world = test_completion.World(2)
    world.attempt(entry(GREY, 0, 1, final=False, next_attempt_at=FIRST))
    world.attempt(entry(ACCEPTED, 0))
    status = of_world(world, decided(2))
    assert [each.addresses for each in status.waiting or ()] == [1]


def test_one_that_is_cancelled_says_so_until_its_end() -> None:
    world = Completion(2)
    decision = decided(2)
    assert world.cancel() == []
    assert of_world(world, decision).state is State.CANCELLING
    [attempt] = run(world.role.admitted(world_record(world)))
    world.read(world.log.take(attempt))
    status = of_world(world, decision)
    assert (status.state, status.reasons, status.given_back) == (State.FINISHED, {"cancelled": 2}, 2)
    page = requestpage.page(status)
    assert "cancelled:   2026-03-10 12:00:01Z" in page
    assert "charged:     2, 2 given back" in page
    assert "verdicts by" not in page


def test_a_tenant_sees_what_was_published() -> None:
    world = test_completion.World(3)
    first = world.attempt(entry(ACCEPTED, 0), entry(REFUSED, 1))
    running = of_results("acme", "r1", outputs_of(*first, *first))
    assert (running.state, running.total, running.decided, running.waiting) == (State.RUNNING, 3, 2, None)
    last = world.attempt(entry(GREY, 2))
    status = of_results("acme", "r1", outputs_of(*first, *last))
    assert (status.state, status.decided, status.charged, status.given_back) == (State.FINISHED, 3, 3, 1)
    assert status.verdicts == {"deliverable": 1, "undeliverable": 1, "unknown": 1}
    assert of_results("acme", "r1", outputs_of(*last[1:])).decided == 3, "the summary alone says it too"
    assert of_results("acme", "r1", []).state is State.UNKNOWN


def test_a_tenant_sees_a_rejection() -> None:
    outputs = test_gate.World(dev_daily_quota=1).ask("r1", ["a@x.example", "b@x.example"])
    status = of_results("acme", "r1", outputs_of(*outputs))
    assert status.state is State.REJECTED
    assert "quota_exceeded" in requestpage.page(status)


def test_the_delays_of_workers_may_be_others_than_ours() -> None:
    world = test_completion.World(1)
    world.attempt(entry(GREY, 0, final=False, next_attempt_at=NOW + timedelta(seconds=1000)))
    [waiting] = of_world(world, decided(1)).waiting or ()
    assert waiting.tier == "retries.15m.v1"


@pytest.mark.parametrize("text", ["r\x1b[2J", "r\u202e1"])
def test_no_request_id_drives_a_terminal(text: str) -> None:
    status = of_results("acme", text, []).model_copy(update={"state": State.RUNNING})
    assert requestpage.page(status).splitlines()[0].isprintable()
    assert orjson.loads(status.model_dump_json())["request_id"] == text
