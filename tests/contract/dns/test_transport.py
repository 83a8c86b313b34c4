"""What a transport promises, on real sockets, against servers that behave in every way but the right one."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import uvloop

from streams.dns import udp
from streams.dns.burst import Burst
from streams.dns.nameservers import NameServer
from streams.dns.transport import Answer, Exchange, RecordType, Status, Transport
from streams.dns.udp import UdpTransport

Reply = Callable[[bytes], list[bytes]]
"""What a server says to one query: any number of datagrams, or of messages by TCP."""


class Server(asyncio.DatagramProtocol):
    """A name server on loopback that answers as it is told, by UDP and by TCP."""

    def __init__(self, reply: Reply, by_tcp: Reply | None = None) -> None:
        self.reply = reply
        self.by_tcp = by_tcp
        self.ports: list[int] = []
        self.queries: list[bytes] = []
        self.tcp_asked = 0
        self.asked = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.ports.append(addr[1])
        self.queries.append(data)
        self.asked.set()
        for datagram in self.reply(data):
            self.transport.sendto(datagram, addr)

    async def has_been_asked(self, times: int) -> None:
        while len(self.queries) < times:
            self.asked.clear()
            await self.asked.wait()

    def answer(self, number: int, reply: Reply) -> None:
        """Answer a query that came before, where it came from."""
        for datagram in reply(self.queries[number]):
            self.transport.sendto(datagram, ("127.0.0.1", self.ports[number]))

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tcp_asked += 1
        query = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        for message in self.by_tcp(query) if self.by_tcp else []:
            writer.write(len(message).to_bytes(2) + message)
        writer.close()


class Hanging(Server):
    """Says nothing by TCP, and keeps the connection."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        writer.close()


async def listen(server: Server) -> asyncio.Server:
    """One port for both protocols; another program may hold the port of one of them."""
    while True:
        tcp = await asyncio.start_server(server.talk, "127.0.0.1", 0)
        try:
            await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: server, local_addr=tcp.sockets[0].getsockname()
            )
        except OSError:
            tcp.close()
        else:
            return tcp


@asynccontextmanager
async def serving(*servers: Server, patience: float = 2.0) -> AsyncIterator[Transport]:
    """A transport that asks the servers, in their order."""
    listeners = [await listen(server) for server in servers]
    addresses = [NameServer("127.0.0.1", listener.sockets[0].getsockname()[1]) for listener in listeners]
    transport = UdpTransport(addresses, timeout=patience)
    try:
        yield transport
    finally:
        await transport.aclose()
        for server, listener in zip(servers, listeners, strict=True):
            server.transport.close()
            listener.close()


def answering(*records: tuple[str, str, str], rcode: int = dns.rcode.NOERROR, truncated: bool = False) -> Reply:
    """Says the same of every name: records of (owner, type, text)."""

    def reply(data: bytes) -> list[bytes]:
        message = dns.message.make_response(dns.message.from_wire(data))
        message.set_rcode(rcode)
        message.answer = [dns.rrset.from_text(owner, 60, "IN", kind, text) for owner, kind, text in records]
        if truncated:
            message.flags |= dns.flags.TC
        return [message.to_wire()]

    return reply


def silent(_: bytes) -> list[bytes]:
    return []


def impatient(transport: Transport, *patience: float, servers: int = 2) -> UdpTransport:
    """The transport, whose attempts wait so many seconds each, and ask so many of its servers at most."""
    assert isinstance(transport, UdpTransport)
    names = list(transport._bursts)[:servers]
    transport._attempts = tuple((names[n % len(names)], seconds) for n, seconds in enumerate(patience))
    return transport


def ask(transport: Transport) -> asyncio.Task[Answer]:
    return asyncio.create_task(transport.query("d.test", RecordType.A))


def in_use(transport: UdpTransport) -> list[udp._Socket]:
    return [each for each in transport._every if each._socket.fileno() >= 0]


