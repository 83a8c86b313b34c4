"""A server's words as the rules read them: taken out of logs and bounces, folded to one spelling, made printable."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from schemas.result import MAX_TEXT_BYTES
from schemas.vocabulary import Stage
from streams.smtp.replies import Reply

READ_CHARACTERS = 1536
"""Of a reply the rules read this much, three lines of RFC 5321's 512 octets: servers come to the point before, and a
hostile one can't make the patterns slow."""

OUR_SENDER = "[@]"
"""Stands in a reply for our envelope sender, as a bare ``@`` does for any other address."""

_BREAK = re.compile(r"\\r\\n|\\n|\\r|\r\n|\n|\r")
_CODE = r"([2-5][0-5]\d)"
_LEADING = re.compile(rf"\s*{_CODE}(?=$|[-\s:;,(#<\"'=]|\.\s)[-:;,=.]?[ \t]?")
_NEXT_LINE = re.compile(r"\s*(?:<<< ?)?[2-5][0-5]\d(?:[- ]|$)")
_DSN_TYPE = re.compile(r"\s*(?:diagnostic-code: *)?(?:smtp|x-[\w-]+|lmtp) ?; ?", re.IGNORECASE)
_IN_REPLY = re.compile(r"\s*\(in reply to [^()]{0,80}\)\s*$", re.IGNORECASE)

# Where a reply stands inside somebody else's sentence, the surest sign first.
_INNER = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?:\b(?:said|says|returned|responded|response|replied|reply)\b|<<<)[^\d]{{0,24}}?{_CODE}(?=[-\s]|$)[- ]?",
        rf"\b(?:error|status|code|smtp|reason|diagnostic|result|rejected|failed)\b"
        rf"[\s:;,'\"(=<\[-]{{1,4}}{_CODE}(?=[-\s'\"]|$)[- ]?",
        rf"(?:[:;>)\]'\"(]\s{{0,2}}){_CODE}(?=[-\s])[- ]?",
        rf"(?<![\d.]){_CODE}[- ]+(?=[(\[#]?[245]\.\d{{1,3}}\.\d{{1,3}}\b)",
    )
)
_STAGES = tuple(
    (re.compile(pattern, re.IGNORECASE), stage)
    for pattern, stage in (
        (
            r"in reply to rcpt to|after (?:pipelined )?rcpt|in reply to (?:end of )?data|after (?:end of )?data",
            Stage.RCPT,
        ),
        (r"in reply to mail from|after (?:pipelined )?mail", Stage.MAIL),
        (r"in reply to [ehl]{2}lo|after (?:ehlo|helo|lhlo)", Stage.EHLO),
        (r"in reply to starttls|after starttls", Stage.STARTTLS),
        (r"refused to talk to me|after initial connection|connection greeting", Stage.BANNER),
        (r">>> ?rcpt to", Stage.RCPT),
        (r">>> ?mail from", Stage.MAIL),
        (r">>> ?[ehl]{2}lo", Stage.EHLO),
    )
)

