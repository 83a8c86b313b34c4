"""Where mail goes, played on scripted answers."""

import asyncio
import random
from collections.abc import Callable, Mapping

import pytest

from streams.dns import resolver as module
from streams.dns.answers import MailRoute, RouteKind
from streams.dns.resolver import MailResolver
from streams.dns.transport import Answer, Exchange, RecordType, Status

ALLOWED = ("192.0.2.0/24", "2001:db8::/32")
ONE, TWO, SIX = "192.0.2.1", "192.0.2.2", "2001:db8::1"
PRIVATE = "10.0.0.1"


def mx(*exchanges: tuple[int, str], ttl: int | None = 300) -> Answer:
    return Answer(Status.OK, exchanges=tuple(Exchange(*each) for each in exchanges), ttl=ttl)


def at(*addresses: str, ttl: int | None = 300) -> Answer:
    return Answer(Status.OK, addresses=addresses, ttl=ttl)


NODATA = Answer(Status.NODATA)
NXDOMAIN = Answer(Status.NXDOMAIN)
TIMEOUT = Answer(Status.TIMEOUT, detail="no answer in time")

Key = tuple[str, str]


class Script:
    """A transport that answers from a table; what is not in it does not exist."""

    def __init__(self, answers: Mapping[Key, Answer]) -> None:
        self.answers = dict(answers)
        self.asked: list[Key] = []
        self.closed = False

    async def query(self, name: str, rdtype: RecordType) -> Answer:
        self.asked.append((name, rdtype.name))
        await asyncio.sleep(0)
        answer = self.answers.get((name, rdtype.name))
        if answer is None:
            known = any(key[0] == name for key in self.answers)
            answer = NODATA if known else NXDOMAIN
        return answer._replace(canonical=answer.canonical or name)

    async def aclose(self) -> None:
        self.closed = True


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def resolver_of(
    script: Script, clock: Callable[[], float] | None = None, *, ipv6: bool = False, **options: object
) -> MailResolver:
    return MailResolver(
        transport=script,
        clock=clock or Clock(),
        rng=random.Random(7),
        allowed_networks=ALLOWED,
        ipv6=ipv6,
        **options,  # type: ignore[arg-type]
    )


async def route_of(answers: Mapping[Key, Answer], domain: str = "d.test", *, ipv6: bool = False) -> MailRoute:
    return await resolver_of(Script(answers), ipv6=ipv6).route(domain)


def hosts(route: MailRoute) -> list[tuple[str, int, tuple[str, ...]]]:
    return [(host.name, host.preference, host.addresses) for host in route.hosts]


async def test_exchangers_come_in_order_of_preference() -> None:
    answers = {("d.test", "MX"): mx((20, "b.test"), (10, "a.test")), ("a.test", "A"): at(ONE), ("b.test", "A"): at(TWO)}
    route = await route_of(answers, "D.Test.")
    assert (route.domain, route.kind) == ("d.test", RouteKind.MX)
    assert hosts(route) == [("a.test", 10, (ONE,)), ("b.test", 20, (TWO,))]


async def test_equal_preferences_share_the_load() -> None:
    answers: dict[Key, Answer] = {("d.test", "MX"): mx(*((5, f"{name}.test") for name in "abcdef"), (1, "z.test"))}
    answers |= {(f"{name}.test", "A"): at(ONE) for name in "abcdefz"}
    resolver = resolver_of(Script(answers))
    orders = {tuple(host.name for host in (await resolver.route("d.test")).hosts) for _ in range(20)}
    assert len(orders) > 5
    assert {order[0] for order in orders} == {"z.test"}


async def test_a_host_named_twice_is_asked_at_its_best_preference() -> None:
    route = await route_of({("d.test", "MX"): mx((20, "a.test"), (10, "a.test")), ("a.test", "A"): at(ONE)})
    assert hosts(route) == [("a.test", 10, (ONE,))]


async def test_ipv4_comes_before_ipv6() -> None:
    answers = {("d.test", "MX"): mx((10, "a.test")), ("a.test", "A"): at(ONE, TWO), ("a.test", "AAAA"): at(SIX)}
    assert hosts(await route_of(answers, ipv6=True)) == [("a.test", 10, (ONE, TWO, SIX))]
    assert hosts(await route_of(answers)) == [("a.test", 10, (ONE, TWO))]


