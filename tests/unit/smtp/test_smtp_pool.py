"""The pool on a network and in a time of our own: limits hold at every moment, and nothing is ever lost."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.vocabulary import Stage
from streams.smtp._async.connection import AsyncSMTPConnection
from streams.smtp.errors import (
    ConnectFailed,
    DialAttempt,
    DialFailed,
    DialFailure,
    LocalProtocolError,
    PoolClosed,
    PoolTimeout,
    SMTPError,
)
from streams.smtp.exchange import Capabilities
from streams.smtp.lifecycle import Life, Recorder
from streams.smtp.policy import Learned, ProviderPolicy, StartTLS
from streams.smtp.session import Ended
from tests.unit.smtp.fakes import HOSTS, IDENTITY, FakeLink, FakeNet, Plain, half, half_missing, pool_on, run

COUNTED = {Life.DIALLING, Life.GREETING, Life.READY, Life.BUSY, Life.IDLE}


class Watch:
    """Follows every event, and complains when a limit is passed."""

    def __init__(self, sessions: int, total: int) -> None:
        self.sessions, self.total = sessions, total
        self.counted: Counter[str] = Counter()
        """Connections that have a place of their provider's."""
        self.open: Counter[str] = Counter()
        """Sockets: of those that part, too."""
        self.complaints: list[str] = []

    def __call__(self, event) -> None:
        provider = event.provider
        self.counted[provider] += (event.after in COUNTED) - (event.before in COUNTED)
        self.open[provider] += (event.before is None) - (event.after is Life.CLOSED)
        if (
            self.counted[provider] > self.sessions
            or self.open[provider] > self.sessions + max(1, self.sessions // 2)
            or self.open.total() > self.total
        ):
            self.complaints.append(f"{event}: {self.counted} of {self.open}")


CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.floats(0, 2),
            "provider": st.sampled_from("pqr"),
            "hosts": st.lists(st.sampled_from(HOSTS), min_size=1, max_size=3, unique=True),
            "timeout": st.floats(0.01, 3),
            "hold": st.floats(0, 1),
            "asks": st.integers(0, 2),
            "parting": st.booleans(),
            "leaving": st.booleans(),
            "cancel": st.none() | st.floats(0, 2),
        }
    ),
    min_size=1,
    max_size=12,
)
REPLIES = st.lists(
    st.sampled_from([b"250 ok\r\n", b"550 no\r\n", b"421 bye\r\n", b"", None, b"what\r\n", b"250 a\r\n250 b\r\n"]),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(
    calls=CALLS,
    replies=REPLIES,
    down=st.sets(st.sampled_from(HOSTS), max_size=2),
    hangs=st.sets(st.sampled_from(HOSTS), max_size=1),
    sessions=st.integers(1, 3),
    total=st.integers(1, 4),
    close_at=st.none() | st.floats(0, 3),
)
def test_whatever_happens_nothing_leaks(calls, replies, down, hangs, sessions, total, close_at):  # noqa: PLR0917
    """Callers that are cancelled, late or unlucky at any point: limits hold, and the counts return to zero."""

    async def main() -> None:
        said = iter(range(10**6))
        net = FakeNet(lambda command: replies[next(said) % len(replies)], down=down, hangs=hangs)
        watch = Watch(sessions, total)
        pool = pool_on(
            net,
            total=total,
            on_event=watch,
            sessions=sessions,
            connect_timeout_s=0.5,
            command_timeout_s=0.4,
            stall_s=0.2,
            idle_expiry_s=0.3,
            max_uses=3,
        )

        async def call(at, provider, hosts, timeout, hold, asks, parting, leaving, cancel) -> None:  # noqa: PLR0917
            await asyncio.sleep(at)
            try:
                async with pool.lease(provider, hosts, timeout=timeout) as connection:
                    assert connection.state is Life.BUSY
                    assert connection.host in hosts
                    for number in range(asks):
                        answers = await connection.ask(
                            [f"u{number}@x.test", "v@x.test"],
                            parting=parting and (number > 0 or not leaving),
                            leaving=leaving,
                        )
                        assert len(answers.replies) == 2
                    await asyncio.sleep(hold)
            except SMTPError:
                pass

        async def cancelled(task: "asyncio.Task[None]", after: float) -> None:
            await asyncio.sleep(after)
            task.cancel()

        tasks = [asyncio.create_task(call(**each)) for each in calls]
        others = [
            asyncio.create_task(cancelled(task, each["at"] + each["cancel"]))
            for task, each in zip(tasks, calls, strict=True)
            if each["cancel"] is not None
        ]
        if close_at is not None:
            await asyncio.sleep(close_at)
            await pool.close()
        for outcome in await asyncio.gather(*tasks, *others, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        view = pool.snapshot()
        assert set(view.states) <= {Life.IDLE}
        assert view.waiters == 0
        await asyncio.sleep(1)
        assert pool.snapshot().open == 0, "idle sessions expire by themselves"
        assert all(link.closed for link in net.links)
        assert (pool._ledger.open, pool._ledger.accounts, pool._ledger.closing) == (0, {}, [])
        assert watch.complaints == []
        assert not +watch.open
        await pool.close()

    run(main())


def test_whoever_parts_gives_its_place_away_before_it_is_answered():
    async def main() -> None:
        events = []
        net = FakeNet(half_missing)
        pool = pool_on(net, on_event=events.append, sessions=1)

        async def next_one() -> float:
            async with pool.lease("p", HOSTS, timeout=5):
                return asyncio.get_running_loop().time()

        async with pool.lease("p", HOSTS, timeout=5) as connection:
            await connection.ask(half(10))
            assert connection.last_room == 4
            other = asyncio.create_task(next_one())
            began = asyncio.get_running_loop().time()
            answers = await connection.ask(half(4), parting=True)
            assert [reply and reply.code for reply in answers.replies] == [250, 550, 250, 550]
            assert answers.ended is None
            assert connection.room == 0
            assert pool.snapshot().states == {Life.DRAINING: 1, Life.DIALLING: 1}
        assert await other == pytest.approx(began + 2 * net.delay), "it was dialled while the last replies were due"
        assert net.links[0].written[-1].endswith(b"QUIT\r\n")
        assert (net.links[0].closed, net.links[0].farewell) == (True, b"")
        assert [event.after for event in events if event.cause == "last recipients"] == [Life.DRAINING, Life.CLOSED]
        assert pool.snapshot().counters["parted"] == 1
        await pool.close()
        assert pool._ledger.open == 0

    run(main())


def far_away() -> FakeNet:
    """Its banner is two round trips from SYN, as a real one's. With a sooner one a round trip passes for shorter than
    it is, and the replies are there before anybody leaves."""
    net = FakeNet(half_missing)
    net.before = lambda _: asyncio.sleep(net.delay)
    return net


def test_whoever_leaves_gives_its_place_away_half_a_round_trip_before_it_is_answered():
    async def main() -> None:
        net, told = far_away(), []
        pool = pool_on(net, sessions=1)
        now = asyncio.get_running_loop().time

        async def next_one() -> float:
            async with pool.lease("p", HOSTS, timeout=5):
                return now()

        async with pool.lease("p", HOSTS, timeout=5) as connection:
            await connection.ask(half(2))
            other = asyncio.create_task(next_one())
            began = now()
            await connection.ask(half(8), leaving=True, on_parted=lambda: told.append(now()))
            assert told == [pytest.approx(began + net.delay / 2)]
            assert (connection.leaving, connection.state, connection.room) == (True, Life.DRAINING, 4)
            answers = await connection.ask(half(6), parting=True, on_parted=lambda: told.append(now()))
            assert [reply and reply.code for reply in answers.replies] == [250, 550, 250, 550, None, None]
            assert (answers.ended, connection.room, connection.leaving) == (None, 0, False)
        assert await other == pytest.approx(began + net.delay / 2 + 3 * net.delay)
        assert len(told) == 1
        assert net.links[0].written[-1].endswith(b"QUIT\r\n")
        assert (net.links[0].closed, net.links[0].farewell) == (True, b"")
        assert pool.snapshot().counters["parted"] == 1
        await pool.close()
        assert pool._ledger.open == 0

    run(main())


@pytest.mark.parametrize(
    "lesson",
    [
        lambda account: setattr(account.learned, "stepwise_until", float("inf")),
        lambda account: setattr(account.learned, "listen_until", float("inf")),
        lambda account: setattr(account.learned, "parts_badly", True),
        lambda account: account.pace.recipients.complained(account.pace.latency.whole + 1000),
    ],
    ids=["one at a time", "a reply too many", "replies are lost by QUIT", "too fast"],
)
def test_whoever_left_asks_nobody_any_more_where_others_learn_that_it_would_last(lesson):
    """Its place is taken: at the server it is one too many for as long as it waits."""

    async def main() -> None:
        net = far_away()
        pool = pool_on(net, sessions=1)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            await connection.ask(half(2))
            await connection.ask(half(8), leaving=True)
            assert (connection.leaving, connection.room) == (True, 4)
            lesson(pool._ledger.accounts["p", ""])
            assert connection.room == 0
        await pool.close()

    run(main())


def test_whoever_left_and_has_nobody_to_ask_says_quit():
    async def main() -> None:
        net = far_away()
        pool = pool_on(net, sessions=1)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            await connection.ask(half(2))
            await connection.ask(half(8), leaving=True)
        assert (net.links[0].closed, net.links[0].farewell) == (True, b"QUIT\r\n")
        counters = pool.snapshot().counters
        assert (pool.snapshot().open, counters["parted"], counters["drained"]) == (0, 1, 1)
        assert pool._ledger.accounts == {}
        await pool.close()

    run(main())


@pytest.mark.parametrize(
    ("known", "faster", "fields"),
    [(0, 1, {}), (2, 4, {}), (2, 1, {"recipients_per_s": 1e6})],
    ids=["nothing is known of its time", "it answers sooner than it did", "the last write may have to wait"],
)
def test_when_nobody_leaves(known, faster, fields):
    async def main() -> None:
        net, told = far_away(), []
        pool = pool_on(net, sessions=1, **fields)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            if known:
                await connection.ask(half(known))
                net.links[0].delay /= faster
            await connection.ask(half(8), leaving=True, on_parted=lambda: told.append(connection))
            assert (told, connection.leaving, connection.state) == ([], False, Life.BUSY)
        await pool.close()

    run(main())


def test_where_half_of_the_sessions_part_nobody_leaves():
    async def main() -> None:
        told = []
        pool = pool_on(far_away(), sessions=1)
        async with pool.lease("p", HOSTS, timeout=5) as first:
            await first.ask(half(2), parting=True)
            async with pool.lease("p", HOSTS, timeout=5) as second:
                answers = await second.ask(half(8), leaving=True, on_parted=lambda: told.append(second))
                assert None not in answers.replies
                assert (told, second.leaving, second.state) == ([], False, Life.BUSY)
        await pool.close()

    run(main())


def test_where_half_of_the_sessions_part_the_next_stays():
    async def main() -> None:
        pool = pool_on(FakeNet(half_missing), sessions=1)
        async with pool.lease("p", HOSTS, timeout=5) as first:
            task = asyncio.create_task(first.ask(half(2), parting=True))
            await asyncio.sleep(0)
            async with pool.lease("p", HOSTS, timeout=5) as second:
                await task
                assert (await second.ask(half(2), parting=True)).ended is None
                assert second.room, "the first has its replies, but its caller has not let go of it"
                assert second.state is Life.BUSY
        await pool.close()

    run(main())


def test_a_server_that_loses_replies_when_quit_came_is_not_left_in_this_way_again():
    async def main() -> None:
        net = FakeNet(lambda command: None if command.startswith("RCPT TO:<last") else half_missing(command))
        pool = pool_on(net, sessions=1)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            await connection.ask(half(10))
            assert connection.last_room == 4
            answers = await connection.ask(["last@x.test"], parting=True)
            assert (answers.replies, answers.ended) == ((None,), Ended.CLOSED)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            await connection.ask(half(10))
            assert connection.last_room == 0
        await pool.close()

    run(main())


def test_a_server_that_insists_on_tls_when_a_session_parts_is_asked_again_with_it():
    async def main() -> None:
        net = FakeNet(lambda command: b"530 5.7.0 STARTTLS first\r\n")
        pool = pool_on(net)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            net.links[0].capabilities = Capabilities(pipelining=True, starttls=True)
            answers = await connection.ask(["a@x.test", "b@x.test"], parting=True)
            assert (answers.mail, answers.replies, answers.ended) == (None, (None, None), None)
            assert connection.room == 0
            assert connection.key in connection._learned.wants_tls
        await pool.close()

    run(main())


def test_what_breaks_a_session_that_parts_is_counted():
    async def main() -> None:
        pool = pool_on(FakeNet(lambda command: None))
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            await connection.ask(half(2), parting=True)
        counters = pool.snapshot().counters
        assert (counters["parted"], counters["broken"]) == (1, 1)
        await pool.close()

    run(main())


def test_whoever_parts_is_told_when_its_place_is_free_and_only_then():
    async def main() -> None:
        told = []
        pool = pool_on(FakeNet(half_missing), sessions=1)
        async with pool.lease("p", HOSTS, timeout=5) as first:
            await first.ask(half(2), parting=True, on_parted=lambda: told.append(first))
            async with pool.lease("p", HOSTS, timeout=5) as second:
                await second.ask(half(2), on_parted=lambda: told.append(second))
                await second.ask(half(2), parting=True, on_parted=lambda: told.append(second))
            assert told == [first], "half of them part already"
        await pool.close()

    run(main())


def test_without_pipelining_nobody_parts():
    async def main() -> None:
        net = FakeNet(half_missing, link=Plain)
        pool = pool_on(net)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            await connection.ask(half(10), parting=True)
            assert connection.state is Life.BUSY
            assert connection.room
            assert (connection.last_room, connection.last_room_after(5)) == (0, 0)
            await connection.ask(half(2), leaving=True)
            assert connection.state is Life.BUSY
        assert not any(b"QUIT" in data for data in net.links[0].written)
        await pool.close()

    run(main())


def test_an_ask_costs_one_write_and_a_lease_one_dial():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net)
        for _ in range(3):
            async with pool.lease("p", HOSTS, timeout=5) as connection:
                await connection.ask(["a@x.test", "b@x.test"])
        assert net.dialled == [HOSTS[0]]
        assert len(net.links[0].written) == 3
        await pool.close()
        assert net.links[0].farewell == b"QUIT\r\n"

    run(main())


def test_callers_are_served_in_the_order_they_came():
    async def main() -> None:
        pool = pool_on(FakeNet(), sessions=1)
        order: list[int] = []

        async def call(number: int) -> None:
            async with pool.lease("p", HOSTS, timeout=60):
                order.append(number)
                await asyncio.sleep(0.1)

        await asyncio.gather(*(call(number) for number in range(10)))
        assert order == list(range(10))
        await pool.close()

    run(main())


def test_a_dial_that_is_cancelled_gives_its_place_to_the_next():
    async def main() -> None:
        net = FakeNet(hangs={HOSTS[0]})
        pool = pool_on(net, sessions=1)

        async def call(hosts) -> None:
            async with pool.lease("p", hosts, timeout=60):
                pass

        stuck = asyncio.create_task(call(HOSTS[:1]))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(call(HOSTS[1:]))
        await asyncio.sleep(0.01)
        stuck.cancel()
        await waiting
        assert net.dialled == HOSTS[:2]
        await pool.close()

    run(main())


def test_a_grant_that_comes_with_the_cancellation_is_passed_on():
    async def main() -> None:
        pool = pool_on(FakeNet(), sessions=1)

        async def call() -> str:
            async with pool.lease("p", HOSTS, timeout=60):
                return "served"

        async with pool.lease("p", HOSTS, timeout=5):
            first, second = asyncio.create_task(call()), asyncio.create_task(call())
            await asyncio.sleep(0)
        first.cancel()  # it was granted the session a moment ago
        assert await second == "served"
        await pool.close()

    run(main())


def test_a_grant_that_comes_with_the_deadline_is_used():
    async def main() -> None:
        pool = pool_on(FakeNet(delay=0), sessions=1)

        async def call() -> str:
            async with pool.lease("p", HOSTS, timeout=1.0):
                return "served"

        lease = pool.lease("p", HOSTS, timeout=5)
        await lease.__aenter__()
        waiting = asyncio.create_task(call())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(
            waiting.get_loop().time() + 1.0, pool._release, next(iter(pool._connections))
        )
        assert await waiting == "served"

    run(main())


def test_one_timer_for_all_idle_sessions():
    async def main() -> None:
        net = FakeNet(delay=0)
        pool = pool_on(net, idle_expiry_s=10)
        start = asyncio.get_running_loop().time()
        closed: list[float] = []
        for number in range(3):
            async with pool.lease(f"p{number}", HOSTS, timeout=5):
                pass
            await asyncio.sleep(1)
        while pool.snapshot().open:
            await asyncio.sleep(0.05)
            closed += [asyncio.get_running_loop().time() - start] * (3 - len(closed) - pool.snapshot().open)
        assert closed == pytest.approx([10, 11, 12], abs=0.2)

    run(main())


def test_max_age():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net, max_age_s=5, idle_expiry_s=60)
        for _ in range(2):
            async with pool.lease("p", HOSTS, timeout=5):
                pass
            await asyncio.sleep(6)
        assert len(net.links) == 2
        assert net.links[0].farewell == b"QUIT\r\n"
        await pool.close()

    run(main())


