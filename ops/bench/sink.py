"""A mail server that costs next to nothing, with Postfix's error limits and a round-trip time: one process of its own.

``python -m ops.bench.sink '{"smtp_port": 0, ...}'`` says where it listens in one line of JSON on standard output; each
line that comes on standard input is answered with the counters since the last one; it ends with its input.
"""

import asyncio
import contextlib
import json
import re
import resource
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, cast

import uvloop

from ops.bench.delay import DelayLine
from ops.bench.lists import EXISTS, LATER, PROVIDERS, ZONE, exchanger, host_address
from ops.cli.collector import settle_collector

SOFT_ERRORS = 10
HARD_ERRORS = 20
"""Postfix's smtpd_soft_error_limit and smtpd_hard_error_limit."""

CLIENT_CONNECTIONS = 50
"""Postfix's smtpd_client_connection_count_limit: the next one from the same address is told 421 and closed."""

TTL_S = 300
BACKLOG = 4096
QUESTIONS = 65_536
"""Answers to so many questions are at hand: a client without a cache asks the same for each address of a domain."""

UDP_BUFFER = 16 * 1024 * 1024
MAX_QUERY = 4096

_SO_RCVBUFFORCE = 33
"""Linux: a larger buffer than the system's limit, for whoever administrates the network."""

_MX, _A = 15, 1
_KNOWN = re.compile(rb"RCPT TO:<%s\d*@" % EXISTS.encode()).match
_GREYLISTED = re.compile(rb"RCPT TO:<%s\d*@" % LATER.encode()).match
"""A number and nothing else: one random recipient of a million begins with the word."""

_EHLO = b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"
_SAID = {b"EHLO": _EHLO, b"QUIT": b"221 2.0.0 Bye\r\n"} | dict.fromkeys(
    (b"MAIL", b"RSET", b"NOOP", b"HELO"), b"250 2.1.0 Ok\r\n"
)
_OK = b"250 2.1.5 Ok\r\n"
_COME_LATER = b"450 4.2.0 %s: Recipient address rejected: Greylisted\r\n"
_GONE = b"550 5.1.1 <%s>: Recipient address rejected: User unknown in virtual mailbox table\r\n"


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """Ports (0 takes a free one), the round-trip time and a server's limits (``client_connections`` 0: none);
    ``hosts``: who has the number of no host is served by number % hosts, and where there are none somebody else listens
    there; ``tarpit``: RCPT is never answered."""

    smtp_port: int = 0
    dns_port: int = 0
    rtt_s: float = 0.0
    soft_error_s: float = 1.0
    client_connections: int = CLIENT_CONNECTIONS
    hosts: int = PROVIDERS
    tarpit: bool = False


@dataclass(slots=True)
class Counters:
    """What clients did since the last report. ``reads`` is at most the number of their writes."""

    connections: int = 0
    turned_away: int = 0
    reads: int = 0
    recipients: int = 0
    refused: int = 0
    late_replies: int = 0
    dns_queries: int = 0
    cpu_s: float = field(default_factory=lambda: -_cpu_s())


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Sink:
    """The servers of one process."""

    def __init__(self, config: SinkConfig) -> None:
        self.config = config
        self.loop = asyncio.get_running_loop()
        self.counters = Counters()
        self.smtp_port = config.smtp_port
        self.dns_port = config.dns_port
        self.greylisted: set[bytes] = set()
        self.way = DelayLine(self.loop, config.rtt_s, time.monotonic)

    async def start(self) -> None:
        """Listen on every host's address and, for DNS, at 127.0.0.1."""
        for provider in range(self.config.hosts):
            self.smtp_port = await self.start_host(provider)
        self.dns_port = DnsEndpoint(self, self.config.dns_port).port

    async def start_host(self, provider: int) -> int:
        """Listen on one host's address; the port."""
        server = await self.loop.create_server(self._server(), host_address(provider), self.smtp_port, backlog=BACKLOG)
        return cast(int, server.sockets[0].getsockname()[1])

    def _server(self) -> Callable[[], "SmtpConnection"]:
        """What makes the connections of one host, which knows how many it has; all clients share an address."""
        open_now = [0]
        return lambda: SmtpConnection(self, open_now)

    def report(self) -> dict[str, float]:
        """The counters, which begin anew."""
        seen, self.counters = self.counters, Counters()
        return {**asdict(seen), "cpu_s": seen.cpu_s + _cpu_s()}


