"""What `mailvet bench fairness` says of its tenants."""

from itertools import islice

from ops.bench.fairness import FLOOD, SINGLE, STEADY, Account, Plan, _addresses, habits, lines_of, table
from ops.world.bulk import bulk_domain


def test_one_floods_eight_are_steady_and_one_asks_for_single_addresses() -> None:
    tenants = habits(Plan(in_flight=1000))
    assert set(tenants) == {FLOOD, SINGLE, *STEADY}
    assert len(STEADY) == 8
    rates = {tenant: habit.size / habit.every_s for tenant, habit in tenants.items()}
    assert rates[FLOOD] > 10 * sum(rates[tenant] for tenant in (*STEADY, SINGLE))
    assert tenants[FLOOD].in_flight == 1000


def test_shares_and_times_are_of_what_was_answered() -> None:
    accounts = {
        "a": Account(10, sent=4, refused=1, took_s=[0.3, 0.1, 0.2]),
        "b": Account(5, sent=2, took_s=[1.0, 2.0]),
        "c": Account(1, sent=1),
    }
    assert [account.missing for account in accounts.values()] == [0, 0, 1]
    first, second, third = lines_of("alone", accounts)
    assert (first.addresses, first.share, first.p50_s, first.longest_s) == (30, 0.75, 0.2, 0.3)
    assert (second.addresses, second.share, second.p95_s) == (10, 0.25, 2.0)
    assert (third.answered, third.p50_s, third.as_dict()["tenant"]) == (0, None, "c")
    assert lines_of("alone", {"c": Account(1)})[0].share == 0
    shown = table([first, third]).splitlines()
    assert len({len(line) for line in shown}) == 1
    assert "75.0%" in shown[2]
    assert shown[3].count(" - ") == 3


def test_addresses_are_all_different_and_one_in_ten_is_missing() -> None:
    found = list(islice(_addresses(), 4000))
    assert len(set(found)) == 4000
    assert sum(address.startswith("nobody") for address in found) == 400
    assert found[0].endswith(f"@{bulk_domain(1)}")
