"""What SMTP can carry, and what it can't."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.checks import syntax
from streams.checks.syntax import Mailbox, Malformed, parse_mailbox

LONG = ".".join(["b" * 61] * 3)


def mailbox(text: str) -> Mailbox:
    found = parse_mailbox(text)
    assert isinstance(found, Mailbox), found
    return found


@pytest.mark.parametrize(
    ("text", "normalized", "domain"),
    [
        ("joe@example.com", "joe@example.com", "example.com"),
        ("Joe@EXAMPLE.com", "Joe@example.com", "example.com"),
        ("  joe@example.com\r\n", "joe@example.com", "example.com"),
        ("INFO@example.com", "INFO@example.com", "example.com"),
        ("!#$%&'*+-/=?^_`{|}~@example.com", "!#$%&'*+-/=?^_`{|}~@example.com", "example.com"),
        ('"a b"@example.com', '"a b"@example.com', "example.com"),
        (r'"a\ b"@example.com', '"a b"@example.com', "example.com"),
        (r'"a\"b\\c"@example.com', r'"a\"b\\c"@example.com', "example.com"),
        ('"joe"@example.com', "joe@example.com", "example.com"),
        ('"a..b"@example.com', '"a..b"@example.com', "example.com"),
        ('"a@b"@example.com', '"a@b"@example.com', "example.com"),
        ('""@example.com', '""@example.com', "example.com"),
        ("joe@[192.0.2.1]", "joe@[192.0.2.1]", "[192.0.2.1]"),
        ("joe@[IPv6:2001:db8:0::1]", "joe@[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("joe@bücher.example", "joe@bücher.example", "xn--bcher-kva.example"),
        ("joe@xn--bcher-kva.example", "joe@bücher.example", "xn--bcher-kva.example"),
        ("joe@example。com", "joe@example.com", "example.com"),
        ("joe@example.test", "joe@example.test", "example.test"),
        ("joe@example.invalid", "joe@example.invalid", "example.invalid"),
        ("joe@printer.LOCAL", "joe@printer.local", "printer.local"),
        ("joe@bücher.local", "joe@bücher.local", "xn--bcher-kva.local"),
        ("a@1.example.com", "a@1.example.com", "1.example.com"),
    ],
)
def test_valid_addresses(text: str, normalized: str, domain: str) -> None:
    found = mailbox(text)
    assert (found.normalized, found.domain, found.smtputf8) == (normalized, domain, False)
    assert found.ascii_address == f"{found.local}@{domain}"


@pytest.mark.parametrize("text", ["jose\u0301@example.com", '"jos\u00e9"@example.com', "jos\u00e9@example.com"])
def test_a_local_part_beyond_ascii_is_nfc_and_needs_smtputf8(text: str) -> None:
    found = mailbox(text)
    assert (found.normalized, found.local, found.ascii_address, found.smtputf8) == (
        "jos\u00e9@example.com",
        "jos\u00e9",
        None,
        True,
    )


@pytest.mark.parametrize("text", ["😀@example.com", "שלום@example.com", "joe@שלום.com", "用户@例子.测试"])
def test_other_scripts_are_welcome(text: str) -> None:
    assert mailbox(text).domain.isascii()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" \t", "empty"),
        ("joe", "no @"),
        ("joe＠example.com", "full-width"),
        ("@", "before"),
        ("@example.com", "before"),
        ("joe@", "after"),
        ("a@b@example.com", "@"),
        ("Joe <joe@example.com>", "angle brackets"),
        ("<joe@example.com>", "angle brackets"),
        ("mailto:joe@example.com", "':'"),
        ("joe(comment)@example.com", "'('"),
        ("joe@example.com(comment)", "'('"),
        ("joe @example.com", "SPACE"),
        ("joe@ example.com", "SPACE"),
        (".joe@example.com", "start with a period"),
        ("joe.@example.com", "period"),
        ("j..e@example.com", "two periods"),
        ("joe@.example.com", "period"),
        ("joe@example.com.", "end with a period"),
        ("joe@example..com", "two periods"),
        ("joe@-example.com", "hyphen"),
        ("joe@example-.com", "hyphen"),
        ("joe@ab--cd.com", "dashes"),
        ("joe@ex_ample.com", "'_'"),
        ("joe@localhost", "period"),
        ("joe@local", "period"),
        ("joe@test", "no dot"),
        ("joe@example.123", "top-level"),
        ("joe@192.0.2.1", "top-level"),
        ("joe@[192.0.2]", "IPv4"),
        ("joe@[192.0.2.256]", "IPv4"),
        ("joe@[2001:db8::1]", "tag"),
        ("joe@[IPv6:2001:db8::1%eth0]", "zone"),
        ("joe@[x:y]", "tag"),
        ('"joe"x@example.com', "quotation mark"),
        ('"joe@example.com', "quotation mark"),
        ('"@example.com', "quotation mark"),
        ('j"o"e@example.com', "'\"'"),
        ("joe@xn--a.example", "IDNA"),
        ("joe@😀.com", "not allowed"),
        ("jo\u202ee@example.com", "OVERRIDE"),
        ("\u200bjoe@example.com", "ZERO WIDTH"),
        ("joe\x00@example.com", "U+0000"),
        ('"joe\t"@example.com', "U+0009"),
        ("joe@example.com\r\nRCPT TO:<x@example.com>", "U+000D"),
        ("joe\u2028@example.com", "U+2028"),
        ("\ud800joe@example.com", "U+D800"),
        ("a" * 600 + "@example.com", "254 octets"),
    ],
)
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    found = parse_mailbox(text)
    assert isinstance(found, Malformed), found
    assert why in found.sentence
    assert found.sentence.isprintable()


@pytest.mark.parametrize(
    ("fits", "too_long"),
    [
        ("a" * 64 + "@example.com", "a" * 65 + "@example.com"),
        ("é" * 32 + "@example.com", "é" * 33 + "@example.com"),
        ('"' + " " * 62 + '"@example.com', '"' + " " * 63 + '"@example.com'),
        ("a@" + "b" * 63 + ".com", "a@" + "b" * 64 + ".com"),
        ("a" * 64 + f"@{LONG}.com", "a" * 64 + f"@{LONG}.info"),
        ("é" * 32 + f"@{LONG}.com", "é" * 32 + f"@{LONG}.info"),
        ("a" * 60 + f"@{LONG}.invalid", "a" * 61 + f"@{LONG}.invalid"),
    ],
)
def test_limits_are_counted_in_octets(fits: str, too_long: str) -> None:
    mailbox(fits)
    found = parse_mailbox(too_long)
    assert isinstance(found, Malformed)


def test_a_domain_that_grows_beyond_the_limit_in_ascii_is_refused() -> None:
    unicode_form = "a" * 60 + "@" + ".".join(["ü" * 20] * 5) + ".com"
    assert len(unicode_form.encode()) > 254 or isinstance(parse_mailbox(unicode_form), Malformed)
    assert isinstance(parse_mailbox(unicode_form), Malformed)


@given(st.text(max_size=80) | st.text('ab.@"\\ -_é[]:<>\u0301＠', max_size=30))
def test_no_text_breaks_it_and_what_is_valid_stays_so(text: str) -> None:
    found = parse_mailbox(text)
    if isinstance(found, Mailbox):
        assert parse_mailbox(found.normalized) == found
        assert len((found.ascii_address or found.normalized).encode()) <= 254
        assert not set("\r\n\0") & set(found.normalized)


@given(
    st.text('abc.@"\\ é', max_size=20), st.sampled_from(["example.com", "bücher.example", "[192.0.2.1]", "x.invalid"])
)
def test_any_local_part_at_a_good_domain_is_read_or_refused(local: str, domain: str) -> None:
    found = parse_mailbox(f"{local}@{domain}")
    if isinstance(found, Mailbox):
        assert parse_mailbox(found.ascii_address or found.normalized) == found


@given(
    st.from_regex(r"[a-z.+-]{1,70}@[a-z0-9-]{1,20}(\.[a-zA-Z0-9-]{1,12}){0,3}", fullmatch=True)
    | st.from_regex(r"a@([a-z0-9-]{1,64}\.){1,5}(com|test|invalid|c1m|1a|xn--p1ai|x-y)", fullmatch=True)
)
@example("a@" + "b" * 63 + ".com")
@example("a@" + "b" * 64 + ".com")
@example("a@" + ".".join(["b" * 61] * 4) + ".com")
@example("a@ab--c.com")
@example("a@b.local")
@example("a@b\u0085c.com")
@example("a@b.com\u2028")
@example("a@b.com\x00")
@example("a@b.com>")
@example("a@b\ud800.com")
def test_the_short_way_for_ordinary_addresses_leads_where_the_long_one_does(text: str) -> None:
    quickly = parse_mailbox(text)
    syntax._parse_domain.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for short in ("_DOT_ATOM", "_HOST_NAME"):
            patch.setattr(syntax, short, re.compile(r"(?!)"))
        slowly = parse_mailbox(text)
    syntax._parse_domain.cache_clear()
    assert isinstance(quickly, Malformed) if isinstance(slowly, Malformed) else quickly == slowly
