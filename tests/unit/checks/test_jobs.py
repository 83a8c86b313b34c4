"""Who goes into the next write: decided without a socket."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.vocabulary import Stage
from streams.checks.evidence import Probe
from streams.checks.jobs import MAX_HOSTS, TICK_S, Batch, Deadlines, Job, ProviderQueue, hosts_of, preferred_of
from streams.dns.answers import MailHost, MailRoute, RouteKind
from streams.smtp.hosts import Host

FIRST, SECOND = Host("mx1.test", "127.0.0.1"), Host("mx2.test", "127.0.0.2")


def job(address: str, hosts: tuple[Host, ...] = (FIRST,), batch: Batch | None = None) -> Job:
    domain = address.rpartition("@")[2]
    return Job(address, domain, not address.isascii(), hosts, frozenset({hosts[0].address}), 0.0, batch)


def queue(*jobs: Job) -> ProviderQueue:
    made = ProviderQueue("p")
    made.add(jobs)
    return made


def take(of: ProviderQueue, room: int, hosts: tuple[Host, ...] = (FIRST,), *, one_domain: bool = False) -> list[str]:
    return [job.address for job in of.take(room, hosts, hosts[0].address, one_domain=one_domain)]


def test_domains_take_turns() -> None:
    waiting = queue(*(job(f"{n}@a.test") for n in range(4)), *(job(f"{n}@b.test") for n in range(2)))
    assert take(waiting, 2) == ["0@a.test", "1@a.test"]
    assert take(waiting, 2) == ["0@b.test", "1@b.test"]
    assert take(waiting, 5) == ["2@a.test", "3@a.test"]
    assert waiting.size == 0
    assert waiting.head() is None


async def test_whoever_nobody_waits_for_any_more_is_passed_over() -> None:
    gone = Batch(1, asyncio.get_running_loop().create_future())
    waiting = queue(job("0@a.test"), job("1@a.test", batch=gone), job("2@a.test"))
    gone.abandon()
    assert take(waiting, 10) == ["0@a.test", "2@a.test"]
    assert waiting.size == 0


def test_domains_of_one_address_share_a_write_though_their_other_hosts_differ() -> None:
    waiting = queue(job("x@a.test", (FIRST, SECOND)), job("y@b.test", (FIRST,)))
    assert take(waiting, 10, (FIRST, SECOND)) == ["x@a.test", "y@b.test"]


def test_a_session_with_the_second_host_serves_only_those_it_was_leased_for() -> None:
    waiting = queue(job("x@a.test", (FIRST, SECOND)), job("y@b.test", (FIRST,)))
    taken = waiting.take(10, (FIRST, SECOND), SECOND.address, one_domain=False)
    assert [job.address for job in taken] == ["x@a.test"]


def test_one_domain_a_write_where_the_policy_says_so() -> None:
    waiting = queue(job("x@a.test"), job("y@b.test"))
    assert take(waiting, 10, one_domain=True) == ["x@a.test"]
    assert take(waiting, 10, one_domain=True) == ["y@b.test"]


def test_smtputf8_is_asked_for_once_a_transaction() -> None:
    waiting = queue(job("é@a.test"), job("x@a.test"), job("ü@a.test"))
    assert take(waiting, 10) == ["é@a.test", "ü@a.test"]
    assert take(waiting, 10) == ["x@a.test"]


def test_what_came_back_goes_first() -> None:
    waiting = queue(job("1@a.test"), job("2@a.test"), job("3@a.test"))
    taken = waiting.take(2, (FIRST,), FIRST.address, one_domain=False)
    waiting.add(reversed(taken), front=True)
    assert take(waiting, 3) == ["1@a.test", "2@a.test", "3@a.test"]


async def test_nobody_asks_for_what_nobody_waits_for() -> None:
    gone = Batch(2, asyncio.get_running_loop().create_future())
    waiting = queue(job("1@a.test", batch=gone), job("2@b.test", batch=gone), job("3@b.test"))
    gone.done.cancel()
    assert (waiting.head() or job("none@x.test")).address == "3@b.test"
    assert waiting.size == 1
    assert take(waiting, 10) == ["3@b.test"]


def test_all_that_share_a_fate() -> None:
    waiting = queue(job("1@a.test"), job("2@b.test"), job("3@c.test", (SECOND,)))
    assert [job.address for job in waiting.take_all((FIRST,))] == ["1@a.test", "2@b.test"]
    assert waiting.take_all((FIRST,)) == []
    assert waiting.size == 1


async def test_a_batch_is_done_with_its_last_probe_and_deaf_afterwards() -> None:
    batch = Batch(2, asyncio.get_running_loop().create_future())
    probe, other = Probe(Stage.RCPT), Probe(Stage.MAIL)
    batch.settle(0, probe)
    batch.settle(0, other)
    assert not batch.abandoned
    batch.settle(1, probe)
    assert batch.abandoned
    batch.settle(1, other)
    assert batch.probes == [probe, probe]


class FakeLoop:
    """A clock that stands, and what is to be called when."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[int], None], int]] = []

    def get_debug(self) -> bool:
        return False

    def time(self) -> float:
        return 100.0

    def call_at(self, when: float, call: Callable[[int], None], tick: int) -> None:
        self.timers.append((when, call, tick))


