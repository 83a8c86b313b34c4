"""Route: every address once, as a finding or in a task."""

from datetime import timedelta
from typing import Any

import pytest

from schemas.topics import ATTEMPTS, RETRIES_5M, TASKS_BULK, TASKS_INTERACTIVE
from schemas.vocabulary import Depth, Lane
from streams.checks.lists import Lists
from streams.checks.optouts import OptOuts
from streams.checks.precheck import Precheck
from streams.dns.answers import MailRoute, RouteKind
from streams.records import Outgoing, Unusable
from streams.roles.route import Route
from tests.unit.roles.support import (
    NOW,
    Clock,
    FakeResolver,
    Log,
    admitted,
    metrics,
    mx,
    no_route,
    run,
    settings,
    values,
)

PRECHECK = Precheck(Lists(disposable=frozenset(), free=frozenset(), roles=frozenset()))


def routed(
    addresses: list[str],
    routes: dict[str, MailRoute] | None = None,
    *,
    shards: Any = (),
    opted_out: Any = (),
    **ticket: Any,
) -> list[Outgoing]:
    role = Route(
        settings(provider_shards=dict(shards)),
        metrics(),
        precheck=PRECHECK,
        resolver=FakeResolver(routes or {}),
        clock=Clock(),
        opted_out=OptOuts(opted_out),
    )
    return list(run(role.handle(admitted(addresses, **ticket))))


def entries(outputs: list[Outgoing]) -> list[dict[str, Any]]:
    return [entry for attempt in values(outputs, ATTEMPTS.name) for entry in attempt["entries"]]


def covered(outputs: list[Outgoing]) -> list[int]:
    """Every index that is decided or in a task, in order."""
    places = [entry["positions"] for entry in entries(outputs) if entry["final"]]
    for topic in (TASKS_BULK.name, TASKS_INTERACTIVE.name, RETRIES_5M.name):
        places += [item["positions"] for task in values(outputs, topic) for item in task["items"]]
    return sorted(position["index"] for group in places for position in group)


def test_addresses_go_to_the_provider_of_their_domain() -> None:
    outputs = routed(
        ["a@one.example", "b@two.example", "c@one.example"], {"two.example": mx("two.example", "mx.other.example.org")}
    )
    assert [(o.topic, o.key) for o in outputs] == [
        (TASKS_BULK.name, b"example.net#0"),
        (TASKS_BULK.name, b"example.org#0"),
    ]
    first, second = values(outputs, TASKS_BULK.name)
    assert [item["address"] for item in first["items"]] == ["a@one.example", "c@one.example"]
    assert [item["address"] for item in second["items"]] == ["b@two.example"]
    assert (first["attempt"], first["hops"], first["provider"]) == (1, 0, "example.net")
    assert covered(outputs) == [0, 1, 2]


def test_an_address_that_stands_several_times_is_asked_for_once() -> None:
    outputs = routed(["a@x.example", "A@x.example", " a@X.example", "a@x.example"])
    [task] = values(outputs, TASKS_BULK.name)
    assert [(item["address"], [p["index"] for p in item["positions"]]) for item in task["items"]] == [
        ("a@x.example", [0, 2, 3]),
        ("A@x.example", [1]),
    ]
    assert [p["input"] for p in task["items"][0]["positions"]] == ["a@x.example", " a@X.example", "a@x.example"]


def test_what_is_wrong_by_itself_is_answered_at_once() -> None:
    outputs = routed(["no at sign", "a\r\nb@x.example", "a@x.example", "no at sign"])
    found = entries(outputs)
    assert [(e["finding"]["reason"], [p["index"] for p in e["positions"]]) for e in found] == [
        ("syntax_invalid", [0, 3]),
        ("syntax_invalid", [1]),
    ]
    assert all(entry["final"] for entry in found)
    assert covered(outputs) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (RouteKind.NULL_MX, "null_mx"),
        (RouteKind.NOT_FOUND, "domain_not_found"),
        (RouteKind.UNROUTABLE, "mx_unroutable"),
    ],
)
def test_a_domain_without_anybody_to_ask_is_answered_at_once(kind: RouteKind, reason: str) -> None:
    [entry] = entries(routed(["a@x.example"], {"x.example": no_route("x.example", kind)}))
    assert (entry["final"], entry["finding"]["reason"]) == (True, reason)


def test_dns_that_does_not_answer_is_asked_again_later() -> None:
    outputs = routed(["a@x.example"], {"x.example": no_route("x.example", RouteKind.TEMPORARY)})
    [entry] = entries(outputs)
    assert (entry["final"], entry["finding"]["reason"]) == (False, "dns_temporary")
    assert entry["finding"]["next_attempt_at"] == "2026-03-10T12:05:00Z"
    [task] = values(outputs, RETRIES_5M.name)
    assert (task["provider"], task["attempt"]) == ("unresolved", 2)
    assert [(past["attempt"], past["reason"]) for past in task["items"][0]["past"]] == [(1, "dns_temporary")]


