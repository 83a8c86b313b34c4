"""The servers on real sockets: delays, outages, counters, DNS over UDP and TCP, other people's clients."""

import asyncio
import socket
import ssl

import aiosmtplib
import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest

from ops.world import PortTakenError, World, WorldConfig, dns_server
from ops.world.manners import Manners, Pause
from ops.world.personality import HostRow, Personality
from ops.world.stats import ViolationKind

HELLO = b"EHLO me.test\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def one(manners: Manners, name: str = "only") -> tuple[Personality, ...]:
    return (Personality(name=name, does="a test's own", manners=manners),)


async def connect(world: World, host: str = "mx.only.test") -> Streams:
    return await asyncio.open_connection(world.addresses[host], world.smtp_port)


async def talk(streams: Streams, data: bytes, lines: int) -> list[bytes]:
    reader, writer = streams
    writer.write(data)
    return [await asyncio.wait_for(reader.readline(), 5) for _ in range(lines)]


async def read_to_end(streams: Streams) -> bytes:
    return await asyncio.wait_for(streams[0].read(), 5)


# SMTP


async def test_a_pipelined_batch_is_answered_in_one_write() -> None:
    async with World() as world:
        streams = await connect(world, "mx.accepts.test")
        await talk(streams, b"", 1)
        await talk(streams, HELLO, 5)
        batch = b"MAIL FROM:<>\r\n" + b"RCPT TO:<user1@accepts.test>\r\n" * 500
        assert len(await talk(streams, batch, 501)) == 501
        stats = world.stats.host("mx.accepts.test")
        assert stats.recipients == 500
        assert stats.reads <= 4  # EHLO, and a batch of 17 KB in at most a few pieces
        assert stats.writes == stats.reads + 1


async def test_a_message_from_another_library_is_taken() -> None:
    async with World() as world:
        await aiosmtplib.send(
            "Subject: hello\r\n\r\nworld\r\n",
            sender="me@me.test",
            recipients=["alice@tlsrequired.test"],
            hostname=world.addresses["mx.tlsrequired.test"],
            port=world.smtp_port,
            start_tls=True,
            validate_certs=False,
        )
        stats = world.stats.host("mx.tlsrequired.test")
        assert (stats.messages, stats.tls) == (1, 1)
        assert world.stats.violations == []


async def test_talking_before_the_banner_is_seen() -> None:
    async with World(catalogue=one(Manners(banner_pause=Pause.BLINK, punishes_early_talk=True))) as world:
        streams = await connect(world)
        streams[1].write(HELLO)
        assert b"503 5.5.0" in await read_to_end(streams)
        assert world.stats.violations[0].kind is ViolationKind.BEFORE_BANNER


async def test_pipelining_in_two_writes_is_seen_where_replies_take_their_time() -> None:
    async with World(WorldConfig(slow_s=0.05), one(Manners(extensions=(), reply_pause=Pause.SLOW))) as world:
        streams = await connect(world)
        await talk(streams, b"", 1)
        await talk(streams, HELLO, 1)
        streams[1].write(b"MAIL FROM:<>\r\n")
        await asyncio.sleep(0.01)
        await talk(streams, b"RSET\r\n", 2)
        assert list(world.stats.violation_counts) == [ViolationKind.PIPELINING_NOT_OFFERED]


async def test_replies_stay_in_order_and_share_a_round_trip() -> None:
    loop = asyncio.get_running_loop()
    async with World(WorldConfig(rtt_s=0.1), one(Manners())) as world:
        start = loop.time()
        streams = await connect(world)
        await talk(streams, b"", 1)
        greeted = loop.time()
        await talk(streams, HELLO, 5)
        for number in range(20):
            streams[1].write(b"NOOP\r\n" if number % 2 else b"VRFY x\r\n")
            await asyncio.sleep(0)
        codes = [line[:3] for line in await talk(streams, b"", 20)]
        assert codes == [b"252", b"250"] * 10
        # Lower bounds only: the delay is there, and 22 exchanges did not add up to 22 round trips.
        assert greeted - start >= 0.2
        assert loop.time() - greeted >= 0.2
        world.set_rtt(0, "mx.only.test")
        await talk(await connect(world), b"", 1)


async def test_tls_that_is_none_is_cut() -> None:
    async with World() as world:
        streams = await connect(world, "mx.tlsoffered.test")
        await talk(streams, b"", 1)
        await talk(streams, HELLO, 6)
        await talk(streams, b"STARTTLS\r\n", 1)
        streams[1].write(b"this is no handshake\r\n" * 10)
        assert await read_to_end(streams) == b""


