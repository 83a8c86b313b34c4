"""Reads the topic of dead letters once through, in bounded memory, and sends some of them back."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from ops.cli import kafka
from ops.cli.errors import Unfinished, UserError
from ops.deadletters import Filter, Letter, letter_of, marker_of, refusal, replay_of
from schemas.pipeline import Replayed
from schemas.topics import DEADLETTERS, physical_name
from streams.records import Outgoing
from streams.wire import read_anything

QUIET_S = 15.0
"""A broker that gives nothing for so long, though there is more, is not waited for."""

DELIVERY_S = 30.0
BATCH = 100
"""Dead letters read, or sent, at a time: 50 MB at the most."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of each partition: what is there now, or of that what was appended within some time."""

    topic: str
    starts: Mapping[int, int]
    ends: Mapping[int, int]
    last: Mapping[int, int]
    """Where each partition ends: the words that something was replayed stand anywhere up to here."""


class Letterbox:
    """``deadletters.v1`` of one installation, through a consumer without a group: reading leaves no trace."""

    def __init__(self, client: AIOKafkaConsumer, namespace: str) -> None:
        self._client, self._namespace = client, namespace
        self._topic = physical_name(DEADLETTERS.name, namespace)

    async def span(self, wanted: Filter) -> Span:
        """What there is to read for these. Times are those of the broker, when it appended a record."""
        client = self._client
        await self.require([DEADLETTERS.name])
        # A consumer that reads nothing yet hears of a topic's partitions when it is asked for one of them.
        await _in_time(client.end_offsets([TopicPartition(self._topic, 0)]))
        places = [TopicPartition(self._topic, each) for each in sorted(client.partitions_for_topic(self._topic) or ())]
        firsts, lasts = await _in_time(client.beginning_offsets(places)), await _in_time(client.end_offsets(places))
        starts, ends = dict(firsts), dict(lasts)
        for bound, edges in ((wanted.since_ms, starts), (wanted.until_ms, ends)):
            found = {} if bound is None else await _in_time(client.offsets_for_times(dict.fromkeys(places, bound)))
            edges.update({place: lasts[place] if at is None else at.offset for place, at in found.items()})
        for place, numbers in _by_partition(places, wanted).items():
            starts[place] = max(starts[place], min(numbers, default=ends[place]))
            ends[place] = min(ends[place], max(numbers, default=-1) + 1)
        return Span(
            self._topic, *({place.partition: edges[place] for place in places} for edges in (starts, ends, lasts))
        )

    async def read(self, span: Span, *, to_the_end: bool = False) -> AsyncIterator[Letter]:
        """Every record of the span, each partition in its order, words of replays included."""
        ends = span.last if to_the_end else span.ends
        left = {
            TopicPartition(span.topic, number): ends[number]
            for number, start in span.starts.items()
            if start < ends[number]
        }
        self._client.assign(list(left))
        for place in left:
            self._client.seek(place, span.starts[place.partition])
        heard = asyncio.get_running_loop().time()
        while left:
            batches = await _in_time(self._client.getmany(*left, timeout_ms=500, max_records=BATCH))
            for place, messages in batches.items():
                heard = asyncio.get_running_loop().time()
                for message in messages:
                    if message.offset < left[place]:
                        yield letter_of(message)
            done = [place for place, end in left.items() if await _in_time(self._client.position(place)) >= end]
            for place in done:
                del left[place]
                self._client.pause(place)
            if asyncio.get_running_loop().time() - heard > QUIET_S:
                raise Unfinished(f"the broker gave nothing of {span.topic} for {QUIET_S:.0f} s: try again")

    async def require(self, topics: Iterable[str]) -> None:
        """See that these are there, by their names without a namespace: sending to them must not create them.

        Raises:
            UserError: one is missing.
        """
        names = (physical_name(topic, self._namespace) for topic in topics)
        await _in_time(kafka.require_topics(self._client, *names))

    async def replayed(self, span: Span) -> dict[int, dict[int, Replayed]]:
        """The words that something of the span was replayed, by partition and offset of the dead letter."""
        words: dict[int, dict[int, Replayed]] = defaultdict(dict)
        async for letter in self.read(span, to_the_end=True):
            word = letter.replayed
            if word is not None and word.partition == letter.partition and word.offset < letter.offset:
                words[word.partition][word.offset] = word
        return words


@contextlib.asynccontextmanager
async def opened(bootstrap: str, namespace: str) -> AsyncIterator[Letterbox]:
    """The dead letters, for as long as the block runs.

    Raises:
        UserError: no broker answered, or it has no such topic.
        Unfinished: the broker went away meanwhile.
    """
    read_anything()
    try:
        async with kafka.consumer(bootstrap) as client:
            yield Letterbox(client, namespace)
    except (KafkaError, OSError) as error:
        raise Unfinished(f"the broker at {bootstrap} did not go on: {error!r}") from None


