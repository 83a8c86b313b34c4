"""Ways out of either pool on real sockets: source addresses of loopback, and a SOCKS5 proxy that does as it is told."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from schemas.vocabulary import Stage
from streams.smtp._async import socks as async_socks
from streams.smtp._async.pool import AsyncSMTPPool
from streams.smtp._sync import socks as sync_socks
from streams.smtp.breaker import BreakerState
from streams.smtp.errors import ConnectFailed, DialFailure
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.policy import StartTLS
from streams.smtp.ways import Proxy, Way
from tests.contract.smtp.socks_script import SocksServer

ONE = Way("one", Identity("one.probe.test", "a@one.test"), ("127.0.0.11",))
TWO = Way("two", Identity("two.probe.test", "a@two.test"), ("127.0.0.12", "::1"))
FOREIGN = Way("one", Identity("one.probe.test"), ("192.0.2.77",))
"""An address that this machine does not have."""
LOGIN = ("user-u", "pass-s3cret")
Socks = Callable[..., Awaitable[SocksServer]]


@pytest.fixture
async def socks() -> AsyncIterator[Socks]:
    servers: list[SocksServer] = []

    async def start(**fields: Any) -> SocksServer:
        server = SocksServer(**fields)
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


def through(port: int, login: tuple[str, str] = ("", ""), name: str = "one") -> Way:
    return Way(name, Identity(f"{name}.probe.test"), proxy=Proxy("127.0.0.1", port, *login))


async def ask(pool, host, source="one", timeout=10):
    async with pool.lease("p", [host], timeout=timeout, source=source) as connection:
        return connection.way, await connection.ask(["x@x.test"])


async def failure(pool, host, timeout=10):
    with pytest.raises(ConnectFailed) as failed:
        await ask(pool, host, timeout=timeout)
    return failed.value


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


# Source addresses


async def test_the_server_sees_the_address_and_the_names_of_each_way(make_pool, serve):
    server = await serve()
    pool = make_pool(ways=[ONE, TWO])
    for source in ("one", "two"):
        way, answers = await ask(pool, server.host, source)
        assert (way, answers.replies[0].code) == (source, 250)
    assert server.peers == ["127.0.0.11", "127.0.0.12"]
    assert [command for command in server.heard if command.startswith(("EHLO", "MAIL"))] == [
        "EHLO one.probe.test",
        "MAIL FROM:<a@one.test>",
        "EHLO two.probe.test",
        "MAIL FROM:<a@two.test>",
    ]


async def test_an_address_that_this_machine_has_not_is_the_ways_fault(make_pool, serve):
    server = await serve()
    pool = make_pool(ways=[FOREIGN, TWO], breaker_failures=1)
    way, _ = await ask(pool, server.host)
    assert (way, server.peers) == ("two", ["127.0.0.12"])
    assert pool.snapshot().ways["one"].breaker is BreakerState.OPEN
    alone = make_pool(ways=[FOREIGN])
    [attempt] = (await failure(alone, server.host)).attempts
    assert (attempt.stage, attempt.local, attempt.way_failed) == (Stage.CONNECT, True, True)


@pytest.mark.parametrize("banner", [b"550 5.7.1 blocked\r\n!", b"421 4.7.0 too many\r\n!", b"!"])
async def test_what_a_server_says_or_does_is_not_got_around(make_pool, serve, banner):
    server = await serve(banner=banner)
    pool = make_pool(ways=[ONE, TWO])
    for _ in range(2):
        await failure(pool, server.host)
    assert set(server.peers) == {"127.0.0.11"}


async def test_a_port_where_nobody_listens_is_the_networks_fault(make_pool):
    pool = make_pool(ways=[ONE, TWO])
    error = await failure(pool, Host("dead.test", "127.0.0.1", free_port()))
    assert [attempt.way for attempt in error.attempts] == ["one", "two"]
    assert not any(attempt.local for attempt in error.attempts)


async def test_tls_over_a_way(make_pool, serve, server_tls):
    server = await serve(
        ehlo=b"250-mx.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n",
        tls=server_tls,
    )
    pool = make_pool(ways=[ONE, TWO], starttls=StartTLS.OFFERED)
    async with pool.lease("p", [server.host], timeout=10, source="two") as connection:
        assert connection.capabilities.tls


# A proxy


@pytest.mark.parametrize("login", [None, LOGIN])
async def test_through_a_proxy(make_pool, serve, socks, login):
    server, proxy = await serve(), await socks(login=login, source="127.0.0.21")
    pool = make_pool(ways=[through(proxy.port, login or ("", ""))])
    way, answers = await ask(pool, server.host)
    assert (way, answers.replies[0].code) == ("one", 250)
    assert server.peers == ["127.0.0.21"]
    assert proxy.asked == [(1, "127.0.0.1", server.port)], "the address that was checked, never a name"
    await pool.close()


async def test_an_ipv6_address_goes_through_as_it_stands(make_pool, socks):
    proxy = await socks(code=4)
    await failure(make_pool(ways=[through(proxy.port)]), Host("mx6.test", "2001:db8::25", 25))
    assert proxy.asked == [(4, "2001:db8::25", 25)]


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6])
async def test_a_host_that_the_proxy_does_not_reach_is_not_the_ways_fault(make_pool, serve, socks, code, until):
    server, proxy = await serve(), await socks(code=code)
    pool = make_pool(ways=[through(proxy.port), TWO], breaker_failures=1)
    way, _ = await ask(pool, server.host)
    assert (way, server.peers) == ("two", ["127.0.0.12"])
    assert pool.snapshot().ways["one"].breaker is BreakerState.CLOSED
    await until(lambda: proxy.gone == 1)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"login": ("user-u", "another")}, DialFailure.CONNECT),
        ({"says": b"\x05\xff"}, DialFailure.CONNECT),
        ({"says": b"HTTP/1.1 400 Bad Request\r\n"}, DialFailure.CONNECT),
        ({"says": b"\x05"}, DialFailure.CONNECT),
    ],
)
async def test_a_proxy_that_would_not_have_us_is_left_alone(make_pool, serve, socks, fields, kind, caplog):  # noqa: PLR0917
    server, proxy = await serve(), await socks(**fields)
    pool = make_pool(ways=[through(proxy.port, LOGIN), TWO], breaker_failures=1, breaker_base_s=60.0)
    for _ in range(2):
        way, _ = await ask(pool, server.host)
        assert way == "two"
    assert proxy.connections == 1
    assert pool.snapshot().ways["one"].breaker is BreakerState.OPEN
    alone = make_pool(ways=[through(proxy.port, LOGIN)])
    error = await failure(alone, server.host)
    [attempt] = error.attempts
    assert (attempt.failure, attempt.stage, attempt.way_failed) == (kind, Stage.CONNECT, True)
    shown = f"{error} {attempt!r} {error!r} {error.__context__!r} {caplog.text} {alone.snapshot()}"
    assert not [secret for secret in LOGIN if secret in shown]
    assert str(proxy.port) not in str(error)


async def test_a_proxy_that_is_down(make_pool, serve):
    server = await serve()
    pool = make_pool(ways=[through(free_port()), TWO], breaker_failures=1)
    way, _ = await ask(pool, server.host)
    assert way == "two"
    assert pool.snapshot().ways["one"].breaker is BreakerState.OPEN


@pytest.mark.parametrize("hangs", ["greeting", "connect"])
async def test_a_proxy_that_hangs(make_pool, serve, socks, hangs, until):
    server, proxy = await serve(), await socks(hangs=hangs)
    pool = make_pool(ways=[through(proxy.port), TWO], connect_timeout_s=0.2)
    way, _ = await ask(pool, server.host)
    assert way == "two"
    await until(lambda: proxy.gone == 1)


async def test_the_lease_bounds_the_way_through_a_proxy(make_pool, serve, socks, until):
    server, proxy = await serve(), await socks(hangs="connect")
    [attempt] = (await failure(make_pool(ways=[through(proxy.port)]), server.host, timeout=0.2)).attempts
    assert (attempt.failure, attempt.stage) == (DialFailure.TIMEOUT, Stage.CONNECT)
    await until(lambda: proxy.gone == 1)


async def test_a_banner_through_a_proxy_is_the_servers_word(make_pool, serve, socks):
    server, proxy = await serve(banner=b"554 5.7.1 blocked\r\n!"), await socks(source="127.0.0.21")
    pool = make_pool(ways=[through(proxy.port), TWO])
    [attempt] = (await failure(pool, server.host)).attempts
    assert (attempt.stage, attempt.reply.code, attempt.way) == (Stage.BANNER, 554, "one")
    assert server.peers == ["127.0.0.21"]


async def test_a_server_behind_a_proxy_that_closes_at_once(make_pool, serve, socks):
    server, proxy = await serve(banner=b"!"), await socks()
    [attempt] = (await failure(make_pool(ways=[through(proxy.port), TWO]), server.host)).attempts
    assert (attempt.stage, attempt.failure) == (Stage.BANNER, DialFailure.CLOSED)


async def test_tls_through_a_proxy(make_pool, serve, socks, server_tls):
    ehlo = b"250-mx.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
    server, proxy = await serve(ehlo=ehlo, tls=server_tls), await socks()
    pool = make_pool(ways=[through(proxy.port)], starttls=StartTLS.OFFERED)
    async with pool.lease("p", [server.host], timeout=10) as connection:
        assert connection.capabilities.tls
        assert (await connection.ask(["x@x.test"])).replies[0].code == 250


async def test_no_socket_left_for_the_proxy_is_this_machines_want(make_pool, serve, monkeypatch):
    server = await serve()

    def exhausted(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(async_socks.socket, "socket", exhausted)
    monkeypatch.setattr(sync_socks.socket, "create_connection", exhausted)
    [attempt] = (await failure(make_pool(ways=[through(1)]), server.host)).attempts
    assert (attempt.local, attempt.way_failed) == (True, False)


@pytest.mark.parametrize("hangs", ["greeting", "connect", ""])
async def test_a_dial_through_a_proxy_that_is_cancelled_leaves_nothing_open(serve, socks, hangs, until):
    """At every step: the proxy, its reply, the banner. (A thread can't be cancelled.)"""
    silent, proxy = await serve(banner=b""), await socks(hangs=hangs)
    pool = AsyncSMTPPool(ways=[through(proxy.port), TWO])
    for after in (0.0, 0.001, 0.01, 0.1):
        asking = asyncio.create_task(ask(pool, silent.host))
        await asyncio.sleep(after)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: proxy.gone == proxy.connections)
    await until(lambda: silent.gone == silent.connections)
    assert (pool.snapshot().open, pool._ledger.open) == (0, 0)
    assert "127.0.0.12" not in silent.peers
    await pool.close()
