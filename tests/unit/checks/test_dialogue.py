"""The dialogue over a scripted pool: what is asked of whom, in which write, and what each address hears."""

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pytest

from schemas.vocabulary import Lane, Reason, Stage
from streams.checks.brake import IN_A_ROW, Brake
from streams.checks.catch_all import CatchAll, CatchAllMemory, impossible_local
from streams.checks.classify import meaning
from streams.checks.dialogue import Prober, kept_for_interactive, lane_sessions
from streams.checks.evidence import Failure, Prepared, Probe
from streams.checks.jobs import ProviderQueue, Visit, hosts_of
from streams.dns.answers import MailHost, MailRoute, RouteKind
from streams.smtp.errors import ConnectFailed, DialAttempt, DialFailed, DialFailure, PoolClosed, PoolTimeout
from streams.smtp.exchange import Answers, Capabilities
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.lifecycle import Event, Life
from streams.smtp.policy import PolicyBook, ProviderPolicy
from streams.smtp.replies import Reply
from streams.smtp.session import Ended
from streams.smtp.ways import Way
from tests.unit.smtp.fakes import FakeLink, FakeNet, Plain, half, half_missing, pool_on, run

OK, UNKNOWN = Reply(250, ("2.1.5 Ok",)), Reply(550, ("5.1.1 User unknown",))
LATER, ENOUGH = Reply(450, ("4.2.0 Greylisted",)), Reply(421, ("4.7.0 Too many errors",))
PROBE = Identity("probe.example.net", "probe@example.net")
Server = Callable[[str], Reply | None]


def known(address: str) -> Reply:
    """A server that knows every ``user``."""
    return OK if address.startswith("user") else UNKNOWN


@dataclass
class FakeConnection:
    """Answers by ``script`` first, each entry for one ask, then by ``server``."""

    pool: "FakePool"
    host: Host
    provider: str
    way: str = ""
    identity: Identity = PROBE
    room: int = 10
    uses: int = 1
    capabilities: Capabilities = field(default_factory=Capabilities)
    last_room: int = 0
    leaving: bool = False

    def last_room_after(self, recipients: int) -> int:
        return 0

    @property
    def key(self) -> tuple[str, int]:
        return self.host.address, self.host.port

    @property
    def policy(self) -> ProviderPolicy:
        return self.pool.policies.policy(self.provider)

    async def ask(self, recipients: Sequence[str], *, smtputf8: bool = False, **_: object) -> Answers:
        self.pool.asked.append(tuple(recipients))
        await asyncio.sleep(0)
        if self.pool.script:
            answers = self.pool.script.pop(0)(recipients)
        else:
            answers = Answers(None, tuple(map(self.pool.server, recipients)))
        self.room -= sum(1 for reply in answers.replies if reply is not None and not reply.positive)
        return answers


