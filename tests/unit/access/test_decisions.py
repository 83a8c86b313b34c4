"""Limits of a key and of its tenant: both hold, both are charged or neither, and the stricter one speaks."""

from dataclasses import replace

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from schemas.request import Options, Request
from schemas.vocabulary import Lane, Reason
from streams.access import decisions, quota
from streams.access.decisions import Account, Asked, Decision, Refusal, TenantAccount
from streams.access.keys import Allowance, Key
from streams.access.quota import Limits
from streams.access.rate import Rate

NOW_MS = 1_773_144_000_000
FREE = Allowance()


class Books:
    """The accounts of a tenant and its keys, as the gate keeps them."""

    def __init__(self, shared: Allowance = FREE, **keys: Allowance) -> None:
        self.keys = {name: Key("acme", name, (), own, shared) for name, own in keys.items()}
        self.tenant = TenantAccount()
        self.own = {name: Account() for name in keys}
        self.now_ms = NOW_MS
        self.asked = 0

    def ask(self, name: str = "k1", count: int = 1, refusal: Refusal | None = None) -> Decision:
        self.asked += 1
        asked = Asked(
            request=Request(request_id=f"r{self.asked}", addresses=("a@x",) * count),
            uid=f"{self.asked:064x}",
            body="",
            record="",
            now_ms=self.now_ms,
            lane=Lane.BULK,
            verdict_by_ms=self.now_ms + 3_600_000,
            refusal=refusal,
        )
        return self._take(decisions.decide(self.keys[name], self.tenant, self.own[name], asked))

    def settle(self, name: str, decision: Decision, given_back: int) -> None:
        after = decisions.settle(self.tenant, self.own[name], decision, given_back=given_back, now_ms=self.now_ms)
        assert self._take(after).settled

    def _take(self, after: TenantAccount) -> Decision:
        assert after.last is not None
        self.tenant, self.own[after.last.decision.key_id] = after, after.last.account
        return after.last.decision


def test_the_quota_of_a_tenant_is_its_keys_together() -> None:
    books = Books(Allowance(limits=Limits(daily=5)), k1=Allowance(limits=Limits(daily=4)), k2=FREE)
    assert books.ask("k1", 3).reason is None
    refused = books.ask("k2", 3)
    assert (refused.reason, "all keys of this tenant" in refused.message) == (Reason.QUOTA_EXCEEDED, True)
    assert books.ask("k1", 2).message.startswith("the quota of this key")
    assert books.ask("k2", 2).reason is None
    assert (books.tenant.day_used, books.own["k1"].day_used, books.own["k2"].day_used) == (5, 3, 2)


def test_what_is_left_is_by_the_stricter_of_the_two() -> None:
    books = Books(Allowance(limits=Limits(monthly=100)), k1=Allowance(limits=Limits(daily=50)), k2=FREE)
    left = books.ask("k1", 10).quota
    assert left is not None
    assert (left.limit, left.remaining, left.resets_at) == (50, 40, quota.next_day(NOW_MS))
    books.ask("k2", 60)
    left = books.ask("k1", 1).quota
    assert left is not None
    assert (left.limit, left.remaining, left.resets_at) == (100, 29, quota.next_month(NOW_MS))
    unlimited = Books(k1=FREE).ask().quota
    assert unlimited is not None
    assert (unlimited.limit, unlimited.remaining) == (None, None)


def test_a_refusal_by_one_rate_costs_nothing_of_the_other() -> None:
    books = Books(Allowance(Rate(1, 2)), k1=Allowance(Rate(1, 1)), k2=FREE)
    assert books.ask("k1").reason is None
    for _ in range(5):
        assert books.ask("k1").message == "more requests a second than this key may send"
    assert books.ask("k2").reason is None, "the refused ones cost the tenant nothing"
    refused = books.ask("k2")
    assert (refused.reason, refused.retry_after_ms) == (Reason.RATE_EXCEEDED, 1000)
    books.now_ms += 1000
    assert books.ask("k1").reason is None


