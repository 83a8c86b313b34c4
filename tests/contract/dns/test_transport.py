"""What a transport promises, on real sockets, against servers that behave in every way but the right one."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import uvloop

from streams.dns import udp
from streams.dns.nameservers import NameServer
from streams.dns.transport import Exchange, RecordType, Status, Transport
from streams.dns.udp import UdpTransport

Reply = Callable[[bytes], list[bytes]]
"""What a server says to one query: any number of datagrams, or of messages by TCP."""


class Server(asyncio.DatagramProtocol):
    """A name server on loopback that answers as it is told, by UDP and by TCP."""

    def __init__(self, reply: Reply, by_tcp: Reply | None = None) -> None:
        self.reply = reply
        self.by_tcp = by_tcp
        self.ports: list[int] = []
        self.tcp_asked = 0
        self.asked = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.ports.append(addr[1])
        self.asked.set()
        for datagram in self.reply(data):
            self.transport.sendto(datagram, addr)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tcp_asked += 1
        query = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        for message in self.by_tcp(query) if self.by_tcp else []:
            writer.write(len(message).to_bytes(2) + message)
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


RIGHT = answering(("d.test.", "A", "192.0.2.1"))
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
        other_id = (int.from_bytes(data[:2]) ^ 0x5A5A).to_bytes(2)
        wrong_name = RIGHT(data.replace(b"\x01d", b"\x01e"))[0]
        return [b"", b"x", other_id + right[2:], data, wrong_name, right[:20], right, right]

    async with serving(Server(forged)) as transport:
        assert (await transport.query("d.test", RecordType.A)).addresses == ("192.0.2.1",)
        assert (await transport.query("d.test", RecordType.A)).addresses == ("192.0.2.1",)


async def test_an_answer_that_was_cut_off_comes_by_tcp() -> None:
    server = Server(answering(truncated=True), by_tcp=RIGHT)
    async with serving(server) as transport:
        assert (await transport.query("d.test", RecordType.A)).addresses == ("192.0.2.1",)
    assert server.tcp_asked == 1


@pytest.mark.parametrize(
    "by_tcp",
    [silent, lambda _: [b"short"], answering(truncated=True), lambda data: RIGHT(data.replace(b"\x01d", b"\x01e"))],
)
async def test_tcp_that_fails_is_a_timeout(by_tcp: Reply) -> None:
    async with serving(Server(answering(truncated=True), by_tcp=by_tcp)) as transport:
        assert (await transport.query("d.test", RecordType.A)).status is Status.TIMEOUT


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