@dataclass
class FakePool:
    server: Server = known
    script: list[Callable[[Sequence[str]], Answers]] = field(default_factory=list)
    failures: list[Exception | None] = field(default_factory=list)
    policies: PolicyBook = field(default_factory=PolicyBook)
    capabilities: Capabilities = field(default_factory=Capabilities)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    leases: int = 0
    uses: int = 1
    open: int = 0
    most: int = 0
    block_after: int = 99
    blocks: list[tuple[str, Reply, Stage]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    """Whom leases were asked of, and reports made on."""
    taken: str | None = None
    """The way that a lease takes in place of the one that was asked for."""
    services: int = 0
    earned: int = 0

    def way(self, provider: str, source: str | None = None) -> str:
        return source or ""

    def report_block(self, provider: str, domain: str, reply: Reply, stage: Stage, *, source: str) -> None:
        assert provider == "p"
        self.blocks.append((domain, reply, stage))
        self.sources.append(source)

    def report_service(self, provider: str, *, source: str) -> None:
        self.services += 1
        self.sources.append(source)

    def sessions(self, provider: str, source: str) -> int:
        return self.policies.policy(provider).sessions + self.earned

    def blocked(self, provider: str) -> bool:
        return len(self.blocks) >= self.block_after

    @asynccontextmanager
    async def lease(
        self, provider: str, hosts: Sequence[Host], *, timeout: float, source: str
    ) -> AsyncIterator[FakeConnection]:
        self.leases += 1
        self.sources.append(source)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep(0)
            if self.failures and (failure := self.failures.pop(0)) is not None:
                raise failure
            way = self.taken or source
            yield FakeConnection(self, hosts[0], provider, uses=self.uses, capabilities=self.capabilities, way=way)
        finally:
            self.open -= 1


def prober(pool: FakePool) -> Prober:
    return Prober(pool, rng=bytes)  # type: ignore[arg-type]


def route(domain: str = "a.test", address: str = "127.0.0.1") -> MailRoute:
    return MailRoute(domain, RouteKind.MX, (MailHost("mx.test", 10, (address,)),))


def prepare(*addresses: str) -> list[Prepared]:
    return [Prepared(a, address=a, domain=a.rpartition("@")[2]) for a in addresses]


async def ask(pool: FakePool, *addresses: str, of: Prober | None = None, **options: object) -> list[Probe]:
    domain = addresses[0].rpartition("@")[2] if addresses else "a.test"
    return await (of or prober(pool)).ask(route(domain), "p", prepare(*addresses), **options)  # type: ignore[arg-type]


def said(script: Sequence[Reply | None], ended: Ended | None = None) -> Callable[[Sequence[str]], Answers]:
    return lambda recipients: Answers(None, tuple(script), ended, "as scripted")


async def test_answers_in_the_order_asked() -> None:
    probes = await ask(FakePool(), "user1@a.test", "nobody@a.test", "user2@a.test")
    assert [probe.reply for probe in probes] == [OK, UNKNOWN, OK]
    assert {(probe.stage, probe.mx_host, probe.mx_address, probe.provider) for probe in probes} == {
        (Stage.RCPT, "mx.test", "127.0.0.1", "p")
    }


async def test_nothing_asked_nothing_leased() -> None:
    pool = FakePool()
    assert await ask(pool) == []
    assert pool.leases == 0


async def test_a_single_address_carries_the_impossible_one_in_the_same_write() -> None:
    pool = FakePool()
    [probe] = await ask(pool, "user@a.test")
    assert len(pool.asked) == 1
    assert len(pool.asked[0]) == 2
    assert probe.catch_all is False
    assert probe.catch_all_reply == UNKNOWN


async def test_a_domain_that_takes_everything_is_told_and_remembered() -> None:
    pool = FakePool(server=lambda _: OK)
    asker = prober(pool)
    [first] = await ask(pool, "user@a.test", of=asker)
    [second] = await ask(pool, "other@a.test", of=asker)
    assert (first.catch_all, first.cached, second.catch_all, second.cached) == (True, False, True, True)
    assert pool.asked[1] == ("other@a.test",)


async def test_one_refusal_disproves_a_catch_all() -> None:
    pool = FakePool()
    addresses = [f"user{n}@a.test" for n in range(5)] + ["nobody@a.test"]
    probes = await ask(pool, *addresses)
    assert pool.asked == [tuple(addresses)]
    assert [probe.catch_all for probe in probes] == [False] * 6


async def test_when_all_were_accepted_the_impossible_one_is_asked_afterwards() -> None:
    pool = FakePool(server=lambda _: OK)
    probes = await ask(pool, *(f"user{n}@a.test" for n in range(6)))
    assert [len(write) for write in pool.asked] == [6, 1]
    assert {probe.catch_all for probe in probes} == {True}


async def test_whoever_does_not_want_to_know_is_not_kept_waiting() -> None:
    pool = FakePool(server=lambda _: OK)
    [probe] = await ask(pool, "user@a.test", catch_all_probe=False)
    assert pool.asked == [("user@a.test",)]
    assert probe.catch_all is None


async def test_an_impossible_one_that_was_told_later_teaches_nothing() -> None:
    pool = FakePool(server=lambda address: OK if address.startswith("user") else LATER)
    [probe] = await ask(pool, "user@a.test")
    assert probe.reply == OK
    assert probe.catch_all is None
    assert probe.catch_all_reply == LATER


async def test_what_is_unanswered_is_asked_again_in_another_session() -> None:
    pool = FakePool(script=[said([UNKNOWN, OK, None, None, None], Ended.CLOSED)])
    probes = await ask(pool, "n@a.test", "user1@a.test", "user2@a.test", "user3@a.test", "user4@a.test")
    assert [probe.reply for probe in probes] == [UNKNOWN, OK, OK, OK, OK]
    assert pool.asked[1] == ("user2@a.test", "user3@a.test", "user4@a.test")
    assert pool.leases == 2


async def test_an_address_that_ends_two_sessions_has_that_for_an_answer() -> None:
    drops = [said([None, None], Ended.CLOSED)] * 2
    [probe] = await ask(FakePool(script=drops), "user@a.test")
    assert (probe.reply, probe.failure, probe.detail) == (None, Failure.CLOSED, "as scripted")


async def test_only_the_first_unanswered_is_blamed_when_others_were_answered() -> None:
    pool = FakePool(script=[said([UNKNOWN, None, None], Ended.CLOSED), said([None, None], Ended.CLOSED)])
    probes = await ask(pool, "n@a.test", "poison@a.test", "user@a.test", catch_all_probe=False)
    assert [probe.failure for probe in probes] == [None, Failure.CLOSED, None]
    assert probes[2].reply == OK


async def test_a_session_that_has_no_room_any_more_is_nobodys_try() -> None:
    class Spent(FakeConnection):
        async def ask(self, recipients: Sequence[str], *, smtputf8: bool = False, **_: object) -> Answers:
            answers = await super().ask(recipients, smtputf8=smtputf8)
            self.room = 0
            return answers

    class Pool(FakePool):
        @asynccontextmanager
        async def lease(
            self, provider: str, hosts: Sequence[Host], *, timeout: float, source: str
        ) -> AsyncIterator[FakeConnection]:
            async with super().lease(provider, hosts, timeout=timeout, source=source):
                yield Spent(self, hosts[0], provider)

    pool = Pool(script=[said([None])] * 5)
    [probe] = await ask(pool, "user@a.test", catch_all_probe=False)
    assert (probe.reply, pool.leases) == (OK, 6)


async def test_silence_without_a_word_is_not_waited_for_twice() -> None:
    pool = FakePool(script=[said([None, None], Ended.TIMEOUT)])
    [probe] = await ask(pool, "user@a.test")
    assert probe.failure is Failure.TIMEOUT
    assert pool.leases == 1


async def test_421_in_the_middle_is_the_end_of_an_error_budget() -> None:
    pool = FakePool(script=[said([UNKNOWN, UNKNOWN, ENOUGH, None], Ended.CLOSED)])
    probes = await ask(pool, "a@a.test", "b@a.test", "user1@a.test", "user2@a.test")
    assert [probe.reply for probe in probes] == [UNKNOWN, UNKNOWN, OK, OK]


async def test_421_as_the_first_word_is_the_answer() -> None:
    pool = FakePool(script=[said([ENOUGH, None], Ended.CLOSED)], server=lambda _: None)
    [probe] = await ask(pool, "user@a.test")
    assert probe.reply == ENOUGH


async def test_too_many_recipients_is_no_word_about_a_mailbox() -> None:
    full = Reply(452, ("4.5.3 Too many recipients",))
    pool = FakePool(script=[said([OK, full, full, full])])
    probes = await ask(pool, *(f"user{n}@a.test" for n in range(4)), catch_all_probe=False)
    assert [probe.reply for probe in probes] == [OK] * 4
    plain = Reply(452, ("Too many recipients received this hour",))
    probes = await ask(FakePool(script=[said([plain])]), "user@a.test", catch_all_probe=False)
    assert probes[0].reply == OK


async def test_too_many_recipients_for_ever_is_an_answer_in_the_end() -> None:
    full = Reply(452, ("4.5.3 Too many recipients",))
    [probe] = await ask(FakePool(server=lambda _: full), "user@a.test", catch_all_probe=False)
    assert probe.reply == full


async def test_a_refused_sender_is_the_answer_for_everyone_who_waits() -> None:
    refused = Reply(550, ("5.7.1 Blocked",))
    pool = FakePool(script=[lambda recipients: Answers(refused, (None,) * len(recipients))])
    probes = await ask(pool, *(f"user{n}@a.test" for n in range(9)))
    assert {(probe.stage, probe.reply) for probe in probes} == {(Stage.MAIL, refused)}
    assert len(pool.asked) == 1


async def test_a_reply_to_rcpt_that_is_about_our_envelope_sender_is_no_word_about_the_mailbox() -> None:
    doubts = Reply(550, ("5.1.1 <probe@example.net>: no such user",))
    pool = FakePool(server=lambda _: doubts)
    [probe] = await ask(pool, "user@a.test", catch_all_probe=False)
    assert probe.meaning is not None
    assert probe.meaning.reason is Reason.SENDER_BLOCKED
    assert pool.blocks == [("a.test", Reply(550, ("5.1.1 <[@]>: no such user",)), Stage.RCPT)]


async def test_hosts_that_can_not_be_reached_are_one_answer_for_all() -> None:
    host = Host("mx.test", "127.0.0.1")
    banner = Reply(554, ("5.7.1 Go away",))
    attempts = (
        DialAttempt(host, Stage.CONNECT, failure=DialFailure.TIMEOUT, detail="no answer"),
        DialAttempt(host, Stage.BANNER, reply=banner),
    )
    pool = FakePool(failures=[ConnectFailed(attempts)])
    probes = await ask(pool, "user1@a.test", "user2@a.test")
    assert {(probe.stage, probe.reply, probe.failure) for probe in probes} == {(Stage.BANNER, banner, None)}
    [probe] = await ask(FakePool(failures=[ConnectFailed(attempts[:1])]), "user1@a.test")
    assert (probe.stage, probe.failure, probe.detail) == (Stage.CONNECT, Failure.TIMEOUT, "no answer")


async def test_a_closed_pool_is_a_failure_and_no_verdict() -> None:
    [probe] = await ask(FakePool(failures=[PoolClosed("the pool is closed")]), "user@a.test")
    assert (probe.stage, probe.failure) == (Stage.CONNECT, Failure.CLOSED)


async def test_when_no_session_is_free_the_address_goes_on_waiting() -> None:
    [probe] = await ask(FakePool(failures=[PoolTimeout("busy")]), "user@a.test")
    assert probe.reply == OK


async def test_a_mistake_of_ours_is_said_to_be_ours(caplog: pytest.LogCaptureFixture) -> None:
    def broken(recipients: Sequence[str]) -> Answers:
        raise KeyError("x")

    probes = await ask(FakePool(script=[broken]), "user1@a.test", "user2@a.test")
    assert {probe.failure for probe in probes} == {Failure.INTERNAL}
    assert "by a mistake of ours" in caplog.text


async def test_after_the_deadline_there_is_an_answer_too() -> None:
    async def never(*_: object, **__: object) -> Answers:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    pool = FakePool()
    asker = prober(pool)
    FakeConnection_ask, FakeConnection.ask = FakeConnection.ask, never  # type: ignore[method-assign]
    try:
        [probe] = await ask(pool, "user@a.test", of=asker, timeout=0.01)
    finally:
        FakeConnection.ask = FakeConnection_ask  # type: ignore[method-assign]
    assert (probe.failure, probe.provider) == (Failure.TIMEOUT, "p")
    await asker.close()
    assert pool.open == 0


async def test_utf8_where_the_server_has_no_smtputf8() -> None:
    pool = FakePool()
    [probe] = await ask(pool, "usér@a.test")
    assert (probe.stage, probe.failure) == (Stage.MAIL, Failure.UTF8_UNSUPPORTED)
    assert pool.asked == []
    able = FakePool(server=lambda _: OK, capabilities=Capabilities(smtputf8=True))
    [probe] = await ask(able, "usér@a.test")
    assert probe.reply == OK


async def test_sessions_grow_with_what_waits_up_to_the_limit() -> None:
    pool = FakePool(server=lambda _: OK)
    await ask(pool, *(f"user{n}@a.test" for n in range(300)))
    assert pool.most == 4
    small = FakePool()
    await ask(small, "user@a.test")
    assert small.most == 1


async def test_two_domains_of_one_host_share_a_write_unless_the_policy_forbids() -> None:
    for domains, writes in ((0, 1), (1, 2)):
        pool = FakePool(policies=PolicyBook(default=ProviderPolicy(domains_per_transaction=domains)))
        asker = prober(pool)
        await asyncio.gather(
            asker.ask(route("a.test"), "p", prepare("nobody@a.test"), catch_all_probe=False),
            asker.ask(route("b.test"), "p", prepare("nobody@b.test"), catch_all_probe=False),
        )
        assert len(pool.asked) == writes


async def test_cancelled_callers_leave_nothing_behind() -> None:
    pool = FakePool()
    asker = prober(pool)
    task = asyncio.create_task(ask(pool, *(f"user{n}@a.test" for n in range(50)), of=asker))
    await asyncio.sleep(0)
    assert asker.waiting
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(20):
        await asyncio.sleep(0)
    assert (pool.open, asker.waiting) == (0, 0)


@pytest.mark.parametrize(
    ("limit", "interactive", "bulk", "alone"), [(1, 1, 1, 1), (2, 1, 1, 2), (4, 1, 3, 4), (20, 5, 15, 20)]
)
def test_lanes_share_a_providers_limit(limit: int, interactive: int, bulk: int, alone: int) -> None:
    assert lane_sessions(limit, Lane.INTERACTIVE) == interactive
    assert lane_sessions(limit, Lane.BULK) == bulk
    assert lane_sessions(limit, None) == alone


def test_what_is_known_of_domains_is_forgotten_in_time_and_in_bounds() -> None:
    now = [0.0]
    memory = CatchAllMemory(ttl_s=100, unknown_ttl_s=10, size=2, clock=lambda: now[0])
    memory.learn("a.test", CatchAll(True))
    memory.learn("b.test", CatchAll(None))
    now[0] = 50
    assert memory.get("a.test") == CatchAll(True)
    assert memory.get("b.test") is None
    memory.learn("c.test", CatchAll(False))
    memory.learn("d.test", CatchAll(False))
    assert memory.get("a.test") is None
    assert memory.get("d.test") == CatchAll(False)


def test_the_impossible_recipient_is_a_plain_word() -> None:
    assert impossible_local(bytes) == "a" * 20
    assert impossible_local(lambda size: b"\x19" + b"\x23" * (size - 1)) == "z" + "9" * 19
    drawn = {impossible_local(os.urandom) for _ in range(100)}
    assert len(drawn) == 100
    assert all(re.fullmatch("[a-z][a-z0-9]{19}", local) for local in drawn)


# -- a server that speaks of us ---------------------------------------------------------------------------------


HOST = Host("mx.test", "127.0.0.1")
BLOCKED = Reply(554, ("5.7.1 Client host [192.0.2.1] blocked using zen.example.org",))


async def test_a_provider_that_blocks_us_is_not_asked_for_everyone() -> None:
    pool = FakePool(server=lambda _: BLOCKED)
    probes = await ask(pool, *(f"user{n}@a.test" for n in range(1000)))
    assert {probe.reply for probe in probes} == {BLOCKED}
    assert sum(map(len, pool.asked)) <= 60
    assert sum(probe.cached for probe in probes) >= 940


async def test_a_server_that_hangs_up_on_everyone_is_not_dialled_for_everyone() -> None:
    pool = FakePool(script=[said([None] * 10, Ended.CLOSED)] * 100)
    probes = await ask(pool, *(f"user{n}@a.test" for n in range(1000)))
    assert {probe.failure for probe in probes} == {Failure.CLOSED}
    assert pool.leases <= 20


async def test_a_block_of_one_domain_is_not_its_neighbours() -> None:
    pool = FakePool(server=lambda address: BLOCKED if address.endswith("@a.test") else known(address))
    of = prober(pool)
    a, b = await asyncio.gather(
        ask(pool, *(f"user{n}@a.test" for n in range(200)), of=of),
        ask(pool, *(f"user{n}@b.test" for n in range(20)), of=of),
    )
    assert {probe.reply for probe in a} == {BLOCKED}
    assert {probe.reply for probe in b} == {OK}


async def test_421_at_mail_is_believed_of_a_new_session_only() -> None:
    enough = lambda _: Answers(ENOUGH, (None,) * 10, Ended.CLOSED, "421")  # noqa: E731
    first = FakePool(script=[enough])
    assert [probe.reply for probe in await ask(first, "user@a.test")] == [ENOUGH]
    used = FakePool(script=[lambda recipients: Answers(ENOUGH, (None,) * len(recipients), Ended.CLOSED)], uses=2)
    assert [probe.reply for probe in await ask(used, "user@a.test")] == [OK]
    assert used.leases == 2


async def test_421_at_mail_of_used_sessions_twice_is_the_answer() -> None:
    refuse = lambda recipients: Answers(ENOUGH, (None,) * len(recipients), Ended.CLOSED)  # noqa: E731
    (probe,) = await ask(FakePool(script=[refuse, refuse], uses=2), "user@a.test")
    assert (probe.reply, probe.stage) == (ENOUGH, Stage.MAIL)


async def test_421_as_the_first_reply_of_a_used_session_is_asked_again() -> None:
    pool = FakePool(script=[lambda recipients: Answers(None, (ENOUGH,) * len(recipients), Ended.CLOSED)], uses=2)
    assert [probe.reply for probe in await ask(pool, "user@a.test")] == [OK]


async def test_a_refusal_of_smtputf8_at_mail_is_for_those_who_need_it() -> None:
    refusal = Reply(553, ("5.6.7 SMTPUTF8 refused",))

    def server(recipients: Sequence[str]) -> Answers:
        utf8 = not recipients[0].isascii()
        return Answers(refusal if utf8 else None, tuple(None if utf8 else known(each) for each in recipients))

    pool = FakePool(script=[server] * 10, capabilities=Capabilities(smtputf8=True))
    pool.policies = PolicyBook(ProviderPolicy(sessions=1))
    probes = await ask(pool, "usér@a.test", "user1@a.test", "üser@a.test", *(f"user{n}@a.test" for n in range(30)))
    assert [probe.reply for probe in probes[:3]] == [refusal, OK, refusal]
    assert {probe.reply for probe in probes[3:]} == {OK}


@pytest.mark.parametrize("one_domain", [0, 1])
async def test_who_is_held_is_left_out_of_a_session_that_is_there(one_domain: int) -> None:
    brake = Brake()
    for _ in range(IN_A_ROW):
        brake.useless("p", "b.test", Probe(Stage.RCPT, BLOCKED))
    pool = FakePool(policies=PolicyBook(ProviderPolicy(sessions=1, domains_per_transaction=one_domain)))
    of = Prober(pool, brake=brake, rng=bytes)  # type: ignore[arg-type]
    a, b = await asyncio.gather(ask(pool, "user1@a.test", "user2@a.test", of=of), ask(pool, "user1@b.test", of=of))
    assert [probe.reply for probe in (*a, *b)] == [OK, OK, BLOCKED]
    assert not any(address.endswith("@b.test") for asked in pool.asked for address in asked)


async def test_a_reply_that_speaks_of_our_address_is_told_to_the_pool_without_the_recipient() -> None:
    pool = FakePool(server=lambda _: BLOCKED)
    await ask(pool, "user1@a.test")
    [(domain, reply, stage), *_] = pool.blocks
    assert (domain, reply, stage) == ("a.test", BLOCKED, Stage.RCPT)
    assert pool.services == 0
    pool.server = known
    await ask(pool, "user1@a.test")
    assert pool.services


async def test_the_pool_hears_once_of_a_write_that_mailboxes_were_spoken_of_and_again_after_a_block() -> None:
    replies = (UNKNOWN, OK, BLOCKED, UNKNOWN, UNKNOWN)
    pool = FakePool(script=[lambda _: Answers(None, replies)])
    await ask(pool, *(f"user{n}@a.test" for n in range(5)))
    assert (pool.services, len(pool.blocks)) == (2, 1)


async def test_a_refusal_of_mail_or_of_the_dial_has_one_witness() -> None:
    pool = FakePool(script=[lambda asked: Answers(BLOCKED, (None,) * len(asked))])
    await ask(pool, "user1@a.test", "user2@a.test")
    said_so = DialAttempt(HOST, Stage.BANNER, BLOCKED)
    pool.failures = [ConnectFailed((said_so, DialAttempt(HOST, Stage.BANNER, BLOCKED, old=True)))]
    await ask(pool, "user1@b.test", "user2@b.test")
    pool.failures = [ConnectFailed((DialAttempt(HOST, Stage.BANNER, Reply(421, ("busy",))),))]
    await ask(pool, "user1@c.test")
    assert pool.blocks == [("a.test", BLOCKED, Stage.MAIL), ("b.test", BLOCKED, Stage.BANNER)]


BUSY = Reply(421, ("4.7.0 too many connections",))


async def test_those_who_wait_are_left_to_the_session_that_is_open_where_one_more_is_too_many() -> None:
    pool = FakePool(policies=PolicyBook(ProviderPolicy(sessions=2)))
    pool.failures = [None, ConnectFailed((DialAttempt(HOST, Stage.BANNER, BUSY),))]
    of = prober(pool)
    probes = await ask(pool, *(f"user{n}@a.test" for n in range(40)), of=of)
    assert [probe.reply for probe in probes] == [OK] * 40
    assert of._queues == {}


async def test_nobody_is_left_to_a_session_that_will_ask_no_more_since_a_block_is_believed() -> None:
    pool = FakePool(policies=PolicyBook(ProviderPolicy(sessions=2)), block_after=0)
    pool.failures = [ConnectFailed((DialAttempt(HOST, Stage.RCPT, BLOCKED, old=True),))]
    of = prober(pool)
    queue = of._queues["p", None, ""] = ProviderQueue("p")
    open_one = Visit(hosts_of(route().hosts, 25), 0.0, let_in=True)
    with queue.visiting(open_one):
        [probe] = await ask(pool, "user@a.test", of=of, timeout=1)
    assert probe.reply == BLOCKED


async def test_a_session_is_let_go_while_a_block_is_believed() -> None:
    pool = FakePool(block_after=0)
    pool.failures = [None, ConnectFailed((DialAttempt(HOST, Stage.RCPT, BLOCKED, old=True),))]
    [probe] = await ask(pool, "user1@a.test")
    assert probe.reply == BLOCKED
    assert (pool.asked, pool.leases, pool.blocks) == ([], 2, [])


async def test_a_provider_that_serves_well_is_asked_over_more_sessions_at_once() -> None:
    pool = FakePool(policies=PolicyBook(ProviderPolicy(sessions=1)))

    def generous(recipients: Sequence[str]) -> Answers:
        pool.earned = 2
        return Answers(None, (OK,) * len(recipients))

    pool.script = [generous]
    await ask(pool, *[f"user{n}" for n in range(100)])
    assert pool.most == 3


async def test_a_provider_that_bears_fewer_sessions_is_left_by_those_beyond_them() -> None:
    pool = FakePool(policies=PolicyBook(ProviderPolicy(sessions=8)))
    open_now: list[int] = []

    def server(address: str) -> Reply:
        open_now.append(pool.open)
        if len(open_now) == 80:
            pool.earned = -6
        return OK

    pool.server = server
    probes = await ask(pool, *[f"user{n}" for n in range(400)])
    assert all(probe.reply == OK for probe in probes)
    assert set(open_now[:80]) == {8}
    assert max(open_now[160:]) == 2, "each of them has ended its write, and gone"


# -- ways out -----------------------------------------------------------------------------------------------------


async def test_each_probe_says_by_which_way_it_was_asked() -> None:
    pool = FakePool()
    [probe] = await ask(pool, "nobody@a.test", source="eu-2")
    assert probe.way == "eu-2"
    assert set(pool.sources) == {"eu-2"}, "the lease, and what is told of the provider"


async def test_the_way_that_was_taken_is_told_and_not_the_one_that_was_wanted() -> None:
    pool = FakePool(server=lambda address: BLOCKED, taken="eu-1")
    [probe] = await ask(pool, "user@a.test", source="eu-2")
    assert probe.way == "eu-1"
    assert pool.sources[0] == "eu-2"
    assert set(pool.sources[1:]) == {"eu-1"}


async def test_those_who_are_asked_for_by_different_ways_share_no_session() -> None:
    pool = FakePool()
    of = prober(pool)
    await asyncio.gather(*(ask(pool, f"user{way}@a.test", of=of, source=way) for way in ("eu-1", "eu-2")))
    assert pool.leases == 2
    assert len([asked for asked in pool.asked if len([a for a in asked if a.startswith("user")]) == 1]) == 2


async def test_a_way_that_is_down_does_not_speak_for_the_hosts() -> None:
    ours = DialAttempt(HOST, Stage.CONNECT, failure=DialFailure.CONNECT, local=True, way="eu-1")
    theirs = DialAttempt(HOST, Stage.BANNER, failure=DialFailure.TIMEOUT, way="eu-2")
    for attempts, failure, way in (((ours, theirs), Failure.TIMEOUT, "eu-2"), ((ours,), Failure.CONNECT, "eu-1")):
        [probe] = await ask(FakePool(failures=[ConnectFailed(attempts)]), "user@a.test")
        assert (probe.failure, probe.way) == (failure, way)


async def test_a_way_that_could_not_reach_anybody_is_named() -> None:
    attempt = DialAttempt(HOST, Stage.BANNER, BLOCKED, way="eu-1")
    pool = FakePool(failures=[ConnectFailed((attempt,))])
    [probe] = await ask(pool, "user@a.test")
    assert probe.way == "eu-1"
    assert pool.sources[-1] == "eu-1"


@pytest.mark.parametrize("lane", [Lane.BULK, None])
def test_a_lane_that_has_a_provider_for_itself_earns_more_sessions_too(lane: Lane | None) -> None:
    async def main() -> None:
        pool = pool_on(FakeNet(), kept_free=kept_for_interactive, sessions=4, sessions_max=8)
        of = Prober(pool, clock=asyncio.get_running_loop().time)
        addresses = [f"user{n}@a.test" for n in range(2000)]
        await of.ask(route(), "p", prepare(*addresses), lane=lane, timeout=600)
        assert pool.sessions("p") == 8
        await pool.close()

    run(main())


def codes(probes: Sequence[Probe]) -> list[int | None]:
    return [probe.reply and probe.reply.code for probe in probes]


def test_the_next_session_is_dialled_while_the_last_one_hears_its_replies() -> None:
    async def seconds(*, parting: bool) -> float:
        loop = asyncio.get_running_loop()
        pool = pool_on(FakeNet(half_missing, delay=0.1), sessions=1, parting=parting)
        of = Prober(pool, clock=loop.time)
        began = loop.time()
        probes = await of.ask(route(), "p", prepare(*half(120)), timeout=60)
        took = loop.time() - began
        assert codes(probes) == [250, 550] * 60
        assert (pool.snapshot().counters["parted"] > 0) is parting
        assert of._queues == {}
        await pool.close()
        assert pool._ledger.open == 0
        return took

    assert run(seconds(parting=True)) < 0.8 * run(seconds(parting=False)), "a round trip a session"


@pytest.mark.parametrize("takes_s", [0.0, 0.04, 0.05, 0.08], ids=lambda seconds: f"it takes {seconds} s")
def test_by_the_count_of_the_server_there_are_never_more_sessions_than_may_be(takes_s: float) -> None:
    """It has a client from the third packet of the handshake, one and a half round trips after the first, until it
    reads QUIT; half a round trip after that was written, and when it is done with the recipients before it."""
    changes: list[tuple[float, int]] = []
    delay, sessions = 0.1, 4

    class Timed(FakeLink):
        def write(self, data: bytes) -> None:
            self.heard_quit(data)
            super().write(data)

        def send(self, data: bytes, delay: float = 0.0) -> None:
            super().send(data, delay + takes_s)

        def close(self, farewell: bytes = b"") -> None:
            self.heard_quit(farewell)
            super().close(farewell)

        def heard_quit(self, data: bytes) -> None:
            if b"QUIT" in data:
                busy = takes_s if b"RCPT" in data else 0.0
                changes.append((round(asyncio.get_running_loop().time() + delay / 2 + busy, 6), -1))

    async def handshake(host: Host) -> None:
        changes.append((round(asyncio.get_running_loop().time() + 1.5 * delay, 6), 1))
        await asyncio.sleep(delay)  # with the two of the network: SYN, banner, EHLO

    async def main() -> None:
        net = FakeNet(half_missing, delay=delay, link=Timed, before=handshake)
        pool = pool_on(net, sessions=sessions)
        probes = await Prober(pool, clock=asyncio.get_running_loop().time).ask(
            route(), "p", prepare(*half(600)), timeout=60
        )
        assert codes(probes) == [250, 550] * 300
        assert max(accumulate(change for _, change in sorted(changes))) == sessions
        left = [data for link in net.links for data in link.written if b"QUIT" in data]
        assert len(left) > len(net.links) / 2
        await pool.close()

    run(main())


def test_what_a_parting_session_lost_is_asked_again_and_nobody_parts_any_more() -> None:
    class Rude(FakeLink):
        """Closes at QUIT, whatever it owes."""

        def write(self, data: bytes) -> None:
            if b"QUIT" in data:
                self.written.append(data)
                self.send(b"", self.delay)
            else:
                super().write(data)

    async def main() -> None:
        net = FakeNet(half_missing, link=Rude)
        pool = pool_on(net, sessions=2)
        of = Prober(pool, clock=asyncio.get_running_loop().time)
        probes = await of.ask(route(), "p", prepare(*half(200)), timeout=60)
        assert codes(probes) == [250, 550] * 100
        assert sum(b"RCPT" in data and b"QUIT" in data for link in net.links for data in link.written) <= 2
        assert of._queues == {}
        await pool.close()

    run(main())


@dataclass
class Crowded(FakeNet):
    """Turns away whoever comes while ``most`` are there, in its own way; they are until we are heard no more."""

    most: int = 1
    takes_s: float = 0.0
    """How long it takes to say so."""
    said: Reply | DialFailure = BUSY
    let_in: int = 0
    turned_away: int = 0

    def __post_init__(self) -> None:
        self.before = self._at_the_door

    async def _at_the_door(self, host: Host) -> None:
        if self.let_in - sum(link.closed for link in self.links) >= self.most:
            self.turned_away += 1
            await asyncio.sleep(self.takes_s)
            reply, failure = (self.said, None) if isinstance(self.said, Reply) else (None, self.said)
            raise DialFailed(DialAttempt(host, Stage.BANNER, reply, failure))
        self.let_in += 1


@pytest.mark.parametrize(
    ("takes_s", "said"),
    [
        (0.0, BUSY),
        (0.1, BUSY),
        (0.1, Reply(554, ("Too many connections",))),
        (0.0, DialFailure.CONNECT),
        (0.1, DialFailure.CLOSED),
    ],
)
@pytest.mark.parametrize(("sessions", "most"), [(2, 1), (4, 1), (4, 2), (20, 3)])
def test_a_server_that_takes_fewer_sessions_than_we_would_have_answers_for_everybody(
    sessions: int, most: int, takes_s: float, said: Reply | DialFailure
) -> None:
    async def main() -> None:
        net = Crowded(half_missing, most=most, takes_s=takes_s, said=said)
        pool = pool_on(net, sessions=sessions)
        of = Prober(pool, clock=asyncio.get_running_loop().time)
        probes = await of.ask(route(), "p", prepare(*half(400)), timeout=600)
        assert codes(probes) == [250, 550] * 200
        assert 0 < net.turned_away < 20 + 4 * sessions
        await of.close()
        assert of._queues == {}
        await pool.close()

    run(main())


def test_where_nobody_is_let_in_those_who_came_first_speak_though_others_come_all_the_time() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        places = [(f"mx{number}.test", f"192.0.2.{number}") for number in range(6)]
        dead = MailRoute("a.test", RouteKind.MX, tuple(MailHost(name, 10, (address,)) for name, address in places))
        net = FakeNet(hangs={Host(*place) for place in places})
        pool = pool_on(net, sessions=4)
        of = Prober(pool, clock=loop.time)

        async def wait() -> tuple[float, Failure | None, Stage]:
            since = loop.time()
            [probe] = await of.ask(dead, "p", prepare("user@a.test"))
            return loop.time() - since, probe.failure, probe.stage

        asks = []
        for _ in range(100):
            asks.append(asyncio.ensure_future(wait()))
            await asyncio.sleep(2)
        heard = await asyncio.gather(*asks)
        assert {(failure, stage) for _, failure, stage in heard} == {(Failure.TIMEOUT, Stage.CONNECT)}
        assert max(seconds for seconds, _, _ in heard) < 31
        await of.close()
        assert of._queues == {}
        await pool.close()

    run(main())


@pytest.mark.parametrize("takes_s", [0.0, 0.1])
def test_nobody_parts_any_more_where_those_who_said_quit_are_counted_still(takes_s: float) -> None:
    async def main() -> None:
        net = Crowded(half_missing, takes_s=takes_s)
        pool = pool_on(net, sessions=1)
        of = Prober(pool, clock=asyncio.get_running_loop().time)
        probes = await of.ask(route(), "p", prepare(*half(100)), timeout=600)
        assert codes(probes) == [250, 550] * 50
        assert (net.turned_away, pool.snapshot().counters["parted"]) == (1, 1)
        await pool.close()

    run(main())


def test_whoever_says_for_ever_that_it_is_too_many_is_not_asked_for_ever() -> None:
    async def main() -> None:
        full = b"452 4.5.3 Too many recipients\r\n"
        net = FakeNet(lambda command: full if command.startswith("RCPT") else b"250 2.0.0 ok\r\n")
        pool = pool_on(net, sessions=1)
        of = Prober(pool, clock=asyncio.get_running_loop().time)
        probes = await of.ask(route(), "p", prepare(*half(60)), timeout=600)
        assert codes(probes) == [452] * 60
        assert len(net.links) < 60
        await pool.close()

    run(main())


def test_a_session_does_not_part_with_less_than_it_has_left() -> None:
    async def main() -> None:
        net = FakeNet(half_missing)
        pool = pool_on(net, sessions=1, domains_per_transaction=1, nonmail_budget=0)
        of = Prober(pool, clock=asyncio.get_running_loop().time)
        asks = (of.ask(route(f"{n}.test"), "p", prepare(f"gone@{n}.test"), catch_all_probe=False) for n in range(80))
        answered = await asyncio.gather(*asks)
        assert [codes(probes) for probes in answered] == [[550]] * 80
        assert len(net.links) <= 10
        await pool.close()

    run(main())


@pytest.mark.parametrize("link", [FakeLink, Plain])
def test_a_lane_leaves_the_other_its_sessions_though_its_own_part(link: type[FakeLink]) -> None:
    async def main() -> None:
        most = 0

        def count(event: Event) -> None:
            nonlocal most
            counted[event.before] -= 1
            counted[event.after] += 1
            most = max(most, sum(counted[life] for life in (Life.DIALLING, Life.GREETING, Life.READY, Life.BUSY)))

        counted: Counter[Life | None] = Counter()
        pool = pool_on(FakeNet(half_missing, link=link), sessions=4, on_event=count)
        of = Prober(pool, clock=asyncio.get_running_loop().time)
        probes = await of.ask(route(), "p", prepare(*half(400)), lane=Lane.BULK, timeout=600)
        assert codes(probes) == [250, 550] * 200
        assert most == lane_sessions(4, Lane.BULK)
        await pool.close()

    run(main())


def test_a_server_that_insists_on_tls_when_a_session_parts_refuses_nobody() -> None:
    class Insists(FakeLink):
        def __init__(self, respond: Callable[[str], bytes | None], delay: float) -> None:
            super().__init__(respond, delay, Capabilities(pipelining=True, starttls=True))

    class Secured(FakeNet):
        async def __call__(self, host: Host, way: Way, *, starttls: bool, **rest: Any) -> FakeLink:
            link = await super().__call__(host, way, starttls=starttls, **rest)
            if starttls:
                await link.start_tls(1.0)
            return link

    async def main() -> None:
        def respond(command: str) -> bytes:
            insists = command.startswith("MAIL") and not net.links[-1].capabilities.tls
            return b"530 5.7.0 STARTTLS first\r\n" if insists else half_missing(command)

        net = Secured(half_missing)
        pool = pool_on(net, sessions=1)
        of = Prober(pool, clock=asyncio.get_running_loop().time)
        await of.ask(route(), "p", prepare(*(f"gone{n}@a.test" for n in range(40))), catch_all_probe=False)
        net.respond, net.link = respond, Insists
        elsewhere = prepare(*(f"gone{n}@b.test" for n in range(40)))
        probes = await of.ask(route("b.test", "127.0.0.2"), "p", elsewhere, catch_all_probe=False)
        assert codes(probes) == [550] * 40
        await pool.close()

    run(main())


def test_callers_that_go_away_while_a_session_parts_leave_nothing_behind() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for after in (0.01 * step for step in range(1, 120)):
            pool = pool_on(FakeNet(half_missing, delay=0.1), sessions=1, idle_expiry_s=0.5)
            of = Prober(pool, clock=loop.time)
            task = asyncio.create_task(of.ask(route(), "p", prepare(*half(40)), timeout=60))
            await asyncio.sleep(after)
            task.cancel()
            await asyncio.sleep(3)
            assert (of._queues, of._tasks, pool._ledger.open, pool._ledger.accounts) == ({}, set(), 0, {})
            await pool.close()

    run(main())


def test_to_close_while_a_session_parts_leaves_nothing_behind() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for after in (0.01 * step for step in range(1, 120)):
            pool = pool_on(FakeNet(half_missing, delay=0.1), sessions=1)
            of = Prober(pool, clock=loop.time)
            task = asyncio.create_task(of.ask(route(), "p", prepare(*half(40)), timeout=5))
            await asyncio.sleep(after)
            await of.close()
            assert of._tasks == set()
            await pool.close()
            await task
            assert (pool._ledger.open, pool._ledger.accounts) == (0, {})

    run(main())


@pytest.mark.parametrize("domains", [1, 12], ids=["one domain is held", "the provider is believed to block us"])
def test_whoever_is_not_asked_since_our_sender_is_refused_hears_nothing_of_a_mailbox(domains: int) -> None:
    def refuse_us(command: str) -> bytes:
        return b"550 5.1.1 <postmaster@probe.test>: no such user\r\n" if command[:4] == "RCPT" else b"250 2.0.0 ok\r\n"

    async def main() -> None:
        pool = pool_on(FakeNet(refuse_us), sessions=1)
        prober = Prober(pool, clock=asyncio.get_running_loop().time)
        for number in range(24):
            domain = f"d{number % domains}.test"
            [probe] = await prober.ask(route(), "p", prepare(f"user{number}@{domain}"), timeout=60)
            found = meaning(probe)
            assert found is not None
            assert found.reason is Reason.SENDER_BLOCKED, probe
        await prober.close()
        await pool.close()

    run(main())
