"""Tables of bytes: their changelogs, their partitions, their rows after a rebalance."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import faust.streams
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.partitioner import DefaultPartitioner

from schemas.topics import ADMISSIONS_BULK
from streams import engine as module
from streams.engine import Engine, engine, table
from streams.kafka import StartupError
from streams.roles.upkeep import record_key
from streams.settings import Settings
from streams.tables import TABLES, DurableTable, changelog_topics, changes

PARTITIONS = range(ADMISSIONS_BULK.partitions)


@pytest.fixture
async def app() -> Iterator[Engine]:
    made = engine("gate", Settings(namespace="t1"))
    made._consumer = SimpleNamespace(topic_partitions=lambda _: None)
    return made  # type: ignore[return-value]


@pytest.fixture
async def ledger(app: Engine, monkeypatch: pytest.MonkeyPatch) -> DurableTable:
    made = table(app, TABLES[0], record_key)
    made.sent = []  # type: ignore[attr-defined]

    def send_changelog(_: Any, partition: int | None, key: bytes, value: bytes | None, **__: Any) -> Any:
        made.sent.append((partition, key, value))  # type: ignore[attr-defined]
        future = asyncio.get_running_loop().create_future()
        future.message = SimpleNamespace(partition=partition)
        return future

    monkeypatch.setattr(faust.Table, "send_changelog", send_changelog)
    return made


def partition_of(key: bytes) -> int:
    """As a producer chooses it."""
    return DefaultPartitioner()(key, list(PARTITIONS), list(PARTITIONS))


async def test_a_handler_gets_the_delivery_of_its_own_changes(ledger: DurableTable) -> None:
    changed: list[Any] = []
    changes.set(changed)
    ledger[b"acme:a"] = b"1"
    del ledger[b"acme:a"]
    assert len(changed) == 2
    assert [value for _, _, value in ledger.sent] == [b"1", None]


async def test_a_row_that_the_clock_ends_belongs_to_the_partition_of_its_records(ledger: DurableTable) -> None:
    tenants = [b"tenant%d" % each for each in range(50)]
    for tenant in tenants:
        ledger[tenant + b":decision:1"] = b"x"
    assert [partition for partition, _, _ in ledger.sent] == [partition_of(tenant) for tenant in tenants]
    assert len({partition_of(tenant) for tenant in tenants}) == len(PARTITIONS)


async def test_the_number_of_partitions_is_that_of_the_broker(app: Engine, ledger: DurableTable) -> None:
    app._consumer = SimpleNamespace(topic_partitions=lambda name: {ledger.changelog_topic_name: 1}[name])
    ledger[b"acme:a"] = b"1"
    assert ledger.sent == [(0, b"acme:a", b"1")]


async def test_rows_of_partitions_that_went_elsewhere_are_forgotten_in_silence(
    app: Engine, ledger: DurableTable
) -> None:
    tenants = [b"tenant%d" % each for each in range(50)]
    for tenant in tenants:
        ledger[tenant + b":a"] = b"x"
    ledger.sent.clear()
    ours = {0, 3}
    elsewhere = SimpleNamespace(topic="another-changelog", partition=5)
    mine = [SimpleNamespace(topic="t1.mailvet-gate-ledger-changelog", partition=each) for each in ours]
    await app.on_partitions_assigned.send({*map(_hashable, mine), _hashable(elsewhere)})
    assert set(ledger) == {tenant + b":a" for tenant in tenants if partition_of(tenant) in ours}
    assert ledger.sent == []


def _hashable(place: SimpleNamespace) -> Any:
    return faust.types.TP(place.topic, place.partition)


def test_changelogs_are_declared_as_faust_names_them() -> None:
    topics = {topic.name: topic for topic in changelog_topics(Settings(namespace="t1"))}
    assert set(topics) == {
        "t1.mailvet-gate-ledger-changelog",
        "t1.mailvet-gate-keys-changelog",
        "t1.mailvet-completion-requests-changelog",
        "t1.mailvet-completion-progress-changelog",
    }
    assert {(topic.cleanup_policy, topic.partitions) for topic in topics.values()} == {("compact", 8)}
    assert TABLES[0].changelog().name == "mailvet-gate-ledger-changelog"


async def test_faust_names_changelogs_so(ledger: DurableTable) -> None:
    assert ledger.changelog_topic_name in {topic.name for topic in changelog_topics(Settings(namespace="t1"))}


async def test_without_the_compiled_streams_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.faust.streams, "_CStreamIterator", None)
    with pytest.raises(StartupError, match="compiled extension is missing"):
        engine("gate", Settings())


async def test_faust_keeps_its_files_where_it_was_told(tmp_path: Any) -> None:
    assert engine("gate", Settings(data_dir=str(tmp_path / "data"))).conf.datadir == tmp_path / "data" / "gate"


async def test_faust_never_makes_a_topic_and_serves_no_web(app: Engine) -> None:
    conf = app.conf
    assert (conf.topic_allow_declare, conf.topic_disable_leader, conf.web_enabled) == (False, True, False)
    assert (conf.stream_wait_empty, conf.table_standby_replicas, conf.id) == (True, 0, "t1.mailvet-gate")


async def test_the_wait_of_a_fetch_reaches_the_consumer() -> None:
    app = engine("gate", Settings(fetch_wait_ms=25))
    thread = app._new_consumer()._new_consumer_thread()  # type: ignore[attr-defined]
    assert thread._create_worker_consumer(app.transport)._fetch_max_wait_ms == 25
    # The attribute is aiokafka's own, not one that the override invents.
    assert AIOKafkaConsumer(fetch_max_wait_ms=123)._fetch_max_wait_ms == 123
