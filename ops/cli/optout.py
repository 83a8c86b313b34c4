"""`mailvet optout`: domains that asked not to be probed, for good."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from ops import optouts
from ops.cli.errors import Unfinished, UserError
from ops.cli.keyoffice import Place, place_of, place_options, whoever
from ops.cli.keyoptions import Domain
from ops.cli.keypage import moment
from ops.cli.output import counted, json_line, printable
from schemas.keys import Said
from schemas.optouts import OptOut, OptOutChange
from streams.checks.lists import ListFileError, read_domains, suffixes

Function = Callable[..., Any]


class _Said(OptOutChange):
    actor: Said
    why: Said


@click.group("optout")
def command() -> None:
    """The do-not-probe list: domains whose mail servers are never asked, each with all below it.

    Running workers follow within a second or so; addresses of these domains are `unknown: do_not_probe` and cost
    nothing. Who put a domain there, when and why is kept for good.
    """


def _change_options(function: Function) -> Function:
    for option in (
        click.option("--from-file", type=click.Path(path_type=Path, dir_okay=False), help="One domain a line."),
        click.option("--actor", envvar="MAILVET_ACTOR", help="Who, for the audit trail; USER@HOST by default."),
        click.option("--reason", required=True, help="Why, for the audit trail: who asked for it, and how."),
    ):
        function = option(function)
    return click.argument("domains", nargs=-1, type=Domain(), metavar="[DOMAIN]...")(place_options(function))


@command.command()
@_change_options
def add(domains: tuple[str, ...], from_file: Path | None, **options: Any) -> None:
    """Put domains on the list."""
    _change(domains, from_file, options, listed=True)


@command.command()
@_change_options
def remove(domains: tuple[str, ...], from_file: Path | None, **options: Any) -> None:
    """Take domains off the list; their history stays."""
    _change(domains, from_file, options, listed=False)


def _change(domains: tuple[str, ...], from_file: Path | None, options: dict[str, Any], *, listed: bool) -> None:
    place = place_of(options)
    named = (*domains, *_of_file(from_file))
    if not named:
        raise UserError("name domains, or a file of them with --from-file F")
    change = _change_of(options["actor"] or whoever(), options["reason"], listed=listed)
    records = asyncio.run(_carry_out(place, named, change))
    if place.as_json:
        for record in records:
            click.echo(record.model_dump_json())
        return
    already = len(set(named)) - len(records)
    done = f"{counted(len(records), 'domain')} {'put on' if listed else 'taken off'} the list"
    click.echo(done + (f", {already:,} stood so already" if already else ""))


async def _carry_out(place: Place, domains: tuple[str, ...], change: OptOutChange) -> list[OptOut]:
    known = await optouts.read_list(place.bootstrap, place.namespace)
    records = optouts.changed(known, domains, change)
    await optouts.write(place.bootstrap, place.namespace, records)
    return records


def _change_of(actor: str, why: str, *, listed: bool) -> OptOutChange:
    try:
        said = _Said(listed=listed, actor=actor, why=why, at=datetime.now(UTC))
    except ValidationError:
        raise UserError("--actor and --reason take 1 to 256 printable characters") from None
    return OptOutChange(**dict(said))


def _of_file(path: Path | None) -> list[str]:
    try:
        return sorted(read_domains(str(path))) if path is not None else []
    except ListFileError as wrong:
        raise UserError(str(wrong)) from None


@command.command("list")
@click.option("--names", is_flag=True, help="The names alone, as `mailvet check --do-not-probe F` reads them.")
@place_options
def list_(names: bool, **options: Any) -> None:
    """List the domains that are on the list now. With --json one object a line."""
    place = place_of(options)
    listed = {domain: entry for domain, entry in _read(place).items() if entry.listed}
    for domain, entry in listed.items():
        line = entry.model_dump_json() if place.as_json else domain if names else f"{domain:<40} {_said(entry)}"
        click.echo(line)
    if not listed:
        click.echo("no domain is on the list", err=True)


@command.command()
@click.argument("domain", type=Domain())
@place_options
def show(domain: str, **options: Any) -> None:
    """Whether a domain may be asked, by which entry not, and who changed that entry; exit code 1 if it never was."""
    place = place_of(options)
    known = _read(place)
    entry = _speaks_of(domain, known)
    if entry is None:
        raise Unfinished(f"{domain} is not on the list, and never was")
    if place.as_json:
        click.echo(json_line({"asked": not entry.listed, **entry.model_dump(mode="json")}))
        return
    click.echo(f"{domain}: {'not asked' if entry.listed else 'asked'}, by the entry {entry.domain}")
    for change in entry.changes:
        click.echo(f"{moment(change.at)}  {_what(change)}")


def _speaks_of(domain: str, known: Mapping[str, OptOut]) -> OptOut | None:
    """The entry that keeps the domain from being asked; else the nearest that once did."""
    entries = [known[name] for name in suffixes(domain) if name in known]
    return next((entry for entry in entries if entry.listed), entries[0] if entries else None)


def _said(entry: OptOut) -> str:
    return f"{moment(entry.changes[-1].at)}  {_what(entry.changes[-1])}"


def _what(change: OptOutChange) -> str:
    verb = "put on the list" if change.listed else "taken off the list"
    return f"{verb} by {printable(change.actor)}  ({printable(change.why)})"


def _read(place: Place) -> dict[str, OptOut]:
    return asyncio.run(optouts.read_list(place.bootstrap, place.namespace))
