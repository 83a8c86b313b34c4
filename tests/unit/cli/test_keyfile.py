"""Credentials on the client's side: minted, written, read again, and never shown."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ops.cli.errors import UserError
from ops.cli.keyfile import BearerKey, SigningKey, brought, mint, read_credential
from schemas import signing
from schemas.keys import Kind


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAILVET_KEY", "MAILVET_KEY_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("kind", Kind)
def test_what_is_minted_can_be_read_from_its_file_and_proves_its_credential(tmp_path: Path, kind: Kind) -> None:
    minted = mint(kind, "acme", "k1")
    assert minted.secret is not None
    assert minted.secret not in repr(minted)
    file = tmp_path / "key"
    file.write_text(minted.secret)
    holder = read_credential(file, None, "here")
    assert holder.tenant == "acme"
    assert minted.secret.split("-----")[-3 if kind is Kind.SIGNATURE else 0].strip() not in repr(holder)
    headers = holder.headers("t", "r", b"v")
    if kind is Kind.BEARER:
        assert headers == [("mailvet-key", minted.secret.strip().encode())]
        return
    claim = signing.read(dict(headers))
    message = signing.message(
        audience="here", topic="t", key_id="acme_k1", signed_at_ms=claim.signed_at_ms, request_id="r", value=b"v"
    )
    assert signing.verify(bytes.fromhex(minted.credential.proof), claim.signature, message)


def test_two_are_never_alike() -> None:
    assert all(mint(kind, "a", "b").credential != mint(kind, "a", "b").credential for kind in Kind)


def test_a_signature_says_when_it_was_made() -> None:
    key = SigningKey("acme_k1", Ed25519PrivateKey.generate(), clock=lambda: 1.5)
    assert dict(key.headers("t", "r", b"v"))["mailvet-signed-at"] == b"1500"


def test_whose_private_key_it_is_can_be_said_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = mint(Kind.SIGNATURE, "acme", "k1").secret
    assert secret is not None
    file = tmp_path / "key.pem"
    file.write_text(secret[secret.index("-----BEGIN") :])
    with pytest.raises(UserError, match="--key-id"):
        read_credential(file, None, "a")
    monkeypatch.setenv("MAILVET_KEY_ID", "acme_k2")
    assert read_credential(file, None, "a").headers("t", "r", b"")[0] == ("mailvet-key-id", b"acme_k2")
    assert read_credential(file, "acme_k3", "a").headers("t", "r", b"")[0] == ("mailvet-key-id", b"acme_k3")
    monkeypatch.delenv("MAILVET_KEY_ID")
    monkeypatch.setenv("MAILVET_KEY", secret)
    assert read_credential(None, None, "a").headers("t", "r", b"")[0] == ("mailvet-key-id", b"acme_k1")
    with pytest.raises(UserError, match="<tenant>_<key>"):
        read_credential(None, "nonsense", "a")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no key"),
        ("\n", "no key"),
        ("sesame", "does not have the form"),
        ("mailvet-key-id: acme_k1\n-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "unencrypted"),
    ],
)
def test_what_is_no_key_is_refused_and_not_quoted(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(UserError, match=sentence) as refused:
        read_credential(file, None, "a")
    assert "sesame" not in refused.value.message
    assert "AAAA" not in refused.value.message


def test_a_bearer_key_knows_its_tenant() -> None:
    secret = mint(Kind.BEARER, "acme", "k1").secret
    assert secret is not None
    assert BearerKey(secret.strip()).tenant == "acme"


def test_a_public_key_can_be_brought(tmp_path: Path) -> None:
    public = Ed25519PrivateKey.generate().public_key()
    file = tmp_path / "public.pem"
    file.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    minted = brought(file)
    assert (minted.credential.kind, minted.secret) == (Kind.SIGNATURE, None)
    assert minted.credential.proof == public.public_bytes_raw().hex()
    secret = mint(Kind.SIGNATURE, "a", "b").secret
    assert secret is not None
    file.write_text(secret)
    with pytest.raises(UserError, match="not an Ed25519 public key"):
        brought(file)
    with pytest.raises(UserError, match="can't be read"):
        brought(tmp_path / "nowhere")
