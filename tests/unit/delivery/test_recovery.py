"""Changelogs are read by the batch, and what was asked for before a rebalance is asked for again."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import IllegalStateError
from faust.types import TP

from streams.engine import Engine, _Consumer, engine, table
from streams.installed import TABLES
from streams.recovery import BatchRecovery
from streams.roles.upkeep import record_key
from streams.settings import Settings
from streams.tables import DurableTable

LEDGER, KEYS = "mailvet-gate-ledger-changelog", "mailvet-gate-keys-changelog"


def changes(*offsets: int) -> list[Any]:
    return [SimpleNamespace(offset=each, key=b"k%d" % each, value=b"x", headers=()) for each in offsets]


class Gate:
    """The recovery of a gate's tables, with partition 0 of its own and perhaps 1 and 2 as standbys."""

    def __init__(self, standbys: Sequence[int] = ()) -> None:
        self.app = engine("gate", Settings(standby_replicas=1))
        self.tables = [table(self.app, each, record_key) for each in TABLES[:2]]
        self.joins = 0
        self.app.join_again = self._join  # type: ignore[method-assign]
        self.ends: dict[TP, int] = {}
        self.app._consumer = SimpleNamespace(highwater=self.ends.get, topic_partitions=lambda _: None)
        for each in self.tables:
            each.keep_only({0}, set(standbys))
            self.recovery.add_active(each, TP(each.changelog_topic_name, 0))
            for partition in standbys:
                self.recovery.add_standby(each, TP(each.changelog_topic_name, partition))

    def _join(self) -> None:
        self.joins += 1

    @property
    def recovery(self) -> BatchRecovery:
        return self.app.recovery


async def test_recovery_ends_when_every_table_has_what_stood_there() -> None:
    gate = Gate()
    gate.recovery._set_recovery_started()
    gate.recovery.active_highwaters.update({TP(LEDGER, 0): 7, TP(KEYS, 0): 1})
    gate.recovery.read({TP(LEDGER, 0): changes(0, 3)})
    gate.recovery.read({TP(LEDGER, 0): changes(5, 7), TP("another", 0): changes(9)})
    assert gate.recovery.in_recovery
    gate.recovery.read({TP(KEYS, 0): changes(0, 1)})
    assert (gate.recovery.in_recovery, gate.recovery.signal_recovery_end.is_set()) == (False, True)
    assert [len(each) for each in gate.tables] == [4, 2]
    assert gate.recovery.active_offsets == {TP(LEDGER, 0): 7, TP(KEYS, 0): 1}
    gate.recovery._set_recovery_started()
    assert not gate.recovery.signal_recovery_end.is_set()


async def test_a_partition_is_warm_when_all_of_its_tables_are() -> None:
    gate = Gate(standbys=(1,))
    assert (gate.recovery.warm, gate.recovery.behind(LEDGER)) == (frozenset(), 0)
    gate.recovery.standby_highwaters.update({TP(LEDGER, 1): 4, TP(KEYS, 1): -1})
    assert gate.recovery.behind(LEDGER) == 5
    gate.recovery.read({TP(LEDGER, 1): changes(0, 2)})
    assert (gate.recovery.warm, gate.recovery.behind(LEDGER)) == (frozenset(), 2)
    gate.recovery.read({TP(LEDGER, 1): changes(4)})
    assert (gate.recovery.warm, gate.recovery.behind(LEDGER)) == ({1}, 0)
    gate.ends[TP(LEDGER, 1)] = 9
    assert (gate.recovery.warm, gate.recovery.behind(LEDGER)) == ({1}, 4), "once caught up, it is never far behind"
    assert gate.joins == 0, "it has as many partitions as it stands by for"


async def test_a_standby_that_went_and_came_back_is_cold() -> None:
    gate = Gate(standbys=(1,))
    gate.recovery.standby_highwaters.update({TP(LEDGER, 1): 0, TP(KEYS, 1): -1})
    gate.recovery.read({TP(LEDGER, 1): changes(0)})
    assert gate.recovery.warm == {1}
    for each in gate.tables:
        each.keep_only({0}, {1})
    assert gate.recovery.warm == {1}
    for standbys in (set(), {1}):
        for each in gate.tables:
            each.keep_only({0}, standbys)
    assert gate.recovery.warm == set()


async def test_who_serves_less_than_it_stands_by_for_joins_again_once_it_has_caught_up() -> None:
    gate = Gate(standbys=(1, 2))
    gate.recovery.standby_highwaters.update({TP(name, each): 0 for name in (LEDGER, KEYS) for each in (1, 2)})
    for name in (LEDGER, KEYS):
        for each in (1, 2):
            assert gate.joins == 0
            gate.recovery.read({TP(name, each): changes(0)})
    gate.recovery.read({TP(LEDGER, 1): changes(1)})
    assert (gate.joins, gate.recovery.warm) == (1, {1, 2})


class Reader(_Consumer):
    """Faust's, whose thread a test plays."""

    def __init__(self, app: Engine, generation: int) -> None:
        super().__init__(app.transport, lambda _: None, lambda _: None, lambda _: None)
        self._fetched_in, self.flow_active, self.sought = generation, True, {}  # type: ignore[var-annotated]

        async def call(function: Any, *args: Any) -> None:
            function(*args)

        def seek(tp: TP, offset: int) -> None:
            if tp.partition == 5:
                raise IllegalStateError("not assigned")
            self.sought[tp] = offset

        consumer = SimpleNamespace(seek=seek)
        self._thread = cast(Any, SimpleNamespace(call_thread=call, _ensure_consumer=lambda: consumer))


FOUND = {TP(LEDGER, 0): changes(0, 1), TP("mailvet.admissions.bulk.v1", 0): ["a request"]}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(_self: object, _timeout: float) -> Any:
        return dict(FOUND), "active"

    monkeypatch.setattr("faust.transport.consumer.Consumer._wait_next_records", wait)


@pytest.mark.usefixtures("found")
async def test_changes_go_to_their_table_and_records_to_faust() -> None:
    gate = Gate()
    gate.app.consumer_generation_id = 3
    reader = Reader(gate.app, generation=3)
    records, active = await reader._wait_next_records(1.0)
    assert (records, active) == ({TP("mailvet.admissions.bulk.v1", 0): ["a request"]}, "active")
    assert (len(gate.tables[0]), reader.sought) == (2, {})


@pytest.mark.parametrize(("generation", "flows"), [(2, True), (3, False)])
@pytest.mark.usefixtures("found")
async def test_what_was_asked_for_before_a_rebalance_is_asked_for_again(generation: int, flows: bool) -> None:
    gate = Gate()
    gate.tables[0].read(0, changes(0))
    gate.app.consumer_generation_id = 3
    reader = Reader(gate.app, generation)
    reader.flow_active = flows
    await reader._wait_next_records(1.0)
    assert (len(gate.tables[0]), reader.sought) == (1, {TP(LEDGER, 0): 1})


async def test_what_is_another_s_by_now_is_not_asked_for() -> None:
    gate = Gate()
    gate.recovery.add_active(cast(DurableTable, gate.tables[0]), TP(LEDGER, 5))
    reader = Reader(gate.app, generation=2)
    await reader._read({TP(LEDGER, 5): changes(0)})
    assert reader.sought == {}
