"""`mailvet bench`: how fast the engine is and what it costs, beside its peers."""

import asyncio
import json
import os
import sys
from pathlib import Path

import click

from ops.bench import fairness as fairness_bench
from ops.bench import gate as gate_bench
from ops.bench import namespace, page, peers
from ops.bench import soak as soak_bench
from ops.bench.contest import ContestError
from ops.bench.lists import LISTS
from ops.bench.run import SWEEP, WIDE, Plan, measure
from ops.brokers.base import BrokerError
from ops.brokers.embedded import Embedded, embedded
from ops.brokers.real import broker as real_broker
from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import bootstrap_option, servers, silence_client
from ops.mta.packages import POSTFIX, MtaError, unpacked
from schemas.keys import Kind

ON_THEIR_PORTS = (25, 53)


@click.group()
def command() -> None:
    """Measure mailvet on this machine."""


@command.command()
@click.option("--list", "lists", multiple=True, type=click.Choice(list(LISTS)), help="Which lists; all by default.")
@click.option("--peer", "rivals", multiple=True, type=click.Choice(list(peers.PEERS)), help="Run a peer too.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=30.0, help="How long a run lasts at least; 30.")
@click.option("--rtt-ms", type=click.FloatRange(0, 5000), default=50.0, help="Round-trip time of the sink; 50.")
@click.option("--sessions-per-provider", "sessions", type=click.IntRange(1, 1000), default=4, help="Ours; 4.")
@click.option("--postfix", is_flag=True, help="List B on real Postfix, too (Debian's package; as root).")
@click.option("--quick", is_flag=True, help="The lists alone, at one number of addresses in flight.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of the table.")
@click.option("--write", type=click.Path(path_type=Path, dir_okay=False), metavar="F", help="Write the page to F.")
def engine(  # noqa: PLR0917
    lists: tuple[str, ...],
    rivals: tuple[str, ...],
    seconds: float,
    rtt_ms: float,
    sessions: int,
    postfix: bool,
    quick: bool,
    as_json: bool,
    write: Path | None,
) -> None:
    """The verification engine on a fast mail server of its own: addresses/s, connections, writes, CPU, memory.

    --peer builds another verifier (with Go or Cargo) and runs it against the same server; since peers know only port
    25 and the system's resolver, all of it then runs in a network namespace, from which nothing reaches a network.
    """
    if postfix:
        _fetch_postfix()
    if rivals and not namespace.inside():
        for name in rivals:
            peers.build(name)
        sys.exit(namespace.rerun_inside(sys.argv[1:]))
    plan = Plan(
        lists=lists or tuple(LISTS),
        peers=tuple(dict.fromkeys(rivals)),
        seconds=seconds,
        rtt_s=rtt_ms / 1000,
        sessions=sessions,
        processes=1 if quick else os.cpu_count() or 1,
        wide=0 if quick else WIDE,
        ports=ON_THEIR_PORTS if rivals else (0, 0),
        postfix=postfix,
        extras=not quick,
        sweep=(2000,) if quick else SWEEP,
    )
    try:
        report = measure(plan, lambda what: click.echo(what, err=True))
    except (ContestError, MtaError, OSError) as wrong:
        raise UserError(f"the benchmark could not be run: {wrong}") from None
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else page.table(report))
    if write is not None:
        options = [word for word in sys.argv[1:] if word != "--json"]
        write.write_text(page.document(report, f"mailvet {' '.join(options)}"), encoding="utf-8")


@command.command()
@click.option("--seconds", type=click.FloatRange(0.01, 60), default=1.0, help="For each part; 1.")
@click.option("--worker", is_flag=True, help="A whole worker on the broker too; topics are made for it and removed.")
@click.option("--requests", type=click.IntRange(1, 1_000_000), default=5000, help="For the worker; 5,000.")
@bootstrap_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of the table.")
def gate(seconds: float, worker: bool, requests: int, bootstrap: str, as_json: bool) -> None:
    """What letting a request in costs: checking a signature, intake and admission, in CPU time of one core."""
    silence_client()
    found = list(gate_bench.costs(seconds))
    if worker:
        for kind in Kind:
            try:
                found.append(asyncio.run(gate_bench.worker_cost(bootstrap, requests, kind)))
            except (ContestError, OSError) as wrong:
                raise UserError(f"the benchmark could not be run: {wrong}") from None
    if as_json:
        click.echo(json.dumps({cost.what: round(cost.us, 1) for cost in found}, indent=2))
    else:
        click.echo("\n".join(f"{cost.us:>10,.0f} us  {cost.what}" for cost in found))


