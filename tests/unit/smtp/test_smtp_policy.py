"""Limits and the decisions made of them."""

import tomllib
from importlib.resources import files
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.smtp.policy import (
    DOUBT,
    LARGE_PROVIDERS,
    Learned,
    PolicyBook,
    ProviderPolicy,
    StartTLS,
    Usage,
    chunk_size,
    errors_left,
    final_room,
    last_room,
    last_room_after,
    likely_within,
    max_age,
    may_reuse,
    nonmail_left,
    retire_cause,
    starts_new_transaction,
)

POLICY = ProviderPolicy()


@pytest.mark.parametrize(
    "fields",
    [
        {"sessions": 0},
        {"rcpt_per_transaction": 0},
        {"min_errors_left": 0},
        {"error_budget": 2, "min_errors_left": 3},
        {"breaker_failures": 0},
        {"block_domains": 0},
        {"warm": 5, "sessions": 4},
        {"connections_per_s": -1.0},
        {"max_uses": -1},
        {"stall_s": 0.0},
        {"age_jitter": 1.0},
    ],
)
def test_policies_that_can_not_work(fields):
    with pytest.raises(ValueError, match="must be"):
        ProviderPolicy(**fields)


def test_the_operator_outranks_the_book_and_the_book_the_default():
    book = PolicyBook(ProviderPolicy(sessions=7), {"outlook.com": {"sessions": 2}})
    assert book.policy("anybody").sessions == 7
    assert book.policy("google").domains_per_transaction == 1
    assert (book.policy("outlook.com").sessions, book.policy("outlook.com").rcpt_per_transaction) == (2, 1)


def test_whoever_differs_in_nothing_costs_nothing():
    book = PolicyBook(ProviderPolicy(sessions=7))
    assert book.policy("anybody") is book.default


def test_a_wrong_name_is_found_when_the_book_is_made():
    with pytest.raises(TypeError, match="sesions"):
        PolicyBook(overrides={"x": {"sesions": 1}})


def test_the_large_providers_data_is_sound():
    default = ProviderPolicy(sessions_max=9)
    for provider in LARGE_PROVIDERS:
        policy = PolicyBook(default).policy(provider)
        assert policy != default
        assert policy.sessions_max == 0


def test_the_provider_table_knows_the_large_providers():
    table = files("streams.checks").joinpath("data/providers.toml").read_text()
    assert set(LARGE_PROVIDERS) <= set(tomllib.loads(table))


def test_what_is_left():
    assert errors_left(POLICY, Usage(errors=4), Learned()) == 6
    assert errors_left(POLICY, Usage(errors=11), Learned()) == 0
    assert errors_left(ProviderPolicy(error_budget=0), Usage(errors=99), Learned()) is None
    assert nonmail_left(POLICY, Usage(nonmail=8)) == 0
    assert nonmail_left(ProviderPolicy(nonmail_budget=0), Usage(nonmail=99)) is None


@pytest.mark.parametrize(
    ("usage", "cause"),
    [
        (Usage(), None),
        (Usage(errors=7), None),
        (Usage(errors=8), "error budget"),
        (Usage(nonmail=8), None),
        (Usage(nonmail=8, recipients=100), "nonmail budget"),
        (Usage(spent=True), "nonmail budget"),
    ],
)
def test_when_a_session_retires(usage, cause):
    assert retire_cause(POLICY, usage, Learned()) == cause


@pytest.mark.parametrize(
    ("uses", "age", "usage", "cause"),
    [
        (1, 1.0, Usage(), ""),
        (1, 600.0, Usage(), "max age"),
        (1000, 1.0, Usage(), "max uses"),
        (1, 1.0, Usage(errors=9), "error budget"),
    ],
)
def test_when_a_session_is_not_given_out_again(uses, age, usage, cause):
    assert may_reuse(POLICY, usage, Learned(), uses=uses, age_s=age, max_age_s=600.0) == cause


def test_zero_uses_is_no_limit():
    assert may_reuse(ProviderPolicy(max_uses=0), Usage(), Learned(), uses=10**6, age_s=0, max_age_s=1) == ""


@pytest.mark.parametrize(
    ("fields", "usage", "learned", "size"),
    [
        ({}, Usage(), Learned(), 10),
        ({}, Usage(errors=6), Learned(), 4),
        ({}, Usage(errors=9), Learned(), 0),
        ({}, Usage(), Learned(batch=3), 3),
        ({"error_budget": 0}, Usage(), Learned(), 900),
        ({"error_budget": 0}, Usage(recipients=40, nonmail=8), Learned(), 60),
        ({"error_budget": 0, "rcpt_per_transaction": 1}, Usage(), Learned(), 9),
        ({"error_budget": 0}, Usage(), Learned(rcpt_per_transaction=2), 18),
        ({"error_budget": 0, "nonmail_budget": 0}, Usage(recipients=100), Learned(), 100),
    ],
)
def test_how_many_may_be_asked_at_once(fields, usage, learned, size):
    assert chunk_size(ProviderPolicy(**fields), usage, learned) == size