@pytest.mark.parametrize("ticket", [{"options": {"retry": False}}, {"verdict_by": NOW + timedelta(minutes=5)}])
def test_dns_that_does_not_answer_is_the_answer_when_there_is_no_later(ticket: dict[str, Any]) -> None:
    outputs = routed(["a@x.example"], {"x.example": no_route("x.example", RouteKind.TEMPORARY)}, **ticket)
    [entry] = entries(outputs)
    assert (entry["final"], entry["finding"]["reason"], entry["finding"]["next_attempt_at"]) == (
        True,
        "dns_temporary",
        None,
    )
    assert len(outputs) == 1


def test_the_sandbox_asks_nobody_and_is_final() -> None:
    resolver = FakeResolver()
    role = Route(settings(), metrics(), precheck=PRECHECK, resolver=resolver, clock=Clock(), opted_out=OptOuts())
    outputs = list(run(role.handle(admitted(["mailbox-full@sandbox.mailvet.test", "greylisted@sandbox.mailvet.test"]))))
    assert [(e["final"], e["finding"]["reason"]) for e in entries(outputs)] == [
        (True, "mailbox_full"),
        (True, "greylisted"),
    ]
    assert resolver.asked == []


def test_depth_syntax_asks_nobody() -> None:
    resolver = FakeResolver()
    role = Route(settings(), metrics(), precheck=PRECHECK, resolver=resolver, clock=Clock(), opted_out=OptOuts())
    outputs = list(run(role.handle(admitted(["a@x.example", "no"], depth=Depth.SYNTAX))))
    assert [e["finding"]["reason"] for e in entries(outputs)] == ["not_probed", "syntax_invalid"]
    assert resolver.asked == []


def test_depth_dns_asks_dns_alone() -> None:
    outputs = routed(
        ["a@x.example", "b@gone.example"],
        {"gone.example": no_route("gone.example", RouteKind.NOT_FOUND)},
        depth=Depth.DNS,
    )
    assert [e["finding"]["reason"] for e in entries(outputs)] == ["not_probed", "domain_not_found"]
    assert covered(outputs) == [0, 1]


def test_each_domain_is_looked_up_once() -> None:
    resolver = FakeResolver()
    role = Route(settings(), metrics(), precheck=PRECHECK, resolver=resolver, clock=Clock(), opted_out=OptOuts())
    run(role.handle(admitted([f"a{n}@d{n % 3}.example" for n in range(60)])))
    assert sorted(resolver.asked) == ["d0.example", "d1.example", "d2.example"]


def test_tasks_and_attempts_hold_200_addresses_at_most() -> None:
    outputs = routed([f"a{n}@x.example" for n in range(450)] + [f"wrong {n}" for n in range(250)])
    assert [len(task["items"]) for task in values(outputs, TASKS_BULK.name)] == [200, 200, 50]
    assert [len(attempt["entries"]) for attempt in values(outputs, ATTEMPTS.name)] == [200, 50]
    assert covered(outputs) == list(range(700))


def test_a_large_provider_is_split_by_domain() -> None:
    addresses = [f"a{n}@d{n % 7}.example" for n in range(70)]
    outputs = routed(addresses, shards={"example.net": 3})
    tasks = values(outputs, TASKS_BULK.name)
    assert {task["shard"] for task in tasks} == {0, 1, 2}
    shard_of = {item["address"].split("@")[1]: task["shard"] for task in tasks for item in task["items"]}
    assert all(item["address"].split("@")[1] in shard_of for task in tasks for item in task["items"])
    assert all(o.key == f"example.net#{task['shard']}".encode() for o, task in zip(outputs, tasks, strict=True))
    again = values(routed(addresses, shards={"example.net": 3}), TASKS_BULK.name)
    assert tasks == again


def test_the_lane_of_the_ticket_is_the_lane_of_its_tasks() -> None:
    assert [o.topic for o in routed(["a@x.example"], lane=Lane.INTERACTIVE)] == [TASKS_INTERACTIVE.name]


def test_what_is_no_admitted_request_is_a_dead_letter() -> None:
    role = Route(settings(), metrics(), precheck=PRECHECK, resolver=FakeResolver(), clock=Clock(), opted_out=OptOuts())
    assert [s.topic.name for s in role.subscriptions()] == [
        "mailvet.admitted.interactive.v1",
        "mailvet.admitted.bulk.v1",
    ]
    with pytest.raises(Unusable, match="not_json"):
        run(role.handle(Log("mailvet.admitted.bulk.v1").append(b"?")))


def test_a_domain_that_opted_out_and_those_below_it_are_not_asked() -> None:
    outputs = routed(
        ["a@no.example", "b@sub.no.example", "c@yes.example", "d@no.example.org"], opted_out={"no.example"}
    )
    asked = [item["address"] for task in values(outputs, TASKS_BULK.name) for item in task["items"]]
    assert sorted(asked) == ["c@yes.example", "d@no.example.org"]
    assert {(entry["finding"]["reason"], entry["final"]) for entry in entries(outputs)} == {("do_not_probe", True)}
    assert covered(outputs) == [0, 1, 2, 3]


def test_a_domain_that_opted_out_and_has_no_mail_is_said_to_have_none() -> None:
    routes = {"no.example": no_route("no.example", RouteKind.NULL_MX)}
    assert entries(routed(["a@no.example"], routes, opted_out={"no.example"}))[0]["finding"]["reason"] == "null_mx"
