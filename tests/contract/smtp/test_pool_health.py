"""What either pool does for its own health, on real sockets."""

import asyncio

import pytest

from streams.smtp.errors import ConnectFailed
from streams.smtp.lifecycle import Kind, Life
from tests.contract.smtp.smtp_scripts import MailServer


async def visit(pool, server):
    async with pool.lease("p", [server.host], timeout=10) as connection:
        return await connection.ask(["a@x.test"])


def told(notices, kind) -> list[str]:
    return [notice.outcome for notice in notices if notice.kind is kind]


async def test_idle_sessions_are_asked_whether_they_live(make_pool, serve, until):
    server, notices = await serve(), []
    # One session: whoever comes while it is asked waits for it.
    pool = make_pool(on_notice=notices.append, noop_after_s=0.05, sessions=1)
    await visit(pool, server)
    await until(lambda: server.heard.count("NOOP") >= 2)
    await until(lambda: "alive" in told(notices, Kind.HEALTH_CHECK))
    await visit(pool, server)
    assert server.connections == 1
    assert pool.snapshot().counters["checks"] >= 2
    checks = [notice for notice in notices if notice.kind is Kind.HEALTH_CHECK]
    assert all(notice.seconds >= 0 and notice.host == server.host for notice in checks)


async def test_noop_leaves_the_budget_one_rset(make_pool, serve, until):
    server = await serve()
    pool = make_pool(noop_after_s=0.01, nonmail_budget=3)
    await visit(pool, server)
    await until(lambda: server.heard.count("NOOP") == 2)
    await asyncio.sleep(0.15)
    assert server.heard.count("NOOP") == 2
    assert pool.snapshot().states == {Life.IDLE: 1}


@pytest.mark.parametrize("answer", [b"", b"421 bye\r\n", b"what\r\n"])
async def test_a_session_that_does_not_answer_well_is_not_given_to_anybody(make_pool, serve, until, answer):
    server = await serve(respond=lambda c: answer if c == "NOOP" else None)
    notices = []
    pool = make_pool(on_notice=notices.append, noop_after_s=0.05, connect_timeout_s=0.3)
    await visit(pool, server)
    await until(lambda: told(notices, Kind.HEALTH_CHECK) == ["dead"])
    await until(lambda: not pool.snapshot().open)
    await visit(pool, server)
    assert server.connections == 2


async def test_close_ends_a_health_check(make_pool, serve, until):
    server = await serve(respond=lambda c: b"" if c == "NOOP" else None)
    pool = make_pool(noop_after_s=0.01, connect_timeout_s=5)
    await visit(pool, server)
    await until(lambda: "NOOP" in server.heard)
    await pool.close()
    await until(lambda: not pool.snapshot().open)


async def test_a_host_that_is_back_is_found_by_the_pool_itself(make_pool, serve, until):
    server, notices = await serve(), []
    host = server.host
    await server.stop()
    pool = make_pool(on_notice=notices.append, breaker_failures=1, breaker_base_s=0.2)
    for _ in range(3):
        with pytest.raises(ConnectFailed):
            await visit(pool, server)
    await until(lambda: "down" in told(notices, Kind.HEALTH_CHECK))
    assert pool.snapshot().providers["p"].error_rate.errors == 2
    with pytest.raises(ConnectFailed):
        await visit(pool, server)
    back = MailServer(port=host.port)
    await back.start()
    await until(lambda: "recovered" in told(notices, Kind.HEALTH_CHECK))
    assert back.heard == ["EHLO probe.test"], "no address was needed"
    assert told(notices, Kind.BREAKER)[-2:] == ["half_open", "closed"]
    await visit(pool, back)
    assert back.connections == 1
    await back.stop()


