"""The delay line under a clock of the test's own."""

import math
from collections.abc import Callable
from unittest.mock import Mock

from ops.world.wire import Wire


class Loop:
    """As much of an event loop as the wire needs; ``pass_to`` fires what is due."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Mock:
        entry = (when, call)
        self.timers.append(entry)
        return Mock(cancel=lambda: self.timers.remove(entry))

    def pass_to(self, now: float) -> None:
        while due := sorted(entry for entry in self.timers if entry[0] <= now):
            self.timers.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = now


class Transport:
    """Keeps what was written, and when."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.seen: list[tuple[float, bytes | None]] = []

    def write(self, data: bytes) -> None:
        self.seen.append((self.loop.now, data))

    def close(self) -> None:
        self.seen.append((self.loop.now, None))

    def is_closing(self) -> bool:
        return (self.loop.now, None) in self.seen


def wire(rtt_s: float = 0.0, **options: bool) -> tuple[Wire, Loop, Transport]:
    loop = Loop()
    transport = Transport(loop)
    return Wire(transport, loop, rtt_s, **options), loop, transport  # type: ignore[arg-type]


def test_without_delay_everything_is_written_at_once() -> None:
    line, loop, transport = wire()
    line.send(b"a")
    line.send(b"")
    line.close()
    assert transport.seen == [(100.0, b"a"), (100.0, None)]
    assert loop.timers == []


def test_a_round_trip_is_shared_and_pauses_add_up() -> None:
    line, loop, transport = wire(0.5)
    line.send(b"a")
    line.send(b"b")
    line.send(b"c", 2.0)
    line.send(b"d", 1.0)
    line.close()
    assert line.outstanding
    loop.pass_to(200.0)
    assert transport.seen == [(100.5, b"a"), (100.5, b"b"), (102.5, b"c"), (103.5, b"d"), (103.5, None)]
    assert not line.outstanding


def test_nothing_overtakes_a_reply_whose_timer_is_late() -> None:
    line, loop, transport = wire()
    line.send(b"a", 1.0)
    loop.now = 105.0
    line.send(b"b")
    loop.pass_to(106.0)
    assert [data for _, data in transport.seen] == [b"a", b"b"]


def test_never_is_never_and_holds_back_what_follows() -> None:
    line, loop, transport = wire()
    line.send(b"a", math.inf)
    line.send(b"b")
    loop.pass_to(1e9)
    assert transport.seen == []


def test_pieces_leave_one_by_one() -> None:
    line, loop, transport = wire(one_byte_pieces=True)
    line.send(b"abc", 1.0)
    line.close()
    loop.pass_to(200.0)
    assert [data for _, data in transport.seen] == [b"a", b"b", b"c", None]
    assert len({when for when, data in transport.seen if data}) == 3


def test_what_waits_is_forgotten_with_the_connection() -> None:
    line, loop, transport = wire(1.0)
    line.send(b"a")
    line.drop()
    loop.pass_to(200.0)
    assert (transport.seen, line.outstanding, loop.timers) == ([], False, [])


def test_nothing_is_written_behind_the_end() -> None:
    line, _, transport = wire()
    line.close()
    line.send(b"late")
    assert transport.seen == [(100.0, None)]
