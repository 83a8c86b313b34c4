"""For consumers of results: drops what was published again after a crash.

A repeat is the same record to the last byte, under the same (``request_uid``, ``kind``, ``index``), so that whichever
comes first may be kept. Answers to cancels always pass: each says how its request stood. Memory is bounded by the
number of requests: one bit an address for the latest of them. After a restart nothing is known: where that matters, let
the sink refuse a second row under the same three names.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from schemas.result import Cancellation, Rejection, Result, Summary

AnyOutput = Result | Rejection | Summary | Cancellation

_ENDS = {"summary": 1, "rejection": 2}
"""Bits of the records that speak of a whole request; an address has the bit of its index above them."""


class Dedupe:
    """Remembers what came of the latest ``requests`` requests: 100,000 of 100 addresses are about 25 MB."""

    def __init__(self, requests: int = 100_000) -> None:
        if requests < 1:
            raise ValueError("requests must be 1 or more")
        self._limit = requests
        self._seen: OrderedDict[str, int] = OrderedDict()

    def is_new(self, request_uid: str, kind: str, index: int | None = None) -> bool:
        """Whether this is the first record of its name; asking makes it known."""
        bit = _ENDS[kind] if index is None else 4 << index
        seen = self._seen.get(request_uid, 0)
        self._seen[request_uid] = seen | bit
        self._seen.move_to_end(request_uid)
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)
        return not seen & bit

    def fresh(self, records: Iterable[AnyOutput]) -> Iterator[AnyOutput]:
        """The records without repeats, in their order."""
        return (record for record in records if isinstance(record, Cancellation) or self._is_new(record))

    def _is_new(self, record: Result | Rejection | Summary) -> bool:
        return self.is_new(record.request_uid, record.kind, record.index if isinstance(record, Result) else None)