def test_max_age_has_jitter():
    assert max_age(POLICY, 0.0) == 600.0
    assert max_age(POLICY, 1.0) == pytest.approx(480.0)


def test_when_a_recipient_needs_a_transaction_of_its_own():
    policy = ProviderPolicy(rcpt_per_transaction=2, domains_per_transaction=1)
    assert not starts_new_transaction(policy, Learned(), 0, set(), "x")
    assert not starts_new_transaction(policy, Learned(), 1, {"x"}, "x")
    assert starts_new_transaction(policy, Learned(), 1, {"x"}, "y")
    assert starts_new_transaction(policy, Learned(), 2, {"x"}, "x")


def test_lessons():
    learned = Learned()
    learned.too_many(5)
    learned.too_many(9)
    assert learned.rcpt_per_transaction == 5
    learned.too_many(0)
    assert learned.rcpt_per_transaction == 1
    learned.answered(100)
    assert learned.batch is None
    learned.stalled(0)
    learned.answered(1)
    learned.answered(1)
    assert learned.batch == 2


usages = st.builds(Usage, errors=st.integers(0, 30), nonmail=st.integers(0, 12), recipients=st.integers(0, 120))
answered = st.lists(st.booleans(), max_size=600)


def heard(refused: list[bool]) -> Learned:
    """What is learned of so many answers, each of them a refusal or not."""
    learned = Learned()
    for each in refused:
        learned.counted(1, each)
    return learned


@given(usages)
def test_no_write_to_a_stranger_can_pass_the_error_budget(usage):
    size = chunk_size(POLICY, usage, Learned())
    assert size == 0 or usage.errors + size <= POLICY.error_budget


@given(usages, answered)
def test_no_write_can_pass_the_error_budget_by_more_than_the_policy_says(usage, refused):
    size = chunk_size(POLICY, usage, heard(refused))
    assert size == 0 or usage.errors + size <= POLICY.error_budget + POLICY.errors_beyond
    assert size >= chunk_size(POLICY, usage, Learned())


@pytest.mark.parametrize(
    ("refused", "errors", "size"),
    [
        (0.5, 0, 10),
        (0.5, 7, 3),
        (0.3, 0, 10),
        (0.2, 0, 19),
        (0.05, 0, 19),
        (0.05, 7, 8),
        (0.0, 0, 19),
        (0.0, 9, 0),
    ],
)
def test_where_few_are_missing_more_are_asked_at_a_time(refused, errors, size):
    learned = Learned()
    for _ in range(10):
        learned.counted(20, int(20 * refused))
    assert chunk_size(POLICY, Usage(errors=errors), learned) == size


@pytest.mark.parametrize(
    ("refused", "errors", "room"),
    [
        (0.5, 0, 0),
        (0.5, 3, 0),
        (0.5, 4, 5),
        (0.5, 5, 4),
        (0.5, 7, 2),
        (0.5, 8, 0),
        (0.2, 7, 0),
        (1.0, 0, 9),
    ],
)
def test_what_a_session_may_part_with(refused, errors, room):
    learned = Learned()
    learned.counted(100, int(100 * refused))
    assert last_room(POLICY, Usage(errors=errors), learned) == room


@pytest.mark.parametrize(
    ("fields", "learned"),
    [
        ({"error_budget": 0}, Learned(recent_answers=10, recent_refusals=10)),
        ({"parting": False}, Learned(recent_answers=10, recent_refusals=10)),
        ({}, Learned()),
        ({}, Learned(recent_answers=10, recent_refusals=10, parts_badly=True)),
        ({}, Learned(recent_answers=10, recent_refusals=10, batch=2)),
        ({"nonmail_budget": 2}, Learned(recent_answers=10, recent_refusals=10, rcpt_per_transaction=1)),
    ],
    ids=["no budget", "not wanted", "nothing known", "replies were lost", "small writes", "small transactions"],
)
def test_when_nobody_parts(fields, learned):
    assert last_room(ProviderPolicy(**fields), Usage(errors=5), learned) == 0
    assert last_room_after(ProviderPolicy(**fields), Usage(), learned, 5) == 0


@pytest.mark.parametrize(
    ("refused", "errors", "recipients", "room"),
    [
        (0.5, 0, 10, 4),
        (0.5, 0, 4, 0),
        (0.5, 3, 6, 3),
        (0.5, 5, 5, 2),
        (0.5, 6, 4, 0),
        (0.2, 0, 10, 0),
        (1.0, 0, 10, 0),
        (0.8, 0, 5, 5),
    ],
)
def test_what_a_session_is_likely_to_part_with_after_its_next_recipients(refused, errors, recipients, room):
    learned = Learned()
    learned.counted(100, int(100 * refused))
    assert last_room_after(POLICY, Usage(errors=errors), learned, recipients) == room


