"""A round-trip time for real servers: each host's port leads to the server behind it, later in both directions.

One process of its own, which answers DNS and counts as :mod:`ops.bench.sink` does, and is spoken to in the same way.
"""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import cast

import uvloop

from ops.bench.delay import DelayLine
from ops.bench.lists import host_address
from ops.bench.sink import BACKLOG, Sink, SinkConfig, serve

LATE_S = 0.9
"""A reply that a server holds back for so long after its client's last word: Postfix sleeps for a second."""


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """Ports (0 takes a free one) and the round-trip time; every host's server listens on ``upstream_port``."""

    upstream_port: int
    hosts: int
    smtp_port: int = 0
    dns_port: int = 0
    rtt_s: float = 0.0


def upstream_address(provider: int) -> str:
    """Where the server behind a provider's host listens."""
    return host_address(provider).replace("127.88.", "127.89.", 1)


class Relay(Sink):
    """The relays of one process."""

    def __init__(self, config: RelayConfig) -> None:
        super().__init__(SinkConfig(config.smtp_port, config.dns_port, config.rtt_s, hosts=config.hosts))
        self.upstream_port = config.upstream_port
        self.way = DelayLine(self.loop, config.rtt_s / 2)
        # TCP's handshake: loopback answers at once for us, and the server hears of a client after its third packet.
        self.handshake = DelayLine(self.loop, config.rtt_s * 1.5)
        self.opening: set[asyncio.Task[None]] = set()

    async def start_host(self, provider: int) -> int:
        server = await self.loop.create_server(
            lambda: Client(self, upstream_address(provider)), host_address(provider), self.smtp_port, backlog=BACKLOG
        )
        return cast(int, server.sockets[0].getsockname()[1])


class Client(asyncio.Protocol):
    """One client's connection, and through it the one to the server."""

    __slots__ = ("_address", "_early", "_gone", "_relay", "_server", "_transport", "spoke_at")

    def __init__(self, relay: Relay, address: str) -> None:
        self._relay = relay
        self._address = address
        self._server: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._gone = False
        self.spoke_at: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._relay.counters.connections += 1
        self._relay.handshake.put(self._open, b"")

    def data_received(self, data: bytes) -> None:
        counters = self._relay.counters
        counters.reads += 1
        counters.recipients += data.count(b"RCPT TO:")
        self._relay.way.put(self._to_server, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.way.put(self._to_server, b"")

    def heard(self, data: bytes) -> None:
        """The server spoke; nothing: it has closed."""
        counters, now = self._relay.counters, self._relay.loop.time()
        counters.refused += data.count(b"550 5.1.1 ")
        counters.late_replies += bool(data) and self.spoke_at is not None and now - self.spoke_at > LATE_S
        self._relay.way.put(self._to_client, data)

    def _open(self, _: bytes) -> None:
        task = self._relay.loop.create_task(self._connect())
        self._relay.opening.add(task)
        task.add_done_callback(self._relay.opening.discard)

    async def _connect(self) -> None:
        try:
            self._server, _ = await self._relay.loop.create_connection(
                lambda: Server(self), self._address, self._relay.upstream_port
            )
        except OSError:
            self._transport.close()
            return
        for data in self._early:
            self._server.write(data)
        if self._gone:
            self._server.close()

    def _to_server(self, data: bytes) -> None:
        self._gone |= not data
        self.spoke_at = self._relay.loop.time()
        if self._server is None:
            self._early.append(data)
        elif not data:
            self._server.close()
        elif not self._server.is_closing():
            self._server.write(data)

    def _to_client(self, data: bytes) -> None:
        if not data:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write(data)


class Server(asyncio.Protocol):
    """The server's side of a client's connection."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.heard(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.heard(b"")


if __name__ == "__main__":
    uvloop.run(serve(lambda: Relay(RelayConfig(**json.loads(sys.argv[1])))))
