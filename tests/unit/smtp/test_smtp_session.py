"""The dialogue as a value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.smtp.errors import LocalProtocolError
from streams.smtp.identity import Identity
from streams.smtp.replies import MAX_KEPT, Reply
from streams.smtp.session import TRANSITIONS, Ended, Session, State, Verb, line, mail_line, path, rcpt_line


def said(*verbs: Verb) -> Session:
    session = Session()
    for verb in verbs:
        session.say(verb, domain="x.test")
    return session


def test_replies_find_their_commands():
    session = said(Verb.MAIL, Verb.RCPT, Verb.RCPT)
    assert session.in_flight == 3
    assert session.receive(b"250 a\r\n550 b") == [(Verb.MAIL, Reply(250, ("a",)))]
    assert session.receive(b"\r\n250 c\r\n") == [(Verb.RCPT, Reply(550, ("b",))), (Verb.RCPT, Reply(250, ("c",)))]
    assert session.state is State.TRANSACTION
    assert session.usage.errors == 1
    assert (session.usage.recipients, session.usage.domains) == (2, {"x.test"})


def test_a_refused_mail_opens_nothing():
    session = said(Verb.MAIL, Verb.RCPT)
    session.receive(b"550 no\r\n503 no MAIL\r\n")
    assert session.state is State.READY
    assert not session.in_transaction
    assert session.usage.recipients == 0
    assert session.usage.errors == 2


def test_nobody_waits_for_the_answer_to_quit():
    session = said(Verb.MAIL, Verb.RCPT, Verb.QUIT)
    assert (session.in_flight, session.parting) == (2, True)
    session.receive(b"250 a\r\n250 b\r\n")
    assert (session.in_flight, session.parting, session.ended) == (0, True, None)
    session.receive(b"221 bye\r\n")
    session.receive(b"")
    assert (session.in_flight, session.parting, session.ended) == (0, True, None)
    with pytest.raises(LocalProtocolError):
        session.say(Verb.RCPT)


def test_to_close_after_quit_is_no_fault_but_before_the_last_answer_it_is():
    session = said(Verb.MAIL, Verb.RCPT, Verb.QUIT)
    session.receive(b"250 a\r\n")
    session.receive(b"")
    assert (session.ended, session.parting) == (Ended.CLOSED, False)
    session = said(Verb.MAIL, Verb.QUIT)
    session.receive(b"250 a\r\n")
    session.receive(b"")
    assert session.ended is None


def test_a_reply_too_many_is_one_after_quit_too():
    session = said(Verb.MAIL, Verb.RCPT, Verb.QUIT)
    session.receive(b"250 a\r\n250 b\r\n250 c\r\n221 bye\r\n")
    assert (session.surplus, session.ended) == (True, Ended.PROTOCOL)


@pytest.mark.parametrize(
    "replies",
    [b"250 a\r\n250 b\r\n221 bye\r\n", b"250 a\r\n250 b\r\n250 c\r\n550 d\r\n"],
    ids=["one too few", "one too many"],
)
def test_the_farewell_answers_quit_and_nothing_else(replies):
    session = said(Verb.MAIL, Verb.RCPT, Verb.RCPT, Verb.QUIT)
    session.receive(replies)
    assert (session.surplus, session.ended) == (True, Ended.PROTOCOL)


def test_rset_ends_the_transaction():
    session = said(Verb.MAIL, Verb.RCPT, Verb.RSET, Verb.MAIL)
    session.receive(b"250 a\r\n250 b\r\n250 c\r\n250 d\r\n")
    assert session.in_transaction
    assert (session.usage.recipients, session.usage.nonmail) == (0, 1)


def test_noop_changes_nothing_but_counts():
    session = said(Verb.NOOP, Verb.MAIL, Verb.NOOP)
    session.receive(b"250 a\r\n250 b\r\n250 c\r\n")
    assert session.in_transaction
    assert session.usage.nonmail == 2


def test_a_refused_rset_ends_the_session():
    session = said(Verb.MAIL, Verb.RSET)
    session.receive(b"250 a\r\n554 too many nonmail commands\r\n")
    assert session.ended is Ended.CLOSED
    assert "554" in session.detail


@pytest.mark.parametrize(
    "verbs",
    [(Verb.RCPT,), (Verb.MAIL, Verb.MAIL), (Verb.QUIT, Verb.NOOP), (Verb.MAIL, Verb.RSET, Verb.RCPT)],
)
def test_what_has_no_place_is_not_said(verbs):
    with pytest.raises(LocalProtocolError, match="in a session that is"):
        said(*verbs)


def test_nothing_is_said_after_the_end():
    session = Session()
    session.receive(b"")
    assert (session.ended, session.state) == (Ended.CLOSED, State.ENDED)
    with pytest.raises(LocalProtocolError, match="closed"):
        session.say(Verb.MAIL)
    assert session.receive(b"250 late\r\n") == []


def test_421_answers_its_command_and_ends():
    session = said(Verb.MAIL, Verb.RCPT)
    assert session.receive(b"421 bye\r\n250 b\r\n") == [(Verb.MAIL, Reply(421, ("bye",)))]
    assert (session.ended, session.surplus) == (Ended.CLOSED, False)


@pytest.mark.parametrize(
    ("data", "ended", "surplus"),
    [
        (b"421 too long idle\r\n", Ended.CLOSED, False),
        (b"250 nobody asked\r\n", Ended.PROTOCOL, True),
        (b"25", Ended.PROTOCOL, True),
        (b"what\r\n", Ended.PROTOCOL, False),
    ],
)
def test_words_that_nobody_asked_for(data, ended, surplus):
    session = Session()
    session.receive(data)
    assert (session.ended, session.surplus) == (ended, surplus)


def test_the_first_end_stands():
    session = Session()
    session.end(Ended.TIMEOUT, "one")
    session.end(Ended.CLOSED, "two")
    assert (session.ended, session.detail) == (Ended.TIMEOUT, "one")


def test_tls_begins_anew():
    session = said(Verb.MAIL, Verb.RCPT)
    session.receive(b"250 a\r\n250 b\r\n")
    session.secured()
    assert not session.in_transaction
    session.say(Verb.MAIL)


def test_the_table_leads_only_to_states_that_it_knows():
    assert {state for pair in TRANSITIONS.values() for state in pair} <= set(State)
    assert not any(state is State.ENDED for state, _ in TRANSITIONS)


def test_lines():
    assert mail_line("") == b"MAIL FROM:<>\r\n"
    assert mail_line("a@b.test", smtputf8=True) == b"MAIL FROM:<a@b.test> SMTPUTF8\r\n"
    assert rcpt_line("jörg@x.test", smtputf8=True) == "RCPT TO:<jörg@x.test>\r\n".encode()
    assert rcpt_line('"a> b"@x.test') == b'RCPT TO:<"a> b"@x.test>\r\n'


@pytest.mark.parametrize(
    "address",
    [
        "",
        "a@x.test\r\nDATA",
        "a@x.test\n",
        "a\x00@x.test",
        "a\x85@x.test",
        "a\u2028@x.test",
        "a@x.test> SIZE=1",
        "a@x.test>",
        "<a@x.test",
        "a b@x.test",
        '"a"@x.test> X',
        '"unclosed >@x.test',
        "jörg@x.test",
        "a" * 500 + "@x.test",
        "\ud800@x.test",
    ],
)
def test_addresses_that_break_out(address):
    with pytest.raises(LocalProtocolError):
        rcpt_line(address)


def test_lone_surrogates_never_become_bytes():
    with pytest.raises(LocalProtocolError):
        rcpt_line("\ud800@x.test", smtputf8=True)


@given(st.text(max_size=60))
def test_one_command_is_one_line(address):
    try:
        encoded = rcpt_line(address, smtputf8=True)
    except LocalProtocolError:
        return
    assert encoded.startswith(b"RCPT TO:<")
    assert encoded.endswith(b">\r\n")
    assert not any(byte < 32 or byte == 127 for byte in encoded[:-2])
    assert path(address)


def test_a_command_holds_no_line_end():
    with pytest.raises(LocalProtocolError, match="control"):
        line("RSET\r\nDATA")


@pytest.mark.parametrize(("helo", "sender"), [("", ""), ("a b", ""), ("a\r\nb", ""), ("hö", ""), ("a", "b\r\n@c")])
def test_an_identity_that_can_not_be_said(helo, sender):
    with pytest.raises(LocalProtocolError):
        Identity(helo, sender)


def test_a_long_reply_is_not_kept_whole():
    """Replies are remembered by the thousand; a hostile server must not choose how much memory that takes."""
    session = Session()
    session.say(Verb.MAIL)
    [(_, reply)] = session.receive(b"550-%s\r\n" % (b"x" * 4000) * 100 + b"550 no\r\n")
    assert sum(map(len, reply.lines)) == MAX_KEPT