async def test_tls_ends_in_order() -> None:
    """A client that refuses ragged ends gets none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def dialogue(address: tuple[str, int]) -> bytes:
        with socket.create_connection(address, timeout=5) as plain:
            for command in (HELLO, b"STARTTLS\r\n"):
                plain.recv(4096)
                plain.sendall(command)
            while not plain.recv(4096).startswith(b"220"):
                pass
            with context.wrap_socket(plain, suppress_ragged_eofs=False) as secure:
                secure.sendall(b"QUIT\r\n")
                return secure.recv(4096) + secure.recv(4096)

    async with World() as world:
        address = (world.addresses["mx.tlsoffered.test"], world.smtp_port)
        assert await asyncio.to_thread(dialogue, address) == b"221 2.0.0 Bye\r\n"


async def test_a_round_trip_time_for_everything_slows_dns_too() -> None:
    loop = asyncio.get_running_loop()
    async with World() as world:
        world.set_rtt(0.05)
        host, port = place(world)
        start = loop.time()
        await dns.asyncquery.udp(dns.message.make_query("accepts.test", "MX"), host, timeout=5, port=port)
        assert loop.time() - start >= 0.05


async def test_idle_connections_are_closed_with_a_word() -> None:
    async with World(WorldConfig(slow_s=0.05), one(Manners(idle_limit=Pause.SLOW))) as world:
        streams = await connect(world)
        await talk(streams, b"", 1)
        await talk(streams, HELLO, 5)
        assert (await read_to_end(streams)).startswith(b"421 4.4.2")


async def test_a_client_that_reads_nothing_is_not_listened_to() -> None:
    async with World(catalogue=one(Manners(soft_errors=0, hard_errors=0))) as world:
        reader, writer = await connect(world)
        await talk((reader, writer), b"", 1)
        await talk((reader, writer), HELLO, 5)
        reader._limit = 1  # the client's own buffer stays small
        noise = b"RCPT TO:<nobody@only.test>\r\n" * 2000
        for _ in range(1000):
            writer.write(noise)
            try:
                await asyncio.wait_for(writer.drain(), 0.2)
            except TimeoutError:
                break
        else:
            pytest.fail("the server took 60 MB from a client that never read")
        writer.transport.abort()


# Outages


async def test_a_host_stops_and_comes_back_at_its_place() -> None:
    async with World(catalogue=one(Manners())) as world:
        port = world.smtp_port
        streams = await connect(world)
        await talk(streams, b"", 1)
        await world.stop_host("mx.only.test")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(world.addresses["mx.only.test"], port)
        assert await read_to_end(streams) == b""
        await world.start_host("mx.only.test")
        assert (await talk(await connect(world), b"", 1))[0].startswith(b"220")
        assert world.smtp_port == port
        assert world.stats.host("mx.only.test").connections == 2


async def test_a_frozen_host_hears_and_never_answers() -> None:
    async with World(catalogue=one(Manners())) as world:
        streams = await connect(world)
        await talk(streams, b"", 1)
        world.freeze_host("mx.only.test")
        streams[1].write(HELLO)
        silent = await connect(world)
        for stream in (streams, silent):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream[0].readline(), 0.1)
        world.freeze_host("mx.only.test", frozen=False)
        await talk(streams, HELLO, 5)


async def test_open_connections_return_to_zero() -> None:
    async with World() as world:
        streams = [await connect(world, "mx.nobanner.test") for _ in range(5)]
        await asyncio.sleep(0.02)
        assert (world.stats.open, world.stats.open_max) == (5, 5)
        for _, writer in streams:
            writer.close()
        await asyncio.sleep(0.05)
        assert world.stats.open == 0
        await connect(world, "mx.nobanner.test")
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.02)
    assert world.stats.open == 0


# Ports


@pytest.mark.parametrize("option", ["dns_port", "smtp_port"])
async def test_a_port_that_is_taken_is_said_in_one_line(option: str) -> None:
    async with World() as first:
        taken = {"dns_port": int(first.resolver.partition(":")[2]), "smtp_port": first.smtp_port}[option]
        with pytest.raises(PortTakenError, match=f"port {taken} at .* is taken"):
            await World(WorldConfig(**{option: taken})).__aenter__()


async def test_a_free_port_is_free_at_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host's port may be taken at the second one's address: then another is tried."""
    catalogue = (Personality(name="two", does="", hosts=(HostRow(name="a.two.test"), HostRow(name="b.two.test"))),)
    loop = asyncio.get_running_loop()
    original, squatters = loop.create_server, []

    async def squat(factory: object, address: str, port: int, **options: object) -> asyncio.Server:
        server = await original(factory, address, port, **options)  # type: ignore[arg-type]
        if address == "127.77.0.1" and not squatters:
            squatters.append(socket.create_server(("127.77.0.2", server.sockets[0].getsockname()[1])))
        return server

    monkeypatch.setattr(loop, "create_server", squat)
    async with World(WorldConfig(dns=False), catalogue) as world:
        assert world.smtp_port != squatters[0].getsockname()[1]
        assert (await talk(await connect(world, "b.two.test"), b"", 1))[0].startswith(b"220")
    squatters[0].close()


