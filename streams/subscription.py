"""What a role asks to be fed: a topic, a handler, and how many records it works on at a time."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from schemas.topics import Topic
from streams.records import Incoming, Outgoing

Handler = Callable[[Incoming], Awaitable[Sequence[Outgoing]]]
"""Turns one record into the records that follow from it.

The input is acknowledged only after the broker has all of them, and every change that the handler made to a table.
Raising :class:`streams.records.Unusable` makes a dead letter of the input, any other exception one of
``internal_error``; the stream goes on. A handler that was cancelled has done nothing: its record is read again.
"""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One topic and its handler.

    Handlers are started strictly in the order of each partition, up to ``concurrency`` of them at a time. One that
    changes a table does so before its first await: then changes happen in the order of the log too.
    """

    topic: Topic
    handle: Handler
    concurrency: int = 1
    burst: int = 1
    """Records begun before whatever else is ready has its turn: one, unless each takes well under a millisecond."""
    share: int | None = None
    """Of ``concurrency``, how many may be of one partition: beyond it the partition is not read on, and others are."""
    urgent: bool = False
    """Its records are read before those of the app's other topics, however many of them wait."""
