"""What the progress watch asks an engine: whether work of it ends, and whether its consumer can go on at all."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.engine import Engine, _ConsumerThread, engine
from streams.kafka import join_knowingly
from streams.settings import Settings

DAY_S = 86_400.0


class Kafka:
    """aiokafka's own parts without a broker, as Faust's consumer holds them."""

    def __init__(self) -> None:
        self.subscription = SubscriptionState()
        self.client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
        self.client.coordinator_lookup = self.lookup
        self.coordinator = GroupCoordinator(self.client, self.subscription, group_id="g")
        self.fetcher = Fetcher(self.client, self.subscription)
        self.error: Exception | None = None

    async def lookup(self, *_: object) -> int:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        return 0

    def engine(self) -> Engine:
        app = engine("route", Settings())
        parts = SimpleNamespace(_coordinator=self.coordinator, _fetcher=self.fetcher, _client=self.client)
        app._consumer = SimpleNamespace(_thread=SimpleNamespace(_consumer=parts))
        return app

    async def fails(self, error: Exception) -> None:
        self.error = error
        self.subscription.subscribe({"t"})
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def kafka() -> AsyncIterator[Kafka]:
    made = Kafka()
    yield made
    made.coordinator._coordination_task.cancel()
    await asyncio.wait({made.coordinator._coordination_task})
    await made.fetcher.close()
    await made.client.close()


async def test_a_consumer_that_waits_for_its_group_is_whole(kafka: Kafka) -> None:
    app = kafka.engine()
    assert app.broken() is None
    kafka.subscription.subscribe({"t"})
    await asyncio.sleep(0)
    assert app.broken() is None


async def test_one_that_was_not_started_is_whole() -> None:
    app = engine("route", Settings())
    assert app.broken() is None
    for parts in (None, SimpleNamespace(_coordinator=None)):
        app._consumer = SimpleNamespace(_thread=SimpleNamespace(_consumer=parts))
        assert app.broken() is None


async def test_a_coordination_that_waits_for_somebody_to_take_its_error_never_goes_on(kafka: Kafka) -> None:
    await kafka.fails(KafkaError("an answer that it does not know"))
    kafka.error = None
    assert kafka.coordinator._error_consumed_fut is not None, "aiokafka waits until it is asked; Faust does not ask"
    assert "coordination of its group has failed: KafkaError('an answer" in (kafka.engine().broken() or "")


async def test_a_coordination_that_died_is_missed(kafka: Kafka) -> None:
    await kafka.fails(AssertionError("a bug"))
    assert kafka.coordinator._coordination_task.done()
    assert kafka.engine().broken() == "the coordination of its group has ended"
    kafka.coordinator._coordination_task.exception()


async def test_a_fetch_loop_that_died_is_missed(kafka: Kafka) -> None:
    kafka.fetcher._fetch_task.cancel()
    await asyncio.wait({kafka.fetcher._fetch_task})
    assert kafka.engine().broken() == "the fetching of records has ended"


async def test_metadata_that_are_not_renewed_any_more_are_missed(kafka: Kafka) -> None:
    kafka.client._sync_task = asyncio.create_task(asyncio.sleep(0))
    await asyncio.wait({kafka.client._sync_task})
    assert kafka.engine().broken() == "the renewal of metadata has ended"


async def test_work_is_what_is_in_hand_and_what_is_not_committed() -> None:
    app = engine("route", Settings())
    here, there, other = TP("t", 0), TP("t", 1), TP("a changelog", 0)
    committed = {here: 7}
    app._consumer = SimpleNamespace(assignment=lambda: {here, there, other}, _committed_offset=committed)
    app.deliveries["t"] = cast(Any, SimpleNamespace(working=3, acked={0: 8, 1: 5}.get))
    assert app.working() == {"the work on t": 3}, "in a rebalance nothing can be committed"
    app.settled.set()
    assert app.working() == {"the work on t": 3, "the commits of t[0]": 7, "the commits of t[1]": 0}
    committed.update({here: 8, there: 5})
    assert app.working() == {"the work on t": 3, "the commits of t[0]": None, "the commits of t[1]": None}
    app.deliveries["t"] = cast(Any, SimpleNamespace(working=None, acked=lambda _: None))
    assert app.working() == {"the work on t": None, "the commits of t[0]": None, "the commits of t[1]": None}


async def test_no_group_is_led_by_a_worker_that_does_not_know_its_topics(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka's own parts: the first requests for metadata fail, as in an outage that ends then."""
    known: list[object] = []
    joined = asyncio.Event()
    answers = iter([False, False, True])

    async def update(cluster: Any, topics: set[str]) -> bool:
        if next(answers):
            cluster._partitions = {topic: {0: None, 1: None} for topic in topics}
            return True
        return False

    async def join(subscription: Any) -> bool:
        known.append(kafka.client.cluster.partitions_for_topic("t"))
        joined.set()
        await asyncio.Event().wait()
        return False

    monkeypatch.setattr(kafka.client, "_metadata_update", update)
    monkeypatch.setattr(kafka.client, "_retry_backoff", 0.0)
    monkeypatch.setattr(kafka.coordinator, "_do_rejoin_group", join)
    kafka.client._sync_task = asyncio.create_task(kafka.client._md_synchronizer())
    kafka.coordinator.coordinator_id = 1
    thread = cast(Any, object.__new__(_ConsumerThread))
    consumer = SimpleNamespace(_coordinator=kafka.coordinator, _client=kafka.client)

    async def start(self: Any) -> None:
        self._consumer = consumer

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "on_start", start)
    await thread.on_start()
    kafka.client.set_topics({"t"})
    kafka.subscription.subscribe({"t"})
    await asyncio.wait_for(joined.wait(), 10)
    assert known == [{0, 1}]


