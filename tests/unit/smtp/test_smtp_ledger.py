"""The books: who gets what, decided without I/O."""

from dataclasses import dataclass
from typing import Any

import pytest

from schemas.vocabulary import Stage
from streams.smtp import ledger as module
from streams.smtp.errors import DialAttempt, DialFailure
from streams.smtp.hosts import Host
from streams.smtp.ledger import Claim, Ledger
from streams.smtp.lifecycle import Life
from streams.smtp.policy import PolicyBook, ProviderPolicy

HOST, OTHER = Host("a", "192.0.2.1"), Host("b", "192.0.2.2")


@dataclass(eq=False)
class Connection:
    place: tuple[str, str]
    key: tuple[str, int]
    policy: ProviderPolicy
    idle_since: float = 0.0
    born: float = 0.0
    max_age_s: float = 600.0
    check_at: float = float("inf")
    end: tuple[Life, str] | None = None

    def ending(self):
        return self.end


class Books(Ledger[Connection]):
    """With words for tests."""

    def want(self, provider: str, *hosts: Host) -> Claim[Connection]:
        claim: Claim[Connection] = Claim(self.account((provider, "")), hosts or (HOST,), lambda: None)
        self.claim(claim)
        return claim

    def dialled(self, claim: Claim[Connection], host: Host = HOST) -> Connection:
        assert claim.granted
        assert claim.connection is None
        return Connection(claim.account.place, (host.address, host.port), claim.account.policy)

    def opened(self, provider: str, host: Host = HOST) -> Connection:
        return self.dialled(self.want(provider, host), host)


def books(total: int = 10, sessions: int = 2, **fields: Any) -> Books:
    return Books(PolicyBook(ProviderPolicy(sessions=sessions, **fields)), total)


def test_leave_to_dial_up_to_the_limit_then_wait_in_line():
    ledger = books()
    first = ledger.opened("p")
    ledger.opened("p")
    waiting = [ledger.want("p") for _ in range(3)]
    assert not any(claim.granted for claim in waiting)
    ledger.give_back(first)
    assert [claim.connection for claim in waiting] == [first, None, None]
    assert [claim.granted for claim in waiting] == [True, False, False]
    ledger.gone(("p", ""))
    assert [claim.granted for claim in waiting] == [True, True, False]
    assert ledger.waiters() == 1


def fewer(ledger: Books, provider: str = "p") -> None:
    ledger.account((provider, "")).pace.sessions.complained(0.0)


def test_sessions_beyond_a_limit_that_shrank_go_when_they_come_back():
    ledger = books(sessions=4)
    first, *rest = [ledger.opened("p") for _ in range(4)]
    waiting = ledger.want("p")
    fewer(ledger)  # 2
    for each in (first, rest[0]):
        ledger.give_back(each)
        assert not waiting.granted
    assert ledger.closing == [(each, Life.DRAINING, "sessions fewer") for each in (first, rest[0])]
    ledger.give_back(rest[1])
    assert waiting.connection is rest[1]
    assert ledger.open == ledger.account(("p", "")).open == 2


def test_so_do_those_that_rest_when_another_host_is_wanted():
    ledger = books(sessions=4)
    resting = [ledger.opened("p") for _ in range(4)]
    for each in resting:
        ledger.give_back(each)
    fewer(ledger)  # 2
    assert ledger.want("p", OTHER).granted
    assert [each for each, _, _ in ledger.closing] == resting[:3]
    assert ledger.open == 2


def test_nobody_overtakes():
    ledger = books(sessions=1)
    one = ledger.opened("p", HOST)
    elsewhere = ledger.want("p", OTHER)
    late = ledger.want("p", HOST)
    ledger.give_back(one)
    # the first in line can't use it: it makes room for a session that can
    assert ledger.closing == [(one, Life.DRAINING, "evicted")]
    assert elsewhere.granted
    assert not late.granted


def test_the_session_used_last_is_taken_first_and_hosts_in_order():
    ledger = books(sessions=3)
    old, new, other = ledger.opened("p"), ledger.opened("p"), ledger.opened("p", OTHER)
    for each in (old, new, other):
        ledger.give_back(each)
    assert ledger.want("p", HOST).connection is new
    assert ledger.want("p", OTHER, HOST).connection is other
    assert ledger.want("p", OTHER, HOST).connection is old


