"""Slips of the finger, and what only looks like one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.checks.lists import Lists
from streams.checks.suggest import is_mistyped, popular_domains, suggest

LISTS = Lists.load()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("gmial.com", "gmail.com"),
        ("gamil.com", "gmail.com"),
        ("mgail.com", "gmail.com"),
        ("gmal.com", "gmail.com"),
        ("gmaill.com", "gmail.com"),
        ("gnail.com", "gmail.com"),
        ("gmai.com", "gmail.com"),
        ("gmail.con", "gmail.com"),
        ("gmail.cmo", "gmail.com"),
        ("gmail.vom", "gmail.com"),
        ("gmail.co", "gmail.com"),
        ("gmail.cm", "gmail.com"),
        ("gmail.comm", "gmail.com"),
        ("hotmial.con", "hotmail.com"),
        ("hotmial.com", "hotmail.com"),
        ("otmail.com", "hotmail.com"),
        ("yaho.com", "yahoo.com"),
        ("yahooo.com", "yahoo.com"),
        ("yahoo.co.ik", "yahoo.co.uk"),
        ("yahoo.couk", "yahoo.co.uk"),
        ("outlok.com", "outlook.com"),
        ("icloud.co", "icloud.com"),
        ("protnmial.com", "protonmail.com"),
        ("aol.con", "aol.com"),
        ("comcast.ner", "comcast.net"),
        ("t-online.ed", "t-online.de"),
        ("acme.con", "acme.com"),
        ("sub.acme.ogr", "sub.acme.org"),
        ("acme.ent", "acme.net"),
    ],
)
def test_slips(typed: str, meant: str) -> None:
    assert suggest(typed, LISTS) == meant


@pytest.mark.parametrize(
    "domain",
    [
        *("gmail.com", "mail.com", "email.com", "gail.com", "ymail.com", "googlemail.com", "yahoo.co.in", "gmx.at"),
        *("acme.com", "acme.co", "acme.cm", "acme.io", "acme.museum", "google.com", "hotel.com", "hotmix.com"),
        *("aol.co", "me.co", "live.co", "wen.de", "gmail.net", "gmail.de", "tmail.com", "fmail.com", "bitmail.com"),
        *("foo.invalid", "foo.local", "foo.test", "foo.corn", "xn--bcher-kva.de", "com", "con", "sandbox.mailvet.test"),
    ],
)
def test_what_may_be_meant_as_it_stands(domain: str) -> None:
    assert suggest(domain, LISTS) is None


def test_the_operators_allow_list_is_never_corrected() -> None:
    allowing = replace(LISTS, allowed=frozenset({"gmial.com", "acme.con"}))
    assert [suggest(domain, allowing) for domain in ("gmial.com", "acme.con")] == [None, None]


def test_no_popular_domain_is_a_slip_of_another() -> None:
    for domain in popular_domains():
        assert suggest(domain, LISTS) is None, domain


def test_known_free_providers_are_never_corrected() -> None:
    for domain in LISTS.free:
        assert suggest(domain, LISTS) is None, domain


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        pytest.param("gmial", "gmail", id="swapped"),
        pytest.param("gnail", "gmail", id="the key beside"),
        pytest.param("gmaiil", "gmail", id="doubled"),
        pytest.param("gmaikl", "gmail", id="two keys at once"),
        pytest.param("gmajil", "gmail", id="the key of the next letter too"),
        pytest.param("gail", "gmail", id="dropped"),
        pytest.param("gmailk", "gmail", id="one more at the end"),
        pytest.param("gmai", "gmail", id="the last one dropped"),
    ],
)
def test_one_slip_of_each_kind(typed: str, meant: str) -> None:
    assert is_mistyped(typed, meant, 1)
    assert not is_mistyped(typed, meant, 0)


@pytest.mark.parametrize("typed", ["gpail", "xgmail", "gmailq", "hmail", "amail", "liamg", "", "g"])
def test_fingers_do_not_slip_like_that(typed: str) -> None:
    assert not is_mistyped(typed, "gmail", 1)


def test_two_slips_need_two() -> None:
    assert is_mistyped("protnmial", "protonmail", 2)
    assert not is_mistyped("protnmial", "protonmail", 1)


@given(st.text("gmailhotyu.co-", min_size=1, max_size=20))
def test_a_suggestion_is_never_what_was_typed_and_needs_no_other(domain: str) -> None:
    meant = suggest(domain, LISTS)
    assert meant != domain
    if meant in popular_domains():
        assert suggest(str(meant), LISTS) is None
