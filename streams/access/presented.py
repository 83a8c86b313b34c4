"""The credential that a request carries, from its headers to where it is checked. Pure.

Intake can't check it, for keys stand with their tenants: it reads what is claimed and hands on what admission needs.
Of a bearer key that is its digest, and the key itself goes no further.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from schemas import signing
from schemas.keys import Kind
from schemas.signing import Malformed
from streams.access import credentials, standing
from streams.access.keys import Key, Proof

KEY_ID = signing.KEY_ID_HEADER
"""On its way to admission it holds the key's name alone: the tenant is the record's key."""

DIGEST = "mailvet-key-sha256"


@dataclass(frozen=True, slots=True)
class Presented:
    """Who a request says it is from, and the proof, not checked yet. ``signed_at_ms`` is None for a bearer key."""

    kind: Kind
    tenant: str
    key: str
    digest: str = ""
    signed_at_ms: int | None = None
    signature: bytes = b""
    headers: tuple[tuple[str, bytes], ...] = ()
    """For admission."""

    def proven(self, key: Key | None, message: Callable[[int], bytes]) -> Proof | None:
        """The credential of the key that this proves. ``message``: what was signed, by the time of signing."""
        if self.signed_at_ms is None:
            return standing.by_digest(key, self.digest)
        signed_at_ms = self.signed_at_ms
        return standing.by_signature(key, self.signature, lambda: message(signed_at_ms))


def of_client(headers: Mapping[str, bytes], repeated: Collection[str]) -> Presented:
    """What a client's record carries: exactly one credential, each of its headers exactly once.

    Raises:
        Malformed: none, two kinds of them, or one that can't be right; the sentence quotes nothing.
    """
    names = [name.casefold() for name in (*headers, *repeated)]
    bearer, signed = credentials.HEADER in names, any(name in names for name in signing.HEADERS)
    if bearer and signed:
        raise Malformed("the request has a bearer key and a signature: choose one")
    if signed:
        return _signed(headers, repeated)
    if not bearer:
        raise Malformed(f"no credential: the header {credentials.HEADER} is missing, and so is a signature")
    return _bearer(signing.single(headers, repeated, credentials.HEADER))


def of_intake(tenant: str, headers: Mapping[str, bytes]) -> Presented:
    """What intake handed on. Raises :class:`Malformed` for what it never wrote."""
    key = _text(headers.get(KEY_ID, b""))
    if signing.SIGNATURE_HEADER not in headers:
        return Presented(Kind.BEARER, tenant, key, digest=_text(headers.get(DIGEST, b"")))
    return _signed({**headers, KEY_ID: signing.key_id(tenant, key).encode()}, ())


def _bearer(raw: bytes) -> Presented:
    claim = credentials.parse(_text(raw))
    kept = ((KEY_ID, claim.key_id.encode()), (DIGEST, claim.digest.encode()))
    return Presented(Kind.BEARER, claim.tenant, claim.key_id, digest=claim.digest, headers=kept)


def _signed(headers: Mapping[str, bytes], repeated: Collection[str]) -> Presented:
    claim = signing.read(headers, repeated)
    kept = tuple((name, headers[name]) for name in (signing.SIGNED_AT_HEADER, signing.SIGNATURE_HEADER))
    return Presented(
        Kind.SIGNATURE,
        claim.tenant,
        claim.key,
        signed_at_ms=claim.signed_at_ms,
        signature=claim.signature,
        headers=((KEY_ID, claim.key.encode()), *kept),
    )


def _text(raw: bytes) -> str:
    """ASCII, or nothing: whatever else stands there is no name of ours."""
    return raw.decode() if raw.isascii() else ""
