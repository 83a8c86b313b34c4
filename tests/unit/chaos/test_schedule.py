"""What goes wrong when is a function of the seed, and every seed has everything."""

from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from ops.world import World, WorldConfig
from schemas.topics import REQUESTS
from streams.installed import ROLES
from tests.chaos.load import MALFORMED_EVERY, asks
from tests.chaos.schedule import LASTS_S, OUTAGES, REPEATED, Fault, Kind, schedule, workers
from tests.chaos.test_seeds import seeds

SEEDS = range(1, 201)


def test_the_same_seed_gives_the_same_schedule_and_another_gives_another() -> None:
    assert schedule(17, nodes=3) == schedule(17, nodes=3)
    assert len({schedule(seed, nodes=3) for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize("nodes", [1, 3])
def test_every_seed_kills_each_role_and_has_every_kind_of_fault(nodes: int) -> None:
    for seed in SEEDS:
        faults = schedule(seed, nodes=nodes)
        assert Counter(fault.kind for fault in faults) == Counter(Kind) + Counter({Kind.KILL: 4, Kind.REPEAT: 1})
        assert sorted(_role(fault) for fault in faults if fault.kind is Kind.KILL) == sorted(ROLES)
        assert all(LASTS_S[fault.kind][0] <= fault.lasts_s <= LASTS_S[fault.kind][1] for fault in faults)
        assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
        assert max(fault.ends_s for fault in faults) < 120, "a run has to be bearable"


def test_nothing_is_hit_again_before_it_is_whole() -> None:
    for seed in SEEDS:
        by_target = defaultdict(list)
        for fault in schedule(seed, nodes=3):
            if fault.kind is not Kind.REPEAT:
                by_target[fault.target].append(fault)
        for faults in by_target.values():
            assert all(first.ends_s <= second.at_s for first, second in pairwise(faults))


def test_outages_of_the_world_never_overlap_and_are_short_beside_the_tiers() -> None:
    for seed in SEEDS:
        outages = [fault for fault in schedule(seed, nodes=3) if fault.kind in OUTAGES]
        assert all(first.ends_s <= second.at_s for first, second in pairwise(outages))
        assert all(fault.lasts_s <= 8.0 for fault in outages)


def test_over_many_seeds_everything_is_hit() -> None:
    targets = {fault.target for seed in SEEDS for fault in schedule(seed, nodes=3)}
    assert targets >= {*workers(), *REPEATED, "1", "2", "3"}


def test_a_fault_is_told_in_a_line() -> None:
    assert str(Fault(3.25, Kind.FREEZE, "probe-2", 9.0)) == "   3.2 s  SIGSTOP probe-2 for 9.0 s"
    assert str(Fault(1.0, Kind.REPEAT, REQUESTS.name)) == f"   1.0 s  repeated records of {REQUESTS.name}"


def test_seeds_are_one_or_so_many() -> None:
    assert list(seeds({})) == [1]
    assert list(seeds({"MAILVET_CHAOS_SEEDS": "3", "MAILVET_CHAOS_SEED": ""})) == [1, 2, 3]
    assert list(seeds({"MAILVET_CHAOS_SEEDS": "3", "MAILVET_CHAOS_SEED": "17"})) == [17]


def test_the_load_asks_for_every_address_once_and_for_malformed_records_between() -> None:
    samples = list(World(WorldConfig(bulk_domains=4)).bulk_addresses(3000))
    made = list(asks(samples, tenant="acme", key="mv_x", seed=5))
    assert made == list(asks(samples, tenant="acme", key="mv_x", seed=5))
    requests = [ask for ask in made if ask.samples]
    assert sorted(each.address for ask in requests for each in ask.samples) == sorted(s.address for s in samples)
    assert len({ask.uid for ask in requests}) == len(requests)
    malformed = [ask for ask in made if not ask.samples]
    assert len(malformed) == len(requests) // MALFORMED_EVERY
    assert len({ask.digest for ask in malformed}) == len(malformed)
    assert not {ask.digest for ask in malformed} & {ask.digest for ask in requests}


def _role(fault: Fault) -> str:
    return fault.target.partition("-")[0]