def test_a_session_that_ends_while_leased_is_seen_to_when_it_comes_back():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            net.links[0].send(b"421 bye\r\n")
            await asyncio.sleep(0.1)
            assert pool.snapshot().open == 1
            assert connection.room == 0
            answers = await connection.ask(["a@x.test"])
            assert (answers.ended, answers.replies) == (Ended.CLOSED, (None,))
        assert pool.snapshot().open == 0
        assert pool.snapshot().counters["broken"] == 1

    run(main())


def test_an_idle_session_that_ends_leaves_at_once():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net)
        async with pool.lease("p", HOSTS, timeout=5):
            pass
        net.links[0].send(b"")
        await asyncio.sleep(0.1)
        assert pool.snapshot().open == 0

    run(main())


def test_one_ask_at_a_time():
    async def main() -> None:
        pool = pool_on(FakeNet())
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            first = asyncio.create_task(connection.ask(["a@x.test"]))
            await asyncio.sleep(0.01)
            with pytest.raises(LocalProtocolError, match="under way"):
                await connection.ask(["b@x.test"])
            assert (await first).replies[0].code == 250

    run(main())


def test_a_cancelled_ask_ends_its_session():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net)
        with pytest.raises(TimeoutError):
            async with pool.lease("p", HOSTS, timeout=5) as connection, asyncio.timeout(0.01):
                await connection.ask(["a@x.test"])
        assert pool.snapshot().open == 0
        assert net.links[0].farewell == b""

    run(main())


