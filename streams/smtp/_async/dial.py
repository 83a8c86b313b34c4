"""aiosmtplib opens the connection (TCP, banner, EHLO or HELO, STARTTLS); then the transport is ours.

aiosmtplib 5.1 forgets bytes that come while it waits for no reply, and keeps those behind a reply in a private buffer,
where they would pass for the answer to the next command. So a :class:`Tap` stands before it and keeps account: a server
that says more, or less, than it was asked for is not talked to.
"""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Protocol, cast

from aiosmtplib import (
    SMTP,
    SMTPConnectError,
    SMTPException,
    SMTPHeloError,
    SMTPReadTimeoutError,
    SMTPResponse,
    SMTPResponseException,
    SMTPServerDisconnected,
)
from aiosmtplib.protocol import SMTPProtocol

from schemas.vocabulary import Stage
from streams.smtp._async.link import LINGER_S, MAX_UNREAD, AsyncLink, StreamLink
from streams.smtp._async.socks import pass_through
from streams.smtp.errors import (
    DialAttempt,
    DialFailed,
    DialFailure,
    LocalProtocolError,
    RemoteProtocolError,
    is_local,
    lacks_address,
)
from streams.smtp.exchange import Capabilities
from streams.smtp.hosts import Host
from streams.smtp.replies import Reply, ReplyParser, kept
from streams.smtp.socks import NoPassage
from streams.smtp.tls import unverified_context
from streams.smtp.ways import Proxy, Way

_HOST_NAME = re.compile(r"[A-Za-z0-9.-]{1,253}")
_UNREAD_NAME = "-"
"""aiosmtplib reads our name letter by letter, and again when it connects; ours is good (:class:`Identity`)."""

_AWAITED: Mapping[Stage, str] = MappingProxyType(
    {
        Stage.CONNECT: "no connection",
        Stage.BANNER: "no banner",
        Stage.EHLO: "no reply to EHLO",
        Stage.STARTTLS: "no reply to STARTTLS, or no handshake",
    }
)

_EHLO_UNKNOWN = frozenset({500, 501, 502, 503, 504})
"""Refusals of EHLO itself, after which HELO is tried (RFC 5321 section 4.1.1.1); any other is about us."""


class Dial(Protocol):
    """How a pool opens a connection to one host.

    ``way``: where from, and who we are there. ``starttls``: begin with STARTTLS where it is offered.
    ``step_timeout_s`` bounds the TCP handshake, each reply, and STARTTLS with its handshake; ``timeout_s`` the whole.
    ``on_greeting`` is called when the banner has come.

    :raises DialFailed: with the reply or the failure; nothing is left open.
    """

    async def __call__(
        self,
        host: Host,
        way: Way,
        *,
        starttls: bool,
        step_timeout_s: float,
        timeout_s: float,
        on_greeting: Callable[[], None],
    ) -> AsyncLink: ...


async def dial_aiosmtplib(
    host: Host,
    way: Way,
    *,
    starttls: bool,
    step_timeout_s: float,
    timeout_s: float,
    on_greeting: Callable[[], None],
) -> AsyncLink:
    """A :class:`Dial` by aiosmtplib."""
    opening = _Opening(host, way, step_timeout_s)
    try:
        async with opening.within(timeout_s):
            await opening.greet()
            on_greeting()
            await opening.hello()
            if starttls and opening.client.supports_extension("starttls"):
                await opening.secure()
            return DialledLink(opening)
    except SMTPException as error:
        # The server closed right behind its last reply.
        opening.client.close()
        raise opening.lost(error) from error
    except BaseException:
        opening.client.close()
        raise


class Tap(asyncio.Protocol):
    """Passes everything on to aiosmtplib's protocol and keeps account of what came."""

    __slots__ = ("_inner", "_parser", "_seen", "_transport")

    def __init__(self, inner: asyncio.Protocol, transport: asyncio.Transport) -> None:
        self._inner = inner
        self._transport = transport
        self._parser = ReplyParser()
        self._seen = 0
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self._seen += len(data)
        if self._seen > MAX_UNREAD:
            self._transport.abort()
            return
        self._parser.feed(data)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def settle(self, asked: int, last: SMTPResponse) -> None:
        """:raises RemoteProtocolError: not ``asked`` replies have come, or aiosmtplib took another one for the last."""
        reply = None
        for _ in range(asked):
            reply = self._parser.next_reply()
        if reply is None or _shape(reply.code, reply.lines) != _shape(last.code, last.message.split("\n")):
            raise RemoteProtocolError("the server spoke before it was asked")
        if not self._parser.empty:
            raise RemoteProtocolError("the server said more than it was asked for")


