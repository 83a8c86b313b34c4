"""Tables of bytes: their changelogs, their partitions, their rows after a rebalance."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError
from aiokafka.partitioner import DefaultPartitioner
from faust.assignor.client_assignment import ClientAssignment
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from schemas.topics import ADMISSIONS_BULK
from streams import engine as module
from streams.engine import Engine, engine, table
from streams.installed import TABLES, changelog_topics
from streams.kafka import StartupError
from streams.roles.upkeep import record_key
from streams.settings import Settings
from streams.tables import EPOCH, DurableTable, Epochs, changes

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
    made.headers = []  # type: ignore[attr-defined]

    def send_soon(*, partition: int, key: bytes, value: bytes | None, headers: Any, **__: Any) -> Any:
        made.sent.append((partition, key, value))  # type: ignore[attr-defined]
        made.headers.append(headers)  # type: ignore[attr-defined]
        future = asyncio.get_running_loop().create_future()
        future.message = SimpleNamespace(partition=partition)
        return future

    monkeypatch.setattr(made.changelog_topic, "send_soon", send_soon)
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
    elsewhere = TP("another-changelog", 5)
    await assign(app, ledger, {*(TP("t1.mailvet-gate-ledger-changelog", each) for each in ours), elsewhere})
    assert set(ledger) == {tenant + b":a" for tenant in tenants if partition_of(tenant) in ours}
    assert ledger.sent == []


async def assign(app: Engine, table: DurableTable, actives: set[TP], standbys: Iterable[TP] = ()) -> None:
    """What the assignor decided reaches the table."""
    app.assignor._assignment = ClientAssignment(actives=_by_topic(actives), standbys=_by_topic(standbys))
    await table.on_rebalance({*actives, *standbys}, set(), set())


def _by_topic(places: Iterable[TP]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for topic, partition in places:
        found.setdefault(topic, []).append(partition)
    return found


# -- changes of workers that had lost their partition ----------------------------------------------------------------


def test_epochs_rise_from_owner_to_owner_whatever_the_clocks_say() -> None:
    first, second = Epochs(lambda: 1000), Epochs(lambda: 5)
    assert (first.mine(0), first.mine(0), first.mine(1)) == (1000, 1000, 1000)
    assert not second.is_over(0, 1000)
    assert (second.mine(0), second.mine(1)) == (1001, 5)


def test_who_keeps_a_partition_goes_on_unless_another_had_it_meanwhile() -> None:
    epochs = Epochs(lambda: 1000)
    epochs.mine(0)
    epochs.begin({0})
    assert (epochs.is_over(0, 1000), epochs.mine(0)) == (False, 1000)
    epochs.begin({0})
    assert (epochs.is_over(0, 2000), epochs.is_over(0, 1000), epochs.mine(0)) == (False, True, 2001)


def test_a_partition_that_comes_back_is_read_from_its_beginning() -> None:
    epochs = Epochs(lambda: 1000)
    epochs.is_over(0, 9)
    epochs.begin(set())
    assert not epochs.is_over(0, 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=40))
def test_readers_of_a_log_agree_and_the_last_owner_wins(history: list[tuple[int, int]]) -> None:
    """Owners come one after the other; each may go on writing when it is over (the second number: how late)."""
    log: list[tuple[int, int]] = []
    for turn, (writes, late) in enumerate(history):
        owner = Epochs(lambda: 7)  # clocks that stand still
        for _, epoch in log:
            owner.is_over(0, epoch)
        log += [(turn, owner.mine(0))] * writes
        log += [each for each in log if each[0] == turn - 1][:late]
    reader = Epochs(lambda: 0)
    applied = [turn for turn, epoch in log if not reader.is_over(0, epoch)]
    assert applied == sorted(applied)


@dataclass
class Change:
    """A record of a changelog; ``read`` numbers them."""

    key: bytes
    value: bytes | None
    epoch: int | None
    partition: int = 0
    offset: int = -1

    @property
    def headers(self) -> Any:
        return () if self.epoch is None else ((EPOCH, b"%d" % self.epoch),)


def read(table: DurableTable, *found: Change) -> None:
    """They stand next in the changelog, each in its partition."""
    for change in found:
        change.offset = table.persisted_offset(TP(table.changelog_topic_name, change.partition)) + 1
        table.read(change.partition, [change])


changed = Change


async def test_recovery_leaves_out_what_was_written_too_late(ledger: DurableTable) -> None:
    left_out: list[None] = []
    ledger.on_outdated = lambda: left_out.append(None)
    read(
        ledger,
        *[
            changed(b"a:1", b"before there were epochs", None),
            changed(b"a:1", b"first", 10),
            changed(b"a:1", b"second", 20),
            changed(b"b:1", b"kept", 20),
            changed(b"a:1", b"first, late", 10),
            changed(b"b:1", None, 10),
            changed(b"c:1", b"another partition's", 10, partition=1),
        ],
    )
    assert dict(ledger.items()) == {b"a:1": b"second", b"b:1": b"kept", b"c:1": b"another partition's"}
    assert len(left_out) == 2


async def test_of_a_row_that_was_recovered_and_has_ended_nothing_stays(ledger: DurableTable) -> None:
    read(ledger, changed(b"a:1", b"x", 10))
    ledger.pop(b"a:1")
    kept = [vars(ledger.data)[name] for name in ("data", "_key_partition")]
    assert kept == [{}, {}]


async def test_rows_behind_an_outdated_change_are_written_again(ledger: DurableTable) -> None:
    read(
        ledger,
        *[
            changed(b"a:1", b"second", 20),
            changed(b"a:1", b"first, late", 10),
            changed(b"gone:1", b"first, late", 10),
            changed(b"healed:1", b"first, late", 10),
            changed(b"healed:1", b"third", 30),
        ],
    )
    assert ledger.heal() == 2
    assert sorted((key, value) for _, key, value in ledger.sent) == [(b"a:1", b"second"), (b"gone:1", None)]
    assert ledger.heal() == 0


async def test_changes_carry_the_epoch_of_their_partition(ledger: DurableTable) -> None:
    read(ledger, changed(b"a:1", b"x", 10**15, partition=partition_of(b"a")))
    ledger[b"a:1"] = b"y"
    assert ledger.headers == [{EPOCH: b"%d" % (10**15 + 1)}]


async def test_what_still_changes_a_row_of_another_s_partition_is_outdated_from_the_start(
    ledger: DurableTable,
) -> None:
    home = partition_of(b"a")
    read(ledger, changed(b"a:1", b"x", 20, home), changed(b"a:1", b"late", 10, home))
    ledger.keep_only(set(PARTITIONS) - {home})
    ledger[b"a:1"] = b"y"
    assert ledger.headers == [{EPOCH: b"0"}]
    assert ledger.heal() == 0, "its rows are another's to write"


async def test_what_is_read_of_a_partition_that_went_elsewhere_is_left_out(ledger: DurableTable) -> None:
    ledger.keep_only({0})
    read(ledger, changed(b"a:1", b"x", 10, partition=1), changed(b"b:1", b"x", 10, partition=0))
    assert dict(ledger.items()) == {b"b:1": b"x"}


async def test_a_partition_that_went_elsewhere_is_recovered_from_its_beginning(
    app: Engine, ledger: DurableTable
) -> None:
    zero, one = TP(ledger.changelog_topic_name, 0), TP(ledger.changelog_topic_name, 1)
    await assign(app, ledger, {zero, one})
    read(ledger, *[changed(b"a:%d" % each, b"x", 10, partition) for partition in (0, 1) for each in range(5)])
    await assign(app, ledger, {zero, TP("another", 1)})
    assert (ledger.persisted_offset(zero), ledger.persisted_offset(one)) == (4, -1)
    await assign(app, ledger, {zero, one})
    assert (ledger.persisted_offset(zero), ledger.persisted_offset(one)) == (4, -1)


# -- standbys ---------------------------------------------------------------------------------------------------------


def place(ledger: DurableTable, partition: int) -> int:
    return ledger.persisted_offset(TP(ledger.changelog_topic_name, partition))


async def test_rows_of_a_standby_stand_apart_until_it_comes_over(app: Engine, ledger: DurableTable) -> None:
    zero, one = TP(ledger.changelog_topic_name, 0), TP(ledger.changelog_topic_name, 1)
    await assign(app, ledger, {zero}, {one})
    read(ledger, changed(b"a:1", b"ours", 10), changed(b"b:1", b"x", 10, 1), changed(b"gone:1", b"x", 10, 1))
    read(ledger, changed(b"gone:1", None, 10, 1))
    assert (dict(ledger.items()), ledger.standby_rows) == ({b"a:1": b"ours"}, 1)
    await assign(app, ledger, {zero, one})
    assert (dict(ledger.items()), ledger.standby_rows) == ({b"a:1": b"ours", b"b:1": b"x"}, 0)
    assert place(ledger, 1) == 2, "it is read on from there"


async def test_a_partition_of_ours_that_becomes_a_standby_is_read_from_its_beginning(ledger: DurableTable) -> None:
    home = partition_of(b"a")
    ledger.keep_only({home})
    read(ledger, changed(b"a:1", b"x", 10, home))
    ledger[b"a:2"] = b"never confirmed"
    ledger.keep_only(set(), {home})
    assert (dict(ledger.items()), ledger.standby_rows, place(ledger, home)) == ({}, 0, -1)


async def test_a_standby_that_goes_elsewhere_is_read_from_its_beginning(ledger: DurableTable) -> None:
    ledger.keep_only({0}, {1})
    read(ledger, changed(b"b:1", b"x", 10, 1))
    ledger.keep_only({0})
    ledger.keep_only({0, 1})
    assert (dict(ledger.items()), place(ledger, 1)) == ({}, -1)


async def test_what_came_too_late_is_left_out_of_a_standby_and_mended_by_who_takes_over(ledger: DurableTable) -> None:
    home = partition_of(b"a")
    ledger.keep_only(set(), {home})
    read(ledger, changed(b"a:1", b"second", 20, home), changed(b"a:1", b"first, late", 10, home))
    assert ledger.heal() == 0, "its rows are another's to write"
    ledger.keep_only({home})
    read(ledger, changed(b"a:2", b"first, later still", 10, home))
    assert dict(ledger.items()) == {b"a:1": b"second"}
    assert ledger.heal() == 2
    assert sorted(ledger.sent) == [(home, b"a:1", b"second"), (home, b"a:2", None)]
    assert all(int(each[EPOCH]) > 20 for each in ledger.headers)


async def test_changes_that_are_known_are_not_applied_again(ledger: DurableTable) -> None:
    ledger.keep_only({0})
    for found in (
        [Change(b"a", b"1", 1, offset=0), Change(b"a", b"2", 1, offset=5)],
        [Change(b"a", b"1", 1, offset=5)],
    ):
        assert ledger.read(0, found) == 5
    assert ledger[b"a"] == b"2"


async def test_our_own_changes_need_no_reading_unless_another_has_written_between(ledger: DurableTable) -> None:
    home = partition_of(b"a")
    ledger.keep_only({home})
    read(ledger, changed(b"a:1", b"x", 10, home))
    for offset, known in ((1, 1), (2, 2), (4, 2), (5, 2)):
        confirm(ledger, written(ledger), offset)
        assert place(ledger, home) == known


async def test_a_change_that_is_confirmed_after_its_partition_went_and_came_back_is_read(ledger: DurableTable) -> None:
    home = partition_of(b"a")
    ledger.keep_only({home})
    late = written(ledger)
    ledger.keep_only(set())
    confirm(ledger, late, 0)
    ledger.keep_only({home})
    confirm(ledger, late, 0)
    assert place(ledger, home) == -1
    ledger.read(home, [Change(b"a:1", b"late", 10, home, offset=0)])
    assert dict(ledger.items()) == {b"a:1": b"late"}


async def test_faust_keeps_the_headers_until_a_change_is_confirmed(ledger: DurableTable) -> None:
    future = ledger.changelog_topic.as_future_message(key=b"a:1", value=b"y", partition=0, headers={EPOCH: b"7"})
    assert dict(future.message.headers) == {EPOCH: b"7"}


def written(ledger: DurableTable) -> Any:
    """The headers of a change on its way."""
    ledger[b"a:1"] = b"y"
    return ledger.headers[-1]


def confirm(ledger: DurableTable, headers: Any, offset: int) -> None:
    sent = SimpleNamespace(partition=partition_of(b"a"), offset=offset)
    ledger._on_changelog_sent(SimpleNamespace(result=lambda: sent, message=SimpleNamespace(headers=headers)))


async def test_a_row_that_was_written_to_another_s_partition_goes_with_the_next_rebalance(ledger: DurableTable) -> None:
    home = partition_of(b"a")
    ledger.keep_only(set(PARTITIONS) - {home})
    ledger[b"a:1"] = b"late"
    ledger.keep_only(set(PARTITIONS))
    assert dict(ledger.items()) == {}


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
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"MAILVET_DATA_DIR: .*file/gate can't be made: Not a directory"):
        engine("gate", Settings(data_dir=str(tmp_path / "file")))


async def test_faust_never_makes_a_topic_and_serves_no_web(app: Engine) -> None:
    conf = app.conf
    assert (conf.topic_allow_declare, conf.topic_disable_leader, conf.web_enabled) == (False, True, False)
    assert (conf.stream_wait_empty, conf.table_standby_replicas, conf.id) == (True, 0, "t1.mailvet-gate")


async def test_standbys_are_asked_for_where_there_are_tables() -> None:
    assert engine("route", Settings(standby_replicas=2)).conf.table_standby_replicas == 0
    app = engine("gate", Settings(standby_replicas=2))
    table(app, TABLES[0], record_key)
    assert (type(app.assignor).__name__, app.assignor.replicas) == ("WarmAssignor", 2)


async def test_the_wait_of_a_fetch_reaches_the_consumer() -> None:
    app = engine("gate", Settings(fetch_wait_ms=25))
    thread = app._new_consumer()._new_consumer_thread()  # type: ignore[attr-defined]
    assert thread._create_worker_consumer(app.transport)._fetch_max_wait_ms == 25
    # The attribute is aiokafka's own, not one that the override invents.
    assert AIOKafkaConsumer(fetch_max_wait_ms=123)._fetch_max_wait_ms == 123


# -- where partitions are read from ----------------------------------------------------------------------------------

SOURCE, OTHER, CHANGELOG = TP("t1.source", 0), TP("t1.source", 1), TP("t1.changelog", 0)


class Consumer(module._Consumer):
    """Faust's, whose broker a test plays."""

    earliest: Any = None

    def assignment(self) -> set[TP]:
        return {SOURCE, OTHER, CHANGELOG}

    async def seek_to_committed(self) -> dict[TP, int | None]:
        return {SOURCE: 7, OTHER: None, CHANGELOG: None}

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        assert set(partitions) == {SOURCE, OTHER}
        if isinstance(self.earliest, Exception):
            raise self.earliest
        return dict.fromkeys(partitions, self.earliest)


def consumer_of(app: Engine, earliest: Any) -> Consumer:
    app.deliveries["t1.source"] = SimpleNamespace()  # type: ignore[assignment]
    made = Consumer(app.transport, lambda _: None, lambda _: None, lambda _: None)
    made.earliest = earliest
    return made


@pytest.mark.parametrize(("earliest", "starts"), [(0, {SOURCE: 7, OTHER: 0}), (9, {SOURCE: 9, OTHER: 9})])
async def test_a_partition_is_read_from_what_is_committed_or_is_left(
    app: Engine, earliest: int, starts: dict[TP, int]
) -> None:
    await consumer_of(app, earliest).perform_seek()
    assert app.starts == starts


async def test_a_broker_that_does_not_tell_stops_nobody(app: Engine) -> None:
    await consumer_of(app, KafkaConnectionError("away")).perform_seek()
    assert app.starts == {}


async def test_subscriptions_ask_for_their_own_partitions(app: Engine) -> None:
    app.starts[TP("t1.mailvet.admissions.bulk.v1", 3)] = 11
    start = module._starts(app, ADMISSIONS_BULK)
    assert (start(3), start(4)) == (11, None)
