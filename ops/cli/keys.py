"""`mailvet keys`: create, show, rotate and end keys, and set their limits."""

import asyncio
import contextlib
import getpass
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from ops import keys
from ops.cli import keypage
from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import bootstrap_option, silence_client
from ops.cli.keyfile import Minted, brought, mint
from ops.cli.keyoptions import KeyId, Name, Span, When, changed, chosen, policy_options, scopes_option
from ops.cli.output import json_line, printable
from schemas import keys as records
from schemas.keys import STANDARD, KeyCommand, KeyEvent, Kind, Outcome, Policy, Scopes, TenantCommand

Function = Callable[..., Any]
Pair = tuple[str, str]


@click.group("keys")
def command() -> None:
    """API keys: who may ask, how much, and how it is proven.

    A key is named TENANT_KEY. Each command is carried out by a running worker (role gate) and answered in a second or
    so; who gave it, when and why is kept for good (`mailvet keys show --history`). Exit code 1 says that it was refused
    or not answered.
    """


# -- what commands have in common -------------------------------------------------------------------------------------


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
            first = error.errors(include_url=False, include_input=False)[0]
            raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
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


def _place(function: Function) -> Function:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="JSON in place of text."),
        click.option("--namespace", default="", envvar="MAILVET_NAMESPACE", help="Of the installation."),
        bootstrap_option,
    ):
        function = option(function)
    return function


def _office(function: Function) -> Function:
    for option in (
        click.option("--timeout", "within_s", type=click.FloatRange(min=0.1), default=15.0, show_default=True),
        click.option("--command-id", help="That of a command whose answer never came: it is carried out once."),
        click.option("--reason", "why", help="Why, for the audit trail."),
        click.option("--actor", envvar="MAILVET_ACTOR", help="Who, for the audit trail; USER@HOST by default."),
    ):
        function = option(function)
    return _place(function)


def _at(options: dict[str, Any]) -> Place:
    silence_client()
    return Place(*(options.pop(name) for name in ("bootstrap", "namespace", "as_json")))


def _in_office(options: dict[str, Any]) -> Office:
    place = _at(options)
    names = ("actor", "why", "command_id", "within_s")
    actor, why, command_id, within_s = (options.pop(name) for name in names)
    return Office(
        place.bootstrap,
        place.namespace,
        place.as_json,
        actor or _whoever(),
        why,
        command_id or secrets.token_hex(16),
        within_s,
    )


def _whoever() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    return printable(f"{user}@{socket.gethostname()}")


# -- credentials ------------------------------------------------------------------------------------------------------


def _credential(function: Function) -> Function:
    for option in (
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="A new file for the secret, which only you can read; else it is shown here, once.",
        ),
        click.option(
            "--public-key",
            type=click.Path(path_type=Path),
            help="An Ed25519 public key in PEM that its holder made: we never see the private one.",
        ),
        click.option(
            "--type",
            "kind",
            type=click.Choice(Kind, case_sensitive=False),
            default=Kind.SIGNATURE,
            show_default=True,
            help="How requests are proven; a bearer key lies in the topic of requests for its retention.",
        ),
    ):
        function = option(function)
    return function


def _minted(key: Pair, kind: Kind, public_key: Path | None, out: Path | None) -> Minted:
    if public_key is None:
        return mint(kind, *key)
    if kind is not Kind.SIGNATURE or out is not None:
        raise UserError("--public-key is for keys of type signature, and there is no secret to write with --out")
    return brought(public_key)


def _hand_over(office: Office, key: Pair, minted: Minted, out: Path | None, give: Callable[[], KeyEvent]) -> None:
    """Give the command, and only after its answer the secret; a file for it is made before anything is sent."""
    with _secret_file(out) as write:
        event = give()
        record = event.key_record
        known = record is not None and any(each.credential == minted.credential for each in record.versions)
        if not known:
            raise Unfinished(
                "the command was carried out before, and its secret went with that attempt: `mailvet keys rotate "
                f"{'_'.join(key)} --grace 0` makes another one"
            )
        if minted.secret is None or write is not None:
            if minted.secret is not None and write is not None:
                write(minted.secret)
            office.say(event)
        elif office.as_json:
            office.say(event, secret=minted.secret)
        else:
            click.echo(f"{keypage.said(event)}; the secret is shown this once:", err=True)
            click.echo(minted.secret, nl=False)


