"""`mailvet submit`: verify a column of a CSV file through the pipeline, and write the file with the verdicts added."""

import asyncio
import codecs
import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from ops.cli.csvfiles import open_csv
from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import bootstrap_option, silence_client
from ops.cli.keyfile import KEY_ID_VARIABLE, KEY_VARIABLE, read_credential
from ops.cli.output import counted, duration
from ops.cli.submitrun import GO_ON, Job, new_state, prepared
from ops.cli.submitstate import State
from schemas.request import MAX_ADDRESSES
from schemas.signing import DEFAULT_AUDIENCE
from schemas.vocabulary import Depth, Lane

# These decode to unpaired surrogates, which no request and no UTF-8 file can hold.
_UNSAFE_ENCODINGS = frozenset({"utf-7", "unicode-escape", "raw-unicode-escape"})


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
    help="A file that holds the bearer key, or the private key that signs (PEM), which is never given on the command "
    f"line (else environment: {KEY_VARIABLE}).",
)
@click.option(
    "--key-id", help=f"TENANT_KEY, of a private key whose file doesn't say it (environment: {KEY_ID_VARIABLE})."
)
@click.option(
    "--audience",
    default=DEFAULT_AUDIENCE,
    envvar="MAILVET_AUDIENCE",
    show_default=True,
    help="The installation's name, which is signed (environment: MAILVET_AUDIENCE).",
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
@click.option(
    "--results-topic", help="Where the results are written; the tenant's own topic where there is one, if not given."
)
def command(
    *,
    file: Path,
    column: str,
    out: Path,
    bootstrap: str,
    key_file: Path | None,
    key_id: str | None,
    audience: str,
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
        key=read_credential(key_file, key_id, audience),
        bootstrap=bootstrap,
        namespace=namespace,
        results_topic=results_topic or "",
        depth=depth,
        lane=lane,
        request_size=request_size,
        window=window,
        timeout=timeout,
    )
    with _opened(job, resume=resume, force=force) as state:
        run = prepared(job, state)
        try:
            began, before = time.monotonic(), state.answered()
            asyncio.run(run.to_the_end())
            verdicts = run.write()
        except sqlite3.Error as error:
            raise Unfinished(f"the state file can't be written: {error}; {GO_ON}") from None
    state.delete()
    click.echo(_closing(out, verdicts, run.plan.total - before, time.monotonic() - began))


@contextlib.contextmanager
def _opened(job: Job, *, resume: bool, force: bool) -> Iterator[State]:
    state = State(job.state_path) if _goes_on(job, resume=resume, force=force) else new_state(job)
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


def _closing(out: Path, verdicts: Mapping[str, int], asked: int, seconds: float) -> str:
    parts = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(verdicts.items()))
    rate = f" in {duration(seconds)} ({asked / seconds:,.0f}/s)" if asked and seconds else ""
    return f"{out}: {counted(sum(verdicts.values()), 'address', 'addresses')}{rate}" + (f": {parts}" if parts else "")
