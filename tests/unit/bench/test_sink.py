"""The sink's DNS answers, and its limits, without a socket."""

import asyncio
from collections.abc import Callable
from typing import Any

import dns.message
import dns.rcode
import pytest

from ops.bench.lists import exchanger, host_address, mail_domain
from ops.bench.sink import Sink, SinkConfig, SmtpConnection, answer_query


def ask(name: str, kind: str) -> dns.message.Message:
    answer = answer_query(dns.message.make_query(name, kind, use_edns=False).to_wire())
    assert answer is not None
    return dns.message.from_wire(answer)


def test_a_domain_has_its_providers_exchanger_and_that_an_address() -> None:
    assert ask(mail_domain("p0d0", 7), "MX").answer[0][0].exchange.to_text(True) == exchanger(7)
    assert ask(exchanger(7), "A").answer[0][0].address == host_address(7)


def test_a_provider_beyond_the_hosts_shares_one_of_them() -> None:
    query = dns.message.make_query(exchanger(1007), "A", use_edns=False).to_wire()
    answer = answer_query(query, 100)
    assert answer is not None
    assert dns.message.from_wire(answer).answer[0][0].address == host_address(7)


def test_other_types_have_no_records_and_other_names_do_not_exist() -> None:
    assert not ask(exchanger(7), "AAAA").answer
    assert ask(exchanger(7), "AAAA").rcode() == dns.rcode.NOERROR
    assert ask("example.org", "MX").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    "junk", [b"", b"\0" * 11, b"\0" * 12 + b"\x40abc", b"\0" * 12 + b"\x01\xff\x00\x00\x0f\x00\x01"]
)
def test_junk_gets_no_answer(junk: bytes) -> None:
    assert answer_query(junk) is None


class Wire:
    def __init__(self) -> None:
        self.said = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.said += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def session(**config: Any) -> tuple[Sink, SmtpConnection, Wire]:
    sink, wire = Sink(SinkConfig(**config)), Wire()
    connection = SmtpConnection(sink, [0])
    connection.connection_made(wire)  # type: ignore[arg-type]
    return sink, connection, wire


async def test_who_exists_is_accepted_and_nobody_else() -> None:
    sink, connection, wire = await session()
    connection.data_received(b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<user1@a.test>\r\nRCPT TO:<go")
    connection.data_received(b"ne1@a.test>\r\n")
    assert wire.said.splitlines()[-2:] == [
        b"250 2.1.5 Ok",
        b"550 5.1.1 <gone1@a.test>: Recipient address rejected: User unknown in virtual mailbox table",
    ]
    assert (sink.counters.recipients, sink.counters.refused, sink.counters.reads) == (2, 1, 2)


async def test_a_random_recipient_that_begins_with_the_word_does_not_exist() -> None:
    _, connection, wire = await session()
    connection.data_received(b"RCPT TO:<userq7d01kk4vb2m9x3w@a.test>\r\nRCPT TO:<laterd01kk4vb2m9x3wq@a.test>\r\n")
    assert wire.said.count(b"550 5.1.1 ") == 2


async def test_who_is_greylisted_is_accepted_when_it_comes_again() -> None:
    sink, connection, wire = await session()
    connection.data_received(b"RCPT TO:<later1@a.test>\r\nRCPT TO:<later2@a.test>\r\nRCPT TO:<later1@a.test>\r\n")
    assert wire.said.splitlines()[-3:] == [
        b"450 4.2.0 <later1@a.test>: Recipient address rejected: Greylisted",
        b"450 4.2.0 <later2@a.test>: Recipient address rejected: Greylisted",
        b"250 2.1.5 Ok",
    ]
    assert sink.greylisted == {b"<later2@a.test>"}


async def test_the_twentieth_error_ends_the_session() -> None:
    sink, connection, wire = await session(soft_error_s=0.0)
    connection.data_received(b"RCPT TO:<gone@a.test>\r\n" * 30)
    assert wire.said.count(b"550 ") == 20
    assert wire.said.endswith(b"421 4.7.0 sink.test Error: too many errors\r\n")
    assert wire.closed
    assert sink.counters.late_replies == 10


async def test_from_the_eleventh_error_on_replies_wait() -> None:
    _, connection, wire = await session(soft_error_s=60.0)
    connection.data_received(b"RCPT TO:<gone@a.test>\r\n" * 10)
    assert wire.said.count(b"550 ") == 10
    connection.data_received(b"RCPT TO:<gone@a.test>\r\n")
    await asyncio.sleep(0)
    assert wire.said.count(b"550 ") == 10


async def test_late_replies_keep_their_order_whichever_timer_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Callable[[], None]] = []
    _, connection, wire = await session(soft_error_s=60.0)
    monkeypatch.setattr(asyncio.get_running_loop(), "call_at", lambda _due, call: timers.append(call))
    connection.data_received(b"RCPT TO:<gone@a.test>\r\n" * 11)
    connection.data_received(b"QUIT\r\n")
    for timer in reversed(timers):
        timer()
    assert wire.said.count(b"550 ") == 11
    assert wire.said.endswith(b"221 2.0.0 Bye\r\n")
    assert wire.closed


async def test_a_tarpit_never_answers_and_quit_closes() -> None:
    _, connection, wire = await session(tarpit=True)
    connection.data_received(b"RCPT TO:<user@a.test>\r\n")
    assert wire.said == b"220 sink.test ESMTP\r\n"
    connection.data_received(b"QUIT\r\n")
    assert wire.said.endswith(b"221 2.0.0 Bye\r\n")
    assert wire.closed


async def test_a_client_has_so_many_connections_and_no_more() -> None:
    sink, open_now = Sink(SinkConfig(client_connections=1)), [0]
    first, second, third = (SmtpConnection(sink, open_now) for _ in range(3))
    wires = [Wire(), Wire(), Wire()]
    first.connection_made(wires[0])  # type: ignore[arg-type]
    second.connection_made(wires[1])  # type: ignore[arg-type]
    assert wires[0].said.startswith(b"220 ")
    assert wires[1].said.startswith(b"421 4.7.0 ")
    assert (wires[1].closed, sink.counters.turned_away) == (True, 1)
    for gone in (first, second):
        gone.connection_lost(None)
    third.connection_made(wires[2])  # type: ignore[arg-type]
    assert wires[2].said.startswith(b"220 ")


async def test_who_has_said_quit_is_counted_no_more_though_it_has_heard_nothing_yet() -> None:
    sink, open_now = Sink(SinkConfig(rtt_s=60.0)), [0]
    connection, wire = SmtpConnection(sink, open_now), Wire()
    connection.connection_made(wire)  # type: ignore[arg-type]
    assert open_now == [1]
    connection._due = 0.0  # the banner's time is over
    connection.data_received(b"QUIT\r\n")
    assert (open_now, wire.closed) == ([0], False)
    connection.connection_lost(None)
    assert open_now == [0]


async def test_who_has_said_quit_is_counted_while_a_reply_before_it_is_held_back() -> None:
    sink, open_now = Sink(SinkConfig(soft_error_s=60.0)), [0]
    connection = SmtpConnection(sink, open_now)
    connection.connection_made(Wire())  # type: ignore[arg-type]
    connection.data_received(b"RCPT TO:<gone@a.test>\r\n" * 11 + b"QUIT\r\n")
    assert open_now == [1]
