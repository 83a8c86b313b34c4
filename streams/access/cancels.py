"""Whether a request may be cancelled, and how it stands: pure.

Only the key that made a request may cancel it, while it is served: a leaked key that was revoked ends nothing, and of
a tenant's several keys none ends another's work.
"""

from dataclasses import dataclass

from schemas.result import CancelOutcome
from schemas.vocabulary import Reason
from streams.access.decisions import Decision, Refusal


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client is told."""

    outcome: CancelOutcome
    message: str
    reason: Reason | None = None


def answer(known: Decision | None, key_id: str, refusal: Refusal | None) -> Answer:
    """The answer to a cancel of ``key_id``, given the decision on the request.

    Args:
        known: the decision, if there is one of the id.
        key_id: the key that asks.
        refusal: why a key of this standing is not served (:func:`streams.access.standing.standing`).
    """
    if refusal is not None:
        return Answer(CancelOutcome.REFUSED, refusal.message, refusal.reason)
    if known is None:
        message = "no request of this id is known: never admitted, a dead letter, or forgotten since"
        return Answer(CancelOutcome.UNKNOWN_REQUEST, message)
    if known.key_id != key_id:
        message = "another key made this request: cancel it with that one, or ask the operator"
        return Answer(CancelOutcome.REFUSED, message, Reason.SCOPE_DENIED)
    if known.reason is not None:
        return Answer(CancelOutcome.NOT_ADMITTED, f"the request was rejected: {known.message}", known.reason)
    if known.settled:
        return Answer(CancelOutcome.FINISHED, "every address had its verdict already")
    return Answer(CancelOutcome.ACCEPTED, "addresses without a verdict are answered now; the summary follows")
