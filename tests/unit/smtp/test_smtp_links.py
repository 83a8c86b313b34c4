"""The seam to the network, piece by piece: what real sockets do too rarely for a test to wait for it."""

import asyncio
import gc
import socket
import ssl
import weakref
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace

import pytest
from aiosmtplib import SMTPConnectTimeoutError, SMTPResponse, SMTPServerDisconnected
from aiosmtplib.protocol import SMTPProtocol

from schemas.vocabulary import Stage
from streams.smtp._async import dial as async_dial
from streams.smtp._async.link import MAX_UNREAD, StreamLink
from streams.smtp._async.waiting import Turn
from streams.smtp._sync import dial as sync_dial
from streams.smtp._sync.link import SocketLink
from streams.smtp.errors import DialFailed, DialFailure, LocalProtocolError, RemoteProtocolError
from streams.smtp.exchange import Capabilities
from streams.smtp.hosts import Host
from streams.smtp.ways import Way
from tests.unit.smtp.fakes import IDENTITY, run

HOST = Host("mx.test", "192.0.2.1")
WAY = Way("", IDENTITY)


class Transport(asyncio.Transport):
    """Remembers what was done to it."""

    def __init__(self, *, unsent: int = 0, secure: bool = False) -> None:
        self.unsent, self.secure = unsent, secure
        self.done: list[object] = []

    def set_protocol(self, protocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return "close" in self.done or "abort" in self.done

    def write(self, data) -> None:
        self.done.append(data)

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name, default=None):
        return "a context" if self.secure else default


class Inner(asyncio.Protocol):
    """aiosmtplib's protocol, for the tap."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def data_received(self, data) -> None:
        self.events.append(data)

    def eof_received(self) -> bool:
        self.events.append("eof")
        return False

    def connection_lost(self, exc) -> None:
        self.events.append("lost")


def test_a_flood_that_nobody_reads_is_cut():
    async def main() -> None:
        transport = Transport()
        link = StreamLink(transport)
        link.data_received(b"x" * MAX_UNREAD)
        assert transport.done == []
        link.data_received(b"x")
        assert transport.done == ["abort"]

    run(main())


def test_the_end_is_read_after_what_came_before_it():
    async def main() -> None:
        link = StreamLink(Transport())
        link.data_received(b"a")
        link.data_received(b"b")
        assert link.eof_received() is False
        link.connection_lost(None)
        assert [await link.read(1), await link.read(1)] == [b"ab", b""]

    run(main())


def test_bytes_and_the_end_in_one_moment_wake_the_reader_once():
    async def main() -> None:
        link = StreamLink(Transport())
        reading = asyncio.create_task(link.read(1))
        await asyncio.sleep(0)
        link.data_received(b"a")
        link.connection_lost(None)
        assert await reading == b"a"

    run(main())


def test_silence():
    async def main() -> None:
        link = StreamLink(Transport())
        with pytest.raises(TimeoutError):
            await link.read(0.1)
        assert link.unread() is None

    run(main())


def test_a_timer_that_fires_with_the_data_changes_nothing():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        link = StreamLink(Transport())
        loop.call_later(0.1, link.data_received, b"a")  # runs just before the reader's timer
        assert await link.read(0.1) == b"a"

    run(main())


def test_a_turn_that_rings_with_the_deadline():
    async def main() -> None:
        turn = Turn()
        asyncio.get_running_loop().call_later(0.1, turn.ring)
        assert await turn.wait(0.1)
        assert await turn.wait(0)
        late = Turn()
        assert not await late.wait(0.1)
        late.ring()

    run(main())


@pytest.mark.parametrize(
    ("transport", "done"),
    [
        (Transport(), [b"QUIT\r\n", "close"]),
        (Transport(unsent=6), [b"QUIT\r\n", "close", "abort"]),
        (Transport(secure=True), [b"QUIT\r\n", "close", "abort"]),
    ],
)
def test_quit_is_not_waited_for_and_does_not_linger(transport, done):
    async def main() -> None:
        link = StreamLink(transport)
        link.close(b"QUIT\r\n")
        link.close(b"QUIT\r\n")
        await asyncio.sleep(5)
        assert transport.done == done

    run(main())


def test_a_transport_that_was_lost_before_the_hand_over():
    async def main() -> None:
        transport = Transport()
        transport.close()
        assert await StreamLink(transport).read(1) == b""

    run(main())


def test_the_tap_passes_everything_on():
    inner, transport = Inner(), Transport()
    tap = async_dial.Tap(inner, transport)
    tap.data_received(b"250 ok\r\n")
    tap.eof_received()
    tap.connection_lost(None)
    assert inner.events == [b"250 ok\r\n", "eof", "lost"]
    tap.settle(1, SMTPResponse(250, "ok"))


def test_the_tap_cuts_a_flood():
    inner, transport = Inner(), Transport()
    async_dial.Tap(inner, transport).data_received(b"x" * (MAX_UNREAD + 1))
    assert transport.done == ["abort"]
    assert inner.events == []


@pytest.mark.parametrize(
    ("data", "asked", "last"),
    [
        (b"", 1, SMTPResponse(250, "ok")),
        (b"250 ok\r\n", 2, SMTPResponse(250, "ok")),
        (b"250 ok\r\n", 1, SMTPResponse(220, "banner")),
        (b"250-ok\r\n250 SIZE\r\n", 1, SMTPResponse(250, "ok")),
        (b"250 ok\r\n250 more\r\n", 1, SMTPResponse(250, "ok")),
        (b"250 ok\r\n25", 1, SMTPResponse(250, "ok")),
    ],
)
def test_the_account_must_be_even(data, asked, last):
    tap = async_dial.Tap(Inner(), Transport())
    tap.data_received(data)
    with pytest.raises(RemoteProtocolError, match="asked"):
        tap.settle(asked, last)


def test_aiosmtplib_leaves_lines_without_text_out():
    tap = async_dial.Tap(Inner(), Transport())
    tap.data_received(b"250-\r\n250 PIPELINING\r\n")
    tap.settle(1, SMTPResponse(250, "PIPELINING"))


def test_a_server_that_is_gone_before_ehlo():
    opening = async_dial._Opening(HOST, WAY, 1.0)

    async def main() -> None:
        with pytest.raises(DialFailed) as failed:
            await opening.hello()
        assert (failed.value.attempt.stage, failed.value.attempt.failure) == (Stage.EHLO, DialFailure.CLOSED)

    run(main())


class Socket:
    """A socket on which every call raises ``error``."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        self.closed = False

    def settimeout(self, timeout) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def _fail(self, *args) -> None:
        raise self.error

    sendall = send = recv = _fail


