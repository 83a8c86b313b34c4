"""The gate: what may run, on whose account. Intake reads what strangers wrote, admission decides, settlement corrects.

Nothing here waits for anything but Kafka, so handlers change the ledger before their first await.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from pydantic import ValidationError

from schemas.pipeline import Admitted, Settlement, Ticket
from schemas.request import MAX_REQUEST_BYTES, Request, request_uid
from schemas.result import Rejection
from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    ADMITTED_BULK,
    ADMITTED_INTERACTIVE,
    REQUESTS,
    SETTLEMENTS,
)
from schemas.vocabulary import Lane, Reason
from streams.access import credentials, decisions
from streams.access.decisions import Account, Asked, Decision, Refusal
from streams.access.keys import Key, KeyStore
from streams.codec import decode, encode, unusable
from streams.metrics import Metrics
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.publish import published
from streams.roles.upkeep import Round, Table, row_key
from streams.settings import Settings
from streams.subscription import Subscription

KEY_ID = "mailvet-key-id"
KEY_DIGEST = "mailvet-key-sha256"
NOW = "mailvet-now-ms"
ORIGIN = "mailvet-origin"

ADMISSIONS: Mapping[Lane, str] = {
    Lane.INTERACTIVE: ADMISSIONS_INTERACTIVE.name,
    Lane.BULK: ADMISSIONS_BULK.name,
}
"""The topic of each lane's requests on their way to admission."""

ADMITTED: Mapping[Lane, str] = {Lane.INTERACTIVE: ADMITTED_INTERACTIVE.name, Lane.BULK: ADMITTED_BULK.name}
"""The topic of each lane's admitted requests."""

CONFLICT = Refusal(Reason.REQUEST_ID_CONFLICT, "this request_id was used with another body: choose a new one")

CONCURRENCY = 1000
"""Records whose outputs may be on their way to the broker; deciding itself is one at a time."""

BURST = 10
"""A decision on 1,000 addresses takes about 0.4 ms, and one tenant's requests are decided one after the other."""


