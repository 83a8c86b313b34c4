"""`mailvet worker`: runs roles until SIGTERM."""

import logging

import click
import uvloop
from prometheus_client import CollectorRegistry, disable_created_metrics

from ops.access.rights import topics_needed
from ops.cli.collector import settle_collector
from ops.cli.config import load_settings
from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import bootstrap_option
from ops.cli.signals import stop_on_signals
from ops.cli.stacks import tell_on_signal
from ops.health import serve
from streams.app import open_worker
from streams.group import STOP_SLACK_S, WorkerFailed
from streams.installed import ROLES
from streams.kafka import StartupError, check_broker, mind_uvloop
from streams.metrics import Metrics
from streams.progress import EXIT_SLACK_S, Heartbeat
from streams.settings import Settings


@click.command()
@click.argument("what", type=click.Choice(["all"]), required=False)
@click.option("--role", type=click.Choice(ROLES), help="One role alone: each scales on its own.")
@bootstrap_option
@click.option("--metrics-port", type=click.IntRange(0, 65535), metavar="N", help="9464; 0 takes a free one.")
def command(what: str | None, role: str | None, bootstrap: str, metrics_port: int | None) -> None:
    """Run the roles that read requests and write verdicts: `mailvet worker all`, or one of them with --role.

    SIGTERM lets work in flight end (MAILVET_DRAIN_S), commits it and leaves; SIGUSR2 writes to standard error where
    every task waits. Every setting can be given in the environment: docs/settings.md.
    """
    if (what is None) == (role is None):
        raise UserError("say what to run: `mailvet worker all`, or `mailvet worker --role ROLE`")
    settings = load_settings(bootstrap_servers=bootstrap, metrics_port=metrics_port)
    _set_up_logging()
    mind_uvloop()
    try:
        uvloop.run(_run(ROLES if role is None else (role,), role or "all", settings))
    except (StartupError, ValueError) as mistake:
        raise UserError(str(mistake)) from None
    except WorkerFailed as failure:
        raise Unfinished(f"the worker stopped: {failure}; what it was working on is read again") from None


async def _run(roles: tuple[str, ...], name: str, settings: Settings) -> None:
    tell_on_signal()
    disable_created_metrics()  # type: ignore[no-untyped-call]
    metrics = Metrics(CollectorRegistry(), tenants=settings.metrics_tenants)
    with stop_on_signals() as stop:
        await check_broker(settings, topics_needed(roles, settings))
        async with (
            open_worker(roles, settings, metrics) as group,
            serve(
                settings.metrics_host,
                settings.metrics_port,
                registry=metrics.registry,
                live=lambda: group.alive,
                ready=lambda: group.ready,
            ) as address,
        ):
            settle_collector()
            group.also(Heartbeat(settings.stall_s, settings.drain_s + STOP_SLACK_S + EXIT_SLACK_S))
            ready = f"ready: role {name}, broker {settings.bootstrap_servers}, metrics {address}/metrics"
            await group.run(stop.wait(), lambda: click.echo(ready), settings.drain_s)


def _set_up_logging() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # aiokafka logs every step of a rebalance and of a broker that is away as an error; what is one ends the worker.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
