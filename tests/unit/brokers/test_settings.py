"""The container and the jars run the same broker."""

from pathlib import Path

import pytest

from ops.brokers import container, kafka
from ops.brokers.base import BrokerMissing

ONLY_OF_THE_JARS = {"log.dirs", "log.segment.bytes", "log.cleaner.dedupe.buffer.size"}


def of_the_jars() -> dict[str, str]:
    lines = kafka.properties(9092, 9093, Path("/data")).splitlines()
    return dict(line.split("=", 1) for line in lines)


def of_the_image() -> dict[str, str]:
    settings = container.environment(9092).items()
    return {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in settings}


def test_both_have_the_same_settings() -> None:
    jars, image = of_the_jars(), of_the_image()
    image["listeners"] = image["listeners"].replace("0.0.0.0", "127.0.0.1")  # noqa: S104  a container's own
    assert {name: value for name, value in jars.items() if name not in ONLY_OF_THE_JARS} == image


def test_topics_are_never_made_by_accident() -> None:
    assert of_the_jars()["auto.create.topics.enable"] == "false"


def test_without_a_docker_socket_the_container_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(BrokerMissing, match="no Docker socket answers"):
        container.ContainerKafka()
