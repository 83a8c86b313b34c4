"""The reply rules: each sample finds its rule, the promises hold for any text, and families generalise."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.vocabulary import RETRYABLE, VERDICTS, Reason, Stage, Verdict
from streams.checks.reply_rules import (
    SMTP_STAGES,
    class_of,
    compile_rules,
    load_rules,
    match,
    parse_reply,
    retry_after,
    rule_named,
    unwrap,
)
from streams.smtp.replies import Reply

SAMPLES = [(rule, sample) for rule in load_rules() for sample in rule.samples]
REPLIES = (Path(__file__).parent / "replies.txt").read_text("utf-8").splitlines()
GROUPS = {"later": RETRYABLE | {Reason.SENDER_BLOCKED}}


def meant(text: str, stage: Stage | None = None) -> Reason:
    unwrapped = unwrap(text)
    return match(unwrapped.reply, stage or unwrapped.stage or Stage.RCPT).reason


@pytest.mark.parametrize(("rule", "sample"), SAMPLES, ids=lambda value: getattr(value, "id", value)[:60])
def test_each_sample_finds_exactly_its_rule(rule, sample):
    stage = Stage.RCPT if Stage.RCPT in rule.stages else sorted(rule.stages)[0]
    assert match(parse_reply(sample), stage).rule == rule.id


def test_each_rule_has_a_sample_a_source_and_a_meaning():
    without = [rule.id for rule in load_rules() if not (rule.samples and rule.source and rule.means)]
    assert without == ["no-smtp-code"]


@pytest.mark.parametrize("line", [line for line in REPLIES if line and not line.startswith("#")])
def test_replies_as_servers_write_them(line):
    wanted, text = line.split("|", 1)
    reason = meant(text)
    allowed = set().union(*(GROUPS.get(word, {word}) for word in wanted.split(",")))
    assert reason in allowed or VERDICTS[reason] in allowed


PHRASES = (
    *(
        "5.1.1",
        "4.2.2",
        "5.7.1",
        "user unknown",
        "mailbox full",
        "blocked",
        "greylisted",
        "no such",
        "account disabled",
    ),
    *("your ip", "spamhaus", "relay denied", "not found", "does not exist", "quota", "sender rejected", "inconnu"),
    *("try again in 5 minutes", "recipient", "rejected", "unavailable"),
)
texts = st.text(max_size=200) | st.lists(st.sampled_from(PHRASES), max_size=8).map(" ".join)
stages = st.sampled_from(list(Stage))


@given(code=st.integers(-10, 100_000), text=texts, stage=stages)
def test_every_reply_has_an_answer(code, text, stage):
    found = match(Reply(code, (text,)), stage)
    assert rule_named(found.rule).reason is found.reason
    assert found.retry_after_s is None or found.retry_after_s > 0


@given(code=st.integers(400, 499), text=texts, stage=stages)
def test_a_4xx_is_never_undeliverable(code, text, stage):
    assert VERDICTS[match(Reply(code, (text,)), stage).reason] in (Verdict.UNKNOWN, Verdict.RISKY)


@given(code=st.integers(500, 599), detail=st.from_regex(r"4\.[0-9]\.[0-9]", fullmatch=True), text=texts)
def test_a_5xx_with_a_4_x_x_reads_as_later(code, detail, text):
    assert VERDICTS[match(Reply(code, (f"{detail} {text}",)), Stage.RCPT).reason] is not Verdict.UNDELIVERABLE


@given(code=st.integers(0, 999), text=texts, stage=st.sampled_from([s for s in Stage if s is not Stage.RCPT]))
def test_nothing_before_rcpt_is_about_the_mailbox(code, text, stage):
    assert VERDICTS[match(Reply(code, (text,)), stage).reason] is Verdict.UNKNOWN


@given(code=st.integers(200, 299), text=texts)
def test_a_2xx_at_rcpt_accepts_whatever_it_says(code, text):
    reason = match(Reply(code, (text,)), Stage.RCPT).reason
    assert reason is (Reason.VERIFICATION_REFUSED if code == 252 else Reason.MAILBOX_ACCEPTED)


@pytest.mark.parametrize("local", ["spam", "blocked", "greylisted", "quota", "sender.rejected", "user.unknown"])
def test_the_address_in_a_reply_decides_nothing(local):
    assert (
        meant(f"550 5.1.1 <{local}@spamhaus.example>: Recipient address rejected: User unknown") == "mailbox_not_found"
    )
    assert meant(f"554 5.7.1 <{local}@spamhaus.example>: Relay access denied") == "verification_refused"


@pytest.mark.parametrize(
    "text",
    [
        "550 5.1.1 <{us}>: User unknown",
        "550 5.1.1 <{us}> does not exist",
        "550 the address {us}. is not known",
        "550-Called mx.example.com\n550 Unknown user <{us}>",
    ],
)
def test_what_is_said_of_our_envelope_sender_is_about_us(text):
    them, us = "bob@example.com", "probe@mailvet.example"
    assert match(parse_reply(text.format(us=us.upper())), Stage.RCPT, them, us).reason is Reason.SENDER_BLOCKED
    assert match(parse_reply(text.format(us=them)), Stage.RCPT, them, us).reason is Reason.MAILBOX_NOT_FOUND
    assert match(parse_reply(text.format(us=us)), Stage.RCPT, us, us).reason is Reason.MAILBOX_NOT_FOUND
    feigned = parse_reply('550 "a[@] unknown"@example.com: no such user')
    assert match(feigned, Stage.RCPT, '"a[@] unknown"@example.com', us).reason is Reason.MAILBOX_NOT_FOUND
    assert match(feigned, Stage.RCPT, '"a[@] unknown"@example.com').reason is Reason.MAILBOX_NOT_FOUND
    both = f"550 5.1.1 <{them}>: no such user, says <{us}>'s guest"
    assert match(parse_reply(both), Stage.RCPT, them, us).reason is Reason.MAILBOX_NOT_FOUND


@pytest.mark.parametrize(
    "text",
    [
        "550 Message from <{us}>: Invalid recipient <{them}>",
        "550 5.1.1 from={us}, unknown user {them}",
        "550 5.1.1 from={us}, unknown user bob",
        "550 5.1.1 Your message from {us} could not be delivered: user unknown",
        "550 5.1.1 Mail by {us} was not accepted: mailbox unknown",
        "550 5.1.1 Unknown user; {us}",
    ],
)
def test_a_reply_that_names_our_envelope_sender_and_speaks_of_the_recipient_is_no_block(text):
    them, us = "bob@example.com", "probe@mailvet.example"
    reply = parse_reply(text.format(us=us, them=them))
    assert match(reply, Stage.RCPT, them, us).reason is Reason.MAILBOX_NOT_FOUND


def test_whoever_asks_for_our_envelope_sender_in_other_letters_hears_of_a_mailbox():
    reply = parse_reply("550 5.1.1 <probe@example.com>: user unknown")
    assert match(reply, Stage.RCPT, "Probe@example.com", "probe@example.com").reason is Reason.MAILBOX_NOT_FOUND


@pytest.mark.parametrize("name", ["spam", "relay", "rbl-1", "greylist", "sender", "quota", "disabled", "policy"])
@pytest.mark.parametrize(
    "reply",
    [
        "550 {}.mail.example.com: No such user here",
        "550 No such user here, says {}.mail.example.com",
        "550 No such user here; https://help.example.com/{}?because={}",
        "550-{}.mail.example.com\n550 No such user here",
    ],
)
def test_neither_a_host_name_nor_a_url_decides(name, reply):
    assert meant(reply.replace("{}", name)) is Reason.MAILBOX_NOT_FOUND


@pytest.mark.parametrize(
    "text", ["ACCOUNT_NOT_FOUND", "E_USER_UNKNOWN", "550: MAILBOX_DOES_NOT_EXIST", "account_suspended"]
)
def test_an_identifier_is_read_as_its_words(text):
    assert VERDICTS[meant(f"550 {text}")] is Verdict.UNDELIVERABLE


def test_a_rule_may_read_urls_and_host_names():
    (rule,) = compile_rules([ROW | {"reason": "timeout", "text": ["listed"], "anywhere": ["bl.example"]}], {})
    assert rule.fits(550, None, "listed")
    assert rule.fits(550, None, "see", "see https://bl.example/")
    assert not rule.fits(550, None, "see", "see https://other.example/listed")
    (rule,) = compile_rules([ROW | {"reason": "timeout", "anywhere": ["bl.example"]}], {})
    assert rule.fits(550, None, "bl.example")
    assert not rule.fits(550, None, "see")


@pytest.mark.parametrize("stage", [Stage.CONNECT, Stage.BANNER, Stage.EHLO, Stage.MAIL])
def test_a_refusal_before_rcpt_is_about_us(stage):
    assert meant("554 5.7.1 rejected", stage) is Reason.SENDER_BLOCKED
    assert meant("550 5.1.1 User unknown", stage) is Reason.SENDER_BLOCKED


@pytest.mark.parametrize(
    "block",
    [
        "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
        "Your IP 192.0.2.1 is on our block list",
        "Sender address rejected: Domain not found",
        "Message from 192.0.2.1 rejected: SPF fail",
    ],
)
@pytest.mark.parametrize("code", ["550", "550 5.1.1", "550 5.7.1", "554 5.2.1", "550 5.1.10"])
def test_a_block_is_a_block_in_any_code(code, block):
    assert meant(f"{code} {block}") is Reason.SENDER_BLOCKED


@pytest.mark.parametrize(
    ("code", "enhanced", "klass"),
    [
        (550, None, 5),
        (550, "5.1.1", 5),
        (550, "4.2.0", 4),
        (450, "5.1.1", 4),
        (0, None, 0),
        (0, "4.2.2", 4),
        (250, "2.1.5", 2),
        (354, None, 3),
        (650, None, -1),
        (99, None, 0),
        (-550, None, -1),
        (1234, "5.1.1", -1),
    ],
)
def test_the_class_of_a_reply(code, enhanced, klass):
    assert class_of(code, enhanced) == klass


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("please try again in 5 minutes", 300),
        ("greylisted, please come back in 00:04:58", 298),
        ("try again after 300 seconds", 300),
        ("retry in 90s", 90),
        ("wait 2 hours", 7200),
        ("greylisted for 60 secs", 60),
        ("please retry in 10 min", 600),
        ("come back in 04:58", 298),
        ("try again in 99999 hours", 86_400),
        ("try again in 0 seconds", None),
        ("try again later", None),
        ("user unknown", None),
    ],
)
def test_the_server_says_when_to_come_back(text, seconds):
    assert retry_after(text) == seconds


def test_the_hint_travels_only_with_what_is_worth_asking_again():
    assert match(parse_reply("451 4.7.1 Greylisted, try again in 5 minutes"), Stage.RCPT).retry_after_s == 300
    assert match(parse_reply("550 5.1.1 User unknown, try again in 5 minutes"), Stage.RCPT).retry_after_s is None


ROW = {"id": "a", "reason": "mailbox_not_found", "means": "m", "source": "s", "samples": []}


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([ROW | {"stages": ["rcpt"]}], "no 5xx"),
        ([ROW | {"codes": [450], "stages": ["rcpt"]}], "no 5xx"),
        ([ROW | {"classes": [5]}], "before it was asked for"),
        ([ROW | {"reason": "timeout"}] * 2, "stands twice"),
    ],
)
def test_a_table_that_breaks_a_promise_is_refused(rows, complaint):
    with pytest.raises(ValueError, match=complaint):
        compile_rules(rows, {})


def test_enhanced_codes_as_the_tables_write_them():
    row = ROW | {"reason": "timeout", "enhanced": ["5.7.606-608", "x.2.2", "5.3.*"]}
    (rule,) = compile_rules([row], {})
    fits = [
        code
        for code in ("5.7.605", "5.7.607", "4.2.2", "5.2.2", "2.2.2", "5.3.99", "5x2.2")
        if rule.fits(550, code, "")
    ]
    assert fits == ["5.7.607", "4.2.2", "5.2.2", "5.3.99"]
    assert not rule.fits(550, None, "")


def test_words_may_be_made_of_words():
    row = ROW | {"reason": "timeout", "text": ["no {thing}"], "unless": ["yes"]}
    (rule,) = compile_rules([row], {"thing": "{box}|user", "box": "mailbox"})
    assert rule.fits(550, None, "no mailbox")
    assert not rule.fits(550, None, "no mailbox, yes")
    assert not rule.fits(550, None, "no way")


OTHERS = (
    *("Your IP", "Client host", "The sending server", "The connection", "Session", "TLS certificate", "User agent"),
    *("Your mail server", "Host mx.example.net", "HELO name", "Reverse DNS", "This command", "Message", "Your account"),
    *("The sender's account", "Sender mailbox", "Return path", "Your provider", "The originating network"),
    *("User database", "The mailbox server", "The recipient's mail server", "Recipient verification service"),
)
STATES = ("unknown", "not found", "invalid", "disabled", "suspended", "inactive", "no longer active", "locked")


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(
    "after", ["", ". Contact the recipient", "; rejecting recipient <user@example.com>", " (user policy)"]
)
def test_what_is_said_of_something_else_is_no_word_about_the_mailbox(other, after):
    read = {state: VERDICTS[meant(f"550 {other} is {state}{after}")] for state in STATES}
    assert [state for state, verdict in read.items() if verdict is Verdict.UNDELIVERABLE] == []


@pytest.mark.parametrize(
    "before",
    [
        "Recipient <user@example.com>: {}",
        "Mail to <user@example.com> rejected: {}",
        "Delivery to user refused because {}",
        "User jane.roe: the {}",
        "<user@example.com>: Recipient address rejected: {}",
        "Recipient rejected, {}",
    ],
)
def test_what_is_said_of_something_else_behind_a_mailbox_is_no_word_about_it(before):
    others = ("client host", "session", "content", "network", "server", "domain", "connection", "remote host", "MX")
    read = {(other, state): meant(f"550 {before.format(other)} is {state}") for other in others for state in STATES}
    assert [said for said, reason in read.items() if VERDICTS[reason] is Verdict.UNDELIVERABLE] == []


@pytest.mark.parametrize("mailbox", ["Mailbox", "The user", "This e-mail address", "user@example.com", "That alias"])
@pytest.mark.parametrize(
    "states",
    [
        ("can't be found", "was not found", "isn't registered here", "has no account here", "is not one of ours"),
        ("has been closed", "is not active", "has not been activated", "cannot receive mail", "has expired"),
    ],
)
def test_what_is_said_of_the_mailbox_is_heard(mailbox, states):
    assert {VERDICTS[meant(f"550 {mailbox} {state}")] for state in states} == {Verdict.UNDELIVERABLE}


def test_endings_of_foreign_words_are_bounded():
    """One without a bound costs seconds on a reply that repeats such a word without a space."""
    words = tomllib.loads((files("streams.checks") / "rules" / "words.toml").read_text("utf-8"))["words"]
    assert not [name for name, word in words.items() if name.startswith("foreign") and r"\w*" in "".join(word)]


def test_an_unknown_rule_has_no_name():
    with pytest.raises(KeyError):
        rule_named("nobody")


def test_every_stage_and_class_ends_at_a_rule_that_takes_all():
    for stage in SMTP_STAGES:
        for code in (0, 199, 250, 350, 450, 550, 650):
            assert match(Reply(code, ("\x00",)), stage)
