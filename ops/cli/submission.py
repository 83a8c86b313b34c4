"""The work of `submit`: requests out, results in, a window of addresses in flight, and everything kept in the state."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.errors import KafkaTimeoutError
from pydantic import TypeAdapter, ValidationError

from ops.cli.errors import Unfinished
from ops.cli.output import duration, printable
from ops.cli.progress import Meter
from ops.cli.submitstate import Learned, State
from schemas.client import Presenter
from schemas.request import Request, request_uid
from schemas.result import MAX_TEXT_BYTES, Output, Rejection, Result
from schemas.vocabulary import THROTTLED, Depth, Lane

COLUMNS = (
    "verdict",
    "reason",
    "score",
    "suggestion",
    "catch_all",
    "role",
    "free",
    "disposable",
    "mailbox_full",
    "smtp_code",
    "enhanced_code",
    "text",
    "mx_host",
    "checked_at",
)
"""The columns that are added to the file."""

_READ_MS = 100
_READ_RECORDS = 5_000
_QUIET_S = 30.0
_LONGEST_PAUSE_S = 60.0
_BROKER_PAUSE_S = 1.0
_OUTPUT: TypeAdapter[Output] = TypeAdapter(Output)


def cells_of(result: Result) -> tuple[str, ...]:
    """A result as the cells of :data:`COLUMNS`; what isn't known is empty."""
    flags, evidence = result.flags, result.evidence
    values = (
        result.verdict,
        result.reason,
        result.score,
        result.suggestion,
        flags.catch_all,
        flags.role,
        flags.free,
        flags.disposable,
        flags.mailbox_full,
        evidence.smtp_code,
        evidence.enhanced_code,
        evidence.text,
        evidence.mx_host,
        result.checked_at.isoformat(timespec="seconds"),
    )
    return tuple(map(_cell, values))


def _cell(value: str | int | bool | None) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else printable(str(value), MAX_TEXT_BYTES)


@dataclass(frozen=True, slots=True)
class Plan:
    """What every request of a run has in common.

    ``run`` names the run, and stands in its state file: a run that goes on uses the same request ids, so that what was
    sent already is charged and answered once.
    """

    run: str
    tenant: str
    key: Presenter
    requests_topic: str
    request_size: int
    total: int
    depth: Depth = Depth.SMTP
    lane: Lane | None = None

    def ordinals(self, number: int) -> range:
        """Which addresses of the file are in request `number`."""
        return range(number * self.request_size, min((number + 1) * self.request_size, self.total))

    def request_id(self, number: int, generation: int) -> str:
        """The id by which the gate knows the request; a rejected one is sent again under the next generation's."""
        ordinals = self.ordinals(number)
        again = f".{generation}" if generation else ""
        return f"{self.run}-{ordinals.start}-{ordinals.stop - 1}{again}"


@dataclass(slots=True)
class Asked:
    """A request that waits: to be sent, or for the answers to the ``missing`` of its addresses (ordinals)."""

    number: int
    addresses: tuple[str, ...]
    missing: set[int]
    generation: int = 0
    delivered: bool = False
    earlier: bool = False
    """Sent before the run was taken up again: a rejection was of that day, and isn't believed today."""


class Throttle:
    """When requests may be sent again after the gate said "not now": what it asked for, and at least a delay that
    doubles with each time in a row, up to a minute, with jitter, so that many clients don't come back at once."""

    def __init__(self, random_: Callable[[], float] = random.random) -> None:
        self._random = random_
        self._in_a_row = 0
        self.until = 0.0

    def rejected(self, now: float, retry_after_ms: int | None) -> None:
        """A request was turned away at `now`, with the gate's hint. Those sent before the pause count as one."""
        hint = now + (retry_after_ms or 0) / 1000
        if now >= self.until:
            self._in_a_row += 1
            delay = min(2.0 ** (self._in_a_row - 1), _LONGEST_PAUSE_S) * (0.75 + self._random() / 2)
            hint = max(hint, now + delay)
        self.until = max(self.until, hint)

    def served(self) -> None:
        """A request was answered: the next rejection starts from the shortest delay."""
        self._in_a_row = 0


