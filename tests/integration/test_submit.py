"""`mailvet submit` as a process of its own against a real broker; what answers is a pipeline of a few lines."""

import asyncio
import contextlib
import csv
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ops.brokers.base import Broker, free_port
from ops.topics import create_all
from schemas.request import Request, request_uid
from schemas.result import Evidence, Finding, Flags, Rejection, Result
from schemas.topics import REQUESTS, RESULTS, physical_name
from schemas.vocabulary import VERDICTS, Reason, Stage
from streams.access.credentials import HEADER, mint
from streams.settings import Settings

KEY = mint("acme", "k1", b"0123456789abcdef")
_NAMESPACES = (f"submit{number}" for number in count())


class Pipeline:
    """Answers each request once by its id, as the real one does; `verdict` and `reject` decide what."""

    def __init__(self, broker: Broker, namespace: str) -> None:
        self.namespace = namespace
        self.bootstrap = broker.bootstrap
        self.requests: list[Request] = []
        self.seen: Counter[str] = Counter()
        self.reject: Callable[[Request], Rejection | None] = lambda request: None
        self.answered = 0
        self.stop_at: int | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.twice = False

    def topic(self, name: str) -> str:
        return physical_name(name, self.namespace)

    async def run(self) -> None:
        queue: asyncio.Queue[Request] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.read(queue))
            tasks.create_task(self.write(queue))

    async def read(self, queue: asyncio.Queue[Request]) -> None:
        topic = self.topic(REQUESTS.name)
        async with AIOKafkaConsumer(topic, bootstrap_servers=self.bootstrap, auto_offset_reset="earliest") as consumer:
            async for record in consumer:
                assert dict(record.headers)[HEADER] == KEY.encode()
                request = Request.model_validate_json(record.value)
                self.seen[request.request_id] += 1
                if self.seen[request.request_id] == 1:
                    self.requests.append(request)
                    queue.put_nowait(request)

    async def write(self, queue: asyncio.Queue[Request]) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            while True:
                request = await queue.get()
                await self.answers.wait()
                await self.answer(producer, request)
                self.answered += 1
                if self.answered == self.stop_at:
                    self.answers.clear()

    async def answer(self, producer: AIOKafkaProducer, request: Request) -> None:
        rejection = self.reject(request)
        outputs = [rejection] if rejection else [result(request, index) for index in range(len(request.addresses))]
        for output in [stranger(request), *outputs * (1 + self.twice)]:
            value = output.model_dump_json().encode()
            await producer.send(self.topic(RESULTS.name), key=output.request_uid.encode(), value=value)
        await producer.send(self.topic(RESULTS.name), value=b"\xff not for us")
        await producer.flush()


