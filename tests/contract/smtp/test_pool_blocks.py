"""A block of our own address: believed when several domains report it, and nothing is asked for a while then."""

import asyncio

import pytest

from schemas.vocabulary import Stage
from streams.smtp.errors import ConnectFailed, PoolTimeout
from streams.smtp.lifecycle import Kind
from streams.smtp.replies import Reply

BLOCKED = Reply(550, ("5.7.1 your address is on our list",))


def told(notices) -> list[str]:
    return [notice.outcome for notice in notices if notice.kind is Kind.BLOCK]


async def visit(pool, server, timeout=10):
    async with pool.lease("p", [server.host], timeout=timeout) as connection:
        return await connection.ask(["a@x.test"])


async def test_it_takes_several_domains_with_no_service_between(make_pool, serve):
    server, notices = await serve(), []
    pool = make_pool(on_notice=notices.append)
    pool.report_block("p", "early.test", BLOCKED)  # nothing is known of "p" yet
    await visit(pool, server)
    pool.report_service("p")
    for domain in ("a.test", "b.test", "a.test"):
        pool.report_block("p", domain, BLOCKED)
    pool.report_service("p")
    for domain in ("c.test", "d.test", "c.test"):
        pool.report_block("p", domain, BLOCKED)
    assert not pool.blocked("p")
    assert not pool.blocked("q")
    await visit(pool, server)
    pool.report_block("p", "e.test", BLOCKED, Stage.MAIL)
    assert pool.blocked("p")
    assert told(notices) == ["believed"]
    assert pool.snapshot().providers["p"].block == "open"
    heard = len(server.heard)
    with pytest.raises(ConnectFailed, match="our address is blocked") as failed:
        await visit(pool, server)
    [attempt] = failed.value.attempts
    assert (attempt.host, attempt.stage, attempt.reply, attempt.old) == (server.host, Stage.MAIL, BLOCKED, True)
    assert len(server.heard) == heard
    await pool.close()
    assert pool.blocked("p"), "it is remembered though no session is left"


async def test_one_caller_tries_when_the_time_is_over(make_pool, serve, until):
    server, notices = await serve(), []
    pool = make_pool(on_notice=notices.append, block_domains=1, block_base_s=0.3, block_max_s=60)
    await visit(pool, server)
    pool.report_block("p", "a.test", BLOCKED)
    await until(lambda: not pool.blocked("p"))
    async with pool.lease("p", [server.host], timeout=10):
        with pytest.raises(ConnectFailed):
            await visit(pool, server)
    async with pool.lease("p", [server.host], timeout=10):  # the first one learned nothing: another may try
        pool.report_block("p", "a.test", BLOCKED)
    assert pool.blocked("p"), "twice as long now"
    assert told(notices) == ["believed", "believed"]
    pool.report_service("p")
    assert told(notices)[2:] == ["lifted"]
    await asyncio.gather(*(visit(pool, server) for _ in range(3)))


async def test_a_trial_that_gets_no_session_makes_way(make_pool, serve, until):
    server = await serve()
    pool = make_pool(block_domains=1, block_base_s=0.05, sessions=1)
    async with pool.lease("p", [server.host], timeout=10):
        pool.report_block("p", "a.test", BLOCKED)
        await until(lambda: not pool.blocked("p"))
        for _ in range(2):
            with pytest.raises(PoolTimeout):
                await visit(pool, server, timeout=0.05)
    assert (await visit(pool, server)).replies[0].code == 250