_ENHANCED_FIRST = re.compile(r"\W{0,3}([245]\.[0-9]{1,3}\.[0-9]{1,3})(?!\.?\d)")
_ENHANCED_ANYWHERE = re.compile(r"(?<![\w./-])([245]\.[0-9]{1,3}\.[0-9]{1,3})(?!\.?\d)")
_REPEATED_CODE = re.compile(r"(?<![\d.])[245]\d\d[- ](?=[245]\.\d{1,3}\.\d{1,3}(?!\.?\d))|(?<=\s)[45]\d\d-(?=\D)")
_ADDRESS = re.compile(r"""(?:"[^"@<>]{1,64}"|[^\s<>"'():;,\[\]=]+)@[^\s<>"'(),;:\[\]]+""")
_IP = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)|(?<![\w:])(?:[0-9a-f]{1,4}:){3,7}[0-9a-f:]*")
_LINK = re.compile(r"(?:\b(?:https?|ftp)://|\bwww\.)[^\s;<>\"']+")
_HOST_NAME = re.compile(r"(?<![\w.@-])(?:[a-z0-9_][a-z0-9_-]{0,62}\.){2,9}[a-z][a-z0-9-]{1,62}(?![\w-])")
_NESTED = re.compile(r"\bhost \S+ (?:said|says|returned):? ?")
_SESSION = re.compile(r"\[[\w.-]+\.outlook\.com[^\]]*\]|(?<!\S)[^\s\d]*\d\S* - (?:gsmtp|gcdp)\b")
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "`": "'", "\u00b4": "'", "\u201c": '"', "\u201d": '"'})
_LIGATURES = str.maketrans({"ß": "ss", "ł": "l", "ø": "o", "đ": "d", "ı": "i", "æ": "ae"})


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A reply and, where the log or bounce around it told, the command it answered."""

    reply: Reply
    stage: Stage | None = None


def parse_reply(text: str) -> Reply:
    """The reply in ``text``: bare, multi-line (also with a literal ``\\n``), or inside a log line or a bounce.

    Never raises. ``code`` is 0 where the text has none, and then ``lines`` hold the text as it stands.
    """
    return unwrap(text).reply


def unwrap(text: str) -> Unwrapped:
    """The same with the stage, from "(in reply to RCPT TO command)", ">>> MAIL FROM" and the like."""
    whole = _BREAK.sub("\n", text[: 3 * READ_CHARACTERS])
    stage = next((stage for pattern, stage in _STAGES if pattern.search(whole)), None)
    code, body = _split(_IN_REPLY.sub("", whole))
    lines = [_NEXT_LINE.sub("", line, count=1) if number else line for number, line in enumerate(body.split("\n"))]
    return Unwrapped(Reply(code, tuple(line.strip() for line in lines if line.strip()) or ("",)), stage)


def _split(text: str) -> tuple[int, str]:
    """The basic code and what follows it; 0 and the whole text where there is none."""
    start = typed.end() if (typed := _DSN_TYPE.match(text)) else 0
    found = _LEADING.match(text, start)
    if not found and not _ENHANCED_FIRST.fullmatch(text.strip()):
        found = next((inner for pattern in _INNER if (inner := pattern.search(text, start))), None)
    return (int(found[1]), text[found.end() :]) if found else (0, text[start:])


def enhanced_of(reply: Reply) -> str | None:
    """The enhanced code, also where a server writes it as ``#5.1.1``, ``(5.1.1)`` or at the end of its text.

    One inside the text counts only when its class is that of the basic code: other dotted numbers are versions.
    """
    for line in reply.lines:
        if found := _ENHANCED_FIRST.match(line):
            return found[1]
    for found in _ENHANCED_ANYWHERE.finditer(reply.text[:READ_CHARACTERS]):
        if not reply.code or int(found[1][0]) == reply.code // 100:
            return found[1]
    return None


def without_accents(text: str) -> str:
    """Compatibility forms composed away, accents dropped, quotes straight; patterns and replies both go through it."""
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text.translate(_QUOTES))
    return "".join(char for char in decomposed if not unicodedata.combining(char)).translate(_LIGATURES)


def fold(reply: Reply) -> str:
    """The text as the rules' patterns read it.

    Addresses become ``@`` and IP addresses ``[ip]``, so that a mailbox called ``spam-blocked`` decides nothing; codes
    that are repeated on each line go, so that a sentence broken over lines is one again.
    """
    lines = (_ENHANCED_FIRST.sub("", line, count=1) if _ENHANCED_FIRST.match(line) else line for line in reply.lines)
    text = without_accents(" ".join(lines)[:READ_CHARACTERS]).lower()
    if " - g" in text or ".outlook.com" in text:
        text = _SESSION.sub("", text)  # differs each time, and would only fill the cache
    text = _REPEATED_CODE.sub("", text)
    if "host " in text:
        text = _NESTED.sub("", text)
    if "@" in text:
        text = _ADDRESS.sub("@", text)
    return " ".join(_IP.sub("[ip]", text).split())


def without_names(text: str) -> str:
    """A folded text without the URLs and host names in it (those of three labels and more: two may be a missing space).

    What a page is called decides nothing: ``https://help.example.com/blocked`` stands under an unknown user, too, and
    a host may be named ``relay``. What remains of ``MAILBOX_NOT_FOUND`` is words.
    """
    if "." in text:
        linkless = _LINK.sub("", text) if "://" in text or "www." in text else text
        text = _HOST_NAME.sub("[]", linkless).strip()
    return text.replace("_", " ")


def without_addresses(reply: Reply, asked: str = "", sender: str = "") -> Reply:
    """The reply as it may be shown to those who did not ask for it; the rules read it as they read the original.

    ``asked`` is the address that it most likely names; ``sender``, where given, becomes :data:`OUR_SENDER`.
    """
    if "@" not in reply.text:
        return reply
    return Reply(reply.code, tuple([_without_addresses(line, asked, sender) for line in reply.lines]))


def _without_addresses(line: str, asked: str, sender: str) -> str:
    short = line.replace(f"<{asked}>", "<@>") if asked else line
    if short.count("@") == short.count("<@>"):
        return short
    if asked or sender:
        short = short.replace(OUR_SENDER, "@")  # in a server's own words it is part of some address
    ours = sender.lower()
    if not ours or ours == asked.lower():
        return _ADDRESS.sub("@", short)
    return _ADDRESS.sub(lambda found: OUR_SENDER if found[0].lower().rstrip(".") == ours else "@", short)


def printable(text: str) -> str:
    """At most 512 bytes of UTF-8 with nothing in it that a terminal, a log or a page would act upon."""
    if len(text) <= MAX_TEXT_BYTES and text.isascii() and text.isprintable():
        return text.strip()
    return _made_printable(text[: MAX_TEXT_BYTES * 2])


@lru_cache(maxsize=4096)
def _made_printable(text: str) -> str:
    shown = text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
    return shown.strip().encode(errors="replace")[:MAX_TEXT_BYTES].decode(errors="ignore")
