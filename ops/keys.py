"""Keys from the operator's side: commands carried out by the gate, and the gate's table as it stands.

Nothing here needs a web server: a command goes to ``key-commands.v1`` and its answer is awaited on ``key-events.v1``;
keys are read from the changelog of the table that decides about them.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import BaseModel, ValidationError

from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import POLL_MS, consumer, producer, read_from, read_to_end, require_topics
from ops.tables import current
from schemas.keys import KeyCommand, KeyEvent, KeyRecord, Policy, TenantCommand, TenantRecord
from schemas.topics import KEY_COMMANDS, KEY_EVENTS, physical_name
from streams.access.decisions import instant
from streams.codec import decode, encode
from streams.installed import TABLES
from streams.records import Unusable

M = TypeVar("M", bound=BaseModel)

READ_S = 60.0
"""How long reading a whole topic may take."""


async def carry_out(bootstrap: str, namespace: str, command: KeyCommand | TenantCommand, within_s: float) -> KeyEvent:
    """Give a command to the gate and return its answer.

    Raises:
        UserError: no broker, or its topics are missing.
        Unfinished: no answer within ``within_s`` seconds; the command may be carried out later.
    """
    commands, events = (physical_name(topic.name, namespace) for topic in (KEY_COMMANDS, KEY_EVENTS))
    async with consumer(bootstrap) as reader, producer(bootstrap) as writer:
        await require_topics(reader, commands, events)
        await read_from(reader, events, await writer.partitions_for(events), {})
        try:
            async with asyncio.timeout(within_s):
                await writer.send_and_wait(commands, encode(command), key=command.tenant.encode())
                return await _answer(reader, command.command_id)
        except TimeoutError:
            raise Unfinished(
                f"the gate did not answer within {within_s:g} s: is a worker with the role gate running? The command "
                f"may still be carried out; given again with --command-id {command.command_id} it is carried out once"
            ) from None
        except KafkaError as error:
            raise Unfinished(f"the broker refused the command: {error!r}") from None


async def _answer(reader: AIOKafkaConsumer, command_id: str) -> KeyEvent:
    while True:
        for batch in (await reader.getmany(timeout_ms=POLL_MS)).values():
            for record in batch:
                if command_id.encode() in (record.value or b""):
                    return KeyEvent.model_validate_json(record.value)


@dataclass(frozen=True, slots=True)
class Book:
    """What the gate knows: keys by (tenant, key), tenants, and when keys were last used (to ten minutes)."""

    keys: Mapping[tuple[str, str], KeyRecord]
    tenants: Mapping[str, TenantRecord]
    used: Mapping[tuple[str, str], datetime]

    def tenant(self, name: str) -> TenantRecord:
        """The tenant; one that no command named shares nothing."""
        return self.tenants.get(name) or TenantRecord(tenant=name)

    def policy(self, name: tuple[str, str]) -> Policy:
        """The limits of a key, wherever they are written."""
        policy = self.keys[name].policy
        return self.tenant(name[0]).policies[policy] if isinstance(policy, str) else policy


async def read_book(bootstrap: str, namespace: str, tenant: str | None = None) -> Book:
    """Keys and tenants as the gate's table has them; of one tenant, or all.

    Raises:
        UserError: no broker, its topics are missing, or workers of another version wrote what stands there.
        Unfinished: the table could not be read to its end.
    """
    [declared] = [table for table in TABLES if table.name == "keys"]
    rows: dict[bytes, bytes] = {}
    async for change in current(_records(bootstrap, declared.changelog(namespace).name)):
        if tenant is not None and not change.key.startswith(f"{tenant}:".encode()):
            continue
        if change.value is None:
            rows.pop(change.key, None)
        else:
            rows[change.key] = change.value
    return _book(rows)


def _book(rows: Mapping[bytes, bytes]) -> Book:
    keys, tenants, used = {}, {}, {}
    for row_key, row in rows.items():
        tenant, kind, *rest = row_key.decode().split(":")
        name = (tenant, "".join(rest))
        if kind == "key":
            keys[name] = understood(KeyRecord, row)
        elif kind == "tenant":
            tenants[tenant] = understood(TenantRecord, row)
        elif kind == "used":
            used[name] = instant(int(row))
    return Book(keys, tenants, used)


def understood(model: type[M], value: bytes) -> M:
    """A record that workers wrote.

    Raises:
        UserError: it is not what this version writes; workers may be newer than this command.
    """
    try:
        return decode(model, value)
    except Unusable as unusable:
        raise UserError(
            f"a {model.__name__} that workers wrote can't be read ({unusable.detail}): use the mailvet of their version"
        ) from None


@dataclass(frozen=True, slots=True)
class History:
    """``events`` in their order, and how many records of the tenant were ``unread`` since they can't be understood."""

    events: Sequence[KeyEvent]
    unread: int = 0


async def read_history(bootstrap: str, namespace: str, tenant: str, key: str | None = None) -> History:
    """What was commanded of a key, or of a tenant and all its keys: the audit trail.

    Raises:
        UserError: no broker, or its topics are missing.
        Unfinished: the topic could not be read to its end.
    """
    events, unread = {}, 0
    async for record_key, value in read_topic(bootstrap, physical_name(KEY_EVENTS.name, namespace)):
        if record_key == tenant.encode() and value is not None:
            event = _event(value)
            if event is None:
                unread += 1
            elif key in (None, event.key):
                events[event.command_id] = event
    return History(sorted(events.values(), key=lambda event: event.at), unread)


def _event(value: bytes) -> KeyEvent | None:
    try:
        return KeyEvent.model_validate_json(value)
    except ValidationError:
        return None


async def read_topic(bootstrap: str, topic: str) -> AsyncIterator[tuple[bytes, bytes | None]]:
    """Key and value of every record of a topic, up to its end as it was at the start."""
    async for record in _records(bootstrap, topic):
        yield record.key or b"", record.value


async def _records(bootstrap: str, topic: str) -> AsyncIterator[ConsumerRecord]:
    async with consumer(bootstrap) as reader, producer(bootstrap) as writer:
        await require_topics(reader, topic)
        try:
            async with asyncio.timeout(READ_S):
                # A consumer that reads nothing yet may not have heard of the topic's partitions.
                numbers = await writer.partitions_for(topic)
                partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
                async for record in read_to_end(reader, partitions):
                    yield record
        except TimeoutError:
            raise Unfinished(f"{topic} could not be read to its end within {READ_S:.0f} s") from None
        except KafkaError as error:
            raise UserError(f"{topic} can't be read: {error!r}") from None