def test_what_can_not_be_reused_is_struck_off():
    ledger = books()
    one = ledger.opened("p")
    ledger.give_back(one)
    one.end = (Life.BROKEN, "closed")
    claim = ledger.want("p")
    assert claim.connection is None
    assert claim.granted
    assert ledger.closing == [(one, Life.BROKEN, "closed")]
    assert (ledger.open, claim.account.open) == (1, 1)


def test_the_global_limit_takes_the_one_idle_longest():
    ledger = books(total=2)
    old, new = ledger.opened("p"), ledger.opened("q")
    ledger.give_back(old)
    ledger.give_back(new)
    assert ledger.want("r").granted
    assert ledger.closing == [(old, Life.DRAINING, "evicted")]
    assert ("p", "") not in ledger.accounts


def test_own_idle_sessions_make_room_under_the_global_limit_too():
    ledger = books(total=1)
    one = ledger.opened("p", HOST)
    ledger.give_back(one)
    assert ledger.want("p", OTHER).granted
    assert ledger.closing == [(one, Life.DRAINING, "evicted")]
    assert ledger.accounts["p", ""].open == 1


def test_places_go_round_the_providers_that_wait():
    ledger = books(total=1)
    ledger.opened("p")
    a1, a2, b1 = ledger.want("a"), ledger.want("a"), ledger.want("b")
    order = []
    for provider in ("p", "a", "b"):
        ledger.gone((provider, ""))
        order.append([claim.granted for claim in (a1, b1, a2)])
    assert order == [[True, False, False], [True, True, False], [True, True, True]]


def test_a_provider_that_was_served_once_stays_in_the_round():
    ledger = books(total=2)
    ledger.opened("p")
    ledger.opened("p")
    first, second = ledger.want("a"), ledger.want("a")
    ledger.gone(("p", ""))
    ledger.gone(("p", ""))
    assert first.granted
    assert second.granted


def test_an_idle_session_is_given_up_for_those_who_wait_for_a_place():
    ledger = books(total=1)
    one = ledger.opened("p")
    waiting = ledger.want("q")
    ledger.give_back(one)
    assert waiting.granted
    assert ledger.closing == [(one, Life.DRAINING, "evicted")]


def test_one_that_parts_gives_its_place_to_the_next():
    ledger = books(sessions=2)
    ledger.opened("p")
    ledger.opened("p")
    waiting = [ledger.want("p") for _ in range(2)]
    assert ledger.part(("p", ""))
    assert [claim.granted for claim in waiting] == [True, False]
    assert (ledger.accounts["p", ""].open, ledger.open) == (2, 3)
    assert not ledger.part(("p", "")), "half of them part already"
    ledger.parted(("p", ""))
    assert ledger.part(("p", ""))
    assert waiting[1].granted


def test_but_its_socket_counts_until_it_is_closed():
    ledger = books(total=1, sessions=1)
    ledger.opened("p")
    own, other = ledger.want("p"), ledger.want("q")
    assert ledger.part(("p", ""))
    assert not own.granted
    ledger.parted(("p", ""))
    assert other.granted, "it has waited for the socket longer"
    ledger.gone(("q", ""))
    assert own.granted
    ledger.gone(("p", ""))
    assert (ledger.open, ledger.accounts) == (0, {})


def test_an_account_stays_while_one_of_its_connections_parts():
    ledger = books(sessions=1)
    ledger.opened("p")
    assert ledger.part(("p", ""))
    assert ("p", "") in ledger.accounts
    ledger.parted(("p", ""))
    assert (ledger.open, ledger.accounts) == (0, {})


def test_who_gives_up_swallows_nothing():
    ledger = books(sessions=1)
    one = ledger.opened("p")
    first, second, third = ledger.want("p"), ledger.want("p"), ledger.want("p")
    ledger.withdraw(first)
    ledger.give_back(one)
    assert second.connection is one
    ledger.withdraw(second)
    assert third.connection is one
    ledger.withdraw(third)
    assert list(ledger.idle) == [one]
    claim = ledger.want("p", OTHER)
    ledger.withdraw(claim)
    assert (ledger.open, ledger.accounts) == (0, {})


def test_a_starved_provider_whose_caller_gave_up_holds_nobody_up():
    ledger = books(total=1)
    ledger.opened("p")
    gone, waiting = ledger.want("a"), ledger.want("b")
    ledger.withdraw(gone)
    assert ("a", "") not in ledger.accounts
    ledger.gone(("p", ""))
    assert waiting.granted


def test_a_starved_provider_at_its_own_limit_waits_for_itself():
    ledger = books(total=2, sessions=1)
    ledger.opened("p")
    ledger.opened("a")
    starved = ledger.want("b")
    own = ledger.want("a")
    ledger.gone(("p", ""))
    assert starved.granted
    assert not own.granted
    ledger.gone(("a", ""))
    assert own.granted


