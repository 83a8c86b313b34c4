"""What clients read, as bytes: made from what was learned alone, so that a repeat is the same to the last byte."""

from schemas.pipeline import AttemptEntry, Position, Ticket
from schemas.result import Cancellation, Rejection, Result, Summary
from schemas.topics import RESULTS, own_results
from streams.codec import encode
from streams.records import Outgoing

KIND = "mailvet-kind"
"""Header of every record on a results topic: ``result``, ``rejection``, ``summary`` or ``cancellation``."""


def published(record: Result | Rejection | Summary | Cancellation, tenant: str, *, own_topic: bool) -> Outgoing:
    """The record on its way to the client: to the tenant's own topic or to the shared one, never both.

    The gate decides which, once a request: what answers it then stands in one topic, whatever settings others have.
    """
    topic = own_results(tenant) if own_topic else RESULTS
    return Outgoing(topic.name, record.request_uid.encode(), encode(record), ((KIND, record.kind.encode()),))


def result_of(ticket: Ticket, position: Position, entry: AttemptEntry) -> Result:
    """The verdict on one address. Its parts were validated when the attempt was read."""
    return Result.model_construct(
        **dict(entry.finding),
        request_uid=ticket.request_uid,
        request_id=ticket.request_id,
        key_id=ticket.key_id,
        index=position.index,
        total=ticket.total,
        input=position.input,
    )
