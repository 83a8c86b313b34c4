"""What letting a request in costs: signatures, intake and admission alone, and all of it in a worker on a broker."""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from aiokafka import AIOKafkaProducer
from prometheus_client import CollectorRegistry

from ops import keys
from ops.bench.contest import ContestError
from ops.bench.holders import KEY, create, holder
from ops.cli.kafka import delete_topics, reach
from ops.cli.keyfile import Minted, mint
from ops.topics import create_all, declared
from schemas import signing
from schemas.client import Presenter
from schemas.keys import Kind, Policy
from schemas.request import Request
from schemas.topics import KEY_COMMANDS, REQUESTS, physical_name
from streams.access.keys import ConfiguredKey
from streams.codec import encode
from streams.metrics import Metrics
from streams.records import Incoming
from streams.roles.gate import Gate
from streams.roles.keyring import Keyring
from streams.settings import Settings

TENANT = "bench"
KEY_WORD = {Kind.SIGNATURE: "", Kind.BEARER: " key"}
SIZES = (1, 100, 1000)
ROUND = 200

READY_S = 60.0
DRAIN_S = 300.0
_UNLIMITED = Policy()


@dataclass(frozen=True, slots=True)
class Cost:
    """What one thing costs, in microseconds of one core: the median round of many."""

    what: str
    us: float


def costs(seconds: float) -> Iterator[Cost]:
    """Each part alone, in this process, each measured for about ``seconds``."""
    minted = {kind: mint(kind, TENANT, KEY) for kind in Kind}
    signer = minted[Kind.SIGNATURE].presenter()
    topic = REQUESTS.name
    value = request_bytes("r", 100)
    headers = dict(signer.headers(topic, "r", value))
    claim = signing.read(headers)
    public = bytes.fromhex(minted[Kind.SIGNATURE].credential.proof)

    def check(_: Incoming) -> None:
        message = signing.message(
            audience=signing.DEFAULT_AUDIENCE,
            topic=topic,
            key_id=claim.key_id,
            signed_at_ms=claim.signed_at_ms,
            request_id="r",
            value=value,
        )
        assert signing.verify(public, claim.signature, message)  # noqa: S101  else it was not what is measured

    yield Cost(
        "a client signs a request of 100 addresses", _median(lambda _: signer.headers(topic, "r", value), seconds)
    )
    yield Cost("a signature is checked", _median(check, seconds))
    for kind, each in minted.items():
        for size in SIZES:
            yield Cost(
                f"a request of {size:,} is let in by its {kind.value}{KEY_WORD[kind]}", _admission(each, size, seconds)
            )


def _admission(minted: Minted, size: int, seconds: float) -> float:
    """Intake and admission of requests of so many addresses, tables in memory."""
    gate, keyring = _gate()
    command = encode(create(minted, TENANT, _UNLIMITED))
    _run(keyring.command(Incoming(KEY_COMMANDS.name, 0, 0, TENANT.encode(), command, timestamp_ms=_now_ms())))
    presenter = minted.presenter(Settings().audience)

    def made(number: int) -> Incoming:
        request_id = f"r{number}"
        value = request_bytes(request_id, size)
        return Incoming(
            REQUESTS.name, 0, number, None, value, dict(presenter.headers(REQUESTS.name, request_id, value))
        )

    def let_in(record: Incoming) -> None:
        [out] = _run(gate.intake(record))
        [admitted] = _run(gate.admit(Incoming(out.topic, 0, record.offset, out.key, out.value, dict(out.headers))))
        assert "admitted" in admitted.topic  # noqa: S101  else it was not what is measured

    return _median(let_in, seconds, made)


def _gate() -> tuple[Gate, Keyring]:
    settings, metrics = Settings(), Metrics(CollectorRegistry())
    keyring = Keyring(metrics, {}, ConfiguredKey(settings), timedelta(days=4))
    return Gate(settings, metrics, keyring, {}, _now_ms), keyring


