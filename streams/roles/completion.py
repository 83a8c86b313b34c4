"""Completion: the first final attempt in the order of the log decides an address; then results, summary, settlement.

Tables, both keyed by request uid and the time at which the request must be answered, so that going through them by
the clock reads no row: ``requests`` keeps what was asked until it is answered; ``progress`` says which record of
``attempts.v1`` decided which addresses. A record that is read again publishes what it published; a late twin, whose
addresses another record has decided, publishes nothing. No clock goes into anything published.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from schemas.pipeline import Admitted, Attempt, AttemptEntry, CancelOrder, Position, Ticket
from schemas.result import Evidence, Finding, Result, Summary
from schemas.topics import ADMITTED_BULK, ADMITTED_INTERACTIVE, ATTEMPTS, CANCELS, SETTLEMENTS
from schemas.vocabulary import VERDICTS, Reason, Stage, Verdict
from streams.codec import decode, encode
from streams.metrics import Metrics
from streams.records import Incoming, Outgoing
from streams.roles.breath import breathing
from streams.roles.judge import attempts, instant
from streams.roles.progress import Progress, decide, pack, places, settlement_of, summary_of, unpack
from streams.roles.publish import published, result_of
from streams.roles.upkeep import Round, Table, row_key
from streams.settings import Settings
from streams.subscription import Subscription

CONCURRENCY = 1000
"""Records whose outputs may be on their way to the broker; deciding itself is one at a time."""

SWEPT_ADDRESSES = 2000
"""Addresses that one sweep answers at most: some tens of milliseconds."""

SEEN_KEPT_MS = 60_000
"""How long what was seen is kept beyond ``delivery_timeout_s`` after the end of its request: by then its settlement is
on the broker, or the worker has ended and the record that made it is read again."""

FORGOTTEN = 500
"""Rows that become smaller in one call: some tens of milliseconds."""

SWEEP_AGAIN_MS = 60_000
"""A deadline that was written but is not decided yet is written again after this."""

_NOTHING = Evidence(stage=Stage.CONNECT)


class Completion:
    """Tables: ``requests`` and ``progress``, co-partitioned with ``attempts.v1`` and ``admitted.<lane>.v1``."""

    def __init__(self, settings: Settings, metrics: Metrics, *, requests: Table, progress: Table) -> None:
        self._metrics = metrics
        self._requests = requests
        self._progress = progress
        self._kept_ms = round(settings.decisions_kept.total_seconds() * 1000)
        self._due = Round(requests)
        self._rounds = tuple((table, Round(table)) for table in (requests, progress))
        self._swept_ms: OrderedDict[bytes, int] = OrderedDict()
        """When a deadline was written, the oldest first: forgotten when it is over, also where its row has moved on."""
        self._seen_kept_ms = round(settings.delivery_timeout_s * 1000) + SEEN_KEPT_MS
        self._ended: list[bytes] = []
        self._said: deque[tuple[int, bytes]] = deque()

    def subscriptions(self) -> tuple[Subscription, ...]:
        """What completion reads."""
        return (
            Subscription(ADMITTED_INTERACTIVE, self.admitted, CONCURRENCY),
            Subscription(ADMITTED_BULK, self.admitted, CONCURRENCY),
            Subscription(ATTEMPTS, self.attempt, CONCURRENCY),
            Subscription(CANCELS, self.cancel, CONCURRENCY),
        )

    async def admitted(self, record: Incoming) -> Sequence[Outgoing]:
        """Remember what was asked, for the case that an answer does not come in time."""
        row = _row(decode(Admitted, record.value).ticket)
        progress = self._load(row)
        if progress.finished_by is None:
            _put(self._requests, row, record.value)
        return self._cancelled(row, progress)

    async def cancel(self, record: Incoming) -> Sequence[Outgoing]:
        """End a request: attempts for what is not decided, as when its time is over.

        A request that is not there yet is ended when it comes.
        """
        order = decode(CancelOrder, record.value)
        row = _row_of(order.request_uid, order.verdict_by)
        progress = self._load(row)
        if progress.finished_by is None and progress.cancelled_at is None:
            progress = progress.model_copy(update={"cancelled_at": instant(record.timestamp_ms)})
            _put(self._progress, row, encode(progress))
        return self._cancelled(row, progress)

    async def attempt(self, record: Incoming) -> Sequence[Outgoing]:
        """Publish what this record decides, and the end of the request if that was the last of it."""
        attempt = decode(Attempt, record.value)
        name = f"{record.partition}-{record.offset}"
        row = _row(attempt.ticket)
        progress = self._decide(row, self._load(row), name, record, attempt)
        mine = places(attempt, progress.by.get(name, ()), final=True)
        outputs = [
            _published(attempt.ticket, result_of(attempt.ticket, each.position, each.entry))
            async for each in breathing(mine)
        ]
        if progress.finished_by == name and progress.finished_at is not None:
            summary = _published(attempt.ticket, summary_of(attempt.ticket, progress, progress.finished_at))
            outputs.append(replace(summary, closing=True))  # Clients stop reading at it.
            settlement = settlement_of(attempt.ticket, progress, progress.finished_at)
            if progress.seen:
                self._ended.append(row)
            outputs.append(Outgoing(SETTLEMENTS.name, settlement.tenant.encode(), encode(settlement)))
        return outputs

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _decide(self, row: bytes, before: Progress, name: str, record: Incoming, attempt: Attempt) -> Progress:
        """Write down what this record decides and what else it knows; end what is not needed any more."""
        at = instant(record.timestamp_ms)
        progress = decide(before, name, attempt, at)
        if name in progress.known:
            entries = tuple(entry for entry in attempt.entries if not entry.final)
            _put(self._progress, _known_row(row, name), pack(entries))
        if progress != before:
            _put(self._progress, row, encode(progress))
            self._count(progress, name, attempt, at)
        if progress.finished_by == name:
            for known in before.known:
                self._progress.pop(_known_row(row, known), None)
            self._requests.pop(row, None)
        return progress

    def _count(self, progress: Progress, name: str, attempt: Attempt, at: datetime) -> None:
        ticket = attempt.ticket
        seconds = max(0.0, (at - ticket.admitted_at).total_seconds())
        address_seconds = self._metrics.address_seconds.labels(ticket.lane)
        for place in places(attempt, progress.by.get(name, ()), final=True):
            reason = place.entry.finding.reason
            self._metrics.verdicts.labels(VERDICTS[reason], reason).inc()
            address_seconds.observe(seconds)
        if progress.finished_by == name:
            self._metrics.request_seconds.labels(ticket.lane).observe(seconds)

    def _load(self, row: bytes) -> Progress:
        found = self._progress.get(row)
        return Progress() if found is None else decode(Progress, found)

    # -- by the clock -----------------------------------------------------------------------------------------------

    def sweep(self, now_ms: int) -> list[Outgoing]:
        """Attempts for requests whose time is over: what is known becomes final, when the log says so.

        Call it about once a second and deliver what it returns; if that is lost, it comes again.
        """
        outputs: list[Outgoing] = []
        room = SWEPT_ADDRESSES
        while self._swept_ms and next(iter(self._swept_ms.values())) <= now_ms - SWEEP_AGAIN_MS:
            self._swept_ms.popitem(last=False)
        for row in self._due.next():
            if _verdict_by_ms(row) > now_ms or row in self._swept_ms or room <= 0:
                continue
            asked = self._asked(row)
            if asked is not None:
                room -= asked.ticket.total
                outputs += self._answers(row, asked, "deadline", lambda known: known or _nothing_known(instant(now_ms)))
                self._swept_ms[row] = now_ms
        return outputs

    def forget_seen(self, now_ms: int) -> int:
        """Take out of rows what was seen, a while after its settlement was made; call it about once a second.

        A settlement that is written again after a crash says it again. Returns how many rows became smaller.
        """
        self._said.extend((now_ms, row) for row in self._ended)
        self._ended.clear()
        forgotten = 0
        while self._said and self._said[0][0] + self._seen_kept_ms <= now_ms and forgotten < FORGOTTEN:
            _, row = self._said.popleft()
            progress = self._load(row)
            if progress.seen:
                _put(self._progress, row, encode(progress.model_copy(update={"seen": {}})))
                forgotten += 1
        return forgotten

    def expire(self, now_ms: int) -> int:
        """End rows that no record can ask for any more, a bounded piece of the tables a call; how many ended."""
        over = [
            (table, row)
            for table, round_ in self._rounds
            for row in round_.next()
            if _verdict_by_ms(row) + self._kept_ms < now_ms
        ]
        for table, row in over:
            table.pop(row, None)
        return len(over)

    def _asked(self, row: bytes) -> Admitted | None:
        """What was asked, where answers are still missing."""
        value = self._requests.get(row)
        return None if value is None or self._load(row).finished_by is not None else decode(Admitted, value)

    def _cancelled(self, row: bytes, progress: Progress) -> Sequence[Outgoing]:
        """What ends a request that was cancelled. Written again it is a late twin."""
        at, asked = progress.cancelled_at, self._asked(row)
        if at is None or asked is None:
            return ()
        return tuple(self._answers(row, asked, "cancel", lambda known: _ended(known or _nothing_known(at))))

    def _answers(
        self,
        row: bytes,
        asked: Admitted,
        origin: Literal["deadline", "cancel"],
        answer: Callable[[Finding | None], Finding],
    ) -> Iterator[Outgoing]:
        """Attempts that answer what is not decided; ``answer`` makes a verdict of what is known of an address."""
        progress = self._load(row)
        known, decided = self._known(row, progress), progress.decided()
        positions = (Position(index=index, input=text) for index, text in enumerate(asked.addresses))
        entries = (
            AttemptEntry(positions=(position,), final=True, finding=answer(known.get(position.index)))
            for position in positions
            if position.index not in decided
        )
        return attempts(asked.ticket, origin, entries)

    def _known(self, row: bytes, progress: Progress) -> Mapping[int, Finding]:
        """The last finding of each address that was told "later"."""
        known: dict[int, Finding] = {}
        for name in progress.known:
            packed = self._progress.get(_known_row(row, name))
            for entry in unpack(packed) if packed is not None else ():
                finding = entry.finding.model_copy(update={"next_attempt_at": None})
                known.update((position.index, finding) for position in entry.positions)
        return known


def _published(ticket: Ticket, record: Result | Summary) -> Outgoing:
    return published(record, ticket.tenant, own_topic=ticket.own_topic)


def _nothing_known(now: datetime) -> Finding:
    return Finding(
        verdict=Verdict.UNKNOWN,
        reason=Reason.TIMEOUT,
        reasons=(Reason.TIMEOUT,),
        score=0,
        retryable=True,
        evidence=_NOTHING,
        checked_at=now,
    )


def _ended(known: Finding) -> Finding:
    """What was cancelled is unknown, whatever was about to be asked again; the reasons before stay to be read."""
    reasons = (Reason.CANCELLED, *(() if known.evidence == _NOTHING else known.reasons))
    changes = {"verdict": Verdict.UNKNOWN, "reason": Reason.CANCELLED, "reasons": reasons, "retryable": False}
    return known.model_copy(update=changes)


def _row(ticket: Ticket) -> bytes:
    return _row_of(ticket.request_uid, ticket.verdict_by)


def _row_of(request_uid: str, verdict_by: datetime) -> bytes:
    return row_key(request_uid, str(round(verdict_by.timestamp() * 1000)))


def _known_row(row: bytes, name: str) -> bytes:
    return b":".join((row, name.encode()))


def _verdict_by_ms(row: bytes) -> int:
    return int(row.split(b":")[1])


def _put(table: Table, key: bytes, row: bytes) -> None:
    if table.get(key) != row:
        table[key] = row