def in_flight(transport: UdpTransport) -> list[udp._Question]:
    """Questions that a socket may still have an answer to, once for each attempt."""
    return [question for each in transport._every for question in each._pending.values()]


@asynccontextmanager
async def before_its_second_turn(
    transport: UdpTransport, server: Server
) -> AsyncIterator[tuple[asyncio.Task[Answer], udp._Question]]:
    """A question whose first attempt was in vain, and which has to wait for the end of the block."""
    (name,) = transport._bursts
    transport._bursts[name] = burst = Burst(size=1, fresh_s=60.0)
    asker = ask(transport)
    await asyncio.sleep(0)
    (question,) = in_flight(transport)
    async with burst.turn():
        await server.has_been_asked(1)
        yield asker, question


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0)


def other_id(message: bytes) -> bytes:
    return (int.from_bytes(message[:2]) ^ 0x5A5A).to_bytes(2) + message[2:]


RIGHT = answering(("d.test.", "A", "192.0.2.1"))
WRONG = answering(("d.test.", "A", "192.0.2.66"))
FAILING = answering(rcode=dns.rcode.SERVFAIL)


async def test_an_answer_comes_with_its_records() -> None:
    async with serving(Server(answering(("d.test.", "MX", "10 mx.d.test.")))) as transport:
        answer = await transport.query("d.test", RecordType.MX)
    assert (answer.status, answer.exchanges, answer.ttl) == (Status.OK, (Exchange(10, "mx.d.test"),), 60)


@pytest.mark.parametrize(
    ("rcode", "status"),
    [
        (dns.rcode.NOERROR, Status.NODATA),
        (dns.rcode.NXDOMAIN, Status.NXDOMAIN),
        (dns.rcode.SERVFAIL, Status.SERVFAIL),
        (dns.rcode.REFUSED, Status.REFUSED),
    ],
)
async def test_each_way_of_having_no_records_is_told_apart(rcode: int, status: Status) -> None:
    server = Server(answering(rcode=rcode))
    async with serving(server) as transport:
        assert (await transport.query("d.test", RecordType.A)).status is status
    assert len(server.ports) == 1


async def test_a_name_that_dns_cannot_hold_does_not_exist() -> None:
    server = Server(RIGHT)
    async with serving(server) as transport:
        answer = await transport.query("a..b", RecordType.A)
    assert (answer.status, server.ports) == (Status.NXDOMAIN, [])
    assert "label" in answer.detail


async def test_silence_is_a_timeout_after_several_attempts() -> None:
    server = Server(silent)
    async with serving(server, patience=0.15) as transport:
        answer = await transport.query("d.test", RecordType.A)
    assert (answer.status, len(server.ports)) == (Status.TIMEOUT, udp.ATTEMPTS)
    assert "127.0.0.1" in answer.detail


async def test_a_lost_datagram_is_asked_again() -> None:
    lost = iter([True])
    server = Server(lambda data: [] if next(lost, False) else RIGHT(data))
    async with serving(server, patience=0.6) as transport:
        assert (await transport.query("d.test", RecordType.A)).addresses == ("192.0.2.1",)


@pytest.mark.parametrize("first", [silent, FAILING, answering(rcode=dns.rcode.REFUSED)])
async def test_the_next_server_is_asked_when_one_fails(first: Reply) -> None:
    async with serving(Server(first), Server(RIGHT), patience=0.6) as transport:
        assert (await transport.query("d.test", RecordType.A)).addresses == ("192.0.2.1",)


async def test_a_server_that_gave_up_is_not_asked_twice_for_one_question() -> None:
    servers = Server(FAILING), Server(FAILING)
    async with serving(*servers) as transport:
        assert (await transport.query("d.test", RecordType.A)).status is Status.SERVFAIL
    assert [len(server.ports) for server in servers] == [1, 1]


