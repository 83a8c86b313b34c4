"""The DNS server: UDP and TCP on one port, asyncio around :class:`ops.world.zone.Zone`."""

import asyncio
import errno
import struct
from collections.abc import Callable
from typing import cast

import dns.exception
import dns.message
import dns.rdatatype

from ops.world.config import WorldConfig
from ops.world.personality import DnsFault
from ops.world.stats import DnsStats
from ops.world.zone import Zone

MAX_UDP_PLAIN = 512
MAX_TCP = 65535
TCP_IDLE_S = 30.0
FREE_PORT_TRIES = 20

Send = Callable[[bytes], None]


class DnsServer:
    """Serves a zone at one address. It can be stopped and started again on the same port."""

    def __init__(self, zone: Zone, config: WorldConfig, stats: DnsStats, address: str = "127.0.0.1") -> None:
        self.zone = zone
        self.address = address
        self.port = 0
        self.rtt_s = config.rtt_s
        self._late_s = config.late_dns_s
        self._stats = stats
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None
        self._connections: set[asyncio.Transport] = set()

    async def start(self, port: int) -> None:
        """Listen on UDP and TCP; 0 takes a port that is free on both. Raises OSError where the port is taken."""
        for attempt in range(FREE_PORT_TRIES):
            try:
                await self._listen(port)
            except OSError as error:
                await self.stop()
                if port or error.errno != errno.EADDRINUSE or attempt == FREE_PORT_TRIES - 1:
                    raise
            else:
                return

    async def stop(self) -> None:
        """Stop answering and cut every connection."""
        if self._udp:
            self._udp.close()
            self._udp = None
        if self._tcp:
            self._tcp.close()
            for transport in tuple(self._connections):
                transport.abort()
            await self._tcp.wait_closed()
            self._tcp = None
        await asyncio.sleep(0)  # transports close in the loop's next round; the port is free only then

    async def _listen(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), (self.address, port))
        self.port = self._udp.get_extra_info("sockname")[1]
        self._tcp = await loop.create_server(
            lambda: _Tcp(self, self._connections), self.address, self.port, backlog=1024
        )

    def answer(self, wire: bytes, send: Send, *, tcp: bool) -> None:
        """Answer one query through ``send``, when it is time; what is no query gets no answer."""
        self._stats.queries += 1
        if tcp:
            self._stats.tcp += 1
        else:
            self._stats.udp += 1
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            self._stats.malformed += 1
            return
        if query.question:
            question = query.question[0]
            name = question.name.to_text(omit_final_dot=True).lower()
            self._stats.names[name, dns.rdatatype.to_text(question.rdtype)] += 1
        response, fault = self.zone.answer(query)
        if fault is DnsFault.SILENT:
            return
        limit = MAX_TCP if tcp else max(MAX_UDP_PLAIN, query.payload if query.edns >= 0 else 0)
        delay_s = self.rtt_s + (self._late_s if fault is DnsFault.LATE else 0.0)
        # Unshuffled, so that the order of a name's addresses is the catalogue's.
        packet = response.to_wire(max_size=limit, prefer_truncation=True, want_shuffle=False)
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, send, packet)
        else:
            send(packet)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.answer(data, lambda packet: self._send(packet, addr), tcp=False)

    def _send(self, packet: bytes, addr: tuple[str, int]) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.sendto(packet, addr)


class _Tcp(asyncio.Protocol):
    """Queries with two octets of length before each (RFC 1035 section 4.2.2, RFC 7766)."""

    _transport: asyncio.Transport
    _idle: asyncio.TimerHandle

    def __init__(self, server: DnsServer, connections: set[asyncio.Transport]) -> None:
        self._server = server
        self._connections = connections
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self._transport)
        self._idle = asyncio.get_running_loop().call_later(TCP_IDLE_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self._transport)
        self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(TCP_IDLE_S, self._transport.close)
        self._buffer += data
        while len(self._buffer) >= 2:
            (length,) = struct.unpack_from("!H", self._buffer)
            if len(self._buffer) < length + 2:
                break
            query, self._buffer = self._buffer[2 : length + 2], self._buffer[length + 2 :]
            self._server.answer(query, self._send, tcp=True)

    def _send(self, packet: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(struct.pack("!H", len(packet)) + packet)
