"""What either pool does with the world, with real Postfix and with real Exim alike, at their default limits."""

import asyncio
import re

import pytest

from schemas.vocabulary import Stage
from streams.smtp.errors import ConnectFailed
from streams.smtp.session import Ended
from tests.contract.smtp.mail_hosts import address

ERRORS = re.compile(r"disconnect from .* commands=(?:(\d+)/)?(\d+)$", re.MULTILINE)


async def visit(pool, mx, recipients, **kwargs):
    async with pool.lease("p", [mx.host], timeout=10) as connection:
        return await connection.ask(recipients, **kwargs)


async def ask_all(pool, mx, recipients, **kwargs) -> dict[str, int]:
    """Everybody's code, over as many sessions as it takes; no session may end before its time."""
    found: dict[str, int] = {}
    while waiting := [each for each in recipients if each not in found]:
        async with pool.lease("p", [mx.host], timeout=10) as connection:
            while waiting and connection.room:
                answers = await connection.ask(waiting, **kwargs)
                assert (answers.ended, answers.mail) == (None, None), answers
                found |= {each: reply.code for each, reply in zip(waiting, answers.replies, strict=True) if reply}
                waiting = [each for each in waiting if each not in found]
    return found


def expected(recipients) -> dict[str, int]:
    return {each: 250 if each.startswith("user") else 550 for each in recipients}


async def test_who_exists_and_who_does_not(make_pool, open_host):
    mx = await open_host()
    people = [address(1), address(2, exists=False), address(3, domain=1)]
    async with make_pool().lease("p", [mx.host], timeout=10) as connection:
        assert connection.capabilities.pipelining
        answers = await connection.ask(people)
    assert [reply.code for reply in answers.replies] == [250, 550, 250]


async def test_a_session_is_used_again_and_its_transaction_goes_on(make_pool, open_host):
    mx = await open_host()
    pool = make_pool()
    for number in range(5):
        answers = await visit(pool, mx, [address(number)], fresh=number == 3)
        assert [reply.code for reply in answers.replies] == [250]
    assert pool.snapshot().counters["dials"] == 1
    assert pool.snapshot().counters["reused"] == 4


async def test_no_session_collects_more_refusals_than_are_free(make_pool, open_host, until):
    """Postfix tells of every session's refusals; from the eleventh on it would delay each reply by a second."""
    mx = await open_host()
    pool = make_pool()
    people = [address(n, domain=n, exists=n % 3 == 0) for n in range(90)]
    assert await ask_all(pool, mx, people) == expected(people)
    assert pool.snapshot().counters["broken"] == 0
    await pool.close()
    if mx.kind == "postfix":
        sessions = pool.snapshot().counters["dials"]
        await until(lambda: len(ERRORS.findall(mx.log())) == sessions)
        refused = [int(total) - int(good or total) for good, total in ERRORS.findall(mx.log())]
        assert sum(refused) == 60
        assert max(refused) <= 10


async def test_sessions_that_part_hear_all_the_same(make_pool, open_host):
    mx = await open_host()
    pool = make_pool(sessions=4)

    async def all_of(domain: int) -> dict[str, int]:
        people = [address(n, domain=domain, exists=n % 2 == 0) for n in range(30)]
        found: dict[str, int] = {}
        while waiting := [each for each in people if each not in found]:
            async with pool.lease("p", [mx.host], timeout=10) as connection:
                while waiting and connection.room:
                    last = connection.room if connection.leaving else connection.last_room
                    chunk = waiting[: last or connection.room]
                    leaving = connection.last_room_after(len(chunk)) > 0
                    answers = await connection.ask(chunk, parting=last > 0, leaving=leaving)
                    assert (answers.ended, answers.mail, None in answers.replies) == (None, None, False), answers
                    found |= {each: reply.code for each, reply in zip(chunk, answers.replies, strict=True)}
                    waiting = waiting[len(chunk) :]
        assert found == expected(people)
        return found

    await asyncio.gather(*(all_of(domain) for domain in range(8)))
    counters = pool.snapshot().counters
    assert counters["parted"] > 0
    assert counters["broken"] == 0
    await pool.close()
    assert pool.snapshot().open == 0