async def test_what_is_not_our_answer_is_passed_over() -> None:
    def forged(data: bytes) -> list[bytes]:
        (right,) = RIGHT(data)
        wrong_name = RIGHT(data.replace(b"\x01d", b"\x01e"))[0]
        return [b"", b"x", other_id(right), data, wrong_name, right[:20], right, right, *WRONG(data)]

    async with serving(Server(forged)) as transport:
        assert (await transport.query("d.test", RecordType.A)).addresses == ("192.0.2.1",)
        assert (await transport.query("d.test", RecordType.A)).addresses == ("192.0.2.1",)


async def test_an_answer_that_was_cut_off_comes_by_tcp() -> None:
    server = Server(answering(truncated=True), by_tcp=RIGHT)
    async with serving(server) as transport:
        assert (await transport.query("d.test", RecordType.A)).addresses == ("192.0.2.1",)
    assert server.tcp_asked == 1


async def test_an_answer_that_comes_whole_too_needs_no_tcp() -> None:
    server = Server(lambda data: answering(truncated=True)(data) + RIGHT(data))
    async with serving(server) as transport:
        assert (await transport.query("d.test", RecordType.A)).addresses == ("192.0.2.1",)
    assert server.tcp_asked == 0


@pytest.mark.parametrize(
    "by_tcp",
    [silent, lambda _: [b"short"], answering(truncated=True), lambda data: RIGHT(data.replace(b"\x01d", b"\x01e"))],
)
async def test_tcp_that_fails_is_a_timeout(by_tcp: Reply) -> None:
    server = Server(answering(truncated=True), by_tcp=by_tcp)
    async with serving(server) as transport:
        assert (await transport.query("d.test", RecordType.A)).status is Status.TIMEOUT
    assert len(server.queries) == server.tcp_asked == udp.ATTEMPTS


async def test_nobody_listening_is_known_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    transport = UdpTransport([NameServer("127.0.0.1", port)], timeout=60.0)
    answer = await transport.query("d.test", RecordType.A)
    await transport.aclose()
    assert answer.status is Status.TIMEOUT
    assert "refused" in answer.detail


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_server_that_comes_back_is_asked_again_at_once(run: Callable[..., None]) -> None:
    async def ask(transport: Transport) -> set[Status]:
        answers = await asyncio.gather(*(transport.query("d.test", RecordType.A) for _ in range(30)))
        return {answer.status for answer in answers}

    async def main() -> None:
        server, again = Server(RIGHT), Server(RIGHT)
        listener = await listen(server)
        host, port = listener.sockets[0].getsockname()
        transport = UdpTransport([NameServer(host, port)], timeout=0.7)
        assert await ask(transport) == {Status.OK}
        server.transport.close()
        await asyncio.sleep(0)
        assert await ask(transport) == {Status.TIMEOUT}
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: again, local_addr=(host, port))
        assert await ask(transport) == {Status.OK}
        await transport.aclose()
        again.transport.close()
        listener.close()

    run(main())


async def test_a_server_without_a_way_to_it_is_a_timeout() -> None:
    transport = UdpTransport([NameServer("255.255.255.255")])
    answer = await transport.query("d.test", RecordType.A)
    await transport.aclose()
    assert answer.status is Status.TIMEOUT


async def test_ipv6_servers_are_asked_too() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as free:
        free.bind(("::1", 0))
        port = free.getsockname()[1]
    transport = UdpTransport([NameServer("::1", port)])
    assert "refused" in (await transport.query("d.test", RecordType.A)).detail
    await transport.aclose()


async def test_many_questions_share_few_sockets_and_ports_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "QUESTIONS_PER_SOCKET", 25)
    server = Server(RIGHT)
    async with serving(server, patience=60.0) as transport:
        answers = await asyncio.gather(*(transport.query("d.test", RecordType.A) for _ in range(200)))
    assert {answer.addresses for answer in answers} == {("192.0.2.1",)}
    assert 200 // 25 <= len(set(server.ports)) <= 200 // 25 + udp.SOCKETS_PER_SERVER


