"""Why no client could start, told apart by whether anybody listens there. No broker: two ends of one connection."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ops.cli.kafka import unreachable
from streams import kafka
from streams.kafka import StartupError, _compare, check_broker, refusal
from streams.settings import Settings
from tests.unit.settings.test_security import SASL

Opened = Callable[..., Awaitable[Any]]


class Writer:
    """An open connection."""

    def close(self) -> None:
        """Nothing to do."""


async def _open(host: str, port: int) -> tuple[None, Writer]:
    if (host, port) != ("::1", 9092):
        raise ConnectionRefusedError
    return None, Writer()


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody listens at [::1]:9092 alone."""
    monkeypatch.setattr(asyncio, "open_connection", _open)


async def test_where_nobody_listens_nobody_refused() -> None:
    assert await refusal(Settings.model_validate({"bootstrap_servers": "a:1,b:2"})) is None
    assert "is it running, and is --bootstrap" in (await unreachable("a:1")).message


async def test_where_somebody_listens_it_is_who_we_are_or_how_we_speak() -> None:
    there = {"bootstrap_servers": "a:1, [::1]:9092"}
    said = await refusal(Settings.model_validate(there | SASL))
    assert said is not None
    assert "did not let the user mailvet.gate in by SASL_PLAINTEXT and SCRAM-SHA-512" in said
    assert "sesame" not in said
    said = await refusal(Settings.model_validate(there))
    assert said is not None
    assert "no Kafka broker answers by PLAINTEXT" in said
    assert "though the port is open" in (await unreachable("[::1]:9092")).message


async def test_a_worker_waits_for_the_broker_and_says_which_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_settings: Settings, _names: list[str]) -> None:
        raise TimeoutError

    monkeypatch.setattr(kafka, "_found", never)
    with pytest.raises(StartupError, match="did not let the user"):
        await check_broker(Settings.model_validate({"bootstrap_servers": "[::1]:9092"} | SASL), ())
    with pytest.raises(StartupError, match="no Kafka broker answers at a:1; set KAFKA_BOOTSTRAP_SERVERS"):
        await check_broker(Settings.model_validate({"bootstrap_servers": "a:1"}), ())


def test_topics_that_are_missing_may_only_be_hidden_from_this_user() -> None:
    _compare({"t1"}, {"t1"}, Settings())
    with pytest.raises(StartupError, match=r"\(t2, t3, t4 and 1 more\): run `mailvet topics apply`$"):
        _compare({"t1"}, {"t1", "t2", "t3", "t4", "t5"}, Settings())
    with pytest.raises(StartupError, match=r"shows whether mailvet\.gate has its rights"):
        _compare(set(), {"t1"}, Settings.model_validate(SASL))