def test_the_longer_wait_is_the_hint() -> None:
    books = Books(Allowance(Rate(0.1, 1)), k1=Allowance(Rate(1, 1)))
    books.ask()
    assert books.ask().retry_after_ms == 10_000


def test_a_faster_rate_counts_from_the_next_request_on() -> None:
    books = Books(k1=Allowance(Rate(0.001, 3)))
    for _ in range(3):
        books.ask()
    books.keys["k1"] = replace(books.keys["k1"], own=Allowance(Rate(10, 1)))
    assert books.ask().retry_after_ms == 100
    books.now_ms += 100
    assert books.ask().reason is None


def test_addresses_in_flight_are_counted_for_both_and_released_for_both() -> None:
    books = Books(Allowance(limits=Limits(in_flight=4)), k1=Allowance(limits=Limits(in_flight=3)), k2=FREE)
    first = books.ask("k1", 3)
    assert books.ask("k1").message.startswith("3 addresses of this key are in flight")
    assert books.ask("k2", 2).message.startswith("3 addresses of all keys of this tenant together are in flight")
    books.settle("k1", first, 1)
    assert (books.tenant.in_flight, books.tenant.day_used, books.own["k1"].day_used) == ({}, 2, 2)
    assert books.ask("k2", 4).reason is None


def test_the_largest_request_is_the_smaller_of_all_caps() -> None:
    shared, own = Allowance(max_addresses=7), Allowance(limits=Limits(in_flight=9), max_addresses=8)
    books = Books(shared, k1=own)
    assert books.ask(count=7).reason is None
    refused = books.ask(count=8)
    assert (refused.reason, refused.message) == (Reason.TOO_LARGE, "this key may send 7 addresses in a request")


def test_a_key_that_is_not_served_is_charged_nothing() -> None:
    books = Books(Allowance(Rate(1, 1)), k1=Allowance(Rate(1, 1), Limits(daily=1)))
    refused = books.ask(refusal=Refusal(Reason.KEY_REVOKED, "revoked"))
    assert (refused.reason, refused.charged) == (Reason.KEY_REVOKED, 0)
    assert (books.tenant.tat_ms, books.own["k1"].tat_ms, books.tenant.day_used) == (0, 0, 0)
    assert books.ask().reason is None


def test_an_option_that_is_turned_off_needs_no_scope() -> None:
    books = Books(k1=FREE)
    key = replace(books.keys["k1"], options=frozenset())
    request = Request(request_id="r", addresses=("a@x",), options=Options(catch_all_probe=False, retry=False))
    assert decisions._scope(key, request, Lane.BULK) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["k1", "k2"]),
        st.integers(1, 6),
        st.integers(0, 400),
        st.sampled_from(["keep", "settle", "settle late"]),
        st.integers(0, 6),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 20), st.integers(1, 20), st.integers(1, 12))
@hypothesis_settings(deadline=None, max_examples=60)
def test_no_limit_is_ever_passed_and_the_tenant_is_the_sum_of_its_keys(
    steps: list[tuple[str, int, int, str, int]], daily: int, together: int, in_flight: int
) -> None:
    shared = Allowance(Rate(2, 3), Limits(daily=together, in_flight=in_flight))
    books = Books(shared, k1=Allowance(limits=Limits(daily=daily)), k2=Allowance(Rate(1, 2)))
    open_: list[tuple[str, Decision]] = []
    for name, count, wait_ms, what, back in steps:
        books.now_ms += wait_ms
        decision = books.ask(name, count)
        if decision.reason is None:
            open_.append((name, decision))
        if open_ and what != "keep":
            owner, done = open_.pop(0 if what == "settle late" else -1)
            books.settle(owner, done, back)
        assert books.own["k1"].day_used <= daily
        assert books.tenant.day_used <= together
        assert books.tenant.day_used == sum(own.day_used for own in books.own.values())
        running = sum(done.charged for _, done in open_)
        assert sum(books.tenant.in_flight.values()) == running <= in_flight
