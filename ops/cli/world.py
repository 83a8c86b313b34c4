"""`mailvet world`: the DNS and SMTP servers alone, so that any verifier can be tried on them."""

import asyncio
import contextlib
import json
import os
import shlex
import signal

import click
from rich.console import Console
from rich.table import Table

from ops.cli.errors import UserError
from ops.world import PortTakenError, Sample, World, WorldConfig

TABLE_WIDTH = 140
PORT = click.IntRange(0, 65535)
TRY = ("alice@accepts.test", "zoe.missing@accepts.test", "alice@catchall.test", "brim@full.test", "alice@nullmx.test")


@click.command()
@click.option("--dns-port", type=PORT, default=0, help="Port of the DNS server, UDP and TCP. [default: a free one]")
@click.option("--smtp-port", type=PORT, default=0, help="Port of all SMTP hosts. [default: a free one]")
@click.option("--host-only", is_flag=True, help="Only the SMTP hosts, without the DNS server.")
@click.option("--rtt", "rtt_ms", type=click.FloatRange(0, 60_000), default=0.0, help="Round-trip time, milliseconds.")
@click.option(
    "--greylist", "greylist_s", type=click.FloatRange(0), default=1.0, help="How long greylists wait, seconds."
)
@click.option("--tarpit", "tarpit_s", type=click.FloatRange(0), default=60.0, help="How slow tarpits are, seconds.")
@click.option("--bulk-domains", type=click.IntRange(0, 100_000), default=0, help="Domains for load besides the others.")
@click.option("--bulk-hosts", type=click.IntRange(1, 10_000), default=1, help="SMTP hosts that share them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line at the start, one with the counts at the end.")
def command(
    *,
    dns_port: int,
    smtp_port: int,
    host_only: bool,
    rtt_ms: float,
    greylist_s: float,
    tarpit_s: float,
    bulk_domains: int,
    bulk_hosts: int,
    as_json: bool,
) -> None:
    """Serve a mail world on loopback until Ctrl-C: domains that accept, refuse, greylist, block, stall and break.

    Prints each sample address with what a right verifier must say of it.
    """
    config = WorldConfig(
        dns=not host_only,
        dns_port=dns_port,
        smtp_port=smtp_port,
        rtt_s=rtt_ms / 1000,
        greylist_s=greylist_s,
        tarpit_s=tarpit_s,
        bulk_domains=bulk_domains,
        bulk_hosts=bulk_hosts,
    )
    try:
        asyncio.run(_serve(World(config), as_json))
    except PortTakenError as taken:
        raise UserError(str(taken)) from None
    except OSError as error:
        raise UserError(error.strerror or str(error)) from None


async def _serve(world: World, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with world:
        if as_json:
            click.echo(json.dumps(_description(world)))
        else:
            _show(world)
        await stop.wait()
    if as_json:
        with contextlib.suppress(BrokenPipeError):
            click.echo(json.dumps({"event": "stopped", "stats": world.stats.summary()}))


def _description(world: World) -> dict[str, object]:
    return {
        "event": "serving",
        "pid": os.getpid(),
        "resolver": world.resolver if world.config.dns else None,
        "smtp_port": world.smtp_port,
        "network": world.network,
        "hosts": world.addresses,
        "samples": [_sample(sample) for sample in world.samples()],
    }


def _sample(sample: Sample) -> dict[str, object]:
    return {
        "address": sample.address,
        "personality": sample.personality,
        "verdict": sample.verdict,
        "reason": sample.reason,
        "first_verdict": sample.first_verdict,
        "first_reason": sample.first_reason,
        "retryable": sample.retryable,
        "eventually": sample.eventually,
    }


def _show(world: World) -> None:
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    console.print(_table(world))
    console.print(f"SMTP: port {world.smtp_port} at {len(world.host_names)} addresses of 127.77.0.0/16")
    if world.config.bulk_domains:
        hosts = min(world.config.bulk_hosts, world.config.bulk_domains)
        console.print(
            f"Bulk: {world.config.bulk_domains} domains d0001.bulk.mailvet.test, ... on {hosts} hosts; "
            "user1, user2, ... exist, nobody else does"
        )
    if world.config.dns:
        console.print(f"DNS: {world.resolver}, UDP and TCP\nTry in another terminal:")
        console.print(f"  {_check_line(world)}", soft_wrap=True)
    console.print("Ctrl-C ends it.")


def _table(world: World) -> Table:
    table = Table(title="The world, and what a right verifier says of it")
    for title in ("address", "what its server does", "verdict", "reason"):
        table.add_column(title, overflow="fold")
    for personality in world.catalogue:
        does = personality.does
        for sample in personality.samples():
            first = f" (first {sample.first_reason})" if sample.eventually else ""
            table.add_row(sample.address, does, sample.verdict, f"{sample.reason}{first}")
            does = ""
    return table


def _check_line(world: World) -> str:
    options = ("--resolver", world.resolver, "--smtp-port", str(world.smtp_port), "--allow-network", world.network)
    return shlex.join(("mailvet", "check", *options, *TRY))
