"""`mailvet submit`: verify a column of a CSV file through the pipeline, and write the file with the verdicts added."""

import asyncio
import codecs
import contextlib
import os
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import click
from aiokafka.errors import KafkaError

from ops.cli.csvfiles import CsvFile, open_csv, sha256_of, write_csv
from ops.cli.errors import Interrupted, Unfinished, UserError
from ops.cli.kafka import bootstrap_option, consumer, producer, read_from, require_topics, silence_client
from ops.cli.output import counted, duration, printable
from ops.cli.progress import Meter
from ops.cli.signals import stop_on_signals, unless_stopped
from ops.cli.submission import COLUMNS, Asked, Plan, Submission
from ops.cli.submitstate import Learned, State
from schemas.request import MAX_ADDRESSES
from schemas.topics import REQUESTS, RESULTS, physical_name
from schemas.vocabulary import Depth, Lane
from streams.access.credentials import Malformed, parse

KEY_VARIABLE = "MAILVET_KEY"
_GO_ON = "the same command with --resume goes on"
# These decode to unpaired surrogates, which no request and no UTF-8 file can hold.
_UNSAFE_ENCODINGS = frozenset({"utf-7", "unicode-escape", "raw-unicode-escape"})
_MAX_KEY_FILE = 4096


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked for, checked."""

    source: CsvFile
    out: Path
    key: str = field(repr=False)
    bootstrap: str
    namespace: str
    results_topic: str
    depth: Depth
    lane: Lane | None
    request_size: int
    window: int
    timeout: float

    @property
    def state_path(self) -> Path:
        return self.out.with_name(f"{self.out.name}.state")

    def settings(self) -> dict[str, str]:
        """What must not change between a run and the one that goes on with it."""
        return {
            "content of the file": sha256_of(self.source.path),
            "--column": self.source.header[self.source.column],
            "--delimiter": self.source.delimiter,
            "--encoding": self.source.encoding,
            "--request-size": str(self.request_size),
            "--depth": self.depth,
            "--lane": self.lane or "",
            "--namespace": self.namespace,
            "--results-topic": self.results_topic,
            "tenant of the key": parse(self.key).tenant,
        }


def _delimiter(_ctx: object, _param: object, value: str | None) -> str | None:
    mark = {"tab": "\t", "\\t": "\t"}.get(value or "", value)
    if mark is not None and (len(mark) != 1 or mark in '"\r\n'):
        raise click.BadParameter("one character, or `tab`")
    return mark


def _encoding(_ctx: object, _param: object, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        "".encode(value)
        name = codecs.lookup(value).name
    except (LookupError, ValueError):
        raise click.BadParameter(f"{value!r} is no text encoding; utf-8, utf-16, cp1252 and latin-1 are") from None
    if name in _UNSAFE_ENCODINGS:
        raise click.BadParameter(f"{value!r} can't be used: save the file as UTF-8")
    return name


@click.command("submit")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--column", required=True, help="The header of the column that holds the addresses.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where the results are written (CSV).")
@bootstrap_option
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help=f"A file that holds the key, which is never given on the command line (else environment: {KEY_VARIABLE}).",
)
@click.option(
    "--depth",
    type=click.Choice(Depth, case_sensitive=False),
    default=Depth.SMTP,
    show_default=True,
    help="How far to verify.",
)
@click.option(
    "--lane",
    type=click.Choice(Lane, case_sensitive=False),
    help="Which queue to wait in; by the size of the requests if not given.",
)
@click.option("--request-size", type=click.IntRange(1, MAX_ADDRESSES), default=100, show_default=True)
@click.option(
    "--window",
    type=click.IntRange(1, 1_000_000),
    default=20_000,
    show_default=True,
    help="How many addresses may wait for their answers at a time.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--force", is_flag=True, help="Begin anew, in place of an interrupted run or of results that are there.")
@click.option(
    "--delimiter", callback=_delimiter, help="One character or `tab`; found by the column's name if not given."
)
@click.option("--encoding", callback=_encoding, help="Of the file; by its byte order mark, else UTF-8, if not given.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=4 * 3600.0,
    show_default=True,
    help="Seconds without any answer after which to give up; greylisted addresses take over an hour.",
)
@click.option("--namespace", default="", envvar="MAILVET_NAMESPACE", help="Of the installation (MAILVET_NAMESPACE).")
@click.option("--results-topic", help="Where this tenant's results are written, if it has a topic of its own.")
def command(
    *,
    file: Path,
    column: str,
    out: Path,
    bootstrap: str,
    key_file: Path | None,
    depth: Depth,
    lane: Lane | None,
    request_size: int,
    window: int,
    resume: bool,
    force: bool,
    delimiter: str | None,
    encoding: str | None,
    timeout: float,
    namespace: str,
    results_topic: str | None,
) -> None:
    """Verify the addresses in a column of a CSV file.

    The results are the file's own rows in their order with the verdicts added, written when all are there. Until then
    everything learned is kept in RESULTS.csv.state: after Ctrl-C or a crash the same command with --resume goes on,
    and nothing is charged twice. Cells that a spreadsheet would run as formulas get a leading apostrophe.
    """
    silence_client()
    job = Job(
        source=open_csv(file, column, delimiter=delimiter, encoding=encoding),
        out=out,
        key=read_key(key_file),
        bootstrap=bootstrap,
        namespace=namespace,
        results_topic=results_topic or physical_name(RESULTS.name, namespace),
        depth=depth,
        lane=lane,
        request_size=request_size,
        window=window,
        timeout=timeout,
    )
    with _opened(job, resume=resume, force=force) as state:
        run = _prepared(job, state)
        try:
            began, before = time.monotonic(), state.answered()
            asyncio.run(run.to_the_end())
            verdicts = run.write()
        except sqlite3.Error as error:
            raise Unfinished(f"the state file can't be written: {error}; {_GO_ON}") from None
    state.delete()
    click.echo(_closing(out, verdicts, run.plan.total - before, time.monotonic() - began))


def read_key(key_file: Path | None) -> str:
    """The key from its file, else from the environment.

    Raises:
        UserError: there is none, the file can't be read, or what stands there is no key. Nothing of it is quoted.
    """
    try:
        key = os.environ.get(KEY_VARIABLE, "") if key_file is None else _first_line(key_file)
    except (OSError, UnicodeError):
        raise UserError(f"the key file {key_file} can't be read") from None
    if not key:
        raise UserError(f"no key: set {KEY_VARIABLE}, or name a file that holds it with --key-file")
    try:
        parse(key)
    except Malformed as error:
        raise UserError(f"{error} (from {key_file or KEY_VARIABLE})") from None
    return key


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline(_MAX_KEY_FILE).strip()


@contextlib.contextmanager
def _opened(job: Job, *, resume: bool, force: bool) -> Iterator[State]:
    state = State(job.state_path) if _goes_on(job, resume=resume, force=force) else _new_state(job)
    try:
        yield state
    finally:
        state.close()


def _goes_on(job: Job, *, resume: bool, force: bool) -> bool:
    """Whether there is a run to go on with, or raise `UserError` where the user has to say what is meant."""
    out, there = job.out, job.state_path.exists()
    if resume and force:
        raise UserError("--resume goes on with what was begun and --force begins anew: choose one")
    if resume and not there:
        done = f"{out} is there, so the run was finished" if out.exists() else "no run was begun"
        raise UserError(f"nothing to resume: there is no {job.state_path}; {done}")
    if not out.parent.is_dir():
        raise UserError(f"{out} can't be written: there is no folder {out.parent}")
    if out.is_dir() or (out.exists() and out.samefile(job.source.path)):
        raise UserError(f"{out} can't be written: it is {'a folder' if out.is_dir() else 'the file that is read'}")
    if there and not (resume or force):
        raise UserError(f"{job.state_path} is left from an interrupted run: --resume goes on, --force begins anew")
    if out.exists() and not (resume or force):
        raise UserError(f"{out} is there already: --force replaces it, or choose another --out")
    return resume


def _new_state(job: Job) -> State:
    # All of the file is read before anything is sent: no request is charged for a file that turns out to be broken.
    total = sum(1 for _ in job.source.addresses())
    settings = job.settings()
    run = f"csv-{settings['content of the file'][:16]}-{secrets.token_hex(4)}"
    return State(job.state_path, {**settings, "run": run, "total": str(total)})


def _prepared(job: Job, state: State) -> "Run":
    changed = [name for name, value in job.settings().items() if state.settings.get(name) != value]
    if changed:
        raise UserError(f"can't go on: {', '.join(changed)} changed since the run was begun; --force begins anew")
    plan = Plan(
        run=state.settings["run"],
        tenant=state.settings["tenant of the key"],
        key=job.key,
        requests_topic=physical_name(REQUESTS.name, job.namespace),
        results_topic=job.results_topic,
        request_size=job.request_size,
        total=int(state.settings["total"]),
        depth=job.depth,
        lane=job.lane,
    )
    return Run(job, plan, state)


@dataclass(frozen=True, slots=True)
class Run:
    """A job and its state, and what is left to do."""

    job: Job
    plan: Plan
    state: State

    async def to_the_end(self) -> None:
        """Ask everything that has no answer yet.

        Raises:
            UserError: no broker answers, or it has not our topics.
            Unfinished, Interrupted: the sentence says why, how much is done, and how to go on.
        """
        if self.state.answered() == self.plan.total:
            return
        try:
            with stop_on_signals() as stop:
                await unless_stopped(self._ask(), stop)
        except KafkaError as error:
            raise self._on_the_way(Unfinished(f"the broker refused: {printable(str(error))}")) from None
        except (Unfinished, Interrupted) as error:
            raise self._on_the_way(error) from None

    def _on_the_way(self, error: click.ClickException) -> click.ClickException:
        done = f"{self.state.answered():,} of {counted(self.plan.total, 'address', 'addresses')} are answered"
        error.message = f"{error.message}; {done}, {_GO_ON}"
        return error

    async def _ask(self) -> None:
        job, plan, state = self.job, self.plan, self.state
        async with consumer(job.bootstrap) as reader, producer(job.bootstrap) as writer:
            await require_topics(reader, plan.requests_topic, plan.results_topic)
            partitions = await writer.partitions_for(plan.results_topic)
            positions = await read_from(reader, plan.results_topic, partitions, state.positions())
            # Kept before the first request goes out: its answers lie behind these offsets, whenever we read them.
            state.learn(Learned(positions=positions))
            with Meter(plan.total, state.answered()) as meter:
                submission = Submission(
                    plan,
                    state,
                    writer,
                    reader,
                    begun=self.begun(),
                    fresh=self.fresh(),
                    window=job.window,
                    timeout=job.timeout,
                    meter=meter,
                )
                await submission.run()

    def begun(self) -> list[Asked]:
        """What an earlier run may have sent and what isn't answered in full."""
        waiting = {}
        for number, sent in self.state.begun().items():
            if missing := self.state.missing(self.plan.ordinals(number)):
                waiting[number] = (sent, missing)
        return [
            Asked(number, addresses, set(missing), sent.generation, sent.delivered, earlier=True)
            for number, addresses in self._batches(waiting)
            for sent, missing in [waiting[number]]
        ]

    def fresh(self) -> Iterator[Asked]:
        """What nobody has sent yet, read from the file as it is wanted."""
        begun = self.state.begun()
        for number, addresses in self._batches():
            if number not in begun:
                yield Asked(number, addresses, set(self.plan.ordinals(number)))

    def _batches(self, only: Container[int] | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
        if only is not None and not only:
            return
        addresses = self.job.source.addresses()
        for number in range(-(-self.plan.total // self.plan.request_size)):
            batch = tuple(islice(addresses, len(self.plan.ordinals(number))))
            if only is None or number in only:
                yield number, batch

    def write(self) -> Mapping[str, int]:
        """Write the results; returns how many of each verdict there are.

        Raises:
            Unfinished: the file was changed while its addresses were asked.
            UserError: the results can't be written.
        """
        if sha256_of(self.job.source.path) != self.state.settings["content of the file"]:
            raise Unfinished(
                f"{self.job.source.path} was changed while its addresses were asked, so the answers do not fit its "
                "rows: put the old content back and use --resume, or begin anew with --force"
            )
        verdicts: Counter[str] = Counter()
        write_csv(self.job.source, self.job.out, COLUMNS, _counting(self.state.cells(), verdicts))
        return verdicts


def _counting(rows: Iterable[Sequence[str]], verdicts: Counter[str]) -> Iterator[Sequence[str]]:
    for row in rows:
        verdicts[row[0]] += 1
        yield row


def _closing(out: Path, verdicts: Mapping[str, int], asked: int, seconds: float) -> str:
    parts = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(verdicts.items()))
    rate = f" in {duration(seconds)} ({asked / seconds:,.0f}/s)" if asked and seconds else ""
    return f"{out}: {counted(sum(verdicts.values()), 'address', 'addresses')}{rate}" + (f": {parts}" if parts else "")
