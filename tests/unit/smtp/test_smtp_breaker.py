"""When a host is left alone."""

from schemas.vocabulary import Stage
from streams.smtp import breaker as module
from streams.smtp.breaker import Breaker, BreakerState, Health
from streams.smtp.errors import DialAttempt, DialFailure
from streams.smtp.hosts import Host
from streams.smtp.policy import ProviderPolicy
from streams.smtp.replies import Reply

HOSTS = [Host(f"mx{number}.test", f"192.0.2.{number}") for number in range(10)]
POLICY = ProviderPolicy(breaker_failures=2, breaker_base_s=10, breaker_max_s=35)


def attempt(host: Host) -> DialAttempt:
    return DialAttempt(host, Stage.BANNER, reply=Reply(421, ("busy",)))


def test_it_opens_after_so_many_failures_and_waits_longer_each_time():
    breaker = Breaker(2, 10, 35)
    breaker.failed(1, 0, 0)
    assert breaker.state(0) is BreakerState.CLOSED
    breaker.failed(2, 0, 0)
    waits = []
    now = 0.0
    for number in range(4):
        waits.append(breaker.retry_at - now)
        assert not breaker.allows(breaker.retry_at - 0.1)
        now = breaker.retry_at
        assert breaker.state(now) is BreakerState.HALF_OPEN
        assert breaker.allows(now)
        breaker.failed(number, now, 0)
    assert waits == [10, 20, 35, 35]


def test_one_at_a_time_may_try():
    breaker = Breaker(1, 10, 35)
    breaker.failed(1, 0, 0)
    assert breaker.allows(10)
    assert not breaker.allows(10)
    breaker.abandoned()
    assert breaker.allows(10)


def test_jitter_shortens_the_wait():
    breaker = Breaker(1, 10, 35)
    breaker.failed(1, 0, 1.0)
    assert breaker.retry_at == 8


def test_late_failures_of_dials_begun_before_change_nothing():
    breaker = Breaker(1, 10, 35)
    breaker.failed(1, 0, 0)
    breaker.failed(2, 5, 0)
    assert breaker.retry_at == 10


def test_a_host_that_fails_is_spared_and_its_last_word_told():
    health = Health(POLICY)
    for _ in range(2):
        assert health.spared(HOSTS[0], 0) is None
        health.failed(attempt(HOSTS[0]), 0, 0)
    spared = health.spared(HOSTS[0], 4)
    assert spared.reply == Reply(421, ("busy",))
    assert spared.detail == "not dialled again for 6.0 s"
    assert health.left_alone(4) == 1
    assert health.spared(HOSTS[1], 4) is None
    assert health.spared(HOSTS[0], 10) is None
    health.succeeded(HOSTS[0])
    assert health.blank
    assert health.left_alone(10) == 0


def test_many_hosts_that_fail_are_a_provider_that_fails():
    health = Health(POLICY)
    for host in HOSTS[:4]:
        assert health.provider.state(0) is BreakerState.CLOSED
        health.failed(attempt(host), 0, 0)
    assert health.provider.state(0) is BreakerState.OPEN
    spared = health.spared(HOSTS[9], 1)
    assert (spared.host, spared.reply, spared.failure) == (HOSTS[9], None, DialFailure.CONNECT)
    assert "other hosts" in spared.detail
    # half open: one host is tried, the others wait for what comes of it
    assert health.spared(HOSTS[0], 10) is None
    assert health.spared(HOSTS[1], 10) is not None
    assert not health.hosts[HOSTS[1]].trying
    health.abandoned(HOSTS[0])
    assert health.spared(HOSTS[9], 10) is None
    health.abandoned(HOSTS[9])
    assert health.spared(HOSTS[1], 10) is None
    health.succeeded(HOSTS[1])
    assert health.provider.state(10) is BreakerState.CLOSED
    assert not health.blank


def test_one_host_that_fails_often_is_not_a_provider_that_fails():
    health = Health(POLICY)
    for _ in range(9):
        health.failed(attempt(HOSTS[0]), 0, 0)
    assert health.provider.state(0) is BreakerState.CLOSED


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_HOSTS", 2)
    health = Health(POLICY)
    for host in HOSTS[:3]:
        health.failed(attempt(host), 0, 0)
    assert list(health.hosts) == HOSTS[1:3]
