"""The lists hold what their lines say, and passes share no domain."""

import pytest

from ops.bench.lists import LISTS, PASS_SIZE, exists


@pytest.mark.parametrize(("name", "providers", "miss"), [("A", 100, 0.5), ("B", 5, 0.5), ("S", 5, 0.05)])
def test_lists_are_as_described(name: str, providers: int, miss: float) -> None:
    row = LISTS[name]
    addresses = row.one_pass(0)
    assert len(addresses) == len(set(addresses)) == row.size == PASS_SIZE
    assert row.providers == providers
    assert sum(not exists(address) for address in addresses) == miss * PASS_SIZE == row.miss_ratio * PASS_SIZE


def test_a_third_of_the_domains_of_z_have_one_address_and_a_few_providers_most() -> None:
    domains = LISTS["Z"].domains
    alone = sum(domain.size == 1 for domain in domains)
    assert LISTS["Z"].size == PASS_SIZE
    assert 0.3 < alone / len(domains) < 0.4
    assert sum(domain.size for domain in domains if domain.provider < 10) > PASS_SIZE / 3


def test_passes_share_no_domain_and_are_the_same_each_time() -> None:
    row = LISTS["A"]
    first, second = ({address.partition("@")[2] for address in row.one_pass(n)} for n in (0, 1))
    assert not first & second
    assert row.one_pass(0) == row.one_pass(0)
    assert row.passes(0, 2) == row.one_pass(0) + row.one_pass(1)