class _Patience:
    """So long for each step, so long for all of them, and one timer that is hardly ever set anew.

    aiosmtplib's own timeouts are asyncio's ``wait_for``: a timer for each reply, and before Python 3.12 a task for each
    connection.
    """

    def __init__(self, step_s: float, whole_s: float, late: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._step_s = step_s
        self._late = late
        now = self._loop.time()
        self._end = now + whole_s
        self._rings_at = self._due = min(now + step_s, self._end)
        self._timer = self._loop.call_at(self._due, self._ring)

    @property
    def over(self) -> bool:
        """The time for all steps is."""
        return self._due == self._end

    def step(self) -> None:
        """A step begins; ``late`` is called when it has lasted its time."""
        self._allow(self._step_s)

    def leave_to_others(self) -> None:
        """Steps begin that somebody else bounds: only all of them together are."""
        self._allow(math.inf)

    def _allow(self, seconds: float) -> None:
        self._due = min(self._loop.time() + seconds, self._end)
        if self._due < self._rings_at:
            self._set()

    def stop(self) -> None:
        """All is done, and nothing of it is left to the collector."""
        self._timer.cancel()
        del self._late

    def _set(self) -> None:
        self._timer.cancel()
        self._rings_at = self._due
        self._timer = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._rings_at = math.inf
        if self._loop.time() < self._due:
            self._set()
        else:
            self._late()


class _Client(SMTP):
    """aiosmtplib's client, which has a protocol from when TCP is through: then the time of the banner begins."""

    patience: _Patience
    _protocol: SMTPProtocol | None

    @property
    def protocol(self) -> SMTPProtocol | None:
        return self._protocol

    @protocol.setter
    def protocol(self, protocol: SMTPProtocol | None) -> None:
        self._protocol = protocol
        if protocol is not None:
            self.patience.step()


class _Opening:
    """A dial on its way: the stage it has reached, and every failure told in our words."""

    def __init__(self, host: Host, way: Way, step_timeout_s: float) -> None:
        self.host = host
        self.way = way
        self.stage = Stage.CONNECT
        self._step_s = step_timeout_s
        source = way.source_for(host.address)
        self.client = _Client(
            hostname=host.address,
            port=host.port,
            local_hostname=_UNREAD_NAME,
            source_address=(source, 0) if source is not None else None,
            timeout=None,
            start_tls=False,
            tls_context=unverified_context(),
        )

    @asynccontextmanager
    async def within(self, timeout_s: float) -> AsyncIterator[None]:
        """All that happens in the block has so long, and each of its steps the step's time.

        :raises DialFailed: it took longer.
        """
        try:
            async with asyncio.timeout(None) as self._limit:
                self.client.patience = _Patience(self._step_s, timeout_s, self._late)
                try:
                    yield
                finally:
                    self.client.patience.stop()
        except TimeoutError:
            awaited = f"{_AWAITED[self.stage]} within {self._step_s:g} s"
            detail = "the time for a session ran out" if self.client.patience.over else awaited
            raise self.failed(DialFailure.TIMEOUT, detail) from None

    def _late(self) -> None:
        if self.stage is Stage.CONNECT and self.client.protocol is not None:
            self.stage = Stage.BANNER
        self._limit.reschedule(asyncio.get_running_loop().time())

    async def greet(self) -> None:
        """TCP and the banner."""
        try:
            if self.way.proxy is None:
                await self.client.connect()
            else:
                await self._connect_through(self.way.proxy)
            self.client.local_hostname = self.way.identity.helo
        except SMTPResponseException as error:
            self.stage = Stage.BANNER
            raise self._refused(error) from error
        except SMTPConnectError as error:
            cause = error.__cause__
            if isinstance(cause, (SMTPReadTimeoutError, SMTPServerDisconnected)):
                self.stage = Stage.BANNER
            raise self.lost(error) from error

    async def _connect_through(self, proxy: Proxy) -> None:
        self.client.patience.leave_to_others()
        try:
            sock = await pass_through(proxy, self.host, self._step_s)
        except NoPassage as error:
            raise self.failed(error.failure, error.detail, local=error.local, way_failed=error.way_failed) from error
        self.client.patience.step()
        try:
            await self.client.connect(sock=sock, port=None)
        except BaseException:
            # Whoever was cancelled in between may have left it open, and nobody can tell; closing twice does no harm.
            asyncio.get_running_loop().call_later(LINGER_S, sock.close)
            raise

    async def hello(self) -> None:
        """EHLO, or HELO where EHLO is unknown; the account of replies must be even."""
        self.stage = Stage.EHLO
        tap = self._tap()
        asked = 1
        try:
            self.client.patience.step()
            try:
                last = await self.client.ehlo()
            except SMTPHeloError as error:
                if error.code not in _EHLO_UNKNOWN:
                    raise
                asked = 2
                self.client.patience.step()
                last = await self.client.helo()
            tap.settle(asked, last)
        except SMTPResponseException as error:
            raise self._refused(error) from error
        except (SMTPException, RemoteProtocolError) as error:
            raise self.lost(error) from error

    async def secure(self) -> None:
        """STARTTLS, the handshake, and EHLO again."""
        self.stage = Stage.STARTTLS
        name = self.host.name.rstrip(".")
        self._tap()
        self.client.patience.step()
        try:
            await self.client.starttls(server_hostname=name if _HOST_NAME.fullmatch(name) else self.host.address)
        except SMTPResponseException as error:
            raise self._refused(error) from error
        except (SMTPException, OSError, ValueError) as error:
            # asyncio itself ends a handshake after a minute, by aborting the connection.
            hung = isinstance(error, TimeoutError) or isinstance(error.__cause__, ConnectionAbortedError)
            raise self.failed(DialFailure.TIMEOUT if hung else DialFailure.TLS, _sentence(error)) from error
        await self.hello()

    def capabilities(self) -> Capabilities:
        """What the last EHLO reply offered."""
        offered = self.client.esmtp_extensions
        size = offered.get("size", "")
        return Capabilities(
            pipelining="pipelining" in offered,
            smtputf8="smtputf8" in offered,
            starttls="starttls" in offered,
            tls=self.client.get_transport_info("sslcontext") is not None,
            size=int(size) if size.isdecimal() else None,
        )

    @property
    def transport(self) -> asyncio.Transport:
        return cast(asyncio.Transport, self.client.transport)

    def let_go(self) -> None:
        """The transport is the link's: client and protocol, which hold each other, need not wait for the collector."""
        self.client.transport = self.client.protocol = None

    def failed(self, failure: DialFailure, detail: str, *, local: bool = False, way_failed: bool = False) -> DialFailed:
        """What to raise when no reply says why."""
        return DialFailed(DialAttempt(self.host, self.stage, None, failure, detail, local=local, way_failed=way_failed))

    def _tap(self) -> Tap:
        if self.client.protocol is None:
            raise self.failed(DialFailure.CLOSED, "the server closed the connection")
        return Tap(self.client.protocol, self.transport)

    def _refused(self, error: SMTPResponseException) -> DialFailed:
        if not 200 <= error.code <= 599:
            return self.failed(DialFailure.PROTOCOL, error.message[:200])
        reply = kept(Reply(error.code, tuple(error.message.split("\n"))))
        return DialFailed(DialAttempt(self.host, self.stage, reply=reply))

    def lost(self, error: Exception) -> DialFailed:
        """What to raise when the conversation broke off."""
        if isinstance(error, RemoteProtocolError):
            failure = DialFailure.PROTOCOL
        elif isinstance(error, TimeoutError):
            failure = DialFailure.TIMEOUT
        else:
            failure = DialFailure.CONNECT if self.stage is Stage.CONNECT else DialFailure.CLOSED
        way_failed = bool(self.way.sources) and lacks_address(error)
        return self.failed(failure, _sentence(error.__cause__ or error), local=is_local(error), way_failed=way_failed)


class DialledLink(StreamLink):
    """The connection after the hand-over; aiosmtplib stays at hand where STARTTLS may be wanted, and only there."""

    __slots__ = ("_opening", "capabilities")

    def __init__(self, opening: _Opening) -> None:
        super().__init__(opening.transport)
        self.capabilities = opening.capabilities()
        self._opening = opening if self.capabilities.starttls else None
        if self._opening is None:
            opening.let_go()

    async def start_tls(self, timeout: float) -> None:
        opening, self._opening = self._opening, None
        if opening is None:
            raise LocalProtocolError("STARTTLS where it was not offered")
        async with opening.within(timeout):
            await opening.secure()
        self._take_over(opening.transport)
        self.capabilities = opening.capabilities()
        opening.let_go()


def _shape(code: int, lines: Sequence[str]) -> tuple[int, int]:
    """Enough to tell one reply from another; aiosmtplib decodes and joins lines in its own way."""
    return code, sum(bool(text.strip()) for text in lines)


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__