async def test_no_session_dies_of_its_own_resets(make_pool, open_host):
    """Exim ends a session at its eleventh or twelfth RSET (554 too many nonmail commands)."""
    mx = await open_host()
    pool = make_pool(domains_per_transaction=1, sessions=1)
    people = [address(n, domain=n) for n in range(40)]
    assert await ask_all(pool, mx, people) == expected(people)
    for number in range(20):
        assert (await visit(pool, mx, [address(number)], fresh=True)).ended is None
    view = pool.snapshot()
    assert view.counters["broken"] == 0
    assert view.counters["dials"] > 3, "the budget ends sessions, not the server"
    assert "too many nonmail" not in mx.log()


async def test_a_limit_of_recipients_is_learned(make_pool, open_host):
    mx = await open_host("5 recipients")
    pool = make_pool()
    people = [address(n) for n in range(17)]
    assert await ask_all(pool, mx, people) == expected(people)
    assert pool.snapshot().counters["broken"] == 0
    async with pool.lease("p", [mx.host], timeout=10) as connection:
        room = connection.room
        answers = await connection.ask([address(n) for n in range(20, 40)])
    assert room > 0
    assert all(answers.replies[:room]), "what was learned is kept: nobody is told to come again"


async def test_a_limit_of_connections_is_told_and_the_sessions_that_are_there_serve_on(make_pool, open_host):
    mx = await open_host("2 connections")
    pool = make_pool()
    async with pool.lease("p", [mx.host], timeout=10), pool.lease("p", [mx.host], timeout=10) as second:
        with pytest.raises(ConnectFailed) as failed:
            await visit(pool, mx, [address(1)])
        [attempt] = failed.value.attempts
        assert (attempt.stage, attempt.reply.code) == (Stage.BANNER, 421)
        assert [reply.code for reply in (await second.ask([address(1)])).replies] == [250]
    assert (await visit(pool, mx, [address(2)])).ended is None
    assert pool.snapshot().open == 2


async def test_tls_where_the_server_insists(make_pool, open_host):
    mx = await open_host("TLS")
    pool = make_pool()
    people = [address(1), address(2, exists=False)]
    async with pool.lease("p", [mx.host], timeout=10) as connection:
        answers = await connection.ask(people)
        assert ([reply.code for reply in answers.replies], answers.mail) == ([250, 550], None)
        assert connection.capabilities.tls
        async with pool.lease("p", [mx.host], timeout=10) as other:
            assert other.capabilities.tls, "remembered"


async def test_many_callers_share_few_sessions(make_pool, open_host):
    mx = await open_host()
    pool = make_pool(sessions=3)

    async def one(number: int) -> None:
        for turn in range(5):
            exists = number % 4 != 0
            answers = await visit(pool, mx, [address(number * 10 + turn, domain=number, exists=exists)])
            assert [reply.code for reply in answers.replies] == [250 if exists else 550]

    await asyncio.gather(*(one(number) for number in range(32)))
    view = pool.snapshot()
    assert view.open <= 3
    assert view.waiters == 0
    assert (view.counters["leases"], view.counters["broken"]) == (160, 0)


async def test_a_server_restarted_in_mid_batch(make_pool, open_host):
    """Who was not answered is told so, and the next session of the same pool asks again."""
    mx = await open_host()
    pool = make_pool()
    await visit(pool, mx, [address(0)])
    async with (
        pool.lease("p", [mx.host], timeout=10) as begun,
        pool.lease("p", [mx.host], timeout=10) as other,
    ):
        await begun.ask([address(1)])
        await mx.restart()
        for connection in (begun, other):
            answers = await connection.ask([address(2), address(3)])
            assert answers.ended in (Ended.CLOSED, Ended.PROTOCOL)
            assert answers.detail
            assert not any(reply and reply.positive for reply in answers.replies)
            assert connection.room == 0
    people = [address(n, exists=n % 2 == 0) for n in range(2, 12)]
    assert await ask_all(pool, mx, people) == expected(people)
    view = pool.snapshot()
    assert view.counters["broken"] == 2
    assert view.providers["p"].hosts_left_alone == 0


async def test_drain_leaves_nothing_open(make_pool, open_host, until):
    mx = await open_host()
    pool = make_pool()
    async with pool.lease("p", [mx.host], timeout=10) as connection:
        draining = asyncio.create_task(pool.drain(10))
        await asyncio.sleep(0.01)
        assert [reply.code for reply in (await connection.ask([address(1)])).replies] == [250]
    assert await draining
    assert pool.snapshot().open == 0
    if mx.kind == "postfix":
        await until(lambda: "quit=1" in mx.log())
    if mx.kind == "exim":
        await until(lambda: "closed by QUIT" in mx.log())
