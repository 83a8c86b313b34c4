"""What completion saw of each domain's mailboxes, for the gate to watch: see :mod:`streams.access.abuse`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from schemas.pipeline import Seen
from schemas.result import Finding
from schemas.vocabulary import Reason, Stage
from streams.access import abuse
from streams.checks.sandbox import SANDBOX_DOMAIN

_FOUND = frozenset(
    {
        Reason.MAILBOX_ACCEPTED,
        Reason.MAILBOX_FULL,
        Reason.MAILBOX_DISABLED,
        Reason.ROLE_ACCOUNT,
        Reason.DISPOSABLE,
        Reason.TYPO_SUSPECTED,
    }
)


def sighted(before: Mapping[str, Seen], findings: Iterable[Finding]) -> dict[str, Seen]:
    """What was seen before, and these findings: where a server told one mailbox from another."""
    unknown: defaultdict[str, set[str]] = defaultdict(set)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for finding in findings:
        domain, address = finding.domain, finding.ascii_address or finding.normalized
        if domain is None or address is None or finding.evidence.stage is not Stage.RCPT or domain == SANDBOX_DOMAIN:
            continue
        name = address.rpartition("@")[0].lower()
        if finding.reason is Reason.MAILBOX_NOT_FOUND:
            unknown[domain].add(name)
        elif finding.reason in _FOUND and not finding.flags.catch_all:
            found[domain].add(name)
    after = dict(before)
    for domain in (*unknown, *(name for name in found if name not in unknown)):
        seen = abuse.seen_in(domain, unknown=unknown[domain], found=found[domain])
        after[domain] = abuse.together(after.get(domain, Seen()), seen)
    return after
