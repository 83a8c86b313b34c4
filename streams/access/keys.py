"""What a key may do, as admission sees it, and where keys are looked up."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from schemas.keys import OPTIONS, KeyRecord, Kind, OptionName, Policy, Status, TenantRecord
from schemas.request import MAX_ADDRESSES
from schemas.vocabulary import Depth, Lane
from streams.access.credentials import Malformed, parse
from streams.access.quota import Limits
from streams.access.rate import Rate
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Proof:
    """One version of a credential, its times in milliseconds since 1970. ``value``: as in :class:`Credential`."""

    kind: Kind
    value: str
    starts_ms: int = 0
    ends_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Allowance:
    """Limits of a key, or of a tenant's keys together; ``rate`` is None without one."""

    rate: Rate | None = None
    limits: Limits = field(default_factory=Limits)
    max_addresses: int = MAX_ADDRESSES

    @property
    def most(self) -> int:
        """The largest request that can ever be admitted."""
        return min(self.max_addresses, self.limits.in_flight or self.max_addresses)


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what proves it, where it is in its life, its limits and its scopes."""

    tenant: str
    key_id: str
    proofs: tuple[Proof, ...]
    own: Allowance
    shared: Allowance = field(default_factory=Allowance)
    """Of all keys of the tenant together."""
    status: Status = Status.ACTIVE
    suspended: bool = False
    starts_ms: int = 0
    expires_ms: int | None = None
    depths: frozenset[Depth] = frozenset(Depth)
    lanes: frozenset[Lane] = frozenset(Lane)
    options: frozenset[OptionName] = OPTIONS

    def under(self, tenant: TenantRecord) -> "Key":
        """The key with what all keys of its tenant share."""
        return replace(self, shared=allowance_of(tenant.limits), suspended=tenant.suspended is not None)

    def known(self, kind: Kind) -> tuple[Proof, ...]:
        """The credentials of this kind, the newest first; those that have ended too."""
        return tuple(proof for proof in reversed(self.proofs) if proof.kind is kind)


class KeyStore(Protocol):
    """Where the gate looks a key up; local and at once, for admission does no I/O."""

    def find(self, tenant: str, key_id: str) -> Key | None:
        """The key, or ``None`` where there is none of this name."""


class ConfiguredKey:
    """The one key of the configuration (``MAILVET_DEV_KEY``); without it no request is admitted."""

    def __init__(self, settings: Settings) -> None:
        token = settings.dev_key.get_secret_value()
        self._key = _configured(token, settings) if token else None

    def find(self, tenant: str, key_id: str) -> Key | None:
        """The configured key, when that is its name."""
        key = self._key
        return key if key is not None and (key.tenant, key.key_id) == (tenant, key_id) else None


def _configured(token: str, settings: Settings) -> Key:
    try:
        claim = parse(token)
    except Malformed as malformed:
        raise ValueError(f"MAILVET_DEV_KEY: {malformed}") from None
    return Key(
        tenant=claim.tenant,
        key_id=claim.key_id,
        proofs=(Proof(Kind.BEARER, claim.digest),),
        own=Allowance(
            Rate(settings.dev_rate_per_s, settings.dev_rate_burst),
            Limits(daily=settings.dev_daily_quota, in_flight=settings.dev_in_flight),
        ),
    )


def key_of(record: KeyRecord, tenant: TenantRecord) -> Key:
    """The key that two records describe."""
    policy = tenant.policies[record.policy] if isinstance(record.policy, str) else record.policy
    key = Key(
        tenant=record.tenant,
        key_id=record.key,
        proofs=tuple(
            Proof(version.credential.kind, version.credential.proof, _ms(version.starts_at), _end(version.ends_at))
            for version in record.versions
        ),
        own=allowance_of(policy),
        status=record.status,
        starts_ms=0 if record.not_before is None else _ms(record.not_before),
        expires_ms=_end(record.expires_at),
        depths=record.scopes.depths,
        lanes=record.scopes.lanes,
        options=record.scopes.options,
    )
    return key.under(tenant)


def allowance_of(policy: Policy) -> Allowance:
    """A policy as admission applies it."""
    rate = None if policy.rate_per_s is None else Rate(policy.rate_per_s, policy.burst)
    limits = Limits(daily=policy.daily, monthly=policy.monthly, in_flight=policy.in_flight)
    return Allowance(rate, limits, policy.max_addresses)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _end(moment: datetime | None) -> int | None:
    return None if moment is None else _ms(moment)