def test_sweep_retires_what_rested_too_long():
    ledger = books()
    one, two = ledger.opened("p"), ledger.opened("p")
    two.idle_since = 5.0
    ledger.give_back(one)
    ledger.give_back(two)
    ledger.sweep(20.0)
    assert ledger.next_due() == pytest.approx(25.0)
    assert ledger.closing == [(one, Life.DRAINING, "idle expiry")]
    ledger.sweep(25.0)
    assert ledger.next_due() == float("inf")
    assert ledger.accounts == {}


def test_what_is_kept_warm_stays_until_it_is_too_old():
    ledger = books(warm=1)
    for connection in [ledger.opened("p"), ledger.opened("p")]:
        ledger.give_back(connection)
    ledger.sweep(20.0)
    assert len(ledger.closing) == 1, "only one of the two is kept"
    assert ledger.next_due() == 600.0
    ledger.sweep(600.0)
    assert ledger.open == 0


def test_the_silent_are_taken_to_be_asked_a_few_at_a_time():
    ledger = books()
    one, two = ledger.opened("p"), ledger.opened("p")
    one.check_at, two.check_at = 10.0, 11.0
    for connection in (one, two):
        ledger.give_back(connection)
    assert ledger.next_due() == 10.0
    assert ledger.overdue(12.0, 1) == [one]
    assert list(ledger.idle) == [two]
    waiting = ledger.want("p", HOST), ledger.want("p", HOST)
    assert [claim.connection for claim in waiting] == [two, None]
    ledger.give_back(one)
    assert waiting[1].connection is one, "it was on the books all the time"


def test_a_host_that_somebody_wanted_is_dialled_again_when_it_may_be(monkeypatch):
    monkeypatch.setattr(module, "MAX_RECOVERIES", 1)
    ledger = books(breaker_failures=1, breaker_base_s=10)
    account = ledger.account(("p", ""))
    for host in (HOST, OTHER):
        account.health.failed(DialAttempt(host, Stage.CONNECT, failure=DialFailure.CONNECT), 0.0, 0.0)
        ledger.wanted(account, host, 1.0)
    assert ledger.recoverable(9.0, 5) == []
    assert ledger.next_due() == 10.0
    assert ledger.recoverable(10.0, 0) == []
    assert ledger.recoverable(10.0, 5) == [(("p", ""), HOST)], "the second had no room"
    ledger.wanted(account, HOST, 10.0)
    assert ledger.recoverable(99.0, 5) == [], "it may be dialled now: whoever wants it does"


def test_troubled_providers_are_shown_though_nobody_talks_to_them():
    ledger = books(breaker_failures=1)
    for provider, failed in (("p", 1), ("q", 0), ("r", 2)):
        claim = ledger.want(provider)
        health = claim.account.health
        claim.account.learned.batch = 1
        for number in range(failed):
            host = Host("mx", f"192.0.2.{number}")
            health.failed(DialAttempt(host, Stage.CONNECT, failure=DialFailure.CONNECT), 0.0, 0.0)
        if failed == 2:
            health.hosts.clear()
        ledger.withdraw(claim)
    assert list(ledger.troubled(1.0)) == [("p", ""), ("r", "")]


def test_a_sweep_may_take_what_it_was_about_to_retire():
    ledger = books(total=2, sessions=1)
    one = ledger.opened("p")
    two = ledger.opened("q")
    starving = [ledger.want("p", OTHER)]
    ledger.give_back(two)
    ledger.give_back(one)
    assert starving[0].granted
    ledger.sweep(100.0)
    assert ledger.open == 1


def test_only_idle_ones_can_be_lost():
    ledger = books()
    one = ledger.opened("p")
    ledger.lost(one, Life.BROKEN, "closed")
    assert ledger.closing == []
    ledger.give_back(one)
    ledger.lost(one, Life.BROKEN, "closed")
    assert ledger.closing == [(one, Life.BROKEN, "closed")]


def test_lessons_outlive_the_account_within_bounds(monkeypatch):
    monkeypatch.setattr(module, "MAX_LEARNED", 1)
    ledger = books()
    for provider in ("p", "q"):
        ledger.opened(provider)
        ledger.accounts[provider, ""].learned.batch = 3
        ledger.gone((provider, ""))
    assert ledger.account(("q", "")).learned.batch == 3
    assert ledger.account(("p", "")).learned.batch is None
