"""`mailvet demo`: the whole pipeline on this machine alone, judged by a mail world whose right verdicts are known."""

import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.brokers.base import BrokerError, cache_dir, free_port
from ops.brokers.daemon import Daemon
from ops.brokers.embedded import embedded
from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import consumer, delete_topics, producer, read_from, servers, silence_client
from ops.cli.output import counted, json_line, printable
from ops.cli.progress import Meter
from ops.cli.signals import stop_on_signals, unless_stopped
from ops.health import is_ready
from ops.topics import create_all, declared
from ops.world import Sample, World
from schemas.request import Request, request_uid
from schemas.result import Output, Rejection, Result
from schemas.topics import REQUESTS, RESULTS, physical_name
from streams.access.credentials import HEADER, mint
from streams.settings import Settings

TENANT = "demo"
REQUEST_SIZE = 40
PARTITIONS = 2
WORKER_START_S = 45.0
_FETCH_MS = 25
_OUTPUT: TypeAdapter[Output] = TypeAdapter(Output)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the demo runs."""

    bootstrap: str
    namespace: str
    world: World
    metrics_port: int
    key: str = field(repr=False)
    own_broker: bool = True

    @property
    def metrics(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def topic(self, name: str) -> str:
        return physical_name(name, self.namespace)

    def environment(self) -> dict[str, str]:
        """The worker's: patience is measured in this world's seconds, and no setting of the user's own applies."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAILVET_")}
        return inherited | {
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "MAILVET_NAMESPACE": self.namespace,
            "MAILVET_IDEMPOTENT_PRODUCER": str(not self.own_broker).lower(),
            "MAILVET_FETCH_WAIT_MS": str(_FETCH_MS),
            "MAILVET_DEV_KEY": self.key,
            "MAILVET_RESOLVERS": self.world.resolver,
            "MAILVET_SMTP_PORT": str(self.world.smtp_port),
            "MAILVET_ALLOWED_NETWORKS": self.world.network,
            "MAILVET_RETRY_DELAYS_S": "1.2,1.5,2",
            "MAILVET_DNS_TIMEOUT_S": "1.5",
            "MAILVET_CONNECT_TIMEOUT_S": "2",
            "MAILVET_COMMAND_TIMEOUT_S": "2",
            "MAILVET_DIALOGUE_DEADLINE_S": "8",
            "MAILVET_METRICS_PORT": str(self.metrics_port),
            "MAILVET_DRAIN_S": "2",
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample and what was said of it; None when nothing was said in time."""

    sample: Sample
    result: Result | None

    @property
    def right(self) -> bool:
        return self.result is not None and self.result.reason is self.sample.reason and self.verdict_fits

    @property
    def verdict_fits(self) -> bool:
        return self.result is not None and self.result.verdict is self.sample.verdict

    def words(self) -> str:
        """The server's own: its code, the enhanced code where it gave one, and its text, escaped."""
        if self.result is None:
            return ""
        evidence = self.result.evidence
        return printable(" ".join(str(part) for part in (evidence.smtp_code, evidence.text) if part is not None), 512)

    def record(self) -> dict[str, object]:
        """As a line of JSON holds it."""
        said = self.result
        return {
            "address": self.sample.address,
            "verdict": said and said.verdict,
            "reason": said and said.reason,
            "smtp_code": said and said.evidence.smtp_code,
            "enhanced_code": said and said.evidence.enhanced_code,
            "text": said and said.evidence.text,
            "expected_verdict": self.sample.verdict,
            "expected_reason": self.sample.reason,
            "right": self.right,
        }


@click.command("demo")
@click.option(
    "--bootstrap", metavar="HOST:PORT[,...]", callback=servers, help="A broker to use; embedded if not given."
)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C, to be talked to.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line: one an address, then one for the whole.")
@click.option(
    "--timeout", type=click.FloatRange(1, 3600), default=60.0, show_default=True, help="Seconds for verdicts."
)
def command(*, bootstrap: str | None, keep: bool, as_json: bool, timeout: float) -> None:
    """Run all of it on this machine and check every verdict.

    A broker, a worker with all roles, and mail and DNS servers that accept, refuse, greylist, block, stall and break.
    Exit code 0 only if every verdict is what the mail server's behaviour must give.
    """
    silence_client()
    try:
        wrong = asyncio.run(_demo(bootstrap, keep=keep, as_json=as_json, patience=timeout))
    except BrokerError as error:
        raise UserError(str(error)) from None
    if wrong:
        raise Unfinished(f"{counted(wrong, 'verdict is', 'verdicts are')} not as expected")


async def _demo(bootstrap: str | None, *, keep: bool, as_json: bool, patience: float) -> int:
    async with contextlib.AsyncExitStack() as running:
        stop = running.enter_context(stop_on_signals())
        place, answers, seconds = await unless_stopped(_run(running, bootstrap, patience), stop)
        judged = [Judged(sample, answers.get(index)) for index, sample in enumerate(place.world.samples())]
        (_print_json if as_json else _print_table)(judged, seconds, place)
        if keep:
            key_file = running.enter_context(_key_file(place.key))
            _say(_how_to_talk(place, key_file))
            await stop.wait()
    return sum(not each.right for each in judged)


async def _run(
    running: contextlib.AsyncExitStack, bootstrap: str | None, patience: float
) -> tuple[Place, dict[int, Result], float]:
    place = await running.enter_async_context(_place(bootstrap))
    worker = await running.enter_async_context(_worker(place))
    began = time.monotonic()
    answers = await _ask(place, worker, patience)
    return place, answers, time.monotonic() - began


def _say(line: str) -> None:
    click.echo(line, err=True)


@contextlib.asynccontextmanager
async def _place(bootstrap: str | None) -> AsyncIterator[Place]:
    """A broker with our topics, and the world."""
    with contextlib.ExitStack() as stack:
        # On a broker that others use too, everything of ours has names of its own and goes away again.
        namespace = f"demo-{secrets.token_hex(4)}" if bootstrap else ""
        if bootstrap is None:
            _forget_who_we_are()
            broker = stack.enter_context(embedded())
            _say(f"broker: {broker.name} at {broker.bootstrap}")
        place_bootstrap = bootstrap or broker.bootstrap
        settings = Settings(namespace=namespace)
        try:
            await create_all(place_bootstrap, settings, partitions=PARTITIONS)
            async with World() as world:
                _say(f"world: DNS at {world.resolver}, SMTP on port {world.smtp_port} of {world.network}")
                key = mint(TENANT, "k1", secrets.token_bytes(20))
                yield Place(place_bootstrap, namespace, world, free_port(), key, own_broker=bootstrap is None)
        finally:
            if bootstrap:
                await delete_topics(bootstrap, [topic.name for topic in declared(settings, partitions=PARTITIONS)])


def _forget_who_we_are() -> None:
    """The embedded broker asks nobody: what the environment says for another broker does not apply."""
    for name in [name for name in os.environ if name.startswith(("KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_"))]:
        del os.environ[name]


@contextlib.asynccontextmanager
async def _worker(place: Place) -> AsyncIterator[Daemon]:
    """`mailvet worker` with all roles, a process of its own that never outlives this one."""
    worker = Daemon(
        [sys.executable, "-m", "ops.cli.main", "worker", "all"],
        log=cache_dir() / "logs" / f"demo-worker-{place.metrics_port}.log",
        ready=lambda: is_ready(place.metrics_port),
        start_timeout=WORKER_START_S,
        name="the worker",
        environment=place.environment(),
    )
    began = time.monotonic()
    try:
        await asyncio.to_thread(worker.start)
        _say(f"worker: all roles ready after {time.monotonic() - began:.1f} s, metrics at {place.metrics}")
        yield worker
    finally:
        await asyncio.to_thread(worker.stop)


async def _ask(place: Place, worker: Daemon, patience: float) -> dict[int, Result]:
    """Send all samples and collect what is said of them, by their place; what is missing came not in time.

    Raises:
        Unfinished: a request was rejected, or the worker died.
    """
    addresses = [sample.address for sample in place.world.samples()]
    firsts = {f"demo-{first}": first for first in range(0, len(addresses), REQUEST_SIZE)}
    uids = {request_uid(TENANT, request_id): first for request_id, first in firsts.items()}
    answers: dict[int, Result] = {}
    results = place.topic(RESULTS.name)
    async with consumer(place.bootstrap, fetch_wait_ms=_FETCH_MS) as reader, producer(place.bootstrap) as writer:
        await read_from(reader, results, await writer.partitions_for(results), {})
        for request_id, first in firsts.items():
            request = Request(request_id=request_id, addresses=tuple(addresses[first : first + REQUEST_SIZE]))
            headers = [(HEADER, place.key.encode())]
            await writer.send_and_wait(place.topic(REQUESTS.name), request.model_dump_json().encode(), headers=headers)
        deadline = time.monotonic() + patience
        with Meter(len(addresses), 0) as meter:
            while len(answers) < len(addresses) and time.monotonic() < deadline:
                for batch in (await reader.getmany(timeout_ms=100)).values():
                    for record in batch:
                        _take(record.value, uids, answers)
                meter.show(len(answers), len(addresses) - len(answers))
                if not worker.running:
                    raise Unfinished(f"the worker died: {worker.last_words()}")
    return answers


def _take(value: bytes, uids: Mapping[str, int], answers: dict[int, Result]) -> None:
    try:
        output = _OUTPUT.validate_json(value)
    except ValidationError:
        return
    if output.request_uid not in uids:
        return
    if isinstance(output, Rejection):
        raise Unfinished(f"the request was rejected: {output.reason}: {printable(output.message)}")
    if isinstance(output, Result):
        answers.setdefault(uids[output.request_uid] + output.index, output)


def _print_table(judged: Sequence[Judged], seconds: float, place: Place) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=150)
    table = Table()
    for title in ("", "address", "verdict", "reason", "the server's own words"):
        table.add_column(title, overflow="fold")
    for each in judged:
        # Text, not markup: what a server said is shown and never obeyed.
        table.add_row(*(Text(cell) for cell in _row(each)), style=None if each.right else "bold red")
    console.print(table)
    console.print(f"{_closing(judged, seconds)}; metrics were at {place.metrics}", soft_wrap=True, highlight=False)


