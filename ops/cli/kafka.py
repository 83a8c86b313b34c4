"""Kafka as the commands need it: connect within a bound or say why not, write requests, read a topic from offsets."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ops.cli.config import load_settings
from ops.cli.errors import UserError
from ops.cli.output import printable
from schemas.request import MAX_REQUEST_BYTES
from streams.kafka import StartupError, client_options, refusal

CONNECT_S = 10.0
"""How long a command waits for the first answer of a broker."""

CLOSE_S = 5.0
"""How long it waits for a goodbye."""

QUIET_S = 2.0
"""A broker that gives nothing for so long has nothing more, whatever it says of its end (the embedded one errs)."""

POLL_MS = 100
_REQUEST_MS = 10_000

Client = TypeVar("Client", AIOKafkaProducer, AIOKafkaConsumer)


def servers(_ctx: object, _param: object, value: str | None) -> str | None:
    """A click callback: ``HOST:PORT[,HOST:PORT]``, or nothing."""
    if value is None:
        return None
    if "@" in value:  # Its password is not repeated.
        raise click.BadParameter(
            "HOST:PORT[,HOST:PORT] alone: user and password are KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD_FILE"
        )
    try:
        return ",".join(_server(part.strip()) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{printable(value)!r} is not HOST:PORT[,HOST:PORT]") from None


def _server(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(text)
    return text


def bootstrap_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--bootstrap HOST:PORT[,...]``, else ``KAFKA_BOOTSTRAP_SERVERS``, else this machine."""
    return click.option(
        "--bootstrap",
        metavar="HOST:PORT[,...]",
        envvar="KAFKA_BOOTSTRAP_SERVERS",
        default="127.0.0.1:9092",
        show_default=True,
        callback=servers,
        help="Kafka's bootstrap servers (environment: KAFKA_BOOTSTRAP_SERVERS).",
    )(command)


def silence_client() -> None:
    """What the client library logs on stderr is said by us in one sentence, or overcome by a retry."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def reach(bootstrap: str) -> dict[str, Any]:
    """Keyword arguments with which an aiokafka client reaches these brokers as whom the environment says we are.

    Raises:
        UserError: a setting is wrong, or a file that it names can't be used.
    """
    try:
        return client_options(load_settings(bootstrap_servers=bootstrap), "mailvet-cli")
    except StartupError as wrong:
        raise UserError(str(wrong)) from None


async def unreachable(bootstrap: str) -> UserError:
    """What to say when no client could start within `CONNECT_S`."""
    return UserError(
        await refusal(load_settings(bootstrap_servers=bootstrap))
        or f"no Kafka broker answers at {bootstrap} (waited up to {CONNECT_S:.0f} s): "
        "is it running, and is --bootstrap or KAFKA_BOOTSTRAP_SERVERS right?"
    )


@contextlib.asynccontextmanager
async def _running(client: Client, bootstrap: str) -> AsyncIterator[Client]:
    try:
        await asyncio.wait_for(client.start(), CONNECT_S)
    except (KafkaError, OSError, TimeoutError):
        await _close(client)
        raise await unreachable(bootstrap) from None
    except BaseException:
        await _close(client)
        raise
    try:
        yield client
    finally:
        await _close(client)


async def _close(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        await asyncio.wait_for(client.stop(), CLOSE_S)


@contextlib.asynccontextmanager
async def producer(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    """A producer whose sends are done when every in-sync replica has them.

    It isn't idempotent: a repeat of a request is charged and answered once by its id, whoever repeats it, and a tenant
    needs no right but to write to one topic.

    Raises:
        UserError: no broker answered within `CONNECT_S`.
    """
    client = AIOKafkaProducer(
        **reach(bootstrap),
        acks="all",
        linger_ms=5,
        max_request_size=2 * MAX_REQUEST_BYTES,
        request_timeout_ms=_REQUEST_MS,
    )
    async with _running(client, bootstrap) as running:
        yield running


@contextlib.asynccontextmanager
async def consumer(bootstrap: str, *, fetch_wait_ms: int = 100) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group that reads whole records only; give it partitions with `read_from`.

    Raises:
        UserError: no broker answered within `CONNECT_S`.
    """
    client = AIOKafkaConsumer(
        **reach(bootstrap),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=fetch_wait_ms,
        request_timeout_ms=_REQUEST_MS,
    )
    async with _running(client, bootstrap) as running:
        yield running


async def require_topics(client: AIOKafkaConsumer, *names: str) -> None:
    """Raise `UserError` unless all `names` are there. Asks for the list of topics, which never creates one."""
    missing = sorted(set(names) - await client.topics())
    if missing:
        raise UserError(f"the broker has no topic {', '.join(missing)}: run `mailvet topics apply` first")


async def read_from(
    client: AIOKafkaConsumer, topic: str, numbers: Iterable[int], positions: Mapping[int, int]
) -> dict[int, int]:
    """Assign all partitions of `topic`, each from its offset in `positions`; without any, from the end of the log now.

    `numbers` are its partitions, as :meth:`AIOKafkaProducer.partitions_for` tells them: a consumer that reads nothing
    yet may not have heard of them.

    A partition that `positions` doesn't know was added since they were taken: it is read from its beginning.

    Returns:
        The offset that each partition is read from.

    Raises:
        UserError: an offset lies beyond the end of its log: this isn't the log that it was taken from.
    """
    partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
    client.assign(partitions)
    ends = await client.end_offsets(partitions)
    starts = {
        partition: positions.get(partition.partition, 0) if positions else ends[partition] for partition in partitions
    }
    if any(start > ends[partition] for partition, start in starts.items()):
        raise UserError(f"{topic} ends before the place where reading stopped: is this another broker than before?")
    for partition, start in starts.items():
        client.seek(partition, start)
    return {partition.partition: start for partition, start in starts.items()}


async def read_to_end(
    client: AIOKafkaConsumer, partitions: Sequence[TopicPartition], *, since_ms: int | None = None
) -> AsyncIterator[ConsumerRecord]:
    """Every record of these partitions up to their ends as they are now; from a time (milliseconds since 1970) on."""
    client.assign(partitions)
    await client.seek_to_beginning()
    ends = await client.end_offsets(partitions)
    if since_ms is not None:
        for partition, found in (await client.offsets_for_times(dict.fromkeys(partitions, since_ms))).items():
            client.seek(partition, ends[partition] if found is None else found.offset)
    heard = time.monotonic()
    while time.monotonic() - heard < QUIET_S and any([await client.position(each) < ends[each] for each in partitions]):
        for batch in (await client.getmany(timeout_ms=POLL_MS)).values():
            heard = time.monotonic()
            for record in batch:
                yield record


async def delete_topics(bootstrap: str, names: Sequence[str]) -> None:
    """Remove topics that were made for a while; what can't be removed stays."""
    client = AIOKafkaAdminClient(**reach(bootstrap), request_timeout_ms=_REQUEST_MS)
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        try:
            await asyncio.wait_for(client.start(), CONNECT_S)
            await client.delete_topics(list(names))
        finally:
            await asyncio.wait_for(client.close(), CLOSE_S)