def result(request: Request, index: int, tenant: str = "acme") -> Result:
    """What a server would say: who is `bad` isn't there, and everybody else is."""
    address = request.addresses[index]
    reason = Reason.MAILBOX_NOT_FOUND if address.startswith("bad") else Reason.MAILBOX_ACCEPTED
    finding = Finding(
        verdict=VERDICTS[reason],
        reason=reason,
        reasons=(reason,),
        score=7,
        flags=Flags(role=False),
        evidence=Evidence(stage=Stage.RCPT, mx_host="mx.test", smtp_code=250, text=f"=HYPERLINK({address})"),
        checked_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    names = {"request_id": request.request_id, "request_uid": request_uid(tenant, request.request_id), "key_id": "k1"}
    place = {"index": index, "total": len(request.addresses), "input": address}
    return Result.model_validate({**finding.model_dump(), **names, **place})


def stranger(request: Request) -> Result:
    """Another tenant's result under the same request id."""
    return result(request.model_copy(update={"addresses": ("bad@stranger.test",)}), 0, tenant="other")


def rejection(request: Request, reason: Reason, retry_after_ms: int | None = None) -> Rejection:
    return Rejection(
        request_uid=request_uid("acme", request.request_id),
        request_id=request.request_id,
        key_id="k1",
        reason=reason,
        reasons=(reason,),
        message="the gate\nsays no",
        retry_after_ms=retry_after_ms,
        checked_at=datetime.now(UTC),
    )


@pytest.fixture
async def pipeline(broker: Broker) -> AsyncIterator[Pipeline]:
    namespace = next(_NAMESPACES)
    await create_all(broker.bootstrap, Settings(namespace=namespace), partitions=2)
    running = Pipeline(broker, namespace)
    task = asyncio.create_task(running.run())
    yield running
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task  # what went wrong in the pipeline itself is raised here


class Command:
    """`mailvet submit` on `rows` addresses, run as often as wanted."""

    def __init__(self, pipeline: Pipeline, folder: Path, rows: int) -> None:
        self.bootstrap, self.namespace = pipeline.bootstrap, pipeline.namespace
        self.file, self.out = folder / "in.csv", folder / "out.csv"
        self.state = folder / "out.csv.state"
        self.addresses = [f"{'bad' if row % 3 == 0 else 'good'}{row}@a.test" for row in range(rows)]
        self.file.write_text("id,email\n" + "".join(f"{row},{a}\n" for row, a in enumerate(self.addresses)))

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        options = ["--column", "email", "--out", str(self.out), "--namespace", self.namespace, *arguments]
        return await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "ops.cli.main", "submit", str(self.file), "--bootstrap", self.bootstrap, *options],
            env={**os.environ, "MAILVET_KEY": KEY},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        return await ended(await self.start(*arguments))

    def verdicts(self) -> list[tuple[str, str]]:
        with self.out.open(newline="") as file:
            return [(row["email"], row["verdict"]) for row in csv.DictReader(file)]

    def expected(self) -> list[tuple[str, str]]:
        return [(a, "undeliverable" if a.startswith("bad") else "deliverable") for a in self.addresses]


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert KEY.split("_")[3].encode() not in out + err
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  what is waited for happens in another process
            await asyncio.sleep(0.02)