class Submission:
    """One run, from the first address that isn't answered to the last.

    Args:
        plan: what the requests have in common.
        state: where everything is kept.
        producer, consumer: running clients; the consumer reads the results topic from the state's positions.
        begun: requests that an earlier run may have sent and that aren't answered in full.
        fresh: those that nobody has sent yet, in order.
        window: how many addresses may wait for their answers.
        timeout: seconds without any answer after which the run gives up.
        meter: where progress is shown.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        plan: Plan,
        state: State,
        producer: AIOKafkaProducer,
        consumer: AIOKafkaConsumer,
        *,
        begun: Iterable[Asked],
        fresh: Iterator[Asked],
        window: int,
        timeout: float,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._state, self._producer, self._consumer = plan, state, producer, consumer
        self._window, self._timeout, self._meter, self._clock = window, timeout, meter, clock
        self._throttle = Throttle()
        self._fresh = fresh
        self._next: Asked | None = next(fresh, None)
        self._again: deque[Asked] = deque()
        # Whoever may have been sent is open before anything is read: its answers may be the first that come.
        self._open = {self._uid(asked): asked for asked in begun}
        self._unsent = [asked for asked in self._open.values() if not asked.delivered]
        self._in_flight = sum(len(asked.missing) for asked in self._open.values())
        self._answered = state.answered()
        self._last_answer = clock()
        self._broker_lost = False

    async def run(self) -> None:
        """Return when every address has its answer.

        Raises:
            Unfinished: the gate turned the key away, or no answer came for the timeout.
            KafkaError: the broker refused us; what passes by itself is tried again.
        """
        while self._open or self._again or self._next:
            await self._send()
            await self._receive()
            self._meter.show(self._answered, self._in_flight, self._note())
            if self._quiet_for() > self._timeout:
                raise Unfinished(
                    f"no answer came for {duration(self._timeout)}: is a worker running on this broker, "
                    "and does it know this key?"
                )

    def _uid(self, asked: Asked) -> str:
        return request_uid(self._plan.tenant, self._plan.request_id(asked.number, asked.generation))

    def _quiet_for(self) -> float:
        return self._clock() - self._last_answer

    def _note(self) -> str:
        if self._broker_lost:
            return "the broker does not answer, trying again"
        pause = self._throttle.until - self._clock()
        if pause > 0:
            return f"the key's limit is reached, sending again in {duration(pause)}"
        if self._quiet_for() > _QUIET_S:
            return f"no answer for {duration(self._quiet_for())}"
        return ""

    # Out

    def _due(self) -> list[Asked]:
        """The requests to send now: those whose sending failed, then as many as the window has room for, those turned
        away first."""
        due = [asked for asked in self._unsent if asked.missing]
        self._unsent = []
        if self._clock() < self._throttle.until:
            return due
        while (asked := self._again[0] if self._again else self._next) and self._fits(asked):
            if self._again:
                self._again.popleft()
            else:
                self._next = next(self._fresh, None)
            self._open[self._uid(asked)] = asked
            self._in_flight += len(asked.missing)
            due.append(asked)
        return due

    def _fits(self, asked: Asked) -> bool:
        return not self._in_flight or self._in_flight + len(asked.missing) <= self._window

    async def _send(self) -> None:
        due = self._due()
        if not due:
            return
        # First the state, then the broker: after a crash in between nothing that may have been sent is unknown.
        self._state.begin({asked.number: asked.generation for asked in due})
        errors = await asyncio.gather(*map(self._produce, due), return_exceptions=True)
        self._unsent = [asked for asked, error in zip(due, errors, strict=True) if error]
        for error in filter(None, errors):
            if not (isinstance(error, KafkaTimeoutError) or getattr(error, "retriable", False)):
                raise error
        self._state.deliver({asked.number for asked in due} - {asked.number for asked in self._unsent})
        self._broker_lost = bool(self._unsent)
        if self._broker_lost:
            await asyncio.sleep(_BROKER_PAUSE_S)

    async def _produce(self, asked: Asked) -> None:
        request_id = self._plan.request_id(asked.number, asked.generation)
        request = Request(
            request_id=request_id, addresses=asked.addresses, depth=self._plan.depth, lane=self._plan.lane
        )
        value = request.model_dump_json(exclude_defaults=True).encode()
        await self._producer.send_and_wait(
            self._plan.requests_topic,
            key=request_id.encode(),
            value=value,
            headers=self._plan.key.headers(self._plan.requests_topic, request_id, value),
        )

    # In

    async def _receive(self) -> None:
        records = await self._consumer.getmany(timeout_ms=_READ_MS, max_records=_READ_RECORDS)
        learned = Learned()
        refusal: Rejection | None = None
        for partition, batch in records.items():
            for record in batch:
                refusal = self._take(record, learned) or refusal
            learned.positions[partition.partition] = batch[-1].offset + 1
        if records:
            self._state.learn(learned)
        if refusal:
            raise Unfinished(f"the request was rejected: {refusal.reason}: {printable(refusal.message)}")

    def _take(self, record: ConsumerRecord, learned: Learned) -> Rejection | None:
        """Use one record of the topic, whoever it is for; a rejection that ends the run is given back."""
        try:
            output = _OUTPUT.validate_json(record.value or b"")
        except ValidationError:
            return None
        asked = self._open.get(output.request_uid)
        if asked and isinstance(output, Result):
            self._answer(asked, output, learned)
        elif asked and isinstance(output, Rejection):
            return self._turned_away(asked, output, learned)
        return None

    def _answer(self, asked: Asked, result: Result, learned: Learned) -> None:
        ordinal = self._plan.ordinals(asked.number).start + result.index
        if ordinal not in asked.missing:
            return
        learned.answers[ordinal] = cells_of(result)
        asked.missing.remove(ordinal)
        self._answered += 1
        self._in_flight -= 1
        self._last_answer = self._clock()
        self._throttle.served()
        if not asked.missing:
            del self._open[result.request_uid]

    def _turned_away(self, asked: Asked, rejection: Rejection, learned: Learned) -> Rejection | None:
        # The gate remembers its decision under the request's id, so what comes again needs another one.
        del self._open[rejection.request_uid]
        self._in_flight -= len(asked.missing)
        asked.generation += 1
        learned.again[asked.number] = asked.generation
        self._again.append(asked)
        if rejection.reason in THROTTLED:
            self._throttle.rejected(self._clock(), rejection.retry_after_ms)
        elif not asked.earlier:
            return rejection
        asked.earlier = False
        return None
