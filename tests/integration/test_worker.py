"""`mailvet worker` as an operator meets it: its one line, its health, its stop, and why it does not start."""

import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cramjam
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from prometheus_client import CollectorRegistry

from ops.brokers.base import Broker, free_port
from ops.brokers.embedded import Embedded
from ops.health import serve
from schemas.pipeline import DeadLetter
from schemas.topics import ATTEMPTS, DAY_MS, DEADLETTERS, REQUESTS, RESULTS
from streams.access.credentials import HEADER as KEY_HEADER
from streams.access.credentials import mint
from streams.delivery.dead_letters import HEADER
from streams.installed import ROLES, topics_of
from streams.wire import UNREADABLE
from tests.integration.conftest import Installation, terminate, until

KEY = mint("acme", "k1", b"0123456789abcdef")
MAILVET = ("-m", "ops.cli.main")


@pytest.fixture
async def installed(installation: Installation) -> Installation:
    """An installation with its topics."""
    await installation.create_named(topics_of(installation.settings))
    return installation


def worker(installation: Installation, *arguments: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """Start a worker; its one line."""
    process = installation.spawn(
        *MAILVET, "worker", "--metrics-port", "0", *arguments, MAILVET_DEV_KEY=KEY, **environment
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate(timeout=30)[1]
    return process, line


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  our own worker on loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def ask(
    installation: Installation, *addresses: str, request_id: str = "r1", compression: str | None = None
) -> None:
    request = {"schema_version": 1, "request_id": request_id, "addresses": addresses}
    async with AIOKafkaProducer(
        bootstrap_servers=installation.broker.bootstrap, compression_type=compression
    ) as producer:
        name = REQUESTS.named(installation.namespace).name
        await producer.send_and_wait(name, json.dumps(request).encode(), headers=[(KEY_HEADER, KEY.encode())])


@pytest.mark.parametrize("roles", [("all",), ROLES])
async def test_it_says_that_it_is_ready_serves_and_ends_well(installed: Installation, roles: tuple[str, ...]) -> None:
    """All of them in one process, then a process each, side by side."""
    await asyncio.gather(*(_serves_and_ends(installed, role) for role in roles))


async def _serves_and_ends(installed: Installation, role: str) -> None:
    arguments = ["all"] if role == "all" else ["--role", role]
    process, line = await asyncio.to_thread(worker, installed, *arguments)
    assert line.startswith(f"ready: role {role}, broker {installed.broker.bootstrap}, metrics http://127.0.0.1:")
    address = line.split()[-1].removesuffix("/metrics")
    assert await asyncio.to_thread(get, f"{address}/health/live") == (200, "live\n")
    assert await asyncio.to_thread(get, f"{address}/health/ready") == (200, "ready\n")
    assert "mailvet_dead_letters_total" in (await asyncio.to_thread(get, f"{address}/metrics"))[1]
    assert await asyncio.to_thread(terminate, process) == (0, "")


async def test_a_request_is_answered_however_it_was_compressed(installed: Installation) -> None:
    process, _ = await asyncio.to_thread(worker, installed, "all")
    ways = (None, "gzip", "lz4", "zstd", "snappy")
    for way in ways:
        address = "mailbox-full@sandbox.mailvet.test"
        await ask(installed, address, request_id=f"packed by {way}", compression=way)
    await until(lambda: _results(installed, 2 * len(ways)))
    said: dict[str, list[Any]] = {}
    for record in await installed.read(RESULTS):
        output = json.loads(record.value)
        said.setdefault(output["request_id"], []).append(output)
    assert said.keys() == {f"packed by {way}" for way in ways}
    for result, summary in said.values():
        assert (result["verdict"], result["reason"], summary["kind"]) == ("risky", "mailbox_full", "summary")
    assert (await asyncio.to_thread(terminate, process))[0] == 0


async def test_a_header_name_that_is_not_utf_8_ends_no_worker(installed: Installation) -> None:
    process, _ = await asyncio.to_thread(worker, installed, "--role", "gate")
    name = REQUESTS.named(installed.namespace).name
    async with AIOKafkaProducer(bootstrap_servers=installed.broker.bootstrap) as producer:
        await producer.partitions_for(name)
        await (await producer.send_batch(_with_broken_name(producer), name, partition=0))
        await producer.send_and_wait(name, b"after it", partition=0)
    await until(lambda: _dead(installed, 3))
    letters = {record.value: dict(record.headers) for record in await installed.read(DEADLETTERS)}
    assert letters.keys() == {b"before", b"poison", b"after it"}
    assert DeadLetter.model_validate_json(letters[b"poison"][HEADER]).offset == 1
    assert letters[b"poison"]["hdr\\xff\\xfe"] == b"v"
    assert await asyncio.to_thread(terminate, process) == (0, "")


@pytest.mark.parametrize("made", ["gigabytes", "headers"])
async def test_a_batch_that_unpacks_to_far_too_much_ends_no_worker(installed: Installation, made: str) -> None:
    process, _ = await asyncio.to_thread(worker, installed, "--role", "gate")
    name = REQUESTS.named(installed.namespace).name
    bomb = _bomb(1024**3) if made == "gigabytes" else _bomb(0, headers=7 * 1024**2)
    assert len(bomb) < 4 * 1024**2
    async with AIOKafkaProducer(bootstrap_servers=installed.broker.bootstrap) as producer:
        await producer.partitions_for(name)
        await (await producer.send_batch(_raw(producer, bomb), name, partition=0))
        await producer.send_and_wait(name, b"after it", partition=0)
    await until(lambda: _dead(installed, 2))
    letters = {record.value[61:70]: dict(record.headers) for record in await installed.read(DEADLETTERS)}
    [about] = [DeadLetter.model_validate_json(each[HEADER]) for each in letters.values() if UNREADABLE in each]
    assert (about.reason, about.offset, about.size) == ("too_large", 0, len(bomb))
    assert _peak_mib(process) < 512
    assert await asyncio.to_thread(terminate, process) == (0, "")


def _peak_mib(process: "subprocess.Popen[str]") -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    [kib] = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return kib / 1024


def _bomb(size: int, headers: int = 0) -> bytes:
    """A batch of one record of so many zeros and nameless headers, packed by zstd in pieces, as a stranger can."""
    piece = bytes(16 * 1024**2)
    body = b"\x00\x00\x00\x01" + _varint(size)  # attributes, time and offset deltas, no key, the value's length
    tail = _varint(headers) + b"\x00\x00" * headers
    packer = cramjam.zstd.Compressor(level=1)
    packer.compress(_varint(len(body) + size + len(tail)) + body)
    for _ in range(size // len(piece)):
        packer.compress(piece)
    packer.compress(tail)
    packed = bytes(packer.finish())
    now = round(time.time() * 1000)
    head = struct.pack(">hiqqqhii", 4, 0, now, now, -1, -1, -1, 1)
    checked = head + packed
    return struct.pack(">qiibI", 0, len(checked) + 9, -1, 2, calc_crc32c(checked)) + checked


def _varint(number: int) -> bytes:
    """Zigzag, as Kafka's protocol has it."""
    number, out = number << 1, bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _raw(producer: AIOKafkaProducer, raw: bytes) -> Any:
    """These bytes in the place of a batch that aiokafka would build."""
    batch = producer.create_batch()
    batch.append(key=None, value=b"x", timestamp=None)
    batch.close()
    batch._build()
    batch._buffer = raw
    return batch


def _with_broken_name(producer: AIOKafkaProducer) -> object:
    """A batch of two records as another client could write it: aiokafka's own, with two bytes of a name replaced."""
    batch = producer.create_batch()
    batch.append(key=b"k", value=b"before", timestamp=None)
    batch.append(key=b"k", value=b"poison", timestamp=None, headers=[("hdrXX", b"v")])
    batch.close()
    batch._build()
    raw = bytearray(batch._buffer)
    place = raw.index(b"hdrXX") + 3
    raw[place : place + 2] = b"\xff\xfe"
    raw[17:21] = struct.pack(">I", calc_crc32c(bytes(raw[21:])))
    batch._buffer = bytes(raw)
    return batch


async def test_missing_topics_are_one_line_and_exit_code_2(installation: Installation) -> None:
    status, said = await _fails(installation)
    assert status == 2
    assert said.startswith("mailvet: topics are missing on the broker (")
    assert said.endswith("): run `mailvet topics apply`\n")


async def test_topics_that_keep_records_longer_than_decisions_are_one_line_and_exit_code_2(
    installed: Installation,
) -> None:
    await installed.alter(ATTEMPTS, {**ATTEMPTS.config, "segment.ms": str(7 * DAY_MS)})
    status, said = await _fails(installed)
    assert status == 2
    assert f"{ATTEMPTS.named(installed.namespace).name} keeps records for 10.0 days" in said
    assert "run `mailvet topics apply`" in said
    assert said.count("\n") == 1


async def test_no_broker_is_one_line_and_exit_code_2(installation: Installation) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    status, said = await _fails(installation, KAFKA_BOOTSTRAP_SERVERS=nowhere, MAILVET_BROKER_WAIT_S="1")
    assert (status, said) == (2, f"mailvet: no Kafka broker answers at {nowhere}; set KAFKA_BOOTSTRAP_SERVERS\n")


async def test_a_port_that_is_taken_is_one_line_and_exit_code_2(installed: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, said = await _fails(installed, "--metrics-port", port)
    assert status == 2
    assert said.startswith(f"mailvet: metrics can't be served at 127.0.0.1:{port} (")
    assert said.endswith("): choose another --metrics-port\n")
    assert said.count("\n") == 1


async def test_health_tells_what_is_not_well() -> None:
    well = {"live": True, "ready": False}
    registry = CollectorRegistry()
    async with serve("127.0.0.1", 0, registry=registry, live=lambda: well["live"], ready=lambda: well["ready"]) as url:
        assert await asyncio.to_thread(get, f"{url}/health/live") == (200, "live\n")
        assert await asyncio.to_thread(get, f"{url}/health/ready") == (503, "not ready\n")
        well["live"] = False
        assert await asyncio.to_thread(get, f"{url}/health/live") == (503, "dead\n")


@pytest.mark.parametrize("arguments", [[], ["all", "--role", "gate"]])
async def test_what_to_run_must_be_said(installation: Installation, arguments: list[str]) -> None:
    process = installation.spawn(*MAILVET, "worker", *arguments)
    _, said = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 2
    assert said.startswith("mailvet: say what to run")


async def test_a_key_that_is_none_is_one_line_without_the_key(installed: Installation) -> None:
    status, said = await _fails(installed, MAILVET_DEV_KEY="mv_acme_k1_secretsecretsecret_wrong")
    assert status == 2
    assert said.startswith("mailvet: MAILVET_DEV_KEY: ")
    assert "secretsecret" not in said


async def _fails(installation: Installation, *arguments: str, **environment: str) -> tuple[int, str]:
    process = installation.spawn(*MAILVET, "worker", "all", *arguments, **environment)
    _, said = await asyncio.to_thread(process.communicate, timeout=60)
    return process.returncode, said


async def _says(address: str, text: str) -> bool:
    return text in (await asyncio.to_thread(get, address))[1]


async def _results(installation: Installation, count: int) -> bool:
    return len(await installation.read(RESULTS)) >= count


async def _dead(installation: Installation, count: int) -> bool:
    return len(await installation.read(DEADLETTERS)) >= count


@pytest.fixture(scope="module")
def embedded() -> Iterator[Broker]:
    """The demo's broker."""
    running = Embedded()
    yield running
    running.stop()


async def test_the_embedded_broker_serves_the_pipeline_too(embedded: Broker) -> None:
    installation = Installation(embedded)
    try:
        await installation.create_named(topics_of(installation.settings))
        environment = {"MAILVET_IDEMPOTENT_PRODUCER": "false", "MAILVET_FETCH_WAIT_MS": "25"}
        process, line = await asyncio.to_thread(worker, installation, "all", **environment)
        await ask(installation, "mailbox-full@sandbox.mailvet.test")
        # Its end offsets are wrong, so what came out is seen in the worker's metrics.
        published = 'mailvet_records_out_total{role="completion",topic="mailvet.results.v1"} 2.0'
        await until(lambda: _says(line.split()[-1], published))
        assert (await asyncio.to_thread(terminate, process))[0] == 0
    finally:
        installation.close()


def test_a_process_whose_event_loop_hangs_ends_and_says_where() -> None:
    script = """
import asyncio, time
from streams.progress import Heartbeat

async def main():
    async with Heartbeat(1.0, 5.0):
        await asyncio.sleep(2.5)  # longer than is allowed for one beat
        time.sleep(30)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "Timeout (0:00:01)!" in done.stderr
    assert "in main" in done.stderr


def test_a_process_whose_stop_hangs_ends_too() -> None:
    script = """
import asyncio, threading
from streams.progress import Heartbeat

async def main():
    async with Heartbeat(60.0, 1.0):
        threading.Thread(target=threading.Event().wait).start()  # as a client's, which the interpreter waits for

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "Timeout (0:00:01)!" in done.stderr
