"""How a client of ours reaches Kafka: the one place for addresses and for who we are there."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError, for_code

from schemas.topics import DAY_MS, LEADING, Topic
from streams.security import SecurityError, aiokafka_security, faust_credentials
from streams.settings import Settings

logger = logging.getLogger(__name__)

LISTEN_S = 2.0
"""How long a port may take to open when we look why no client could start."""


class StartupError(Exception):
    """A worker can't start; the sentence says what to do."""


def client_options(settings: Settings, client_id: str) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes. They hold the password: never show them.

    Raises:
        StartupError: a certificate or password file can't be used.
    """
    try:
        security = aiokafka_security(settings)
    except SecurityError as wrong:
        raise StartupError(str(wrong)) from None
    return {"bootstrap_servers": settings.bootstrap_servers, "client_id": client_id, **security}


def faust_options(settings: Settings) -> dict[str, Any]:
    """The same for Faust, whose addresses are ``kafka://HOST:PORT;HOST:PORT``. Raises :class:`StartupError`."""
    try:
        credentials = faust_credentials(settings)
    except SecurityError as wrong:
        raise StartupError(str(wrong)) from None
    return {"broker": "kafka://" + ";".join(_servers(settings)), "broker_credentials": credentials}


def mind_uvloop() -> None:
    """Have aiokafka take a connection for broken where uvloop says that it is closed: by a RuntimeError, which the
    transports of asyncio never raise and aiokafka does not expect.

    What had written died of it: a sender, a fetch loop, the coordination of a group, or the renewal of metadata, whose
    producer then waited until its records were too late.
    """
    for name in ("send", "_send_sasl_token"):
        setattr(AIOKafkaConnection, name, _closing(getattr(AIOKafkaConnection, name)))


