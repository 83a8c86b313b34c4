"""The life of a key: what each command makes of it, as a table and pure functions of (command, records, time).

The time is when the broker took the command, so whoever reads it again decides the same. Revoked is the end: no
command leads out of it, and a name is never used twice, so no replay raises a key again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from schemas.keys import (
    MAX_ALLOWED,
    MAX_POLICIES,
    Allow,
    Change,
    Create,
    Define,
    Disallow,
    KeyCommand,
    KeyEvent,
    KeyRecord,
    Limit,
    Outcome,
    Policy,
    Refused,
    Rollback,
    Rotate,
    Status,
    Suspend,
    TenantCommand,
    TenantRecord,
    Version,
)

WINDOW = timedelta(minutes=15)
"""A command reaches the broker within this time of its making, or it is refused: an old one that is copied is too."""

MAX_LIVE = 4
"""Versions of a credential that are good at a time; each costs a signature's check."""

MAX_ENDED = 4
"""Versions that have ended and are still known, so that their holders are told so."""

_LIVING = (Status.ACTIVE, Status.DISABLED)

TRANSITIONS: Mapping[tuple[Status | None, str], Status] = MappingProxyType(
    {
        (None, "create"): Status.ACTIVE,
        **{(status, verb): status for status in _LIVING for verb in ("rotate", "rollback", "change")},
        (Status.ACTIVE, "disable"): Status.DISABLED,
        (Status.DISABLED, "disable"): Status.DISABLED,
        (Status.DISABLED, "enable"): Status.ACTIVE,
        (Status.ACTIVE, "enable"): Status.ACTIVE,
        **{(status, "revoke"): Status.REVOKED for status in Status},
    }
)
"""State and command to the state after it; whatever is not here is refused."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a command came to: the records after it, changed or not."""

    outcome: Outcome
    tenant: TenantRecord
    key: KeyRecord | None
    refused: Refused | None = None
    message: str = ""


class _Refusal(Exception):
    def __init__(self, refused: Refused, message: str) -> None:
        super().__init__(message)
        self.refused, self.message = refused, message


def apply(command: KeyCommand | TenantCommand, tenant: TenantRecord, key: KeyRecord | None, at: datetime) -> Applied:
    """What the command makes of its key and tenant; ``key`` is None where there is none of that name."""
    newest = max(tenant.commanded_at or at, at)
    key_after: KeyRecord | None
    try:
        _in_time(command.issued_at, at)
        _in_years(command)
        if isinstance(command, KeyCommand):
            key_after = _changed(key, _of_key(command, tenant, key, at), at)
            after, same = tenant, key_after is key
        else:
            after, key_after = _of_tenant(command, tenant), None
            same = after == tenant
    except _Refusal as refusal:
        kept = tenant.model_copy(update={"commanded_at": newest})
        return Applied(Outcome.REFUSED, kept, key, refusal.refused, refusal.message)
    outcome = Outcome.UNCHANGED if same else Outcome.APPLIED
    revision = tenant.revision + (after != tenant)
    return Applied(outcome, after.model_copy(update={"revision": revision, "commanded_at": newest}), key_after)


def event_of(command: KeyCommand | TenantCommand, applied: Applied, at: datetime) -> KeyEvent:
    """The answer to a command."""
    return KeyEvent(
        command_id=command.command_id,
        verb=command.verb,
        tenant=command.tenant,
        key=command.key if isinstance(command, KeyCommand) else None,
        actor=command.actor,
        why=command.why,
        issued_at=command.issued_at,
        at=at,
        outcome=applied.outcome,
        refused=applied.refused,
        message=applied.message,
        key_record=applied.key,
        tenant_record=applied.tenant,
    )


def is_live(version: Version, at: datetime) -> bool:
    """Whether it is good now or will be."""
    return version.ends_at is None or version.ends_at > at


