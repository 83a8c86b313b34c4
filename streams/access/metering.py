"""What a key used, counted once: pure functions of a row and what happened.

A row (``<tenant>:usage:<key>:<day>`` in the gate's ledger) carries a mark for each partition that it counted records
of: the last offset. Records come in the order of their partition, so one that is read again after a crash or a
rebalance lies at or before the mark and counts no more.
"""

from bisect import bisect_left
from collections.abc import Mapping

from schemas.base import Part
from schemas.usage import LATENCY_BOUNDS_S, Usage
from schemas.vocabulary import Reason, Verdict


class Metered(Part):
    """One row: what is counted, and up to where."""

    usage: Usage
    marks: Mapping[str, int]

    def has(self, record: str) -> bool:
        """Whether the record is counted. ``record``: its source, a hyphen, its offset."""
        source, _, offset = record.rpartition("-")
        return self.marks.get(source, -1) >= int(offset)

    def _with(self, record: str, **changes: object) -> "Metered":
        source, _, offset = record.rpartition("-")
        changes["revision"] = self.usage.revision + 1
        return Metered.model_construct(
            usage=self.usage.model_copy(update=changes), marks={**self.marks, source: int(offset)}
        )


def fresh(tenant: str, key: str, day: str) -> Metered:
    """A day on which nothing was used yet."""
    return Metered(usage=Usage(tenant=tenant, key=key, day=day), marks={})


def decided(row: Metered, record: str, reason: Reason | None, addresses: int) -> Metered:
    """After a decision on a request: admitted with so many addresses, or refused for a reason."""
    usage = row.usage
    if reason is None:
        return row._with(record, requests=usage.requests + 1, addresses=usage.addresses + addresses)
    return row._with(record, refused={**usage.refused, reason: usage.refused.get(reason, 0) + 1})


def settled(row: Metered, record: str, *, verdicts: Mapping[Verdict, int], given_back: int, took_s: float) -> Metered:
    """After the end of a request that was admitted on the row's day."""
    usage, place = row.usage, bisect_left(LATENCY_BOUNDS_S, took_s)
    return row._with(
        record,
        settled=usage.settled + 1,
        verdicts={
            verdict: count
            for verdict in Verdict
            if (count := usage.verdicts.get(verdict, 0) + verdicts.get(verdict, 0))
        },
        given_back=usage.given_back + given_back,
        seconds=round(usage.seconds + took_s, 3),
        latency=tuple(count + (number == place) for number, count in enumerate(usage.latency)),
    )


def within_s(usage: Usage, part: float) -> float | None:
    """Seconds within which so large a part of the settled requests ended (0.5 is the median), to a bound of
    :data:`LATENCY_BOUNDS_S`; infinite beyond the last, None where none has ended."""
    wanted, seen = part * usage.settled, 0
    for bound, count in zip((*LATENCY_BOUNDS_S, float("inf")), usage.latency, strict=False):
        seen += count
        if count and seen >= wanted:
            return bound
    return None