def test_replies_to_a_cancelled_ask_are_nobodys():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await connection.ask(["a@x.test"])
            await asyncio.sleep(1)  # they come now
            with pytest.raises(LocalProtocolError, match="under way"):
                await connection.ask(["b@x.test"])
        assert pool.snapshot().open == 0

    run(main())


def test_an_open_provider_breaker_fails_fast_and_heals():
    async def main() -> None:
        net = FakeNet(down=set(HOSTS))
        pool = pool_on(net, breaker_failures=1, breaker_base_s=10)
        for _ in range(5):
            with pytest.raises(ConnectFailed) as failed:
                async with pool.lease("p", HOSTS, timeout=5):
                    pass
            assert len(failed.value.attempts) == 3
        assert len(net.dialled) == 2, "two hosts of this provider failed: the third is not tried"
        assert pool.snapshot().providers["p"].breaker == "open", "though nobody has business with it"
        net.down.clear()
        await asyncio.sleep(11)
        async with pool.lease("p", HOSTS, timeout=5):
            assert pool.snapshot().providers["p"].breaker == "closed"
        await pool.close()

    run(main())


def test_a_timer_that_rings_a_moment_early_is_the_deadline_all_the_same():
    async def main():
        net = FakeNet()

        async def ring(host):
            await asyncio.sleep(0.999)
            raise DialFailed(DialAttempt(host, Stage.CONNECT, failure=DialFailure.TIMEOUT))

        net.before = ring
        pool = pool_on(net, breaker_failures=1)
        with pytest.raises(ConnectFailed) as failed:
            async with pool.lease("p", HOSTS, timeout=1.0):
                pass
        assert len(failed.value.attempts) == 1
        net.before = None
        async with pool.lease("p", HOSTS, timeout=1.0) as connection:
            assert connection.host == HOSTS[0], "it was not blamed"

    run(main())


