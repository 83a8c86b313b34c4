"""Questions over UDP, many on a few sockets; TCP where the answer was cut off (RFC 1035, 6891, 7766)."""

import asyncio
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakSet

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

_UNASKED = Answer(Status.TIMEOUT, detail="no name server was asked")


@dataclass(slots=True, eq=False)
class _Question:
    """One question for as long as it is asked. An answer to any of its attempts settles it, also to one whose patience
    is over: who is slow would else be asked the more, and heard the less."""

    name: str
    section: bytes
    answer: Answer | None = None
    failed: Answer = _UNASKED
    """What to say where nobody has an answer: the last thing that went wrong."""
    gave_up: tuple[NameServer, ...] = ()
    cut_off: NameServer | None = None
    """Who has an answer that is too long for UDP."""
    _attempts: "list[tuple[_Socket, int]]" = field(default_factory=list)
    _asking: "_Socket | None" = None
    _waiter: asyncio.Future[bool] | None = None

    def wants(self, server: NameServer) -> bool:
        """Whether it is worth while to ask that server (again)."""
        return self.answer is None and server not in self.gave_up

    async def ask(self, by: "_Socket", deadline: float) -> None:
        """One more attempt; wait until something ends it. Raises OSError where it can't be sent, and TimeoutError at
        ``deadline`` by the clock of the loop."""
        self._asking = by
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        ident = by.enter(self)
        self._attempts.append((by, ident))
        by.send(encode_query(ident, self.section))
        timer = loop.call_at(deadline, self._wake, False)
        try:
            if not await self._waiter:
                raise TimeoutError
        finally:
            timer.cancel()

    def hear(self, server: NameServer, message: Message) -> None:
        """What a server says to whichever attempt."""
        if message.truncated:
            self.cut_off = server
        elif not message.answer.status.temporary:
            self.answer, self.cut_off = message.answer, None
        else:
            if server not in self.gave_up:
                self.gave_up += (server,)
            self.fail(server, message.answer.detail, message.answer.status)
            if self._asking is None or server != self._asking.server:
                return  # the attempt that waits has asked another one
        self._wake()

    def lose(self, by: "_Socket", detail: str) -> None:
        """The way by a socket has failed: that ends the attempt that waits, but none that nobody waits for."""
        if by is self._asking:
            self.fail(by.server, detail)
            self._wake()

    def fail(self, server: NameServer, detail: str, status: Status = Status.TIMEOUT) -> None:
        """Remember what went wrong."""
        self.failed = Answer(status, self.name, detail=f"{server}: {detail}")

    def end(self) -> None:
        """Nothing more is to be heard."""
        for by, ident in self._attempts:
            by.leave(ident)

    def _wake(self, in_time: bool = True) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(in_time)


class _Socket:
    """One connected socket: the kernel drops what comes from anywhere but the server."""

    def __init__(self, server: NameServer, rng: random.Random) -> None:
        self.server = server
        self.asked = 0
        self._rng = rng
        self._pending: dict[int, _Question] = {}
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
        one that the system has told by ICMP that nobody listens, also when somebody does again. Answers that are
        late may still come, so it stays open for as long as its questions are asked (:meth:`leave`)."""
        self.asked = QUESTIONS_PER_SOCKET

    def enter(self, question: _Question) -> int:
        """The id under which a question is asked here until it leaves."""
        while (ident := self._rng.getrandbits(16)) in self._pending:
            pass
        self.asked += 1
        self._pending[ident] = question
        return ident

    def send(self, query: bytes) -> None:
        """Raises OSError where it can't be sent."""
        self._socket.send(query)

    def leave(self, ident: int) -> None:
        """Pass over what answers that id from now on."""
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
        # Anything that is not the answer to a question that is still asked is passed over: it may be forged.
        question = self._pending.get(int.from_bytes(data[:2]))
        if question is None or question.answer is not None:
            return
        try:
            message = decode(data)
        except BadMessage:
            return
        if message.question == question.section:
            question.hear(self.server, message)

    def _fail(self, detail: str) -> None:
        for question in self._pending.values():
            question.lose(self, detail)


class UdpTransport:
    """Asks the name servers in turn until one gives an answer that settles the question.

    ``timeout`` in seconds bounds the whole question, without the moments that each attempt waits for its turn (see
    :class:`~streams.dns.burst.Burst`). Each attempt waits for its answer twice as long as the one before, up to four
    times the first: what was lost in a full buffer should be asked again soon. What is late is no less true: an answer
    to any attempt is taken for as long as the question is asked.
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
        self._every: WeakSet[_Socket] = WeakSet()
        """Also the spent ones, for as long as questions are asked by them."""
        self._bursts = {server: Burst() for server in servers}
        self._closed = False

    async def query(self, name: str, rdtype: RecordType) -> Answer:
        """Ask; never raises. A server that fails (SERVFAIL, REFUSED) is believed once all of them do."""
        try:
            question = _Question(name, encode_question(name, rdtype))
        except BadName as bad:
            return Answer(Status.NXDOMAIN, name, detail=str(bad))
        try:
            for server, patience in self._attempts:
                if not question.wants(server):
                    continue
                async with self._bursts[server].turn():
                    if question.wants(server):  # no late answer came before its turn
                        await self._attempt(question, server, patience)
                if question.answer is not None:
                    return question.answer
        finally:
            question.end()
        return question.failed

    async def _attempt(self, question: _Question, server: NameServer, patience: float) -> None:
        if self._closed:
            question.fail(server, "the resolver was closed")
            return
        deadline = asyncio.get_running_loop().time() + patience
        by_tcp: NameServer | None = None
        try:
            asking = self._socket(server)
            if question.cut_off is None:
                await question.ask(asking, deadline)
            if (by_tcp := question.cut_off) is not None:
                async with asyncio.timeout_at(deadline):
                    await self._ask_by_tcp(question, by_tcp)
        except TimeoutError:
            if by_tcp is None:
                asking.retire()
            question.fail(by_tcp or server, "no answer in time")
        except (OSError, EOFError, BadMessage) as error:
            question.fail(by_tcp or server, f"{type(error).__name__}: {error}")

    async def _ask_by_tcp(self, question: _Question, server: NameServer) -> None:
        question.cut_off = None  # where this fails, the next attempt is by UDP again
        query = encode_query(self._rng.getrandbits(16), question.section)
        question.hear(server, await _over_tcp(server, query))

    def _socket(self, server: NameServer) -> _Socket:
        """A socket with room, at random among a few: ports change all the time, and few are open."""
        sockets = self._sockets[server]
        chosen = int(self._rng.random() * SOCKETS_PER_SERVER)
        if chosen >= len(sockets):
            sockets.append(self._opened(server))
        elif sockets[chosen].spent:
            sockets[chosen] = self._opened(server)
        return sockets[min(chosen, len(sockets) - 1)]

    def _opened(self, server: NameServer) -> _Socket:
        opened = _Socket(server, self._rng)
        self._every.add(opened)
        return opened

    async def aclose(self) -> None:
        """Close every socket; questions in flight end as ``timeout``, and so do later ones."""
        self._closed = True
        for each in tuple(self._every):
            each.close()
        for sockets in self._sockets.values():
            sockets.clear()


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
