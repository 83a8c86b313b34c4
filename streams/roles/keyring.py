"""The gate's keys: commands applied in the order of the log, and each key as admission sees it.

Rows of the table ``keys``: ``<tenant>:tenant``, ``<tenant>:key:<key>``, and for each command ``<tenant>:command:<id>``,
which holds its answer. That row is written first: a command read again is answered with the same bytes, and whatever a
crash cut off behind it is written again from it.
"""

from datetime import datetime, timedelta

from pydantic import ValidationError

from schemas.keys import KeyCommand, KeyEvent, KeyRecord, TenantCommand, TenantRecord, read_command
from schemas.topics import KEY_COMMANDS, KEY_EVENTS
from streams.access import keylife
from streams.access.decisions import instant
from streams.access.keys import Key, KeyStore, key_of
from streams.codec import decode, encode, unusable
from streams.metrics import Metrics
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.upkeep import Round, Table, row_key
from streams.subscription import Subscription

CONCURRENCY = 100

USED_EVERY_MS = 10 * 60_000
"""To how many milliseconds it is known when a key was last used."""

_CACHED_KEYS = 10_000


class Keyring:
    """Table: ``keys``, co-partitioned with ``key-commands.v1``, and so with all that the gate reads by tenant.

    ``kept``: how long a command is remembered after the tenant's newest. ``configured``: where keys are found that no
    command made.
    """

    def __init__(self, metrics: Metrics, keys: Table, configured: KeyStore, kept: timedelta) -> None:
        self._metrics = metrics
        self._keys = keys
        self._configured = configured
        self._kept = kept
        self._round = Round(keys)
        self._read: dict[tuple[bytes, bytes | None], Key] = {}

    def subscription(self) -> Subscription:
        """What it reads: before requests, so that a key is revoked in time however many of them wait."""
        return Subscription(KEY_COMMANDS, self.command, CONCURRENCY, urgent=True)

    # -- admission ----------------------------------------------------------------------------------------------------

    def find(self, tenant: str, key_id: str) -> Key | None:
        """The key as it stands; one that a command made comes before one of the configuration."""
        row = self._keys.get(row_key(tenant, "key", key_id))
        shared = self._keys.get(row_key(tenant, "tenant"))
        if row is None:
            configured = self._configured.find(tenant, key_id)
            return (
                configured if configured is None or shared is None else configured.under(decode(TenantRecord, shared))
            )
        key = self._read.get((row, shared))
        if key is None:
            if len(self._read) >= _CACHED_KEYS:
                self._read.clear()
            key = self._read[row, shared] = key_of(decode(KeyRecord, row), self._tenant(tenant))
        return key

    def allowed(self, tenant: str) -> tuple[str, ...]:
        """Domains of which a tenant may ask for any names."""
        return self._tenant(tenant).allowed

    # -- commands -----------------------------------------------------------------------------------------------------

    async def command(self, record: Incoming) -> tuple[Outgoing, ...]:
        """Applies a command, once, and answers it; whoever reads it again finds the answer."""
        command = _command(record)
        at = instant(record.timestamp_ms)
        event = self._answer(command)
        if event is None:
            tenant = self._tenant(command.tenant)
            if tenant.commanded_at is not None and at < tenant.commanded_at - self._kept:
                return ()  # Read a second time, long after: it was answered then.
            event = self._apply(command, tenant, at)
            self._metrics.key_commands.labels(event.verb, event.refused or event.outcome).inc()
        self._stand(event)
        return (Outgoing(KEY_EVENTS.name, command.tenant.encode(), encode(event)),)

    def _apply(self, command: KeyCommand | TenantCommand, tenant: TenantRecord, at: datetime) -> KeyEvent:
        key = self._record(command.tenant, command.key) if isinstance(command, KeyCommand) else None
        event = keylife.event_of(command, keylife.apply(command, tenant, key, at), at)
        self._keys[row_key(command.tenant, "command", command.command_id)] = encode(event)
        return event

    def _stand(self, event: KeyEvent) -> None:
        """Key and tenant as the event says, unless they have gone on since."""
        tenant, key = event.tenant_record, event.key_record
        if _age(self._tenant(tenant.tenant)) < _age(tenant):
            self._keys[row_key(tenant.tenant, "tenant")] = encode(tenant)
        if key is not None:
            standing = self._record(key.tenant, key.key)
            if standing is None or standing.revision < key.revision:
                self._keys[row_key(key.tenant, "key", key.key)] = encode(key)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def used(self, tenant: str, key_id: str, now_ms: int) -> None:
        """A request of the key authenticated; written down now and then, so that it costs no row a request."""
        row = row_key(tenant, "used", key_id)
        if now_ms - int(self._keys.get(row, b"0")) >= USED_EVERY_MS:
            self._keys[row] = str(now_ms).encode()

    def expire(self, _now_ms: int) -> int:
        """Forget commands that are older than ``kept`` beside their tenant's newest, a bounded piece a call.

        So there is always one that tells a command which is read again from a new one. Returns how many ended.
        """
        over = [row for row in self._round.next() if row.split(b":")[1] == b"command" and self._is_over(row)]
        for row in over:
            self._keys.pop(row, None)
        return len(over)

    def _is_over(self, row: bytes) -> bool:
        found = self._keys.get(row)
        if found is None:
            return False
        event = decode(KeyEvent, found)
        newest = self._tenant(event.tenant).commanded_at
        return newest is not None and event.at < newest - self._kept

    def _answer(self, command: KeyCommand | TenantCommand) -> KeyEvent | None:
        row = self._keys.get(row_key(command.tenant, "command", command.command_id))
        return None if row is None else decode(KeyEvent, row)

    def _record(self, tenant: str, key: str) -> KeyRecord | None:
        row = self._keys.get(row_key(tenant, "key", key))
        return None if row is None else decode(KeyRecord, row)

    def _tenant(self, tenant: str) -> TenantRecord:
        row = self._keys.get(row_key(tenant, "tenant"))
        return TenantRecord(tenant=tenant) if row is None else decode(TenantRecord, row)


def _age(tenant: TenantRecord) -> tuple[datetime, int]:
    return tenant.commanded_at or instant(0), tenant.revision


def _command(record: Incoming) -> KeyCommand | TenantCommand:
    """A command as an operator may write it. Raises :class:`Unusable`."""
    try:
        command = read_command(record.value)
    except ValidationError as error:
        raise unusable(error) from None
    if record.key != command.tenant.encode():
        raise Unusable("invalid", "the key of the record is not the tenant of the command")
    return command