def test_a_caller_in_a_hurry_proves_nothing_of_the_host():
    async def main() -> None:
        net = FakeNet(hangs=set(HOSTS))
        pool = pool_on(net, breaker_failures=1)
        for _ in range(3):
            with pytest.raises(ConnectFailed):
                async with pool.lease("p", HOSTS, timeout=0.5):
                    pass
        assert len(net.dialled) == 3

    run(main())


def test_a_cancelled_trial_leaves_the_breaker_as_it_was():
    async def main() -> None:
        net = FakeNet(down={HOSTS[0]})
        pool = pool_on(net, breaker_failures=1, breaker_base_s=1)

        async def call() -> None:
            async with pool.lease("p", HOSTS[:1], timeout=5):
                pass

        with pytest.raises(ConnectFailed):
            await call()
        await asyncio.sleep(1)
        trial = asyncio.create_task(call())
        await asyncio.sleep(0.01)
        trial.cancel()
        await asyncio.gather(trial, return_exceptions=True)
        net.down.clear()
        await call()
        await pool.close()

    run(main())


def test_a_mistake_of_ours_in_a_dial_leaks_nothing():
    async def main() -> None:
        async def broken(host) -> None:
            raise RuntimeError("a bug")

        pool = pool_on(FakeNet(before=broken))
        with pytest.raises(RuntimeError):
            async with pool.lease("p", HOSTS, timeout=5):
                pass
        assert pool.snapshot().open == 0
        assert pool._ledger.open == 0

    run(main())