class SmtpConnection(asyncio.Protocol):
    """One client's dialogue."""

    __slots__ = ("_counted", "_due", "_errors", "_late", "_open_now", "_rest", "_sink", "_transport")

    def __init__(self, sink: Sink, open_now: list[int]) -> None:
        self._sink = sink
        self._open_now = open_now
        self._counted = True
        self._rest = b""
        self._errors = 0
        self._due = 0.0
        self._late: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._sink.counters.connections += 1
        self._open_now[0] += 1
        limit = self._sink.config.client_connections
        # Loopback charges nothing for TCP's handshake: its round trip comes on top of the banner's own.
        if limit and self._open_now[0] > limit:
            self._sink.counters.turned_away += 1
            self._answer(b"421 4.7.0 sink.test Error: too many connections from 127.0.0.1\r\n", self._sink.config.rtt_s)
            self._end()
            return
        self._answer(b"220 sink.test ESMTP\r\n", self._sink.config.rtt_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def _end(self) -> None:
        """Close when all is said. A server counts a connection no more when it has read QUIT; that the client hears of
        it a round trip later is the way's doing, as it is when a connection that has just been opened is counted."""
        self._answer(b"")
        if self._due:
            self._sink.loop.call_at(self._due, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        """It is counted no more."""
        self._open_now[0] -= self._counted
        self._counted = False

    def data_received(self, data: bytes) -> None:
        self._sink.counters.reads += 1
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        replies: list[bytes] = []
        pause_s = 0.0
        for line in lines:
            replies.append(self._reply(line))
            if self._errors > SOFT_ERRORS:
                pause_s += self._sink.config.soft_error_s
                self._sink.counters.late_replies += 1
            if self._errors >= HARD_ERRORS:
                replies.append(b"421 4.7.0 sink.test Error: too many errors\r\n")
            if self._errors >= HARD_ERRORS or line[:4].upper() == b"QUIT":
                self._answer(b"".join(replies), pause_s)
                self._end()
                return
        if said := b"".join(replies):
            self._answer(said, pause_s)

    def _reply(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"RCPT":
            return self._recipient(line)
        if (said := _SAID.get(verb)) is not None:
            return said
        self._errors += 1
        return b"502 5.5.2 Error: command not recognized\r\n"

    def _recipient(self, line: bytes) -> bytes:
        counters = self._sink.counters
        counters.recipients += 1
        if self._sink.config.tarpit:
            return b""
        if _KNOWN(line):
            return _OK
        if _GREYLISTED(line):
            return self._come_later(line)
        counters.refused += 1
        self._errors += 1
        return _GONE % line[9 : line.find(b">")]

    def _come_later(self, line: bytes) -> bytes:
        """Who comes again is accepted; until then it is an error of the client's like any other, as with Postfix."""
        greylisted, address = self._sink.greylisted, line[8:]
        if address in greylisted:
            greylisted.discard(address)
            return _OK
        greylisted.add(address)
        self._errors += 1
        return _COME_LATER % address

    def _answer(self, data: bytes, pause_s: float = 0.0) -> None:
        """Send ``data`` when it is time, or close the connection."""
        rtt_s = self._sink.config.rtt_s
        if pause_s or self._due:
            self._due = max(self._due, self._sink.loop.time() + pause_s)
            self._late.append(data)
            self._sink.loop.call_at(self._due + rtt_s, self._send_next)
        elif rtt_s:
            self._sink.way.put(self._send, data)
        else:
            self._send(data)

    def _send_next(self) -> None:
        """In order, whichever timer it is: uvloop's may change places by as long as the loop was busy."""
        self._send(self._late.popleft())

    def _send(self, data: bytes) -> None:
        if not data:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write(data)


class DnsEndpoint:
    """MX of a bench domain, A of its exchanger; other types have no records, other names don't exist.

    A socket of our own with a large buffer, emptied each time: thousands ask at once, and a query that is lost costs
    its client five seconds, which would be the sink's fault.
    """

    def __init__(self, sink: Sink, port: int) -> None:
        self._sink = sink
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, UDP_BUFFER)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        sink.loop.add_reader(self._socket, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, client = self._socket.recvfrom(MAX_QUERY)
                self._sink.counters.dns_queries += 1
                if (answer := answer_query(data, self._sink.config.hosts)) is not None:
                    self._answer(answer, client)

    def _answer(self, answer: bytes, client: tuple[str, int]) -> None:
        if self._sink.config.rtt_s:
            self._sink.way.put(self._send, (answer, client))
        else:
            self._send((answer, client))

    def _send(self, answer: tuple[bytes, tuple[str, int]]) -> None:
        with contextlib.suppress(OSError):  # whoever has gone meanwhile needs no answer
            self._socket.sendto(*answer)


def answer_query(query: bytes, hosts: int = PROVIDERS) -> bytes | None:
    """The response to one query (RFC 1035 section 4); None for what is none. ``hosts``: as in :class:`SinkConfig`."""
    answer = _answer_to(query[12:], hosts)
    return query[:2] + answer if answer is not None else None


@lru_cache(maxsize=QUESTIONS)
def _answer_to(question: bytes, hosts: int) -> bytes | None:
    """All of the response but its id; ``question`` is all of the query but its header."""
    try:
        labels, end = _labels(question)
        kind, _ = struct.unpack_from("!HH", question, end)
    except (IndexError, struct.error, UnicodeDecodeError):
        return None
    name = ".".join(labels).lower()
    provider = _provider(name)
    data = b""
    if provider is not None and kind == _MX and name.endswith(f".{ZONE}"):
        data = struct.pack("!H", 10) + _encoded(exchanger(provider))
    elif provider is not None and kind == _A and name == exchanger(provider):
        data = bytes(int(part) for part in host_address(provider % hosts if hosts else provider).split("."))
    flags = 0x8580 | (0 if provider is not None else 3)
    header = struct.pack("!HHHHH", flags, 1, 1 if data else 0, 0, 0)
    record = struct.pack("!HHHIH", 0xC00C, kind, 1, TTL_S, len(data)) + data if data else b""
    return header + question[: end + 4] + record


def _labels(question: bytes) -> tuple[list[str], int]:
    """The labels of the question's name, and where its type stands."""
    labels, at = [], 0
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return labels, at + 1


def _provider(name: str) -> int | None:
    """The number in ``*.h7.bench.test`` and ``mx.h7-bench.test``; None for other names."""
    label = name.removesuffix(ZONE)[:-1].rpartition(".")[2]
    number = label.removeprefix("h")
    return int(number) if name.endswith(ZONE) and label.startswith("h") and number.isdecimal() else None


def _encoded(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"


async def serve(make: Callable[[], Sink]) -> None:
    """Serve what is made until standard input ends."""
    loop = asyncio.get_running_loop()
    sink = make()
    await sink.start()
    settle_collector()
    _say({"smtp_port": sink.smtp_port, "dns_port": sink.dns_port})
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        _say(sink.report())


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(lambda: Sink(SinkConfig(**json.loads(sys.argv[1])))))
