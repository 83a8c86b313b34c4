"""The retry tiers: what is due goes on, what is not waits in its topic."""

import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaConnectionError
from hypothesis import given
from hypothesis import strategies as st

from schemas.pipeline import Position, Task, TaskItem
from schemas.topics import DEADLETTERS, RETRIES_5M, TASKS_BULK, TASKS_INTERACTIVE
from schemas.vocabulary import Lane
from streams.codec import encode
from streams.delivery import Recent
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.retry import SPREAD, Due, RetryService, Tier, due, forward, spread
from tests.unit.roles.support import NOW, NOW_MS, Clock, metrics, run, settings, ticket

DELAY_S = 300.0
HOME = TopicPartition(RETRIES_5M.name, 0)


def task_bytes(lane: Lane = Lane.BULK) -> bytes:
    item = TaskItem(positions=(Position(index=0, input="a@x"),), address="a@x")
    return encode(Task(ticket=ticket(1, lane=lane), provider="p", items=(item,), attempt=2, created_at=NOW))


def at(*times_ms: int) -> list[Incoming]:
    return [
        Incoming(RETRIES_5M.name, 0, offset, b"p#0", b"", timestamp_ms=time) for offset, time in enumerate(times_ms)
    ]


# -- the decision ----------------------------------------------------------------------------------------------------


def test_what_has_waited_long_enough_is_due() -> None:
    records = at(0, 50, 100, 150)
    assert due(records, 100, 200) == Due(tuple(records[:3]), 3, 250)
    assert due(records, 100, 99) == Due((), 0, 100)
    assert due(records, 100, 250) == Due(tuple(records))
    assert due([], 100, 250) == Due(())


def test_nobody_overtakes_the_first_that_waits() -> None:
    records = at(0, 500, 10)
    assert due(records, 100, 200) == Due((records[0],), 1, 600)


@given(st.lists(st.integers(0, 1000), max_size=20), st.integers(0, 500), st.integers(0, 2000))
def test_nothing_is_lost_or_early(times: list[int], delay: int, now: int) -> None:
    records = at(*times)
    found = due(records, delay, now)
    assert all(record.timestamp_ms + delay <= now for record in found.ready)
    assert found.ready == tuple(records[: len(found.ready)])
    assert (found.rest is None) == (len(found.ready) == len(records))
    assert found.wake_ms is None or found.wake_ms > now


@pytest.mark.parametrize(("lane", "topic"), [(Lane.BULK, TASKS_BULK), (Lane.INTERACTIVE, TASKS_INTERACTIVE)])
def test_a_task_goes_back_to_its_lane_as_it_is(lane: Lane, topic: Any) -> None:
    record = Incoming(RETRIES_5M.name, 0, 0, b"p#0", task_bytes(lane), {"trace": b"1"})
    assert forward(record) == Outgoing(topic.name, b"p#0", record.value, (("trace", b"1"),))


def test_what_is_no_task_can_not_go_on() -> None:
    with pytest.raises(Unusable, match="not_json"):
        forward(Incoming(RETRIES_5M.name, 0, 0, None, b"?"))


# -- the tier, on a broker in memory ---------------------------------------------------------------------------------


@dataclass
class FakeConsumer:
    """One partition: positions, pauses and commits as aiokafka's consumer has them."""

    clock: Clock
    records: list[Any] = field(default_factory=list)
    position: int = 0
    committed_to: int = 0
    paused: bool = False
    owned: bool = True
    commit_error: Exception | None = None
    waited_ms: list[int] = field(default_factory=list)

    async def getmany(self, *, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Any]]:
        found = [] if self.paused else self.records[self.position : self.position + max_records]
        if not found:
            self.waited_ms.append(timeout_ms)
            self.clock.now_ms += timeout_ms
            return {}
        self.position += len(found)
        return {HOME: found}

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset({HOME}) if self.owned else frozenset()

    def pause(self, *_: TopicPartition) -> None:
        self.paused = True

    def resume(self, *_: TopicPartition) -> None:
        self.paused = False

    def seek(self, _: TopicPartition, offset: int) -> None:
        self.position = offset

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        if self.commit_error is not None:
            raise self.commit_error
        self.committed_to = offsets[HOME]

    async def committed(self, _: TopicPartition) -> int | None:
        return self.committed_to or None


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.consumer = FakeConsumer(self.clock)
        self.written: list[Outgoing] = []
        self.times: list[int] = []
        self.metrics = metrics()
        self.broken = False
        self.recent = Recent(0.05)
        self.tier = self.made()

    def made(self) -> Tier:
        return Tier(
            RETRIES_5M,
            DELAY_S,
            consumer=self.consumer,
            deliver=self.deliver,
            metrics=self.metrics,
            recent=self.recent,
            clock=self.clock,
        )

    async def deliver(self, outputs: Sequence[Outgoing]) -> None:
        assert self.consumer.committed_to <= self.consumer.position
        if self.broken:
            raise KafkaConnectionError("away")
        self.written += outputs
        self.times += [self.clock.now_ms] * len(outputs)

    def append(self, at_ms: int, value: bytes | None = None, *, headers: Any = ()) -> None:
        value = task_bytes() if value is None else value
        self.consumer.records.append(
            SimpleNamespace(
                partition=0,
                offset=len(self.consumer.records),
                key=b"p#0",
                value=value,
                headers=headers,
                timestamp=at_ms,
            )
        )

    def steps(self, count: int) -> None:
        for _ in range(count):
            run(self.tier.step())