def test_insisted_tls_that_fails_ends_the_session():
    async def main() -> None:
        net = FakeNet(lambda command: b"530 5.7.0 STARTTLS first\r\n")
        pool = pool_on(net)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            net.links[0].capabilities = Capabilities(pipelining=True, starttls=True)
            net.links[0].tls_works = False
            answers = await connection.ask(["a@x.test"])
            assert (answers.mail, answers.ended) == (None, Ended.PROTOCOL)

    run(main())


def test_530_without_starttls_is_just_a_refusal():
    async def main() -> None:
        pool = pool_on(FakeNet(lambda command: b"530 5.7.0 log in first\r\n"), starttls=StartTLS.OFFERED)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            answers = await connection.ask(["a@x.test"])
            assert (answers.mail.code, answers.ended) == (530, None)

    run(main())


def test_a_closed_pool_gives_nothing():
    async def main() -> None:
        pool = pool_on(FakeNet())
        async with pool:
            pass
        with pytest.raises(PoolClosed):
            async with pool.lease("p", HOSTS, timeout=5):
                pass

    run(main())


def test_closing_during_a_dial():
    async def main() -> None:
        pool = pool_on(FakeNet(delay=1))

        async def call() -> None:
            async with pool.lease("p", HOSTS, timeout=5):
                pass

        dialling = asyncio.create_task(call())
        await asyncio.sleep(0.5)
        await pool.close()
        with pytest.raises(PoolClosed, match="dialled"):
            await dialling
        assert pool.snapshot().open == 0

    run(main())


