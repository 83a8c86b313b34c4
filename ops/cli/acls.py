"""`mailvet topics acls`: who may do what on the broker, shown, compared, and put right."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import click

from ops.access import shown
from ops.access.acls import Access, Difference, compare, declared
from ops.access.cluster import Cluster, connected
from ops.access.passwords import Passwords
from ops.cli.config import load_settings
from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import bootstrap_option, silence_client
from ops.cli.output import counted


@click.group("acls")
def command() -> None:
    """Kafka's ACLs and SCRAM users: one for each role, for the operators, and for each tenant of MAILVET_TENANT_TOPICS.

    Changing them needs the cluster's own administrator, who is named like any other user of Kafka (KAFKA_SASL_USERNAME,
    ...). See docs/access.md.
    """


together_option = click.option(
    "--together", is_flag=True, help="One user for `mailvet worker all` instead of one for each role."
)


@command.command()
@together_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["plan", "json", "commands"]),
    default="plan",
    show_default=True,
    help="For reading, for programs, or as a script of Kafka's own commands.",
)
def show(*, together: bool, form: str) -> None:
    """Show what is declared; asks no broker."""
    access = declared(load_settings(), together=together)
    if form == "json":
        click.echo(shown.as_json(access))
        return
    for line in shown.plan(access) if form == "plan" else shown.commands(access):
        click.echo(line)


@command.command()
@bootstrap_option
@together_option
def diff(*, bootstrap: str, together: bool) -> None:
    """Show what differs; exit code 1 when something does."""
    silence_client()
    settings = load_settings(bootstrap_servers=bootstrap)
    wanted = declared(settings, together=together)

    async def ask() -> Difference:
        async with connected(bootstrap) as cluster:
            return compare(wanted, await cluster.access(), settings)

    differs = asyncio.run(ask())
    _say("missing", differs.missing)
    _say("not declared", differs.extra)
    _say_others(differs)
    if differs:
        raise Unfinished(f"{_count(differs.missing, differs.extra)} differ from what is declared")
    click.echo(f"{_count(wanted)} are as declared")


@command.command()
@bootstrap_option
@together_option
@click.option("--delete", is_flag=True, help="Remove users and ACLs of ours that are not declared (`diff` shows them).")
@click.option(
    "--passwords",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A file for each user: a password that lies there is used, a new one is written there. "
    "Without it new passwords are printed, once.",
)
@click.option("--rotate", multiple=True, metavar="USER", help="Give this user a new password; may stand several times.")
def apply(*, bootstrap: str, together: bool, delete: bool, passwords: Path | None, rotate: tuple[str, ...]) -> None:
    """Create what is missing. A user that is there keeps its password."""
    silence_client()
    settings = load_settings(bootstrap_servers=bootstrap)
    wanted = declared(settings, together=together)
    if unknown := set(rotate) - wanted.users:
        raise UserError(f"--rotate {min(unknown)}: no such user; `mailvet topics acls show` lists them")
    kept = Passwords(passwords)

    async def change() -> Difference:
        async with connected(bootstrap) as cluster:
            differs = compare(wanted, await cluster.access(), settings)
            await _create(cluster, differs.missing, set(rotate) - differs.missing.users, kept)
            if delete:
                await _remove(cluster, differs.extra)
            await cluster.wait_for(wanted)
            return differs

    try:
        differs = asyncio.run(change())
    finally:
        # Whatever went wrong after it: a password that the broker has and nobody knows would be lost.
        for user, password in kept.shown.items():
            click.echo(f"{user} {password}")
    _say("removed" if delete else "not declared", differs.extra, err=True)
    _say_others(differs)
    if differs.extra and not delete:
        raise Unfinished(f"{_count(differs.extra)} of ours are not declared and were left: --delete removes them")
    click.echo(f"{_count(wanted)} are as declared", err=True)


async def _create(cluster: Cluster, missing: Access, rotate: Iterable[str], passwords: Passwords) -> None:
    # The rights first: a worker that waits for its password then finds them.
    await cluster.allow(missing.grants)
    for user in sorted(missing.users):
        await passwords.create(user, cluster.set_password)
    for user in sorted(rotate):
        await passwords.renew(user, cluster.set_password)
    _say("created", missing, err=True)


async def _remove(cluster: Cluster, extra: Access) -> None:
    # A user goes before its rights do: what is left of it can't connect.
    for user in sorted(extra.users):
        await cluster.remove_user(user)
    await cluster.revoke(extra.grants)


def _say(what: str, access: Access, *, err: bool = False) -> None:
    for each in (*(f"user {user}" for user in sorted(access.users)), *sorted(access.grants)):
        click.echo(f"{what}: {each}", err=err)


def _say_others(differs: Difference) -> None:
    for grant in differs.others:
        click.echo(f"not ours, left alone: {grant}", err=True)


def _count(*accesses: Access) -> str:
    users = sum(len(access.users) for access in accesses)
    grants = sum(len(access.grants) for access in accesses)
    return f"{counted(users, 'user')} and {counted(grants, 'ACL')}"