async def test_a_host_without_ipv4_is_reached_by_ipv6_whatever_was_asked_for() -> None:
    answers = {("d.test", "MX"): mx((10, "a.test")), ("a.test", "AAAA"): at(SIX)}
    for ipv6 in (True, False):
        assert hosts(await route_of(answers, ipv6=ipv6)) == [("a.test", 10, (SIX,))]


async def test_a_host_whose_ipv4_may_not_be_dialled_is_reached_by_ipv6() -> None:
    answers = {("d.test", "MX"): mx((10, "a.test")), ("a.test", "A"): at("127.0.0.1"), ("a.test", "AAAA"): at(SIX)}
    assert hosts(await route_of(answers)) == [("a.test", 10, (SIX,))]


async def test_while_the_other_family_fails_nothing_is_learned_and_it_is_asked_again_soon() -> None:
    answers = {("d.test", "MX"): mx((10, "a.test")), ("a.test", "A"): at("127.0.0.1"), ("a.test", "AAAA"): TIMEOUT}
    script, clock = Script(answers), Clock()
    resolver = resolver_of(script, clock)
    assert (await resolver.route("d.test")).kind is RouteKind.TEMPORARY
    script.answers[("a.test", "AAAA")] = at(SIX)
    clock.now += 20.0
    assert (await resolver.route("d.test")).kind is RouteKind.MX


async def test_a_family_that_fails_does_not_hide_the_other() -> None:
    answers = {("d.test", "MX"): mx((10, "a.test")), ("a.test", "A"): at(ONE), ("a.test", "AAAA"): TIMEOUT}
    assert hosts(await route_of(answers, ipv6=True)) == [("a.test", 10, (ONE,))]


async def test_without_mx_the_domain_is_its_own_exchanger() -> None:
    route = await route_of({("d.test", "A"): at(ONE)})
    assert (route.kind, hosts(route)) == (RouteKind.IMPLICIT_MX, [("d.test", 0, (ONE,))])


@pytest.mark.parametrize("answer", [mx((0, "")), mx((10, "")), mx((0, ""), (5, ""))])
async def test_null_mx_takes_no_mail_even_with_an_address(answer: Answer) -> None:
    route = await route_of({("d.test", "MX"): answer, ("d.test", "A"): at(ONE)})
    assert (route.kind, route.hosts) == (RouteKind.NULL_MX, ())


async def test_the_root_among_others_is_ignored() -> None:
    route = await route_of({("d.test", "MX"): mx((0, ""), (10, "a.test")), ("a.test", "A"): at(ONE)})
    assert hosts(route) == [("a.test", 10, (ONE,))]


@pytest.mark.parametrize(
    "answers", [{}, {("d.test", "TXT"): NODATA}, {("d.test", "MX"): NODATA, ("d.test", "A"): NXDOMAIN}]
)
async def test_no_such_domain_or_nothing_there_is_not_found(answers: Mapping[Key, Answer]) -> None:
    for ipv6 in (True, False):
        route = await route_of(answers, ipv6=ipv6)
        assert route.kind is RouteKind.NOT_FOUND
        assert route.detail


@pytest.mark.parametrize("status", [Status.SERVFAIL, Status.REFUSED, Status.TIMEOUT])
async def test_a_failure_is_temporary_wherever_it_happens(status: Status) -> None:
    failed = Answer(status, detail=f"192.0.2.53: {status}")
    for answers in (
        {("d.test", "MX"): failed, ("d.test", "A"): at(ONE)},
        {("d.test", "MX"): NODATA, ("d.test", "A"): failed},
        {("d.test", "MX"): mx((10, "a.test")), ("a.test", "A"): failed},
        {("d.test", "MX"): mx((10, "a.test"), (20, "b.test")), ("a.test", "A"): failed, ("b.test", "A"): at(PRIVATE)},
    ):
        route = await route_of(answers)
        assert (route.kind, route.hosts) == (RouteKind.TEMPORARY, ())
        assert str(status) in route.detail


async def test_a_host_that_fails_or_has_no_address_is_passed_over() -> None:
    answers = {
        ("d.test", "MX"): mx((10, "a.test"), (20, "b.test"), (30, "c.test")),
        ("a.test", "A"): TIMEOUT,
        ("c.test", "A"): at(TWO),
    }
    assert hosts(await route_of(answers)) == [("c.test", 30, (TWO,))]