def test_a_waiter_that_comes_while_another_thread_closes_is_sent_away():
    async def main() -> None:
        pool = pool_on(FakeNet(), sessions=1)
        async with pool.lease("p", HOSTS, timeout=5):

            class Closing(Counter[str]):
                """Counting the wait comes between the claim and the wait itself."""

                def __setitem__(self, counter: str, count: int) -> None:
                    pool._closed = True
                    super().__setitem__(counter, count)

            pool._recorder.counters = Closing()
            with pytest.raises(PoolClosed):
                async with pool.lease("p", HOSTS, timeout=5):
                    pass

    run(main())


def test_no_session_free_in_time():
    async def main() -> None:
        pool = pool_on(FakeNet(), sessions=1)
        async with pool.lease("p", HOSTS, timeout=5):
            with pytest.raises(PoolTimeout):
                async with pool.lease("p", HOSTS, timeout=1):
                    pass
        await pool.close()

    run(main())


def test_a_connection_that_was_never_dialled_answers_nothing():
    connection = AsyncSMTPConnection(
        "p", policy=ProviderPolicy(), learned=Learned(), identity=IDENTITY, recorder=Recorder(lambda: 0.0)
    )
    assert "nowhere yet" in repr(connection)
    with pytest.raises(LocalProtocolError, match="never dialled"):
        _ = connection.capabilities


