"""Who asks, and whether it is served at all: credentials compared, then the state of the key. Pure."""

from collections.abc import Callable
from datetime import UTC, datetime

from schemas import signing
from schemas.keys import Kind, Status
from schemas.vocabulary import Reason
from streams.access import credentials
from streams.access.decisions import Refusal
from streams.access.keys import Key, Proof

STANDING = frozenset({Reason.KEY_REVOKED, Reason.SUSPENDED, Reason.KEY_DISABLED, Reason.KEY_EXPIRED})
"""Reasons that speak of the key and not of the request."""

_NOBODY = Proof(Kind.BEARER, "")


def by_digest(key: Key | None, presented: str) -> Proof | None:
    """The credential that a bearer key proves; a key that is not known costs the same comparison as one that is."""
    found = None
    for proof in key.known(Kind.BEARER) if key is not None else (_NOBODY,):
        if credentials.matches(presented, (proof.value,)) and found is None:
            found = proof
    return found if found is not _NOBODY else None


def by_signature(key: Key | None, signature: bytes, message: Callable[[], bytes]) -> Proof | None:
    """The credential that signed the message, the newest first: about 0.1 ms for each that is tried."""
    proofs = key.known(Kind.SIGNATURE) if key is not None else ()
    signed = message() if proofs else b""
    return next((proof for proof in proofs if signing.verify(bytes.fromhex(proof.value), signature, signed)), None)


def standing(key: Key, proof: Proof, arrived_ms: int) -> Refusal | None:
    """Why a key is not served, if so. What the clock ends is judged by when the request arrived at the broker.

    So a request that waited for us is served as it would have been at once; revoking, disabling and suspending hold
    from the moment of the command.
    """
    if key.status is Status.REVOKED:
        return Refusal(Reason.KEY_REVOKED, "this key is revoked, for good: ask for another one")
    if key.suspended:
        return Refusal(Reason.SUSPENDED, "this tenant is suspended: ask the operator")
    if key.status is Status.DISABLED:
        return Refusal(Reason.KEY_DISABLED, "this key is disabled: ask the operator")
    return _by_the_clock(key, proof, arrived_ms)


def _by_the_clock(key: Key, proof: Proof, arrived_ms: int) -> Refusal | None:
    starts_ms = max(key.starts_ms, proof.starts_ms)
    if arrived_ms < starts_ms:
        return Refusal(Reason.KEY_DISABLED, f"this key begins at {_at(starts_ms)}", starts_ms - arrived_ms)
    if key.expires_ms is not None and arrived_ms >= key.expires_ms:
        return Refusal(Reason.KEY_EXPIRED, f"this key expired at {_at(key.expires_ms)}")
    if proof.ends_ms is not None and arrived_ms >= proof.ends_ms:
        return Refusal(Reason.KEY_EXPIRED, f"this credential was replaced at {_at(proof.ends_ms)}: use the newer one")
    return None


def _at(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