def test_tls_that_was_not_offered_is_our_mistake():
    async def case() -> None:
        offered = Capabilities(pipelining=True)
        opening = SimpleNamespace(transport=Transport(), capabilities=lambda: offered, let_go=lambda: None)
        with pytest.raises(LocalProtocolError, match="not offered"):
            await async_dial.DialledLink(opening).start_tls(1)

    run(case())


def test_a_server_that_closes_right_behind_its_last_reply_has_closed(monkeypatch):
    async def said(_self) -> None:
        pass

    def gone(_self) -> Capabilities:
        raise SMTPServerDisconnected("Connection lost")

    async def case() -> None:
        monkeypatch.setattr(async_dial._Opening, "greet", said)
        monkeypatch.setattr(async_dial._Opening, "hello", said)
        monkeypatch.setattr(async_dial._Opening, "transport", Transport())
        monkeypatch.setattr(async_dial._Opening, "capabilities", gone)
        with pytest.raises(DialFailed) as failed:
            await async_dial.dial_aiosmtplib(
                HOST, WAY, starttls=False, step_timeout_s=1, timeout_s=1, on_greeting=lambda: None
            )
        assert failed.value.attempt.detail == "Connection lost"

    run(case())


class Clock:
    """A loop's clock and timers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, object]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when, call):
        timer = (when, call)
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer) if timer in self.timers else None)

    def run_to(self, now: float) -> None:
        while due := sorted((each for each in self.timers if each[0] <= now), key=lambda each: each[0]):
            self.timers.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = now


@pytest.fixture
def patience(monkeypatch):
    """A patience of 2 s a step and 9 s in all, its clock, and when it was over."""
    clock, late = Clock(), []
    monkeypatch.setattr(async_dial.asyncio, "get_running_loop", lambda: clock)
    return async_dial._Patience(2.0, 9.0, lambda: late.append(clock.now)), clock, late


def test_a_step_has_its_time(patience):
    steps, clock, late = patience
    clock.run_to(1.0)
    steps.step()
    clock.run_to(5.0)
    assert (late, steps.over) == ([3.0], False)


def test_all_steps_together_have_theirs(patience):
    steps, clock, late = patience
    for second in range(1, 9):
        clock.run_to(second)
        steps.step()
    clock.run_to(20.0)
    assert (late, steps.over) == ([9.0], True)


def test_a_step_behind_those_of_others_has_its_time(patience):
    steps, clock, late = patience
    steps.leave_to_others()
    clock.run_to(4.0)
    steps.step()
    clock.run_to(20.0)
    assert (late, len(clock.timers)) == ([6.0], 0)


def test_nothing_rings_once_all_is_done(patience):
    steps, clock, late = patience
    steps.stop()
    clock.run_to(20.0)
    assert not late


def test_the_time_of_the_banner_begins_when_tcp_is_through(monkeypatch):
    begun = []

    def begin(patience: async_dial._Patience) -> None:
        begun.append(patience)

    monkeypatch.setattr(async_dial._Patience, "step", begin)

    async def case() -> None:
        opening = async_dial._Opening(HOST, WAY, 1.0)
        async with opening.within(2.0):
            opening.client.protocol = SMTPProtocol()
            opening.client.protocol = None
        assert begun == [opening.client.patience]

    run(case())


def test_the_systems_own_timeout_of_a_connection_is_a_timeout():
    async def case() -> None:
        lost = async_dial._Opening(HOST, WAY, 1).lost(SMTPConnectTimeoutError("Timed out connecting to 192.0.2.1"))
        assert (lost.attempt.stage, lost.attempt.failure) == (Stage.CONNECT, DialFailure.TIMEOUT)

    run(case())


def test_a_socket_that_is_lost_reads_as_the_end():
    link = SocketLink(Socket(ConnectionResetError()))
    assert link.unread() == b""
    assert link.read(1) == b""
    link.write(b"MAIL")
    assert link.read(1) == b""
    link.close(b"QUIT\r\n")
    assert link._socket.closed


def test_a_socket_that_says_nothing():
    assert SocketLink(Socket(BlockingIOError())).unread() is None
    assert SocketLink(Socket(ssl.SSLWantReadError())).unread() is None
    with pytest.raises(TimeoutError):
        SocketLink(Socket(TimeoutError())).read(1)


def test_cutting_a_socket_ends_the_read_of_another():
    ours, theirs = socket.socketpair()
    link = SocketLink(ours)
    link.cut()
    assert link.read(5) == b""
    theirs.close()
    ours.close()
    link.cut()


class Upgrade:
    """An opening whose STARTTLS takes the plain socket over, as ``ssl`` does, and then goes wrong."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def capabilities(self) -> Capabilities:
        return Capabilities(starttls=True)

    def watchdog(self, timeout: float) -> AbstractContextManager[None]:
        return nullcontext()

    def secure(self) -> None:
        self.socket = socket.socket(fileno=self.socket.detach())
        raise RemoteProtocolError("no handshake")

    def cut(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", ["close", "cut"])
def test_a_handshake_that_failed_leaves_nothing_open(end):
    ours, theirs = socket.socketpair()
    link = sync_dial.DialledLink(Upgrade(ours))
    with pytest.raises(RemoteProtocolError):
        link.start_tls(1)
    getattr(link, end)()
    theirs.settimeout(5)
    assert theirs.recv(1) == b""
    link.close()
    theirs.close()


@pytest.mark.parametrize("offered", [{}, {"starttls": ""}], ids=["let go", "kept for STARTTLS"])
def test_nothing_of_aiosmtplib_is_left_to_the_collector(offered):
    async def main() -> None:
        opening = async_dial._Opening(HOST, WAY, 1.0)
        opening.client.transport = Transport()
        async with opening.within(1.0):
            opening.client.protocol = SMTPProtocol(connection_lost_callback=opening.client._on_connection_lost)
        opening.client.protocol.transport = opening.client.transport
        opening.client.esmtp_extensions = offered
        left = weakref.ref(opening.client)
        gc.disable()
        try:
            link = async_dial.DialledLink(opening)
            del opening
            assert (left() is None) is not bool(offered)
        finally:
            gc.enable()
        link.close()

    run(main())