def _closing(send: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(send)
    def send_or_close(self: AIOKafkaConnection, *args: Any, **kwargs: Any) -> Any:
        try:
            return send(self, *args, **kwargs)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection to {self.host}:{self.port} is closed") from error

    return send_or_close


def join_knowingly(consumer: AIOKafkaConsumer) -> None:
    """Let a consumer that was started join its group only once it knows the partitions of what it subscribes to.

    Whoever leads a group gives nobody a topic that it knows nothing of, without a word, and looks again after five
    minutes: where its first request for metadata failed (it does not repeat that), all workers of the group waited so
    long, healthy and without partitions. A topic that is not found within the request timeout is an error.
    """
    client, coordinator = consumer._client, consumer._coordinator
    join = coordinator.ensure_active_group

    async def join_then(subscription: Any, assignment: Any) -> Any:
        for topic in subscription.topics:
            known = asyncio.ensure_future(client._wait_on_metadata(topic))
            await asyncio.wait({known, coordinator._closing}, return_when=asyncio.FIRST_COMPLETED)
            if not known.done():  # It is closed: a stop does not wait for a broker that is away.
                known.cancel()
                return None
            known.result()
        return await join(subscription, assignment)

    coordinator.ensure_active_group = join_then


async def check_broker(settings: Settings, topics: Iterable[Topic]) -> None:
    """Wait for the broker, at most ``broker_wait_s`` seconds, and see that the topics are there.

    ``topics`` carry their names on the broker (:meth:`schemas.topics.Topic.named`).

    Raises:
        StartupError: the broker can't be reached or does not let us in, topics are missing or not ours to see, or
            they keep records longer than decisions.
    """
    leading = [topic.named(settings.namespace).name for topic in LEADING]
    try:
        async with asyncio.timeout(settings.broker_wait_s):
            found = await _found(settings, leading)
    except TimeoutError:
        nobody = f"no Kafka broker answers at {settings.bootstrap_servers}; set KAFKA_BOOTSTRAP_SERVERS"
        raise StartupError(await refusal(settings) or nobody) from None
    _compare(set(found.partitions), {topic.name for topic in topics}, settings)
    for name, config in found.configs.items():
        if sentence := kept_too_long(name, config, settings.decisions_kept):
            raise StartupError(sentence)


async def refusal(settings: Settings) -> str | None:
    """Why no client could start though somebody listens there, as far as can be told; None where nobody does.

    All that clients say themselves is that they could not start.
    """
    if not await _listens(settings):
        return None
    where, protocol = settings.bootstrap_servers, settings.security_protocol
    if protocol.startswith("SASL_"):
        return (
            f"the broker at {where} did not let the user {settings.sasl_username} in by {protocol} and "
            f"{settings.sasl_mechanism}: check KAFKA_SASL_USERNAME and its password, KAFKA_SASL_MECHANISM, "
            "KAFKA_SECURITY_PROTOCOL and KAFKA_SSL_CA_FILE"
        )
    return (
        f"no Kafka broker answers by {protocol} at {where}, though the port is open: set KAFKA_SECURITY_PROTOCOL if it "
        "asks for TLS or a password, else KAFKA_BOOTSTRAP_SERVERS"
    )


async def _listens(settings: Settings) -> bool:
    for server in _servers(settings):
        host, _, port = server.rpartition(":")
        with suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(LISTEN_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
            return True
    return False


def _servers(settings: Settings) -> list[str]:
    return [part.strip() for part in settings.bootstrap_servers.split(",")]


def kept_too_long(name: str, config: Mapping[str, str], decisions_kept: timedelta) -> str | None:
    """Why repeats of this topic's records might be decided twice, in a sentence; None where they can't.

    ``config`` is what the broker says of the topic; what it doesn't say is no reason. Kafka deletes whole segments, by
    their last record: the first one lives ``segment.ms`` longer than ``retention.ms``.
    """
    retention_ms, segment_ms = int(config.get("retention.ms", 0)), int(config.get("segment.ms", 0))
    kept_ms, decisions_ms = retention_ms + segment_ms, round(decisions_kept.total_seconds() * 1000)
    if retention_ms >= 0 and kept_ms <= decisions_ms:
        return None
    kept = f"for {_days(kept_ms)}" if retention_ms >= 0 else "for ever"
    return (
        f"{name} keeps records {kept} (retention.ms and segment.ms), decisions are kept for {_days(decisions_ms)}: a "
        "repeat could be decided or charged twice; run `mailvet topics apply`, shorten them, or raise "
        "MAILVET_DECISIONS_KEPT"
    )


def _days(ms: int) -> str:
    return f"{ms / DAY_MS:,.1f} days"


@dataclass(frozen=True, slots=True)
class _Found:
    """What a broker has: partitions of all topics, and the configs of some."""

    partitions: Mapping[str, int]
    configs: Mapping[str, Mapping[str, str]]


async def _found(settings: Settings, names: Iterable[str]) -> _Found:
    options = client_options(settings, "mailvet-check")
    while True:
        admin = AIOKafkaAdminClient(**options)
        try:
            await admin.start()
            partitions = {about["topic"]: len(about["partitions"]) for about in await admin.describe_topics()}
            return _Found(partitions, await _configs(admin, [name for name in names if name in partitions]))
        except (KafkaError, OSError):
            await asyncio.sleep(0.5)
        finally:
            await admin.close()


async def _configs(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(asked) if asked else ():
        for about in response.to_object()["resources"]:
            if about["error_code"]:
                # An operator may not let workers see it; `mailvet topics diff` compares too.
                why = for_code(about["error_code"]).__name__
                logger.warning("how long %s keeps records can't be seen: %s", about["resource_name"], why)
                continue
            entries = ((each["config_names"], each["config_value"]) for each in about["config_entries"])
            configs[about["resource_name"]] = {name: value for name, value in entries if value is not None}
    return configs


def _compare(found: set[str], wanted: set[str], settings: Settings) -> None:
    missing = sorted(wanted - found)
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        rights = (
            f", and `mailvet topics acls diff` shows whether {settings.sasl_username} has its rights"
            if settings.sasl_username
            else ""
        )
        raise StartupError(f"topics are missing on the broker ({names}): run `mailvet topics apply`{rights}")
