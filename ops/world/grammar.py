"""The arguments of SMTP commands (RFC 5321 section 4.1.2, RFC 6531 for what is not ASCII), read to the letter."""

import re
from dataclasses import dataclass
from functools import lru_cache

_ATOM = r'[^\s\x00-\x20\x7f"@<>(),:;\[\]\\.]+'
_LABEL = r"[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9\u0080-\U0010ffff-]{0,61}[A-Za-z0-9\u0080-\U0010ffff])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LITERAL = r"\[[\x21-\x5a\x5e-\x7e]+\]"
_PATH = re.compile(
    rf'<(?P<local>{_ATOM}(?:\.{_ATOM})*|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*")@(?P<domain>{_DOMAIN}|{_LITERAL})>'
    r"(?P<rest>.*)",
    re.DOTALL,
)
_HELLO = re.compile(rf"(?:{_DOMAIN}|{_LITERAL})$")
_PARAMETER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(?:=[\x21-\x3c\x3e-\x7e\u0080-\U0010ffff]+)?$")

MAX_LOCAL, MAX_DOMAIN, MAX_PATH = 64, 255, 256
"""Octets (RFC 5321 section 4.5.3.1)."""


@dataclass(frozen=True, slots=True)
class Path:
    """A mailbox in angle brackets with the parameters behind it; the null sender has neither local nor domain."""

    local: str
    domain: str
    parameters: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The mailbox without its brackets."""
        return f"{self.local}@{self.domain}" if self.domain else self.local

    @property
    def ascii(self) -> bool:
        """Whether it can be said without SMTPUTF8."""
        return self.local.isascii() and self.domain.isascii()

    def parameter(self, keyword: str) -> bool:
        """Whether a parameter stands behind the path."""
        return any(word.partition("=")[0].upper() == keyword for word in self.parameters)


def reverse_path(argument: str) -> Path | None:
    """The argument of MAIL, such as ``FROM:<a@b.test> SIZE=100``; None if it breaks the grammar."""
    if argument[:5].upper() != "FROM:":
        return None
    if argument[5:7] == "<>":
        parameters = _parameters(argument[7:])
        return None if parameters is None else Path("", "", parameters)
    return _path(argument[5:])


def forward_path(argument: str) -> Path | None:
    """The argument of RCPT, such as ``TO:<a@b.test>``; None if it breaks the grammar."""
    if argument[:3].upper() != "TO:":
        return None
    if argument[3:].lower() == "<postmaster>":
        return Path("postmaster", "")
    return _path(argument[3:])


def is_hello(argument: str) -> bool:
    """Whether it is a domain or an address literal, as EHLO and HELO want it."""
    return len(argument) <= MAX_DOMAIN and bool(_HELLO.match(argument))


def _path(text: str) -> Path | None:
    match = _PATH.match(text)
    if not match or _too_long(match["local"], match["domain"]):
        return None
    parameters = _parameters(match["rest"])
    return None if parameters is None else Path(match["local"], match["domain"], parameters)


def _too_long(local: str, domain: str) -> bool:
    octets, domain_octets = len(local.encode()), len(domain.encode())
    return octets > MAX_LOCAL or domain_octets > MAX_DOMAIN or octets + domain_octets + 3 > MAX_PATH


def _parameters(rest: str) -> tuple[str, ...] | None:
    if not rest:
        return ()
    words = tuple(rest[1:].split(" "))
    return words if rest[0] == " " and all(_PARAMETER.match(word) for word in words) else None


@lru_cache(maxsize=65536)
def domain_key(domain: str) -> str:
    """A domain as it is compared: A-labels in lower case."""
    if domain.isascii():
        return domain.lower()
    try:
        return domain.encode("idna").decode().lower()
    except UnicodeError:
        return domain.lower()
