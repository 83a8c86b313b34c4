"""Hostile requests on a running pipeline: what strangers and other tenants send, and what their victim sees of it.

One worker with all roles serves every test; DNS is down, so that a request which asks for a domain runs for as long as
a test. After each test the victim is served as ever, and its topic holds what it asked for and nothing else.
"""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import cramjam
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

from ops.brokers.base import Broker
from ops.cli.keyfile import mint
from ops.keys import carry_out
from ops.requests import reading
from ops.requests.status import State
from schemas.client import BearerKey, Headers, SigningKey, read_credential
from schemas.keys import Create, Kind, Outcome, Policy
from schemas.pipeline import DeadLetter
from schemas.request import MAX_REQUEST_BYTES, request_uid
from schemas.topics import DEADLETTERS, REQUESTS, own_results
from streams.delivery.dead_letters import HEADER as WHY
from streams.installed import topics_of
from streams.roles.gate import ORIGIN
from tests.integration.conftest import Installation, terminate, until
from tests.unit.access.commands import give

VICTIM, MALLORY = "victim", "mallory"
NO_DNS = "127.0.0.1:9"
QUOTA = 100_000


@dataclass
class Scene:
    """A worker, two tenants with a topic each, and what the victim has asked for."""

    installed: Installation
    process: subprocess.Popen[str]
    victim: SigningKey
    mallory: SigningKey
    token: str
    """Mallory's bearer key."""
    asked: set[str] = field(default_factory=set)
    charged: int = 0
    placed: dict[str, str] = field(default_factory=dict)
    """Where the record of a name was written: topic/partition/offset."""

    @property
    def topic(self) -> str:
        return REQUESTS.named(self.installed.namespace).name

    def signed(self, key: SigningKey, value: bytes, *, topic: str = "", name: str = "") -> Headers:
        """The headers of a request, signed by the key: for its own topic and id, unless told otherwise."""
        return key.headers(topic or self.topic, name or request_id(value), value)

    async def send(self, *records: tuple[str, Headers, bytes], key: bytes | None = None) -> None:
        """Records by their names, as a stranger writes them."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.installed.broker.bootstrap, max_request_size=2**25
        ) as producer:
            for name, headers, value in records:
                self.place(name, await producer.send_and_wait(self.topic, value, key=key, headers=headers))

    def place(self, name: str, written: Any) -> None:
        """Remember where a record is."""
        self.placed[name] = f"{REQUESTS.name}/{written.partition}/{written.offset}"

    async def dead(self, *names: str) -> dict[str, DeadLetter]:
        """The dead letters of these records, once they are there."""
        deadline = time.monotonic() + 40
        found: dict[str, DeadLetter] = {}
        while missing := set(names) - found.keys():
            assert time.monotonic() < deadline, f"no dead letter: {missing}"
            origins = {self.placed[name]: name for name in missing}
            for record in await self.installed.read(DEADLETTERS):
                headers = dict(record.headers)
                about = DeadLetter.model_validate_json(headers[WHY])
                origin = headers.get(ORIGIN, f"{about.topic}/{about.partition}/{about.offset}".encode()).decode()
                if origin in origins:
                    found[origins[origin]] = about
        return found

    async def told(self, tenant: str) -> list[dict[str, Any]]:
        """All that stands on a tenant's topic."""
        return [orjson.loads(record.value) for record in await self.installed.read(own_results(tenant))]

    async def answer(self, tenant: str, name: str, kind: str = "summary") -> dict[str, Any]:
        """What is said of a request, once it is said."""
        found: list[dict[str, Any]] = []

        async def is_there() -> bool:
            found[:] = [
                said for said in await self.told(tenant) if said.get("request_id") == name and said["kind"] == kind
            ]
            return bool(found)

        await until(is_there, within=40)
        return found[-1]

    async def victim_asks(self, name: str, value: bytes | None = None) -> tuple[Headers, bytes]:
        """A request of the victim's, and the record that it wrote."""
        value = value or body(name)
        headers = self.signed(self.victim, value)
        self.asked.add(request_uid(VICTIM, name))
        await self.send((name, headers, value))
        return headers, value