# DNS


def place(world: World) -> tuple[str, int]:
    host, _, port = world.resolver.partition(":")
    return host, int(port)


async def test_large_answers_are_cut_on_udp_and_whole_on_tcp() -> None:
    async with World() as world:
        host, port = place(world)
        query = dns.message.make_query("manymx.test", "MX", use_edns=0, payload=1232)
        short = await dns.asyncquery.udp(query, host, timeout=5, port=port)
        assert short.flags & dns.flags.TC
        whole = await dns.asyncquery.tcp(query, host, timeout=5, port=port)
        assert len(whole.answer[0]) == 61
        assert (world.stats.dns.udp, world.stats.dns.tcp) == (1, 1)
        assert world.stats.dns.names["manymx.test", "MX"] == 2


async def test_several_queries_share_a_tcp_connection_and_arrive_in_any_pieces() -> None:
    async with World(WorldConfig(rtt_s=0.01)) as world:
        reader, writer = await asyncio.open_connection(*place(world))
        packet = dns.message.make_query("accepts.test", "MX").to_wire(prepend_length=True)
        for octet in packet * 3:
            writer.write(bytes((octet,)))
            await asyncio.sleep(0)
        for _ in range(3):
            size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), 5), "big")
            assert dns.message.from_wire(await reader.readexactly(size)).answer
        writer.close()


async def test_idle_tcp_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server, "TCP_IDLE_S", 0.05)
    async with World() as world:
        assert await read_to_end(await asyncio.open_connection(*place(world))) == b""


async def test_what_is_no_query_is_not_answered_and_harms_nothing() -> None:
    async with World() as world:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"\x00\x01nonsense", place(world))
        query = dns.message.make_query("accepts.test", "A")
        answer = await dns.asyncquery.udp(query, place(world)[0], timeout=5, port=place(world)[1])
        assert answer.rcode() == dns.rcode.NOERROR
        assert world.stats.dns.malformed == 1


async def test_dns_stops_and_comes_back_on_its_port() -> None:
    async with World() as world:
        host, port = place(world)
        query = dns.message.make_query("accepts.test", "MX")
        idle = await asyncio.open_connection(host, port)
        await asyncio.sleep(0.01)
        await world.stop_dns()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, port)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await idle[0].readexactly(1)
        await world.start_dns()
        assert world.resolver == f"{host}:{port}"
        assert (await dns.asyncquery.udp(query, host, timeout=5, port=port)).answer


async def test_bulk_domains_are_found_and_follow_their_rule() -> None:
    async with World(WorldConfig(bulk_domains=30, bulk_hosts=2)) as world:
        host, port = place(world)
        query = dns.message.make_query("d0030.bulk.mailvet.test", "MX")
        answer = await dns.asyncquery.udp(query, host, timeout=5, port=port)
        assert answer.answer[0][0].exchange.to_text() == "mx.bulk2.test."
        streams = await connect(world, "mx.bulk2.test")
        await talk(streams, b"", 1)
        await talk(streams, HELLO, 5)
        samples = [s for s in world.bulk_addresses(120) if s.address.endswith("d0030.bulk.mailvet.test")]
        batch = b"".join(b"RCPT TO:<%s>\r\n" % sample.address.encode() for sample in samples)
        replies = await talk(streams, b"MAIL FROM:<>\r\n" + batch, 1 + len(samples))
        right = [b"250" if sample.verdict == "deliverable" else b"550" for sample in samples]
        assert [reply[:3] for reply in replies[1:]] == right
        assert set(right) == {b"250", b"550"}
