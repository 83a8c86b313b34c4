"""Probe: who is asked for what, and what comes of each answer."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from schemas.pipeline import Position, Task, TaskItem
from schemas.topics import ATTEMPTS, RETRIES_5M, RETRIES_15M, RETRIES_60M, TASKS_BULK, TASKS_INTERACTIVE
from schemas.vocabulary import Depth, Lane, Stage
from streams.checks.evidence import Failure, Probe
from streams.checks.lists import Lists
from streams.checks.optouts import OptOuts
from streams.checks.precheck import Precheck
from streams.codec import encode
from streams.dns.answers import MailRoute, RouteKind
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.probe import OPEN_BYTES, PUT_ASIDE, Probing
from streams.smtp.replies import Reply
from tests.unit.roles.support import (
    GREYLISTED,
    NOW,
    OK,
    REFUSED,
    Clock,
    FakeProber,
    FakeResolver,
    Log,
    metrics,
    mx,
    no_route,
    run,
    settings,
    ticket,
    values,
)

PRECHECK = Precheck(Lists(disposable=frozenset(), free=frozenset(), roles=frozenset()))
ANSWERS = {"missing": REFUSED, "grey": GREYLISTED, "slow": Probe(Stage.RCPT, failure=Failure.TIMEOUT)}


def task(
    addresses: list[str],
    *,
    attempt: int = 1,
    provider: str = "example.net",
    hops: int = 0,
    source: str | None = None,
    **changes: Any,
) -> Incoming:
    items = tuple(
        TaskItem(positions=(Position(index=index, input=text),), address=text) for index, text in enumerate(addresses)
    )
    record = Task(
        ticket=ticket(len(addresses), **changes),
        provider=provider,
        items=items,
        attempt=attempt,
        hops=hops,
        source=source,
        created_at=NOW,
    )
    return Log(TASKS_BULK.name).append(encode(record), f"{provider}#0".encode())


class World:
    def __init__(
        self,
        routes: dict[str, MailRoute] | None = None,
        answers: Any = None,
        sessions_of: Callable[[str], int] | None = None,
        **changes: Any,
    ) -> None:
        self.prober = FakeProber(answers or ANSWERS)
        self.clock = Clock()
        self.opted_out = OptOuts()
        self.metrics = metrics()
        self.role = Probing(
            settings(**changes),
            self.metrics,
            precheck=PRECHECK,
            resolver=FakeResolver(routes or {}),
            prober=self.prober,
            clock=self.clock,
            sessions_of=sessions_of,
            opted_out=self.opted_out,
        )

    def handle(self, record: Incoming) -> list[Outgoing]:
        return list(run(self.role.handle(record)))


def verdicts(outputs: list[Outgoing]) -> dict[int, tuple[bool, str]]:
    found = [entry for attempt in values(outputs, ATTEMPTS.name) for entry in attempt["entries"]]
    return {e["positions"][0]["index"]: (e["final"], e["finding"]["reason"]) for e in found}


def test_answers_become_findings_in_one_attempt() -> None:
    outputs = World().handle(task(["ok@x.example", "missing@x.example", "ok2@y.example"]))
    assert verdicts(outputs) == {
        0: (True, "mailbox_accepted"),
        1: (True, "mailbox_not_found"),
        2: (True, "mailbox_accepted"),
    }
    assert [output.topic for output in outputs] == [ATTEMPTS.name]


def test_later_goes_to_the_first_tier_with_what_is_known() -> None:
    outputs = World().handle(task(["ok@x.example", "grey@x.example"]))
    assert verdicts(outputs) == {0: (True, "mailbox_accepted"), 1: (False, "greylisted")}
    [again] = values(outputs, RETRIES_5M.name)
    assert (again["attempt"], again["provider"], again["hops"]) == (2, "example.net", 0)
    [item] = again["items"]
    assert item["address"] == "grey@x.example"
    assert item["past"] == [
        {
            "attempt": 1,
            "reason": "greylisted",
            "smtp_code": 450,
            "enhanced_code": "4.7.1",
            "text": "4.7.1 Greylisted, try again later",
            "at": "2026-03-10T12:00:00Z",
        }
    ]
    [attempt] = values(outputs, ATTEMPTS.name)
    assert attempt["entries"][1]["finding"]["next_attempt_at"] == "2026-03-10T12:05:00Z"


@pytest.mark.parametrize(
    ("attempt", "tier"), [(1, RETRIES_5M.name), (2, RETRIES_15M.name), (3, RETRIES_60M.name), (4, None)]
)
def test_each_attempt_waits_longer_and_the_last_one_is_the_answer(attempt: int, tier: str | None) -> None:
    outputs = World().handle(task(["slow@x.example"], attempt=attempt))
    assert verdicts(outputs) == {0: (tier is None, "timeout")}
    assert [output.topic for output in outputs[1:]] == ([tier] if tier else [])


def test_past_attempts_are_carried_on() -> None:
    world = World()
    [again] = [o for o in world.handle(task(["grey@x.example"])) if o.topic == RETRIES_5M.name]
    outputs = world.handle(Log("x").take(again))
    [third] = values(outputs, RETRIES_15M.name)
    assert [past["attempt"] for past in third["items"][0]["past"]] == [1, 2]
    assert [past["attempt"] for past in values(outputs, ATTEMPTS.name)[0]["entries"][0]["finding"]["attempts"]] == [1]


@pytest.mark.parametrize(
    ("seconds", "tier"),
    [(60, RETRIES_5M.name), (600, RETRIES_15M.name), (3000, RETRIES_60M.name), (9000, RETRIES_60M.name)],
)
def test_the_servers_own_hint_chooses_the_tier(seconds: int, tier: str) -> None:
    reply = Reply(450, (f"4.7.1 Greylisted, please try again in {seconds} seconds",))
    outputs = World(answers={"grey": Probe(Stage.RCPT, reply=reply)}).handle(task(["grey@x.example"]))
    assert [output.topic for output in outputs[1:]] == [tier]


@pytest.mark.parametrize(
    ("asked_by", "answer", "before", "after"),
    [
        ("eu-2", GREYLISTED, None, "eu-2"),
        ("eu-2", GREYLISTED, "eu-1", "eu-2"),
        ("", GREYLISTED, None, None),
        ("eu-2", ANSWERS["slow"], "eu-1", "eu-1"),
        ("eu-2", ANSWERS["slow"], None, None),
    ],
)
def test_who_was_answered_by_a_way_is_asked_for_by_it_again(
    asked_by: str, answer: Probe, before: str | None, after: str | None
) -> None:
    world = World(answers={"x": answer._replace(way=asked_by)})
    outputs = world.handle(task(["x@x.example"], source=before))
    assert world.prober.asked[0][2]["source"] == before
    [again] = values(outputs, RETRIES_5M.name)
    assert again["source"] == after
    evidence = values(outputs, ATTEMPTS.name)[0]["entries"][0]["finding"]["evidence"]
    assert evidence.get("way") == (asked_by or None)


def test_a_provider_that_changed_knows_nothing_of_the_earlier_way() -> None:
    world = World({"x.example": mx("x.example", "mx.elsewhere.example")})
    [moved] = world.handle(task(["ok@x.example"], source="eu-1"))
    assert values([moved], TASKS_BULK.name)[0]["source"] is None


@pytest.mark.parametrize("changes", [{"options": {"retry": False}}, {"verdict_by": NOW + timedelta(minutes=5)}])
def test_what_can_not_be_asked_again_is_answered_now(changes: dict[str, Any]) -> None:
    assert verdicts(World().handle(task(["grey@x.example"], **changes))) == {0: (True, "greylisted")}


def test_nothing_is_asked_after_verdict_by() -> None:
    world = World()
    assert world.handle(task(["ok@x.example"], verdict_by=NOW)) == []
    assert world.prober.asked == []


def test_who_waits_for_a_turn_past_verdict_by_asks_nothing() -> None:
    world = World(sessions_per_provider=1)
    record = task([f"ok{n}@x.example" for n in range(200)], verdict_by=NOW + timedelta(seconds=5))
    ask = world.prober.ask

    async def slow(*args: Any, **how: Any) -> list[Probe]:
        await asyncio.sleep(0)
        world.clock.now_ms += 5000
        return await ask(*args, **how)

    world.prober.ask = slow  # type: ignore[method-assign]
    outputs = world.handle(record)
    assert len(verdicts(outputs)) == 50, "only the first turn was given before the time was over"


def test_a_provider_that_changed_gets_the_task() -> None:
    world = World({"x.example": mx("x.example", "mx.elsewhere.example.org")})
    outputs = world.handle(task(["ok@x.example", "ok@y.example"]))
    assert verdicts(outputs) == {1: (True, "mailbox_accepted")}
    [moved] = [output for output in outputs if output.topic == TASKS_BULK.name]
    assert moved.key == b"example.org#0"
    [handed] = values([moved], TASKS_BULK.name)
    assert (handed["hops"], handed["attempt"], handed["provider"]) == (1, 1, "example.org")
    assert [provider for provider, _, _ in world.prober.asked] == ["example.net"]


def test_after_three_moves_it_is_asked_where_it_is() -> None:
    world = World()
    outputs = world.handle(task(["ok@x.example"], provider="fourth", hops=3))
    assert verdicts(outputs) == {0: (True, "mailbox_accepted")}
    assert [provider for provider, _, _ in world.prober.asked] == ["example.net"]


def test_domains_that_vanished_meanwhile_are_answered_without_asking() -> None:
    world = World(
        {
            "gone.example": no_route("gone.example", RouteKind.NOT_FOUND),
            "dim.example": no_route("dim.example", RouteKind.TEMPORARY),
        }
    )
    outputs = world.handle(task(["a@gone.example", "a@dim.example", "wrong"]))
    assert verdicts(outputs) == {
        0: (True, "domain_not_found"),
        1: (False, "dns_temporary"),
        2: (True, "syntax_invalid"),
    }
    assert world.prober.asked == []


def test_depth_dns_is_answered_when_dns_answers_again() -> None:
    world = World()
    outputs = world.handle(task(["a@x.example"], provider="unresolved", attempt=2, depth=Depth.DNS))
    assert verdicts(outputs) == {0: (True, "not_probed")}
    assert world.prober.asked == []


def test_what_is_asked_says_how() -> None:
    world = World(dialogue_deadline_s=60.0)
    world.handle(task(["ok@x.example"], lane=Lane.INTERACTIVE, options={"catch_all_probe": False}))
    told = {"catch_all_probe": False, "lane": Lane.INTERACTIVE, "timeout": 60.0, "source": None}
    assert world.prober.asked == [("example.net", ("ok@x.example",), told)]
    world.handle(task(["ok@x.example"], verdict_by=NOW + timedelta(seconds=7)))
    assert world.prober.asked[-1][2] == {
        "catch_all_probe": True,
        "lane": Lane.BULK,
        "timeout": 7.0,
        "source": None,
    }


def test_time_spent_waiting_for_a_turn_is_told() -> None:
    world = World(sessions_per_provider=1)
    ask = world.prober.ask

    async def slow(*args: Any, **how: Any) -> list[Probe]:
        await asyncio.sleep(0)
        world.clock.now_ms += 1000
        return [probe._replace(queued_ms=5) for probe in await ask(*args, **how)]

    world.prober.ask = slow  # type: ignore[method-assign]
    [attempt] = values(world.handle(task([f"ok{n}@x.example" for n in range(100)])), ATTEMPTS.name)
    assert {entry["finding"]["timing"]["queued_ms"] for entry in attempt["entries"]} == {5, 1005}


@pytest.mark.parametrize(("sessions_of", "together"), [(None, 100), (lambda provider: len(provider) - 8, 150)])
def test_no_more_addresses_of_a_provider_are_asked_at_a_time_than_its_sessions_serve(
    sessions_of: Callable[[str], int] | None, together: int
) -> None:
    world = World(sessions_per_provider=2, sessions_of=sessions_of)
    running, most = 0, 0
    ask = world.prober.ask

    async def watched(route: Any, provider: str, prepared: Any, **how: Any) -> list[Probe]:
        nonlocal running, most
        running += len(prepared)
        most = max(most, running)
        probes = await ask(route, provider, prepared, **how)
        running -= len(prepared)
        return probes

    world.prober.ask = watched  # type: ignore[method-assign]
    outputs = world.handle(task([f"ok{n}@x.example" for n in range(200)]))
    assert len(verdicts(outputs)) == 200
    assert most == together
    gauge = world.metrics.addresses_in_flight.labels(Lane.BULK)
    assert gauge._value.get() == 0


def test_the_role_reads_both_lanes_and_refuses_what_is_no_task() -> None:
    role = World().role
    assert [s.topic.name for s in role.subscriptions()] == [TASKS_INTERACTIVE.name, TASKS_BULK.name]
    with pytest.raises(Unusable, match="invalid"):
        run(role.handle(Log("x").append(b"{}")))


def test_tasks_wait_as_bytes_until_it_is_nearly_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    held = asyncio.Event()

    async def ask(_: Any, provider: str, prepared: Any, **__: Any) -> list[Probe]:
        opened.append(prepared[0].address)
        await held.wait()
        return [OK._replace(provider=provider) for _ in prepared]

    async def play() -> list[str]:
        first, second, other = (
            task(["a@x.example"]),
            task(["b@x.example"]),
            task(["c@y.example"], provider="example.org"),
        )
        monkeypatch.setattr("streams.roles.probe.OPEN_BYTES", len(first.value))
        world = World({"y.example": mx("y.example", "mx.other.example.org")})
        monkeypatch.setattr(world.prober, "ask", ask)
        running = [asyncio.create_task(world.role.handle(each)) for each in (first, second, other)]
        for _ in range(50):
            await asyncio.sleep(0)
        before = list(opened)
        held.set()
        await asyncio.gather(*running)
        return before

    assert asyncio.run(play()) == ["a@x.example", "c@y.example"]
    assert opened[2:] == ["b@x.example"]


def test_a_domain_that_opts_out_while_its_task_waits_is_not_asked() -> None:
    world = World()
    world.opted_out.put("no.example", listed=True)
    outputs = run(world.role.handle(task(["a@no.example", "b@yes.example"])))
    assert [asked for _, asked, _ in world.prober.asked] == [("b@yes.example",)]
    [attempt] = values(outputs, ATTEMPTS.name)
    reasons = {entry["positions"][0]["index"]: entry["finding"]["reason"] for entry in attempt["entries"]}
    assert reasons == {0: "do_not_probe", 1: "mailbox_accepted"}
    assert all(entry["final"] for entry in attempt["entries"])


# -- a provider that keeps everybody waiting -------------------------------------------------------------------------


async def test_a_task_that_waits_too_long_for_its_turn_makes_room_and_comes_again_as_it_is() -> None:
    world = World(turn_wait_s=0.001)
    first, second = task(["ok@x.example"], attempt=2), task(["ok@y.example"], attempt=2)
    async with world.role._open.take((first.topic, first.key), OPEN_BYTES):
        [again] = await world.role.handle(first)
        assert again == Outgoing(RETRIES_5M.name, first.key, first.value, ((PUT_ASIDE, b"1"),))
        headers = {"trace": b"t", PUT_ASIDE: b"1"}
        [again] = await world.role.handle(replace(second, headers=headers))
    assert again.headers == (("trace", b"t"), (PUT_ASIDE, b"2"))
    assert world.metrics.tasks_put_aside.labels("bulk")._value.get() == 2
    assert world.prober.asked == []
    assert len(world.role._open) == 0, "who waits no longer is not in the way"


async def test_a_task_whose_time_is_over_does_not_come_again_for_ever() -> None:
    world = World(turn_wait_s=0.001)
    record = task(["ok@x.example"])
    world.clock.now_ms = round(ticket(1).verdict_by.timestamp() * 1000)
    async with world.role._open.take((record.topic, record.key), OPEN_BYTES):
        assert list(await world.role.handle(record)) == []


async def test_others_do_not_wait_for_it() -> None:
    world = World(routes={"x.example": mx("x.example", "mail.elsewhere.test")})
    slow, other = task(["ok@y.example"]), replace(task(["ok@x.example"]), key=b"elsewhere.test#0")
    async with world.role._open.take((slow.topic, slow.key), OPEN_BYTES):
        outputs = await asyncio.wait_for(world.role.handle(other), 5)
    assert outputs
