"""Credentials on the client's side: minted here, read from files, and put into the headers of requests.

A secret never leaves this side: of a new one only the public key or the digest goes into a command.
"""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ops.cli.errors import UserError
from schemas import signing
from schemas.keys import Credential, Kind
from schemas.signing import Malformed
from streams.access import credentials

KEY_VARIABLE = "MAILVET_KEY"
KEY_ID_VARIABLE = "MAILVET_KEY_ID"

SECRET_BYTES = 32
_MAX_FILE = 4096
_PEM = "-----BEGIN "
_KEY_ID_LINE = f"{signing.KEY_ID_HEADER}: "


class Presenter(Protocol):
    """Whoever sends requests, with the credential that proves it."""

    @property
    def tenant(self) -> str: ...

    def headers(self, topic: str, request_id: str, value: bytes) -> list[tuple[str, bytes]]:
        """The headers of one record on its way to ``topic``."""


@dataclass(frozen=True, slots=True)
class BearerKey:
    """A bearer key, checked for mistypes."""

    token: str = field(repr=False)

    @property
    def tenant(self) -> str:
        """Whose key it is."""
        return credentials.parse(self.token).tenant

    def headers(self, _topic: str, _request_id: str, _value: bytes) -> list[tuple[str, bytes]]:
        """The key itself, the same for every record."""
        return [(credentials.HEADER, self.token.encode())]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the id of the key that it belongs to."""

    key_id: str
    private: Ed25519PrivateKey = field(repr=False)
    audience: str = signing.DEFAULT_AUDIENCE
    clock: Callable[[], float] = time.time

    @property
    def tenant(self) -> str:
        """Whose key it is."""
        return signing.split_key_id(self.key_id)[0]

    def headers(self, topic: str, request_id: str, value: bytes) -> list[tuple[str, bytes]]:
        """A signature over the record, as of now."""
        return signing.sign(
            self.private,
            audience=self.audience,
            topic=topic,
            key_id=self.key_id,
            signed_at_ms=round(self.clock() * 1000),
            request_id=request_id,
            value=value,
        )


def read_credential(key_file: Path | None, key_id: str | None, audience: str) -> Presenter:
    """The credential from its file, else from the environment: a bearer key, or a private key in PEM.

    The id of a private key is ``key_id``, else the environment's, else that in the file before the PEM.

    Raises:
        UserError: there is none, the file can't be read, or what stands there is no key. Nothing of it is quoted.
    """
    try:
        text = os.environ.get(KEY_VARIABLE, "") if key_file is None else _read(key_file)
    except (OSError, UnicodeError):
        raise UserError(f"the key file {key_file} can't be read") from None
    if not text.strip():
        raise UserError(f"no key: set {KEY_VARIABLE}, or name a file that holds it with --key-file")
    try:
        if _PEM in text:
            return _signing_key(text, key_id, audience)
        token = text.splitlines()[0].strip()
        credentials.parse(token)
    except Malformed as error:
        raise UserError(f"{error} (from {key_file or KEY_VARIABLE})") from None
    return BearerKey(token)


def _signing_key(text: str, key_id: str | None, audience: str) -> SigningKey:
    before = text[: text.index(_PEM)].splitlines()
    in_file = next((line.removeprefix(_KEY_ID_LINE).strip() for line in before if line.startswith(_KEY_ID_LINE)), None)
    name = key_id or os.environ.get(KEY_ID_VARIABLE) or in_file
    if not name:
        raise UserError(f"whose private key is it? Give --key-id TENANT_KEY, or set {KEY_ID_VARIABLE}")
    signing.split_key_id(name)
    return SigningKey(name, signing.read_private_key(text.encode()), audience)


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(_MAX_FILE)


@dataclass(frozen=True, slots=True)
class Minted:
    """A new credential; ``secret`` is what its holder is given, once, and None where they have it already."""

    credential: Credential
    secret: str | None = field(default=None, repr=False)

    def presenter(self, audience: str = signing.DEFAULT_AUDIENCE) -> Presenter:
        """The holder of a secret that was minted here."""
        assert self.secret is not None  # noqa: S101  it was minted here
        if self.credential.kind is Kind.BEARER:
            return BearerKey(self.secret.strip())
        return _signing_key(self.secret, None, audience)


def mint(kind: Kind, tenant: str, key: str) -> Minted:
    """A new credential of 256 random bits."""
    if kind is Kind.BEARER:
        token = credentials.mint(tenant, key, secrets.token_bytes(SECRET_BYTES))
        return Minted(Credential(kind=kind, proof=credentials.digest(token)), f"{token}\n")
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    secret = f"{_KEY_ID_LINE}{signing.key_id(tenant, key)}\n{pem}"
    return Minted(Credential(kind=kind, proof=private.public_key().public_bytes_raw().hex()), secret)


def brought(path: Path) -> Minted:
    """The credential of a public key in PEM that its holder made.

    Raises:
        UserError: the file can't be read, or holds no Ed25519 public key; a private one above all.
    """
    try:
        public = signing.read_public_key(_read(path).encode())
    except (OSError, UnicodeError):
        raise UserError(f"the public key {path} can't be read") from None
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None
    return Minted(Credential(kind=Kind.SIGNATURE, proof=public.hex()))
