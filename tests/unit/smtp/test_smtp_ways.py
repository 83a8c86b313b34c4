"""Which way out a provider is asked by: decided without I/O, the same in every process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.smtp import ways as module
from streams.smtp.breaker import BreakerState
from streams.smtp.identity import Identity
from streams.smtp.policy import ProviderPolicy
from streams.smtp.ways import Proxy, Way, Ways

ME = Identity("probe.test")
POLICY = ProviderPolicy(breaker_failures=2, breaker_base_s=5.0)
INF = float("inf")
HOMES = {"google": "eu-1", "outlook.com": "us-1", "yahoo": "eu-2", "example.com": "eu-1"}


def way(name: str, *sources: str, proxy: Proxy | None = None) -> Way:
    return Way(name, ME, sources, proxy)


def ways_of(*names: str) -> Ways:
    return Ways([way(name) for name in names], POLICY)


NAMES = st.lists(st.text("abcdefgh-", min_size=1, max_size=6), min_size=2, max_size=8, unique=True)
PROVIDERS = st.text("abcdefgh.", min_size=1, max_size=12)


# A way


def test_what_the_system_chooses_has_nothing_of_its_own():
    assert way("a").plain
    assert way("a").source_for("192.0.2.1") is None
    assert way("a").reaches("2001:db8::1")


def test_each_family_is_dialled_from_its_own_address():
    both = way("a", "192.0.2.7", "2001:db8::7")
    assert not both.plain
    assert both.source_for("198.51.100.1") == "192.0.2.7"
    assert both.source_for("2001:db8:1::1") == "2001:db8::7"
    four = way("b", "192.0.2.7")
    assert four.reaches("198.51.100.1")
    assert not four.reaches("2001:db8:1::1")


@pytest.mark.parametrize("sources", [("192.0.2.7", "192.0.2.8"), ("192.0.2.300",), ("host.test",)])
def test_sources_that_are_none(sources):
    with pytest.raises(ValueError):  # noqa: PT011
        way("a", *sources)


def test_a_proxy_has_an_address_of_its_own():
    with pytest.raises(ValueError, match="not both"):
        way("a", "192.0.2.7", proxy=Proxy("proxy.test"))
    assert not way("a", proxy=Proxy("proxy.test")).plain
    assert way("a", proxy=Proxy("proxy.test")).source_for("192.0.2.1") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"host": ""},
        {"host": "p", "port": 0},
        {"host": "p", "port": 65536},
        {"host": "p", "username": "u"},
        {"host": "p", "password": "s3cret"},
        {"host": "p", "username": "ü", "password": "s3cret"},
        {"host": "p", "username": "u", "password": "s3cret" * 50},
    ],
)
def test_a_proxy_that_can_not_be_used(fields):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        Proxy(**fields)
    assert "s3cret" not in str(refused.value)


def test_credentials_are_never_shown():
    one = way("a", proxy=Proxy("proxy.test", 1080, "user-u", "s3cret"))
    assert "s3cret" not in repr(one)
    assert "user-u" not in repr(one)


# Which one


def test_a_pool_has_ways_that_can_be_told_apart():
    for names in ((), ("a", "a"), ("", "a")):
        with pytest.raises(ValueError, match="name of its own"):
            ways_of(*names)


def test_the_only_way_is_taken_whatever_was_said():
    ways = ways_of("a")
    ways.refuse("p", "a", INF)
    assert [each.name for each in ways.order("p", "gone", 0.0)] == ["a"]
    assert ways.home("p", "b").name == "a"
    assert ways["a"] is next(iter(ways))


def test_homes_are_the_same_in_every_process():
    """Bytes that must not change: a greylisted triplet waits for the way that it knows."""
    ways = ways_of("eu-1", "eu-2", "us-1")
    assert [ways.home(name).name for name in ("google", "outlook.com", "yahoo", "example.com", "ovh.net")] == [
        ways.home(name).name for name in ("google#0", "outlook.com#3", "yahoo", "example.com", "ovh.net#1")
    ]
    assert {name: ways.home(name).name for name in ("google", "outlook.com", "yahoo", "example.com")} == HOMES


@given(NAMES, PROVIDERS, st.randoms())
def test_the_order_in_the_configuration_is_nothing(names, provider, chance):
    shuffled = list(names)
    chance.shuffle(shuffled)
    one, other = ways_of(*names), ways_of(*shuffled)
    assert [w.name for w in one.order(provider, None, 0.0)] == [w.name for w in other.order(provider, None, 0.0)]


@given(NAMES, PROVIDERS)
def test_a_way_that_goes_moves_only_those_who_lived_there(names, provider):
    home = ways_of(*names).home(provider).name
    gone = next(name for name in names if name != home)
    assert ways_of(*(name for name in names if name != gone)).home(provider).name == home


def test_every_way_has_its_share():
    ways = ways_of("a", "b", "c", "d")
    homes = [ways.home(f"provider-{number}").name for number in range(400)]
    assert all(70 < homes.count(name) < 130 for name in "abcd")


def test_the_way_of_the_earlier_attempts_comes_first():
    ways = ways_of("a", "b", "c")
    for source in "abc":
        order = [each.name for each in ways.order("p", source, 0.0)]
        assert order[0] == source
        assert sorted(order) == ["a", "b", "c"]
    assert ways.order("p", "gone", 0.0) == ways.order("p", None, 0.0)


# Refusals


def test_after_a_refusal_no_other_way_asks():
    ways = ways_of("a", "b", "c")
    assert ways.refused_by("p", 0.0) is None
    ways.refuse("p#1", "b", 100.0)
    assert [each.name for each in ways.order("p#2", "a", 99.0)] == ["b"], "shards are one provider"
    assert len(ways.order("q", None, 99.0)) == 3
    assert len(ways.order("p", None, 100.0)) == 3, "it has its time"


def test_the_refusal_that_lasts_longer_stands():
    ways = ways_of("a", "b")
    ways.refuse("p", "a", INF)
    ways.refuse("p", "b", 100.0)
    assert ways.refused_by("p", 50.0).name == "a"
    ways.serve("p", "b")
    assert ways.refused_by("p", 50.0).name == "a", "it is the other one that was served"
    ways.serve("p", "a")
    assert ways.refused_by("p", 50.0) is None


def test_refusals_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_REFUSALS", 1)
    ways = ways_of("a", "b")
    ways.refuse("p", "a", INF)
    ways.refuse("q", "a", INF)
    assert ways.refused_by("p", 0.0) is None
    assert ways.refused_by("q", 0.0).name == "a"


# A way that fails


def test_a_plain_way_has_nothing_that_could_fail():
    ways = ways_of("a")
    assert ways.allows("a", 0.0)
    assert not ways.works("a")
    assert not ways.failed("a", 0.0, 0.0)
    ways.abandoned("a")
    assert ways.state("a", 0.0) is BreakerState.CLOSED


def test_a_way_that_fails_is_left_alone_and_tried_by_one():
    ways = Ways([way("a", "192.0.2.7")], POLICY)
    assert not ways.failed("a", 0.0, 0.0)
    assert ways.failed("a", 1.0, 0.0)
    assert not ways.allows("a", 5.0)
    assert ways.state("a", 5.0) is BreakerState.OPEN
    assert ways.allows("a", 6.0)
    assert not ways.allows("a", 6.0), "one at a time"
    ways.abandoned("a")
    assert ways.allows("a", 6.0)
    assert ways.works("a")
    assert ways.state("a", 6.0) is BreakerState.CLOSED


def test_a_failure_now_and_then_is_forgotten():
    ways = Ways([way("a", "192.0.2.7")], POLICY)
    ways.failed("a", 0.0, 0.0)
    assert not ways.works("a")
    assert not ways.failed("a", 1.0, 0.0)
