"""`mailvet topics` on a broker: creates, repeats without change, shows, alters what is safe, refuses the rest."""

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from click.testing import CliRunner, Result

from ops.brokers.base import Broker, free_port
from ops.brokers.daemon import wait_until
from ops.brokers.embedded import Embedded
from ops.cli.topics import command
from schemas.topics import ADMISSIONS_BULK, RESULTS, TOPICS


def topics(broker: Broker, *arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--bootstrap", broker.bootstrap])


@pytest.fixture(autouse=True)
def namespace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test is an installation of its own on the same broker."""
    name = f"n{abs(hash(request.node.name))}"
    monkeypatch.setenv("MAILVET_NAMESPACE", name)
    return name


async def alter(broker: Broker, topic: str, config: dict[str, str]) -> None:
    client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await client.start()
    try:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, config)])
    finally:
        await client.close()


async def config_of(broker: Broker, topic: str) -> dict[str, str]:
    client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await client.start()
    try:
        [response] = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        await client.close()
    [resource] = response.to_object()["resources"]
    return {entry["config_names"]: entry["config_value"] for entry in resource["config_entries"]}


def test_apply_creates_all_and_then_nothing_more(broker: Broker) -> None:
    assert topics(broker, "diff").exit_code == 1
    first = topics(broker, "apply")
    assert first.exit_code == 0, first.output
    assert first.output.count("created ") >= len(TOPICS)
    again = topics(broker, "apply")
    assert again.exit_code == 0
    assert "(0 changes)" in again.output
    assert topics(broker, "diff").exit_code == 0


def test_another_number_of_partitions_is_refused_for_keyed_topics_alone(broker: Broker) -> None:
    assert topics(broker, "apply", "--partitions", "2").exit_code == 0
    refused = topics(broker, "apply", "--partitions", "3")
    assert refused.exit_code == 1
    assert "mailvet.requests.v1: number of partitions is 2, declared 3\n" in refused.output
    assert "mailvet.admissions.bulk.v1: number of partitions is 2, declared 3: left as it is" in refused.output
    shown = topics(broker, "diff", "--partitions", "3")
    assert "mailvet.requests.v1" not in shown.output
    assert topics(broker, "diff", "--partitions", "2").exit_code == 1


def test_what_is_safe_is_altered_and_an_operators_own_configs_stay(broker: Broker, namespace: str) -> None:
    assert topics(broker, "apply").exit_code == 0
    shorter, longer = f"{namespace}.{ADMISSIONS_BULK.name}", f"{namespace}.{RESULTS.name}"
    asyncio.run(alter(broker, shorter, {"retention.ms": "1000", "segment.ms": "777777"}))
    asyncio.run(alter(broker, longer, {**RESULTS.config, "retention.ms": "-1"}))
    wait_until(lambda: topics(broker, "diff").output.count("retention.ms is") == 2, timeout=10, what="no difference")
    applied = topics(broker, "apply")
    assert applied.exit_code == 1
    assert f"{longer}: retention.ms is -1" in applied.output
    config = asyncio.run(config_of(broker, shorter))
    assert config["retention.ms"] == str(ADMISSIONS_BULK.retention_ms)
    assert config["segment.ms"] == "777777"
    assert asyncio.run(config_of(broker, longer))["retention.ms"] == "-1"


def test_records_that_outlive_decisions_are_told_of(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILVET_DECISIONS_KEPT", "P3D")
    for name in ("apply", "diff"):
        told = topics(broker, name)
        assert told.exit_code == 1
        assert f"{ADMISSIONS_BULK.name} keeps records for 3.2 days (retention.ms and segment.ms)" in told.output
        assert "no worker will start" in told.output
    assert f"{RESULTS.name} keeps" not in told.output
    monkeypatch.setenv("MAILVET_DECISIONS_KEPT", "P3DT6H")
    assert topics(broker, "diff").exit_code == 0


def test_more_replicas_than_brokers_is_one_clear_line(broker: Broker) -> None:
    refused = topics(broker, "apply", "--replication-factor", "9")
    assert refused.exit_code == 2
    assert "the broker refused" in refused.output
    assert "replication factor of 9" in refused.output


def test_the_embedded_broker_is_served_too() -> None:
    embedded = Embedded()
    try:
        assert topics(embedded, "apply").exit_code == 0
        assert topics(embedded, "diff").exit_code == 0
        grown = topics(embedded, "apply", "--partitions", "9")
        assert grown.exit_code == 1
        assert "this broker can't add partitions" in grown.output
    finally:
        embedded.stop()


def test_a_broker_that_is_not_there_is_one_line() -> None:
    missing = CliRunner().invoke(command, ["diff", "--bootstrap", f"127.0.0.1:{free_port()}"])
    assert missing.exit_code == 2
    assert "no Kafka broker answers" in missing.output


def test_a_namespace_that_no_topic_can_have_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILVET_NAMESPACE", "a b")
    refused = CliRunner().invoke(command, ["diff"])
    assert refused.exit_code == 2
    assert "setting namespace" in refused.output
