"""`mailvet topics`: create the declared topics, and show what differs from them."""

import asyncio
from collections.abc import Callable
from typing import Any

import click

from ops.cli.acls import command as acls
from ops.cli.config import load_settings
from ops.cli.errors import Unfinished
from ops.cli.kafka import bootstrap_option, silence_client
from ops.topics import BROKER_DEFAULT, Difference, Remedy, connected, declared


@click.group("topics")
def command() -> None:
    """Create and compare the topics. Their declarations are part of the software; MAILVET_NAMESPACE sets them apart."""


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    partitions = click.option(
        "--partitions",
        type=click.IntRange(1, 10_000),
        envvar="MAILVET_PARTITIONS",
        help="Partitions of every topic; as declared when left out (environment: MAILVET_PARTITIONS).",
    )
    replicas = click.option(
        "--replication-factor",
        "replicas",
        type=click.IntRange(1, 100),
        envvar="MAILVET_REPLICATION_FACTOR",
        help="Replicas of every partition; the broker's default when left out.",
    )
    return bootstrap_option(partitions(replicas(function)))


@command.command()
@_options
def diff(bootstrap: str, partitions: int | None, replicas: int | None) -> None:
    """Show what differs; exit code 1 when something does."""
    silence_client()
    settings = load_settings()
    topics = declared(settings, partitions=partitions)

    async def ask() -> tuple[list[Difference], list[str]]:
        async with connected(bootstrap) as cluster:
            differences = await cluster.differences(topics, replicas=replicas or BROKER_DEFAULT)
            return differences, await cluster.kept_too_long(settings)

    differences, too_long = asyncio.run(ask())
    for each in (*differences, *too_long):
        click.echo(each)
    if differences:
        raise Unfinished(f"{len(differences)} differences from the {len(topics)} declared topics")
    _refuse(too_long)
    click.echo(f"{len(topics)} topics are as declared")


@command.command()
@_options
def apply(bootstrap: str, partitions: int | None, replicas: int | None) -> None:
    """Create what is missing and alter what can be altered without loss; exit code 1 when something is left."""
    silence_client()
    settings = load_settings()
    topics = declared(settings, partitions=partitions)
    factor = replicas or BROKER_DEFAULT

    async def change() -> tuple[list[Difference], list[Difference], list[str]]:
        async with connected(bootstrap) as cluster:
            differences = await cluster.differences(topics, replicas=factor)
            refused = await cluster.apply(differences, replicas=factor)
            return differences, refused, await cluster.kept_too_long(settings)

    differences, refused, too_long = asyncio.run(change())
    left = {each.key for each in refused}
    done = [each for each in differences if each.key not in left]
    for each in done:
        click.echo(f"created {each.topic.name}" if each.remedy is Remedy.CREATE else f"changed {each}")
    for left_over in (*refused, *too_long):
        click.echo(left_over)
    if refused:
        raise Unfinished(f"{len(refused)} differences were left as they are")
    _refuse(too_long)
    click.echo(f"{len(topics)} topics are as declared ({len(done)} changes)")


def _refuse(too_long: list[str]) -> None:
    if too_long:
        raise Unfinished(
            f"{len(too_long)} topics keep records longer than MAILVET_DECISIONS_KEPT: no worker will start"
        )


command.add_command(acls)
