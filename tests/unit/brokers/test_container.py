"""What is asked of Docker, on a stand-in for its client: no daemon is at hand in unit tests."""

from collections.abc import Iterator

import docker
import pytest
from testcontainers.core import container as testcontainers

from ops.brokers import container
from ops.brokers.base import BrokerError
from ops.brokers.container import IMAGE, ContainerKafka


class FakeDocker:
    """Testcontainers' container and Docker's own in one; remembers what it was told."""

    told: list[str]
    settings: dict[str, str]
    refusal: Exception | None = None

    def __init__(self, image: str) -> None:
        FakeDocker.told = [image]
        FakeDocker.settings = {}

    def with_bind_ports(self, inner: int, outer: int) -> "FakeDocker":
        self.ports = (inner, outer)
        return self

    def with_env(self, name: str, value: str) -> "FakeDocker":
        self.settings[name] = value
        return self

    def get_wrapped_container(self) -> "FakeDocker":
        return self

    def start(self) -> None:
        self.told.append("start")
        if self.refusal:
            raise self.refusal

    def kill(self, signal: str) -> None:
        self.told.append(f"kill {signal}")

    def stop(self, timeout: int | None = None) -> None:
        self.told.append("stop" if timeout else "remove")

    def ping(self) -> bool:
        return True


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Docker answers, and what it starts serves at once; gives the ports that were asked."""
    asked: list[int] = []
    monkeypatch.setattr(docker, "from_env", lambda **_: FakeDocker(""))
    monkeypatch.setattr(testcontainers, "DockerContainer", FakeDocker)
    monkeypatch.setattr(container, "serves", lambda port: asked.append(port) is None)
    yield asked
    FakeDocker.refusal = None


def test_it_serves_on_the_port_that_it_advertises(served: list[int]) -> None:
    broker = ContainerKafka()
    [port] = served
    assert broker.bootstrap == f"127.0.0.1:{port}"
    assert FakeDocker.told == [IMAGE, "start"]
    assert FakeDocker.settings["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://127.0.0.1:{port}"


def test_a_crash_keeps_the_container_and_a_stop_removes_it(served: list[int]) -> None:
    broker = ContainerKafka()
    broker.kill()
    broker.restart()
    broker.stop()
    assert FakeDocker.told[2:] == ["kill SIGKILL", "stop", "start", "remove"]
    assert len(set(served)) == 1


def test_an_image_that_cannot_be_had_is_one_sentence(served: list[int]) -> None:
    FakeDocker.refusal = RuntimeError("pull access denied")
    with pytest.raises(BrokerError, match=f"Docker could not run {IMAGE}: pull access denied"):
        ContainerKafka()
    assert FakeDocker.told[-1] == "remove"


def test_one_that_never_serves_is_removed(served: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise BrokerError("did not serve within 90 s")

    monkeypatch.setattr(container, "wait_until", never)
    with pytest.raises(BrokerError, match="did not serve"):
        ContainerKafka()
    assert FakeDocker.told[-1] == "remove"