@pytest.mark.parametrize(("errors", "room"), [(0, 9), (5, 4), (7, 2), (8, 0), (10, 0), (12, 0)])
def test_what_a_session_is_asked_that_has_given_its_place_away(errors, room):
    assert final_room(POLICY, Usage(errors=errors), Learned()) == room
    assert final_room(POLICY, Usage(errors=errors), Learned(batch=1)) == min(1, room)


@given(usages, answered)
def test_whoever_parts_has_a_refusal_to_spare(usage, refused):
    learned = heard(refused)
    assert final_room(POLICY, usage, learned) <= max(0, POLICY.error_budget - usage.errors - 1)
    assert last_room(POLICY, usage, learned) <= max(0, POLICY.error_budget - usage.errors - 1)
    assert last_room(POLICY, usage, learned) <= chunk_size(POLICY, usage, learned)


@given(st.integers(1, 10), st.integers(0, 100), st.integers(0, 1000))
def test_more_refusals_than_the_session_has_left_are_improbable(left, refused, answered):
    learned = Learned(recent_answers=max(refused, answered), recent_refusals=refused)
    p = (refused + DOUBT) / (max(refused, answered) + DOUBT)
    many = likely_within(left, learned)
    within = sum(comb(many, k) * p**k * (1 - p) ** (many - k) for k in range(min(left, many) + 1))
    assert within > 0.99


def test_a_list_that_gets_worse_is_soon_asked_less_at_a_time():
    learned = heard([False] * 1000)
    assert chunk_size(POLICY, Usage(), learned) == 19
    learned.counted(19, 19)
    learned.counted(19, 19)
    assert chunk_size(POLICY, Usage(), learned) < 19


def test_who_never_wants_to_ask_beyond_the_budget_or_was_slowed_for_it_does_not():
    learned = heard([False] * 100)
    assert chunk_size(ProviderPolicy(errors_beyond=0), Usage(), learned) == 10
    learned.erred(10, POLICY, stalled=True)
    assert chunk_size(POLICY, Usage(), learned) == 9


def test_a_rate_of_refusals_is_no_lesson_to_be_kept():
    assert heard([True] * 9) == Learned()


def test_tls_is_asked_for_where_the_server_insists_unless_told_otherwise():
    assert POLICY.starttls is StartTLS.INSISTED


def test_a_budget_grows_while_nothing_is_slowed_up_to_a_bound():
    policy, learned = ProviderPolicy(error_budget_max=15), Learned()
    learned.erred(7, policy, stalled=False)
    assert learned.error_budget is None, "three are left: nothing is known of the last ones"
    learned.erred(9, policy, stalled=False)
    assert errors_left(policy, Usage(errors=9), learned) == 4
    for errors in (11, 14, 15):
        learned.erred(errors, policy, stalled=False)
    assert learned.error_budget == 15


def test_a_stall_after_refusals_makes_the_budget_smaller_for_good():
    policy, learned = ProviderPolicy(error_budget_max=15), Learned()
    learned.erred(6, policy, stalled=True)
    assert learned.error_budget == 5
    learned.erred(5, policy, stalled=False)
    assert learned.error_budget == 5
    learned.erred(3, policy, stalled=True)
    assert learned.error_budget == 3, "never less than a session is worth"


def test_by_itself_no_budget_grows():
    learned = Learned()
    learned.erred(10, POLICY, stalled=False)
    assert learned == Learned()


@pytest.mark.parametrize(("errors", "budget"), [(2, 10), (9, 0)])
def test_a_stall_that_has_nothing_to_do_with_refusals_teaches_nothing_of_them(errors, budget):
    learned = Learned()
    learned.erred(errors, ProviderPolicy(error_budget=budget), stalled=True)
    assert learned == Learned()


def test_limits_are_tried_anew_after_an_hour():
    learned = Learned()
    learned.forget(0.0)
    learned.too_many(5)
    learned.forget(10.0)
    learned.one_domain = True
    learned.erred(9, POLICY, stalled=True)
    learned.forget(3000.0)
    learned.forget(6599.0)
    assert (learned.rcpt_per_transaction, learned.one_domain, learned.error_budget) == (5, True, 8)
    learned.forget(6600.0)
    assert learned == Learned()


def test_a_budget_that_has_grown_is_no_limit_to_be_tried_anew():
    policy, learned = ProviderPolicy(error_budget_max=15), Learned()
    learned.erred(9, policy, stalled=False)
    learned.too_many(5)
    learned.forget(0.0)
    learned.forget(4000.0)
    assert (learned.rcpt_per_transaction, learned.error_budget) == (None, 13)
