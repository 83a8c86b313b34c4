"""One suite over both pools: the synchronous one runs in threads, behind the asynchronous one's methods."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streams.smtp._async.pool import AsyncSMTPPool
from streams.smtp._sync.pool import SMTPPool
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.policy import PolicyBook, ProviderPolicy
from streams.smtp.ways import Way
from tests.contract.smtp.mail_hosts import MailHost, of_real, of_world, real_host, world_of
from tests.contract.smtp.smtp_scripts import MailServer, certificate

IDENTITY = Identity("probe.test", "postmaster@probe.test")
Serve = Callable[..., Awaitable[MailServer]]
OpenHost = Callable[..., Awaitable[MailHost]]


class ThreadedConnection:
    """:class:`SMTPConnection` with an ``ask`` that can be awaited."""

    def __init__(self, connection: Any, run: Any) -> None:
        self._connection, self._run = connection, run

    def __repr__(self) -> str:
        return repr(self._connection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def ask(self, *args: Any, **kwargs: Any) -> Any:
        return await self._run(self._connection.ask, *args, **kwargs)


class ThreadedPool:
    """:class:`SMTPPool` with methods that can be awaited."""

    def __init__(self, **kwargs: Any) -> None:
        self.pool = SMTPPool(**kwargs)
        self._threads = ThreadPoolExecutor(40)

    async def _run(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))

    @asynccontextmanager
    async def lease(
        self,
        provider: str,
        hosts: Sequence[Host],
        *,
        timeout: float,
        source: str | None = None,
    ) -> AsyncIterator[ThreadedConnection]:
        lease = self.pool.lease(provider, hosts, timeout=timeout, source=source)
        connection = await self._run(lease.__enter__)
        try:
            yield ThreadedConnection(connection, self._run)
        finally:
            await self._run(lease.__exit__, None, None, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    async def drain(self, timeout: float) -> bool:
        return await self._run(self.pool.drain, timeout)

    async def close(self) -> None:
        await self._run(self.pool.close)

    async def __aenter__(self) -> "ThreadedPool":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        self._threads.shutdown(wait=False)


@pytest.fixture(params=["async", "sync"])
async def make_pool(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    """Call it with policy fields, ``total``, ``ways`` and observers; the pools are closed at the end."""
    pools: list[Any] = []

    def make(
        total: int = 1000, on_event: Any = None, on_notice: Any = None, ways: Sequence[Way] = (), **fields: Any
    ) -> Any:
        book = PolicyBook(ProviderPolicy(**{"connect_timeout_s": 5.0, "command_timeout_s": 5.0, **fields}))
        kind = AsyncSMTPPool if request.param == "async" else ThreadedPool
        observers = {"on_event": on_event, "on_notice": on_notice}
        who = {"ways": ways} if ways else {"identity": IDENTITY}
        pools.append(kind(**who, policies=book, total=total, rng=lambda: 0.0, **observers))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.__aexit__(None, None, None)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a :class:`MailServer` with the given fields."""
    servers: list[MailServer] = []

    async def start(**fields: Any) -> MailServer:
        server = MailServer(**fields)
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture(scope="session")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="session")
def server_tls(tls_folder: Path) -> ssl.SSLContext:
    return certificate(tls_folder)


@pytest.fixture(params=["world", "postfix", "exim"])
async def open_host(
    request: pytest.FixtureRequest, start_mta: Callable[..., Any], server_tls: ssl.SSLContext, tls_folder: Path
) -> AsyncIterator[OpenHost]:
    """Starts a host of each kind, with one of :data:`LIMITS` if it is named."""
    async with AsyncExitStack() as running:

        async def start(limit: str = "") -> MailHost:
            if request.param == "world":
                return of_world(await running.enter_async_context(world_of(limit)))
            return of_real(start_mta(lambda: real_host(request.param, limit, tls_folder / "mx.pem")))

        yield start


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what must come about; the deadline only ends a broken test."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture(name="until")
def _until() -> Callable[..., Awaitable[None]]:
    return until
