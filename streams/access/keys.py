"""What a key may do, and where keys are looked up."""

from dataclasses import dataclass
from typing import Protocol

from schemas.request import MAX_ADDRESSES
from schemas.vocabulary import Depth, Lane
from streams.access.credentials import Malformed, parse
from streams.access.quota import Limits
from streams.access.rate import Rate
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Key:
    """One key: the digests (SHA-256, hexadecimal) of the credentials that prove it, its limits and its scopes."""

    tenant: str
    key_id: str
    digests: tuple[str, ...]
    rate: Rate
    limits: Limits
    depths: frozenset[Depth] = frozenset(Depth)
    lanes: frozenset[Lane] = frozenset(Lane)
    max_addresses: int = MAX_ADDRESSES


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
        digests=(claim.digest,),
        rate=Rate(settings.dev_rate_per_s, settings.dev_rate_burst),
        limits=Limits(daily=settings.dev_daily_quota, in_flight=settings.dev_in_flight),
    )
