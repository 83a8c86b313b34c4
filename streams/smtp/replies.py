"""A server's reply (RFC 5321 section 4.2) as a value, and the parser that makes replies of bytes."""

import re
from functools import lru_cache
from typing import NamedTuple

from streams.smtp.errors import RemoteProtocolError

_ENHANCED = re.compile(r"^([245]\.\d{1,3}\.\d{1,3})(?=\s|$|[^\d.])")


class Reply(NamedTuple):
    """One reply: its code and the text of each of its lines, without code, separator and line end."""

    code: int
    lines: tuple[str, ...] = ("",)

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 3463) that the first line which has one begins with, such as ``5.1.1``."""
        for line in self.lines:
            if match := _ENHANCED.match(line):
                return match[1]
        return None

    @property
    def text(self) -> str:
        """All lines in one, the enhanced code left in its place."""
        return self.lines[0] if len(self.lines) == 1 else " ".join(line for line in self.lines if line)

    @property
    def positive(self) -> bool:
        """2xx or 3xx: the command was accepted."""
        return 200 <= self.code < 400

    @property
    def transient(self) -> bool:
        """4xx: not now."""
        return 400 <= self.code < 500

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()


MAX_KEPT = 2048
"""Characters of a reply that are kept once it has come. Rules and results read less, and what is remembered of replies
by the thousand must not be as long as a server likes."""


def kept(reply: Reply) -> Reply:
    """The reply, or its beginning where it is longer than anybody reads."""
    lines = reply.lines
    if len(lines) == 1 and len(lines[0]) <= MAX_KEPT:
        return reply  # nearly always
    room, shown = MAX_KEPT, []
    for text in lines:
        if room <= 0:
            break
        shown.append(text[:room])
        room -= len(text) + 1
    return Reply(reply.code, tuple(shown))


MAX_LINE = 4096
"""Octets of one reply line. RFC 5321 section 4.5.3.1.5 says 512; servers in the field go beyond it."""

MAX_LINES = 200
"""Lines of one reply; the longest EHLO replies have about thirty."""

_LINE = re.compile(rb"([2-5]\d\d)(?:([ \t-])(.*))?", re.DOTALL)


class ReplyParser:
    """Bytes in, replies out. What it holds is bounded, whatever the server sends.

    Bare LF ends a line as well as CRLF. Text is UTF-8 where it can be (RFC 6531 section 3.7.4.2), else Latin-1.
    """

    __slots__ = ("_code", "_lines", "_rest", "_unread")

    def __init__(self) -> None:
        self._unread: list[bytes] = []
        self._rest = b""
        self._code = 0
        self._lines: list[str] = []

    @property
    def empty(self) -> bool:
        """True between replies: not a byte of a further one has come."""
        return not (self._unread or self._rest or self._lines)

    def feed(self, data: bytes) -> None:
        """Take what came from the socket; :meth:`next_reply` until None before the next bytes are fed."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._unread += lines

    def next_reply(self) -> Reply | None:
        """The next complete reply, or None when more bytes are needed.

        :raises RemoteProtocolError: what came is no reply, or a longer one than anybody has reason to send.
        """
        while self._unread:
            if reply := self._take(self._unread.pop(0)):
                return reply
        if len(self._rest) > MAX_LINE:
            raise RemoteProtocolError(f"a reply line of more than {MAX_LINE} octets")
        return None

    def _take(self, line: bytes) -> Reply | None:
        if len(line) > MAX_LINE:
            raise RemoteProtocolError(f"a reply line of more than {MAX_LINE} octets")
        code, more, reply = _read(line) if b"@" in line else _remembered(line)
        if not (self._lines or more):
            return reply
        if self._lines and code != self._code:
            raise RemoteProtocolError(f"a reply that begins with {self._code} goes on with {code}")
        self._code = code
        self._lines += reply.lines
        if more:
            if len(self._lines) >= MAX_LINES:
                raise RemoteProtocolError(f"a reply of more than {MAX_LINES} lines")
            return None
        whole = Reply(code, tuple(self._lines))
        self._lines.clear()
        return whole


def _read(line: bytes) -> tuple[int, bool, Reply]:
    """One line: its code, whether the reply goes on, and the reply that it would be alone.

    :raises RemoteProtocolError: it is no reply line.
    """
    match = _LINE.fullmatch(line.rstrip(b"\r"))
    if match is None:
        raise RemoteProtocolError(f"not a reply line: {line[:80]!r}")
    code, separator, text = match.groups()
    number = int(code)
    return number, separator == b"-", Reply(number, (_decode(text or b""),))


_remembered = lru_cache(maxsize=1024)(_read)
"""A server says the same to most commands, but for those lines that name somebody."""


def _decode(text: bytes) -> str:
    try:
        return text.rstrip().decode()
    except UnicodeDecodeError:
        return text.rstrip().decode("latin-1")
