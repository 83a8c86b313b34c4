"""The do-not-probe list: what an entry speaks of, and what changes it."""

import pytest

from streams.checks.lists import ascii_domain
from streams.checks.optouts import OptOuts


def test_an_entry_speaks_of_its_domain_and_of_all_below_it() -> None:
    opt_outs = OptOuts()
    opt_outs.put("no.example", listed=True)
    assert [opt_outs(name) for name in ("no.example", "a.b.no.example")] == [True, True]
    assert not any(opt_outs(name) for name in ("example", "xno.example", "no.example.org", "[192.0.2.1]", ""))


def test_what_was_taken_off_is_asked_again_but_not_what_stands_in_the_file() -> None:
    opt_outs = OptOuts({"fixed.example"})
    for domain in ("no.example", "fixed.example"):
        opt_outs.put(domain, listed=True)
    assert len(opt_outs) == 2
    for domain in ("no.example", "fixed.example", "never.example"):
        opt_outs.put(domain, listed=False)
    assert (opt_outs("no.example"), opt_outs("fixed.example"), len(opt_outs)) == (False, True, 1)


def test_nobody_opted_out() -> None:
    assert not OptOuts()("example.org")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("@Example.ORG.", "example.org"),
        ("*.b\u00fccher.example", "xn--bcher-kva.example"),
        ("org", None),
        ("a b.c", None),
    ],
)
def test_domains_as_people_write_them(written: str, read: str | None) -> None:
    assert ascii_domain(written) == read
