"""Signed requests: vectors for other languages, and hostile headers."""

import contextlib
import hashlib
import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from schemas import signing
from schemas.signing import HEADERS, KEY_ID_HEADER, SIGNATURE_HEADER, SIGNED_AT_HEADER, Claim, Malformed

DOCUMENT = json.loads((Path(signing.__file__).parent / "signing_vectors.json").read_text(encoding="utf-8"))
PRIVATE = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(DOCUMENT["private_key"]))
PUBLIC = bytes.fromhex(DOCUMENT["public_key"])
SIGNED: dict[str, Any] = {
    "audience": "mailvet",
    "topic": "mailvet.requests.v1",
    "key_id": "acme_k1",
    "signed_at_ms": 1_773_144_000_000,
    "request_id": "r1",
    "value": b'{"request_id":"r1"}',
}
PEM = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC_PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fields_of(vector: dict[str, Any]) -> dict[str, Any]:
    return {name: vector[name] for name in SIGNED} | {"value": vector["value"].encode()}


@pytest.mark.parametrize("vector", DOCUMENT["vectors"], ids=lambda vector: vector["name"])
def test_the_vectors_are_what_we_sign_and_accept(vector: dict[str, Any]) -> None:
    fields = fields_of(vector)
    message = signing.message(**fields)
    assert message.hex() == vector["message"]
    assert hashlib.sha256(fields["value"]).hexdigest() == vector["value_sha256"]
    assert signing.verify(PUBLIC, b64decode(vector["signature"]), message) is vector["valid"]
    headers = dict(signing.sign(PRIVATE, **fields))
    assert (headers[SIGNATURE_HEADER].decode() == vector["signature"]) is vector["valid"]


def test_the_message_can_be_put_together_by_hand() -> None:
    parts = (b"mailvet-v1", b"mailvet", b"mailvet.requests.v1", b"acme_k1", b"1773144000000", b"r1")
    whole = b"".join(bytes([0, 0, 0, len(part)]) + part for part in parts)
    assert signing.message(**SIGNED) == whole + b"\0\0\0\x20" + hashlib.sha256(SIGNED["value"]).digest()


@given(st.lists(st.text(max_size=4), min_size=2, max_size=2), st.lists(st.text(max_size=4), min_size=2, max_size=2))
def test_no_two_requests_give_the_same_bytes(one: list[str], other: list[str]) -> None:
    messages = [signing.message(**{**SIGNED, "audience": a, "topic": t}) for a, t in (one, other)]
    assert (messages[0] == messages[1]) is (one == other)


def test_headers_read_as_they_were_signed() -> None:
    claim = signing.read(dict(signing.sign(PRIVATE, **SIGNED)))
    assert (claim.tenant, claim.key, claim.key_id, claim.signed_at_ms) == ("acme", "k1", "acme_k1", 1_773_144_000_000)
    assert signing.verify(PUBLIC, claim.signature, signing.message(**SIGNED))


@pytest.mark.parametrize("public_key", [b"", b"x" * 31, b"\xff" * 32, b"x" * 33])
def test_a_broken_public_key_verifies_nothing(public_key: bytes) -> None:
    assert not signing.verify(public_key, b"x" * 64, b"")


@pytest.mark.parametrize("signature", [b"", b"x" * 63, b"\xff" * 64, b"x" * 65])
def test_a_broken_signature_is_no_signature(signature: bytes) -> None:
    assert not signing.verify(PUBLIC, signature, signing.message(**SIGNED))


GOOD = dict(signing.sign(PRIVATE, **SIGNED))


@pytest.mark.parametrize("name", HEADERS)
def test_every_header_is_wanted_exactly_once(name: str) -> None:
    with pytest.raises(Malformed, match=f"{name} is missing"):
        signing.read({other: value for other, value in GOOD.items() if other != name})
    with pytest.raises(Malformed, match=f"{name} stands more than once"):
        signing.read(GOOD, {name})
    with pytest.raises(Malformed, match=f"{name} stands more than once"):
        signing.read({**GOOD, name.title(): b"another"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((KEY_ID_HEADER, value) for value in (b"", b"k1", b"acme_", b"_k1", b"acme_k1_x", b"acme_k1\n", b"-a_k1")),
        *((KEY_ID_HEADER, value) for value in (b"a" * 65 + b"_k1", b"acme_" + b"k" * 65, "ä_k1".encode(), b"\xff_k1")),
        *((SIGNED_AT_HEADER, value) for value in (b"", b"-1", b"01", b"1.5", b"1e3", b" 1", b"1 ", b"0x1", b"1_000")),
        *((SIGNED_AT_HEADER, value) for value in ("١".encode(), b"253402300800000", b"9" * 15, b"9" * 5000)),
        *((SIGNATURE_HEADER, value) for value in (b"", b"A" * 88, b"A" * 85 + b"B==", b"A" * 86, b"-" * 86 + b"==")),
        *((SIGNATURE_HEADER, value) for value in (b"A" * 86 + b"==\n", b"A" * 5000)),
    ],
)
def test_what_is_not_written_as_it_must_be_is_refused_and_not_quoted(name: str, value: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        signing.read({**GOOD, name: value})
    assert len(value) < 20 or value.decode() not in str(refused.value)


def test_the_last_moment_can_be_read() -> None:
    assert signing.read({**GOOD, SIGNED_AT_HEADER: b"253402300799999"}).signed_at_ms == signing.LAST_MS


@given(st.dictionaries(st.sampled_from([*HEADERS, "other"]), st.binary(max_size=100)))
def test_any_bytes_are_read_or_refused(headers: dict[str, bytes]) -> None:
    with contextlib.suppress(Malformed):
        assert isinstance(signing.read(headers), Claim)


def test_keys_are_read_from_pem() -> None:
    assert signing.read_private_key(PEM).private_bytes_raw() == PRIVATE.private_bytes_raw()
    assert signing.read_private_key(b"key id: acme_k1\n" + PEM).private_bytes_raw() == PRIVATE.private_bytes_raw()
    assert signing.read_public_key(PUBLIC_PEM) == PUBLIC


OTHER = x25519.X25519PrivateKey.generate()


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"nonsense",
        PUBLIC_PEM,
        PEM + b"#" * 5000,
        OTHER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
)
def test_another_private_key_is_refused(pem: bytes) -> None:
    with pytest.raises(Malformed, match="private key"):
        signing.read_private_key(pem)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        PEM,
        PUBLIC_PEM + b"#" * 5000,
        OTHER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
)
def test_another_public_key_is_refused(pem: bytes) -> None:
    with pytest.raises(Malformed, match="public key"):
        signing.read_public_key(pem)


def test_headers_are_base64_with_padding() -> None:
    assert GOOD[SIGNATURE_HEADER] == b64encode(b64decode(GOOD[SIGNATURE_HEADER]))
