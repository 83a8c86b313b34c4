"""Commands on keys as an operator gives them, for the tests of whatever reads them."""

import secrets
from datetime import UTC, datetime
from typing import Any, TypeVar

from schemas.keys import Create, Credential, KeyCommand, Kind, TenantCommand

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)

C = TypeVar("C", bound=KeyCommand | TenantCommand)


def credential(mark: str = "a", kind: Kind = Kind.BEARER) -> Credential:
    """A credential that differs from those of other marks."""
    return Credential(kind=kind, proof=(mark * 64)[:64])


def give(verb: type[C], at: datetime = NOON, **fields: Any) -> C:
    """The command, on key k1 of acme unless said otherwise."""
    named = {"key": "k1"} if "key" in verb.model_fields else {}
    if verb is Create:
        named["credential"] = fields.pop("credential", credential())
    return verb(
        **{"command_id": secrets.token_hex(16), "tenant": "acme", "issued_at": at, "actor": "ann", **named, **fields}
    )
