"""Requests signed with Ed25519 (RFC 8032): what is signed, in which headers it travels, how it is read. No I/O.

What is signed is seven parts, each after its length in 4 bytes, big-endian, so that no two requests give the same
bytes: :data:`PROTOCOL`, the audience (the installation's name), the topic as the producer names it, the key id,
milliseconds since 1970 in decimal digits, the request id, and the 32 bytes of the SHA-256 of the record's value. Text
is UTF-8. Vectors for other languages: ``schemas/signing_vectors.json``.

The key id is ``<tenant>_<key>``: neither name may hold an underscore, so it is read in one way, as a bearer key is.
"""

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from schemas.base import KEY_NAME_PATTERN

PROTOCOL = "mailvet-v1"

KEY_ID_HEADER = "mailvet-key-id"
SIGNED_AT_HEADER = "mailvet-signed-at"
SIGNATURE_HEADER = "mailvet-signature"
HEADERS = (KEY_ID_HEADER, SIGNED_AT_HEADER, SIGNATURE_HEADER)
"""The record headers of a signed request, each exactly once: key id, milliseconds in decimal digits, base64."""

DEFAULT_AUDIENCE = "mailvet"
"""The name of an installation that was given none."""

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
LAST_MS = 253_402_300_799_999
"""The end of the year 9999: no time that is signed lies behind it."""

_KEY_ID = re.compile(rf"({KEY_NAME_PATTERN})_({KEY_NAME_PATTERN})", re.ASCII)
_MILLISECONDS = re.compile(rb"0|[1-9][0-9]{0,14}")
_SIGNATURE = re.compile(rb"[A-Za-z0-9+/]{85}[AQgw]==")
# Longer than any PEM of one Ed25519 key, with room for text before it (RFC 7468, 5.2).
_MAX_PEM_BYTES = 4096


class Malformed(ValueError):
    """What was presented can't be what it claims to be; the sentence says why and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the headers of a signed request say: nothing is proven until :func:`verify` has said so."""

    tenant: str
    key: str
    signed_at_ms: int
    signature: bytes

    @property
    def key_id(self) -> str:
        """The id that was signed."""
        return key_id(self.tenant, self.key)


def key_id(tenant: str, key: str) -> str:
    """The name of a key among all tenants' keys."""
    return f"{tenant}_{key}"


def split_key_id(text: str) -> tuple[str, str]:
    """Tenant and key of a key id. Raises :class:`Malformed`."""
    match = _KEY_ID.fullmatch(text)
    if match is None:
        raise Malformed("a key id has the form <tenant>_<key>")
    return match[1], match[2]


def message(*, audience: str, topic: str, key_id: str, signed_at_ms: int, request_id: str, value: bytes) -> bytes:
    """The bytes to sign for the record ``value``."""
    texts = (PROTOCOL, audience, topic, key_id, str(signed_at_ms), request_id)
    parts = (*(text.encode() for text in texts), hashlib.sha256(value).digest())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def sign(
    private_key: Ed25519PrivateKey,
    *,
    audience: str,
    topic: str,
    key_id: str,
    signed_at_ms: int,
    request_id: str,
    value: bytes,
) -> list[tuple[str, bytes]]:
    """The headers that prove the record ``value``; a record that is sent again may keep them."""
    signed = message(
        audience=audience,
        topic=topic,
        key_id=key_id,
        signed_at_ms=signed_at_ms,
        request_id=request_id,
        value=value,
    )
    proofs = (key_id.encode(), str(signed_at_ms).encode(), b64encode(private_key.sign(signed)))
    return list(zip(HEADERS, proofs, strict=True))


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of this key (32 bytes) signed the message. About 0.1 ms; a broken key verifies nothing."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def read(headers: Mapping[str, bytes], repeated: Iterable[str] = ()) -> Claim:
    """What the headers of a signed request say. ``repeated`` names those that stand more than once.

    Raises:
        Malformed: one is missing, stands twice (also in other letters), is too long, or is not written as it must be.
    """
    tenant, key = split_key_id(_ascii(single(headers, repeated, KEY_ID_HEADER)))
    signed_at = single(headers, repeated, SIGNED_AT_HEADER)
    if not _MILLISECONDS.fullmatch(signed_at) or int(signed_at) > LAST_MS:
        raise Malformed(f"the header {SIGNED_AT_HEADER} is not milliseconds since 1970 in decimal digits")
    signature = single(headers, repeated, SIGNATURE_HEADER)
    if not _SIGNATURE.fullmatch(signature):
        raise Malformed(f"the header {SIGNATURE_HEADER} is not {SIGNATURE_BYTES} bytes in base64")
    return Claim(tenant, key, int(signed_at), b64decode(signature))


def read_private_key(pem: bytes) -> Ed25519PrivateKey:
    """An unencrypted PKCS #8 key in PEM, as ``openssl genpkey -algorithm ed25519`` writes it. Raises Malformed."""
    try:
        key = load_pem_private_key(pem, password=None) if len(pem) <= _MAX_PEM_BYTES else None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise Malformed("this is not an unencrypted Ed25519 private key in PEM (PKCS #8)")
    return key


def read_public_key(pem: bytes) -> bytes:
    """The 32 bytes of an Ed25519 public key in PEM, as ``openssl pkey -pubout`` writes it. Raises Malformed."""
    try:
        key = load_pem_public_key(pem) if len(pem) <= _MAX_PEM_BYTES else None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise Malformed("this is not an Ed25519 public key in PEM (SubjectPublicKeyInfo)")
    return key.public_bytes_raw()


def single(headers: Mapping[str, bytes], repeated: Iterable[str], name: str) -> bytes:
    """The header of this name, which stands once, whichever case of letters is counted. Raises :class:`Malformed`."""
    alike = [each for each in (*headers, *repeated) if each.casefold() == name]
    if len(alike) > 1:
        raise Malformed(f"the header {name} stands more than once")
    if name not in headers:
        raise Malformed(f"the header {name} is missing")
    return headers[name]


def _ascii(raw: bytes) -> str:
    return raw.decode() if raw.isascii() else ""
