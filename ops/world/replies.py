"""Replies as bytes: plain, in several lines, or broken the way a personality breaks them."""

import re

from ops.world.manners import Breakage

LONG_LINE_OCTETS = 100 * 1024
_ENHANCED = re.compile(r"^(\d{3}) (\d\.\d{1,3}\.\d{1,3} )")


def encode(text: str) -> bytes:
    """One reply, such as ``250 2.1.5 Ok``, as one line."""
    return text.encode() + b"\r\n"


def without_enhanced(text: str) -> str:
    """The reply of a host that offers no ENHANCEDSTATUSCODES."""
    return _ENHANCED.sub(r"\1 ", text)


def encode_multiline(text: str) -> bytes:
    """The same reply said in three lines (RFC 5321 section 4.2.1), the enhanced code in each (RFC 2034)."""
    code, _, rest = text.partition(" ")
    match = _ENHANCED.match(text)
    enhanced = match[2] if match else ""
    lines = (f"{code}-{rest}", f"{code}-{enhanced}This server likes to talk.", f"{code} {enhanced}That is all.")
    return b"".join(map(encode, lines))


def encode_ehlo(host: str, extensions: tuple[str, ...]) -> bytes:
    """The reply to EHLO: the host's name, then a line for each extension."""
    lines = (host, *extensions)
    return b"".join(encode(f"250{' ' if line is lines[-1] else '-'}{line}") for line in lines)


def broken(text: str, breakage: Breakage) -> bytes:
    """What is sent in place of a reply to RCPT."""
    if breakage is Breakage.GARBAGE:
        return b"%%!? \x01\xff\xfe who goes there\r\n"
    if breakage is Breakage.NO_CODE:
        return encode(text.partition(" ")[2])
    return encode(f"{text[:3]} {'x' * LONG_LINE_OCTETS}")