def test_those_who_give_up_at_about_the_same_time_share_a_timer() -> None:
    loop, deadlines = FakeLoop(), Deadlines()
    batches = [Batch(1, asyncio.Future(loop=loop)) for _ in range(4)]  # type: ignore[arg-type]
    for batch, timeout in zip(batches, (60.0, 60.0 - TICK_S / 2, 60.0, 1.0), strict=True):
        waiting = deadlines.enter(batch, timeout)
        if batch is batches[0]:
            waiting.discard(batch)  # it has heard all
    assert [when for when, *_ in loop.timers] == pytest.approx([160.0, 101.0]), "nobody gives up too soon"
    for _, call, tick in loop.timers:
        call(tick)
    assert [batch.abandoned for batch in batches] == [False, True, True, True]
    deadlines.enter(batches[0], 60.0)
    assert len(loop.timers) == 3, "what has fired is forgotten"


def test_hosts_in_order_of_preference_and_not_too_many() -> None:
    hosts = tuple(MailHost(f"mx{n}.test", n // 2, (f"127.0.0.{n}", f"127.0.1.{n}")) for n in range(8))
    route = MailRoute("a.test", RouteKind.MX, hosts)
    flat = hosts_of(route.hosts, 2525)
    assert len(flat) == MAX_HOSTS
    assert flat[:2] == (Host("mx0.test", "127.0.0.0", 2525), Host("mx0.test", "127.0.1.0", 2525))
    assert preferred_of(route.hosts) == {"127.0.0.0", "127.0.1.0", "127.0.0.1", "127.0.1.1"}
    assert preferred_of(()) == frozenset()


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.booleans()), max_size=60),
    st.lists(st.integers(1, 7), min_size=60, max_size=60),
)
def test_every_job_is_taken_once(jobs: list[tuple[int, str, bool]], rooms: list[int]) -> None:
    made = [
        job(f"{'é' if utf8 else 'e'}{i}@d{domain}.test", (FIRST, SECOND) if host == "a" else (SECOND,))
        for i, (domain, host, utf8) in enumerate(jobs)
    ]
    waiting = queue(*made)
    taken: list[str] = []
    for room in rooms:
        if (head := waiting.head()) is None:
            break
        chunk = waiting.take(room, head.hosts, head.hosts[0].address, one_domain=False)
        assert 0 < len(chunk) <= room
        assert len({job.smtputf8 for job in chunk}) == 1
        taken += [job.address for job in chunk]
    assert sorted(taken) == sorted(job.address for job in made)
    assert waiting.size == 0


@pytest.mark.parametrize("room", [1, 3])
def test_a_small_room_is_kept(room: int) -> None:
    assert len(take(queue(*(job(f"{n}@d{n}.test") for n in range(9))), room)) == room


def test_those_who_wait_with_a_job_are_taken_together() -> None:
    waiting = queue(job("x@a.test"), job("y@b.test"), job("é@a.test"), job("z@a.test"))
    assert [each.address for each in waiting.take_alike(job("q@a.test"))] == ["x@a.test", "z@a.test"]
    assert waiting.size == 2
    assert take(waiting, 10) == ["y@b.test"]


def test_all_who_need_smtputf8_are_taken_from_among_the_others() -> None:
    waiting = queue(job("x@a.test"), job("é@a.test"), job("ü@b.test"))
    assert [each.address for each in waiting.take_all((FIRST,), utf8_only=True)] == ["é@a.test", "ü@b.test"]
    assert [each.address for each in waiting.take_all((FIRST,))] == ["x@a.test"]


def test_of_a_job_without_a_batch_nobody_hears() -> None:
    job("x@a.test").settle(Probe(Stage.RCPT))


@pytest.mark.parametrize(
    ("answered", "refused", "wanted"),
    [(0, 0, 40), (100, 100, 40), (100, 50, 23), (400, 20, 4), (10_000, 0, 4)],
    ids=["unknown", "all missing", "half missing", "a few missing", "nobody missing"],
)
def test_the_fewer_are_missing_the_longer_a_session_lasts(answered: int, refused: int, wanted: int) -> None:
    made = ProviderQueue("p")
    made.size, made.answered, made.refused = 400, answered, refused
    assert made.sessions_wanted == wanted


def test_more_sessions_are_wanted_where_more_follows_than_is_in_hand_at_a_time() -> None:
    made = queue(*[job(f"x{n}@a.test") for n in range(200)])
    made.answered = 400
    assert made.sessions_wanted == 2
    for _ in range(2):
        took = made.take(100, (FIRST,), "", one_domain=False)
        made.add(job(f"y{n}@a.test") for n in range(100))
    assert (made.size, made.sessions_wanted) == (200, 4)
    made.add(reversed(took), front=True)
    assert made.followed == 200, "who comes back has not followed"
    made.followed = 100_000
    assert made.sessions_wanted == 30, "and no more than there are addresses for"
