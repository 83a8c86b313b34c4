"""Getting the jars, with scripts in the place of Java and Maven."""

from pathlib import Path

import pytest

from ops.brokers import jars
from ops.brokers.base import BrokerError, BrokerMissing, cache_dir


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of its own (the shell's own tools stay) and a cache of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("MAILVET_CACHE", str(tmp_path / "cache"))
    return folder


def script(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


MAKES_A_JAR = 'for a in "$@"; do case "$a" in -DoutputDirectory=*) : > "${a#*=}/kafka.jar";; esac; done'


def test_without_java_it_says_what_to_install(tools: Path) -> None:
    with pytest.raises(BrokerMissing, match=r"Java is not installed .*apt-get install"):
        jars.kafka_jars()


def test_without_maven_it_says_what_to_install(tools: Path) -> None:
    script(tools, "java", "")
    with pytest.raises(BrokerMissing, match="Maven is not installed"):
        jars.kafka_jars()


def test_the_download_happens_once(tools: Path) -> None:
    script(tools, "java", "")
    script(tools, "mvn", MAKES_A_JAR)
    first = jars.kafka_jars()
    assert (first / "kafka.jar").is_file()
    (tools / "mvn").unlink()
    assert jars.kafka_jars() == first


def test_a_failed_download_leaves_no_folder_that_looks_whole(tools: Path) -> None:
    script(tools, "java", "")
    script(tools, "mvn", "echo cannot resolve; exit 1")
    with pytest.raises(BrokerError, match="cannot resolve"):
        jars.kafka_jars()
    assert not (cache_dir() / f"kafka-{jars.KAFKA_VERSION}").exists()


def test_a_download_that_hangs_is_given_up(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "_DOWNLOAD_TIMEOUT", 0.2)
    script(tools, "java", "")
    script(tools, "mvn", "exec /bin/sleep 60")
    with pytest.raises(BrokerError, match="did not finish the download"):
        jars.kafka_jars()


def test_a_lock_that_is_held_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        jars.locked(lock, timeout=0),
        pytest.raises(BrokerError, match="is locked by another process"),
        jars.locked(lock, timeout=0),
    ):
        pass


def test_a_lock_that_was_given_back_can_be_taken(tmp_path: Path) -> None:
    for _ in range(2):
        with jars.locked(tmp_path / "lock", timeout=0):
            pass
