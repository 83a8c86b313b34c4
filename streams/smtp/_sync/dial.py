"""smtplib opens the connection (TCP, banner, EHLO or HELO, STARTTLS); then the socket is ours.

smtplib reads through a buffer of its own: what a server says unasked lies there, and would pass for the answer to the
next command. So the buffer is looked at before each hand-over; a server that says more than it was asked for is not
talked to. A watchdog ends a dial as a whole, since smtplib's own timeout begins anew with every byte.
"""

import io
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

from schemas.vocabulary import Stage
from streams.smtp._sync.link import Link, SocketLink
from streams.smtp._sync.socks import pass_through
from streams.smtp.errors import DialAttempt, DialFailed, DialFailure, RemoteProtocolError, is_local, lacks_address
from streams.smtp.exchange import Capabilities
from streams.smtp.hosts import Host
from streams.smtp.replies import Reply, kept
from streams.smtp.socks import NoPassage
from streams.smtp.tls import unverified_context
from streams.smtp.ways import Proxy, Way

_HOST_NAME = re.compile(r"[A-Za-z0-9.-]{1,253}")
_EHLO_UNKNOWN = frozenset({500, 501, 502, 503, 504})
"""Refusals of EHLO itself, after which HELO is tried (RFC 5321 section 4.1.1.1); any other is about us."""

_Socket = socket.socket


class Dial(Protocol):
    """How a pool opens a connection to one host; see :class:`streams.smtp._async.dial.Dial`."""

    def __call__(
        self,
        host: Host,
        way: Way,
        *,
        starttls: bool,
        step_timeout_s: float,
        timeout_s: float,
        on_greeting: Callable[[], None],
    ) -> Link: ...


def dial_smtplib(
    host: Host,
    way: Way,
    *,
    starttls: bool,
    step_timeout_s: float,
    timeout_s: float,
    on_greeting: Callable[[], None],
) -> Link:
    """A :class:`Dial` by smtplib."""
    opening = _Opening(host, way, max(0.001, min(step_timeout_s, timeout_s)))
    try:
        with opening.watchdog(timeout_s):
            opening.greet()
            on_greeting()
            opening.hello()
            if starttls and opening.client.has_extn("starttls"):
                opening.secure()
            return DialledLink(opening)
    except BaseException:
        opening.close()
        raise


class _Watchdog:
    """Cuts the socket of a dial that takes too long; what the dial raises then becomes a timeout."""

    def __init__(self, opening: "_Opening", timeout_s: float) -> None:
        self._opening = opening
        self._timer = threading.Timer(timeout_s, self._bite)
        self._timer.daemon = True
        self._bitten = False

    def _bite(self) -> None:
        self._bitten = True
        self._opening.cut()

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._bitten and (error is None or isinstance(error, DialFailed)):
            raise self._opening.failed(DialFailure.TIMEOUT, "the time for a session ran out") from None


