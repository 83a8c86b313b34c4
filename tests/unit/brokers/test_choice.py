"""Which broker is used, decided on fakes."""

import pytest

from ops.brokers import real
from ops.brokers.base import Broker, BrokerError, BrokerMissing
from ops.brokers.real import Given, start


class Fake:
    killable = True
    durable = True
    bootstrap = "127.0.0.1:1"

    def __init__(self, name: str) -> None:
        self.name = name

    def kill(self) -> None: ...

    def restart(self) -> None: ...

    def stop(self) -> None: ...


def container() -> Broker:
    return Fake("container")


def jars() -> Broker:
    return Fake("jars")


def embedded() -> Broker:
    return Fake("embedded")


def no_docker() -> Broker:
    raise BrokerMissing("no Docker socket answers")


def no_java() -> Broker:
    raise BrokerMissing("Java is not installed")


def test_a_given_broker_comes_first() -> None:
    chosen = start({"KAFKA_BOOTSTRAP_SERVERS": " kafka:9092 "}, real=(container,), fallback=embedded)
    assert isinstance(chosen, Given)
    assert chosen.bootstrap == "kafka:9092"


def test_an_empty_variable_gives_none() -> None:
    assert start({"KAFKA_BOOTSTRAP_SERVERS": ""}, real=(container,), fallback=embedded).name == "container"


def test_real_ones_are_tried_in_order() -> None:
    assert start({}, real=(container, jars), fallback=embedded).name == "container"
    assert start({}, real=(no_docker, jars), fallback=embedded).name == "jars"


def test_the_embedded_one_stands_in_with_a_note_that_says_what_lacks() -> None:
    notes: list[str] = []
    chosen = start({}, real=(no_docker, no_java), fallback=embedded, note=notes.append)
    assert chosen.name == "embedded"
    assert len(notes) == 1
    assert "no Docker socket answers; Java is not installed" in notes[0]


@pytest.mark.parametrize("value", ["true", "True", "1"])
def test_in_ci_a_missing_real_broker_is_a_failure(value: str) -> None:
    with pytest.raises(BrokerMissing, match="CI=true needs a real Apache Kafka"):
        start({"CI": value}, real=(no_docker, no_java), fallback=embedded)


def test_a_given_broker_is_not_ours_to_crash() -> None:
    given = Given("kafka:9092")
    for forbidden in (given.kill, given.restart):
        with pytest.raises(BrokerError, match="not ours"):
            forbidden()


def test_the_block_stops_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    fake = Fake("jars")
    monkeypatch.setattr(fake, "stop", lambda: stopped.append("stop"))
    monkeypatch.setattr(real, "start", lambda *_, **__: fake)
    with pytest.raises(RuntimeError, match="a test failed"), real.broker({}):
        raise RuntimeError("a test failed")
    assert stopped == ["stop"]