def test_the_fake_server_is_like_a_real_one():
    async def main() -> None:
        link = FakeLink(lambda command: None if "bye" in command else b"" if "hush" in command else b"250 ok\r\n")
        link.write(b"RCPT 1\r\nRCPT 2\r\n")
        assert await link.read(1) == b"250 ok\r\n250 ok\r\n"
        link.write(b"RCPT hush\r\n")
        with pytest.raises(TimeoutError):
            await link.read(1)
        link.write(b"RCPT 1\r\nRCPT bye\r\n")
        assert [await link.read(1), await link.read(1)] == [b"250 ok\r\n", b""]
        link.close()
        assert link.unread() == b""

    run(main())


def test_a_session_that_broke_is_not_even_asked_whether_it_lives():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net)
        async with pool.lease("p", HOSTS, timeout=5) as connection:
            net.links[0].closed = True
            assert not await connection.lives(5.0)
            assert net.links[0].written == []
        await pool.close()
        pool._tick()
        assert pool._alarm.due is None

    run(main())


def test_no_more_is_kept_warm_than_is_allowed():
    """Else one that rests would make room for the next, again and again, where we were told that we are too many."""

    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net, warm=4, noop_after_s=0, max_age_s=60.0)
        async with pool.lease("p", HOSTS, timeout=5):
            pool._ledger.account(("p", "")).pace.sessions.complained(0.0)
        await asyncio.sleep(30)
        assert (len(net.dialled), pool.snapshot().open) == (2, 2)
        await pool.close()

    run(main())


def test_dials_that_nobody_waited_for_keep_nobody_waiting():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net, connections_per_s=0.1, sessions=4, max_uses=1)

        async def call() -> None:
            async with pool.lease("p", HOSTS, timeout=15):
                pass

        await call()
        for _ in range(3):
            results = await asyncio.gather(*(call() for _ in range(4)), return_exceptions=True)
            assert results.count(None) in (1, 2), "one in ten seconds, however many give up"
        await pool.close()

    run(main())
