"""The gate: what may run, on whose account. Intake reads what strangers wrote, admission decides, settlement corrects.

Nothing here waits for anything but Kafka, so handlers change the ledger before their first await.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

from pydantic import ValidationError

from schemas import signing
from schemas.pipeline import Admitted, CancelOrder, Settlement, Ticket
from schemas.request import MAX_REQUEST_BYTES, Cancel, Request, request_uid
from schemas.result import Cancellation, CancelOutcome, Rejection
from schemas.signing import Malformed
from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    ADMITTED_BULK,
    ADMITTED_INTERACTIVE,
    CANCELS,
    REQUESTS,
    SETTLEMENTS,
    physical_name,
)
from schemas.vocabulary import Lane, Reason
from streams.access import cancels, decisions, presented
from streams.access.cancels import Answer
from streams.access.decisions import Account, Asked, Decision, Last, Refusal, TenantAccount
from streams.access.keys import Key, Proof
from streams.access.patience import Patience
from streams.access.presented import Presented
from streams.access.standing import STANDING, standing
from streams.codec import decode, encode, problems_of, unusable
from streams.metrics import Metrics
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.keyring import Keyring
from streams.roles.metering import Metering
from streams.roles.publish import published
from streams.roles.upkeep import Round, Table, row_key
from streams.roles.watch import AbuseWatch
from streams.settings import Settings
from streams.subscription import Subscription

NOW = "mailvet-now-ms"
ARRIVED = "mailvet-arrived-ms"
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

METERED_LATE = decisions.MAX_VERDICT_BY + timedelta(days=1)
"""A day may begin so long before the last of its requests must be answered."""

BURST = 10
"""A decision on 1,000 addresses takes under a millisecond; one tenant's requests are decided one after the other."""


