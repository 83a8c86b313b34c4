"""The synchronous twin without sockets: what threads and interrupts may do to it."""

import subprocess
import sys
import threading

import pytest

from ops.unasync import FILES, SMTP, main, unasync
from schemas.vocabulary import Stage
from streams.smtp._sync.connection import SMTPConnection
from streams.smtp._sync.pool import SMTPPool
from streams.smtp._sync.waiting import Alarm, Turn
from streams.smtp.errors import DialAttempt, DialFailed, DialFailure, LocalProtocolError
from streams.smtp.exchange import Capabilities
from streams.smtp.hosts import Host
from streams.smtp.lifecycle import Recorder
from streams.smtp.policy import Learned, PolicyBook, ProviderPolicy
from streams.smtp.session import Ended
from streams.smtp.ways import Way
from tests.unit.smtp.fakes import HOSTS, IDENTITY


class FakeLink:
    """Says yes to everything, at once; ``ended`` and it is gone."""

    capabilities = Capabilities(pipelining=True)

    def __init__(self) -> None:
        self.inbox: list[bytes] = []
        self.on_activity = lambda: None
        self.ended = False
        self.asking = threading.Event()
        self.hush: BaseException | None = None

    def watch(self, on_activity) -> None:
        self.on_activity = on_activity

    def write(self, data: bytes) -> None:
        self.inbox.append(b"250 ok\r\n" * data.count(b"\r\n"))

    def read(self, timeout: float) -> bytes:
        if self.hush:
            raise self.hush
        return self.inbox.pop()

    def unread(self) -> bytes | None:
        return b"" if self.ended else None

    def start_tls(self, timeout: float) -> None:
        raise DialFailed(DialAttempt(HOSTS[0], Stage.STARTTLS, failure=DialFailure.TLS))

    def cut(self) -> None:
        self.ended = True

    def close(self, farewell: bytes = b"") -> None:
        self.ended = True


