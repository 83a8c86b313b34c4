"""Bearer keys: ``mv_<tenant>_<key id>_<secret>_<checksum>``.

The checksum is the CRC-32 of everything before its underscore, in base 32 (RFC 4648, lower case, no padding): a key
that was mistyped or cut off is refused without asking anybody. It is no secret and proves nothing.
"""

import hashlib
import hmac
import re
import zlib
from base64 import b32encode
from dataclasses import dataclass

from schemas.base import KEY_NAME_PATTERN
from schemas.signing import Malformed

HEADER = "mailvet-key"
"""The record header that carries the key; its name is compared without regard to case when it is counted."""

MAX_LENGTH = 512

_TOKEN = re.compile(rf"mv_({KEY_NAME_PATTERN})_({KEY_NAME_PATTERN})_([A-Za-z0-9]{{16,128}})_([a-z2-7]{{7}})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Claim:
    """Who a key says it is: nothing is proven until the gate has compared the digest."""

    tenant: str
    key_id: str
    digest: str


def parse(token: str) -> Claim:
    """Read a key without asking anybody. Raises :class:`Malformed`."""
    match = _TOKEN.fullmatch(token) if len(token) <= MAX_LENGTH else None
    if match is None:
        raise Malformed("the key does not have the form mv_<tenant>_<key id>_<secret>_<checksum>")
    if not hmac.compare_digest(match[4], _checksum(token[: match.start(4) - 1])):
        raise Malformed("the checksum of the key is wrong: it was mistyped or cut off")
    return Claim(tenant=match[1], key_id=match[2], digest=digest(token))


def mint(tenant: str, key_id: str, secret: bytes) -> str:
    """A key of these names. ``secret``: at least 16 random bytes. Raises :class:`Malformed` for names that can't be."""
    if len(secret) < 16:
        raise Malformed("a secret has at least 16 random bytes")
    body = f"mv_{tenant}_{key_id}_{_base32(secret)}"
    token = f"{body}_{_checksum(body)}"
    parse(token)
    return token


def digest(token: str) -> str:
    """SHA-256 of the key in lower-case hexadecimal: all that is ever stored or sent on."""
    return hashlib.sha256(token.encode()).hexdigest()


def _checksum(body: str) -> str:
    return _base32(zlib.crc32(body.encode()).to_bytes(4, "big"))


def _base32(data: bytes) -> str:
    return b32encode(data).decode().rstrip("=").lower()
