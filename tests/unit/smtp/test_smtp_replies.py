"""Bytes to replies."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.smtp.errors import RemoteProtocolError
from streams.smtp.replies import MAX_KEPT, MAX_LINE, MAX_LINES, Reply, ReplyParser, kept


def parse(*pieces: bytes) -> list[Reply]:
    parser = ReplyParser()
    replies = []
    for piece in pieces:
        parser.feed(piece)
        while (reply := parser.next_reply()) is not None:
            replies.append(reply)
    return replies


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 ok\r\n", [Reply(250, ("ok",))]),
        (b"250 ok\n", [Reply(250, ("ok",))]),
        (b"250\r\n", [Reply(250, ("",))]),
        (b"250-a\r\n250-\r\n250 b\r\n", [Reply(250, ("a", "", "b"))]),
        (b"250 a\r\n550-b\r\n550 c\r\n", [Reply(250, ("a",)), Reply(550, ("b", "c"))]),
        (b"250\ttab\r\n", [Reply(250, ("tab",))]),
        (b"550 trailing  \r\n", [Reply(550, ("trailing",))]),
        ("550 köln\r\n".encode(), [Reply(550, ("köln",))]),
        ("550 köln\r\n".encode("latin-1"), [Reply(550, ("köln",))]),
        (b"250 half", []),
    ],
)
def test_replies(data, expected):
    assert parse(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n",
        b"\r\n",
        b"25 ok\r\n",
        b"150 too early\r\n",
        b"650 too late\r\n",
        b"250ok\r\n",
        b"250-a\r\n251 b\r\n",
        b"2" * (MAX_LINE + 1),
        b"250 " + b"x" * MAX_LINE + b"\r\n",
        b"250-x\r\n" * MAX_LINES,
    ],
)
def test_what_is_no_reply(data):
    with pytest.raises(RemoteProtocolError):
        parse(data)


def test_replies_before_the_garbage_are_given():
    parser = ReplyParser()
    parser.feed(b"250 ok\r\nwhat\r\n")
    assert parser.next_reply() == Reply(250, ("ok",))
    with pytest.raises(RemoteProtocolError, match="what"):
        parser.next_reply()


def test_empty_between_replies_only():
    parser = ReplyParser()
    assert parser.empty
    parser.feed(b"250-a\r\n")
    assert parser.next_reply() is None
    assert not parser.empty
    parser.feed(b"250 b\r\n")
    assert parser.next_reply()
    assert parser.empty


LINES = st.lists(st.text(st.characters(exclude_categories=("C", "Z")), max_size=20), min_size=1, max_size=4)


@given(st.lists(st.tuples(st.integers(200, 599), LINES), max_size=5), st.lists(st.integers(0, 500)), st.booleans())
def test_it_does_not_matter_where_the_bytes_are_cut(replies, cuts, bare_lf):
    end = b"\n" if bare_lf else b"\r\n"
    data = b"".join(
        b"%d%s%s%s" % (code, b" " if number == len(lines) else b"-", text.encode(), end)
        for code, lines in replies
        for number, text in enumerate(lines, 1)
    )
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[a:b] for a, b in pairwise(places)]
    assert parse(*pieces) == [Reply(code, tuple(lines)) for code, lines in replies]


@given(st.binary(max_size=300))
def test_any_bytes_are_replies_or_a_protocol_error(data):
    with suppress(RemoteProtocolError):
        parse(data)


@pytest.mark.parametrize(
    ("reply", "enhanced"),
    [
        (Reply(550, ("5.1.1 no",)), "5.1.1"),
        (Reply(550, ("see below", "5.7.1 no")), "5.7.1"),
        (Reply(550, ("5.1.1.1 no",)), None),
        (Reply(250, ("ok 5.1.1",)), None),
    ],
)
def test_enhanced_code(reply, enhanced):
    assert reply.enhanced == enhanced


def test_reply_properties():
    reply = Reply(451, ("one", "", "two"))
    assert (reply.text, str(reply), reply.transient, reply.positive) == ("one two", "451 one two", True, False)
    assert str(Reply(250)) == "250"
    assert Reply(354).positive


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("x" * MAX_KEPT,), ("x" * MAX_KEPT,)),
        (("x" * (MAX_KEPT + 1),), ("x" * MAX_KEPT,)),
        (("a", "b", ""), ("a", "b", "")),
        (("5.1.1 no", *("x" * 500,) * 5), ("5.1.1 no", *("x" * 500,) * 4, "x" * (MAX_KEPT - 9 - 4 * 501))),
        (("x" * MAX_KEPT, "y"), ("x" * MAX_KEPT,)),
    ],
)
def test_no_more_is_kept_of_a_reply_than_anybody_reads(lines, expected):
    assert kept(Reply(550, lines)) == Reply(550, expected)
