"""What all commands on keys have in common: where the installation is, in whose name they are given, and why."""

import asyncio
import getpass
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from pydantic import ValidationError

from ops import keys
from ops.cli import keypage
from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import bootstrap_option, silence_client
from ops.cli.keyoptions import first_problem
from ops.cli.output import json_line, printable
from schemas.keys import KeyCommand, KeyEvent, Outcome, TenantCommand

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an installation is."""

    bootstrap: str
    namespace: str
    as_json: bool


@dataclass(frozen=True, slots=True)
class Office(Place):
    """Where and in whose name commands are given."""

    actor: str
    why: str | None
    command_id: str
    within_s: float

    def give(self, verb: Callable[..., KeyCommand | TenantCommand], tenant: str, **fields: Any) -> KeyEvent:
        """Give a command and return its answer. Raises :class:`Unfinished` where it was refused."""
        try:
            given = verb(
                command_id=self.command_id,
                tenant=tenant,
                issued_at=datetime.now(UTC),
                actor=self.actor,
                **({"why": self.why} if self.why is not None else {}),
                **fields,
            )
        except ValidationError as error:
            raise UserError(first_problem(error)) from None
        event = asyncio.run(keys.carry_out(self.bootstrap, self.namespace, given, self.within_s))
        if (event.verb, event.key) != (given.verb, fields.get("key")):
            raise UserError("--command-id was that of another command, which was answered long ago")
        if event.outcome is Outcome.REFUSED:
            if self.as_json:
                click.echo(event.model_dump_json())
            raise Unfinished(printable(keypage.said(event)))
        return event

    def say(self, event: KeyEvent, **more: Any) -> None:
        """Show what was done: a line, or the event as JSON."""
        click.echo(json_line({**event.model_dump(mode="json"), **more}) if self.as_json else keypage.said(event))


def place_options(function: Function) -> Function:
    """``--bootstrap``, ``--namespace``, ``--json``."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="JSON in place of text."),
        click.option("--namespace", default="", envvar="MAILVET_NAMESPACE", help="Of the installation."),
        bootstrap_option,
    ):
        function = option(function)
    return function


def office_options(function: Function) -> Function:
    """The options of a :class:`Place`, and ``--actor``, ``--reason``, ``--command-id``, ``--timeout``."""
    for option in (
        click.option("--timeout", "within_s", type=click.FloatRange(min=0.1), default=15.0, show_default=True),
        click.option("--command-id", help="That of a command whose answer never came: it is carried out once."),
        click.option("--reason", "why", help="Why, for the audit trail."),
        click.option("--actor", envvar="MAILVET_ACTOR", help="Who, for the audit trail; USER@HOST by default."),
    ):
        function = option(function)
    return place_options(function)


def place_of(options: dict[str, Any]) -> Place:
    """Takes the options of a place out of ``options``."""
    silence_client()
    return Place(*(options.pop(name) for name in ("bootstrap", "namespace", "as_json")))


def office_of(options: dict[str, Any]) -> Office:
    """Takes the options of an office out of ``options``."""
    place = place_of(options)
    names = ("actor", "why", "command_id", "within_s")
    actor, why, command_id, within_s = (options.pop(name) for name in names)
    return Office(
        place.bootstrap,
        place.namespace,
        place.as_json,
        actor or whoever(),
        why,
        command_id or secrets.token_hex(16),
        within_s,
    )


def whoever() -> str:
    """USER@HOST, as far as the machine tells."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    return printable(f"{user}@{socket.gethostname()}")
