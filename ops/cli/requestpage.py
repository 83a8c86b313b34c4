"""A request as people read it."""

from collections.abc import Mapping
from datetime import datetime

from ops.cli.output import counted, printable
from ops.requests.status import State, Status, Waiting
from schemas.result import Cancellation, Summary
from schemas.vocabulary import Reason, Verdict

_STATES = {
    State.RUNNING: "runs",
    State.CANCELLING: "is being cancelled",
    State.FINISHED: "is finished",
    State.REJECTED: "was rejected",
}


def page(status: Status) -> str:
    """All that is known of a request."""
    lines = [f"request {printable(status.request_id)} of {status.tenant} {_STATES[status.state]}"]
    rows = [
        ("rejected", _rejected(status)),
        ("admitted", _admitted(status)),
        ("decided", _decided(status)),
        *(("waiting", _waiting(each)) for each in status.waiting or ()),
        ("under way", str(status.under_way) if status.waiting is not None and status.under_way else ""),
        ("verdicts by", _moment(status.verdict_by) if status.finished_at is None else ""),
        ("cancelled", _moment(status.cancelled_at)),
        ("finished", _moment(status.finished_at)),
        ("charged", _charged(status)),
    ]
    lines += [f"{name + ':':13}{text}" for name, text in rows if text]
    return "\n".join(lines)


def ended(cancellation: Cancellation, summary: Summary) -> str:
    """What came of a request that was cancelled."""
    counts = _counts(summary.verdicts)
    return f"request {printable(cancellation.request_id)} is cancelled: {counts}; {summary.given_back} given back"


def _rejected(status: Status) -> str:
    refused = status.rejected
    if refused is None:
        return ""
    later = f"; again in {refused.retry_after_ms / 1000:g} s" if refused.retry_after_ms is not None else ""
    return f"{refused.reason}: {printable(refused.message)}{later}"


def _admitted(status: Status) -> str:
    if status.admitted_at is None:
        return ""
    return f"{_moment(status.admitted_at)}, key {status.key_id}" + (f", {status.lane} lane" if status.lane else "")


def _decided(status: Status) -> str:
    if status.total is None:
        return ""
    counts = f": {_counts(status.verdicts)} ({_counts(status.reasons)})" if status.decided else ""
    return f"{status.decided:,} of {counted(status.total, 'address', 'addresses')}{counts}"


def _waiting(waiting: Waiting) -> str:
    first, last = _moment(waiting.first_due), _moment(waiting.last_due)
    until = first if first == last else f"{first} to {last}"
    return f"{waiting.addresses:,} in {waiting.tier}, until {until} ({_counts(waiting.reasons)})"


def _charged(status: Status) -> str:
    if status.charged is None:
        return ""
    return f"{status.charged:,}" + (f", {status.given_back:,} given back" if status.given_back is not None else "")


def _counts(counts: Mapping[Verdict, int] | Mapping[Reason, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%SZ}"
