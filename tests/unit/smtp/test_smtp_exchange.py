"""One question, planned and answered without I/O."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.smtp.errors import LocalProtocolError
from streams.smtp.exchange import Exchange, too_many
from streams.smtp.policy import Learned, Lost, ProviderPolicy, chunk_size
from streams.smtp.replies import Reply
from streams.smtp.session import Ended, Session


def exchange(recipients, session=None, learned=None, **kwargs):
    policy = ProviderPolicy(**kwargs.pop("policy", {}))
    pipelining = kwargs.pop("pipelining", True)
    session, learned = session or Session(), learned or Learned()
    return Exchange(
        session,
        "me@probe.test",
        recipients,
        policy=policy,
        learned=learned,
        room=chunk_size(policy, session.usage, learned),
        pipelining=pipelining,
        **kwargs,
    )


def verbs(data: bytes) -> list[str]:
    return [line[:4].decode() for line in data.split(b"\r\n")[:-1]]


def codes(each: Exchange) -> list[int | None]:
    return [reply and reply.code for reply in each.answers().replies]


def test_many_transactions_in_one_write():
    each = exchange(["a@x", "b@x", "c@y"], policy={"rcpt_per_transaction": 1})
    assert verbs(each.data_to_send()) == ["MAIL", "RCPT", "RSET", "MAIL", "RCPT", "RSET", "MAIL", "RCPT"]
    each.receive(b"250 m\r\n250 a\r\n250 r\r\n250 m\r\n550 b\r\n250 r\r\n250 m\r\n250 c\r\n")
    assert codes(each) == [250, 550, 250]
    assert each.data_to_send() == b""
    assert not each.waiting


def test_quit_may_end_the_one_write():
    each = exchange(["a@x", "b@x"])
    each.part()
    assert each.planned == 2
    assert verbs(each.data_to_send()) == ["MAIL", "RCPT", "RCPT", "QUIT"]
    each.receive(b"250 m\r\n250 a\r\n550 b\r\n221 bye\r\n")
    assert codes(each) == [250, 550]
    assert each.answers().ended is None
    assert not each.waiting
    assert not each.parted_badly


def test_what_is_not_answered_because_of_quit_is_seen():
    each = exchange(["a@x", "b@x"])
    each.part()
    each.data_to_send()
    each.receive(b"250 m\r\n250 a\r\n")
    assert not each.parted_badly
    each.receive(b"")
    assert each.parted_badly
    assert codes(each) == [250, None]


def test_who_says_that_it_has_enough_was_not_parted_badly():
    each = exchange(["a@x", "b@x"])
    each.part()
    each.data_to_send()
    each.receive(b"250 m\r\n421 4.7.0 too many errors\r\n")
    each.receive(b"")
    assert each.answers().ended is Ended.CLOSED
    assert not each.parted_badly


def test_a_recipient_and_quit_are_several_commands():
    each = exchange(["a@x"])
    each.data_to_send()
    each.receive(b"250 m\r\n250 a\r\n")
    each = exchange(["b@x"], session=each._session)
    each.part()
    assert verbs(each.data_to_send()) == ["RCPT", "QUIT"]
    each.receive(b"503 5.5.0 improper use of SMTP command pipelining\r\n")
    assert each.lost is Lost.SURELY
    assert codes(each) == [None]


@pytest.mark.parametrize("farewell", [b"250 bye\r\n", b"502 what?\r\n", b"250 c\r\n221 bye\r\n"])
def test_who_answers_quit_with_anything_else_is_not_left_in_this_way_again(farewell):
    each = exchange(["a@x", "b@x"])
    each.part()
    each.data_to_send()
    each.receive(b"250 m\r\n250 a\r\n550 b\r\n" + farewell)
    assert codes(each) == [None, None]
    assert each.parted_badly


@pytest.mark.parametrize(("recipients", "pipelining"), [(["a@x"], False), ([], True)])
def test_where_quit_has_no_place(recipients, pipelining):
    assert not exchange(recipients, pipelining=pipelining).may_part


def test_a_transaction_has_its_domains():
    each = exchange(["a@X", "b@x", "c@y", "d@y"], policy={"domains_per_transaction": 1})
    assert verbs(each.data_to_send()) == ["MAIL", "RCPT", "RCPT", "RSET", "MAIL", "RCPT", "RCPT"]


def test_resets_are_rationed_and_the_session_is_spent_then():
    session = Session()
    each = exchange(["a@x", "b@y", "c@z"], session, policy={"domains_per_transaction": 1, "nonmail_budget": 1})
    assert verbs(each.data_to_send()) == ["MAIL", "RCPT", "RSET", "MAIL", "RCPT"]
    assert session.usage.spent


def test_the_first_refused_mail_is_told():
    each = exchange(["a@x", "b@x"], policy={"rcpt_per_transaction": 1})
    each.data_to_send()
    each.receive(b"250 m\r\n250 a\r\n250 r\r\n451 later\r\n503 no\r\n")
    answers = each.answers()
    assert codes(each) == [250, None]
    assert answers.mail == Reply(451, ("later",))
    assert answers.ended is None


def test_one_at_a_time_a_refused_mail_ends_it():
    each = exchange(["a@x", "b@x"], pipelining=False)
    assert verbs(each.data_to_send()) == ["MAIL"]
    each.receive(b"550 no\r\n")
    assert each.data_to_send() == b""
    assert each.answers().mail.code == 550


def test_one_at_a_time_a_full_transaction_ends_it():
    learned = Learned()
    each = exchange(["a@x", "b@x", "c@x"], learned=learned, pipelining=False)
    for reply in (b"250 m\r\n", b"250 a\r\n", b"452 4.5.3 too many\r\n"):
        assert each.data_to_send()
        each.receive(reply)
    assert each.data_to_send() == b""
    assert codes(each) == [250, None, None]
    assert learned.rcpt_per_transaction == 1


def test_too_many_for_the_first_recipient_is_its_answer():
    learned = Learned()
    each = exchange(["a@x"], learned=learned)
    each.data_to_send()
    each.receive(b"250 m\r\n452 4.5.3 too many\r\n")
    assert codes(each) == [452]
    assert learned.rcpt_per_transaction is None


def test_other_words_after_too_many_are_answers():
    each = exchange(["a@x", "b@x", "c@x"])
    each.data_to_send()
    each.receive(b"250 m\r\n250 a\r\n452 4.5.3 too many\r\n550 5.1.1 no\r\n")
    assert codes(each) == [250, None, 550]


def test_a_surplus_reply_makes_all_of_them_doubtful():
    each = exchange(["a@x", "b@x"])
    each.data_to_send()
    each.receive(b"250 m\r\n250 m?\r\n550 a\r\n550 b\r\n")
    assert codes(each) == [None, None]
    assert each.answers().ended is Ended.PROTOCOL


@pytest.mark.parametrize(
    "said",
    [
        b"250 m\r\n250 a?\r\n550 5.1.1 <A@x>: no such user\r\n",  # one too many before it
        b"250 m\r\n550 5.1.1 <b@x>... User unknown\r\n",  # none for a
        b"550 <a@x> unknown\r\n",  # not even MAIL is certain
    ],
)
@pytest.mark.parametrize("pipelining", [True, False])
def test_a_reply_about_somebody_else_makes_all_of_them_doubtful(said, pipelining):
    each = exchange(["a@x", "b@x"], pipelining=pipelining)
    for reply in said.splitlines(keepends=True):
        if pipelining is False or not each.waiting:
            each.data_to_send()
        each.receive(reply)
    answers = each.answers()
    assert (answers.mail, answers.replies, answers.ended) == (None, (None, None), Ended.PROTOCOL)
    assert "to another command" in answers.detail


def test_so_does_one_about_the_last_recipient_of_the_ask_before():
    session = Session()
    for recipient, said in (("a@x", b"250 m\r\n250 a?\r\n"), ("b@x", b"550 5.1.1 <a@x>: no such user\r\n")):
        each = exchange([recipient], session)
        each.data_to_send()
        each.receive(said)
    assert (codes(each), each.answers().ended) == ([None], Ended.PROTOCOL)


@pytest.mark.parametrize(
    "text",
    [
        "5.1.1 <B@X>: no such user",
        "5.1.1 <alias@elsewhere>: no such user",
        "5.7.1 <me@probe.test>: Sender address rejected",
        "5.7.1 not from you; ask <a@x>",
        "5.1.1 b@x",
    ],
)
def test_other_addresses_in_a_reply_are_no_sign_of_it(text):
    each = exchange(["a@x", "b@x", "me@probe.test"])
    each.data_to_send()
    each.receive(f"250 m\r\n250 a\r\n550 {text}\r\n250 m\r\n".encode())
    assert (codes(each), each.answers().ended) == ([250, 550, 250], None)


def test_nothing_is_sent_when_the_session_has_ended():
    session = Session()
    session.end(Ended.CLOSED, "bye")
    each = exchange(["a@x"], session)
    assert each.data_to_send() == b""
    assert each.answers().ended is Ended.CLOSED


def test_a_bad_address_stops_all_of_them():
    session = Session()
    with pytest.raises(LocalProtocolError):
        exchange(["a@x", "b\r\n@x"], session)
    assert session.in_flight == 0


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(452, ("4.5.3 too many recipients",)), True),
        (Reply(552, ("5.5.3 too many",)), True),
        (Reply(452, ("Too many recipients",)), True),
        (Reply(452, ("4.2.2 too many recipients in this mailbox",)), False),
        (Reply(452, ("mailbox full",)), False),
        (Reply(450, ("too many recipients",)), False),
    ],
)
def test_too_many(reply, expected):
    assert too_many(reply) is expected


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([250, 450, 550, 552])), min_size=1, max_size=30),
    st.booleans(),
    st.integers(1, 5),
    st.integers(0, 2),
    st.lists(st.integers(1, 40)),
)
def test_each_answer_is_that_of_its_recipient(wanted, pipelining, per_transaction, domains, cuts):
    """Whatever the limits and however the bytes are cut."""
    recipients = [f"u{number}c{code}@{domain}.test" for number, (domain, code) in enumerate(wanted)]
    session, learned = Session(), Learned()
    policy = {"rcpt_per_transaction": per_transaction, "domains_per_transaction": domains, "error_budget": 0}
    each = exchange(recipients, session, learned, pipelining=pipelining, policy=policy)
    sent = []
    while data := each.data_to_send():
        lines = data.decode().split("\r\n")[:-1]
        sent += lines
        replies = b"".join(
            b"%s %s\r\n" % ((line.split("c")[1][:3] if "TO:" in line else "250").encode(), line.encode())
            for line in lines
        )
        for cut in [*cuts, len(replies)]:
            piece, replies = replies[:cut], replies[cut:]
            if piece:
                each.receive(piece)
    assert not each.waiting
    for recipient, reply in zip(recipients, each.answers().replies, strict=True):
        if f"RCPT TO:<{recipient}>" in sent:
            assert reply.code == int(recipient.split("c")[1][:3])
            assert recipient in reply.text
        else:
            assert reply is None
    assert sent.count("RSET") <= 8
