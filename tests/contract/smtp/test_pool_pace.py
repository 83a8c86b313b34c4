"""How fast either pool asks, on real sockets; no duration is asserted but that a deadline is kept."""

import pytest

from streams.smtp.errors import ConnectFailed, PoolTimeout
from streams.smtp.lifecycle import Kind
from streams.smtp.session import Ended


def told(notices) -> list[str]:
    return [notice.outcome for notice in notices if notice.kind is Kind.PACE]


async def visit(pool, server, count=1, timeout=None):
    async with pool.lease("p", [server.host], timeout=10) as connection:
        return await connection.ask([f"u{number}@x.test" for number in range(count)], timeout=timeout)


async def test_recipients_wait_for_their_time(make_pool, serve):
    server = await serve()
    pool = make_pool(recipients_per_s=20.0)
    await visit(pool, server, 25)
    answers = await visit(pool, server, 1)
    assert answers.replies[0].code == 250
    assert pool.snapshot().providers["p"].recipients_per_s == 20.0


async def test_what_has_no_time_before_the_deadline_is_not_asked(make_pool, serve):
    server = await serve()
    pool = make_pool(recipients_per_s=1.0)
    await visit(pool, server, 9)
    answers = await visit(pool, server, 2, timeout=0.05)
    assert (answers.replies, answers.ended) == ((None, None), None)
    assert sum(heard.startswith("RCPT") for heard in server.heard) == 9


async def test_connections_wait_for_their_time(make_pool, serve):
    server = await serve()
    pool = make_pool(connections_per_s=10.0, max_uses=1)
    for _ in range(13):
        await visit(pool, server)
    assert server.connections == 13


async def test_a_connection_that_may_not_be_opened_in_time(make_pool, serve):
    server = await serve()
    pool = make_pool(connections_per_s=0.1, max_uses=1)
    await visit(pool, server)
    await visit(pool, server)
    with pytest.raises(PoolTimeout, match="may be opened in time"):
        async with pool.lease("p", [server.host], timeout=0.05):
            pass
    assert server.connections == 2
    assert not pool.snapshot().open


async def test_a_banner_of_421_slows_connections_down_and_good_ones_bring_them_back(make_pool, serve, monkeypatch):
    monkeypatch.setattr("streams.smtp.pace.STEP_S", 0.0)
    server, notices = await serve(banner=b"421 4.7.0 too many connections\r\n!"), []
    pool = make_pool(on_notice=notices.append, connections_per_s=100.0, max_uses=1, breaker_failures=9)
    with pytest.raises(ConnectFailed):
        await visit(pool, server)
    assert told(notices) == ["connections slower", "sessions fewer"]
    assert (pool.snapshot().providers, pool.sessions("p")) == ({}, 2)
    server.banner = b"220 mx\r\n"
    await visit(pool, server)
    assert told(notices)[2:] == ["connections faster"]


@pytest.mark.parametrize("banner", [b"421 4.7.0 too many connections\r\n!", b"554 too many\r\n!", b"!"])
async def test_a_host_that_has_let_us_in_is_not_down_because_one_more_was_too_many(make_pool, serve, banner):
    server = await serve()
    pool = make_pool(breaker_failures=1)
    async with pool.lease("p", [server.host], timeout=10) as connection:
        server.banner = banner
        for _ in range(3):
            with pytest.raises(ConnectFailed) as failed:
                await visit(pool, server)
            assert not failed.value.attempts[0].old
        assert pool.snapshot().providers["p"].hosts_left_alone == 0
        await connection.ask(["u0@x.test"])
    assert server.connections == 4


async def test_421_slows_recipients_down_and_good_answers_bring_them_back(make_pool, serve, monkeypatch):
    monkeypatch.setattr("streams.smtp.pace.STEP_S", 0.0)
    fast = [True]
    server, notices = await serve(respond=lambda c: b"421 4.7.0 slow down\r\n!" if fast and "u0" in c else None), []
    pool = make_pool(on_notice=notices.append, recipients_per_s=50.0)
    assert (await visit(pool, server, 3)).ended is Ended.CLOSED
    assert told(notices) == ["recipients slower", "sessions fewer"]
    fast.clear()
    await visit(pool, server, 1)
    assert told(notices)[2:] == ["recipients faster"]
    assert pool.snapshot().providers["p"].recipients_per_s == 31.25


async def test_a_provider_that_serves_well_may_be_asked_over_more_sessions(make_pool, serve):
    server, notices = await serve(), []
    pool = make_pool(on_notice=notices.append, sessions=1, sessions_max=2)
    await visit(pool, server)
    assert (told(notices), pool.sessions("p"), pool.snapshot().providers["p"].limit) == (["sessions more"], 2, 2)


async def test_421_to_a_session_that_has_served_is_the_end_of_that_session_only(make_pool, serve):
    server, notices = await serve(respond=lambda c: b"421 4.7.0 too many\r\n!" if "u2" in c else None), []
    pool = make_pool(on_notice=notices.append, recipients_per_s=50.0)
    assert (await visit(pool, server, 3)).ended is Ended.CLOSED
    assert told(notices) == []


async def test_a_stall_slows_down_what_has_a_rate_and_is_remembered_with_its_refusals(make_pool, serve):
    def respond(command: str) -> bytes | None:
        if command.startswith("RCPT"):
            return b"" if "u4" in command else b"550 5.1.1 no\r\n"
        return None

    server, notices = await serve(respond=respond), []
    pool = make_pool(on_notice=notices.append, recipients_per_s=50.0, stall_s=0.1)
    assert (await visit(pool, server, 5)).ended is Ended.TIMEOUT
    assert told(notices) == ["recipients slower"]
    async with pool.lease("p", [server.host], timeout=10) as connection:
        assert connection.errors_left == 3