class Net:
    """Dials at once, or raises."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.error: BaseException | None = None

    def __call__(self, host, way, *, starttls, step_timeout_s, timeout_s, on_greeting) -> FakeLink:
        if self.error:
            raise self.error
        on_greeting()
        self.links.append(FakeLink())
        return self.links[-1]


def pool_on(net: Net, **fields) -> SMTPPool:
    return SMTPPool(identity=IDENTITY, policies=PolicyBook(ProviderPolicy(**fields)), dial=net, clock=lambda: 7.0)


def test_it_is_a_context_manager():
    net = Net()
    with pool_on(net) as pool, pool.lease("p", HOSTS, timeout=1) as connection:
        assert connection.ask(["a@x.test"]).replies[0].code == 250
    assert net.links[0].ended
    assert pool.snapshot().open == 0


def test_a_link_that_can_tell_of_its_end_leaves_at_once():
    net = Net()
    with pool_on(net) as pool:
        with pool.lease("p", HOSTS, timeout=1):
            net.links[0].on_activity()
        net.links[0].ended = True
        net.links[0].on_activity()
        assert pool.snapshot().open == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_interrupt_in_a_dial_leaks_nothing(error):
    net = Net()
    net.error = error
    with pool_on(net) as pool:
        with pytest.raises(type(error)), pool.lease("p", HOSTS, timeout=1):
            pass
        assert (pool.snapshot().open, pool._ledger.open) == (0, 0)


def test_an_interrupt_in_an_ask_ends_its_session():
    net = Net()
    with pool_on(net) as pool:
        with pool.lease("p", HOSTS, timeout=1) as connection:
            net.links[0].hush = KeyboardInterrupt()
            with pytest.raises(KeyboardInterrupt):
                connection.ask(["a@x.test"])
        assert pool.snapshot().open == 0


def test_half_a_reply_is_waited_for():
    net = Net()
    with pool_on(net) as pool, pool.lease("p", HOSTS, timeout=1) as connection:
        net.links[0].write = lambda data: net.links[0].inbox.extend([b"0 two\r\n", b"5", b"250 one\r\n5"])
        assert [reply.code for reply in connection.ask(["a@x.test"]).replies] == [550]


def test_a_session_that_ends_while_its_turn_comes_asks_nothing(monkeypatch):
    net = Net()
    with pool_on(net, recipients_per_s=1.0) as pool, pool.lease("p", HOSTS, timeout=60) as connection:
        assert connection.ask(["a@x.test", "b@x.test"]).replies[0].code == 250
        net.links[0].inbox.clear()
        monkeypatch.setattr(Turn, "wait", lambda self, timeout: net.links[0].cut())
        answers = connection.ask(["c@x.test"])
        assert (answers.replies, answers.ended) == ((None,), Ended.CLOSED)
        assert not net.links[0].inbox


def test_an_interrupt_in_the_wait_leaves_the_line(monkeypatch):
    def interrupted(self, timeout):
        raise KeyboardInterrupt

    with pool_on(Net(), sessions=1) as pool, pool.lease("p", HOSTS, timeout=1):
        monkeypatch.setattr(Turn, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt), pool.lease("p", HOSTS, timeout=1):
            pass
        assert pool.snapshot().waiters == 0


def test_a_waiter_that_comes_while_another_thread_closes_is_sent_away():
    pool = pool_on(Net(), sessions=1)
    with pool.lease("p", HOSTS, timeout=1):

        class Closing(dict):
            """Counting the wait comes between the claim and the wait itself."""

            def __setitem__(self, counter, count) -> None:
                pool._closed = True
                super().__setitem__(counter, count)

        pool._recorder.counters = Closing(pool._recorder.counters)
        with pytest.raises(ConnectionError, match="closed while"), pool.lease("p", HOSTS, timeout=30):
            pass


def test_one_ask_at_a_time_and_none_before_the_dial():
    net = Net()
    with pool_on(net) as pool, pool.lease("p", HOSTS, timeout=1) as connection:
        net.links[0].hush = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            connection.ask(["a@x.test"])
        with pytest.raises(LocalProtocolError, match="under way"):
            connection.ask(["a@x.test"])
    never = SMTPConnection(
        "p", policy=ProviderPolicy(), learned=Learned(), identity=IDENTITY, recorder=Recorder(lambda: 0.0)
    )
    assert never.session.ended is None
    with pytest.raises(LocalProtocolError, match="never dialled"):
        never.alive()
    never.abort()
    assert never.session.ended


def test_what_expires_later_is_swept_later():
    now = [0.0]
    net = Net()
    policies = PolicyBook(ProviderPolicy(noop_after_s=0))
    pool = SMTPPool(identity=IDENTITY, policies=policies, dial=net, clock=lambda: now[0])
    with pool:
        for provider in ("p", "q"):
            with pool.lease(provider, HOSTS, timeout=1):
                pass
            now[0] += 15.0
        pool._alarm.cancel()
        pool._tick()
        assert [view.provider for view in pool.snapshot().connections] == ["q"]
        assert pool._alarm.due == pytest.approx(35.0)


def test_an_identity_or_ways():
    with pytest.raises(ValueError, match="wants an identity, or ways"):
        SMTPPool()


def test_ways_of_threads():
    net = Net()
    down = DialAttempt(HOSTS[0], Stage.CONNECT, failure=DialFailure.CONNECT, local=True, way_failed=True)
    now = [0.0]
    ways = [Way("a", IDENTITY, ("192.0.2.101",)), Way("b", IDENTITY)]
    with SMTPPool(
        ways=ways, policies=PolicyBook(ProviderPolicy(breaker_failures=1)), dial=net, clock=lambda: now[0]
    ) as pool:
        net.error = DialFailed(down)
        with pytest.raises(ConnectionError), pool.lease("p", HOSTS, timeout=1, source="a"):
            pass
        net.error = None
        for second, way in ((0.0, "b"), (6.0, "a")):
            now[0] = second
            with pool.lease(f"at {second}", HOSTS, timeout=1, source="a") as connection:
                assert connection.way == way
        with pool.lease("p", [Host("mx6.test", "2001:db8::1")], timeout=1, source="a") as connection:
            assert connection.way == "b"


def test_an_alarm_that_rings_as_the_pool_closes_does_nothing():
    net = Net()
    pool = pool_on(net)
    with pool.lease("p", HOSTS, timeout=1):
        pass
    pool.close()
    pool._tick()
    assert pool._alarm.due is None


def test_an_alarm_that_is_set_anew_while_it_rings():
    rung = threading.Event()
    alarm = Alarm(rung.set)
    alarm.set(60.0, 60.0)
    alarm._ring()  # the one set before, which could not be stopped any more
    assert rung.is_set()
    assert alarm.due == 60.0
    alarm.cancel()
    alarm.cancel()
    assert alarm.due is None


def test_the_twin_is_up_to_date():
    assert main(check=True) == 0


def test_a_stale_twin_is_found_and_written(tmp_path, monkeypatch, capsys):
    for side in ("_async", "_sync"):
        (tmp_path / side).mkdir()
    for name in FILES:
        (tmp_path / "_async" / name).write_text("async def f() -> None:\n    await g()\n")
    monkeypatch.setattr("ops.unasync.SMTP", tmp_path)
    assert main(check=True) == 1
    assert "is stale" in capsys.readouterr().out
    assert main(check=False) == 0
    assert (tmp_path / "_sync" / FILES[0]).read_text().endswith("def f() -> None:\n    g()\n")
    assert main(check=True) == 0


def test_nothing_asynchronous_is_left():
    for name in FILES:
        text = unasync((SMTP / "_async" / name).read_text(), name)
        assert not [word for word in ("async ", "await ", "Async", "_async.") if word in text.partition("\n")[2]]


def test_it_runs_as_a_command():
    assert subprocess.run([sys.executable, "-m", "ops.unasync", "--check"], check=False).returncode == 0