@command.command()
@click.option("--seconds", type=click.FloatRange(1, 600), default=20.0, help="Of each of the two parts; 20.")
@click.option("--in-flight", type=click.IntRange(1000, 10**6), default=5000, help="Of the flooding tenant; 5,000.")
@click.option("--rtt-ms", type=click.FloatRange(0, 1000), default=20.0, help="Round-trip time of mail servers; 20.")
@click.option("--bootstrap", metavar="HOST:PORT[,...]", callback=servers, help="A broker; embedded if not given.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array in place of the table.")
def fairness(seconds: float, in_flight: int, rtt_ms: float, bootstrap: str | None, as_json: bool) -> None:
    """Ten tenants on one worker, one of them flooding it: each one's share, and how long its requests take.

    The same eight steady tenants and one of single requests first alone and then beside the flood. Mail servers are on
    loopback; topics on a broker of yours are made for it and removed.
    """
    silence_client()
    plan = fairness_bench.Plan(seconds, in_flight, rtt_ms)
    try:
        if bootstrap is not None:
            lines = fairness_bench.measure(bootstrap, plan, own_broker=False)
        else:
            with embedded() as broker:
                lines = fairness_bench.measure(broker.bootstrap, plan, own_broker=True)
    except (BrokerError, ContestError, OSError) as wrong:
        raise UserError(f"the benchmark could not be run: {wrong}") from None
    click.echo(json.dumps([line.as_dict() for line in lines], indent=2) if as_json else fairness_bench.table(lines))


@command.command()
@click.option("--addresses", type=click.IntRange(1000, 10**9), default=1_000_000, help="Distinct ones; 1,000,000.")
@click.option("--tenants", type=click.IntRange(1, 10_000), default=120, help="Who ask for them, a key each; 120.")
@click.option("--in-flight", type=click.IntRange(1000, 10**6), default=20_000, help="Addresses at a time; 20,000.")
@click.option(
    "--growth", type=click.FloatRange(1), default=1.2, help="A worker may end with so much of a tenth's; 1.2."
)
@click.option("--greylisting/--no-greylisting", default=True, help="One request of 50 waits in the first retry tier.")
@click.option("--bootstrap", metavar="HOST:PORT[,...]", callback=servers, help="A broker; one of its own if not given.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of the table.")
def soak(  # noqa: PLR0917
    addresses: int, tenants: int, in_flight: int, growth: float, greylisting: bool, bootstrap: str | None, as_json: bool
) -> None:
    """Many addresses through a process for each role: what each one holds in memory at one tenth and at the end.

    On a real Kafka where one can be had, with default settings; mail servers are on loopback. Exit code 1 where memory
    has grown by more than is allowed, or where a verdict is lost or wrong.
    """
    silence_client()
    plan = soak_bench.Plan(addresses, tenants, in_flight, greylisting)
    try:
        with real_broker({"KAFKA_BOOTSTRAP_SERVERS": bootstrap or ""}, note=_say) as running:
            _say(f"broker: {running.name}")
            small = isinstance(running, Embedded)
            report = soak_bench.measure(running.bootstrap, plan, embedded=small, told=_say)
    except (BrokerError, ContestError, OSError) as wrong:
        raise UserError(f"the soak could not be run: {wrong}") from None
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else soak_bench.text(report))
    if failed := soak_bench.failures(report, growth):
        raise Unfinished("; ".join(failed))


def _say(what: str) -> None:
    click.echo(what, err=True)


def _fetch_postfix() -> None:
    """Before the network is left behind."""
    try:
        unpacked(POSTFIX)
    except MtaError as missing:
        raise UserError(str(missing)) from None
