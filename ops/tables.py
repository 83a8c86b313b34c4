"""A role's table from the operator's side: its changelog, read as its next owner would."""

from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator
from typing import Protocol, TypeVar

from streams.tables import Epochs, epoch_of


class Change(Protocol):
    """What is used of a record of a changelog (:class:`aiokafka.ConsumerRecord`)."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def headers(self) -> object: ...


C = TypeVar("C", bound=Change)


async def current(changes: AsyncIterable[C]) -> AsyncIterator[C]:
    """Changes of changelogs that are read from their beginnings, without those that a worker wrote whose ownership of
    the partition was over (docs/decisions/0011)."""
    epochs: defaultdict[str, Epochs] = defaultdict(Epochs)
    async for change in changes:
        if not epochs[change.topic].is_over(change.partition, epoch_of(change.headers)):
            yield change
