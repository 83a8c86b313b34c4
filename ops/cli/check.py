"""`mailvet check`: the verification core alone, no Kafka."""

import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import uvloop

from ops.cli.collector import settle_collector
from ops.cli.config import load_settings
from ops.cli.errors import UserError
from ops.cli.output import json_line, printable
from ops.cli.streamed import lines_of, verify_streamed
from schemas.base import SCHEMA_VERSION
from schemas.result import Finding
from schemas.vocabulary import Depth
from streams.checks.syntax import Malformed, parse_mailbox
from streams.core import open_core
from streams.settings import Settings

ENCODING = "utf-8-sig"
"""What spreadsheets write: UTF-8, with or without a byte order mark."""


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("--from-file", type=click.Path(path_type=Path), metavar="F", help="A file with one address a line.")
@click.option("--stdin", "from_stdin", is_flag=True, help="One address a line from standard input.")
@click.option(
    "--depth",
    type=click.Choice([depth.value for depth in Depth]),
    default="smtp",
    help="How far to go; smtp by default.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object an address, as each is known.")
@click.option("--resolver", multiple=True, metavar="HOST:PORT", help="DNS server; the system's by default.")
@click.option("--smtp-port", type=click.IntRange(1, 65535), metavar="N", help="Port of the mail servers; 25.")
@click.option("--allow-network", multiple=True, metavar="CIDR", help="May be dialled though it is not global.")
@click.option("--concurrency", type=click.IntRange(1, 100_000), default=1000, help="Addresses in flight; 1000.")
@click.option("--sessions-per-provider", type=click.IntRange(1, 1000), metavar="N", help="SMTP sessions; 4.")
@click.option("--helo", metavar="NAME", help="The name said in EHLO; this machine's by default.")
@click.option("--mail-from", metavar="A", help="The envelope sender; the null sender by default.")
@click.option("--timeout", type=click.FloatRange(0.1, 3600), metavar="S", help="Seconds for one address; 60.")
@click.option("--retry-delays", metavar="S,S,...", default="", help='Wait and ask again where a server said "later".')
@click.option("--do-not-probe", metavar="F", help="A file of domains that are never asked, each with all below it.")
@click.option("--no-catch-all", is_flag=True, help="Do not ask whether a domain accepts everything.")
def command(
    addresses: tuple[str, ...], from_file: Path | None, from_stdin: bool, depth: str, as_json: bool, **options: Any
) -> None:
    """Verify addresses with the core alone: what is said of each, and why.

    Answers come as they are known, each with its place (`index`) in the input. The exit code says whether the command
    could do its work, not what it found.
    """
    if sum((bool(addresses), from_file is not None, from_stdin)) != 1:
        raise UserError("name one source of addresses: arguments, --from-file F or --stdin (see mailvet check --help)")
    delays = _delays(options.pop("retry_delays"))
    settings = load_settings(
        resolvers=options["resolver"],
        smtp_port=options["smtp_port"],
        allowed_networks=options["allow_network"],
        sessions_per_provider=options["sessions_per_provider"],
        helo=options["helo"],
        mail_from=_sender(options["mail_from"]),
        dialogue_deadline_s=options["timeout"],
        do_not_probe=options["do_not_probe"],
    )
    source = _source(addresses, from_file)
    show = _json if as_json else _text
    try:
        uvloop.run(_check(source, settings, Depth(depth), delays, options, show))
    except ValueError as wrong:
        raise UserError(str(wrong)) from None


async def _check(  # noqa: PLR0917
    source: Iterable[str] | int,
    settings: Settings,
    depth: Depth,
    delays: tuple[float, ...],
    options: dict[str, Any],
    show: Any,
) -> None:
    def say(index: int, text: str, finding: Finding) -> None:
        click.echo(show(index, text, finding))

    window = options["concurrency"]
    async with open_core(settings) as core:
        settle_collector()
        verifier = core.verifier(retry_delays_s=delays, catch_all_probe=not options["no_catch_all"])
        if isinstance(source, int):
            await verify_streamed(verifier, lines_of(source, ENCODING), depth, window=window, say=say)
            return
        async with aclosing(verifier.verify(source, depth, window=window)) as answers:
            async for answer in answers:
                say(*answer)


def _delays(text: str) -> tuple[float, ...]:
    try:
        delays = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"--retry-delays wants seconds with commas between them, not {printable(text)!r}") from None
    if any(not 0 <= delay <= 86_400 for delay in delays):
        raise UserError("--retry-delays wants seconds from 0 to 86400")
    return delays


def _sender(text: str | None) -> str | None:
    """The envelope sender, or a sentence: a server would call it our fault, once for each address."""
    if text and isinstance(wrong := parse_mailbox(text), Malformed):
        raise UserError(f"--mail-from {printable(text)!r} is no address: {wrong.sentence}")
    return text


def _source(addresses: tuple[str, ...], path: Path | None) -> Iterable[str] | int:
    """Where the addresses come from: lines that are there whenever they are asked for, or the descriptor of a pipe
    or a terminal, whose writer may be slow and must hold up neither dialogues nor Ctrl-C."""
    if addresses:
        return addresses
    if path is None and sys.stdin is None:
        raise UserError("standard input is closed: nothing to read addresses from")
    stream = _stream(path)
    return _lines(path) if stream is None else stream


def _stream(path: Path | None) -> int | None:
    """The descriptor of what may keep a reader waiting; None for a file, and for an input that is held in memory."""
    try:
        if path is None:
            descriptor = sys.stdin.fileno()
            return None if stat.S_ISREG(os.fstat(descriptor).st_mode) else descriptor
        return os.open(path, os.O_RDONLY) if path.exists() and not (path.is_file() or path.is_dir()) else None
    except io.UnsupportedOperation:
        return None
    except OSError as wrong:
        raise _unreadable(path, wrong) from None


def _lines(path: Path | None) -> Iterator[str]:
    """The addresses of a file or of standard input; empty lines are passed over, what is not UTF-8 shows as such."""
    try:
        stream = click.open_file(str(path) if path else "-", encoding=ENCODING, errors="backslashreplace")
    except OSError as wrong:
        raise _unreadable(path, wrong) from None
    with stream as lines:
        yield from (line.rstrip("\r\n") for line in lines if line.strip())


def _unreadable(path: Path | None, wrong: OSError) -> UserError:
    return UserError(f"can't read {path or 'standard input'}: {wrong.strerror or wrong}")


def _json(index: int, text: str, finding: Finding) -> str:
    return json_line(
        {"schema_version": SCHEMA_VERSION, "index": index, "input": text, **finding.model_dump(mode="json")}
    )


def _text(index: int, text: str, finding: Finding) -> str:
    evidence = finding.evidence
    said = " ".join(str(part) for part in (evidence.smtp_code, evidence.text) if part is not None)
    suggestion = f" (did you mean {finding.suggestion}?)" if finding.suggestion else ""
    return f"{printable(text, 60):<40} {finding.verdict:<14} {finding.reason:<20} {printable(said, 100)}{suggestion}"
