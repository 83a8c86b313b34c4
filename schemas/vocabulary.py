"""One vocabulary for every verdict: what is said of an address, and the one reason that decided it."""

from enum import StrEnum
from types import MappingProxyType


class Verdict(StrEnum):
    """What a result says. ``unknown`` is an honest answer: our failure is never a word about the mailbox."""

    DELIVERABLE = "deliverable"
    RISKY = "risky"
    UNDELIVERABLE = "undeliverable"
    UNKNOWN = "unknown"
    REJECTED = "rejected"


class Reason(StrEnum):
    """The code that decided a verdict; :data:`VERDICTS` says which verdict each one gives."""

    MAILBOX_ACCEPTED = "mailbox_accepted"
    SYNTAX_INVALID = "syntax_invalid"
    DOMAIN_NOT_FOUND = "domain_not_found"
    NULL_MX = "null_mx"
    MX_UNROUTABLE = "mx_unroutable"
    MAILBOX_NOT_FOUND = "mailbox_not_found"
    MAILBOX_DISABLED = "mailbox_disabled"
    UTF8_UNSUPPORTED = "utf8_unsupported"
    MAILBOX_FULL = "mailbox_full"
    CATCH_ALL = "catch_all"
    ROLE_ACCOUNT = "role_account"
    DISPOSABLE = "disposable"
    TYPO_SUSPECTED = "typo_suspected"
    GREYLISTED = "greylisted"
    RATE_LIMITED = "rate_limited"
    SERVER_TEMPORARY = "server_temporary"
    DNS_TEMPORARY = "dns_temporary"
    SENDER_BLOCKED = "sender_blocked"
    VERIFICATION_REFUSED = "verification_refused"
    CONNECT_FAILED = "connect_failed"
    TIMEOUT = "timeout"
    PROTOCOL_ERROR = "protocol_error"
    DO_NOT_PROBE = "do_not_probe"
    NOT_PROBED = "not_probed"
    CANCELLED = "cancelled"
    INTERNAL_ERROR = "internal_error"
    KEY_EXPIRED = "key_expired"
    KEY_REVOKED = "key_revoked"
    KEY_DISABLED = "key_disabled"
    QUOTA_EXCEEDED = "quota_exceeded"
    RATE_EXCEEDED = "rate_exceeded"
    IN_FLIGHT_EXCEEDED = "in_flight_exceeded"
    SCOPE_DENIED = "scope_denied"
    TOO_LARGE = "too_large"
    REQUEST_ID_CONFLICT = "request_id_conflict"
    SUSPENDED = "suspended"


_BY_VERDICT = {
    Verdict.DELIVERABLE: (Reason.MAILBOX_ACCEPTED,),
    Verdict.UNDELIVERABLE: (
        Reason.SYNTAX_INVALID,
        Reason.DOMAIN_NOT_FOUND,
        Reason.NULL_MX,
        Reason.MX_UNROUTABLE,
        Reason.MAILBOX_NOT_FOUND,
        Reason.MAILBOX_DISABLED,
        Reason.UTF8_UNSUPPORTED,
    ),
    Verdict.RISKY: (
        Reason.MAILBOX_FULL,
        Reason.CATCH_ALL,
        Reason.ROLE_ACCOUNT,
        Reason.DISPOSABLE,
        Reason.TYPO_SUSPECTED,
    ),
    Verdict.UNKNOWN: (
        Reason.GREYLISTED,
        Reason.RATE_LIMITED,
        Reason.SERVER_TEMPORARY,
        Reason.DNS_TEMPORARY,
        Reason.SENDER_BLOCKED,
        Reason.VERIFICATION_REFUSED,
        Reason.CONNECT_FAILED,
        Reason.TIMEOUT,
        Reason.PROTOCOL_ERROR,
        Reason.DO_NOT_PROBE,
        Reason.NOT_PROBED,
        Reason.CANCELLED,
        Reason.INTERNAL_ERROR,
    ),
    Verdict.REJECTED: (
        Reason.KEY_EXPIRED,
        Reason.KEY_REVOKED,
        Reason.KEY_DISABLED,
        Reason.QUOTA_EXCEEDED,
        Reason.RATE_EXCEEDED,
        Reason.IN_FLIGHT_EXCEEDED,
        Reason.SCOPE_DENIED,
        Reason.TOO_LARGE,
        Reason.REQUEST_ID_CONFLICT,
        Reason.SUSPENDED,
    ),
}

VERDICTS = MappingProxyType({reason: verdict for verdict, reasons in _BY_VERDICT.items() for reason in reasons})
"""The verdict that each reason gives."""

RETRYABLE = frozenset(
    {
        Reason.GREYLISTED,
        Reason.RATE_LIMITED,
        Reason.SERVER_TEMPORARY,
        Reason.DNS_TEMPORARY,
        Reason.CONNECT_FAILED,
        Reason.TIMEOUT,
        Reason.PROTOCOL_ERROR,
    }
)
"""Reasons that say "later": asking again may well give a definite verdict."""

THROTTLED = frozenset({Reason.RATE_EXCEEDED, Reason.IN_FLIGHT_EXCEEDED})
"""Rejections that only say "not now"."""


class Depth(StrEnum):
    """How far a verification goes: each depth includes those before it."""

    SYNTAX = "syntax"
    DNS = "dns"
    SMTP = "smtp"


class Lane(StrEnum):
    """Which queue a request waits in, so that a small one never waits behind a flood."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Stage(StrEnum):
    """Where in the way of an address its verdict was found; the SMTP stages are RFC 5321's commands."""

    SYNTAX = "syntax"
    DNS = "dns"
    CONNECT = "connect"
    BANNER = "banner"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    MAIL = "mail"
    RCPT = "rcpt"
