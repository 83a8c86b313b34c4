"""What a client reads: one :class:`Result` an address, then one :class:`Summary` a request."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Instant, Part, Record, RequestId, Uid
from schemas.vocabulary import Reason, Stage, Verdict

MAX_TEXT_BYTES = 512
"""Of a server's own words we keep this much, made printable; still treat it as hostile wherever it is shown."""


class Flags(Part):
    """What else is known of an address: true, false, or null where nothing was learned."""

    catch_all: bool | None = None
    role: bool | None = None
    free: bool | None = None
    disposable: bool | None = None
    alias: bool | None = None
    smtputf8: bool | None = None
    mailbox_full: bool | None = None
    disabled: bool | None = None


class Evidence(Part):
    """How a verdict was found: the host, the command, the codes and the server's own words."""

    stage: Stage
    mx_host: str | None = None
    mx_address: str | None = None
    provider: str | None = None
    smtp_code: int | None = None
    enhanced_code: str | None = None
    text: str | None = None
    rule: str | None = Field(default=None, description="The reply rule that decided, as `mailvet explain` names it.")
    catch_all_probe: str | None = Field(default=None, description="The reply to the mailbox that can't exist.")
    cached: bool = False
    way: str | None = Field(
        default=None,
        exclude_if=lambda way: way is None,
        description="Our way out that asked; only where the operator has named ways.",
    )


class Timing(Part):
    """Milliseconds spent waiting for a turn, on DNS and on the SMTP dialogue."""

    queued_ms: int = 0
    dns_ms: int = 0
    smtp_ms: int = 0


class PastAttempt(Part):
    """One earlier attempt of an address that was told "later"."""

    attempt: int
    reason: Reason
    smtp_code: int | None = None
    enhanced_code: str | None = None
    text: str | None = None
    at: Instant


class Finding(Part):
    """What was learned of one address, wherever it stands in the request: the body of a :class:`Result`."""

    normalized: str | None = None
    ascii_address: str | None = None
    domain: str | None = None
    suggestion: str | None = None
    verdict: Verdict
    reason: Reason
    reasons: tuple[Reason, ...]
    score: Annotated[int, Field(ge=0, le=100)]
    flags: Flags = Flags()
    retryable: bool = False
    attempt: int = 1
    next_attempt_at: Instant | None = None
    evidence: Evidence
    attempts: tuple[PastAttempt, ...] = ()
    timing: Timing = Timing()
    checked_at: Instant


class Result(Finding):
    """The verdict on one address of a request. Drop repeats by (``request_uid``, ``index``)."""

    schema_version: Literal[1] = 1
    kind: Literal["result"] = "result"
    request_uid: Uid
    request_id: RequestId
    key_id: str
    index: Annotated[int, Field(ge=0)]
    total: int
    input: str


class Rejection(Record):
    """A request that was not served: one record in place of results, with ``index`` null."""

    kind: Literal["rejection"] = "rejection"
    request_uid: Uid
    request_id: RequestId
    key_id: str
    index: None = None
    total: int | None = None
    verdict: Literal[Verdict.REJECTED] = Verdict.REJECTED
    reason: Reason
    reasons: tuple[Reason, ...]
    message: str
    retry_after_ms: int | None = None
    checked_at: Instant


class Quota(Part):
    """What a key has left at the time of a decision."""

    limit: int | None
    remaining: int | None
    resets_at: Instant


class Summary(Record):
    """The last record of a request: how many of each verdict, and what it cost."""

    kind: Literal["summary"] = "summary"
    request_uid: Uid
    request_id: RequestId
    key_id: str
    total: int
    verdicts: dict[Verdict, int]
    reasons: dict[Reason, int]
    charged: int
    given_back: int
    quota: Quota | None = None
    admitted_at: Instant
    finished_at: Instant


class CancelOutcome(StrEnum):
    """What became of a request to cancel another one."""

    ACCEPTED = "accepted"
    FINISHED = "finished"
    NOT_ADMITTED = "not_admitted"
    UNKNOWN_REQUEST = "unknown_request"
    REFUSED = "refused"


class Cancellation(Record):
    """The answer to a :class:`schemas.request.Cancel`: how the request stood when the gate read it.

    ``accepted``: what was not decided by then is answered with the reason ``cancelled``, then comes the summary.
    """

    kind: Literal["cancellation"] = "cancellation"
    request_uid: Uid
    request_id: RequestId
    key_id: str
    outcome: CancelOutcome
    reason: Reason | None = Field(default=None, description="Why the key was refused, or the request was rejected.")
    message: str
    at: Instant


Output = Annotated[Result | Rejection | Summary | Cancellation, Field(discriminator="kind")]
"""Whatever may stand on a results topic."""
