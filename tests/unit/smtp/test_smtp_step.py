"""Servers that can't do what they offer, and servers that get slower: what is learned of them, and forgotten."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.smtp.exchange import Exchange, out_of_step
from streams.smtp.lifecycle import Kind
from streams.smtp.pace import SLOW_FACTOR, SLOW_S, Latency
from streams.smtp.policy import (
    LISTEN_S,
    LOST_APART_S,
    SLOW_BATCH,
    STEPWISE_S,
    Learned,
    Lost,
    ProviderPolicy,
    may_pipeline,
)
from streams.smtp.replies import Reply
from streams.smtp.session import Ended, Session
from tests.unit.smtp.fakes import HOSTS, FakeLink, FakeNet, pool_on, run

POLICY = ProviderPolicy()
RECIPIENTS = ["a@x.test", "b@x.test"]


# What a sign is


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(554, ("SMTP synchronization error",)), True),
        (Reply(503, ("5.5.0 <DATA>: Data command rejected: Improper use of SMTP command pipelining",)), True),
        (Reply(421, ("4.7.0 no pipelining, please",)), True),
        (Reply(503, ("5.5.1 need MAIL first",)), False),
        (Reply(550, ("5.1.1 pipelining@x.test: user unknown",)), False),
        (Reply(250, ("PIPELINING",)), False),
        # Whoever submits such an address must not slow a provider down for everybody.
        (Reply(554, ("5.7.1 <pipelining@x.test>: Relay access denied",)), False),
        (Reply(554, ("5.7.1 synchronization@x.test: Relay access denied",)), False),
        (Reply(501, ('5.1.3 <"no synchronization"@x.test>: bad address syntax',)), False),
    ],
)
def test_a_server_that_complains_of_several_commands(reply, expected):
    assert out_of_step(reply) is expected


def asked(*said: bytes, pipelining: bool = True, recipients=RECIPIENTS) -> Exchange:
    """An exchange whose first write was answered with ``said``, piece by piece."""
    room = len(recipients)
    exchange = Exchange(Session(), "", recipients, policy=POLICY, learned=Learned(), room=room, pipelining=pipelining)
    exchange.data_to_send()
    for data in said:
        exchange.receive(data)
    return exchange


OK = b"250 ok\r\n"


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ((OK * 3,), Lost.NO),
        ((OK, b"550 5.1.1 no\r\n" * 2), Lost.NO),
        ((b"554 SMTP synchronization error\r\n",), Lost.SURELY),
        ((OK, b"503 pipelining is not for you\r\n", OK), Lost.SURELY),
        ((OK * 4,), Lost.SURELY),
        ((b"",), Lost.PERHAPS),
        ((OK, b""), Lost.PERHAPS),
        ((OK, b"what?\r\n"), Lost.PERHAPS),
        ((OK, b"550 5.1.1 no\r\n", b""), Lost.NO),
        ((OK, b"421 4.3.2 going down\r\n"), Lost.NO),
    ],
)
def test_what_became_of_a_write(said, lost):
    assert asked(*said).lost is lost


def test_one_command_alone_can_not_be_out_of_step():
    for exchange in (asked(b"", pipelining=False), asked(b"554 SMTP synchronization error\r\n", pipelining=False)):
        assert exchange.lost is Lost.NO


def test_a_session_that_has_answered_before_ended_for_another_reason():
    session = Session()
    for said in (OK * 3, b""):
        exchange = Exchange(session, "", RECIPIENTS, policy=POLICY, learned=Learned(), room=9, pipelining=True)
        exchange.data_to_send()
        exchange.receive(said)
    assert (session.ended, exchange.lost) == (Ended.CLOSED, Lost.NO)


def test_a_complaint_is_no_word_about_a_mailbox():
    exchange = asked(b"554 SMTP synchronization error\r\n", b"503 need MAIL\r\n" * 2)
    assert (exchange.answers().mail, exchange.answers().replies) == (None, (None, None))


# What is learned


def test_a_sure_sign_is_enough_for_a_while():
    learned = Learned()
    assert learned.stepped(Lost.SURELY, 100.0)
    assert not may_pipeline(POLICY, learned, 100.0 + STEPWISE_S - 1)
    assert may_pipeline(POLICY, learned, 100.0 + STEPWISE_S)
    assert not may_pipeline(ProviderPolicy(pipelining=False), Learned(), 0.0)


def test_signs_that_come_together_are_one_and_an_answer_forgets_them():
    learned = Learned()
    for now in (0.0, 1.0, LOST_APART_S - 0.1):
        assert not learned.stepped(Lost.PERHAPS, now)
    assert not learned.stepped(Lost.NO, 6.0)
    assert not learned.stepped(Lost.PERHAPS, 20.0)
    assert learned.stepped(Lost.PERHAPS, 30.0)


def test_when_the_time_is_over_one_sign_renews_it():
    learned = Learned()
    learned.stepped(Lost.SURELY, 0.0)
    assert learned.stepped(Lost.PERHAPS, STEPWISE_S + 1)
    assert not may_pipeline(POLICY, learned, STEPWISE_S + 2)


def test_late_answers_make_writes_smaller_within_bounds():
    learned = Learned()
    learned.slowed(100)
    assert learned.batch == 50
    for asked_for, batch in ((50, 25), (7, SLOW_BATCH), (3, 3), (SLOW_BATCH, SLOW_BATCH)):
        learned.slowed(asked_for)
        assert learned.batch == batch
    learned.answered(SLOW_BATCH)
    assert learned.batch == 2 * SLOW_BATCH, "and they grow again"


# Slow replies


def test_a_place_is_given_away_half_a_round_trip_before_the_last_reply_is_due():
    latency = Latency()
    latency.dialled(0.3)
    latency.dialled(0.1)
    assert latency.leave_s == float("inf")
    latency.answered(0.1)
    assert latency.leave_s == pytest.approx(0.05)
    latency.answered(0.12)  # so will the last ones take 20 ms
    assert latency.leave_s == pytest.approx(0.09)
    latency.answered(0.5)  # some recipient took its time: it is answered before, and nobody leaves
    assert latency.leave_s == pytest.approx(0.85)
    for _ in range(50):
        latency.answered(0.1)
    assert latency.leave_s == pytest.approx(0.05, abs=1e-6)
    for _ in range(500):
        latency.dialled(0.2)
    assert latency.leave_s == pytest.approx(0, abs=1e-3)


def test_what_is_always_slow_is_not_slower():
    latency = Latency()
    assert not any(latency.slow(20.0) for _ in range(50))


def test_getting_slower_and_slower_is_noticed_and_becomes_the_rule():
    latency = Latency()
    for _ in range(20):
        assert not latency.slow(0.05)
    seen = [latency.slow(20.0) for _ in range(400)]
    assert True in seen[:5]
    assert not seen[-1], "it is not held against a server for ever"
    assert not any(latency.slow(0.05) for _ in range(30)[8:])


@given(st.lists(st.floats(0, 60), min_size=1, max_size=100))
def test_nothing_is_slow_that_is_within_bounds(times):
    latency = Latency()
    for seconds in times:
        if latency.slow(seconds):
            assert latency.late > max(latency.rule * SLOW_FACTOR, latency.rule + SLOW_S)
    assert not min(times) > latency.late + 1e-9
    assert 0 <= latency.rule <= max(times) + 1e-9


# In a pool


class Clumsy(FakeLink):
    """Offers pipelining and ends the session at a write of several commands."""

    def write(self, data: bytes) -> None:
        if data.count(b"\r\n") > 1:
            self.written.append(data)
            self.send(b"", self.delay)
        else:
            super().write(data)


class Strict(Clumsy):
    """Offers pipelining and complains of it."""

    def write(self, data: bytes) -> None:
        if data.count(b"\r\n") > 1:
            self.written.append(data)
            self.send(b"554 SMTP synchronization error\r\n" + b"503 need MAIL\r\n" * (data.count(b"\r\n") - 1))
        else:
            super().write(data)


async def codes(pool) -> list[int | None]:
    async with pool.lease("p", HOSTS, timeout=60) as connection:
        return [reply and reply.code for reply in (await connection.ask(RECIPIENTS)).replies]


@pytest.mark.parametrize(("link", "tries"), [(Strict, 1), (Clumsy, 2)])
def test_a_server_that_can_not_pipeline_is_asked_one_command_at_a_time(link, tries):
    async def main() -> None:
        told = []
        net = FakeNet(link=link)
        pool = pool_on(net, on_notice=told.append, noop_after_s=0)
        for _ in range(tries):
            assert await codes(pool) == [None, None]
            await asyncio.sleep(LOST_APART_S)
        assert [each.outcome for each in told if each.kind is Kind.PACE] == ["one at a time"]
        assert await codes(pool) == [250, 250]
        assert all(data.count(b"\r\n") == 1 for data in net.links[-1].written[-3:])
        net.link = FakeLink  # it was repaired
        await asyncio.sleep(STEPWISE_S + 1)
        assert await codes(pool) == [250, 250]
        assert net.links[-1].written[-1].count(b"\r\n") == 3
        await pool.close()

    run(main())


class Talkative(FakeLink):
    """Says one thing too many ``late`` seconds after the first reply of each session."""

    late = 0.02

    def write(self, data: bytes) -> None:
        if not self.written:
            self.send(b"250 and more\r\n", self.delay + self.late)
        super().write(data)


def test_one_that_spoke_unasked_is_listened_to_for_a_while():
    async def main() -> None:
        net = FakeNet(link=Talkative)
        pool = pool_on(net, noop_after_s=0)
        for known in (False, True):
            async with pool.lease("p", HOSTS, timeout=60) as connection:
                answers = await connection.ask(RECIPIENTS)
                assert answers.replies == (None,) * 2 if known else None not in answers.replies
            await asyncio.sleep(1)
        net.link = FakeLink
        # One command at a time at first, and then in one write again.
        for expected in (3 * (0.05 + LISTEN_S), 0.05):
            async with pool.lease("p", HOSTS, timeout=60) as connection:
                since = asyncio.get_running_loop().time()
                assert None not in (await connection.ask(RECIPIENTS)).replies
                assert asyncio.get_running_loop().time() - since == pytest.approx(expected)
            await asyncio.sleep(STEPWISE_S + 1)
        await pool.close()

    run(main())


def test_what_is_said_between_two_writes_is_no_answer_to_the_second():
    """One at a time: the reply to the first RCPT must not pass for the one to the second."""

    async def main() -> None:
        net = FakeNet(lambda command: b"550 no\r\n" if "b@x" in command else b"250 ok\r\n")
        pool = pool_on(net, pipelining=False)
        async with pool.lease("p", HOSTS, timeout=60) as connection:
            link = net.links[0]
            link.send(b"250 and more\r\n", 0.05 + 0.05)  # with the reply to RCPT of a
            answers = await connection.ask(RECIPIENTS)
            assert (answers.replies, answers.ended) == ((None, None), Ended.PROTOCOL)
            assert len(link.written) == 2, "nobody else was asked for"
        await pool.close()

    run(main())


def test_a_pause_before_a_write_is_no_time_to_speak():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net, recipients_per_s=1.0)
        async with pool.lease("p", HOSTS, timeout=60) as connection:
            await connection.ask(RECIPIENTS)
            net.links[0].send(b"250 and more\r\n", 0.5)
            answers = await connection.ask(RECIPIENTS)
            assert (answers.replies, answers.ended) == ((None, None), Ended.PROTOCOL)
            assert len(net.links[0].written) == 1
        await pool.close()

    run(main())


def test_a_provider_that_gets_slower_is_asked_less_and_more_again_when_it_is_not():
    async def main() -> None:
        told = []
        net = FakeNet()
        pool = pool_on(net, on_notice=told.append, nonmail_budget=0, error_budget=0, idle_expiry_s=99)
        many = [f"u{number}@x.test" for number in range(20)]

        async def ask(delay: float) -> int:
            async with pool.lease("p", HOSTS, timeout=60) as connection:
                net.links[0].delay = delay
                await connection.ask(many, fresh=True)
                return connection.room

        unbounded = await ask(0.05)
        assert {await ask(0.05) for _ in range(5)} == {unbounded}
        assert await ask(15.0) == unbounded, "once is nothing"
        assert [await ask(15.0) for _ in range(4)] == [10, 5, 5, 5]
        assert pool.snapshot().providers["p"].recipients_per_s > 0
        for _ in range(60):
            room = await ask(0.05)
        assert room > len(many)
        assert pool.snapshot().providers["p"].recipients_per_s == 0
        paces = [each.outcome for each in told if each.kind is Kind.PACE]
        assert (paces[0], paces[-1]) == ("recipients slower", "recipients faster")
        await pool.close()

    run(main())


def test_what_is_said_late_of_recipients_alone_is_no_sign():
    """Exchange holds each unknown recipient back for 5 s; that is its manner and no answer to ours."""

    async def main() -> None:
        told = []
        net = FakeNet()
        pool = pool_on(net, on_notice=told.append, error_budget=0, idle_expiry_s=99, noop_after_s=0)
        async with pool.lease("p", HOSTS, timeout=60) as connection:
            await connection.ask(RECIPIENTS)
            net.links[0].delay = 15.0
            for _ in range(6):
                await connection.ask(RECIPIENTS)
        assert [each.outcome for each in told if each.kind is Kind.PACE] == []
        await pool.close()

    run(main())
