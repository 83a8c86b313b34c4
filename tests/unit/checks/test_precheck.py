"""An address, prepared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.checks.evidence import Prepared
from streams.checks.lists import Lists
from streams.checks.precheck import Precheck

PRECHECK = Precheck(Lists.load())


def test_everything_that_one_address_tells() -> None:
    assert PRECHECK(" Info+x@GMial.com ") == Prepared(
        input=" Info+x@GMial.com ",
        address="Info+x@gmial.com",
        normalized="Info+x@gmial.com",
        ascii_address="Info+x@gmial.com",
        local="Info+x",
        domain="gmial.com",
        role=True,
        disposable=True,
        alias=True,
        suggestion="Info+x@gmail.com",
    )


def test_an_ordinary_address_has_no_flags() -> None:
    found = PRECHECK("joe@example.com")
    assert not any((found.role, found.free, found.disposable, found.alias, found.smtputf8))
    assert (found.suggestion, found.syntax_error) == (None, None)


def test_the_ascii_form_is_what_rcpt_carries_where_there_is_one() -> None:
    assert PRECHECK("joe@bücher.example").address == "joe@xn--bcher-kva.example"
    utf8 = PRECHECK("jürgen@bücher.example")
    assert (utf8.address, utf8.ascii_address, utf8.smtputf8) == ("jürgen@bücher.example", None, True)


def test_what_is_no_address_says_why() -> None:
    found = PRECHECK("nobody")
    assert (found.input, found.address, found.domain) == ("nobody", "", "")
    assert found.syntax_error == "The address has no @ sign."


def test_a_literal_is_on_no_list() -> None:
    found = PRECHECK("joe@[192.0.2.1]")
    assert (found.free, found.disposable, found.suggestion) == (False, False, None)


@pytest.mark.parametrize(
    ("local", "alias"),
    [
        ("joe+tag", True),
        ("a+b+c", True),
        ("joe", False),
        ("+joe", False),
        ("joe+", False),
        ("joe-tag", False),
        ('"a +b"', False),
    ],
)
def test_a_plus_sign_separates_a_tag(local: str, alias: bool) -> None:
    assert PRECHECK(f"{local}@example.com").alias is alias


@given(st.text(max_size=60) | st.emails())
def test_no_text_breaks_it(text: str) -> None:
    found = PRECHECK(text)
    assert found.input == text
    assert (found.syntax_error is None) == bool(found.address and found.domain)