def _row(each: Judged) -> tuple[str, ...]:
    address, sample = printable(each.sample.address), each.sample
    if each.result is None:
        return ("✗", address, "none in time", f"expected {sample.verdict}: {sample.reason}", "")
    expected = "" if each.right else f" (expected {sample.verdict}: {sample.reason})"
    mark = "✓" if each.right else "✗"
    return (mark, address, each.result.verdict, f"{each.result.reason}{expected}", each.words())


def _closing(judged: Sequence[Judged], seconds: float) -> str:
    right = sum(each.right for each in judged)
    rate = len(judged) / seconds if seconds else 0.0
    return f"{right} of {len(judged)} verdicts as expected in {seconds:.1f} s ({rate:,.0f} addresses/s)"


def _print_json(judged: Sequence[Judged], seconds: float, place: Place) -> None:
    for each in judged:
        click.echo(json_line(each.record()))
    right = sum(each.right for each in judged)
    whole = {"event": "done", "right": right, "total": len(judged), "seconds": round(seconds, 3)}
    click.echo(json_line({**whole, "metrics": place.metrics}))


@contextlib.contextmanager
def _key_file(key: str) -> Iterator[Path]:
    """The demo's key in a file that only this user can read, for as long as it works."""
    with tempfile.TemporaryDirectory(prefix="mailvet-demo-") as folder:
        path = Path(folder) / "key"
        path.touch(mode=0o600)
        path.write_text(key + "\n")
        yield path


def _how_to_talk(place: Place, key_file: Path) -> str:
    namespace = f" --namespace {place.namespace}" if place.namespace else ""
    return (
        "all of it goes on until Ctrl-C; in another terminal:\n"
        "  printf 'email\\nalice@accepts.test\\nzoe.missing@accepts.test\\n' > addresses.csv\n"
        "  mailvet submit addresses.csv --column email --out results.csv"
        f" --bootstrap {place.bootstrap}{namespace} --key-file {key_file}"
    )