def _by_partition(places: list[TopicPartition], wanted: Filter) -> dict[TopicPartition, list[int]]:
    if not wanted.names:
        return {}
    numbers: dict[int, list[int]] = defaultdict(list)
    for partition, offset in (name.split("-") for name in wanted.names):
        numbers[int(partition)].append(int(offset))
    return {place: numbers[place.partition] for place in places}


async def _in_time(waiting: Awaitable[T], limit: float | None = None) -> T:
    limit = QUIET_S if limit is None else limit
    try:
        async with asyncio.timeout(limit):
            return await waiting
    except TimeoutError:
        raise Unfinished(f"the broker did not answer within {limit:.0f} s: try again") from None


# -- replay -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Plan:
    """What a replay does with what is meant."""

    replays: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By topic and reason."""
    refused: Counter[str] = field(default_factory=Counter)
    """By the sentence that says why."""
    before: int = 0
    """How many were replayed before."""

    @property
    def count(self) -> int:
        """How many go back."""
        return self.replays.total()


@dataclass(frozen=True, slots=True)
class Replay:
    """The dead letters that are meant, of those that were there when it began, so that it never meets its own."""

    box: Letterbox
    span: Span
    wanted: Filter
    words: Mapping[int, Mapping[int, Replayed]]
    clock: Callable[[], int]
    decisions_kept: timedelta
    force: bool = False

    async def letters(self, plan: Plan) -> AsyncIterator[Letter]:
        """Those that go back; ``plan`` is told of all that were meant."""
        async for letter in self.box.read(self.span):
            if letter.replayed is not None or letter not in self.wanted:
                continue
            if letter.offset in self.words.get(letter.partition, {}):
                plan.before += 1
            elif why := refusal(letter, now_ms=self.clock(), decisions_kept=self.decisions_kept, force=self.force):
                plan.refused[why] += 1
            else:
                assert letter.about is not None  # noqa: S101  refusal() has looked
                plan.replays[letter.about.topic, letter.about.reason] += 1
                yield letter

    async def plan(self) -> Plan:
        """What would be done."""
        plan = Plan()
        async for _ in self.letters(plan):
            pass
        return plan

    async def send(self, sender: "Sender", done: Plan) -> None:
        """Do it. ``done`` counts the way, whatever ends it; what was sent is remembered a batch at a time."""
        batch: list[Letter] = []
        async for letter in self.letters(done):
            batch.append(letter)
            if len(batch) == BATCH:
                await sender.send(batch)
                batch.clear()
        await sender.send(batch)


@dataclass(slots=True)
class Sender:
    """Writes records to where they failed, then the words that they were replayed: a crash in between sends them
    again, which no role minds."""

    producer: AIOKafkaProducer
    namespace: str
    clock: Callable[[], int]
    sent: int = 0

    async def send(self, letters: list[Letter]) -> None:
        """All of these, confirmed and remembered."""
        await self._write([(replay_of(letter), await self._partition(letter)) for letter in letters])
        await self._write([(marker_of(letter, self.clock()), letter.partition) for letter in letters])
        self.sent += len(letters)

    async def _partition(self, letter: Letter) -> int | None:
        # Tables go by the partition that a record came from: it's the same one again.
        assert letter.about is not None  # noqa: S101  refusal() was asked
        topic = physical_name(letter.about.topic, self.namespace)
        there = await _in_time(self.producer.partitions_for(topic), DELIVERY_S)
        return letter.about.partition if letter.about.partition in there else None

    async def _write(self, records: list[tuple[Outgoing, int | None]]) -> None:
        waiting = [
            await _in_time(
                self.producer.send(
                    physical_name(record.topic, self.namespace),
                    record.value,
                    key=record.key,
                    partition=partition,
                    headers=list(record.headers),
                ),
                DELIVERY_S,
            )
            for record, partition in records
        ]
        for each in waiting:
            await _in_time(each, DELIVERY_S)


def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of dead letters as they are listed.

    Raises:
        UserError: one is none.
    """
    for name in names:
        partition, dash, offset = name.partition("-")
        if not (dash and partition.isdigit() and offset.isdigit() and name.isascii() and len(name) < 40):
            raise UserError(f"{name[:40]!r} names no dead letter: they are listed as PARTITION-OFFSET, such as 3-17")
    return tuple(f"{int(partition)}-{int(offset)}" for partition, _, offset in (each.partition("-") for each in names))
