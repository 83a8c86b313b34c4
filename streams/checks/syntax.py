"""Is this text a mailbox that SMTP can carry (RFC 5321 section 4.1.2, RFC 6531)? Deliberately not RFC 5322: comments,
folding, display names and obsolete forms have no place in a RCPT command.

What is decided here and may surprise:

- Quoted local parts are valid and come out with the least quoting (RFC 5321 section 4.1.2 calls the forms equal).
- Address literals (``[192.0.2.1]``, ``[IPv6:...]``) are valid; whether they may be dialled is a question of routing.
- A domain needs a dot and a top level that ends with a letter (RFC 1123 section 2.1); reserved ones such as ``.test``
  or ``.invalid`` are valid syntax, and DNS tells the rest.
- Labels are letters, digits and hyphens; an underscore is for host records that are no mail domains.
- White space around the address is dropped, NFC is applied (RFC 6532 section 3.1), the domain is mapped as IDNA does it
  (UTS #46: lower case, and the ideographic full stop is a dot), and nothing else is repaired.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

from streams.dns.cache import DOMAINS

MAX_LOCAL_OCTETS = 64
MAX_ADDRESS_OCTETS = 254
"""RFC 5321 section 4.5.3.1 with erratum 1690 of RFC 3696: a path of 256 octets includes its angle brackets."""

MAX_DOMAIN_OCTETS = 253

_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")
_HOST_NAME = re.compile(r"(?:(?!..--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(?!..--)[a-z](?:[a-z0-9-]{0,61}[a-z])?")
"""A domain in which IDNA has nothing to say: letters, digits and hyphens, none of them where a prefix would stand."""

_RESERVED = re.compile(r"\.(arpa|invalid|local|localhost|onion)\Z", re.IGNORECASE)
_PLACEHOLDER = "a.test"


class Mailbox(NamedTuple):
    """A valid address. ``domain`` is ASCII (A-labels, lower case) or an address literal.

    ``ascii_address`` is null where the local part is not ASCII; ``normalized`` shows the domain in Unicode.
    """

    local: str
    domain: str
    normalized: str
    ascii_address: str | None
    smtputf8: bool


@dataclass(frozen=True, slots=True)
class Malformed:
    """Why a text is no mailbox: a sentence for people."""

    sentence: str


@dataclass(frozen=True, slots=True)
class _Domain:
    ascii: str
    unicode: str


def parse_mailbox(text: str) -> Mailbox | Malformed:
    """Read one address. Never raises, whatever the text."""
    text = text.strip()
    local_text, _, domain_text = text.rpartition("@")
    if len(text) <= MAX_ADDRESS_OCTETS and len(local_text) <= MAX_LOCAL_OCTETS and _DOT_ATOM.match(local_text):
        # Nearly every address. What else may be wrong with a text would stand in its domain, which is none then.
        domain = _parse_domain(domain_text)
        if isinstance(domain, _Domain):
            return _join(local_text, domain)
    if fault := _gross_fault(text):
        return Malformed(fault)
    local = _parse_local(local_text)
    return local if isinstance(local, Malformed) else _join(local, _parse_domain(domain_text))


def _gross_fault(text: str) -> str | None:
    """What is wrong with the text as a whole."""
    if not text:
        return "The address is empty."
    if not text.isprintable() and (bad := next((char for char in text if _breaks_out(char)), None)):
        return f"The address holds a control or unpaired character (U+{ord(bad):04X})."
    if "@" not in text:
        return "The address has no @ sign." if "＠" not in text else "The address has a full-width ＠ in place of @."
    if text.endswith(">"):
        return "Give the address alone, without a display name and angle brackets."
    if len(text) > 2 * MAX_ADDRESS_OCTETS:
        return f"The address is longer than {MAX_ADDRESS_OCTETS} octets."
    return None


def _breaks_out(char: str) -> bool:
    """Control characters (line ends and NUL among them), and surrogates that UTF-8 cannot carry."""
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _parse_local(text: str) -> str | Malformed:
    if _DOT_ATOM.match(text) or text == '""':
        local = text
    elif text.startswith('"') and not text.endswith('"', 1):
        return Malformed("The quoted part before the @ must end with its quotation mark.")
    elif isinstance(parsed := _validate(f"{text}@{_PLACEHOLDER}"), Malformed):
        return parsed
    else:
        local = parsed.local_part or ""
    if _octets(local) > MAX_LOCAL_OCTETS:
        return Malformed(f"The part before the @ is longer than {MAX_LOCAL_OCTETS} octets.")
    return local


@lru_cache(maxsize=DOMAINS)
def _parse_domain(text: str) -> _Domain | Malformed:
    """A pure function of its text, remembered: real lists hold few domains, and reading one costs most."""
    plain = text.lower()
    if len(plain) <= MAX_DOMAIN_OCTETS and _HOST_NAME.fullmatch(plain):
        return _Domain(plain, plain)
    reserved = _RESERVED.search(text)
    parsed = _validate(f"a@{text[: reserved.start()]}.test" if reserved else f"a@{text}")
    if isinstance(parsed, Malformed):
        return parsed
    ascii_domain, unicode_domain = parsed.ascii_domain, parsed.domain
    if reserved:
        top = reserved[0].lower()
        ascii_domain, unicode_domain = (each.removesuffix(".test") + top for each in (ascii_domain, unicode_domain))
    if "." not in ascii_domain and not ascii_domain.startswith("["):
        return Malformed("The domain has no dot: a mail domain lies below a top-level domain.")
    return _Domain(ascii_domain, unicode_domain)


def _validate(address: str) -> ValidatedEmail | Malformed:
    try:
        return validate_email(
            address,
            allow_smtputf8=True,
            allow_quoted_local=True,
            allow_domain_literal=True,
            check_deliverability=False,
            # Of the reserved domains this lets `.test` pass; it has no other effect without a deliverability check.
            test_environment=True,
        )
    except EmailNotValidError as invalid:
        return Malformed(str(invalid))


def _join(local: str, domain: _Domain | Malformed) -> Mailbox | Malformed:
    """The whole, within the limits: a domain may grow when it is written in ASCII, or in UTF-8."""
    if isinstance(domain, Malformed):
        return domain
    smtputf8 = not local.isascii()
    normalized = f"{local}@{domain.unicode}"
    if _octets(normalized) > MAX_ADDRESS_OCTETS or len(domain.ascii) + _octets(local) >= MAX_ADDRESS_OCTETS:
        return Malformed(f"The address is longer than {MAX_ADDRESS_OCTETS} octets.")
    plain = normalized if domain.unicode is domain.ascii else f"{local}@{domain.ascii}"
    return Mailbox(local, domain.ascii, normalized, None if smtputf8 else plain, smtputf8)


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
