"""Which worker gets which partitions where others stand by."""

from collections import Counter
from typing import Any

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.client_assignment import ClientAssignment, CopartitionedAssignment
from faust.types import TP
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from streams.assignor import Held, place
from streams.engine import engine, table
from streams.installed import TABLES
from streams.roles.upkeep import record_key
from streams.settings import Settings

PARTITIONS = 8
ALL = set(range(PARTITIONS))


def held(**members: tuple[set[int], set[int]]) -> Held:
    """Members by name, with the partitions of their own and those of which they have the rows."""
    return {
        name: CopartitionedAssignment(set(actives), set(warm), {"topic"}) for name, (actives, warm) in members.items()
    }


def shown(placed: Held) -> dict[str, tuple[set[int], set[int]]]:
    return {name: (each.actives, each.standbys) for name, each in placed.items()}


def actives(placed: Held) -> dict[str, set[int]]:
    return {name: each.actives for name, each in placed.items()}


def test_where_nobody_has_anything_partitions_are_spread_evenly() -> None:
    placed = place(PARTITIONS, 1, held(a=(set(), set()), b=(set(), set())))
    assert {len(each) for each in actives(placed).values()} == {4}
    assert placed["a"].standbys == placed["b"].actives


def test_who_joins_reads_along_before_it_gets_anything() -> None:
    assert shown(place(PARTITIONS, 1, held(a=(ALL, set()), b=(set(), set())))) == {"a": (ALL, set()), "b": (set(), ALL)}


def test_who_has_caught_up_takes_its_share() -> None:
    placed = place(PARTITIONS, 1, held(a=(ALL, set()), b=(set(), ALL)))
    assert {len(each) for each in actives(placed).values()} == {4}
    assert placed["a"].standbys == placed["b"].actives


def test_who_stands_by_takes_over_however_many_there_are_and_the_one_that_comes_back_reads_along() -> None:
    back = held(b=({4, 5, 6, 7}, {0, 1, 2, 3}), a=(set(), set()))
    assert shown(place(PARTITIONS, 1, back)) == {"b": (ALL, set()), "a": (set(), ALL)}


def test_a_worker_alone_has_everything_and_no_standby() -> None:
    assert shown(place(PARTITIONS, 1, held(b=({4, 5, 6, 7}, {0, 1, 2, 3})))) == {"b": (ALL, set())}


def test_what_two_claim_is_given_to_one() -> None:
    placed = place(2, 1, held(a=({0, 1}, set()), b=({0, 1}, set())))
    assert actives(placed) in ({"a": {0}, "b": {1}}, {"a": {1}, "b": {0}})


class Cluster:
    """Two topics of a gate, as a broker tells of them."""

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range({SOURCE: PARTITIONS, CHANGELOG: PARTITIONS}[topic]))


SOURCE, CHANGELOG = "mailvet.admissions.bulk.v1", "mailvet-gate-ledger-changelog"


def gate(replicas: int) -> Any:
    app = engine("gate", Settings(standby_replicas=replicas))
    table(app, TABLES[0], record_key)
    return app.assignor


def joined(assignor: Any, standbys: set[int], warm: set[int]) -> Any:
    """What a member tells when it joins."""
    places = {topic: sorted(standbys) for topic in (SOURCE, CHANGELOG)}
    assignor._assignment = ClientAssignment(actives={}, standbys=places)
    for name in assignor.app.tables.values():
        name.keep_only(set(), standbys)
        name.caught_up |= warm
    recovery = assignor.app.recovery
    for each in standbys:
        recovery.add_standby(name, TP(CHANGELOG, each))
    return ConsumerProtocolMemberMetadata(2, [SOURCE, CHANGELOG], assignor._metadata.dumps())


@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_group_shares_all_topics_alike_and_a_cold_standby_is_none(replicas: int) -> None:
    told = {"a": joined(gate(replicas), {0, 1, 2, 3}, {0, 1, 2, 3}), "b": joined(gate(replicas), {0, 1, 2, 3}, {0})}
    given = gate(replicas)._perform_assignment(Cluster(), told)
    for name, other in (("a", "b"), ("b", "a")):
        mine, theirs = gate(replicas), gate(replicas)
        mine.on_assignment(given[name])
        theirs.on_assignment(given[other])
        assert {tp.topic for tp in mine.assigned_actives()} == {SOURCE, CHANGELOG}
        assert mine.assigned_standbys() == (theirs.assigned_actives() if replicas else set())
        if replicas and name == "a":
            assert {tp.partition for tp in mine.assigned_actives()} >= {1, 2, 3}


_members = st.dictionaries(
    st.sampled_from("abcde"), st.tuples(st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7))), min_size=1
)


@given(_members, st.integers(1, 3))
def test_every_partition_has_one_owner_and_nothing_moves_to_who_lacks_its_rows(
    members: dict[str, tuple[set[int], set[int]]], replicas: int
) -> None:
    before = held(**members)
    placed = place(PARTITIONS, replicas, before)
    assert Counter(each for member in placed.values() for each in member.actives) == Counter(ALL)
    standbys = Counter(each for member in placed.values() for each in member.standbys)
    assert standbys == Counter({each: min(replicas, len(members) - 1) for each in ALL} if len(members) > 1 else {})
    assert all(not member.actives & member.standbys for member in placed.values())
    for name, member in placed.items():
        for gained in member.actives - before[name].actives:
            known = [each for each in before.values() if gained in each.actives | each.standbys]
            assert not known or gained in before[name].standbys


@hypothesis_settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.lists(st.integers(0, 4), max_size=6))
def test_workers_that_come_and_go_are_level_once_they_have_caught_up(
    members: int, replicas: int, gone: list[int]
) -> None:
    """Each round everybody has caught up; now and then one is killed and comes back with nothing."""
    now = place(PARTITIONS, replicas, held(**{f"m{each}": (set(), set()) for each in range(members)}))
    for each in gone:
        now = place(PARTITIONS, replicas, {**now, f"m{each % members}": CopartitionedAssignment(topics={"topic"})})
        for _ in range(20):
            now = place(PARTITIONS, replicas, now)
        loads = [len(member.actives) for member in now.values()]
        assert max(loads) - min(loads) <= 1
