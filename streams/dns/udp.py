"""Questions over UDP, many on a few sockets; TCP where the answer was cut off (RFC 1035, 6891, 7766)."""

import asyncio
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from streams.dns.burst import Burst
from streams.dns.nameservers import NameServer
from streams.dns.transport import Answer, RecordType, Status
from streams.dns.wire import BadMessage, BadName, Message, decode, encode_query, encode_question

SOCKETS_PER_SERVER = 4
QUESTIONS_PER_SOCKET = 500
"""After so many a socket makes way for a new one with another random port: a forger has to guess port and id."""

ATTEMPTS = 3

_RECEIVE_BUFFER = 1 << 20
_DATAGRAM = 65535
_DATAGRAMS_PER_WAKE = 64


@dataclass(frozen=True, slots=True)
class _Failed:
    """An attempt that ended without a message."""

    status: Status
    detail: str


_Outcome = Message | _Failed


class _Socket:
    """One connected socket: the kernel drops what comes from anywhere but the server."""

    def __init__(self, server: NameServer, rng: random.Random) -> None:
        self.asked = 0
        self._rng = rng
        self._pending: dict[int, tuple[bytes, asyncio.Future[_Outcome]]] = {}
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._socket.connect((server.host, server.port))
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._socket, self._readable)
        except BaseException:
            self._socket.close()
            raise

    @property
    def spent(self) -> bool:
        """True when no new question may use this socket."""
        return self.asked >= QUESTIONS_PER_SOCKET

    def retire(self) -> None:
        """Ask no more by it. What left a question without an answer may be the socket: uvloop reads no further from
        one that the system has told by ICMP that nobody listens, also when somebody does again."""
        self.asked = QUESTIONS_PER_SOCKET
        if not self._pending:
            self.close()

    async def ask(self, question: bytes) -> _Outcome:
        """Send a question section and wait for its message; raises OSError where it can't be sent."""
        while (ident := self._rng.getrandbits(16)) in self._pending:
            pass
        self.asked += 1
        future: asyncio.Future[_Outcome] = self._loop.create_future()
        self._pending[ident] = (question, future)
        try:
            self._socket.send(encode_query(ident, question))
            return await future
        finally:
            del self._pending[ident]
            if self.spent and not self._pending:
                self.close()

    def close(self) -> None:
        """Give the socket back; questions in flight fail."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        self._fail("the resolver was closed")

    def _readable(self) -> None:
        for _ in range(_DATAGRAMS_PER_WAKE):
            try:
                self._received(self._socket.recv(_DATAGRAM))
            except BlockingIOError:
                return
            except OSError as error:  # nobody listens there: the system tells it by ICMP
                self._fail(f"{type(error).__name__}: {error}")
                return

    def _received(self, data: bytes) -> None:
        # Anything that is not the answer to a question of ours is passed over: it may be forged or late.
        question, future = self._pending.get(int.from_bytes(data[:2]), (b"", None))
        if future is None or future.done():
            return
        try:
            message = decode(data)
        except BadMessage:
            return
        if message.question == question:
            future.set_result(message)

    def _fail(self, detail: str) -> None:
        for _, future in self._pending.values():
            if not future.done():
                future.set_result(_Failed(Status.TIMEOUT, detail))


class UdpTransport:
    """Asks the name servers in turn until one gives an answer that settles the question.

    ``timeout`` in seconds bounds the whole question, without the moments that each attempt waits for its turn (see
    :class:`~streams.dns.burst.Burst`). Each attempt waits for its answer twice as long as the one before, up to four
    times the first: what was lost in a full buffer should be asked again soon.
    """

    def __init__(
        self, servers: Sequence[NameServer], *, timeout: float = 5.0, rng: random.Random | None = None
    ) -> None:
        if not servers:
            raise ValueError("name at least one name server")
        # Ids that a forger can't foresee come from the operating system, not from a seeded generator.
        self._rng = rng or random.SystemRandom()
        count = max(ATTEMPTS, len(servers))
        shares = [min(2**n, 4) for n in range(count)]
        self._attempts = tuple((servers[n % len(servers)], timeout * shares[n] / sum(shares)) for n in range(count))
        self._sockets: dict[NameServer, list[_Socket]] = {server: [] for server in servers}
        self._bursts = {server: Burst() for server in servers}
        self._closed = False

    async def query(self, name: str, rdtype: RecordType) -> Answer:
        """Ask; never raises. A server that fails (SERVFAIL, REFUSED) is believed once all of them do."""
        try:
            question = encode_question(name, rdtype)
        except BadName as bad:
            return Answer(Status.NXDOMAIN, name, detail=str(bad))
        failed = _Failed(Status.TIMEOUT, "no name server answered")
        gave_up: set[NameServer] = set()
        for server, patience in self._attempts:
            if server in gave_up:
                continue
            async with self._bursts[server].turn():
                outcome = await self._attempt(server, question, patience)
            if isinstance(outcome, Message):
                if not outcome.answer.status.temporary:
                    return outcome.answer
                gave_up.add(server)
            failed = _as_failed(outcome, server)
        return Answer(failed.status, name, detail=failed.detail)

    async def _attempt(self, server: NameServer, question: bytes, patience: float) -> _Outcome:
        if self._closed:
            return _Failed(Status.TIMEOUT, "the resolver was closed")
        try:
            asking = self._socket(server)
            async with asyncio.timeout(patience):
                outcome = await asking.ask(question)
                if isinstance(outcome, Message) and outcome.truncated:
                    return await _over_tcp(server, encode_query(self._rng.getrandbits(16), question))
                return outcome
        except TimeoutError:
            asking.retire()
            return _Failed(Status.TIMEOUT, "no answer in time")
        except (OSError, EOFError, BadMessage) as error:
            return _Failed(Status.TIMEOUT, f"{type(error).__name__}: {error}")

    def _socket(self, server: NameServer) -> _Socket:
        """A socket with room, at random among a few: ports change all the time, and few are open."""
        sockets = self._sockets[server]
        chosen = int(self._rng.random() * SOCKETS_PER_SERVER)
        if chosen >= len(sockets):
            sockets.append(_Socket(server, self._rng))
        elif sockets[chosen].spent:
            sockets[chosen] = _Socket(server, self._rng)
        return sockets[min(chosen, len(sockets) - 1)]

    async def aclose(self) -> None:
        """Close every socket; questions in flight end as ``timeout``, and so do later ones."""
        self._closed = True
        for sockets in self._sockets.values():
            for each in sockets:
                each.close()
            sockets.clear()


def _as_failed(outcome: _Outcome, server: NameServer) -> _Failed:
    if isinstance(outcome, _Failed):
        return _Failed(outcome.status, f"{server}: {outcome.detail}")
    return _Failed(outcome.answer.status, f"{server}: {outcome.answer.detail}")


async def _over_tcp(server: NameServer, query: bytes) -> Message:
    """One question over a connection of its own; raises OSError, EOFError or BadMessage."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(len(query).to_bytes(2) + query)
        length = int.from_bytes(await reader.readexactly(2))
        message = decode(await reader.readexactly(length))
    finally:
        writer.transport.abort()
    if message.truncated or encode_query(message.ident, message.question) != query:
        raise BadMessage("the answer by TCP is not to this question")
    return message
