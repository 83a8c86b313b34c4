"""How a worker reaches Kafka: the one place for addresses, and for TLS and SASL when they come."""

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas.topics import Topic
from streams.settings import Settings


class StartupError(Exception):
    """A worker can't start; the sentence says what to do."""


def client_options(settings: Settings, client_id: str) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes."""
    return {"bootstrap_servers": settings.bootstrap_servers, "client_id": client_id}


def faust_broker(settings: Settings) -> str:
    """The same brokers as Faust wants them: ``kafka://HOST:PORT;HOST:PORT``."""
    return "kafka://" + ";".join(part.strip() for part in settings.bootstrap_servers.split(","))


async def check_broker(settings: Settings, topics: Iterable[Topic]) -> None:
    """Wait for the broker, at most ``broker_wait_s`` seconds, and see that the topics are there.

    ``topics`` carry their names on the broker (:meth:`schemas.topics.Topic.named`).

    Raises:
        StartupError: the broker can't be reached, or topics are missing or have other partitions than declared.
    """
    try:
        async with asyncio.timeout(settings.broker_wait_s):
            found = await _partitions(settings)
    except TimeoutError:
        raise StartupError(
            f"no Kafka broker answers at {settings.bootstrap_servers}; set KAFKA_BOOTSTRAP_SERVERS"
        ) from None
    _compare(found, {topic.name: topic.partitions for topic in topics})


async def _partitions(settings: Settings) -> dict[str, int]:
    while True:
        admin = AIOKafkaAdminClient(**client_options(settings, "mailvet-check"))
        try:
            await admin.start()
            return {about["topic"]: len(about["partitions"]) for about in await admin.describe_topics()}
        except (KafkaError, OSError):
            await asyncio.sleep(0.5)
        finally:
            await admin.close()


def _compare(found: dict[str, int], wanted: dict[str, int]) -> None:
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise StartupError(f"topics are missing on the broker ({names}): run `mailvet topics apply`")