async def test_every_row_gets_its_verdict_in_order(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.twice = True
    command = Command(pipeline, tmp_path, 1050)
    code, out, err = await command.run("--request-size", "10", "--window", "200", "--depth", "dns", "--lane", "bulk")
    assert (code, err) == (0, "")
    assert command.verdicts() == command.expected()
    assert "1,050 addresses in" in out
    assert "700 deliverable, 350 undeliverable" in out
    assert {len(request.addresses) for request in pipeline.requests} == {10}
    assert {(request.depth, request.lane) for request in pipeline.requests} == {("dns", "bulk")}
    assert not command.state.exists()
    with command.out.open(newline="") as file:
        row = next(iter(csv.DictReader(file)))
    assert row["text"] == "'=HYPERLINK(bad0@a.test)"
    assert (row["score"], row["role"], row["free"], row["mx_host"]) == ("7", "false", "", "mx.test")
    assert row["checked_at"] == "2026-01-02T03:04:05+00:00"


async def test_no_more_than_the_window_is_in_flight(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.stop_at = 2
    command = Command(pipeline, tmp_path, 100)
    process = await command.start("--request-size", "10", "--window", "35")
    await until(lambda: len(pipeline.requests) == 5)  # two answered, three of ten in flight
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(until(lambda: len(pipeline.requests) > 5), 0.5)
    assert len(pipeline.requests) == 5
    pipeline.answers.set()
    assert (await ended(process))[0] == 0
    assert len(pipeline.requests) == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_an_interrupted_run_goes_on(pipeline: Pipeline, tmp_path: Path, number: signal.Signals) -> None:
    command = Command(pipeline, tmp_path, 300)
    sizes = ("--request-size", "10", "--window", "100")
    pipeline.stop_at = 7
    process = await command.start(*sizes)
    await until(lambda: len(pipeline.requests) == 17)
    process.send_signal(number)
    code, _, err = await ended(process)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or "of 300 addresses are answered, the same command with --resume goes on" in err
    assert not command.out.exists()

    # Without saying what is meant nothing is charged anew; with another file the answers would not fit.
    assert "--resume goes on, --force begins anew" in (await command.run(*sizes))[2]
    assert "--request-size changed" in (await command.run("--resume", "--request-size", "20"))[2]

    pipeline.answers.set()  # the rest of what was sent is answered while nobody listens
    code, _, err = await command.run("--resume", *sizes)
    assert (code, err) == (0, "")
    assert command.verdicts() == command.expected()
    ids = [request.request_id for request in pipeline.requests]
    assert len(ids) == len(set(ids)) == 30


async def test_a_key_at_its_limit_waits_and_asks_again(pipeline: Pipeline, tmp_path: Path) -> None:
    def at_first(request: Request) -> Rejection | None:
        first = not request.request_id.endswith((".1", ".2"))
        reason = Reason.RATE_EXCEEDED if pipeline.answered % 2 else Reason.IN_FLIGHT_EXCEEDED
        return rejection(request, reason, retry_after_ms=50) if first else None

    pipeline.reject = at_first
    command = Command(pipeline, tmp_path, 50)
    assert (await command.run("--request-size", "10"))[0] == 0
    assert command.verdicts() == command.expected()
    assert len(pipeline.requests) == 10


async def test_a_used_up_quota_stops_and_goes_on_another_day(pipeline: Pipeline, tmp_path: Path) -> None:
    def used_up(request: Request) -> Rejection | None:
        return rejection(request, Reason.QUOTA_EXCEEDED) if pipeline.answered >= 2 else None

    pipeline.reject = used_up
    command = Command(pipeline, tmp_path, 100)
    code, _, err = await command.run("--request-size", "10")
    assert code == 1
    assert "quota_exceeded: the gate\\nsays no; " in err
    assert "of 100 addresses are answered, the same command with --resume goes on" in err
    assert len(err.splitlines()) == 1

    await until(lambda: pipeline.answered == 10)
    pipeline.reject = lambda request: None
    assert (await command.run("--request-size", "10", "--resume"))[0] == 0
    assert command.verdicts() == command.expected()


async def test_nobody_answers(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.answers.clear()
    command = Command(pipeline, tmp_path, 5)
    code, _, err = await command.run("--timeout", "1")
    assert code == 1
    assert "no answer came for 1.0 s: is a worker running on this broker, and does it know this key?" in err


async def test_a_broker_that_is_not_there(pipeline: Pipeline, tmp_path: Path) -> None:
    command = Command(pipeline, tmp_path, 5)
    command.bootstrap = f"127.0.0.1:{free_port()}"
    code, _, err = await command.run()
    assert code == 2
    assert err.startswith(f"mailvet: no Kafka broker answers at {command.bootstrap} (waited up to 10 s)")
    assert len(err.splitlines()) == 1


async def test_topics_that_are_missing(pipeline: Pipeline, tmp_path: Path) -> None:
    command = Command(pipeline, tmp_path, 5)
    command.namespace = "nobody"
    code, _, err = await command.run()
    assert code == 2
    assert "run `mailvet topics apply` first" in err


async def test_a_changed_file_is_not_given_the_answers(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.answers.clear()
    command = Command(pipeline, tmp_path, 5)
    process = await command.start()
    await until(lambda: len(pipeline.requests) == 1)
    with command.file.open("a") as file:
        file.write("6,late@a.test\n")
    pipeline.answers.set()
    code, _, err = await ended(process)
    assert code == 1
    assert "was changed while its addresses were asked" in err
    assert not command.out.exists()


async def test_a_broker_that_crashes_on_the_way(pipeline: Pipeline, killable_broker: Broker, tmp_path: Path) -> None:
    command = Command(pipeline, tmp_path, 400)
    pipeline.stop_at = 5
    process = await command.start("--request-size", "10", "--window", "100")
    await until(lambda: len(pipeline.requests) == 15)
    await asyncio.to_thread(killable_broker.kill)
    await asyncio.to_thread(killable_broker.restart)
    pipeline.answers.set()
    code, _, err = await ended(process)
    assert code == 0, err
    assert command.verdicts() == command.expected()
