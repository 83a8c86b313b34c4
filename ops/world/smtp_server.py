"""SMTP hosts on loopback: asyncio around :class:`ops.world.session.Session`."""

import asyncio
import math
import ssl
from typing import cast

from ops.world.session import End, Session, Turn
from ops.world.tls import TlsLayer
from ops.world.transaction import Site
from ops.world.wire import Wire

BACKLOG = 4096


class SmtpHost:
    """One listening address. It can be stopped and started again, and frozen: then it hears, and never answers."""

    def __init__(self, site: Site, address: str, tls: ssl.SSLContext) -> None:
        self.site = site
        self.address = address
        self.port = 0
        self.tls = tls
        self.rtt_s = site.config.rtt_s
        self.frozen = False
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        """Listen; 0 takes a free port. Raises OSError where the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), self.address, port, backlog=BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self.connections):
            connection.abort()
        await self._server.wait_closed()
        self._server = None


class Connection(asyncio.Protocol):
    """One client's connection."""

    _transport: asyncio.Transport
    _wire: Wire
    _session: Session

    def __init__(self, host: SmtpHost) -> None:
        self._host = host
        self._site = host.site
        self._loop = asyncio.get_running_loop()
        self._tls: TlsLayer | None = None
        self._deaf = False
        self._greeted = False
        self._idle_limit_s = host.site.config.seconds(host.site.manners.idle_limit)
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._host.connections.add(self)
        self._site.stats.opened(self._site.counters)
        client = self._transport.get_extra_info("peername")[0]
        self._session = Session(self._site, client, self._loop.time)
        pieces = self._site.manners.one_byte_pieces
        self._wire = Wire(self._transport, self._loop, self._host.rtt_s, one_byte_pieces=pieces)
        if self._host.frozen:
            return
        turn = self._session.greeting(self._site.counters.open)
        # Loopback connects for nothing: the round trip that TCP takes elsewhere comes on top of the banner's own.
        turn.pause_s += self._host.rtt_s
        self._act(turn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.connections.discard(self)
        self._site.stats.closed(self._site.counters)
        self._wire.drop()
        if self._idle_timer:
            self._idle_timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._site.counters.reads += 1
        if self._host.frozen or self._deaf:
            return
        if self._tls:
            data = self._decrypt(self._tls, data)
        if data:
            greeted = self._greeted or not self._wire.outstanding
            self._greeted = greeted
            self._act(self._session.receive(data, outstanding=self._wire.outstanding, greeted=greeted))

    def pause_writing(self) -> None:
        # A client that does not read its replies is not listened to either.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def _decrypt(self, tls: TlsLayer, data: bytes) -> bytes:
        try:
            plain, reply = tls.receive(data)
        except ssl.SSLError:
            self._transport.abort()
            return b""
        self._wire.send(reply)
        return plain

    def _act(self, turn: Turn) -> None:
        if turn.output:
            self._site.counters.writes += 1
            output = b"".join(turn.output)
            self._wire.send(self._tls.send(output) if self._tls else output, turn.pause_s)
        if turn.end is End.OPEN:
            self._wait_for_more()
        elif turn.end is End.STARTTLS:
            self._start_tls()
        else:
            self._end(turn.end)

    def _start_tls(self) -> None:
        self._site.counters.tls += 1
        self._deaf = self._site.manners.tls_hangs
        self._tls = TlsLayer(self._host.tls)
        self._session.secured()

    def _end(self, end: End) -> None:
        self._deaf = True
        if self._tls and end is End.CLOSE:
            self._wire.send(self._tls.close())
        self._wire.close()

    def _wait_for_more(self) -> None:
        if self._idle_limit_s == math.inf:
            return
        if self._idle_timer:
            self._idle_timer.cancel()
        self._idle_timer = self._loop.call_later(self._idle_limit_s, self._timed_out)

    def _timed_out(self) -> None:
        if not self._deaf:
            self._act(self._session.idle())