def body(name: str, *addresses: str, **fields: Any) -> bytes:
    """A request that is answered without asking anybody, unless it names addresses."""
    return orjson.dumps({"request_id": name, "addresses": addresses or ("no address",), "depth": "syntax", **fields})


def request_id(value: bytes) -> str:
    return str(orjson.loads(value)["request_id"])


@pytest.fixture(scope="module")
def scene(broker: Broker) -> Iterator[Scene]:
    """The worker, started once."""
    installed = Installation(broker, extra={"tenant_topics": f"{VICTIM},{MALLORY}"})
    asyncio.run(installed.create_named(topics_of(installed.settings)))
    command = ("-m", "ops.cli.main", "worker", "all", "--metrics-port", "0")
    process = installed.spawn(*command, MAILVET_RESOLVERS=NO_DNS, MAILVET_DNS_TIMEOUT_S="1")
    assert process.stdout is not None
    assert process.stdout.readline(), process.communicate(timeout=30)[1]
    try:
        made = [
            asyncio.run(new_key(installed, VICTIM, Kind.SIGNATURE)),
            asyncio.run(new_key(installed, MALLORY, Kind.SIGNATURE)),
        ]
        bearer = asyncio.run(new_key(installed, MALLORY, Kind.BEARER, "k2"))
        assert isinstance(made[0], SigningKey)
        assert isinstance(made[1], SigningKey)
        assert isinstance(bearer, BearerKey)
        yield Scene(installed, process, made[0], made[1], bearer.token)
        code, said = terminate(process)
        assert (code, "Traceback" in said) == (0, False), said
    finally:
        installed.close()


async def new_key(installed: Installation, tenant: str, kind: Kind, key: str = "k1") -> BearerKey | SigningKey:
    minted = mint(kind, tenant, key)
    command = give(
        Create, at=datetime.now(UTC), tenant=tenant, key=key, credential=minted.credential, policy=Policy(daily=QUOTA)
    )
    event = await carry_out(installed.broker.bootstrap, installed.namespace, command, 30)
    assert event.outcome is Outcome.APPLIED, event.message
    return read_credential(minted.secret or "", f"{tenant}_{key}")


