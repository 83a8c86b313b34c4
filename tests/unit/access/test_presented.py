"""Credentials on their way from a client's headers to where they are checked."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from schemas import signing
from schemas.keys import Kind
from schemas.signing import Malformed
from streams.access import presented
from streams.access.credentials import digest, mint
from streams.access.keys import Allowance, Key, Proof
from streams.access.presented import DIGEST, KEY_ID, Presented

TOKEN = mint("acme", "k1", b"0123456789abcdef")
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
SIGNED = dict(
    signing.sign(PRIVATE, audience="a", topic="t", key_id="acme_k1", signed_at_ms=5, request_id="r", value=b"v")
)
KEY = Key(
    "acme",
    "k1",
    (
        Proof(Kind.BEARER, digest(TOKEN)),
        Proof(Kind.SIGNATURE, PRIVATE.public_key().public_bytes_raw().hex()),
    ),
    Allowance(),
)


def message(signed_at_ms: int) -> bytes:
    return signing.message(
        audience="a", topic="t", key_id="acme_k1", signed_at_ms=signed_at_ms, request_id="r", value=b"v"
    )


@pytest.mark.parametrize("headers", [{"mailvet-key": TOKEN.encode()}, SIGNED], ids=["bearer", "signature"])
def test_what_a_client_presents_proves_its_key_at_admission(headers: dict[str, bytes]) -> None:
    claimed = presented.of_client(headers, ())
    handed_on = presented.of_intake("acme", dict(claimed.headers))
    assert (claimed.tenant, claimed.key) == (handed_on.tenant, handed_on.key) == ("acme", "k1")
    assert claimed.kind is handed_on.kind
    for each in (claimed, handed_on):
        proof = each.proven(KEY, message)
        assert proof is not None
        assert proof.kind is each.kind
        assert each.proven(None, message) is None
    assert not any(TOKEN.encode() in value for _, value in claimed.headers)


@pytest.mark.parametrize(
    ("headers", "repeated", "why"),
    [
        ({}, (), "no credential"),
        ({"other": b"x"}, (), "no credential"),
        ({"mailvet-key": TOKEN.encode(), **SIGNED}, (), "choose one"),
        ({"Mailvet-Key": TOKEN.encode(), **SIGNED}, (), "choose one"),
        ({"mailvet-key": TOKEN.encode(), "Mailvet-Signature": b"x"}, (), "choose one"),
        ({"mailvet-key": TOKEN.encode()}, ("mailvet-key",), "more than once"),
        (SIGNED, ("mailvet-signature",), "more than once"),
        ({"Mailvet-Key": TOKEN.encode()}, (), "is missing"),
        ({"mailvet-key": b"\xff"}, (), "form"),
    ],
)
def test_anything_but_one_credential_is_refused(headers: dict[str, bytes], repeated: tuple[str, ...], why: str) -> None:
    with pytest.raises(Malformed, match=why):
        presented.of_client(headers, repeated)


def test_what_intake_never_wrote_is_refused_or_proves_nothing() -> None:
    assert presented.of_intake("acme", {}) == Presented(Kind.BEARER, "acme", "", digest="")
    assert presented.of_intake("acme", {KEY_ID: b"k1", DIGEST: b"\xff"}).proven(KEY, message) is None
    with pytest.raises(Malformed):
        presented.of_intake("acme", {KEY_ID: b"k1", signing.SIGNATURE_HEADER: b"x"})


@given(st.dictionaries(st.sampled_from(["mailvet-key", *signing.HEADERS, "x"]), st.binary(max_size=90)))
def test_any_headers_are_refused_or_prove_nothing(headers: dict[str, bytes]) -> None:
    try:
        claimed = presented.of_client(headers, ())
    except Malformed:
        return
    assert claimed.proven(KEY, message) is None