def test_a_task_waits_its_delay_and_goes_on_then() -> None:
    world = World()
    world.append(NOW_MS)
    world.append(NOW_MS + 10_000)
    world.steps(400)
    assert world.times == [NOW_MS + 300_000, NOW_MS + 310_000]
    assert world.consumer.committed_to == 2
    assert max(world.consumer.waited_ms) == 1000, "every wait has an end"


def test_nothing_is_committed_that_still_waits() -> None:
    world = World()
    world.append(NOW_MS - 300_000)
    world.append(NOW_MS)
    world.steps(3)
    assert (len(world.written), world.consumer.committed_to, world.consumer.position) == (1, 1, 1)
    assert world.consumer.paused


def test_a_tier_of_milliseconds_does_not_wait_a_second() -> None:
    world = World()
    world.tier = Tier(
        RETRIES_5M,
        0.05,
        consumer=world.consumer,
        deliver=world.deliver,
        metrics=world.metrics,
        recent=world.recent,
        clock=world.clock,
    )
    world.append(NOW_MS)
    world.steps(3)
    assert world.times == [NOW_MS + 50]


def test_what_the_broker_did_not_take_is_not_committed() -> None:
    world = World()
    world.append(NOW_MS - 300_000)
    world.broken = True
    with pytest.raises(KafkaConnectionError):
        world.steps(1)
    assert world.consumer.committed_to == 0


def test_a_malformed_task_is_a_dead_letter_and_the_tier_goes_on() -> None:
    world = World()
    world.append(NOW_MS - 300_000, b"garbage")
    world.append(NOW_MS - 300_000)
    world.append(NOW_MS - 300_000, None)
    world.consumer.records[2].value = None
    world.steps(1)
    assert [output.topic for output in world.written] == [DEADLETTERS.name, TASKS_BULK.name, DEADLETTERS.name]
    assert world.consumer.committed_to == 3
    assert world.metrics.dead_letters.labels("retry", "not_json")._value.get() == 2


@pytest.mark.parametrize("error", [CommitFailedError(), IllegalStateError()])
def test_a_partition_that_moved_is_forwarded_again_elsewhere(error: Exception) -> None:
    world = World()
    world.append(NOW_MS - 300_000)
    world.consumer.commit_error = error
    world.steps(2)
    assert len(world.written) == 1


def test_a_partition_taken_away_is_not_held_or_resumed() -> None:
    world = World()
    world.append(NOW_MS)
    world.consumer.owned = False
    world.steps(1)
    assert not world.consumer.paused
    world.consumer.owned, world.consumer.position = True, 0
    world.steps(1)
    assert world.consumer.paused
    world.consumer.owned = False
    world.clock.now_ms += 300_000
    world.steps(1)
    assert world.consumer.paused, "whoever owns it now has its own pauses"


def test_a_rebalance_forgets_pauses() -> None:
    world = World()
    world.append(NOW_MS)
    world.steps(1)
    run(world.tier.on_partitions_revoked([HOME]))
    world.consumer.paused, world.consumer.position = False, 0
    run(world.tier.on_partitions_assigned([HOME]))
    world.steps(400)
    assert world.times == [NOW_MS + 300_000]


# -- waits that really are waits -------------------------------------------------------------------------------------


@given(st.integers(0, 4_000_000), st.integers(0, 1000))
def test_a_partition_waits_a_little_longer_never_less_and_always_the_same(delay_ms: int, partition: int) -> None:
    waits = spread(delay_ms, partition)
    assert delay_ms <= waits <= delay_ms * (1 + SPREAD) + 1
    assert waits == spread(delay_ms, partition)


def test_partitions_do_not_come_back_together() -> None:
    waits = sorted(spread(300_000, partition) for partition in range(8))
    assert waits[0] == 300_000
    assert min(later - sooner for sooner, later in pairwise(waits)) > 500


