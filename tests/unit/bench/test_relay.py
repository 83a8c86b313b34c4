"""The delay line and what a relay counts, by a clock of the test's own."""

import asyncio
from typing import Any

import pytest

from ops.bench.delay import DelayLine
from ops.bench.relay import Client, Server, upstream_address
from ops.bench.sink import Counters


class Clock:
    """As much of a loop as a delay line needs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: Any) -> None:
        self.timers.append((self.now + seconds, call))

    def run(self, until: float) -> None:
        while due := sorted((when for when, _ in self.timers if when <= until)):
            self.now = due[0]
            [(_, call)] = [timer for timer in self.timers if timer[0] == due[0]]
            self.timers = [timer for timer in self.timers if timer[0] != due[0]]
            call()
        self.now = until


class Wire:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class FakeRelay:
    def __init__(self) -> None:
        self.loop = Clock()
        self.counters = Counters()
        self.way = DelayLine(self.loop, 0.025)  # type: ignore[arg-type]
        self.handshake = DelayLine(self.loop, 0.075)  # type: ignore[arg-type]
        self.opened: list[str] = []


@pytest.fixture
def relay() -> FakeRelay:
    return FakeRelay()


@pytest.fixture
def client(relay: FakeRelay, monkeypatch: pytest.MonkeyPatch) -> tuple[Client, Wire, Wire]:
    """A connection whose server is there, its wire to the client and its wire to the server."""
    monkeypatch.setattr(Client, "_open", lambda self, _: None)
    made, near, far = Client(relay, "127.89.0.1"), Wire(), Wire()  # type: ignore[arg-type]
    made.connection_made(near)  # type: ignore[arg-type]
    made._server = far  # type: ignore[assignment]
    return made, near, far


def test_everything_comes_later_and_in_order() -> None:
    clock, seen = Clock(), []
    line = DelayLine(clock, 1.0)  # type: ignore[arg-type]

    def call(data: bytes) -> None:
        seen.append((clock.now, data))
        if data == b"a":
            line.put(call, b"by a")

    line.put(call, b"a")
    clock.run(0.4)
    line.put(call, b"b")
    clock.run(3.0)
    assert seen == [(1.0, b"a"), (1.4, b"b"), (2.0, b"by a")]
    assert clock.timers == []


def test_each_way_takes_half_a_round_trip(relay: FakeRelay, client: tuple[Client, Wire, Wire]) -> None:
    made, near, far = client
    made.data_received(b"MAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nRCPT TO:<c@b.test>\r\n")
    relay.loop.run(0.024)
    assert far.written == []
    relay.loop.run(0.025)
    assert len(far.written) == 1
    Server(made).data_received(b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n550 5.1.1 no\r\n")
    relay.loop.run(0.050)
    assert len(near.written) == 1
    counted = relay.counters
    assert (counted.connections, counted.reads, counted.recipients, counted.refused) == (1, 1, 2, 1)
    assert counted.late_replies == 0


def test_a_server_that_sleeps_is_noticed(relay: FakeRelay, client: tuple[Client, Wire, Wire]) -> None:
    made, _, _ = client
    made.data_received(b"RCPT TO:<a@b.test>\r\n")
    relay.loop.run(1.025)
    made.heard(b"550 5.1.1 no\r\n")
    assert relay.counters.late_replies == 1


def test_whoever_closes_closes_the_other_side_too(relay: FakeRelay, client: tuple[Client, Wire, Wire]) -> None:
    made, near, far = client
    made.data_received(b"QUIT\r\n")
    made.connection_lost(None)
    relay.loop.run(0.025)
    assert (far.written, far.closed, near.closed) == ([b"QUIT\r\n"], True, False)
    Server(made).connection_lost(None)
    relay.loop.run(0.050)
    assert near.closed


def test_the_server_stands_beside_its_host() -> None:
    assert upstream_address(251) == "127.89.1.2"


async def test_a_server_that_is_not_there_is_a_closed_connection() -> None:
    class Loop(Clock):
        async def create_connection(self, *_: object) -> None:
            raise ConnectionRefusedError

    relay, near = FakeRelay(), Wire()
    relay.loop = Loop()
    relay.upstream_port = 1  # type: ignore[attr-defined]
    client = Client(relay, "127.89.0.1")  # type: ignore[arg-type]
    client._transport = near  # type: ignore[assignment]
    await client._connect()
    assert near.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}