async def test_a_warm_minimum_is_opened_and_filled_again(make_pool, serve, until):
    server = await serve()
    pool = make_pool(warm=2, idle_expiry_s=0.1, noop_after_s=0)
    await visit(pool, server)
    await until(lambda: pool.snapshot().states == {Life.IDLE: 2})
    server.writers[0].transport.abort()
    server.writers[1].transport.abort()
    if pool.snapshot().states:  # a thread's socket tells nothing by itself
        await visit(pool, server)
    await until(lambda: server.connections >= 3 and pool.snapshot().states == {Life.IDLE: 2})


async def test_a_warm_minimum_waits_for_a_host_that_is_down(make_pool, serve, until):
    server = await serve()
    pool = make_pool(warm=1, max_uses=1, breaker_failures=1, breaker_base_s=0.1)
    await visit(pool, server)
    port = server.port
    await server.stop()
    await until(lambda: pool.snapshot().counters["dials_failed"] >= 1)
    back = MailServer(port=port)
    await back.start()
    await until(lambda: back.connections >= 1 and pool.snapshot().states == {Life.IDLE: 1})
    await back.stop()


async def test_waits_and_dials_are_told_of(make_pool, serve, until):
    server, notices = await serve(), []
    pool = make_pool(on_notice=notices.append, sessions=1)
    async with pool.lease("p", [server.host], timeout=10):
        waiting = asyncio.create_task(visit(pool, server))
        await until(lambda: pool.snapshot().waiters == 1)
    await waiting
    assert told(notices, Kind.WAIT) == ["served"]
    assert told(notices, Kind.DIAL) == ["ok"]
    assert pool.snapshot().providers["p"].error_rate.operations == 2


async def test_what_this_machine_lacks_is_not_the_hosts_fault(make_pool, serve, monkeypatch):
    server = await serve()
    pool = make_pool(breaker_failures=1)

    def none_left(*_, **__):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("socket.socket", none_left)
        for _ in range(3):
            with pytest.raises(ConnectFailed, match="Too many open files") as failed:
                await visit(pool, server)
            assert failed.value.attempts[0].local
    await visit(pool, server)


async def test_a_session_that_the_server_closed_is_let_go(make_pool, serve, until):
    server = await serve()
    pool = make_pool(noop_after_s=0.1)
    await visit(pool, server)
    server.writers[0].close()
    await until(lambda: not pool.snapshot().open)
    assert "NOOP" not in server.heard


async def test_warm_sessions_give_way_and_wait_for_room(make_pool, serve, until):
    server = await serve()
    pool = make_pool(total=2, warm=1)
    for provider in "pqr":
        async with pool.lease(provider, [server.host], timeout=5):
            pass
    await asyncio.sleep(1.3)
    view = pool.snapshot()
    assert [each.provider for each in view.connections] == ["q", "r"], "no more are kept than fit"
    assert server.connections == 3


async def test_warm_sessions_that_are_there_are_enough(make_pool, serve, until):
    server = await serve()
    pool = make_pool(warm=1)
    await visit(pool, server)
    await asyncio.sleep(1.3)
    assert server.connections == 1


async def test_smtputf8_that_is_gone_with_tls_is_no_mistake_of_the_caller(make_pool, serve, server_tls):
    def insists(command: str) -> bytes | None:
        if command.startswith("MAIL"):
            return b"530 5.7.0 STARTTLS first\r\n"
        if command.startswith("EHLO"):
            greeted = any(heard.startswith("EHLO") for heard in server.heard[:-1])
            return b"250 mx\r\n" if greeted else b"250-mx\r\n250-SMTPUTF8\r\n250 STARTTLS\r\n"
        return None

    server = await serve(tls=server_tls, respond=insists)
    async with make_pool().lease("p", [server.host], timeout=5) as connection:
        assert connection.capabilities.smtputf8
        answers = await connection.ask(["\u00e9@x.test"], smtputf8=True)
        assert (answers.mail, answers.replies, answers.ended) == (None, (None,), None)
        assert connection.capabilities.tls
        assert not connection.capabilities.smtputf8
