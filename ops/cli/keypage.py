"""Keys as people read them: a table of many, a page of one, a line of what was done."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ops.cli.output import printable
from ops.keys import Book
from schemas import signing
from schemas.keys import Credential, KeyEvent, KeyRecord, Outcome, Policy, Status, TenantRecord, Version
from streams.access.keylife import is_live

HEADING = ("KEY", "TYPE", "STATUS", "POLICY", "CREDENTIALS", "CREATED", "LAST USED", "EXPIRES")


def status_of(key: KeyRecord, tenant: TenantRecord, now: datetime) -> str:
    """Whether it is served now, in a word: its state, or what stands above it."""
    if key.status is Status.REVOKED:
        return key.status
    if tenant.suspended is not None:
        return "suspended"
    if key.status is Status.ACTIVE and key.not_before is not None and now < key.not_before:
        return "not yet"
    if key.status is Status.ACTIVE and key.expires_at is not None and now >= key.expires_at:
        return "expired"
    return key.status


def fingerprint(credential: Credential) -> str:
    """Tells credentials apart at a glance; the whole stands in ``--json``."""
    return f"{credential.kind}:{credential.proof[:16]}"


def table(book: Book, names: Iterable[tuple[str, str]], now: datetime) -> str:
    """One line a key."""
    rows = [HEADING, *(_row(book, name, now) for name in sorted(names))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADING))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _row(book: Book, name: tuple[str, str], now: datetime) -> tuple[str, ...]:
    key = book.keys[name]
    return (
        signing.key_id(*name),
        key.versions[-1].credential.kind,
        status_of(key, book.tenant(name[0]), now),
        key.policy if isinstance(key.policy, str) else "own",
        str(sum(is_live(version, now) for version in key.versions)),
        moment(key.created_at),
        moment(book.used.get(name)),
        moment(key.expires_at),
    )


def page(book: Book, name: tuple[str, str], now: datetime) -> str:
    """All that is known of a key."""
    key, tenant = book.keys[name], book.tenant(name[0])
    named = f" (policy {key.policy})" if isinstance(key.policy, str) else ""
    lines = [
        ("key", signing.key_id(*name)),
        ("status", status_of(key, tenant, now)),
        ("limits", limits(book.policy(name)) + named),
        ("of the tenant", limits(tenant.limits)),
        ("scopes", _scopes(key)),
        ("begins", moment(key.not_before)),
        ("expires", moment(key.expires_at)),
        ("created", moment(key.created_at)),
        ("rotated", moment(key.rotated_at)),
        ("last used", moment(book.used.get(name))),
        *(("credential", _version(version, now)) for version in key.versions),
    ]
    return _aligned(lines)


def tenant_page(tenant: TenantRecord) -> str:
    """What the keys of a tenant share."""
    lines = [
        ("tenant", tenant.tenant),
        ("suspended", printable(tenant.suspended) if tenant.suspended is not None else "no"),
        ("limits", limits(tenant.limits)),
        ("allowed", ", ".join(tenant.allowed) or "no domain beyond what is usual"),
        *((f"policy {name}", limits(policy)) for name, policy in sorted(tenant.policies.items())),
    ]
    return _aligned(lines)


def limits(policy: Policy) -> str:
    """A policy in one line."""
    rate = "any rate" if policy.rate_per_s is None else f"{policy.rate_per_s:g}/s, {policy.burst:,} at once"
    caps = ((policy.daily, "a day"), (policy.monthly, "a month"), (policy.in_flight, "in flight"))
    return ", ".join([rate, *(f"{cap:,} {name}" for cap, name in caps if cap), f"{policy.max_addresses:,} a request"])


def said(event: KeyEvent) -> str:
    """What became of a command, in one line."""
    what = f"{event.verb} {event.tenant if event.key is None else signing.key_id(event.tenant, event.key)}"
    if event.outcome is Outcome.REFUSED:
        return f"{what}: refused, {event.refused}: {printable(event.message)}"
    return f"{what}: {'done' if event.outcome is Outcome.APPLIED else 'nothing to change'}"


def history(events: Sequence[KeyEvent]) -> str:
    """The audit trail, a line an event."""
    return "\n".join(
        f"{moment(event.at)}  {said(event)}  by {printable(event.actor)}"
        + (f"  ({printable(event.why)})" if event.why else "")
        for event in events
    )


def moment(when: datetime | None) -> str:
    """A time in UTC to the second, or a hyphen."""
    return "-" if when is None else f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def as_data(book: Book, name: tuple[str, str], now: datetime) -> dict[str, Any]:
    """A key for programs: its record, what it shares, and when it was last used."""
    key, tenant = book.keys[name], book.tenant(name[0])
    return {
        "key_id": signing.key_id(*name),
        "standing": status_of(key, tenant, now),
        **key.model_dump(mode="json"),
        "tenant_limits": tenant.limits.model_dump(mode="json"),
        "suspended": tenant.suspended,
        "last_used_at": moment(book.used[name]) if name in book.used else None,
    }


def _scopes(key: KeyRecord) -> str:
    kinds = (("depth", key.scopes.depths), ("lane", key.scopes.lanes), ("option", key.scopes.options))
    return ", ".join(f"{kind}:{name}" for kind, names in kinds for name in sorted(names))


def _version(version: Version, now: datetime) -> str:
    begins = f"from {moment(version.starts_at)}"
    ends = "" if version.ends_at is None else f" until {moment(version.ends_at)}"
    over = "" if is_live(version, now) else ", ended"
    return f"{version.number} {fingerprint(version.credential)} {begins}{ends}{over}"


def _aligned(lines: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines)
