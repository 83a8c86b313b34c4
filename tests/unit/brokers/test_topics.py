"""What differs between a declared topic and the one that is there, and what may be done about it."""

from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from aiokafka.errors import TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from ops.cli.errors import UserError
from ops.topics import Cluster, Existing, Remedy, compare, declared
from schemas.topics import (
    ADMISSIONS_BULK,
    KEY_COMMANDS,
    KEY_EVENTS,
    LEADING,
    OPT_OUTS,
    REQUESTS,
    RESULTS,
    TOPICS,
    USAGE,
    Topic,
)
from streams.installed import changelog_topics
from streams.kafka import kept_too_long
from streams.settings import Settings

DAY = 86_400_000


def as_declared(topic: Topic) -> Existing:
    return Existing(topic.partitions, 1, topic.config, topic.config)


def with_config(topic: Topic, **config: str) -> Existing:
    changed = {**topic.config, **{name.replace("_", "."): value for name, value in config.items()}}
    return Existing(topic.partitions, 1, changed, changed)


def test_what_is_as_declared_does_not_differ() -> None:
    assert compare(ADMISSIONS_BULK, as_declared(ADMISSIONS_BULK), replicas=1) == []


def test_a_missing_topic_is_created() -> None:
    [found] = compare(ADMISSIONS_BULK, None)
    assert found.remedy is Remedy.CREATE
    assert str(found).startswith("mailvet.admissions.bulk.v1: missing (8 partitions, cleanup.policy=delete")


def test_partitions_of_a_keyed_topic_are_never_changed() -> None:
    [found] = compare(ADMISSIONS_BULK, replace(as_declared(ADMISSIONS_BULK), partitions=4))
    assert found.remedy is Remedy.REFUSE
    assert "keyed by tenant" in str(found)


def test_partitions_of_a_topic_without_meaningful_keys_may_grow_but_never_shrink() -> None:
    [fewer] = compare(REQUESTS, replace(as_declared(REQUESTS), partitions=4))
    [more] = compare(REQUESTS, replace(as_declared(REQUESTS), partitions=16))
    assert fewer.remedy is Remedy.GROW
    assert more.remedy is Remedy.REFUSE
    assert "can't take partitions away" in str(more)


def test_replicas_count_only_when_asked_for() -> None:
    [found] = compare(ADMISSIONS_BULK, as_declared(ADMISSIONS_BULK), replicas=3)
    assert found.remedy is Remedy.REFUSE
    assert "kafka-reassign-partitions.sh" in str(found)
    assert compare(ADMISSIONS_BULK, as_declared(ADMISSIONS_BULK)) == []


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        ({"retention_ms": str(2 * DAY)}, Remedy.ALTER),
        ({"retention_ms": str(4 * DAY)}, Remedy.REFUSE),
        ({"retention_ms": "-1"}, Remedy.REFUSE),
        ({"max_message_bytes": "1048588"}, Remedy.ALTER),
        ({"max_message_bytes": str(64 * 1024 * 1024)}, Remedy.REFUSE),
        ({"message_timestamp_type": "CreateTime"}, Remedy.ALTER),
        ({"cleanup_policy": "compact"}, Remedy.REFUSE),
        ({"segment_ms": str(7 * DAY)}, Remedy.ALTER),
    ],
)
def test_only_what_keeps_or_admits_more_is_altered(config: dict[str, str], remedy: Remedy) -> None:
    [found] = compare(ADMISSIONS_BULK, with_config(ADMISSIONS_BULK, **config))
    assert found.remedy is remedy
    assert bool(found.why) is (remedy is Remedy.REFUSE)


def test_smaller_segments_are_an_operators_own_choice() -> None:
    assert compare(ADMISSIONS_BULK, with_config(ADMISSIONS_BULK, segment_ms="600000")) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, None),
        (ADMISSIONS_BULK.config, None),
        ({"retention.ms": str(4 * DAY)}, None),
        ({"retention.ms": str(4 * DAY), "segment.ms": "1"}, "for 4.0 days"),
        ({"retention.ms": str(3 * DAY), "segment.ms": str(7 * DAY)}, "for 10.0 days"),
        ({"retention.ms": "-1", "segment.ms": "1"}, "for ever"),
        ({"retention.ms": str(2**63 - 1), "segment.ms": str(2**63 - 1)}, "days"),
    ],
)
def test_a_record_must_not_outlive_the_decision_on_it(config: dict[str, str], said: str | None) -> None:
    found = kept_too_long("t", config, timedelta(days=4))
    assert found is None if said is None else said in str(found)


def test_as_declared_no_record_outlives_the_decision_on_it() -> None:
    kept = Settings.model_fields["decisions_kept"].default
    assert [kept_too_long(topic.name, topic.config, kept) for topic in LEADING] == [None] * len(LEADING)
    assert not any(topic in LEADING for topic in (RESULTS, KEY_COMMANDS, KEY_EVENTS, USAGE, OPT_OUTS))
    assert len(LEADING) == len(TOPICS) - 6


def test_for_ever_is_longer_than_any_retention() -> None:
    forever = replace(ADMISSIONS_BULK, retention_ms=-1)
    [found] = compare(forever, as_declared(ADMISSIONS_BULK))
    assert found.remedy is Remedy.ALTER


def test_a_config_that_the_broker_does_not_know_is_no_difference() -> None:
    assert compare(ADMISSIONS_BULK, Existing(ADMISSIONS_BULK.partitions, 1, {}, {})) == []


def test_an_installation_has_its_changelogs_and_its_namespace() -> None:
    settings = Settings(namespace="blue")
    topics = declared(settings, partitions=3)
    assert {topic.partitions for topic in topics} == {3}
    names = {topic.name for topic in topics}
    assert "blue.mailvet.requests.v1" in names
    assert {topic.name for topic in changelog_topics(settings)} < names
    assert len(names) == len(topics)


@dataclass
class Client:
    """Two nodes of a cluster: one lists a topic, and the other, asked for its configuration, has not heard of it."""

    error_code: int

    async def describe_topics(self, _: None) -> list[dict[str, object]]:
        return [{"topic": RESULTS.name, "partitions": [{"replicas": [1]}] * RESULTS.partitions}]

    async def describe_configs(self, resources: list[object]) -> list[object]:
        about = {
            "resource_name": RESULTS.name,
            "error_code": self.error_code,
            "error_message": "",
            "config_entries": [],
        }
        return [SimpleNamespace(to_object=lambda: {"resources": [about]})]


async def test_a_topic_that_a_node_has_not_heard_of_yet_is_not_there_yet() -> None:
    cluster = Cluster(Client(UnknownTopicOrPartitionError.errno))  # type: ignore[arg-type]
    assert [each.remedy for each in await cluster.differences([RESULTS])] == [Remedy.CREATE]


async def test_a_node_that_refuses_to_tell_is_no_such_node() -> None:
    with pytest.raises(UserError, match="the broker refused"):
        await Cluster(Client(TopicAuthorizationFailedError.errno)).differences([RESULTS])  # type: ignore[arg-type]
