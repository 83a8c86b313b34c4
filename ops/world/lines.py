"""Command lines out of pieces of bytes, as strictly as RFC 5321 section 2.3.8 asks: only CR LF ends a line."""

import re

from ops.world.stats import ViolationKind

MAX_COMMAND = 512
"""Octets of a command line with its CR LF (RFC 5321 section 4.5.3.1.4)."""

MAIL_EXTENSIONS = 53
"""What SIZE (26), BODY (17) and SMTPUTF8 (10) add to the line of MAIL (RFC 1870, 6152, 6531)."""

MAX_UNFINISHED = 64 * 1024
"""Of a line that does not end, no more than this is kept."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class LineReader:
    """Bytes in, whole lines out (without their CR LF)."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def bare(self) -> bool:
        """Whether the unfinished line holds a line feed that no carriage return precedes."""
        return b"\n" in self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now."""
        lines = (self._rest + data).split(b"\r\n")
        rest = lines.pop()
        # What is cut away was too long already, and the final octet may be half of a CR LF.
        self._rest = rest if len(rest) <= MAX_UNFINISHED else rest[: MAX_UNFINISHED - 1] + rest[-1:]
        return lines


class BadLine(Exception):
    """A line that is no command line at all."""

    def __init__(self, kind: ViolationKind) -> None:
        super().__init__(kind)
        self.kind = kind


def command_text(raw: bytes) -> str:
    """The text of a command line; raises :class:`BadLine` for what no client may send."""
    limit = MAX_COMMAND + (MAIL_EXTENSIONS if raw[:4].upper() == b"MAIL" else 0)
    if len(raw) + 2 > limit:
        raise BadLine(ViolationKind.LINE_TOO_LONG)
    if b"\n" in raw or b"\r" in raw:
        raise BadLine(ViolationKind.BARE_LINE_END)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise BadLine(ViolationKind.NOT_UTF8) from None
    if _CONTROL.search(text):
        raise BadLine(ViolationKind.CONTROL_CHARACTER)
    return text
