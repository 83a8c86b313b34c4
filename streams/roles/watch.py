"""Tenants that look like harvesters, as the gate sees them: suspended by a command like any other.

Rows of the gate's ledger: ``<tenant>:watch:<domain>``, and ``<tenant>:watch:*`` for all domains together. What is
counted are sets, so a settlement that is read again changes nothing; the row of all domains keeps the last alarm and
the record that showed it, and is written first, so that whoever reads that record again gives the same command.
"""

import hashlib
import logging
from collections.abc import Callable

from schemas.keys import Suspend
from schemas.pipeline import Seen, Settlement
from schemas.topics import KEY_COMMANDS
from streams.access import abuse
from streams.access.abuse import WHOLE, Alarm, Bounds, Watch
from streams.access.decisions import instant
from streams.codec import decode, encode
from streams.metrics import Metrics
from streams.records import Outgoing
from streams.roles.keyring import Keyring
from streams.roles.upkeep import Table, row_key
from streams.settings import Settings

logger = logging.getLogger(__name__)

ACTOR = "mailvet gate"

SMALL_PART = 50
"""A domain is watched from the request on in which one address of so many, or more, is unknown there."""


class AbuseWatch:
    """Table: the gate's ``ledger``. ``clock``: milliseconds since 1970."""

    def __init__(
        self, settings: Settings, metrics: Metrics, keys: Keyring, ledger: Table, clock: Callable[[], int]
    ) -> None:
        self._metrics = metrics
        self._keys = keys
        self._ledger = ledger
        self._clock = clock
        self._suspends = settings.abuse_action == "suspend"
        window_ms = round(settings.abuse_window.total_seconds() * 1000)
        self._bounds = Bounds(settings.abuse_unknown, settings.abuse_part, window_ms)
        self._kept_ms = window_ms + round(settings.decisions_kept.total_seconds() * 1000)

    def settled(self, record: str, settlement: Settlement) -> None:
        """Count what a request learned. To be called before its decision says that it is settled."""
        tenant, at_ms = settlement.tenant, round(settlement.finished_at.timestamp() * 1000)
        allowed = self._keys.allowed(tenant)
        seen = {name: each for name, each in settlement.seen.items() if not abuse.is_allowed(name, allowed)}
        if not self._bounds.unknown or not seen:
            return
        changed = {name: self._after(tenant, name, each, settlement, at_ms) for name, each in seen.items()}
        everything = abuse.watched(self._row(tenant, WHOLE), _all_of(seen), at_ms, self._bounds)
        rows = {WHOLE: everything, **{name: row for name, row in changed.items() if row is not None}}
        alarms = [alarm for name, row in rows.items() if (alarm := abuse.judged(row, record, name, self._bounds))]
        for alarm in alarms:
            rows[alarm.domain] = rows[alarm.domain].model_copy(update={"level": alarm.level})
        if alarms:
            told = min(alarms, key=lambda alarm: alarm.domain == WHOLE)  # A domain's name says more.
            rows[WHOLE] = rows[WHOLE].model_copy(update={"alarm": told})
            self._tell(tenant, told)
        for name, row in rows.items():
            self._put(tenant, name, row)

    def commands(self, record: str, tenant: str) -> tuple[Outgoing, ...]:
        """The command that the record led to, the same whenever it is asked again."""
        everything = self._row(tenant, WHOLE)
        alarm = everything.alarm if everything is not None else None
        if alarm is None or alarm.record != record or not self._suspends:
            return ()
        now = instant(self._clock())
        command = Suspend(
            command_id=_command_id(tenant, alarm), tenant=tenant, issued_at=now, actor=ACTOR, why=alarm.why
        )
        return (Outgoing(KEY_COMMANDS.name, tenant.encode(), encode(command)),)

    def is_over(self, name: bytes, now_ms: int) -> bool:
        """Whether the row's window is over, and whatever could be read again from it."""
        found = self._ledger.get(name)
        return found is not None and decode(Watch, found).since_ms + self._kept_ms < now_ms

    def _after(self, tenant: str, domain: str, seen: Seen, settlement: Settlement, at_ms: int) -> Watch | None:
        """The domain's row, where it is watched. Lists of many domains would else cost a row for each."""
        row = self._row(tenant, domain)
        if row is None and (not seen.unknown or len(seen.unknown) * SMALL_PART < settlement.charged):
            return None
        return abuse.watched(row, seen, at_ms, self._bounds)

    def _tell(self, tenant: str, alarm: Alarm) -> None:
        kind = "dictionary" if alarm.dictionary else "unknown"
        self._metrics.abuse_alarms.labels(kind, "suspend" if self._suspends else "report").inc()
        logger.warning("tenant %s: %s", tenant, alarm.why)

    def _row(self, tenant: str, domain: str) -> Watch | None:
        found = self._ledger.get(row_key(tenant, "watch", domain))
        return None if found is None else decode(Watch, found)

    def _put(self, tenant: str, domain: str, row: Watch) -> None:
        name, value = row_key(tenant, "watch", domain), encode(row)
        if self._ledger.get(name) != value:
            self._ledger[name] = value


def _all_of(seen: dict[str, Seen]) -> Seen:
    whole = Seen()
    for each in seen.values():
        whole = abuse.together(whole, each)
    return whole


def _command_id(tenant: str, alarm: Alarm) -> str:
    name = f"{tenant}:{alarm.domain}:{alarm.since_ms}:{alarm.level}"
    return hashlib.sha256(name.encode()).hexdigest()[:32]