@contextlib.contextmanager
def _secret_file(path: Path | None) -> Iterator[Callable[[str], None] | None]:
    if path is None:
        yield None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UserError(f"{path} can't be made: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        try:
            yield file.write  # type: ignore[misc]
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@command.command()
@click.argument("key", metavar="TENANT_KEY", type=KeyId())
@_credential
@click.option("--policy", type=Name(), help="The name of one of the tenant's policies, in place of limits.")
@policy_options
@scopes_option
@click.option("--not-before", type=When(), help="When it begins.")
@click.option("--expires", type=When(), help="When it ends.")
@_office
def create(
    *,
    key: Pair,
    kind: Kind,
    public_key: Path | None,
    out: Path | None,
    policy: str | None,
    scopes: Scopes | None,
    not_before: datetime | None,
    expires: datetime | None,
    **options: Any,
) -> None:
    """Create a key. Without limits it has 50 requests a second, 100 at once, and 100,000 addresses in flight."""
    office = _in_office(options)
    minted = _minted(key, kind, public_key, out)

    def give() -> KeyEvent:
        return office.give(
            records.Create,
            key[0],
            key=key[1],
            credential=minted.credential,
            policy=_policy(policy, STANDARD, options) or STANDARD,
            scopes=scopes or Scopes(),
            not_before=not_before,
            expires_at=expires,
        )

    _hand_over(office, key, minted, out, give)


def _policy(name: str | None, before: Policy, options: dict[str, Any]) -> str | Policy | None:
    """A policy's name, or limits in place of those before; None where neither was given."""
    limits = chosen(options)
    if name is not None and limits:
        raise UserError("--policy names limits that stand elsewhere: give it, or limits")
    return name or (changed(before, limits) if limits else None)


@command.command()
@click.argument("key", metavar="TENANT_KEY", type=KeyId())
@_credential
@click.option(
    "--grace",
    type=Span(),
    default="24h",
    show_default=True,
    help="How long the credential of now stays good: 0, 1h, 24h, 7d, ...",
)
@click.option("--at", "starts_at", type=When(), help="When the new credential begins; at once by default.")
@_office
def rotate(
    *,
    key: Pair,
    kind: Kind,
    public_key: Path | None,
    out: Path | None,
    grace: timedelta,
    starts_at: datetime | None,
    **options: Any,
) -> None:
    """Give a key a new credential; the old one stays good for the grace. It may be of another type."""
    office = _in_office(options)
    minted = _minted(key, kind, public_key, out)
    grace_s = int(grace.total_seconds())

    def give() -> KeyEvent:
        return office.give(
            records.Rotate, key[0], key=key[1], credential=minted.credential, grace_s=grace_s, starts_at=starts_at
        )

    _hand_over(office, key, minted, out, give)


# -- the life of a key ------------------------------------------------------------------------------------------------


def _simple(name: str, verb: type[KeyCommand], text: str) -> None:
    @command.command(name, help=text)
    @click.argument("key", metavar="TENANT_KEY", type=KeyId())
    @_office
    def run(key: Pair, **options: Any) -> None:
        office = _in_office(options)
        office.say(office.give(verb, key[0], key=key[1]))


_simple(
    "rollback",
    records.Rollback,
    "Back to the credential before the last rotation, while its grace lasts; calls off one that is scheduled.",
)
_simple("revoke", records.Revoke, "End a key for good, within two seconds. Its name is never used again.")
_simple("disable", records.Disable, "Let a key rest: its requests are rejected until it is enabled.")
_simple("enable", records.Enable, "End what `disable` began.")


@command.command()
@click.argument("tenant", type=Name())
@_office
def suspend(tenant: str, **options: Any) -> None:
    """Reject all requests of a tenant, whatever its keys; --reason says why."""
    office = _in_office(options)
    if office.why is None:
        raise UserError("a suspension needs its --reason")
    office.say(office.give(records.Suspend, tenant))


@command.command()
@click.argument("tenant", type=Name())
@_office
def reinstate(tenant: str, **options: Any) -> None:
    """End the suspension of a tenant."""
    office = _in_office(options)
    office.say(office.give(records.Reinstate, tenant))


# -- limits -----------------------------------------------------------------------------------------------------------


@command.command()
@click.argument("name", metavar="TENANT_KEY|TENANT")
@click.option("--define", type=Name(), help="Set a policy of the tenant by this name, for keys to go by.")
@click.option("--policy", "named", type=Name(), help="Let the key go by this policy of its tenant.")
@policy_options
@scopes_option
@click.option("--not-before", type=When("now"), help="When the key begins.")
@click.option("--expires", type=When("never"), help="When the key ends.")
@_office
def policy(
    *,
    name: str,
    define: str | None,
    named: str | None,
    scopes: Scopes | None,
    not_before: datetime | str | None,
    expires: datetime | str | None,
    **options: Any,
) -> None:
    """Change what a key may do, or what all keys of a tenant may do together, or a policy by name (--define).

    Limits that are not given stay as they are.
    """
    office = _in_office(options)
    limits = chosen(options)
    if "_" not in name:
        if named or scopes or not_before or expires:
            raise UserError("--policy, --scope, --not-before and --expires are of keys: name one, TENANT_KEY")
        office.say(_tenant_policy(office, Name().convert(name, None, None), define, limits))
        return
    if define:
        raise UserError("policies by name belong to tenants: name the tenant alone")
    key: Pair = KeyId().convert(name, None, None)
    before = _book_of(office, key).policy(key) if limits else STANDARD
    event = office.give(
        records.Change,
        key[0],
        key=key[1],
        policy=_policy(named, before, options),
        scopes=scopes,
        not_before=not_before,
        expires_at=expires,
    )
    office.say(event)


def _tenant_policy(office: Office, tenant: str, define: str | None, limits: dict[str, Any]) -> KeyEvent:
    if not limits:
        raise UserError("say what to limit: --rate, --burst, --daily, --monthly, --in-flight or --max-addresses")
    before = _read(office, tenant).tenant(tenant)
    if define is None:
        return office.give(records.Limit, tenant, limits=changed(before.limits, limits))
    policy = changed(before.policies.get(define, STANDARD), limits)
    return office.give(records.Define, tenant, name=define, policy=policy)


# -- reading ----------------------------------------------------------------------------------------------------------


@command.command("list")
@click.argument("tenant", type=Name(), required=False)
@_place
def list_(tenant: str | None, **options: Any) -> None:
    """List keys, of one tenant or all. With --json one object a line."""
    place = _at(options)
    book, now = _read(place, tenant), datetime.now(UTC)
    if place.as_json:
        for name in sorted(book.keys):
            click.echo(json_line(keypage.as_data(book, name, now)))
    elif book.keys:
        click.echo(keypage.table(book, book.keys, now))
    else:
        click.echo("no keys", err=True)


@command.command()
@click.argument("name", metavar="TENANT_KEY|TENANT")
@click.option("--history", is_flag=True, help="What was commanded, by whom, when and why.")
@_place
def show(name: str, history: bool, **options: Any) -> None:
    """Show a key, or what the keys of a tenant share."""
    place = _at(options)
    tenant, key = _named(name)
    if history:
        events = asyncio.run(keys.read_history(place.bootstrap, place.namespace, tenant, key))
        shown = [event.model_dump_json() for event in events] if place.as_json else [keypage.history(events)]
        click.echo("\n".join(shown) if events else "nothing was commanded", err=not events)
        return
    now = datetime.now(UTC)
    if key is None:
        shared = _read(place, tenant).tenant(tenant)
        click.echo(shared.model_dump_json() if place.as_json else keypage.tenant_page(shared))
        return
    book = _book_of(place, (tenant, key))
    data = keypage.as_data(book, (tenant, key), now)
    click.echo(json_line(data) if place.as_json else keypage.page(book, (tenant, key), now))


def _named(name: str) -> tuple[str, str | None]:
    if "_" not in name:
        return Name().convert(name, None, None), None
    key: Pair = KeyId().convert(name, None, None)
    return key


def _read(place: Place, tenant: str | None) -> keys.Book:
    return asyncio.run(keys.read_book(place.bootstrap, place.namespace, tenant))


def _book_of(place: Place, key: Pair) -> keys.Book:
    book = _read(place, key[0])
    if key not in book.keys:
        raise UserError(f"there is no key {'_'.join(key)}: `mailvet keys list {key[0]}` shows those of the tenant")
    return book