async def test_an_id_in_use_is_not_used_again() -> None:
    class Stuck:
        drawn = iter([7, 7, 8])

        def getrandbits(self, _: int) -> int:
            return next(self.drawn)

        def random(self) -> float:
            return 0.0

    server = Server(silent)
    async with serving(server) as real:
        assert isinstance(real, UdpTransport)
        real._rng = cast(udp.random.Random, Stuck())
        askers = [asyncio.create_task(real.query("d.test", RecordType.A)) for _ in range(2)]
        await asyncio.sleep(0)
        (endpoint,) = next(iter(real._sockets.values()))
        assert set(endpoint._pending) == {7, 8}
        await real.aclose()
        for asker in askers:
            asker.cancel()
        await asyncio.gather(*askers, return_exceptions=True)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_late_answer_is_taken_while_the_next_attempt_waits(run: Callable[..., None]) -> None:
    async def main() -> None:
        server = Server(silent)
        async with serving(server) as real:
            transport = impatient(real, 0.02, 60.0)
            asker = ask(transport)
            await server.has_been_asked(2)
            assert len(set(server.ports)) == 2, "the socket whose question was left without an answer asks no more"
            server.answer(0, RIGHT)
            assert (await asker).addresses == ("192.0.2.1",)
            assert not in_flight(transport)
            assert len(in_use(transport)) == 1, "the retired one is closed"

    run(main())


async def test_a_late_answer_spares_the_attempt_that_waits_for_its_turn() -> None:
    server = Server(silent)
    async with serving(server) as real:
        async with before_its_second_turn(impatient(real, 0.02, 60.0), server) as (asker, question):
            server.answer(0, RIGHT)
            await until(lambda: question.answer)
        assert (await asker).addresses == ("192.0.2.1",)
    assert len(server.queries) == 1


async def test_a_late_answer_that_was_cut_off_comes_by_tcp_at_once() -> None:
    server = Server(silent, by_tcp=RIGHT)
    async with serving(server) as real:
        asker = ask(impatient(real, 0.02, 60.0))
        await server.has_been_asked(2)
        server.answer(0, answering(truncated=True))
        assert (await asker).addresses == ("192.0.2.1",)
    assert server.tcp_asked == 1


async def test_an_answer_that_was_cut_off_before_the_next_turn_makes_that_one_by_tcp() -> None:
    server = Hanging(silent)
    async with serving(server) as real:
        transport = impatient(real, 0.02, 0.05)
        async with before_its_second_turn(transport, server) as (asker, question):
            server.answer(0, answering(truncated=True))
            await until(lambda: question.cut_off)
        answer = await asker
        assert (answer.status, len(server.queries)) == (Status.TIMEOUT, 1)
        assert "in time" in answer.detail
        assert not in_flight(transport)
        assert [each.spent for each in in_use(transport)] == [False]  # it was TCP that took too long
        await transport.aclose()


async def test_what_is_late_and_not_an_answer_of_its_own_attempt_is_passed_over() -> None:
    server = Server(silent)
    async with serving(server, Server(silent)) as real:
        transport = impatient(real, 0.02, 60.0, servers=1)
        asker = ask(transport)
        await server.has_been_asked(2)
        first, second = server.queries
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
            for number, query in enumerate(server.queries):
                elsewhere.sendto(WRONG(query)[0], ("127.0.0.1", server.ports[number]))
        server.answer(0, lambda query: [other_id(WRONG(query)[0]), *WRONG(query.replace(b"\x01d", b"\x01e"))])
        server.answer(0, lambda _: WRONG(second))
        server.answer(1, lambda _: WRONG(first))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not asker.done()
        server.answer(0, RIGHT)
        assert (await asker).addresses == ("192.0.2.1",)


async def test_a_question_that_is_given_up_leaves_nothing_behind() -> None:
    server = Server(silent)
    async with serving(server) as real:
        transport = impatient(real, 0.02, 60.0)
        gone = ask(transport)
        await server.has_been_asked(2)
        assert len(in_flight(transport)) == 2
        gone.cancel()
        await asyncio.wait([gone])
        assert not in_flight(transport)
        assert len(in_use(transport)) == 1
        server.answer(0, RIGHT)
        server.answer(1, RIGHT)
        server.reply = RIGHT
        assert (await transport.query("d.test", RecordType.A)).status is Status.OK
    assert gone.cancelled()
    assert not in_use(transport)