def _median(work: Callable[[Incoming], object], seconds: float, make: Callable[[int], Incoming] | None = None) -> float:
    """Microseconds a call: the median of rounds; what the calls are given is made beforehand."""
    nothing = Incoming("", 0, 0, None, b"")
    rounds: list[float] = []
    spent = 0.0
    while spent < seconds or len(rounds) < 3:
        first = len(rounds) * ROUND
        given = [make(first + number) if make else nothing for number in range(ROUND)]
        begun = time.process_time()
        for each in given:
            work(each)
        took = time.process_time() - begun
        spent += took
        rounds.append(took / ROUND)
    return sorted(rounds)[len(rounds) // 2] * 1e6


def _run(coroutine: object) -> Sequence:  # type: ignore[type-arg]
    """The result of a coroutine that waits for nobody, without a loop."""
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("a handler of the gate waited")


# -- on a broker ------------------------------------------------------------------------------------------------------


async def worker_cost(bootstrap: str, requests: int, kind: Kind, size: int = 100) -> Cost:
    """CPU of a whole gate worker on a broker for each request: Kafka, Faust, intake, admission, changelogs.

    Its topics are made for it and removed. Raises :class:`ContestError` where the worker does not do it.
    """
    settings = Settings(bootstrap_servers=bootstrap, namespace=f"bench-{secrets.token_hex(4)}")
    topics = declared(settings)
    await create_all(bootstrap, settings)
    try:
        async with _worker(settings) as pid:
            presenter = await holder(settings, TENANT, kind, _UNLIMITED, READY_S)
            before = _cpu_s(pid)
            await _send(settings, presenter, requests, size)
            await _until_answered(settings, requests)
            return Cost(
                f"a request of {size:,} in a worker, by its {kind.value}{KEY_WORD[kind]}",
                (_cpu_s(pid) - before) / requests * 1e6,
            )
    finally:
        await delete_topics(bootstrap, [topic.name for topic in topics])


@asynccontextmanager
async def _worker(settings: Settings) -> AsyncIterator[int]:
    environment = {**os.environ, "MAILVET_NAMESPACE": settings.namespace}
    command = (sys.executable, "-m", "ops.cli.main", "worker", "--role", "gate", "--metrics-port", "0")
    process = await asyncio.create_subprocess_exec(
        *command, "--bootstrap", settings.bootstrap_servers, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        if not await asyncio.wait_for(process.stdout.readline(), READY_S):
            raise ContestError("the worker did not start")
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _send(settings: Settings, presenter: Presenter, requests: int, size: int) -> None:
    topic = physical_name(REQUESTS.name, settings.namespace)
    async with AIOKafkaProducer(**reach(settings.bootstrap_servers), linger_ms=5) as producer:
        for number in range(requests):
            request_id = f"r{number}"
            value = request_bytes(request_id, size)
            await producer.send(topic, value, headers=presenter.headers(topic, request_id, value))
        await producer.flush()


async def _until_answered(settings: Settings, requests: int) -> None:
    """Return when the gate's ledger has a decision on each request."""
    [ledger] = [topic.name for topic in declared(settings) if topic.name.endswith("-ledger-changelog")]
    async with asyncio.timeout(DRAIN_S):
        while True:
            decided = {
                key async for key, _ in keys.read_topic(settings.bootstrap_servers, ledger) if b":decision:" in key
            }
            if len(decided) >= requests:
                return
            await asyncio.sleep(0.2)


def _cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used (proc(5), stat: utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- what both need ---------------------------------------------------------------------------------------------------


def request_bytes(request_id: str, size: int) -> bytes:
    """A request of addresses of a usual length."""
    addresses = tuple(f"firstname.lastname{number}@customer{number % 50}.example" for number in range(size))
    return Request(request_id=request_id, addresses=addresses).model_dump_json(exclude_defaults=True).encode()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
