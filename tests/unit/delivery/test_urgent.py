"""What is urgent is read first."""

from collections import OrderedDict

from faust.types import TP

from schemas.topics import KEY_COMMANDS
from streams.engine import put_first
from tests.unit.roles.test_gate import World


def test_partitions_of_urgent_topics_come_before_all_others() -> None:
    fetched = OrderedDict((TP(topic, number), None) for topic in ("a", "b", "c") for number in range(2))
    put_first(fetched, {"c"})
    assert [tp.topic for tp in fetched] == ["c", "c", "a", "a", "b", "b"]
    put_first(fetched, set())
    assert [tp.topic for tp in fetched] == ["c", "c", "a", "a", "b", "b"]


def test_commands_on_keys_are_urgent_and_nothing_else() -> None:
    urgent = {each.topic.name for each in World().gate.subscriptions() if each.urgent}
    assert urgent == {KEY_COMMANDS.name}
