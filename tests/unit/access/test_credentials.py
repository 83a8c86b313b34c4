"""Bearer keys are refused offline when mistyped, and never quoted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.access.credentials import Claim, Malformed, digest, matches, mint, parse

KEY = mint("acme", "k1", b"0123456789abcdef")


def test_a_key_reads_as_it_was_minted() -> None:
    assert parse(KEY) == Claim("acme", "k1", digest(KEY))
    assert KEY.startswith("mv_acme_k1_")


def test_the_form_is_fixed_for_other_languages() -> None:
    assert mint("acme", "k1", b"0123456789abcdef") == "mv_acme_k1_gaytemzugu3doobzmfrggzdfmy_c73elpa"


@given(st.integers(0, len(KEY) - 1), st.sampled_from("abcXYZ019_.-é \n"))
def test_one_wrong_character_is_refused_offline(place: int, character: str) -> None:
    mistyped = KEY[:place] + character + KEY[place + 1 :]
    if mistyped != KEY:
        with pytest.raises(Malformed):
            parse(mistyped)


@given(st.integers(1, len(KEY)))
def test_a_key_cut_off_is_refused(length: int) -> None:
    with pytest.raises(Malformed):
        parse(KEY[:-length])


@given(st.text(max_size=600))
def test_any_text_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(Malformed) as refused:
        parse("mv_acme_k1_" + text)
    assert len(text) < 20 or text not in str(refused.value)


@pytest.mark.parametrize("tenant", ["", "a_b", "a:b", "a/b", ".a", "a" * 65, "ä"])
def test_names_that_would_run_together_are_refused(tenant: str) -> None:
    with pytest.raises(Malformed):
        mint(tenant, "k1", b"0123456789abcdef")


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(Malformed, match="16 random bytes"):
        mint("acme", "k1", b"short")


def test_a_digest_matches_any_of_those_known_and_no_other() -> None:
    other = digest("other")
    assert matches(digest(KEY), (other, digest(KEY)))
    assert not matches(digest(KEY), (other,))
    assert not matches(digest(KEY), ())
