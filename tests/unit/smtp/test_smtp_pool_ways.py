"""Several ways out on a network and in a time of our own: left where the network fails, and for nothing else."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.vocabulary import Stage
from streams.smtp._async.pool import AsyncSMTPPool
from streams.smtp.breaker import BreakerState
from streams.smtp.errors import ConnectFailed, DialAttempt, DialFailure, PoolTimeout, SMTPError
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.lifecycle import Kind
from streams.smtp.replies import Reply
from streams.smtp.ways import Way, Ways
from tests.unit.smtp.fakes import HOSTS, IDENTITY, FakeNet, pool_on, run

A = Way("a", Identity("a.probe.test", "probe@a.test"), ("192.0.2.101",))
B = Way("b", Identity("b.probe.test", "probe@b.test"), ("192.0.2.102",))
C = Way("c", Identity("c.probe.test"))
WAYS = (A, B, C)
BLOCKED = Reply(550, ("5.7.1 your address is blocked",))
BUSY = Reply(421, ("too many",))


def on_ways(**what):
    """A network in which ``what`` happens to dials by a way: a :class:`DialAttempt` without its host."""

    def lost(way: str, host: Host) -> DialAttempt | None:
        fields = what.get(way)
        return DialAttempt(host, **fields) if fields else None

    return FakeNet(lost=lost)


NO_NETWORK = {"stage": Stage.CONNECT, "failure": DialFailure.CONNECT}
SILENCE = {"stage": Stage.CONNECT, "failure": DialFailure.TIMEOUT}
WAY_DOWN = {**NO_NETWORK, "local": True, "way_failed": True}


async def take(pool, provider="p", hosts=HOSTS[:1], timeout=5.0, source="a"):
    async with pool.lease(provider, hosts, timeout=timeout, source=source) as connection:
        return connection


def test_each_way_has_a_name_of_its_own_to_say():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net, ways=WAYS)
        for source in ("a", "b"):
            async with pool.lease("p", HOSTS, timeout=5, source=source) as connection:
                await connection.ask(["x@x.test"])
                assert (connection.way, connection.provider) == (source, "p")
        assert net.ways == ["a", "b"]
        assert [link.written[0].split(b"\r\n")[0] for link in net.links] == [
            b"MAIL FROM:<probe@a.test>",
            b"MAIL FROM:<probe@b.test>",
        ]
        view = pool.snapshot()
        assert {name: way.sessions for name, way in view.ways.items()} == {"a": 1, "b": 1, "c": 0}
        assert set(view.providers) == {"p via a", "p via b"}
        assert {each.way for each in view.connections} == {"a", "b"}
        await pool.close()

    run(main())


def test_without_a_word_the_home_is_taken():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net, ways=WAYS)
        home = Ways(WAYS, pool._ledger.book.default).home("p").name
        await take(pool, source=None)
        await take(pool, source="gone")
        assert net.ways == [home], "the second is the same session"
        assert (pool.way("p"), pool.way("p#3"), pool.way("p", "b")) == (home, home, "b")
        await pool.close()

    run(main())


@pytest.mark.parametrize("failure", [NO_NETWORK, SILENCE, WAY_DOWN])
def test_another_way_where_the_network_fails(failure):
    async def main() -> None:
        told = []
        net = on_ways(a=failure)
        pool = pool_on(net, ways=(A, B), on_notice=told.append)
        connection = await take(pool)
        assert connection.way == "b"
        assert net.ways == ["a", "b"]
        assert [(each.provider, each.outcome, each.way) for each in told if each.kind is Kind.WAY] == [
            ("p", "taken", "b")
        ]
        assert (pool._ledger.open, pool.snapshot().open) == (1, 1)
        await pool.close()

    run(main())


@pytest.mark.parametrize(
    "failure",
    [
        {"stage": Stage.BANNER, "reply": BLOCKED},
        {"stage": Stage.BANNER, "reply": BUSY},
        {"stage": Stage.EHLO, "reply": BLOCKED},
        {"stage": Stage.BANNER, "failure": DialFailure.CLOSED},
        {"stage": Stage.BANNER, "failure": DialFailure.TIMEOUT},
        {"stage": Stage.STARTTLS, "failure": DialFailure.TLS},
    ],
)
def test_no_other_way_for_anything_that_a_server_does(failure):
    async def main() -> None:
        net = on_ways(a=failure)
        pool = pool_on(net, ways=WAYS)
        with pytest.raises(ConnectFailed) as failed:
            await take(pool, hosts=HOSTS)
        assert set(net.ways) == {"a"}
        assert {attempt.way for attempt in failed.value.attempts} == {"a"}
        assert "via a" in str(failed.value)
        await pool.close()

    run(main())


@pytest.mark.parametrize("reply", [BLOCKED, BUSY])
def test_after_a_refusal_no_other_way_asks_even_when_the_network_fails(reply):
    async def main() -> None:
        script = {"a": {"stage": Stage.BANNER, "reply": reply}}
        net = FakeNet(lost=lambda way, host: DialAttempt(host, **script[way]) if way in script else None)
        pool = pool_on(net, ways=(A, B), block_base_s=300.0)
        with pytest.raises(ConnectFailed):
            await take(pool)
        script["a"] = NO_NETWORK
        for source in ("a", "b", None):
            with pytest.raises(ConnectFailed):
                await take(pool, source=source)
        assert set(net.ways) == {"a"}
        assert (await take(pool, "q")).way == "b", "it is no other provider's word"
        await asyncio.sleep(301)
        assert (await take(pool)).way == "b", "and not for ever"
        await pool.close()

    run(main())


def test_a_report_of_one_domain_keeps_the_others_away_too():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net, ways=(A, B))
        await take(pool)
        pool.report_block("p", "x.test", BLOCKED, source="a")
        assert (await take(pool, source="b")).way == "a"
        pool.report_service("p", source="a")
        assert (await take(pool, source="b")).way == "b"
        await pool.close()

    run(main())


def test_a_believed_block_is_for_the_way_that_heard_it_and_none_asks_meanwhile():
    async def main() -> None:
        told = []
        net = FakeNet()
        pool = pool_on(net, ways=(A, B), block_domains=2, block_base_s=100.0, on_notice=told.append)
        await take(pool)
        for domain in ("x.test", "y.test"):
            pool.report_block("p", domain, BLOCKED, source="a")
        assert pool.blocked("p")
        for source in ("a", "b"):
            with pytest.raises(ConnectFailed) as barred:
                await take(pool, source=source)
            [attempt] = barred.value.attempts
            assert (attempt.reply, attempt.way, attempt.old) == (BLOCKED, "a", True)
        assert {name: way.blocked for name, way in pool.snapshot().ways.items()} == {"a": 1, "b": 0}
        await asyncio.sleep(101)
        assert (await take(pool, source="b")).way == "a", "the one that was blocked tries whether it is over"
        pool.report_service("p", source="a")
        assert not pool.blocked("p")
        assert (await take(pool, source="b")).way == "b"
        assert [(each.outcome, each.way) for each in told if each.kind is Kind.BLOCK] == [
            ("believed", "a"),
            ("lifted", "a"),
        ]
        await pool.close()

    run(main())


def test_a_way_that_another_share_of_the_provider_may_not_use():
    async def main() -> None:
        net = on_ways(a=NO_NETWORK)
        pool = pool_on(net, ways=(A, B), block_domains=1)
        await take(pool, "p#1", source="b")
        pool.report_block("p#1", "x.test", BLOCKED, source="b")
        pool.report_service("p#0", source="b")  # the refusal is forgotten, but p#1's own belief is not
        with pytest.raises(ConnectFailed):
            await take(pool, "p#1")
        assert net.ways == ["b", "a"]
        await pool.close()

    run(main())


def test_a_way_that_is_down_is_left_alone_for_all_providers_until_it_is_back():
    async def main() -> None:
        told = []
        script = {"a": WAY_DOWN}
        net = FakeNet(lost=lambda way, host: DialAttempt(host, **script[way]) if way in script else None)
        pool = pool_on(net, ways=(A, B), breaker_failures=2, breaker_base_s=5.0, on_notice=told.append)
        for provider in "pq":
            assert (await take(pool, provider, HOSTS)).way == "b"
        assert net.ways == ["a", "b"] * 2, "one host is enough to see that the way is down"
        assert pool.snapshot().ways["a"].breaker is BreakerState.OPEN
        await take(pool, "r")
        assert net.ways[4:] == ["b"]
        assert pool.snapshot().providers["r via b"].breaker is BreakerState.CLOSED
        await asyncio.sleep(6)
        del script["a"]
        assert (await take(pool, "s")).way == "a"
        outcomes = [(each.outcome, each.way) for each in told if each.kind is Kind.WAY and each.outcome != "taken"]
        assert outcomes == [("down", "a"), ("up", "a")]
        await pool.close()

    run(main())


def test_a_host_whose_turn_comes_while_the_way_is_down_keeps_its_turn():
    async def main() -> None:
        script = {"a": NO_NETWORK}
        net = FakeNet(lost=lambda way, host: DialAttempt(host, **script[way]) if way in script else None)
        pool = pool_on(net, ways=(A, B), breaker_failures=1, breaker_base_s=5.0, idle_expiry_s=0.1, noop_after_s=0)
        await take(pool, "p")
        await asyncio.sleep(3)
        script["a"] = WAY_DOWN
        await take(pool, "q")
        await asyncio.sleep(3)
        assert (await take(pool, "p")).way == "b"
        script.clear()
        await asyncio.sleep(3)
        assert (await take(pool, "p")).way == "a"
        await pool.close()

    run(main())


def test_a_host_that_is_reached_and_refuses_shows_that_the_way_works():
    async def main() -> None:
        script = {"a": WAY_DOWN}
        net = FakeNet(lost=lambda way, host: DialAttempt(host, **script[way]) if way in script else None)
        pool = pool_on(net, ways=(A, B), breaker_failures=1, breaker_base_s=5.0)
        await take(pool)
        await asyncio.sleep(6)
        script["a"] = {"stage": Stage.BANNER, "reply": BUSY}
        with pytest.raises(ConnectFailed):
            await take(pool, "q")
        assert pool.snapshot().ways["a"].breaker is BreakerState.CLOSED
        await pool.close()

    run(main())


def test_a_lack_of_this_machine_is_not_the_ways_fault():
    async def main() -> None:
        script = {"a": WAY_DOWN}
        net = FakeNet(lost=lambda way, host: DialAttempt(host, **script[way]) if way in script else None)
        pool = pool_on(net, ways=(A, B), breaker_failures=1, breaker_base_s=5.0)
        await take(pool)
        await asyncio.sleep(6)
        script["a"] = {**NO_NETWORK, "local": True}
        await take(pool, "q")
        assert pool.snapshot().ways["a"].breaker is BreakerState.HALF_OPEN, "nothing was learned: another one may try"
        await pool.close()

    run(main())


def test_a_caller_that_goes_away_while_it_tries_a_way_leaves_it_to_the_next():
    async def main() -> None:
        script = {"a": WAY_DOWN}
        net = FakeNet(lost=lambda way, host: DialAttempt(host, **script[way]) if way in script else None)
        pool = pool_on(net, ways=(A, B), breaker_failures=1, breaker_base_s=5.0)
        await take(pool)
        await asyncio.sleep(6)
        script.clear()
        trying = asyncio.create_task(take(pool, "q"))
        await asyncio.sleep(0.01)
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        assert (await take(pool, "r")).way == "a"
        await pool.close()

    run(main())


def test_an_address_of_a_family_that_the_way_has_not():
    async def main() -> None:
        six = Host("mx6.test", "2001:db8::1")
        net = FakeNet()
        pool = pool_on(net, ways=(A, C))
        assert (await take(pool, hosts=[six, HOSTS[0]])).host == HOSTS[0]
        assert (await take(pool, "q", hosts=[six])).way == "c"
        assert net.ways == ["a", "c"]
        await pool.close()

    run(main())


def test_limits_hold_for_each_way_and_the_total_for_all():
    async def main() -> None:
        net = FakeNet()
        pool = pool_on(net, ways=WAYS, sessions=1, total=2)
        async with pool.lease("p", HOSTS, timeout=5, source="a"):
            with pytest.raises(PoolTimeout, match="p via a"):
                await take(pool, timeout=1)
            async with pool.lease("p", HOSTS, timeout=5, source="b"):
                with pytest.raises(PoolTimeout, match="p via c"):
                    await take(pool, timeout=1, source="c")
        await pool.close()

    run(main())


def test_no_other_way_when_the_time_is_over():
    async def main() -> None:
        net = FakeNet(hangs={HOSTS[0]})
        pool = pool_on(net, ways=(A, B))
        with pytest.raises(ConnectFailed):
            await take(pool, timeout=2)
        assert net.ways == ["a"]
        await pool.close()

    run(main())


def test_all_ways_fail_and_each_says_how():
    async def main() -> None:
        net = on_ways(a=NO_NETWORK, b=SILENCE, c={"stage": Stage.BANNER, "reply": BUSY})
        pool = pool_on(net, ways=WAYS)
        with pytest.raises(ConnectFailed) as failed:
            await take(pool)
        assert {attempt.way for attempt in failed.value.attempts} == {"a", "b", "c"}
        with pytest.raises(ConnectFailed):
            await take(pool, "q", source="c")
        assert net.ways[-1] == "c"
        await pool.close()

    run(main())


def test_only_the_home_is_kept_warm():
    async def main() -> None:
        net = on_ways(a=NO_NETWORK)
        pool = pool_on(net, ways=(A, B), warm=1, idle_expiry_s=5.0, noop_after_s=0)
        await take(pool)
        assert list(pool._warm) == [("p", "a")]
        await pool.close()

    run(main())


def test_a_host_that_was_left_alone_is_dialled_again_by_its_own_way():
    async def main() -> None:
        script = {"a": NO_NETWORK}
        net = FakeNet(lost=lambda way, host: DialAttempt(host, **script[way]) if way in script else None)
        pool = pool_on(net, ways=(A, B), breaker_failures=1, breaker_base_s=5.0, idle_expiry_s=60.0)
        await take(pool)
        await take(pool)  # it is wanted while it is left alone
        script.clear()
        await asyncio.sleep(6)
        assert [(each.way, each.uses) for each in pool.snapshot().connections] == [("b", 2), ("a", 0)]
        await pool.close()

    run(main())


def test_an_identity_or_ways():
    for mistake in ({}, {"identity": IDENTITY, "ways": WAYS}):
        with pytest.raises(ValueError, match="wants an identity, or ways"):
            AsyncSMTPPool(**mistake)


OUTCOMES = st.sampled_from(["ok", "ok", "network", "silence", "down", "refusal", "closed"])
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.floats(0, 3),
            "provider": st.sampled_from(["p", "q", "q#1"]),
            "source": st.sampled_from([None, "a", "b", "c"]),
            "hosts": st.lists(st.sampled_from(HOSTS), min_size=1, max_size=2, unique=True),
            "timeout": st.floats(0.01, 3),
            "hold": st.floats(0, 1),
            "report": st.sampled_from([None, None, "block", "service"]),
            "cancel": st.none() | st.floats(0, 2),
        }
    ),
    min_size=1,
    max_size=12,
)


class Neighbour:
    """Follows every dial, and complains of one by another way than the one that was refused."""

    def __init__(self, outcomes: list[str]) -> None:
        self.outcomes, self.turn = outcomes, 0
        self.refused: dict[str, str] = {}
        self.complaints: list[str] = []

    def lost(self, way: str, host: Host) -> DialAttempt | None:
        outcome = self.outcomes[self.turn % len(self.outcomes)]
        self.turn += 1
        if outcome == "refusal":
            return DialAttempt(host, Stage.BANNER, reply=BLOCKED)
        if outcome == "closed":
            return DialAttempt(host, Stage.BANNER, failure=DialFailure.CLOSED)
        fields = {"network": NO_NETWORK, "silence": SILENCE, "down": WAY_DOWN if way != "c" else NO_NETWORK}.get(
            outcome
        )
        return DialAttempt(host, **fields) if fields else None

    def __call__(self, notice) -> None:
        whole = notice.provider.partition("#")[0]
        if notice.kind is Kind.DIAL and notice.outcome == "5xx":
            self.refused.setdefault(whole, notice.way)
        if notice.kind is Kind.WAY and notice.outcome == "taken" and whole in self.refused:
            self.complaints.append(f"{notice} after {self.refused}")


@settings(max_examples=150, deadline=None)
@given(
    calls=CALLS,
    outcomes=st.lists(OUTCOMES, min_size=1, max_size=8),
    sessions=st.integers(1, 2),
    total=st.integers(1, 4),
    close_at=st.none() | st.floats(0, 3),
)
def test_whatever_happens_nothing_leaks_and_no_refusal_is_got_around(calls, outcomes, sessions, total, close_at):
    async def main() -> None:
        neighbour = Neighbour(outcomes)
        net = FakeNet(lost=neighbour.lost)
        pool = pool_on(
            net,
            total=total,
            ways=WAYS,
            on_notice=neighbour,
            sessions=sessions,
            breaker_failures=2,
            breaker_base_s=0.5,
            breaker_max_s=1.0,
            block_domains=2,
            idle_expiry_s=0.3,
        )

        async def call(at, provider, source, hosts, timeout, hold, report, cancel) -> None:  # noqa: PLR0917
            await asyncio.sleep(at)
            try:
                async with pool.lease(provider, hosts, timeout=timeout, source=source) as connection:
                    await connection.ask(["x@x.test"])
                    if report == "block":
                        pool.report_block(provider, f"{at}.test", BLOCKED, source=connection.way)
                        neighbour.refused.setdefault(provider.partition("#")[0], connection.way)
                    elif report == "service":
                        pool.report_service(provider, source=connection.way)
                        neighbour.refused.pop(provider.partition("#")[0], None)
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
        assert pool.snapshot().waiters == 0
        await asyncio.sleep(3)
        assert pool.snapshot().open == 0, "idle sessions expire by themselves"
        assert (pool._ledger.open, pool._ledger.accounts, pool._ledger.closing) == (0, {}, [])
        assert not any(breaker.trying for breaker in pool._ways._breakers.values())
        assert neighbour.complaints == []
        await pool.close()

    run(main())