class Gate:
    """Tables: ``ledger`` and the keyring's, co-partitioned with ``admissions.<lane>.v1``.

    ``clock``: milliseconds since 1970.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, keys: Keyring, ledger: Table, clock: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._keys = keys
        self._ledger = ledger
        self._clock = clock
        self._round = Round(ledger)
        self._own_topics = frozenset(settings.tenant_topics)
        self._kept_ms = round(settings.decisions_kept.total_seconds() * 1000)
        self._patience = Patience()
        self._watch = AbuseWatch(settings, metrics, keys, ledger, clock)
        self._metering = Metering(metrics, ledger, settings.decisions_kept + METERED_LATE)

    def subscriptions(self) -> tuple[Subscription, ...]:
        """What the gate reads."""
        return (
            Subscription(REQUESTS, self.intake, CONCURRENCY, BURST),
            Subscription(ADMISSIONS_INTERACTIVE, self.admit, CONCURRENCY, BURST),
            Subscription(ADMISSIONS_BULK, self.admit, CONCURRENCY, BURST),
            Subscription(SETTLEMENTS, self.settle, CONCURRENCY, BURST),
            self._keys.subscription(),
        )

    # -- intake: strangers' bytes -----------------------------------------------------------------------------------

    async def intake(self, record: Incoming) -> Sequence[Outgoing]:
        """A request that can be read goes to the tenant that its key claims; its bytes stay as they are."""
        asked = _read(record.value)
        now_ms = self._clock()
        arrived_ms = record.timestamp_ms if record.broker_time else now_ms
        claimed = self._claim(record, arrived_ms)
        headers = (
            *claimed.headers,
            (NOW, str(now_ms).encode()),
            (ARRIVED, str(arrived_ms).encode()),
            (ORIGIN, f"{record.topic}/{record.partition}/{record.offset}".encode()),
        )
        lane = self._lane(asked)
        return (Outgoing(ADMISSIONS[lane], claimed.tenant.encode(), record.value, headers),)

    def _lane(self, asked: Request | Cancel) -> Lane:
        if isinstance(asked, Cancel):
            return Lane.INTERACTIVE
        return decisions.lane_of(asked, self._settings.interactive_up_to)

    def _claim(self, record: Incoming, arrived_ms: int) -> Presented:
        """Who the record's key says it is. Raises :class:`Unusable`."""
        try:
            claimed = presented.of_client(record.headers, record.repeated)
        except Malformed as malformed:
            raise Unusable("not_authenticated", str(malformed)) from None
        if claimed.signed_at_ms is not None:
            self._in_window(claimed.signed_at_ms, arrived_ms)
        elif not self._settings.bearer_keys:
            raise Unusable("not_authenticated", "bearer keys are switched off here: sign requests")
        return claimed

    def _in_window(self, signed_at_ms: int, arrived_ms: int) -> None:
        apart_s, allowed_s = abs(arrived_ms - signed_at_ms) / 1000, self._settings.replay_window_s
        if apart_s > allowed_s:
            side = "before" if signed_at_ms < arrived_ms else "after"
            raise Unusable(
                "not_authenticated",
                f"signed {apart_s:.0f} s {side} it arrived, {allowed_s:g} s are allowed: is the client's clock right?",
            )

    # -- admission --------------------------------------------------------------------------------------------------

    async def admit(self, record: Incoming) -> Sequence[Outgoing]:
        """Admits a request or refuses it, once: whoever reads the record again finds the decision."""
        request = _read(record.value)
        key, proof = self._authenticate(record, request)
        if isinstance(request, Cancel):
            return self._cancel(record, request, key, proof)
        tenant, own = self._accounts(key.tenant, key.key_id)
        asked = self._asked(record, request, key, proof, tenant)
        known = self._decision(key.tenant, asked.uid)
        if known is not None and not _is_open(known, asked):
            return self._known(key, asked, known, _number(record, NOW))
        decided = decisions.decide(key, tenant, own, asked)
        decision = _last(decided).decision
        if decision.reason is not None:
            self._bear(key, asked.refusal, asked.now_ms, decision.reason)
        self._write(key.tenant, decided)
        self._metrics.requests.labels(decision.reason or "admitted").inc()
        self._metering.decided(key.tenant, decision)
        return (self._outcome(key.tenant, request, decision),)

    def _known(self, key: Key, asked: Asked, known: Decision, stamped_ms: int) -> Sequence[Outgoing]:
        """The answer where the request id was decided before."""
        if known.body == asked.body:
            if known.decided_by == asked.record:
                self._metering.decided(key.tenant, known)
            elif known.reason is None:
                return ()
            else:
                self._bear(key, asked.refusal, asked.now_ms, known.reason)
            return (self._outcome(key.tenant, asked.request, known),)
        if asked.refusal is not None:
            # A key that is not served may not even disturb the request that has this id.
            raise Unusable("not_authenticated", f"{asked.refusal.reason}, and the request_id is another request's")
        self._bear(key, asked.refusal, asked.now_ms, CONFLICT.reason)
        self._metering.refused(key.tenant, key.key_id, asked.record, stamped_ms, CONFLICT.reason)
        rejected = _rejection(key.key_id, asked.request, asked.uid, CONFLICT, stamped_ms)
        return (published(rejected, key.tenant, own_topic=key.tenant in self._own_topics),)

    def _bear(self, key: Key, standing: Refusal | None, now_ms: int, said: str) -> None:
        """Raises :class:`Unusable` where the key was refused too often. ``standing``: why it is not served, if so."""
        if not self._patience.take(key, now_ms, served=standing is None):
            raise Unusable("refused", f"{said}; this key was refused too often to be answered each time")

    def _authenticate(self, record: Incoming, request: Request | Cancel) -> tuple[Key, Proof]:
        """The key and which of its credentials proves it. Raises :class:`Unusable`."""
        try:
            claimed = presented.of_intake(_text(record.key), record.headers)
        except Malformed as malformed:
            raise Unusable("not_authenticated", str(malformed)) from None
        key = self._keys.find(claimed.tenant, claimed.key)
        proof = claimed.proven(key, lambda signed_at_ms: self._signed(claimed, request, record.value, signed_at_ms))
        self._metrics.authentications.labels(claimed.kind, "refused" if proof is None else "accepted").inc()
        if key is None or proof is None:
            raise Unusable("not_authenticated", "no such key, or not its secret")
        self._keys.used(key.tenant, key.key_id, _number(record, NOW))
        return key, proof

    def _signed(self, claimed: Presented, request: Request | Cancel, value: bytes, signed_at_ms: int) -> bytes:
        return signing.message(
            audience=self._settings.audience,
            topic=physical_name(REQUESTS.name, self._settings.namespace),
            key_id=signing.key_id(claimed.tenant, claimed.key),
            signed_at_ms=signed_at_ms,
            request_id=request.request_id,
            value=value,
        )

    def _asked(self, record: Incoming, request: Request, key: Key, proof: Proof, tenant: Account) -> Asked:
        # The time of a tenant never runs backwards, whichever intake stamped it. The deadline is counted from the stamp
        # all the same: whoever decides this record names the same request downstream (docs/decisions/0017).
        stamped_ms = _number(record, NOW)
        now_ms = max(stamped_ms, tenant.now_ms)
        return Asked(
            request=request,
            uid=request_uid(key.tenant, request.request_id),
            body=hashlib.sha256(record.value).hexdigest(),
            record=f"{record.topic.split('.')[2]}-{record.partition}-{record.offset}",
            now_ms=now_ms,
            lane=decisions.lane_of(request, self._settings.interactive_up_to),
            verdict_by_ms=decisions.verdict_by(request, stamped_ms, self._settings.verdict_by_default),
            refusal=standing(key, proof, _number(record, ARRIVED)),
        )

    def _outcome(self, tenant: str, request: Request, decision: Decision) -> Outgoing:
        """The record that says what was decided: the same bytes whenever it is asked again."""
        own_topic = tenant in self._own_topics
        if decision.reason is not None:
            refusal = Refusal(decision.reason, decision.message, decision.retry_after_ms)
            rejected = _rejection(decision.key_id, request, decision.uid, refusal, decision.at_ms)
            return published(rejected, tenant, own_topic=own_topic)
        ticket = Ticket(
            request_uid=decision.uid,
            request_id=request.request_id,
            tenant=tenant,
            key_id=decision.key_id,
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

    # -- cancelling -------------------------------------------------------------------------------------------------

    def _cancel(self, record: Incoming, cancel: Cancel, key: Key, proof: Proof) -> Sequence[Outgoing]:
        """Answers how the request stands, and has completion end one that runs; then it is settled as ever.

        Nothing is written down: whoever reads the cancel again says how the request stands by then, and an order that
        is repeated ends nothing twice. A cancel that ends nothing counts as a refusal.
        """
        self._accounts(key.tenant, key.key_id)
        uid = request_uid(key.tenant, cancel.request_id)
        known = self._decision(key.tenant, uid)
        if known is None and record.topic == ADMISSIONS[Lane.INTERACTIVE]:
            # It may wait in the other lane still: there the cancel stands behind it.
            return (Outgoing(ADMISSIONS[Lane.BULK], record.key, record.value, tuple(record.headers.items())),)
        refusal = standing(key, proof, _number(record, ARRIVED))
        answer = cancels.answer(known, key.key_id, refusal)
        now_ms = _number(record, NOW)
        if answer.outcome is not CancelOutcome.ACCEPTED:
            self._bear(key, refusal, now_ms, answer.outcome)
        self._metrics.cancels.labels(answer.outcome).inc()
        answered = _told(key.key_id, uid, cancel, answer, now_ms)
        told = published(answered, key.tenant, own_topic=key.tenant in self._own_topics)
        if known is None or answer.outcome is not CancelOutcome.ACCEPTED:
            return (told,)
        order = CancelOrder(request_uid=uid, verdict_by=decisions.instant(known.verdict_by_ms), by=key.key_id)
        return (told, Outgoing(CANCELS.name, uid.encode(), encode(order)))

    # -- settlement -------------------------------------------------------------------------------------------------

    async def settle(self, record: Incoming) -> Sequence[Outgoing]:
        """Gives back what a finished request did not cost, once; suspends a tenant that looks like a harvester."""
        settlement = decode(Settlement, record.value)
        tenant, own = self._accounts(settlement.tenant, settlement.key_id)
        decision = self._decision(settlement.tenant, settlement.request_uid)
        if decision is None or decision.reason is not None:
            return ()
        name = f"settlements-{record.partition}-{record.offset}"
        if decision.settled:
            return self._watch.commands(name, settlement.tenant)
        self._watch.settled(name, settlement)
        self._metering.settled(name, settlement, decision)
        now_ms = round(settlement.finished_at.timestamp() * 1000)
        settled = decisions.settle(tenant, own, decision, given_back=settlement.given_back, now_ms=now_ms)
        self._write(settlement.tenant, settled)
        return self._watch.commands(name, settlement.tenant)

    def report(self, now_ms: int) -> Iterable[Outgoing]:
        """What keys used, for ``usage.v1``; call it about once a second and deliver what it returns."""
        return self._metering.report(now_ms)

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
        kind = key.split(b":")[1]
        if kind == b"usage":
            return self._metering.is_over(key, now_ms)
        if kind == b"watch":
            return self._watch.is_over(key, now_ms)
        if kind == b"account":
            account = decode(Account, row)
            return account.now_ms + self._kept_ms < now_ms and account.is_idle(now_ms)
        return decode(Decision, row).verdict_by_ms + self._kept_ms < now_ms

    def _accounts(self, tenant: str, key_id: str) -> tuple[TenantAccount, Account]:
        """The accounts of a tenant and of its key, after what the first was last changed with surely stands too."""
        row = self._ledger.get(row_key(tenant, "account"))
        shared = TenantAccount() if row is None else decode(TenantAccount, row)
        self._heal(tenant, shared)
        own = self._ledger.get(row_key(tenant, "account", key_id))
        return shared, Account() if own is None else decode(Account, own)

    def _heal(self, tenant: str, shared: TenantAccount) -> None:
        if shared.last is not None:
            self._put(row_key(tenant, "account", shared.last.decision.key_id), encode(shared.last.account))
            self._put(row_key(tenant, "decision", shared.last.decision.uid), encode(shared.last.decision))

    def _decision(self, tenant: str, uid: str) -> Decision | None:
        row = self._ledger.get(row_key(tenant, "decision", uid))
        return None if row is None else decode(Decision, row)

    def _write(self, tenant: str, shared: TenantAccount) -> None:
        # The tenant's account first: a crash behind it is healed by the next look at it.
        self._put(row_key(tenant, "account"), encode(shared))
        self._heal(tenant, shared)

    def _put(self, key: bytes, row: bytes) -> None:
        if self._ledger.get(key) != row:
            self._ledger[key] = row


def _read(value: bytes) -> Request | Cancel:
    """A request, or the end of one, as a client may write it. Raises :class:`Unusable`."""
    if len(value) > MAX_REQUEST_BYTES:
        raise Unusable("too_large", f"the record has {len(value)} bytes, {MAX_REQUEST_BYTES} are allowed")
    try:
        value.decode()
    except UnicodeDecodeError as error:
        raise Unusable("not_utf8", f"byte {error.start} is not UTF-8") from None
    try:
        return Request.model_validate_json(value, strict=True)
    except ValidationError as error:
        if _has_cancel(error):
            return _read_cancel(value)
        raise unusable(error) from None


def _has_cancel(error: ValidationError) -> bool:
    """Whether what is no request has the field that makes a cancel of it."""
    return any(problem["loc"] == ("cancel",) for problem in problems_of(error))


def _read_cancel(value: bytes) -> Cancel:
    try:
        return Cancel.model_validate_json(value, strict=True)
    except ValidationError as error:
        raise unusable(error) from None


def _text(raw: bytes | None) -> str:
    """ASCII, or nothing: whatever else stands there is no name of ours."""
    return raw.decode() if raw is not None and raw.isascii() else ""


def _number(record: Incoming, name: str) -> int:
    try:
        return int(record.headers[name])
    except (KeyError, ValueError):
        raise Unusable("invalid", f"the header {name} is missing or no number") from None


def _last(account: TenantAccount) -> Last:
    assert account.last is not None  # noqa: S101 - decide() and settle() always set it
    return account.last


def _is_open(known: Decision, asked: Asked) -> bool:
    """A refusal of the key, not of the request, leaves the id free: for another body, or once the key is served."""
    if known.reason not in STANDING or known.decided_by == asked.record:
        return False
    return asked.refusal is None or known.body != asked.body


def _rejection(key_id: str, request: Request, uid: str, refusal: Refusal, at_ms: int) -> Rejection:
    return Rejection(
        request_uid=uid,
        request_id=request.request_id,
        key_id=key_id,
        total=len(request.addresses),
        reason=refusal.reason,
        reasons=(refusal.reason,),
        message=refusal.message,
        retry_after_ms=refusal.retry_after_ms,
        checked_at=decisions.instant(at_ms),
    )


def _told(key_id: str, uid: str, cancel: Cancel, answer: Answer, at_ms: int) -> Cancellation:
    return Cancellation(
        request_uid=uid,
        request_id=cancel.request_id,
        key_id=key_id,
        outcome=answer.outcome,
        reason=answer.reason,
        message=answer.message,
        at=decisions.instant(at_ms),
    )