async def test_a_consumer_that_waits_for_metadata_can_be_closed(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def never(_: str) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(kafka.client, "_wait_on_metadata", never)
    kafka.coordinator.coordinator_id = 1
    join_knowingly(cast(Any, SimpleNamespace(_coordinator=kafka.coordinator, _client=kafka.client)))
    kafka.subscription.subscribe({"t"})
    await asyncio.wait_for(asked.wait(), 10)
    await asyncio.wait_for(kafka.coordinator.close(), 10)
    assert kafka.coordinator._coordination_task.exception() is None


async def test_a_topic_that_is_not_there_is_an_error(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(_: str) -> None:
        raise UnknownTopicOrPartitionError

    monkeypatch.setattr(kafka.client, "_wait_on_metadata", nowhere)
    kafka.coordinator.coordinator_id = 1
    join_knowingly(cast(Any, SimpleNamespace(_coordinator=kafka.coordinator, _client=kafka.client)))
    kafka.subscription.subscribe({"t"})
    for _ in range(20):
        await asyncio.sleep(0)
    assert "UnknownTopicOrPartitionError" in (kafka.engine().broken() or "")


async def test_who_leads_a_group_without_knowing_its_topics_gives_nobody_anything() -> None:
    """Why the above is needed; should aiokafka change, it is not."""
    members = {name: RoundRobinPartitionAssignor.metadata({"t"}) for name in ("a", "b")}
    given = RoundRobinPartitionAssignor.assign(ClusterMetadata(), members)
    assert [each.assignment for each in given.values()] == [[], []]


def test_a_worker_to_which_nothing_is_given_stays_in_its_group() -> None:
    """aiokafka leaves where nothing was fetched for so long, and then never joins."""
    idle_s = engine("route", Settings()).conf.broker_max_poll_interval
    assert idle_s > 365 * DAY_S
    assert GroupCoordinator.__init__.__kwdefaults__["max_poll_interval_ms"] > 0, "zero would not mean never"
