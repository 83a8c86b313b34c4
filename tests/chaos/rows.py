"""The changelogs of a gate that has very many keys, without the hours that making them one by one would take.

One tenant's rows are made by the gate itself, from commands, requests and settlements; all others have its rows under
their own names.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiokafka.partitioner import murmur2
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from schemas.keys import Create, Credential, Kind, Policy
from schemas.pipeline import Settlement
from schemas.request import Request, request_uid
from schemas.topics import KEY_COMMANDS, REQUESTS, SETTLEMENTS
from streams.access.credentials import HEADER, digest, mint
from streams.access.keys import ConfiguredKey
from streams.codec import encode
from streams.installed import TABLES, now_ms
from streams.metrics import Metrics
from streams.records import Incoming
from streams.roles.gate import Gate
from streams.roles.keyring import Keyring
from streams.roles.upkeep import row_key
from streams.settings import Settings
from streams.tables import EPOCH

KEYS = 10
"""Keys of a tenant."""

DAILY = 1_000_000
USED = 3
"""Addresses that each key has been charged today."""

Row = tuple[str, bytes, bytes]
"""Table, key, value."""


def tenant(number: int) -> str:
    """Its name; all are equally long."""
    return f"tenant{number:07}"


def token(number: int, key: int = 0) -> str:
    """The bearer key that proves one of its keys."""
    return mint(tenant(number), f"key{key}", b"sixteen bytes at")


@dataclass(frozen=True)
class Written:
    """What stands in the changelogs."""

    rows: int
    bytes: int


def fill(bootstrap: str, settings: Settings, keys: int, partitions: int) -> Written:
    """Write the rows of so many keys, ten to a tenant, into the changelogs of the gate."""
    topics = {table.name: table.changelog(settings.namespace).name for table in TABLES}
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 200_000})
    written = [0, 0]
    template = asyncio.run(_template(settings))
    for number in range(keys // KEYS):
        partition = (murmur2(tenant(number).encode()) & 0x7FFFFFFF) % partitions
        for table, key, value in _renamed(template, number):
            _produce(producer, topics[table], partition, key, value)
            written = [written[0] + 1, written[1] + len(key) + len(value)]
    assert producer.flush(120) == 0
    return Written(*written)


def _produce(producer: Producer, topic: str, partition: int, key: bytes, value: bytes) -> None:
    while True:
        try:
            producer.produce(topic, value, key, partition, headers=[(EPOCH, b"1")])
            return
        except BufferError:
            producer.poll(0.1)


def _renamed(template: list[Row], number: int) -> Iterator[Row]:
    """The first tenant's rows as another's, with the digests of its own bearer keys."""
    old, new = tenant(0).encode(), tenant(number).encode()
    proofs = {digest(token(0, key)).encode(): digest(token(number, key)).encode() for key in range(KEYS)}
    for table, key, value in template:
        renamed = value.replace(old, new)
        for proof in proofs if b'"proof"' in value else ():
            renamed = renamed.replace(proof, proofs[proof])
        yield table, key.replace(old, new), renamed


async def _template(settings: Settings) -> list[Row]:
    """What stands of one tenant as long as its keys do: decisions and usage come and go with its requests."""
    tables: dict[str, dict[bytes, bytes]] = {"keys": {}, "ledger": {}}
    metrics = Metrics(CollectorRegistry())
    keyring = Keyring(metrics, tables["keys"], ConfiguredKey(settings), settings.decisions_kept)
    gate = Gate(settings, metrics, keyring, tables["ledger"], now_ms)
    for key in range(KEYS):
        credential = Credential(kind=Kind.BEARER, proof=digest(token(0, key)))
        policy = Policy(rate_per_s=50, burst=100, daily=DAILY, monthly=20 * DAILY, in_flight=100_000)
        command = Create(
            command_id=f"{key:032x}",
            tenant=tenant(0),
            issued_at=datetime.now(UTC),
            actor="ops",
            key=f"key{key}",
            credential=credential,
            policy=policy,
        )
        await keyring.command(_incoming(KEY_COMMANDS.name, key, tenant(0), encode(command)))
        await _used(gate, key)
    stands = {b"key", b"tenant", b"used", b"account"}
    kept = row_key(tenant(0), "command", f"{KEYS - 1:032x}")
    return [
        (table, key, value)
        for table, rows in tables.items()
        for key, value in rows.items()
        if key.split(b":")[1] in stands or key == kept
    ]


async def _used(gate: Gate, key: int) -> None:
    """A request of the key, settled."""
    addresses = tuple(f"user{number}@example.com" for number in range(USED))
    request = Request(request_id=f"r{key}", addresses=addresses)
    headers = {HEADER: token(0, key).encode()}
    asked = _incoming(REQUESTS.name, key, "", request.model_dump_json(exclude_none=True).encode(), headers=headers)
    [admission] = await gate.intake(asked)
    await gate.admit(_incoming(admission.topic, key, tenant(0), admission.value, headers=dict(admission.headers)))
    settlement = Settlement(
        request_uid=request_uid(tenant(0), request.request_id),
        tenant=tenant(0),
        key_id=f"key{key}",
        charged=USED,
        charged_day=f"{datetime.now(UTC):%Y-%m-%d}",
        given_back=0,
        finished_at=datetime.now(UTC),
    )
    await gate.settle(_incoming(SETTLEMENTS.name, key, tenant(0), encode(settlement)))


def _incoming(topic: str, offset: int, key: str, value: bytes, **more: Any) -> Incoming:
    return Incoming(topic, 0, offset, key.encode(), value, timestamp_ms=now_ms(), broker_time=True, **more)
