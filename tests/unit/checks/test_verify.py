"""The core without Kafka over fakes: who is asked, how often, how many at a time, and what each place hears."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from schemas.result import Finding
from schemas.vocabulary import Depth, Reason, Stage, Verdict
from streams.checks.classify import past_of
from streams.checks.evidence import Failure, Prepared, Probe
from streams.checks.lists import Lists
from streams.checks.precheck import Precheck
from streams.checks.verify import Verifier, utc_now
from streams.dns.answers import MailHost, MailRoute, RouteKind
from streams.smtp.replies import Reply

NOW = datetime(2030, 1, 1, tzinfo=UTC)
OK, UNKNOWN = Reply(250, ("2.1.5 Ok",)), Reply(550, ("5.1.1 User unknown",))
LATER = Reply(450, ("4.2.0 Greylisted, try again later",))
PRECHECK = Precheck(Lists(frozenset(), frozenset(), frozenset({"info"})))


@dataclass
class FakeResolver:
    """Every domain has a host but ``gone.test``."""

    asked: list[str] = field(default_factory=list)
    host: str = "mx.provider.test"

    async def route(self, domain: str) -> MailRoute:
        self.asked.append(domain)
        await asyncio.sleep(0)
        if domain == "gone.test":
            return MailRoute(domain, RouteKind.NOT_FOUND)
        return MailRoute(domain, RouteKind.MX, (MailHost(self.host, 10, ("192.0.2.1",)),))


@dataclass
class FakeProber:
    """Knows every ``user``; says "later" the first ``later`` times that it is asked for anybody else."""

    later: int = 0
    ways: list[str] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    options: list[dict[str, object]] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0
    gate: asyncio.Event | None = None
    busy: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(
        self, route: MailRoute, provider: str, prepared: Sequence[Prepared], **options: object
    ) -> list[Probe]:
        self.asked.append(tuple(each.address for each in prepared))
        self.options.append({"provider": provider, **options})
        self.in_flight += len(prepared)
        self.most = max(self.most, self.in_flight)
        if len(self.asked) == 2:
            self.busy.set()
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
        finally:
            self.in_flight -= len(prepared)
        way = self.ways.pop(0) if self.ways else ""
        return [Probe(Stage.RCPT, self._reply(each.local), way=way) for each in prepared]

    def _reply(self, local: str) -> Reply:
        if local.startswith("user"):
            return OK
        if self.later:
            self.later -= 1
            return LATER
        return UNKNOWN


def verifier(prober: FakeProber | None = None, resolver: FakeResolver | None = None, **options: object) -> Verifier:
    made = Verifier(
        precheck=PRECHECK,
        resolver=resolver or FakeResolver(),
        prober=prober or FakeProber(),  # type: ignore[arg-type]
        risky=frozenset({Reason.CATCH_ALL, Reason.ROLE_ACCOUNT}),
        now=lambda: NOW,
    )
    return replace(made, **options)  # type: ignore[arg-type]


async def verify(of: Verifier, *addresses: str, **options: object) -> list[Finding]:
    """The findings in the order of the addresses, each of which must have its own."""
    found = {index: (text, finding) async for index, text, finding in of.verify(addresses, **options)}  # type: ignore[arg-type]
    assert [found[index][0] for index in range(len(addresses))] == list(addresses)
    return [found[index][1] for index in range(len(addresses))]


async def test_each_address_has_its_own_finding() -> None:
    addresses = (
        "user@a.test",
        "x@a.test",
        "no address",
        "user@gone.test",
        "info@a.test",
        "null-mx@sandbox.mailvet.test",
    )
    assert [finding.reason for finding in await verify(verifier(), *addresses)] == [
        Reason.MAILBOX_ACCEPTED,
        Reason.MAILBOX_NOT_FOUND,
        Reason.SYNTAX_INVALID,
        Reason.DOMAIN_NOT_FOUND,
        Reason.MAILBOX_NOT_FOUND,
        Reason.NULL_MX,
    ]


async def test_nothing_gives_nothing() -> None:
    assert await verify(verifier()) == []


async def test_addresses_of_a_domain_are_asked_together_and_repeats_once() -> None:
    prober, resolver = FakeProber(), FakeResolver()
    found = await verify(
        verifier(prober, resolver), "user@a.test", "x@a.test", " user@A.test ", "User@a.test", "x y", "x y"
    )
    assert prober.asked == [("user@a.test", "x@a.test", "User@a.test")]
    assert resolver.asked == ["a.test"]
    assert found[0] == found[2]
    assert found[3].normalized == "User@a.test"


@pytest.mark.parametrize(
    ("depth", "asked", "probed", "stage"),
    [(Depth.SYNTAX, 0, 0, Stage.SYNTAX), (Depth.DNS, 1, 0, Stage.DNS), (Depth.SMTP, 1, 1, Stage.RCPT)],
)
async def test_a_depth_goes_no_further(depth: Depth, asked: int, probed: int, stage: Stage) -> None:
    prober, resolver = FakeProber(), FakeResolver()
    (finding,) = await verify(verifier(prober, resolver), "user@a.test", depth=depth)
    assert (len(resolver.asked), len(prober.asked), finding.evidence.stage) == (asked, probed, stage)
    assert finding.verdict is (Verdict.DELIVERABLE if probed else Verdict.UNKNOWN)


async def test_the_sandbox_and_bad_syntax_reach_no_network() -> None:
    prober, resolver = FakeProber(), FakeResolver()
    await verify(verifier(prober, resolver), "null-mx@sandbox.mailvet.test", "no address")
    assert (prober.asked, resolver.asked) == ([], [])


async def test_a_domain_that_is_not_found_is_not_probed() -> None:
    prober = FakeProber()
    await verify(verifier(prober), "user@gone.test")
    assert prober.asked == []


async def test_250_of_a_provider_that_hides_mailboxes_says_nothing() -> None:
    (finding,) = await verify(verifier(resolver=FakeResolver(host="mta5.am0.yahoodns.net")), "user@a.test")
    assert (finding.reason, finding.flags.catch_all) == (Reason.VERIFICATION_REFUSED, None)


async def test_what_the_prober_is_told() -> None:
    prober = FakeProber()
    await verify(verifier(prober, timeout_s=7.0, catch_all_probe=False), "user@a.test")
    [told] = prober.options
    assert told == {
        "provider": "provider.test",
        "catch_all_probe": False,
        "lane": None,
        "timeout": 7.0,
        "source": None,
    }


async def test_who_heard_later_is_asked_for_by_the_same_way() -> None:
    prober = FakeProber(later=2, ways=["eu-2", "eu-1", "eu-1"])

    async def sleep(_: float) -> None:
        pass

    of = verifier(prober, retry_delays_s=(5.0, 9.0), sleep=sleep)
    user, other = await verify(of, "user@a.test", "x@a.test")
    assert [told["source"] for told in prober.options] == [None, "eu-2", "eu-1"]
    assert (user.evidence.way, other.evidence.way) == ("eu-2", "eu-1")


async def test_who_was_not_answered_does_not_say_which_way_it_is() -> None:
    prober = FakeProber(later=2, ways=["eu-2", "", "eu-2"])

    async def sleep(_: float) -> None:
        pass

    of = verifier(prober, retry_delays_s=(5.0, 9.0), sleep=sleep)
    await verify(of, "user@a.test", "x@a.test")
    assert [told["source"] for told in prober.options] == [None, "eu-2", "eu-2"]


async def test_only_those_who_heard_later_are_asked_again_after_each_delay() -> None:
    prober, slept = FakeProber(later=2), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    of = verifier(prober, retry_delays_s=(5.0, 9.0), sleep=sleep)
    user, other = await verify(of, "user@a.test", "x@a.test")
    assert prober.asked == [("user@a.test", "x@a.test"), ("x@a.test",), ("x@a.test",)]
    assert slept == [5.0, 9.0]
    assert (user.attempt, user.attempts) == (1, ())
    assert (other.reason, other.attempt) == (Reason.MAILBOX_NOT_FOUND, 3)
    assert [(past.attempt, past.reason, past.smtp_code) for past in other.attempts] == [
        (1, Reason.GREYLISTED, 450),
        (2, Reason.GREYLISTED, 450),
    ]


async def test_after_the_last_delay_later_is_the_answer() -> None:
    (finding,) = await verify(verifier(FakeProber(later=1)), "x@a.test")
    assert (finding.verdict, finding.reason, finding.retryable) == (Verdict.UNKNOWN, Reason.GREYLISTED, True)


async def test_no_more_than_a_window_is_read_or_in_flight() -> None:
    class Staggered(FakeProber):
        async def ask(self, route: MailRoute, *rest: object, **options: object) -> list[Probe]:
            for _ in range(int(route.domain[1])):
                await asyncio.sleep(0)
            return await super().ask(route, *rest, **options)  # type: ignore[arg-type]

    prober, read = Staggered(), 0

    def source() -> Iterator[str]:
        nonlocal read
        for read in range(1, 101):
            yield f"user{read}@d{read % 7}.test"

    answered = 0
    async for _ in verifier(prober).verify(source(), window=10):
        answered += 1
        assert read - answered <= 10
    assert answered == 100
    assert prober.most <= 10


async def test_who_stops_listening_ends_what_is_in_flight() -> None:
    prober = FakeProber(gate=asyncio.Event())
    answers = verifier(prober).verify(["no address", "user@a.test", "user@b.test"])
    assert (await anext(answers))[1] == "no address"
    await prober.busy.wait()
    assert prober.in_flight == 2
    await answers.aclose()
    assert prober.in_flight == 0


async def test_a_mistake_of_ours_is_not_swallowed() -> None:
    class Broken(FakeProber):
        async def ask(self, *_: object, **__: object) -> list[Probe]:
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        await verify(verifier(Broken()), "user@a.test")


@pytest.mark.parametrize(
    ("probe", "code"), [(Probe(Stage.RCPT, UNKNOWN), 550), (Probe(Stage.RCPT, failure=Failure.TIMEOUT), None)]
)
async def test_what_is_remembered_of_an_attempt(probe: Probe, code: int | None) -> None:
    class One(FakeProber):
        async def ask(self, *_: object, **__: object) -> list[Probe]:
            return [probe]

    (finding,) = await verify(verifier(One()), "x@a.test")
    past = past_of(finding)
    assert (past.attempt, past.reason, past.smtp_code, past.at) == (1, finding.reason, code, NOW)


def test_findings_carry_utc() -> None:
    assert utc_now().tzinfo is UTC


async def test_a_domain_that_opted_out_is_not_asked() -> None:
    prober = FakeProber()
    of = verifier(prober, opted_out=lambda domain: domain == "no.test")
    found = await verify(of, "user@no.test", "user@yes.test", "no address")
    reasons = [Reason.DO_NOT_PROBE, Reason.MAILBOX_ACCEPTED, Reason.SYNTAX_INVALID]
    assert [finding.reason for finding in found] == reasons
    assert prober.asked == [("user@yes.test",)]
