"""`mailvet keys`: create, show, rotate and end keys, and set their limits."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from ops import keys
from ops.cli import keypage, usage
from ops.cli.errors import UserError
from ops.cli.keyhandover import credential_options, hand_over, minted_for
from ops.cli.keyoffice import Office, Place, office_of, office_options, place_of, place_options
from ops.cli.keyoptions import Domain, KeyId, Name, Span, When, changed, chosen, policy_options, scopes_option
from ops.cli.output import json_line
from schemas import keys as records
from schemas.keys import STANDARD, KeyCommand, KeyEvent, Kind, Policy, Scopes, TenantCommand

Pair = tuple[str, str]


@click.group("keys")
def command() -> None:
    """API keys: who may ask, how much, and how it is proven.

    A key is named TENANT_KEY. Each command is carried out by a running worker (role gate) and answered in a second or
    so; who gave it, when and why is kept for good (`mailvet keys show --history`). Exit code 1 says that it was refused
    or not answered.
    """


@command.command()
@click.argument("key", metavar="TENANT_KEY", type=KeyId())
@credential_options
@click.option("--policy", type=Name(), help="The name of one of the tenant's policies, in place of limits.")
@policy_options
@scopes_option
@click.option("--not-before", type=When(), help="When it begins.")
@click.option("--expires", type=When(), help="When it ends.")
@office_options
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
    office = office_of(options)
    minted = minted_for(key, kind, public_key, out)

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

    hand_over(office, key, minted, out, give)


def _policy(name: str | None, before: Policy, options: dict[str, Any]) -> str | Policy | None:
    """A policy's name, or limits in place of those before; None where neither was given."""
    limits = chosen(options)
    if name is not None and limits:
        raise UserError("--policy names limits that stand elsewhere: give it, or limits")
    return name or (changed(before, limits) if limits else None)


@command.command()
@click.argument("key", metavar="TENANT_KEY", type=KeyId())
@credential_options
@click.option(
    "--grace",
    type=Span(),
    default="24h",
    show_default=True,
    help="How long the credential of now stays good: 0, 1h, 24h, 7d, ...",
)
@click.option("--at", "starts_at", type=When(), help="When the new credential begins; at once by default.")
@office_options
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
    office = office_of(options)
    minted = minted_for(key, kind, public_key, out)
    grace_s = int(grace.total_seconds())

    def give() -> KeyEvent:
        return office.give(
            records.Rotate, key[0], key=key[1], credential=minted.credential, grace_s=grace_s, starts_at=starts_at
        )

    hand_over(office, key, minted, out, give)


# -- the life of a key ------------------------------------------------------------------------------------------------


def _simple(name: str, verb: type[KeyCommand], text: str) -> None:
    @command.command(name, help=text)
    @click.argument("key", metavar="TENANT_KEY", type=KeyId())
    @office_options
    def run(key: Pair, **options: Any) -> None:
        office = office_of(options)
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
@office_options
def suspend(tenant: str, **options: Any) -> None:
    """Reject all requests of a tenant, whatever its keys; --reason says why."""
    office = office_of(options)
    if office.why is None:
        raise UserError("a suspension needs its --reason")
    office.say(office.give(records.Suspend, tenant))


@command.command()
@click.argument("tenant", type=Name())
@office_options
def reinstate(tenant: str, **options: Any) -> None:
    """End the suspension of a tenant."""
    office = office_of(options)
    office.say(office.give(records.Reinstate, tenant))


def _allowance(name: str, verb: type[TenantCommand], text: str) -> None:
    @command.command(name, help=text)
    @click.argument("tenant", type=Name())
    @click.argument("domain", type=Domain("*"))
    @office_options
    def run(tenant: str, domain: str, **options: Any) -> None:
        office = office_of(options)
        office.say(office.give(verb, tenant, domain=domain))


_allowance(
    "allow",
    records.Allow,
    "Let a tenant ask for names of DOMAIN (and of all below it) that do not exist, however many; * is every domain.",
)
_allowance("disallow", records.Disallow, "End what `allow` began.")


# -- limits -----------------------------------------------------------------------------------------------------------


@command.command()
@click.argument("name", metavar="TENANT_KEY|TENANT")
@click.option("--define", type=Name(), help="Set a policy of the tenant by this name, for keys to go by.")
@click.option("--policy", "named", type=Name(), help="Let the key go by this policy of its tenant.")
@policy_options
@scopes_option
@click.option("--not-before", type=When("now"), help="When the key begins.")
@click.option("--expires", type=When("never"), help="When the key ends.")
@office_options
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
    office = office_of(options)
    limits = chosen(options)
    if "_" not in name:
        if named or scopes or not_before or expires:
            raise UserError("--policy, --scope, --not-before and --expires are of keys: name one, TENANT_KEY")
        office.say(_tenant_policy(office, Name().convert(name, None, None), define, limits))
        return
    if define:
        raise UserError("policies by name belong to tenants: name the tenant alone")
    key: Pair = KeyId().convert(name, None, None)
    if not any((limits, named, scopes, not_before, expires)):
        raise UserError("say what to change: limits such as --daily, or --policy, --scope, --not-before or --expires")
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


command.add_command(usage.command)


# -- reading ----------------------------------------------------------------------------------------------------------


@command.command("list")
@click.argument("tenant", type=Name(), required=False)
@place_options
def list_(tenant: str | None, **options: Any) -> None:
    """List keys, of one tenant or all. With --json one object a line."""
    place = place_of(options)
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
@place_options
def show(name: str, history: bool, **options: Any) -> None:
    """Show a key, or what the keys of a tenant share."""
    place = place_of(options)
    tenant, key = _named(name)
    if history:
        _show_history(place, asyncio.run(keys.read_history(place.bootstrap, place.namespace, tenant, key)))
        return
    now = datetime.now(UTC)
    if key is None:
        shared = _read(place, tenant).tenant(tenant)
        click.echo(shared.model_dump_json() if place.as_json else keypage.tenant_page(shared))
        return
    book = _book_of(place, (tenant, key))
    data = keypage.as_data(book, (tenant, key), now)
    click.echo(json_line(data) if place.as_json else keypage.page(book, (tenant, key), now))


def _show_history(place: Place, history: keys.History) -> None:
    events = history.events
    shown = [event.model_dump_json() for event in events] if place.as_json else [keypage.history(events)]
    click.echo("\n".join(shown) if events else "nothing was commanded", err=not events)
    if history.unread:
        said = f"{history.unread} records of the tenant can't be read: use the mailvet of the workers' version"
        click.echo(said, err=True)


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
