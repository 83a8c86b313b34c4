"""Who asks in a benchmark: keys of tenants, made as an operator makes them."""

import secrets
from datetime import UTC, datetime

from ops import keys
from ops.cli.keyfile import Minted, mint
from schemas.client import Presenter
from schemas.keys import Create, Kind, Policy
from streams.settings import Settings

KEY = "k1"


def create(minted: Minted, tenant: str, policy: Policy) -> Create:
    """The command that makes the tenant's key :data:`KEY`."""
    return Create(
        command_id=secrets.token_hex(16),
        tenant=tenant,
        key=KEY,
        issued_at=datetime.now(UTC),
        actor="bench",
        credential=minted.credential,
        policy=policy,
    )


async def holder(settings: Settings, tenant: str, kind: Kind, policy: Policy, timeout_s: float) -> Presenter:
    """One who asks with a new key, which a gate that runs has taken within ``timeout_s`` seconds."""
    minted = mint(kind, tenant, KEY)
    await keys.carry_out(settings.bootstrap_servers, settings.namespace, create(minted, tenant, policy), timeout_s)
    return minted.presenter(settings.audience)
