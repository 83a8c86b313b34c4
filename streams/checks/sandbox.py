"""A domain that answers every reason on demand, without any network: for clients' own tests.

The local part is the reason with hyphens (``mailbox-full@sandbox.mailvet.test``); any other is ``mailbox_not_found``.
"""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from schemas.result import Evidence, Finding, Flags
from schemas.vocabulary import VERDICTS, Reason, Stage, Verdict
from streams.checks.classify import score_of
from streams.checks.evidence import Prepared

SANDBOX_DOMAIN = "sandbox.mailvet.test"

REASONS: Mapping[str, Reason] = MappingProxyType(
    {reason.replace("_", "-"): reason for reason, verdict in VERDICTS.items() if verdict is not Verdict.REJECTED}
)
"""Local part to the reason that it answers; ``rejected`` is said of requests, never of an address."""

_STAGES = {
    Reason.SYNTAX_INVALID: Stage.SYNTAX,
    Reason.TYPO_SUSPECTED: Stage.SYNTAX,
    Reason.DO_NOT_PROBE: Stage.SYNTAX,
    Reason.DOMAIN_NOT_FOUND: Stage.DNS,
    Reason.NULL_MX: Stage.DNS,
    Reason.MX_UNROUTABLE: Stage.DNS,
    Reason.DNS_TEMPORARY: Stage.DNS,
    Reason.NOT_PROBED: Stage.DNS,
    Reason.CONNECT_FAILED: Stage.CONNECT,
    Reason.SENDER_BLOCKED: Stage.BANNER,
    Reason.PROTOCOL_ERROR: Stage.BANNER,
    Reason.UTF8_UNSUPPORTED: Stage.EHLO,
    Reason.RATE_LIMITED: Stage.MAIL,
}

_FLAGS = {
    Reason.MAILBOX_FULL: Flags(mailbox_full=True),
    Reason.MAILBOX_DISABLED: Flags(disabled=True),
    Reason.CATCH_ALL: Flags(catch_all=True),
    Reason.ROLE_ACCOUNT: Flags(role=True),
    Reason.DISPOSABLE: Flags(disposable=True),
    Reason.UTF8_UNSUPPORTED: Flags(smtputf8=True),
    Reason.MAILBOX_ACCEPTED: Flags(catch_all=False),
}


def is_sandbox(prepared: Prepared) -> bool:
    """True for an address that must never reach a resolver or a socket."""
    return prepared.domain == SANDBOX_DOMAIN


def finding(prepared: Prepared, now: datetime) -> Finding | None:
    """What the sandbox answers, always the same for an address and at once final; null for any other domain."""
    if not is_sandbox(prepared):
        return None
    reason = REASONS.get(prepared.local.lower(), Reason.MAILBOX_NOT_FOUND)
    return Finding(
        normalized=prepared.normalized,
        ascii_address=prepared.ascii_address,
        domain=prepared.domain,
        verdict=VERDICTS[reason],
        reason=reason,
        reasons=(reason,),
        score=score_of((reason,)),
        flags=_FLAGS.get(reason, Flags()),
        evidence=Evidence(
            stage=_STAGES.get(reason, Stage.RCPT), provider="sandbox", text=f"the sandbox of mailvet answers {reason}"
        ),
        checked_at=now,
    )
