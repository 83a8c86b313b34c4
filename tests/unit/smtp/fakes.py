"""A network and a time of our own: the pool can't tell the difference, and nothing sleeps."""

import asyncio
import heapq
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from schemas.vocabulary import Stage
from streams.smtp._async.pool import AsyncSMTPPool
from streams.smtp.errors import DialAttempt, DialFailed, DialFailure
from streams.smtp.exchange import Capabilities
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.pace import nothing_kept_free
from streams.smtp.policy import PolicyBook, ProviderPolicy
from streams.smtp.ways import Way

T = TypeVar("T")
IDENTITY = Identity("probe.test", "postmaster@probe.test")
HOSTS = [Host(f"mx{number}.test", f"192.0.2.{number}") for number in range(1, 4)]


class _Jump(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Where a loop would wait, its clock goes forward instead."""

    loop: "FakeTimeLoop"

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everybody waits and nothing will ever happen")
        self.loop.now += max(0.0, timeout)
        return super().select(0)


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while nobody has anything to do."""

    def __init__(self) -> None:
        selector = _Jump()
        selector.loop = self
        self.now = 1000.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` in a time of its own."""
    loop = FakeTimeLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def friendly(command: str) -> bytes:
    """Yes to everything."""
    return b"250 2.0.0 ok\r\n"


def half_missing(command: str) -> bytes:
    """Whoever is called ``gone`` is."""
    return b"550 5.1.1 no\r\n" if command.startswith("RCPT TO:<gone") else b"250 2.0.0 ok\r\n"


def half(count: int) -> list[str]:
    """Addresses of whom :func:`half_missing` knows every other one."""
    return [f"{'gone' if number % 2 else 'user'}{number}@a.test" for number in range(count)]


@dataclass(eq=False)
class FakeLink:
    """A server at the other end of nothing: ``respond`` makes replies of commands, ``delay`` seconds later.

    A reply of ``None`` ends the connection, an empty one is silence. QUIT has an answer of its own.
    """

    respond: Callable[[str], bytes | None] = friendly
    delay: float = 0.05
    capabilities: Capabilities = field(default_factory=lambda: Capabilities(pipelining=True, smtputf8=True, size=1000))
    written: list[bytes] = field(default_factory=list)
    closed: bool = False
    farewell: bytes = b""
    tls_works: bool = True
    _inbox: list[tuple[float, int, bytes]] = field(default_factory=list)
    _waiter: Any = None
    _on_activity: Any = None

    def watch(self, on_activity: Callable[[], None]) -> None:
        self._on_activity = on_activity

    def write(self, data: bytes) -> None:
        self.written.append(data)
        said = data.decode().split("\r\n")[:-1]
        replies = [b"221 2.0.0 bye\r\n" if line == "QUIT" else self.respond(line) for line in said]
        end = replies.index(None) if None in replies else None
        if answer := b"".join(reply for reply in replies[:end] if reply):
            self.send(answer, self.delay)
        if end is not None:
            self.send(b"", self.delay)

    def send(self, data: bytes, delay: float = 0.0) -> None:
        """What the server says, or its end."""
        asyncio.get_running_loop().call_later(delay, self._arrive, data)

    def _arrive(self, data: bytes) -> None:
        if self.closed:
            return
        heapq.heappush(self._inbox, (asyncio.get_running_loop().time(), len(self._inbox), data))
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif self._on_activity is not None:
            self._on_activity()

    async def read(self, timeout: float) -> bytes:
        if (data := self.unread()) is not None:
            return data
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._waiter
        finally:
            self._waiter = None
        return self.unread() or b""

    def unread(self) -> bytes | None:
        if self._inbox:
            return heapq.heappop(self._inbox)[2]
        return b"" if self.closed else None

    async def start_tls(self, timeout: float) -> None:
        if not self.tls_works:
            raise DialFailed(DialAttempt(HOSTS[0], Stage.STARTTLS, failure=DialFailure.TLS, detail="no"))
        self.capabilities = Capabilities(pipelining=True, tls=True)

    def cut(self) -> None:
        self._arrive(b"")

    def close(self, farewell: bytes = b"") -> None:
        if not self.closed:
            self.closed, self.farewell = True, farewell


class Plain(FakeLink):
    """Offers nothing."""

    def __init__(self, respond: Callable[[str], bytes | None], delay: float) -> None:
        super().__init__(respond, delay, Capabilities())


@dataclass
class FakeNet:
    """Hosts that can be dialled. ``dial`` may be replaced by a script."""

    respond: Callable[[str], bytes | None] = friendly
    delay: float = 0.05
    down: set[Host] = field(default_factory=set)
    hangs: set[Host] = field(default_factory=set)
    links: list[FakeLink] = field(default_factory=list)
    dialled: list[Host] = field(default_factory=list)
    before: Callable[[Host], Awaitable[None]] | None = None
    link: type[FakeLink] = FakeLink
    ways: list[str] = field(default_factory=list)
    lost: Callable[[str, Host], DialAttempt | None] = lambda way, host: None
    """What the network, or a server that has it in for one of our ways, does to a dial."""

    async def __call__(
        self,
        host: Host,
        way: Way,
        *,
        starttls: bool,
        step_timeout_s: float,
        timeout_s: float,
        on_greeting: Callable[[], None],
    ) -> FakeLink:
        self.dialled.append(host)
        self.ways.append(way.name)
        if self.before is not None:
            await self.before(host)
        if host in self.hangs:
            await asyncio.sleep(min(step_timeout_s, timeout_s))
            raise DialFailed(DialAttempt(host, Stage.CONNECT, failure=DialFailure.TIMEOUT))
        await asyncio.sleep(min(self.delay, timeout_s))
        if host in self.down:
            raise DialFailed(DialAttempt(host, Stage.CONNECT, failure=DialFailure.CONNECT, detail="refused"))
        if (attempt := self.lost(way.name, host)) is not None:
            raise DialFailed(attempt)
        on_greeting()
        await asyncio.sleep(self.delay)
        link = self.link(self.respond, self.delay)
        self.links.append(link)
        return link


def pool_on(
    net: FakeNet,
    *,
    total: int = 1000,
    kept_free: Callable[[int], int] = nothing_kept_free,
    on_event: Any = None,
    on_notice: Any = None,
    ways: Sequence[Way] = (),
    **fields: Any,
) -> AsyncSMTPPool:
    """A pool on ``net`` and the running loop's time, with policy ``fields``."""
    return AsyncSMTPPool(
        identity=None if ways else IDENTITY,
        ways=ways,
        policies=PolicyBook(ProviderPolicy(**fields)),
        total=total,
        kept_free=kept_free,
        on_event=on_event,
        on_notice=on_notice,
        clock=asyncio.get_running_loop().time,
        rng=lambda: 0.0,
        dial=net,
    )