class Gate:
    """Tables: ``ledger``, co-partitioned with ``admissions.<lane>.v1``. ``clock``: milliseconds since 1970."""

    def __init__(
        self, settings: Settings, metrics: Metrics, keys: KeyStore, ledger: Table, clock: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._keys = keys
        self._ledger = ledger
        self._clock = clock
        self._round = Round(ledger)
        self._own_topics = frozenset(settings.tenant_topics)
        self._kept_ms = round(settings.decisions_kept.total_seconds() * 1000)

    def subscriptions(self) -> tuple[Subscription, ...]:
        """What the gate reads."""
        return (
            Subscription(REQUESTS, self.intake, CONCURRENCY, BURST),
            Subscription(ADMISSIONS_INTERACTIVE, self.admit, CONCURRENCY, BURST),
            Subscription(ADMISSIONS_BULK, self.admit, CONCURRENCY, BURST),
            Subscription(SETTLEMENTS, self.settle, CONCURRENCY, BURST),
        )

    # -- intake: strangers' bytes -----------------------------------------------------------------------------------

    async def intake(self, record: Incoming) -> Sequence[Outgoing]:
        """A request that can be read goes to the tenant that its key claims; its bytes stay as they are."""
        request = _read(record.value)
        claim = _claim(record)
        headers = (
            (KEY_ID, claim.key_id.encode()),
            (KEY_DIGEST, claim.digest.encode()),
            (NOW, str(self._clock()).encode()),
            (ORIGIN, f"{record.topic}/{record.partition}/{record.offset}".encode()),
        )
        lane = decisions.lane_of(request, self._settings.interactive_up_to)
        return (Outgoing(ADMISSIONS[lane], claim.tenant.encode(), record.value, headers),)

    # -- admission --------------------------------------------------------------------------------------------------

    async def admit(self, record: Incoming) -> Sequence[Outgoing]:
        """Admits a request or refuses it, once: whoever reads the record again finds the decision."""
        key = self._authenticate(record)
        own_topic = key.tenant in self._own_topics
        account = self._account(key.tenant, key.key_id)
        asked = self._asked(record, key, account)
        known = self._decision(key.tenant, asked.uid)
        if known is not None and known.body != asked.body:
            conflict = Refusal(
                Reason.REQUEST_ID_CONFLICT, "this request_id was used with another body: choose a new one"
            )
            return (_rejected(key, asked.request, asked.uid, conflict, _now(record), own_topic=own_topic),)
        if known is not None:
            repeated = known.reason is None and known.decided_by != asked.record
            return () if repeated else (_outcome(key, asked.request, known, own_topic=own_topic),)
        decided = decisions.decide(key, account, asked)
        self._write(key.tenant, key.key_id, decided)
        decision = _last(decided)
        self._metrics.requests.labels(decision.reason or "admitted").inc()
        return (_outcome(key, asked.request, decision, own_topic=own_topic),)

    def _authenticate(self, record: Incoming) -> Key:
        key = self._keys.find(_text(record.key), _text(record.headers.get(KEY_ID)))
        presented = _text(record.headers.get(KEY_DIGEST))
        # An unknown key costs the same comparison as a known one.
        digests = key.digests if key is not None else ("",)
        if not credentials.matches(presented, digests) or key is None:
            raise Unusable("not_authenticated", "no such key, or not its secret")
        return key

    def _asked(self, record: Incoming, key: Key, account: Account) -> Asked:
        request = _read(record.value)
        # The time of a key never runs backwards, whichever intake stamped it.
        now_ms = max(_now(record), account.now_ms)
        return Asked(
            request=request,
            uid=request_uid(key.tenant, request.request_id),
            body=hashlib.sha256(record.value).hexdigest(),
            record=f"{record.topic.split('.')[2]}-{record.partition}-{record.offset}",
            now_ms=now_ms,
            lane=decisions.lane_of(request, self._settings.interactive_up_to),
            verdict_by_ms=decisions.verdict_by(request, now_ms, self._settings.verdict_by_default),
        )

    # -- settlement -------------------------------------------------------------------------------------------------

    async def settle(self, record: Incoming) -> Sequence[Outgoing]:
        """Gives back what a finished request did not cost, once."""
        settlement = decode(Settlement, record.value)
        tenant, key_id = settlement.tenant, settlement.key_id
        account = self._account(tenant, key_id)
        decision = self._decision(tenant, settlement.request_uid)
        if decision is None or decision.settled or decision.reason is not None:
            return ()
        now_ms = round(settlement.finished_at.timestamp() * 1000)
        self._write(tenant, key_id, decisions.settle(account, decision, settlement.given_back, now_ms))
        return ()

    # -- the ledger -------------------------------------------------------------------------------------------------

    def expire(self, now_ms: int) -> int:
        """End rows whose time is over, a bounded piece of the ledger a call; how many ended."""
        over = [key for key in self._round.next() if self._is_over(key, now_ms)]
        for key in over:
            self._ledger.pop(key, None)
        return len(over)

    def _is_over(self, key: bytes, now_ms: int) -> bool:
        row = self._ledger.get(key)
        if row is None:
            return False
        if key.split(b":")[1] == b"account":
            account = decode(Account, row)
            return account.now_ms + self._kept_ms < now_ms and account.is_idle(now_ms)
        return decode(Decision, row).verdict_by_ms + self._kept_ms < now_ms

    def _account(self, tenant: str, key_id: str) -> Account:
        """The account, after the decision that it was last changed with is surely in its own row."""
        row = self._ledger.get(row_key(tenant, "account", key_id))
        if row is None:
            return Account()
        account = decode(Account, row)
        if account.last is not None:
            self._put(row_key(tenant, "decision", account.last.uid), encode(account.last))
        return account

    def _decision(self, tenant: str, uid: str) -> Decision | None:
        row = self._ledger.get(row_key(tenant, "decision", uid))
        return None if row is None else decode(Decision, row)

    def _write(self, tenant: str, key_id: str, account: Account) -> None:
        # The account first: a crash between the two is healed by the next look at it.
        last = _last(account)
        self._put(row_key(tenant, "account", key_id), encode(account))
        self._put(row_key(tenant, "decision", last.uid), encode(last))

    def _put(self, key: bytes, row: bytes) -> None:
        if self._ledger.get(key) != row:
            self._ledger[key] = row


def _read(value: bytes) -> Request:
    """A request as a client may write it. Raises :class:`Unusable`."""
    if len(value) > MAX_REQUEST_BYTES:
        raise Unusable("too_large", f"the record has {len(value)} bytes, {MAX_REQUEST_BYTES} are allowed")
    try:
        value.decode()
    except UnicodeDecodeError as error:
        raise Unusable("not_utf8", f"byte {error.start} is not UTF-8") from None
    try:
        return Request.model_validate_json(value, strict=True)
    except ValidationError as error:
        raise unusable(error) from None


def _claim(record: Incoming) -> credentials.Claim:
    """Who the record's key says it is. Raises :class:`Unusable`."""
    names = [name for name in record.headers if name.casefold() == credentials.HEADER]
    if credentials.HEADER not in names:
        raise Unusable("not_authenticated", f"the header {credentials.HEADER} is missing")
    if len(names) > 1 or credentials.HEADER in record.repeated:
        raise Unusable("not_authenticated", f"the header {credentials.HEADER} stands more than once")
    try:
        return credentials.parse(_text(record.headers[credentials.HEADER]))
    except credentials.Malformed as malformed:
        raise Unusable("not_authenticated", str(malformed)) from None


def _text(raw: bytes | None) -> str:
    """ASCII, or nothing: whatever else stands there is no name of ours."""
    return raw.decode() if raw is not None and raw.isascii() else ""


def _now(record: Incoming) -> int:
    try:
        return int(record.headers[NOW])
    except (KeyError, ValueError):
        raise Unusable("invalid", f"the header {NOW} is missing or no number") from None


def _last(account: Account) -> Decision:
    assert account.last is not None  # noqa: S101 - decide() and settle() always set it
    return account.last


def _outcome(key: Key, request: Request, decision: Decision, *, own_topic: bool) -> Outgoing:
    """The record that says what was decided: the same bytes whenever it is asked again."""
    if decision.reason is not None:
        refusal = Refusal(decision.reason, decision.message, decision.retry_after_ms)
        return _rejected(key, request, decision.uid, refusal, decision.at_ms, own_topic=own_topic)
    ticket = Ticket(
        request_uid=decision.uid,
        request_id=request.request_id,
        tenant=key.tenant,
        key_id=key.key_id,
        total=len(request.addresses),
        depth=request.depth,
        lane=decision.lane,
        options=request.options,
        charged=decision.charged,
        charged_day=decision.charged_day,
        quota=decision.quota,
        own_topic=own_topic,
        admitted_at=decisions.instant(decision.at_ms),
        verdict_by=decisions.instant(decision.verdict_by_ms),
    )
    admitted = Admitted(ticket=ticket, addresses=request.addresses)
    return Outgoing(ADMITTED[decision.lane], decision.uid.encode(), encode(admitted))


def _rejected(key: Key, request: Request, uid: str, refusal: Refusal, at_ms: int, *, own_topic: bool) -> Outgoing:
    rejection = Rejection(
        request_uid=uid,
        request_id=request.request_id,
        key_id=key.key_id,
        total=len(request.addresses),
        reason=refusal.reason,
        reasons=(refusal.reason,),
        message=refusal.message,
        retry_after_ms=refusal.retry_after_ms,
        checked_at=decisions.instant(at_ms),
    )
    return published(rejection, key.tenant, own_topic=own_topic)