def diagram() -> str:
    """The table as a mermaid state diagram; ``docs/keys.md`` holds it and a test compares."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, verb), after in TRANSITIONS.items():
        arrows.setdefault((before or "[*]", after), []).append(verb)
    lines = [f"    {before} --> {after}: {', '.join(verbs)}" for (before, after), verbs in arrows.items()]
    return "\n".join(["stateDiagram-v2", *lines, f"    {Status.REVOKED} --> [*]"])


# -- keys -------------------------------------------------------------------------------------------------------------


def _of_key(command: KeyCommand, tenant: TenantRecord, key: KeyRecord | None, at: datetime) -> KeyRecord:
    if isinstance(command, Create):
        return _create(command, tenant, key, at)
    if key is None:
        raise _Refusal(Refused.UNKNOWN_KEY, "there is no key of this name")
    status = TRANSITIONS.get((key.status, command.verb))
    if status is None:
        raise _Refusal(Refused.KEY_REVOKED, "the key is revoked, which is for good: create another one")
    step = _STEPS.get(type(command))
    return step(command, tenant, key, at) if step else key.model_copy(update={"status": status})


def _changed(before: KeyRecord | None, after: KeyRecord, at: datetime) -> KeyRecord:
    if before is None:
        return after
    if after == before:
        return before
    return after.model_copy(update={"revision": before.revision + 1, "changed_at": at})


def _create(command: Create, tenant: TenantRecord, key: KeyRecord | None, at: datetime) -> KeyRecord:
    if key is not None:
        if key.status in _LIVING and key.versions[-1].credential == command.credential:
            return key
        raise _Refusal(Refused.KEY_EXISTS, f"there is a key of this name, it is {key.status}: a name is used once")
    _check_policy(command.policy, tenant)
    _check_times(command.not_before, command.expires_at, at)
    first = Version(number=1, credential=command.credential, created_at=at, starts_at=at)
    return KeyRecord(
        tenant=command.tenant,
        key=command.key,
        status=TRANSITIONS[None, command.verb],
        revision=1,
        policy=command.policy,
        scopes=command.scopes,
        not_before=command.not_before,
        expires_at=command.expires_at,
        versions=(first,),
        minted=1,
        created_at=at,
        changed_at=at,
    )


def _rotate(command: Rotate, _tenant: TenantRecord, key: KeyRecord, at: datetime) -> KeyRecord:
    if key.versions[-1].credential == command.credential:
        return key
    if any(version.credential == command.credential for version in key.versions):
        raise _Refusal(Refused.CREDENTIAL_USED, "the key had this credential before: roll back, or rotate to a new one")
    starts_at = max(command.starts_at or at, at)
    ends_at = starts_at + timedelta(seconds=command.grace_s)
    number = key.minted + 1
    new = Version(number=number, credential=command.credential, created_at=at, starts_at=starts_at)
    versions = (*(_ending(version, ends_at) for version in _begun(key, at)), new)
    if sum(is_live(version, at) for version in versions) > MAX_LIVE:
        raise _Refusal(
            Refused.TOO_MANY_VERSIONS, f"{MAX_LIVE} credentials of this key are good: wait for a grace, or give none"
        )
    return key.model_copy(update={"versions": _kept(versions, at), "minted": number, "rotated_at": at})


def _rollback(_command: Rollback, _tenant: TenantRecord, key: KeyRecord, at: datetime) -> KeyRecord:
    begun = _begun(key, at)
    if len(begun) < len(key.versions):
        return key.model_copy(update={"versions": begun, "rotated_at": at})
    *others, current = begun
    back = next((version for version in reversed(others) if is_live(version, at)), None)
    if back is None:
        raise _Refusal(Refused.NOTHING_TO_ROLL_BACK, "no earlier credential is in its grace")
    rest = (version for version in others if version is not back)
    versions = (*rest, _ending(current, at), back.model_copy(update={"ends_at": None}))
    return key.model_copy(update={"versions": _kept(versions, at), "rotated_at": at})


def _change(command: Change, tenant: TenantRecord, key: KeyRecord, at: datetime) -> KeyRecord:
    after: dict[str, Any] = {}
    if command.policy is not None:
        _check_policy(command.policy, tenant)
        after["policy"] = command.policy
    if command.scopes is not None:
        after["scopes"] = command.scopes
    if command.not_before is not None:
        after["not_before"] = None if command.not_before == "now" else command.not_before
    if command.expires_at is not None:
        after["expires_at"] = None if command.expires_at == "never" else command.expires_at
    changed = key.model_copy(update=after)
    _check_times(changed.not_before, changed.expires_at, None)
    return changed


_STEPS: Mapping[type, Callable[[Any, TenantRecord, KeyRecord, datetime], KeyRecord]] = MappingProxyType(
    {Rotate: _rotate, Rollback: _rollback, Change: _change}
)


def _begun(key: KeyRecord, at: datetime) -> tuple[Version, ...]:
    """Its versions without a rotation that is only scheduled: the one before has no end then."""
    *earlier, last = key.versions
    if last.starts_at <= at:
        return key.versions
    *others, current = earlier
    return (*others, current.model_copy(update={"ends_at": None}))


def _ending(version: Version, ends_at: datetime) -> Version:
    """The version with an end, unless it has an earlier one."""
    ends_at = min(version.ends_at or ends_at, ends_at)
    return version.model_copy(update={"ends_at": ends_at})


def _kept(versions: tuple[Version, ...], at: datetime) -> tuple[Version, ...]:
    ended = [version.number for version in versions if not is_live(version, at)]
    forgotten = set(ended[:-MAX_ENDED])
    return tuple(version for version in versions if version.number not in forgotten)


# -- tenants ----------------------------------------------------------------------------------------------------------


def _of_tenant(command: TenantCommand, tenant: TenantRecord) -> TenantRecord:
    after: dict[str, Any] = {"suspended": command.why if isinstance(command, Suspend) else None}
    if isinstance(command, Limit):
        after = {"limits": command.limits}
    elif isinstance(command, Define):
        after = {"policies": _defined(command, tenant)}
    elif isinstance(command, Allow | Disallow):
        after = {"allowed": _allowed(command, tenant)}
    return tenant.model_copy(update=after)


def _defined(command: Define, tenant: TenantRecord) -> dict[str, Policy]:
    after = {**tenant.policies, command.name: command.policy}
    if len(after) > MAX_POLICIES:
        raise _Refusal(Refused.TOO_MANY_POLICIES, f"the tenant has {MAX_POLICIES} policies already: change one of them")
    return after


def _allowed(command: Allow | Disallow, tenant: TenantRecord) -> tuple[str, ...]:
    others = {*tenant.allowed} - {command.domain}
    if isinstance(command, Disallow):
        return tuple(sorted(others))
    if len(others) >= MAX_ALLOWED:
        raise _Refusal(Refused.TOO_MANY_DOMAINS, f"the tenant is allowed {MAX_ALLOWED} domains already: * is all")
    return tuple(sorted({*others, command.domain}))


# -- what is refused --------------------------------------------------------------------------------------------------


def _in_time(issued_at: datetime, at: datetime) -> None:
    if abs(at - issued_at) > WINDOW:
        raise _Refusal(
            Refused.STALE, f"more than {WINDOW.seconds // 60} minutes from the broker's clock: give the command again"
        )


def _in_years(command: KeyCommand | TenantCommand) -> None:
    """Every time of the command, and the end of its grace, is one that can be written in UTC."""
    moments = (getattr(command, name, None) for name in ("starts_at", "not_before", "expires_at"))
    try:
        for moment in moments:
            if isinstance(moment, datetime):
                moment.astimezone(UTC) + timedelta(seconds=getattr(command, "grace_s", 0))
    except OverflowError:
        raise _Refusal(Refused.BAD_TIMES, "a time lies beyond the years 1 to 9999") from None


def _check_policy(policy: str | Policy, tenant: TenantRecord) -> None:
    if isinstance(policy, str) and policy not in tenant.policies:
        raise _Refusal(Refused.UNKNOWN_POLICY, "the tenant has no policy of this name: define it first")


def _check_times(not_before: datetime | None, expires_at: datetime | None, at: datetime | None) -> None:
    begins = not_before or at
    if expires_at is not None and begins is not None and expires_at <= begins:
        raise _Refusal(Refused.BAD_TIMES, "the key would expire before it begins")