async def test_a_failure_of_the_way_to_one_server_is_none_of_the_attempt_that_asks_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    lose = udp._Question.lose

    def listening(question: udp._Question, by: udp._Socket, detail: str) -> None:
        told.append(detail)
        lose(question, by, detail)

    monkeypatch.setattr(udp._Question, "lose", listening)
    down, up = Server(silent), Server(silent)
    async with serving(down, up) as real:
        transport = impatient(real, 0.02, 60.0)
        asker = ask(transport)
        await up.has_been_asked(1)
        down.transport.close()
        await asyncio.sleep(0)
        retired = next(each for each in in_use(transport) if each.spent)
        retired.send(b"of another question")
        await until(lambda: told)
        assert "refused" in told[0]
        up.answer(0, RIGHT)
        assert (await asker).addresses == ("192.0.2.1",)


async def test_a_server_that_fails_late_is_asked_no_more() -> None:
    server = Server(silent)
    async with serving(server) as real:
        asker = ask(impatient(real, 0.02, 60.0))
        await server.has_been_asked(2)
        server.answer(0, FAILING)
        assert (await asker).status is Status.SERVFAIL


@pytest.mark.parametrize(("reply", "status"), [(RIGHT, Status.OK), (FAILING, Status.SERVFAIL)])
async def test_a_server_that_fails_late_does_not_end_the_attempt_that_asks_another(
    reply: Reply, status: Status
) -> None:
    late, other = Server(silent), Server(silent)
    async with serving(late, other) as real:
        transport = impatient(real, 0.02, 60.0, 60.0)
        asker = ask(transport)
        await other.has_been_asked(1)
        (question,) = set(in_flight(transport))
        for _ in range(2):
            late.answer(0, FAILING)
        await until(lambda: question.gave_up)
        assert len(question.gave_up) == 1
        other.answer(0, reply)
        assert (await asker).status is status
    assert (len(late.queries), len(other.queries)) == (1, 1)


async def test_closing_ends_questions_of_sockets_that_made_way_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "QUESTIONS_PER_SOCKET", 1)
    monkeypatch.setattr(udp, "SOCKETS_PER_SERVER", 1)
    server = Server(silent)
    async with serving(server) as real:
        transport = impatient(real, 60.0)
        askers = [ask(transport) for _ in range(3)]
        await server.has_been_asked(3)
        await transport.aclose()
        assert {(await asker).status for asker in askers} == {Status.TIMEOUT}
        assert not in_use(transport)


async def test_closing_ends_questions_in_flight_and_later_ones() -> None:
    server = Server(silent)
    async with serving(server, patience=60.0) as transport:
        asker = asyncio.create_task(transport.query("d.test", RecordType.A))
        gone = asyncio.create_task(transport.query("d.test", RecordType.A))
        await server.asked.wait()
        gone.cancel()
        await transport.aclose()
        for answer in (await asker, await transport.query("d.test", RecordType.A)):
            assert answer.status is Status.TIMEOUT
            assert "closed" in answer.detail
    assert gone.cancelled()


async def test_a_spent_socket_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "QUESTIONS_PER_SOCKET", 1)
    server = Server(RIGHT)
    async with serving(server) as transport:
        for _ in range(2):
            assert (await transport.query("d.test", RecordType.A)).status is Status.OK
    assert len(set(server.ports)) == 2


async def test_a_flood_of_datagrams_leaves_the_loop_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "_DATAGRAMS_PER_WAKE", 2)
    async with serving(Server(lambda data: [b"noise"] * 20 + RIGHT(data))) as transport:
        assert (await transport.query("d.test", RecordType.A)).status is Status.OK


def test_a_transport_without_servers_is_refused() -> None:
    with pytest.raises(ValueError, match="name server"):
        UdpTransport([])
