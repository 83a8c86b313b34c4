"""Which worker of a group gets which partitions where others stand by: nothing moves to a worker that lacks its rows.

Faust's assignor balances at once. A worker that joins, as one does that was killed and started again, then gets half of
the partitions and serves none of them until it has read all their rows, though another had those at hand. Here it reads
along first; when it has caught up it joins again and takes its share (in Kafka's words a warm-up replica, KIP-441).
"""

from collections.abc import Mapping, MutableMapping
from typing import Any, cast

from faust.assignor.client_assignment import ClientAssignment, ClientMetadata, CopartitionedAssignment
from faust.assignor.cluster_assignment import ClusterAssignment
from faust.assignor.partition_assignor import PartitionAssignor

Held = Mapping[str, CopartitionedAssignment]
"""What each member has: partitions of its own, and those of others whose rows it has too."""


class WarmAssignor(PartitionAssignor):
    """Faust's without standbys. With them each member tells of those that have caught up, and the leader goes by it."""

    @property
    def _metadata(self) -> ClientMetadata:
        told = super()._metadata
        warm: frozenset[int] = cast(Any, self.app).recovery.warm
        standbys = {topic: [each for each in held if each in warm] for topic, held in self._assignment.standbys.items()}
        told.assignment = ClientAssignment(actives=self._assignment.actives, standbys=standbys)
        return told

    def _perform_assignment(self, cluster: Any, member_metadata: MutableMapping[str, Any]) -> Any:
        if not self.replicas:
            return super()._perform_assignment(cluster, member_metadata)
        told = {name: self._get_client_metadata(each) for name, each in member_metadata.items()}
        subscriptions = {name: list(each.subscription) for name, each in member_metadata.items()}
        claims = ClusterAssignment()
        for name, each in told.items():
            claims.add_client(name, subscriptions[name], each)
        self._update_member_urls(told)
        given = {name: ClientAssignment(actives={}, standbys={}) for name in told}
        groups: dict[str, int] = {}
        found = self._get_copartitioned_groups(claims.topics(), cluster, subscriptions)
        for number, (partitions, sets) in enumerate(sorted(found.items())):
            for topics in sets:
                groups |= dict.fromkeys(topics, number)
                placed = place(partitions, self.replicas, claims.copartitioned_assignments(topics))
                for name, assignment in placed.items():
                    given[name].add_copartitioned_assignment(assignment)
        tables, sources = self._get_changelog_distribution(given), self._get_external_topic_distribution(given)
        return self._protocol_assignments(given, tables, sources, groups)


def place(partitions: int, replicas: int, held: Held) -> Held:
    """Each partition to one member, and to ``replicas`` others that stand by (as many as there are).

    A partition stays where it is, unless a member with fewer has its rows. One that nobody has goes to a member with
    its rows, however many that has; if there is none, to the one with the fewest.
    """
    placed = {name: CopartitionedAssignment(topics=each.topics) for name, each in held.items()}
    for partition in range(partitions):
        owners = [name for name in held if partition in held[name].actives]
        warm = [name for name in held if partition in held[name].standbys]
        _least(placed, owners or warm or list(held)).actives.add(partition)
    while _move_one(placed, held):
        pass
    for partition in range(partitions):
        owner = next(each for each in placed.values() if partition in each.actives)
        others = [name for name in held if placed[name] is not owner]
        # Who shall take partitions of the owner; then who has the rows already; then who has least to do.
        others.sort(
            key=lambda name: (
                _is_level(owner, placed[name]),
                partition not in held[name].standbys,
                _load(placed[name]),
                name,
            )
        )
        for name in others[:replicas]:
            placed[name].standbys.add(partition)
    return placed


def _move_one(placed: Held, held: Held) -> bool:
    """Move one partition to a member that has its rows and at least two fewer; whether there was one."""
    for giver in sorted(placed, key=lambda name: -len(placed[name].actives)):
        for taker in sorted(placed, key=lambda name: len(placed[name].actives)):
            warm = placed[giver].actives & held[taker].standbys
            if warm and not _is_level(placed[giver], placed[taker]):
                moved = min(warm)
                placed[giver].actives.remove(moved)
                placed[taker].actives.add(moved)
                return True
    return False


def _least(placed: Held, names: list[str]) -> CopartitionedAssignment:
    return placed[min(names, key=lambda name: (len(placed[name].actives), name))]


def _is_level(giver: CopartitionedAssignment, taker: CopartitionedAssignment) -> bool:
    return len(giver.actives) - len(taker.actives) <= 1


def _load(assignment: CopartitionedAssignment) -> int:
    return len(assignment.actives) + len(assignment.standbys)
