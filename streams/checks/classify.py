"""From evidence to verdict, as a pure function: syntax, then DNS, then the server's reply, then the lists' flags.

Hard evidence outranks flags: role, disposable, catch-all and typo only ever lower an address that nothing speaks
against. What we could not learn is ``unknown``, never a word about the address.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from schemas.result import Evidence, Finding, Flags, PastAttempt, Timing
from schemas.vocabulary import RETRYABLE, VERDICTS, Depth, Reason, Stage, Verdict
from streams.checks.evidence import Failure, Prepared, Probe
from streams.checks.reply_rules import Match, match
from streams.checks.reply_text import enhanced_of, printable
from streams.dns.answers import MailRoute, RouteKind
from streams.smtp.replies import Reply
from streams.smtp.shards import whole_provider

_ROUTES: Mapping[RouteKind, Reason] = MappingProxyType(
    {
        RouteKind.NULL_MX: Reason.NULL_MX,
        RouteKind.NOT_FOUND: Reason.DOMAIN_NOT_FOUND,
        RouteKind.UNROUTABLE: Reason.MX_UNROUTABLE,
        RouteKind.TEMPORARY: Reason.DNS_TEMPORARY,
    }
)
_FAILURES: Mapping[Failure, Reason] = MappingProxyType(
    {
        Failure.CONNECT: Reason.CONNECT_FAILED,
        Failure.TIMEOUT: Reason.TIMEOUT,
        Failure.CLOSED: Reason.PROTOCOL_ERROR,
        Failure.PROTOCOL: Reason.PROTOCOL_ERROR,
        Failure.TLS: Reason.CONNECT_FAILED,
        Failure.UTF8_UNSUPPORTED: Reason.UTF8_UNSUPPORTED,
        Failure.UNADDRESSABLE: Reason.SYNTAX_INVALID,
        Failure.INTERNAL: Reason.INTERNAL_ERROR,
    }
)

_BASE_SCORES: Mapping[Verdict, int] = MappingProxyType(
    {Verdict.DELIVERABLE: 100, Verdict.RISKY: 100, Verdict.UNKNOWN: 40, Verdict.UNDELIVERABLE: 0}
)
PENALTIES: Mapping[Reason, int] = MappingProxyType(
    {
        Reason.MAILBOX_FULL: 75,
        Reason.DISPOSABLE: 50,
        Reason.CATCH_ALL: 40,
        Reason.ROLE_ACCOUNT: 20,
        Reason.TYPO_SUSPECTED: 20,
    }
)
"""What each reason takes off a score. The score is 0 for ``undeliverable`` and only there; it starts from 40 for
``unknown`` and from 100 for the others, whether or not the operator lets the flag decide."""


class Circumstances(NamedTuple):
    """What holds for every address of a domain at one attempt.

    ``route`` is None where nobody asked DNS. ``risky`` holds the flags that make an accepted or unprobed address
    ``risky``. ``hides_mailboxes``: the provider says 250 to everyone, so that its 250 says nothing. ``opted_out``: the
    domain is on the do-not-probe list.
    """

    route: MailRoute | None
    provider: str | None
    depth: Depth
    risky: frozenset[Reason]
    now: datetime
    hides_mailboxes: bool = False
    attempt: int = 1
    opted_out: bool = False


def classify(
    prepared: Prepared, probe: Probe | None, given: Circumstances, past: Sequence[PastAttempt] = ()
) -> Finding:
    """The finding on one address; ``probe`` is None where nobody was asked for it."""
    decided, evidence = _decide(prepared, probe, given)
    outcome = _outcome(
        decided,
        given.risky,
        given.hides_mailboxes,
        probe.catch_all if probe else None,
        prepared.syntax_error is None,
        prepared.role,
        prepared.free,
        prepared.disposable,
        prepared.alias,
        prepared.smtputf8,
        prepared.suggestion is not None,
    )
    return Finding(
        normalized=prepared.normalized,
        ascii_address=prepared.ascii_address,
        domain=prepared.domain or None,
        suggestion=prepared.suggestion,
        verdict=outcome.verdict,
        reason=outcome.reasons[0],
        reasons=outcome.reasons,
        score=outcome.score,
        flags=outcome.flags,
        retryable=outcome.retryable,
        attempt=given.attempt,
        evidence=evidence,
        attempts=tuple(past),
        timing=_timing(given.route, probe),
        checked_at=given.now,
    )


def meaning(probe: Probe) -> Match | None:
    """What the probe's reply means, with the server's hint when to come back; None where there was no reply."""
    return probe.meaning or (match(probe.reply, probe.stage) if probe.reply else None)


def past_of(finding: Finding) -> PastAttempt:
    """The finding as the next attempt remembers it."""
    evidence = finding.evidence
    return PastAttempt(
        attempt=finding.attempt,
        reason=finding.reason,
        smtp_code=evidence.smtp_code,
        enhanced_code=evidence.enhanced_code,
        text=evidence.text,
        at=finding.checked_at,
    )


class _Outcome(NamedTuple):
    """What follows from the decision and from what is known of the address."""

    verdict: Verdict
    reasons: tuple[Reason, ...]
    score: int
    retryable: bool
    flags: Flags


@lru_cache(maxsize=4096)
def _outcome(  # noqa: PLR0917  a cache reads positional arguments sooner
    decided: Reason,
    risky: frozenset[Reason],
    hides_mailboxes: bool,
    catch_all: bool | None,
    valid: bool,
    role: bool,
    free: bool,
    disposable: bool,
    alias: bool,
    smtputf8: bool,
    typo: bool,
) -> _Outcome:
    """The same few combinations come again and again."""
    # What a server showed goes before what a list believes.
    flagged = (
        (Reason.CATCH_ALL, catch_all is True),
        (Reason.DISPOSABLE, disposable),
        (Reason.ROLE_ACCOUNT, role),
        (Reason.TYPO_SUSPECTED, typo),
    )
    reasons = _reasons(decided, tuple(reason for reason, holds in flagged if holds), risky)
    proven = decided is Reason.MAILBOX_ACCEPTED and catch_all is False and not hides_mailboxes
    known_good = False if proven else None
    flags = Flags(
        catch_all=catch_all,
        role=role,
        free=free,
        disposable=disposable,
        alias=alias,
        smtputf8=smtputf8,
        mailbox_full=True if decided is Reason.MAILBOX_FULL else known_good,
        disabled=True if decided is Reason.MAILBOX_DISABLED else known_good,
    )
    verdict = VERDICTS[reasons[0]]
    return _Outcome(verdict, reasons, score_of(reasons), reasons[0] in RETRYABLE, flags if valid else Flags())


def score_of(reasons: tuple[Reason, ...]) -> int:
    """0 to 100, see :data:`PENALTIES`; the first reason is the deciding one."""
    verdict = VERDICTS[reasons[0]]
    if verdict is Verdict.UNDELIVERABLE:
        return 0
    return max(1, _BASE_SCORES[verdict] - sum(PENALTIES.get(reason, 0) for reason in reasons))


def _decide(prepared: Prepared, probe: Probe | None, given: Circumstances) -> tuple[Reason, Evidence]:
    """What the evidence says before any flag."""
    route, provider = given.route, given.provider
    if prepared.syntax_error is not None:
        text = printable(prepared.syntax_error)
        return Reason.SYNTAX_INVALID, Evidence(stage=Stage.SYNTAX, text=text)
    if given.depth is Depth.SYNTAX or route is None:
        return Reason.NOT_PROBED, Evidence(stage=Stage.SYNTAX)
    if not route.has_hosts:
        return _ROUTES[route.kind], _dns_evidence(route, provider)
    if given.opted_out:
        return Reason.DO_NOT_PROBE, _dns_evidence(route, provider)
    if given.depth is Depth.DNS or probe is None:
        return Reason.NOT_PROBED, _dns_evidence(route, provider)
    return _probed(probe, provider, given.hides_mailboxes)


def _dns_evidence(route: MailRoute, provider: str | None) -> Evidence:
    host = route.hosts[0].name if route.hosts else None
    text = printable(route.detail) or None
    return Evidence(stage=Stage.DNS, mx_host=host, provider=provider, text=text, cached=route.cached)


def _probed(probe: Probe, provider: str | None, hides_mailboxes: bool) -> tuple[Reason, Evidence]:
    found = meaning(probe)
    if found is None:
        reason = _FAILURES[probe.failure or Failure.INTERNAL]
    elif found.reason is Reason.MAILBOX_ACCEPTED and hides_mailboxes:
        reason = Reason.VERIFICATION_REFUSED
    else:
        reason = found.reason
    return reason, _smtp_evidence(probe, provider, found)


def _smtp_evidence(probe: Probe, provider: str | None, found: Match | None) -> Evidence:
    named = whole_provider(probe.provider) if probe.provider else provider
    # Who is accepted is told the same as the next one of its domain; a refusal names its address.
    make = _shared_evidence if probe.reply is not None and probe.reply.positive else _evidence
    return make(
        probe.stage,
        probe.reply,
        probe.detail,
        probe.mx_host,
        probe.mx_address,
        named,
        found.rule if found else None,
        probe.catch_all_reply,
        probe.cached,
        probe.way,
    )


def _evidence(  # noqa: PLR0917  a cache reads positional arguments sooner
    stage: Stage,
    reply: Reply | None,
    detail: str,
    mx_host: str | None,
    mx_address: str | None,
    provider: str | None,
    rule: str | None,
    catch_all: Reply | None,
    cached: bool,
    way: str,
) -> Evidence:
    return Evidence(
        stage=stage,
        mx_host=mx_host,
        mx_address=mx_address,
        provider=provider,
        smtp_code=(reply.code or None) if reply else None,
        enhanced_code=enhanced_of(reply) if reply else None,
        text=printable(reply.text if reply else detail) or None,
        rule=rule,
        catch_all_probe=_whole(catch_all) if catch_all else None,
        cached=cached,
        way=way or None,
    )


_shared_evidence = lru_cache(maxsize=4096)(_evidence)


@lru_cache(maxsize=4096)
def _whole(reply: Reply) -> str:
    """Code and text; a domain's one reply to the impossible recipient stands in the evidence of all its addresses."""
    return printable(str(reply))


def _reasons(decided: Reason, flagged: tuple[Reason, ...], risky: frozenset[Reason]) -> tuple[Reason, ...]:
    """All that applied, the deciding one first."""
    deciding = [flag for flag in flagged if flag in risky]
    if not deciding or decided not in (Reason.MAILBOX_ACCEPTED, Reason.NOT_PROBED):
        return (decided, *flagged)
    others = tuple(flag for flag in flagged if flag is not deciding[0])
    return (deciding[0], *others, decided)


def _timing(route: MailRoute | None, probe: Probe | None) -> Timing:
    dns_ms = route.elapsed_ms if route else 0
    return _timing_of(probe.queued_ms, dns_ms, probe.smtp_ms) if probe else _timing_of(0, dns_ms, 0)


@lru_cache(maxsize=4096)
def _timing_of(queued_ms: int, dns_ms: int, smtp_ms: int) -> Timing:
    """Addresses that were asked in one write share it."""
    return Timing(queued_ms=queued_ms, dns_ms=dns_ms, smtp_ms=smtp_ms)
