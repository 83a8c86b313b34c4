"""Replies taken out of logs and bounces, folded for the rules, and shown safely."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.result import MAX_TEXT_BYTES
from schemas.vocabulary import Stage
from streams.checks import reply_text
from streams.checks.reply_rules import match
from streams.checks.reply_text import (
    enhanced_of,
    fold,
    parse_reply,
    printable,
    unwrap,
    without_addresses,
    without_names,
)
from streams.smtp.replies import Reply


@pytest.mark.parametrize(
    ("text", "code", "lines"),
    [
        ("550 5.1.1 User unknown", 550, ("5.1.1 User unknown",)),
        ("  550 User unknown\r\n", 550, ("User unknown",)),
        (
            "550-5.1.1 The email\r\n550-5.1.1 account\r\n550 5.1.1 is gone",
            550,
            ("5.1.1 The email", "5.1.1 account", "5.1.1 is gone"),
        ),
        (r"550-First\n550 Second", 550, ("First", "Second")),
        (r"550-First\r\n550 Second", 550, ("First", "Second")),
        ("550", 550, ("",)),
        ("550-5.7.26", 550, ("5.7.26",)),
        ("550: User unknown", 550, ("User unknown",)),
        ("User unknown", 0, ("User unknown",)),
        ("", 0, ("",)),
        ("\n\n", 0, ("",)),
        ("smtp;550 5.1.1", 550, ("5.1.1",)),
        ("smtp; 550 5.1.1 <a@b.example>... User unknown", 550, ("5.1.1 <a@b.example>... User unknown",)),
        ("Diagnostic-Code: smtp; 552 5.2.2 full", 552, ("5.2.2 full",)),
        ("host mx.example[192.0.2.5] said: 550 5.1.1 No (in reply to RCPT TO command)", 550, ("5.1.1 No",)),
        ("<a@b.example>: host mx[192.0.2.5] said: 450 Later (in reply to RCPT TO command)", 450, ("Later",)),
        (
            "Remote Server returned '550 5.1.10 RESOLVER.ADR.RecipientNotFound'",
            550,
            ("5.1.10 RESOLVER.ADR.RecipientNotFound'",),
        ),
        ("SMTP error from remote mail server after RCPT TO:<a@b.example>: host mx [192.0.2.5]: 550 No", 550, ("No",)),
        ("5.1.0 - Unknown address error 550-'5.1.1 no", 550, ("'5.1.1 no",)),
        ("... while talking to mx.example.:\n>>> RCPT To:<a@b.example>\n<<< 550 5.1.1 No", 550, ("5.1.1 No",)),
        ("it failed with 550 5.1.1 after all", 550, ("5.1.1 after all",)),
        ("5.1.1", 0, ("5.1.1",)),
        ("999 what", 0, ("999 what",)),
        ("12345", 0, ("12345",)),
    ],
)
def test_a_reply_is_found_in_what_is_around_it(text, code, lines):
    assert parse_reply(text) == Reply(code, lines)


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("host mx said: 550 no (in reply to RCPT TO command)", Stage.RCPT),
        ("host mx said: 550 no (in reply to end of DATA command)", Stage.RCPT),
        ("host mx said: 550 no (in reply to MAIL FROM command)", Stage.MAIL),
        ("host mx said: 550 no (in reply to EHLO command)", Stage.EHLO),
        ("host mx said: 550 no (in reply to HELO command)", Stage.EHLO),
        ("host mx said: 454 no (in reply to STARTTLS command)", Stage.STARTTLS),
        ("host mx[192.0.2.5] refused to talk to me: 554 no", Stage.BANNER),
        (">>> RCPT To:<a@b.example>\n<<< 550 no", Stage.RCPT),
        (">>> MAIL From:<a@b.example>\n<<< 550 no", Stage.MAIL),
        (">>> EHLO x\n<<< 550 no", Stage.EHLO),
        ("550 no", None),
    ],
)
def test_the_log_says_which_command_was_answered(text, stage):
    assert unwrap(text).stage is stage


@pytest.mark.parametrize(
    ("reply", "enhanced"),
    [
        (Reply(550, ("5.1.1 no",)), "5.1.1"),
        (Reply(550, ("#5.1.0 Address rejected",)), "5.1.0"),
        (Reply(550, ("no mailbox here (#5.1.1)",)), "5.1.1"),
        (Reply(550, ("no mailbox here by that name. (#5.7.17)",)), "5.7.17"),
        (Reply(550, ("first", "5.2.1 second")), "5.2.1"),
        (Reply(550, ("see version 4.9.2 of it",)), None),
        (Reply(550, ("from 5.1.1.1",)), None),
        (Reply(0, ("mailbox is (4.2.2) full",)), "4.2.2"),
        (Reply(550, ("no",)), None),
    ],
)
def test_the_enhanced_code_wherever_it_stands(reply, enhanced):
    assert enhanced_of(reply) == enhanced


@pytest.mark.parametrize(
    ("lines", "folded"),
    [
        (
            ("5.1.1 The email account that you", "5.1.1 tried to reach does not exist"),
            "the email account that you tried to reach does not exist",
        ),
        (("The mailbox 550-5.1.1 is 550 5.1.1 full",), "the mailbox 5.1.1 is 5.1.1 full"),
        (("<Some.Body@Example.org>: gone",), "<@>: gone"),
        (("Client host [192.0.2.1] blocked",), "client host [[ip]] blocked"),
        (("from 2001:db8:0:0:1::5 here",), "from [ip] here"),
        (("Empfänger  unbekannt, boîte “pleine”",), 'empfanger unbekannt, boite "pleine"'),
        (("Ｕser unknown",), "user unknown"),
        (("no such user x12si12345.6 - gsmtp",), "no such user"),
        (("denied [VI1EUR04FT012.eop-eur04.prod.protection.outlook.com 2024]",), "denied"),
        (("undeliverable: host mx[10.0.0.3] said: 550 no",), "undeliverable: 550 no"),
    ],
)
def test_one_spelling_for_the_rules(lines, folded):
    assert fold(Reply(550, lines)) == folded


def test_what_is_shown_is_printable_and_short():
    assert printable("a\x1b[31mb\r\nc\u202ed\ud800") == "a [31mb  c d"
    assert len(printable("é" * 1000).encode()) == 512
    assert printable("  ") == ""


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_any_text_at_all_is_read(text):
    unwrapped = unwrap(text)
    assert unwrapped.reply.code == 0 or 200 <= unwrapped.reply.code < 560
    assert match(unwrapped.reply, unwrapped.stage or Stage.RCPT)
    assert printable(text).isprintable()


@given(st.text(max_size=2000))
def test_printable_keeps_512_bytes(text):
    assert len(printable(text).encode()) <= 512


def test_a_reply_without_addresses_means_what_it_meant() -> None:
    reply = Reply(554, ("5.7.1 <alice@a.test>: blocked,", "ask bob@b.test"))
    assert without_addresses(reply) == Reply(554, ("5.7.1 <@>: blocked,", "ask @"))
    assert fold(without_addresses(reply)) == fold(reply)
    assert without_addresses(reply, "alice@a.test") == without_addresses(reply)


def test_the_null_sender_is_no_address() -> None:
    reply = Reply(550, ("5.1.7 <>: refused, ask bob@b.test",))
    assert without_addresses(reply) == Reply(550, ("5.1.7 <>: refused, ask @",))
    assert fold(without_addresses(reply)) == fold(reply)


@pytest.mark.parametrize("line", (Path(__file__).parent / "replies.txt").read_text("utf-8").splitlines())
def test_the_rules_read_every_reply_alike_without_its_addresses(line: str) -> None:
    reply = parse_reply(line.partition("|")[2])
    assert fold(without_addresses(reply)) == fold(reply)
    assert fold(without_addresses(reply, "foo@example.org")) == fold(reply)


@pytest.mark.parametrize("line", ["5.1.\u0661 x", "x (5.\uff11.1)"])
def test_digits_of_an_enhanced_code_are_ascii(line: str) -> None:
    assert enhanced_of(Reply(550, (line,))) is None


def test_long_texts_are_remembered_by_what_is_shown_of_them(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(reply_text, "_made_printable", lambda text: asked.append(text) or text)
    for end in ("a", "b" * 100_000):
        printable("é" * 3 * MAX_TEXT_BYTES + end)
    assert [len(text) for text in asked] == [2 * MAX_TEXT_BYTES] * 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user unknown", "user unknown"),
        ("user unknown; see https://help.example.com/blocked?ip=[ip]; bye", "user unknown; see ; bye"),
        ("blocked, see www.example.com/user-unknown", "blocked, see"),
        ("relay.example.com: user unknown", "[]: user unknown"),
        ("spam.mx.example.co.uk says no", "[] says no"),
        ("rejected.see example.com", "rejected.see example.com"),
        ("version 8.14.4/8.14.4", "version 8.14.4/8.14.4"),
        ("no such user. go away...", "no such user. go away..."),
    ],
)
def test_urls_and_host_names_are_no_words(text, words):
    assert without_names(text) == words


def test_a_quoted_local_part_is_an_address_too():
    assert fold(Reply(550, ('<"spam, blocked"@example.org>: no such user',))) == "<@>: no such user"
