"""What the gate counts for each key and day, and how it gets to ``usage.v1``.

Rows stand in the gate's ledger; the topic has a copy of each row that changed, at most every few seconds, made by the
clock. What a crash loses of it is made again: whoever takes over a row has written none of its revisions yet.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from schemas.pipeline import Settlement
from schemas.topics import USAGE
from schemas.vocabulary import Reason
from streams.access import metering
from streams.access.decisions import Decision, instant
from streams.access.metering import Metered
from streams.access.quota import day_of
from streams.codec import decode, encode
from streams.metrics import Metrics
from streams.records import Outgoing
from streams.roles.upkeep import Round, Table, row_key

EVERY_MS = 10_000
"""How far the topic may be behind the ledger."""

MOST = 2000
"""Records of one call: some tens of milliseconds."""

KIND = b":usage:"


class Metering:
    """Table: the gate's ``ledger``. ``kept``: how long after its day a request may still be settled or read again."""

    def __init__(self, metrics: Metrics, ledger: Table, kept: timedelta) -> None:
        self._metrics = metrics
        self._ledger = ledger
        self._kept = kept
        self._round = Round(ledger)
        self._written: dict[bytes, bytes] = {}  # Rows as the topic has them.
        self._changed: dict[bytes, None] = {}
        self._next_ms = 0

    # -- counting -----------------------------------------------------------------------------------------------------

    def decided(self, tenant: str, decision: Decision) -> None:
        """A request was decided by the record that its decision names."""
        count = decision.charged if decision.reason is None else 0
        self._decided(tenant, decision.key_id, decision.decided_by, decision.at_ms, decision.reason, count)

    def refused(self, tenant: str, key: str, record: str, at_ms: int, reason: Reason) -> None:
        """A request was refused for a reason that no decision holds."""
        self._decided(tenant, key, record, at_ms, reason, 0)

    def _decided(  # noqa: PLR0917
        self, tenant: str, key: str, record: str, at_ms: int, reason: Reason | None, count: int
    ) -> None:
        name, row = self._row(tenant, key, day_of(at_ms))
        if not row.has(record):
            self._put(name, metering.decided(row, record, reason, count))
            outcome = "admitted" if reason is None else "refused"
            self._metrics.tenant_requests.labels(self._metrics.tenant(tenant), outcome).inc()

    def settled(self, record: str, settlement: Settlement, decision: Decision) -> None:
        """A request has ended. To be called before its decision says so: then nothing is counted twice or never."""
        name, row = self._row(settlement.tenant, decision.key_id, decision.charged_day)
        if row.has(record):
            return
        took_s = max(0.0, settlement.finished_at.timestamp() - decision.at_ms / 1000)
        given_back = min(max(settlement.given_back, 0), decision.charged)
        after = metering.settled(row, record, verdicts=settlement.verdicts, given_back=given_back, took_s=took_s)
        self._put(name, after)
        tenant = self._metrics.tenant(settlement.tenant)
        for verdict, count in settlement.verdicts.items():
            self._metrics.tenant_addresses.labels(tenant, verdict).inc(count)

    # -- by the clock -------------------------------------------------------------------------------------------------

    def report(self, now_ms: int) -> Iterator[Outgoing]:
        """Rows that changed, for the topic: at most every :data:`EVERY_MS`. Call it about once a second."""
        others = (name for name in self._round.next() if KIND in name and not self._is_written(name))
        self._changed.update(dict.fromkeys(others))
        if now_ms < self._next_ms:
            return
        self._next_ms = now_ms + EVERY_MS
        self._written = {name: row for name, row in self._written.items() if name in self._ledger}
        for name in list(self._changed)[:MOST]:
            del self._changed[name]
            found = self._ledger.get(name)
            if found is not None and not self._is_written(name):
                self._written[name] = found
                usage = decode(Metered, found).usage
                yield Outgoing(USAGE.name, usage.record_key.encode(), encode(usage))

    def is_over(self, name: bytes, now_ms: int) -> bool:
        """Whether nothing can change the row any more, and the topic has it."""
        found = self._ledger.get(name)
        if found is None:
            return False
        usage = decode(Metered, found).usage
        day = datetime.strptime(usage.day, "%Y-%m-%d").replace(tzinfo=UTC)
        return self._is_written(name) and day + self._kept < instant(now_ms)

    def _is_written(self, name: bytes) -> bool:
        return self._written.get(name) == self._ledger.get(name)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _row(self, tenant: str, key: str, day: str) -> tuple[bytes, Metered]:
        name = row_key(tenant, "usage", key, day)
        found = self._ledger.get(name)
        return name, metering.fresh(tenant, key, day) if found is None else decode(Metered, found)

    def _put(self, name: bytes, row: Metered) -> None:
        self._ledger[name] = encode(row)
        self._changed[name] = None
