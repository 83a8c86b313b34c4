"""What was learned of an address before anyone decides what it means."""

from enum import StrEnum
from typing import NamedTuple

from schemas.vocabulary import Stage
from streams.checks.reply_rules import Match
from streams.smtp.replies import Reply

# Named tuples, because there is one of each for every address: they are made in a third of a frozen dataclass's time.


class Prepared(NamedTuple):
    """An address as its text and the lists tell, no network asked.

    ``address`` is what RCPT will carry: the ASCII form where there is one, else the UTF-8 form (RFC 6531).
    ``syntax_error`` is a sentence for people; with it ``address`` and ``domain`` may be empty.
    """

    input: str
    address: str = ""
    normalized: str | None = None
    ascii_address: str | None = None
    local: str = ""
    domain: str = ""
    smtputf8: bool = False
    role: bool = False
    free: bool = False
    disposable: bool = False
    alias: bool = False
    suggestion: str | None = None
    syntax_error: str | None = None


class Failure(StrEnum):
    """Why a dialogue ended without a reply to its command."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    PROTOCOL = "protocol"
    TLS = "tls"
    UTF8_UNSUPPORTED = "utf8_unsupported"
    UNADDRESSABLE = "unaddressable"
    INTERNAL = "internal"


class Probe(NamedTuple):
    """What the SMTP dialogue learned of one mailbox: the reply that decided, or the failure in its place.

    ``meaning`` is what the reply means, where its reader has looked that up already. ``way`` is the name of our way
    out; empty where there is but one without a name.

    ``catch_all`` is true when the server took a recipient that can't exist, false when it refused one, null when that
    was not asked or not answered.
    """

    stage: Stage
    reply: Reply | None = None
    failure: Failure | None = None
    detail: str = ""
    mx_host: str | None = None
    mx_address: str | None = None
    provider: str | None = None
    catch_all: bool | None = None
    catch_all_reply: Reply | None = None
    cached: bool = False
    queued_ms: int = 0
    smtp_ms: int = 0
    meaning: Match | None = None
    way: str = ""