async def test_exchangers_that_lead_nowhere_are_unroutable() -> None:
    nowhere = await route_of({("d.test", "MX"): mx((10, "a.test"))})
    assert (nowhere.kind, nowhere.detail) == (RouteKind.UNROUTABLE, "a.test has no address")
    inside = await route_of(
        {("d.test", "MX"): mx((5, "b.test"), (10, "a.test")), ("a.test", "A"): at(PRIVATE, "127.0.0.1")}
    )
    assert (inside.kind, inside.hosts) == (RouteKind.UNROUTABLE, ())
    assert PRIVATE in inside.detail
    own = await route_of({("d.test", "A"): at("169.254.169.254")})
    assert own.kind is RouteKind.UNROUTABLE
    assert "169.254.169.254" in own.detail


async def test_an_address_that_may_not_be_dialled_is_left_out() -> None:
    route = await route_of({("d.test", "MX"): mx((10, "a.test")), ("a.test", "A"): at(PRIVATE, ONE, "127.0.0.1")})
    assert hosts(route) == [("a.test", 10, (ONE,))]


async def test_an_alias_that_the_server_left_is_followed() -> None:
    answers = {
        ("d.test", "MX"): Answer(Status.NODATA, "e.test"),
        ("e.test", "MX"): mx((10, "a.test")),
        ("a.test", "A"): Answer(Status.NODATA, "b.test"),
        ("b.test", "A"): at(ONE),
    }
    assert hosts(await route_of(answers)) == [("a.test", 10, (ONE,))]


async def test_aliases_in_a_circle_are_a_failure_of_the_domain_not_a_verdict() -> None:
    circle = {("d.test", "MX"): Answer(Status.NODATA, "e.test"), ("e.test", "MX"): Answer(Status.NODATA, "d.test")}
    route = await route_of(circle)
    assert route.kind is RouteKind.TEMPORARY
    assert "CNAME" in route.detail


@pytest.mark.parametrize(
    ("literal", "address"),
    [("[192.0.2.7]", "192.0.2.7"), ("[IPv6:2001:db8::7]", "2001:db8::7"), ("[8.8.8.8]", "8.8.8.8")],
)
async def test_a_literal_leads_to_its_address_without_a_question(literal: str, address: str) -> None:
    script = Script({})
    route = await resolver_of(script).route(literal)
    assert (route.kind, hosts(route)) == (RouteKind.IMPLICIT_MX, [(literal.lower(), 0, (address,))])
    assert script.asked == []


@pytest.mark.parametrize("literal", ["[127.0.0.1]", "[IPv6:::1]", "[x]", "["])
async def test_a_literal_that_may_not_be_dialled_is_unroutable(literal: str) -> None:
    assert (await route_of({}, literal)).kind is RouteKind.UNROUTABLE


async def test_a_hundred_domains_on_one_host_ask_for_it_once() -> None:
    answers: dict[Key, Answer] = {(f"d{n}.test", "MX"): mx((10, "a.test")) for n in range(100)}
    script = Script(answers | {("a.test", "A"): at(ONE)})
    resolver = resolver_of(script)
    routes = await asyncio.gather(*(resolver.route(f"d{n}.test") for n in range(100)))
    assert all(route.has_hosts for route in routes)
    assert len(script.asked) == 101


async def test_concurrent_asks_for_one_name_are_merged() -> None:
    script = Script({("d.test", "MX"): mx((10, "a.test")), ("a.test", "A"): at(ONE)})
    resolver = resolver_of(script)
    await asyncio.gather(*(resolver.route("d.test") for _ in range(50)))
    assert script.asked == [("d.test", "MX"), ("a.test", "A")]


@pytest.mark.parametrize(
    ("ttl", "kept"), [(0, module.MIN_TTL), (120, 120.0), (10**6, module.MAX_TTL), (None, module.NEGATIVE_TTL)]
)
async def test_a_route_is_kept_for_its_time_within_bounds(ttl: int | None, kept: float) -> None:
    script, clock = (
        Script({("d.test", "MX"): mx((10, "a.test"), ttl=ttl), ("a.test", "A"): at(ONE, ttl=10**6)}),
        Clock(),
    )
    resolver = resolver_of(script, clock)
    assert [(await resolver.route("d.test")).cached for _ in range(2)] == [False, True]
    clock.now += kept - 0.1
    assert (await resolver.route("d.test")).cached
    clock.now += 0.1
    assert not (await resolver.route("d.test")).cached
    assert script.asked.count(("d.test", "MX")) == 2


