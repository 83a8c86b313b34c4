"""Credentials on the client's side: minted here, and read from files.

A secret never leaves this side: of a new one only the public key or the digest goes into a command.
"""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ops.cli.errors import UserError
from schemas import bearer, client, signing
from schemas.client import KEY_ID_LINE, BearerKey, Presenter, SigningKey, Unnamed
from schemas.keys import Credential, Kind
from schemas.signing import Malformed

KEY_VARIABLE = "MAILVET_KEY"
KEY_ID_VARIABLE = "MAILVET_KEY_ID"

SECRET_BYTES = 32
_MAX_FILE = 4096


def read_credential(key_file: Path | None, key_id: str | None, audience: str) -> BearerKey | SigningKey:
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
        return client.read_credential(text, key_id or os.environ.get(KEY_ID_VARIABLE), audience)
    except Unnamed:
        raise UserError(f"whose private key is it? Give --key-id TENANT_KEY, or set {KEY_ID_VARIABLE}") from None
    except Malformed as error:
        raise UserError(f"{error} (from {key_file or KEY_VARIABLE})") from None


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
        return client.read_credential(self.secret, audience=audience)


def mint(kind: Kind, tenant: str, key: str) -> Minted:
    """A new credential of 256 random bits."""
    if kind is Kind.BEARER:
        token = bearer.mint(tenant, key, secrets.token_bytes(SECRET_BYTES))
        return Minted(Credential(kind=kind, proof=bearer.digest(token)), f"{token}\n")
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    secret = f"{KEY_ID_LINE}{signing.key_id(tenant, key)}\n{pem}"
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