@pytest.fixture(autouse=True)
async def unharmed(scene: Scene, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """After each test: the worker lives, the victim is served, and nobody else put anything on its topic."""
    yield
    assert scene.process.poll() is None, "a worker died"
    name = f"after {request.node.name}"[:100]
    await scene.victim_asks(name)
    summary = await scene.answer(VICTIM, name)
    scene.charged += 1
    assert summary["quota"]["remaining"] == QUOTA - scene.charged, "somebody else's work was charged"
    assert {said["request_uid"] for said in await scene.told(VICTIM)} <= scene.asked


# -- who am I ---------------------------------------------------------------------------------------------------------

FORGED_IDS = (
    b"victim_k1", b"victim_unknown", b"nobody_k1", b"victim", b"victim_", b"_k1", b"_", b"", b"victim_k1_k1",
    b"VICTIM_k1", b"victim_k1\x00", b"victim_k1\r\nmailvet-key-id: mallory_k1", b"victim:k1", b"victim:key:k1_x",
    b"../victim_k1", "v\u0456ctim_k1".encode(), b"\xff\xfe_k1", b"victim_" + b"k" * 65, b"v" * 10_000 + b"_k1",
)  # fmt: skip


async def test_forged_key_ids(scene: Scene) -> None:
    """Signed by mallory, whoever the header says it is; and bearer keys with a name or a secret that is not theirs."""
    records = []
    for number, key_id in enumerate(FORGED_IDS):
        value = body(f"forged-{number}")
        # What the text can't be, nobody can sign; such a signature is over the nearest thing.
        forger = SigningKey(key_id.decode("ascii", "replace"), scene.mallory.private)
        _, at, signature = scene.signed(forger, value)
        records.append((f"forged-{number}", [("mailvet-key-id", key_id), at, signature], value))
    stolen = mint(Kind.BEARER, VICTIM, "k1").secret or ""
    tokens = {
        "its name, another secret": stolen,
        "its name in a key of mallory's": scene.token.replace(f"mv_{MALLORY}", f"mv_{VICTIM}"),
        "cut off": scene.token[:-1],
        "none": "",
    }
    records += [(name, [("mailvet-key", token.strip().encode())], body(name)) for name, token in tokens.items()]
    await scene.send(*records, key=VICTIM.encode())
    letters = await scene.dead(*(name for name, _, _ in records))
    assert {letter.reason for letter in letters.values()} == {"not_authenticated"}
    assert not any("victim" in letter.detail for letter in letters.values()), "nothing is quoted"


async def test_signatures_over_other_values(scene: Scene) -> None:
    """The victim's own signature, taken from a record of its own, on anything else; and none that is one."""
    headers, value = await scene.victim_asks("signed")
    scene.charged += 1
    key_id, at, signature = headers
    elsewhere = SigningKey(scene.victim.key_id, scene.victim.private, audience="another installation")
    later = ("mailvet-signed-at", str(int(at[1]) + 1).encode())
    records = [
        ("a space more", headers, value + b" "),
        ("another id", headers, body("signed-2")),
        ("more addresses", headers, body("signed", "a@example.com", "b@example.com")),
        ("a cancel", headers, b'{"request_id":"signed","cancel":true}'),
        ("another time", [key_id, later, signature], value),
        ("another key", [("mailvet-key-id", b"mallory_k1"), at, signature], value),
        ("for another installation", scene.signed(elsewhere, value), value),
        ("for another topic", scene.signed(scene.victim, value, topic="mailvet.requests.v1.other"), value),
        ("for another request", scene.signed(scene.victim, value, name="signed-2"), value),
        ("over nothing", scene.signed(scene.victim, b"", name="signed"), value),
        ("cut off", [key_id, at, (signature[0], signature[1][:-4])], value),
        ("of zeros", [key_id, at, (signature[0], b"A" * 86 + b"==")], value),
        ("in raw bytes", [key_id, at, (signature[0], b"\x00" * 64)], value),
    ]
    await scene.send(*records)
    letters = await scene.dead(*(name for name, _, _ in records))
    assert {letter.reason for letter in letters.values()} == {"not_authenticated"}
    await scene.answer(VICTIM, "signed")


DUPLICATES = ("mailvet-key-id", "mailvet-signed-at", "mailvet-signature")


async def test_header_duplicates(scene: Scene) -> None:
    """A header that stands twice is no credential, in whatever order and case, whatever the copies say."""
    value = body("twice")
    victims, own = scene.signed(scene.victim, value), scene.signed(scene.mallory, value)
    bearer = ("mailvet-key", scene.token.encode())
    records = []
    for number, name in enumerate(DUPLICATES):
        records += [
            (f"{name} twice", [*own, own[number]], value),
            (f"{name} of two", [victims[number], *own], value),
            (f"{name} of two, behind", [*own, victims[number]], value),
            (f"{name} in capitals", [*own, (name.upper(), victims[number][1])], value),
        ]
    records += [
        ("bearer twice", [bearer, bearer], value),
        ("bearer in capitals", [bearer, ("MAILVET-KEY", bearer[1])], value),
        ("both kinds", [bearer, *own], value),
        ("both kinds, one of the victim's", [bearer, *victims], value),
    ]
    await scene.send(*records)
    letters = await scene.dead(*(name for name, _, _ in records))
    assert {letter.reason for letter in letters.values()} == {"not_authenticated"}


async def test_headers_that_only_we_write_make_nobody_else_of_a_tenant(scene: Scene) -> None:
    """What intake hands on to admission, forged in front of a credential of one's own: it counts for mallory."""
    value = body("inner", "nor this")
    forged = [
        ("mailvet-key-sha256", b"0" * 64),
        ("mailvet-now-ms", b"0"),
        ("mailvet-arrived-ms", b"0"),
        ("mailvet-origin", b"mailvet.requests.v1/0/0"),
        ("mailvet-tenant", VICTIM.encode()),
        ("mailvet-kind", b"result"),
    ]
    await scene.send(("inner", [*forged, *scene.signed(scene.mallory, value)], value), key=VICTIM.encode())
    summary = await scene.answer(MALLORY, "inner")
    assert (summary["key_id"], summary["total"]) == ("k1", 1)


# -- when is it -------------------------------------------------------------------------------------------------------


async def test_clocks_ten_minutes_off(scene: Scene) -> None:
    value = body("clock")
    off = {
        "slow": SigningKey(scene.victim.key_id, scene.victim.private, clock=lambda: time.time() - 600),
        "fast": SigningKey(scene.victim.key_id, scene.victim.private, clock=lambda: time.time() + 600),
    }
    await scene.send(*((name, scene.signed(key, value), value) for name, key in off.items()))
    letters = await scene.dead(*off)
    assert {letter.reason for letter in letters.values()} == {"not_authenticated"}
    assert "before it arrived" in letters["slow"].detail
    assert "after it arrived" in letters["fast"].detail
    assert all("is the client's clock right?" in letter.detail for letter in letters.values())


async def test_replays_in_the_window_and_out_of_it(scene: Scene) -> None:
    """In the window it is the same request, charged and answered once; out of it, nobody's."""
    signed_at = time.time() - 290
    old = SigningKey(scene.victim.key_id, scene.victim.private, clock=lambda: signed_at)
    value = body("replayed")
    scene.asked.add(request_uid(VICTIM, "replayed"))
    headers = scene.signed(old, value)
    await scene.send(("replayed", headers, value))
    scene.charged += 1
    first = await scene.answer(VICTIM, "replayed")
    fresh, fresh_value = await scene.victim_asks("replayed-2")
    scene.charged += 1
    await scene.answer(VICTIM, "replayed-2")
    for key in (None, b"mallory", b"victim"):
        await scene.send(*(("in the window", fresh, fresh_value) for _ in range(5)), key=key)
    await asyncio.sleep(max(0.0, signed_at + 301 - time.time()))
    await scene.send(("out of the window", headers, value))
    letters = await scene.dead("out of the window")
    assert letters["out of the window"].reason == "not_authenticated"
    said = [each for each in await scene.told(VICTIM) if each["request_id"] in {"replayed", "replayed-2"}]
    assert len(said) == 4, "a result and a summary of each"
    assert first in said


# -- how much ---------------------------------------------------------------------------------------------------------


async def test_a_billion_addresses(scene: Scene) -> None:
    """One too many, as many as a record holds, and a billion, which a batch of 200 KB unpacks to."""
    many = body("many", *(["a@b.example"] * 1001))
    largest = b'{"request_id":"largest","addresses":[' + b'"a@b",' * 2_500_000 + b'"a@b"]}'
    assert MAX_REQUEST_BYTES < len(largest) < 2**24
    await scene.send(
        ("many", scene.signed(scene.mallory, many), many),
        ("largest", scene.signed(scene.mallory, largest, name="largest"), largest),
    )
    packed = await asyncio.to_thread(billion)
    async with AIOKafkaProducer(bootstrap_servers=scene.installed.broker.bootstrap) as producer:
        scene.place("billion", await (await producer.send_batch(Packed(packed), scene.topic, partition=0)))
    letters = await scene.dead("many", "largest", "billion")
    reasons = {name: letter.reason for name, letter in letters.items()}
    assert reasons == {"many": "invalid", "largest": "too_large", "billion": "too_large"}
    assert letters["billion"].size == len(packed)


def varint(number: int) -> bytes:
    """As Kafka writes it: zigzag, seven bits a byte."""
    number <<= 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def billion() -> bytes:
    """A batch of one record, as Kafka's protocol has it (record batch, magic 2), whose value has 1e9 addresses."""
    head, piece, count = b'{"request_id":"billion","addresses":[', b"0," * 500_000, 2000
    value_size = len(head) + len(piece) * count + len(b"0]}")
    fields = b"\x00" + varint(0) + varint(0) + b"\x01" + varint(value_size) + head
    size = len(fields) + len(piece) * count + len(b"0]}") + 1
    squeezer = cramjam.zstd.Compressor(level=1)
    squeezer.compress(varint(size) + fields)
    for _ in range(count):
        squeezer.compress(piece)
    squeezer.compress(b"0]}" + varint(0))
    packed = bytes(squeezer.finish())
    now = time.time_ns() // 1_000_000
    zstd = 4
    rest = (
        zstd.to_bytes(2, "big") + (0).to_bytes(4, "big") + now.to_bytes(8, "big") * 2
        + b"\xff" * 8 + b"\xff" * 2 + b"\xff" * 4 + (1).to_bytes(4, "big") + packed
    )  # fmt: skip
    body_ = b"\x00" * 4 + b"\x02" + calc_crc32c(rest).to_bytes(4, "big") + rest
    return b"\x00" * 8 + len(body_).to_bytes(4, "big") + body_


class Packed(BatchBuilder):  # type: ignore[misc]
    """A batch that is packed already."""

    def __init__(self, packed: bytes) -> None:
        super().__init__(2**25, 0)
        self.append(timestamp=None, key=None, value=b"")
        self.close()
        self._buffer = bytearray(packed)

    def _build(self) -> bytearray:
        return self._buffer


# -- whose is it ------------------------------------------------------------------------------------------------------


async def test_another_tenants_request_ids(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, cancelled, repeated and looked for by mallory, while the victim's request of this id runs."""
    await scene.victim_asks("shared", body("shared", "ann@example.com", "bob@example.com", depth="smtp"))
    scene.charged += 2
    await until(lambda: runs(scene, VICTIM))

    cancel = b'{"request_id":"shared","cancel":true}'
    await scene.send(("cancel", scene.signed(scene.mallory, cancel), cancel))
    answer = await scene.answer(MALLORY, "shared", "cancellation")
    assert answer["outcome"] == "unknown_request"
    assert answer["request_uid"] == request_uid(MALLORY, "shared")

    claimed = SigningKey(scene.victim.key_id, scene.mallory.private)
    tenant = orjson.dumps({"request_id": "shared", "cancel": True, "tenant": VICTIM})
    uid = orjson.dumps({"request_id": request_uid(VICTIM, "shared"), "cancel": True})
    await scene.send(
        ("as the victim", scene.signed(claimed, cancel), cancel),
        ("tenant said", scene.signed(scene.mallory, tenant), tenant),
        ("by its uid", scene.signed(scene.mallory, uid), uid),
        key=VICTIM.encode(),
    )
    letters = await scene.dead("as the victim", "tenant said")
    assert {name: each.reason for name, each in letters.items()} == {
        "as the victim": "not_authenticated",
        "tenant said": "invalid",
    }
    answer = await scene.answer(MALLORY, request_uid(VICTIM, "shared"), "cancellation")
    assert answer["outcome"] == "unknown_request"

    own = body("shared", "not the same")
    await scene.send(("own", scene.signed(scene.mallory, own), own))
    summary = await scene.answer(MALLORY, "shared")
    assert (summary["request_uid"], summary["total"]) == (request_uid(MALLORY, "shared"), 1)
    await scene.send(("own, cancelled", scene.signed(scene.mallory, cancel), cancel))

    # A tenant sees no tables: what it finds of an id is what its own topic says.
    with monkeypatch.context() as patch:
        patch.setattr(reading._Place, "has_tables", False)
        assert (await look(scene, MALLORY, "shared")).total == 1
        assert (await look(scene, MALLORY, "replayed")).state is State.UNKNOWN
    assert await runs(scene, VICTIM), "whatever mallory did"
    await scene.send(("end", scene.signed(scene.victim, cancel), cancel))
    summary = await scene.answer(VICTIM, "shared")
    assert summary["reasons"] == {"cancelled": 2}
    scene.charged -= 2  # Given back.


async def look(scene: Scene, tenant: str, name: str) -> Any:
    where = (scene.installed.broker.bootstrap, scene.installed.namespace)
    return await reading.find(*where, tenant, name, delays_s=(300.0, 900.0, 3600.0), within_s=30)


async def runs(scene: Scene, tenant: str) -> bool:
    return (await look(scene, tenant, "shared")).state is State.RUNNING
