"""`mailvet request`: what became of a request, and the end of one."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ops.cli import requestpage
from ops.cli.config import load_settings
from ops.cli.errors import Unfinished
from ops.cli.keyfile import KEY_ID_VARIABLE, KEY_VARIABLE, read_credential
from ops.cli.keyoffice import Place, place_of, place_options, whoever
from ops.cli.keyoptions import Name, RequestId
from ops.cli.output import json_line, printable
from ops.requests.cancel import ask_to_cancel, order_to_cancel
from ops.requests.reading import find
from ops.requests.status import State, Status
from schemas.client import BearerKey, SigningKey
from schemas.result import CancelOutcome
from schemas.signing import DEFAULT_AUDIENCE

Function = Callable[..., Any]


@click.group("request")
def command() -> None:
    """One request: how it stands, and its end. It is named by the id that its client chose.

    Whose it is says the key (--key-file, else the environment), or --tenant for operators.
    """


def _options(function: Function) -> Function:
    for option in (
        click.option("--timeout", "within_s", type=click.FloatRange(min=0.1), default=60.0, show_default=True),
        click.option("--audience", default=DEFAULT_AUDIENCE, envvar="MAILVET_AUDIENCE", help="As for `submit`."),
        click.option("--key-id", help=f"TENANT_KEY, of a private key (environment: {KEY_ID_VARIABLE})."),
        click.option(
            "--key-file",
            type=click.Path(path_type=Path),
            help=f"A file with the bearer key or the private key (else environment: {KEY_VARIABLE}).",
        ),
        click.option("--tenant", type=Name(), help="Whose request it is: as an operator, without a key."),
    ):
        function = option(function)
    return place_options(function)


def _credential(options: dict[str, Any]) -> BearerKey | SigningKey:
    return read_credential(options["key_file"], options["key_id"], options["audience"])


@command.command()
@click.argument("request_id", metavar="ID", type=RequestId())
@_options
def status(request_id: str, within_s: float, tenant: str | None, **options: Any) -> None:
    """What became of a request.

    Whoever may read the tables sees all of it: admitted or why not, what is decided, what waits in which retry tier
    and until when. A tenant sees what was published of it in the last day. Exit code 1 says that nothing is known.
    """
    place = place_of(options)
    whose = tenant or _credential(options).tenant
    delays_s = load_settings(bootstrap_servers=place.bootstrap).retry_delays_s
    found = asyncio.run(find(place.bootstrap, place.namespace, whose, request_id, delays_s=delays_s, within_s=within_s))
    _show(place, found)


def _show(place: Place, found: Status) -> None:
    if place.as_json:
        click.echo(json_line(found.model_dump(mode="json")))
    if found.state is State.UNKNOWN:
        raise Unfinished(
            f"nothing is known of request {printable(found.request_id)} of {found.tenant}: it was not sent, waits for "
            "the gate, is a dead letter, or was forgotten since"
        )
    if not place.as_json:
        click.echo(requestpage.page(found))


@command.command()
@click.argument("request_id", metavar="ID", type=RequestId())
@click.option("--actor", envvar="MAILVET_ACTOR", help="Who orders it, with --tenant; USER@HOST by default.")
@_options
def cancel(request_id: str, within_s: float, tenant: str | None, actor: str | None, **options: Any) -> None:
    """End a request: what is not decided is answered `unknown`, `cancelled`, and given back; nobody is asked any more.

    Only the key that made a request may, or an operator with --tenant. Waits for the summary. To cancel what is
    finished changes nothing and ends with exit code 0; 1 says that it was refused, not known or not answered.
    """
    place = place_of(options)
    if tenant is not None:
        _order(place, tenant, request_id, actor or whoever(), within_s)
        return
    answer, summary = asyncio.run(
        ask_to_cancel(place.bootstrap, place.namespace, _credential(options), request_id, within_s=within_s)
    )
    if place.as_json:
        ends = {"cancellation": answer, "summary": summary}
        click.echo(json_line({name: each and each.model_dump(mode="json") for name, each in ends.items()}))
    if answer.outcome not in (CancelOutcome.ACCEPTED, CancelOutcome.FINISHED):
        why = f"{answer.outcome}, {answer.reason}" if answer.reason else answer.outcome
        raise Unfinished(f"not cancelled, {why}: {printable(answer.message)}")
    if answer.outcome is CancelOutcome.ACCEPTED and summary is None:
        raise Unfinished(f"it is being cancelled, but its summary did not come within {within_s:g} s")
    if not place.as_json:
        finished = f"request {printable(request_id)} is finished: nothing to cancel"
        click.echo(finished if summary is None else requestpage.ended(answer, summary))


def _order(place: Place, tenant: str, request_id: str, actor: str, within_s: float) -> None:
    delays_s = load_settings(bootstrap_servers=place.bootstrap).retry_delays_s
    ended = asyncio.run(
        order_to_cancel(
            place.bootstrap, place.namespace, tenant, request_id, by=actor, delays_s=delays_s, within_s=within_s
        )
    )
    _show(place, ended)
    if ended.state is State.REJECTED:
        raise Unfinished("not cancelled: the request was rejected")
