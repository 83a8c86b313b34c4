"""A record as the roles see it: bytes in, bytes out, nothing of Faust or aiokafka."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Incoming:
    """A record that was read. Where a header stands twice, the first one is here and ``repeated`` names it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=lambda: NO_HEADERS)
    repeated: frozenset[str] = frozenset()
    timestamp_ms: int = 0
    broker_time: bool = False
    """The timestamp is the broker's (LogAppendTime): whoever wrote the record had no say in it."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to write; the input it came from is acknowledged only after the broker has it.

    ``closing``: whoever reads it may take it that all is said. It is written after the broker has everything that
    follows from earlier records with the input's key.
    """

    topic: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    closing: bool = False


class Unusable(Exception):
    """A record that can't be used: it becomes a dead letter, and the stream goes on.

    ``reason`` is one of :class:`schemas.pipeline.DeadLetter`'s; ``detail`` is a sentence without secrets or payload.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