@pytest.mark.parametrize("restarts_ms", [(1,), (299_999,), (60_000, 120_000, 250_000)])
def test_a_restart_in_the_middle_neither_loses_nor_restarts_a_wait(restarts_ms: Sequence[int]) -> None:
    world = World()
    world.append(NOW_MS)
    world.steps(1)
    for restart_ms in restarts_ms:
        world.clock.now_ms = NOW_MS + restart_ms
        # The next process knows what was committed and what stands in the log, and nothing else.
        world.consumer.paused, world.consumer.position = False, world.consumer.committed_to
        world.tier = world.made()
        world.steps(1)
        assert world.written == []
    world.steps(400)
    assert world.times == [NOW_MS + 300_000]


def held() -> int:
    """How many records there are in this process."""
    gc.collect()
    return sum(isinstance(each, Incoming) for each in gc.get_objects())


def test_what_waits_is_in_no_memory_however_much_it_is() -> None:
    world = World()
    for _ in range(10_000):
        world.append(NOW_MS)
    before = held()
    world.steps(3)
    assert held() <= before
    assert world.consumer.position == 0
    assert sys.getsizeof(world.tier._paused) < 1000
    assert set(world.tier._paused) == {HOME}


def test_all_that_is_due_goes_on_and_what_is_not_stays_in_order() -> None:
    world = World()
    for number in range(1200):
        world.append(NOW_MS + number)
    world.clock.now_ms = NOW_MS + 300_000 + 700
    world.steps(2)
    assert (len(world.written), world.consumer.committed_to) == (701, 701)
    world.steps(1000)
    assert (len(world.written), world.consumer.committed_to) == (1200, 1200)
    assert all(time - NOW_MS - number >= 300_000 for number, time in enumerate(world.times))


# -- what the progress watch sees ------------------------------------------------------------------------------------


FORWARDING = f"the forwarding of {RETRIES_5M.name}"


def test_a_tier_stands_where_it_has_committed() -> None:
    world = World()
    world.consumer.committed_to = world.consumer.position = 1
    world.append(NOW_MS - 400_000)
    world.append(NOW_MS - 300_000)
    assert world.tier.standing() == {}
    run(world.tier.on_partitions_assigned([HOME]))
    assert world.tier.standing() == {HOME: 1}
    world.steps(1)
    assert (world.tier.standing(), world.tier.committed) == ({HOME: 2}, {HOME: 2})
    run(world.tier.on_partitions_revoked([HOME]))
    assert world.tier.standing() == {}


def test_a_tier_may_stand_still_until_its_time_has_come() -> None:
    world = World()
    world.append(NOW_MS)
    run(world.tier.on_partitions_assigned([HOME]))
    world.steps(1)
    assert world.tier.standing() == {HOME: None}
    world.clock.now_ms = NOW_MS + 300_000 + 2001
    assert world.tier.standing() == {HOME: 0}, "nobody looked at the clock"


def test_a_tier_may_stand_still_while_the_broker_takes_its_records() -> None:
    world = World()
    world.append(NOW_MS - 300_000)
    run(world.tier.on_partitions_assigned([HOME]))
    seen: list[Any] = []

    async def deliver(_: Sequence[Outgoing]) -> None:
        seen.append((world.tier.standing(), world.tier.working()))

    world.tier._deliver = deliver
    assert world.tier.working() == {FORWARDING: None}
    world.steps(1)
    assert seen == [({HOME: None}, {FORWARDING: (HOME, None)})], "the watch counts how long that takes"
    assert world.tier.working() == {FORWARDING: None}
    assert world.tier.standing() == {HOME: 1}


def test_a_runner_is_settled_while_its_tier_has_partitions() -> None:
    runner = RetryService(settings(namespace="n"), None, metrics(), Clock()).tiers[0]  # type: ignore[arg-type]
    assert (runner.name, runner.standing(), runner.committed(HOME)) == ("n.mailvet-retry-5m", {}, None)
    assert (runner.working(), runner.broken()) == ({}, None)
    assert runner.recovered() == runner.recovered(), "without partitions it does not move"
    world = World()
    world.consumer.committed_to = 7
    runner._tier = world.tier = Tier(
        RETRIES_5M,
        DELAY_S,
        consumer=world.consumer,
        deliver=world.deliver,
        metrics=world.metrics,
        recent=world.recent,
        clock=world.clock,
        settled=runner.settled,
    )
    run(world.tier.on_partitions_assigned([HOME]))
    assert (runner.settled.is_set(), runner.standing(), runner.committed(HOME)) == (True, {HOME: 7}, 7)
    assert runner.working() == {FORWARDING: None}
    run(world.tier.on_partitions_revoked([HOME]))
    assert not runner.settled.is_set()