class _Opening:
    """A dial on its way: the stage it has reached, and every failure told in our words."""

    def __init__(self, host: Host, way: Way, step_timeout_s: float) -> None:
        self.host = host
        self.way = way
        self.stage = Stage.CONNECT
        source = way.source_for(host.address)
        self.client = smtplib.SMTP(
            local_hostname=way.identity.helo,
            timeout=step_timeout_s,
            source_address=(source, 0) if source is not None else None,
        )

    @property
    def socket(self) -> socket.socket:
        return cast(socket.socket, self.client.sock)

    def watchdog(self, timeout_s: float) -> _Watchdog:
        """Bounds all that happens in its block."""
        return _Watchdog(self, timeout_s)

    def greet(self) -> None:
        """TCP and the banner."""
        try:
            if self.way.proxy is None:
                code, text = self.client.connect(self.host.address, self.host.port)
            else:
                code, text = self._connect_through(self.way.proxy)
        except DialFailed:
            raise
        except smtplib.SMTPException as error:
            self.stage = Stage.BANNER
            raise self._lost(error) from error
        except OSError as error:
            raise self._lost(error) from error
        self.stage = Stage.BANNER
        self._expect(220, code, text)
        try:
            self._settle("the server spoke before it was asked")
        except RemoteProtocolError as error:
            raise self._lost(error) from error

    def _connect_through(self, proxy: Proxy) -> tuple[int, bytes]:
        try:
            pass_through(proxy, self.host, self.client.timeout, self._take)
        except NoPassage as error:
            raise self.failed(error.failure, error.detail, local=error.local, way_failed=error.way_failed) from error
        self.stage = Stage.BANNER
        return self.client.getreply()

    def _take(self, sock: _Socket) -> None:
        """The watchdog must know the socket from its first byte on."""
        self.client.sock = sock

    def hello(self) -> None:
        """EHLO, or HELO where EHLO is unknown."""
        self.stage = Stage.EHLO
        try:
            code, text = self.client.ehlo()
            if code in _EHLO_UNKNOWN:
                code, text = self.client.helo()
            self._expect(250, code, text)
            self._settle("the server said more than it was asked for")
        except DialFailed:
            raise
        except (smtplib.SMTPException, OSError) as error:
            raise self._lost(error) from error

    def secure(self) -> None:
        """STARTTLS, the handshake, and EHLO again."""
        self.stage = Stage.STARTTLS
        name = self.host.name.rstrip(".")
        self.socket.settimeout(self.client.timeout)
        try:
            code, text = self.client.docmd("STARTTLS")
            self._expect(220, code, text)
            self._settle("the server said more than it was asked for")
            tls = unverified_context().wrap_socket(
                self.socket,
                server_hostname=name if _HOST_NAME.fullmatch(name) else self.host.address,
                do_handshake_on_connect=False,  # the watchdog must know the socket before
            )
            self.client.sock = tls
            tls.do_handshake()
        except DialFailed:
            raise
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise self.failed(
                DialFailure.TIMEOUT if _timed_out(error) else DialFailure.TLS, _sentence(error)
            ) from error
        self.hello()

    def capabilities(self) -> Capabilities:
        """What the last EHLO reply offered."""
        offered = self.client.esmtp_features
        size = offered.get("size", "")
        return Capabilities(
            pipelining="pipelining" in offered,
            smtputf8="smtputf8" in offered,
            starttls="starttls" in offered,
            tls=hasattr(self.socket, "cipher"),
            size=int(size) if size.isdecimal() else None,
        )

    def failed(self, failure: DialFailure, detail: str, *, local: bool = False, way_failed: bool = False) -> DialFailed:
        """What to raise when no reply says why."""
        return DialFailed(DialAttempt(self.host, self.stage, None, failure, detail, local=local, way_failed=way_failed))

    def cut(self) -> None:
        """End it from another thread."""
        with suppress(OSError, AttributeError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Nothing is left open."""
        self.client.close()

    def _expect(self, wanted: int, code: int, text: bytes) -> None:
        if code == wanted:
            return
        if not 200 <= code <= 599:
            raise self.failed(DialFailure.PROTOCOL, repr(text[:200]))
        lines = text.decode("utf-8", "replace").split("\n")
        raise DialFailed(DialAttempt(self.host, self.stage, reply=kept(Reply(code, tuple(lines)))))

    def _settle(self, complaint: str) -> None:
        """Look into smtplib's buffer, and give it up: while it lives, closing the socket closes nothing.

        :raises RemoteProtocolError: it holds what nobody asked for.
        """
        self.socket.settimeout(0)
        unasked = b""
        buffer = cast(io.BufferedReader, self.client.file)
        with suppress(ssl.SSLWantReadError):
            unasked = buffer.peek(1)
        buffer.close()
        self.client.file = None
        self.socket.settimeout(self.client.timeout)
        if unasked:
            raise RemoteProtocolError(complaint)

    def _lost(self, error: Exception) -> DialFailed:
        if isinstance(error, (RemoteProtocolError, smtplib.SMTPResponseException)):
            return self.failed(DialFailure.PROTOCOL, _sentence(error))
        if _timed_out(error):
            return self.failed(DialFailure.TIMEOUT, _sentence(error))
        failure = DialFailure.CONNECT if self.stage is Stage.CONNECT else DialFailure.CLOSED
        way_failed = bool(self.way.sources) and lacks_address(error)
        return self.failed(failure, _sentence(error), local=is_local(error), way_failed=way_failed)


class DialledLink(SocketLink):
    """The connection after the hand-over; smtplib stays at hand for STARTTLS."""

    __slots__ = ("_opening", "capabilities")

    def __init__(self, opening: _Opening) -> None:
        super().__init__(opening.socket)
        self.capabilities = opening.capabilities()
        self._opening = opening

    def start_tls(self, timeout: float) -> None:
        try:
            with self._opening.watchdog(timeout):
                self._opening.secure()
        finally:
            # Failed or not, the handshake took the plain socket over, and to close that one closes nothing.
            self._socket = self._opening.socket or self._socket
        self.capabilities = self._opening.capabilities()

    def cut(self) -> None:
        # Of the two sockets that a handshake has to do with, this is the one in use at any moment.
        self._opening.cut()


def _timed_out(error: BaseException) -> bool:
    """smtplib raises "connection unexpectedly closed" when a read timed out."""
    return isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__