async def test_what_is_known_of_each_kind_counts_as_cached() -> None:
    script = Script({("n.test", "MX"): mx((0, "")), ("i.test", "A"): at(ONE), ("t.test", "MX"): TIMEOUT})
    resolver = resolver_of(script)
    for domain in ("n.test", "i.test", "t.test", "x.test"):
        assert [(await resolver.route(domain)).cached for _ in range(2)] == [False, True], domain


async def test_a_failure_is_asked_again_soon() -> None:
    script, clock = Script({("d.test", "MX"): TIMEOUT}), Clock()
    resolver = resolver_of(script, clock)
    await resolver.route("d.test")
    clock.now += module.FAILURE_TTL[0] - 0.1
    assert (await resolver.route("d.test")).kind is RouteKind.TEMPORARY
    assert len(script.asked) == 1
    script.answers = {("d.test", "A"): at(ONE)}
    clock.now += module.FAILURE_TTL[1]
    assert (await resolver.route("d.test")).kind is RouteKind.IMPLICIT_MX


async def test_a_family_that_always_fails_is_not_asked_again_with_each_failure() -> None:
    script, clock = Script({("d.test", "A"): at(ONE, ttl=600), ("d.test", "AAAA"): TIMEOUT}), Clock()
    resolver = resolver_of(script, clock, ipv6=True)
    await resolver.route("d.test")
    clock.now += module.FAILURE_TTL[1] + 1
    await resolver.route("d.test")
    assert script.asked.count(("d.test", "AAAA")) == 1


async def test_the_time_of_a_route_is_told_in_milliseconds() -> None:
    clock = Clock()

    class Slow(Script):
        async def query(self, name: str, rdtype: RecordType) -> Answer:
            clock.now += 0.05
            return await super().query(name, rdtype)

    seen: list[tuple[str, str, str, float]] = []
    script = Slow({("d.test", "MX"): mx((10, "a.test")), ("a.test", "A"): at(ONE)})
    resolver = resolver_of(script, clock, on_query=lambda *told: seen.append(told))
    assert (await resolver.route("d.test")).elapsed_ms == 100
    assert (await resolver.route("d.test")).elapsed_ms == 0
    assert [(*told[:3], round(told[3], 3)) for told in seen] == [
        ("d.test", "MX", "ok", 0.05),
        ("a.test", "A", "ok", 0.05),
    ]


async def test_a_hostile_answer_costs_a_bounded_number_of_questions() -> None:
    script = Script({("d.test", "MX"): mx(*((n, f"h{n}.test") for n in range(5000)))})
    route = await resolver_of(script).route("d.test")
    assert route.kind is RouteKind.UNROUTABLE
    assert len(script.asked) == 1 + module.MAX_EXCHANGES
    many = await route_of({("d.test", "A"): at(*(f"192.0.2.{n}" for n in range(200)))})
    assert len(many.hosts[0].addresses) == module.MAX_ADDRESSES


async def test_questions_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IN_FLIGHT", 3)
    most = now = 0

    class Counting(Script):
        async def query(self, name: str, rdtype: RecordType) -> Answer:
            nonlocal most, now
            now += 1
            most = max(most, now)
            answer = await super().query(name, rdtype)
            now -= 1
            return answer

    resolver = resolver_of(Counting({}))
    await asyncio.gather(*(resolver.route(f"d{n}.test") for n in range(20)))
    assert (most, now) == (3, 0)


async def test_closing_cancels_and_closes_the_transport() -> None:
    class Silent(Script):
        async def query(self, name: str, rdtype: RecordType) -> Answer:
            await asyncio.Event().wait()
            raise AssertionError

    script = Silent({})
    async with resolver_of(script) as resolver:
        asker = asyncio.create_task(resolver.route("d.test"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert script.closed
    with pytest.raises(asyncio.CancelledError):
        await asker


def test_wrong_settings_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="name server 'dns'"):
        MailResolver(["dns"])
    with pytest.raises(ValueError, match=r"1\.2\.3\.4/99"):
        MailResolver(allowed_networks=["1.2.3.4/99"])
