"""Which credential is proven, and whether the key is served."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.keys import KeyRecord, Kind, Policy, Scopes, Status, TenantRecord
from schemas.vocabulary import Depth, Reason
from streams.access.keys import Allowance, Key, Proof, key_of
from streams.access.quota import Limits
from streams.access.rate import Rate
from streams.access.standing import STANDING, by_digest, by_signature, standing
from tests.unit.schemas.samples import KEY as RECORD
from tests.unit.schemas.samples import TENANT

FIRST, SECOND = Ed25519PrivateKey.from_private_bytes(b"1" * 32), Ed25519PrivateKey.from_private_bytes(b"2" * 32)
OLD, NEW = (Proof(Kind.SIGNATURE, each.public_key().public_bytes_raw().hex()) for each in (FIRST, SECOND))
KEY = Key("acme", "k1", (Proof(Kind.BEARER, "aa"), OLD, NEW, Proof(Kind.BEARER, "bb")), Allowance())


def test_a_digest_proves_the_credential_that_has_it() -> None:
    assert by_digest(KEY, "aa") == Proof(Kind.BEARER, "aa")
    assert by_digest(KEY, "bb") == Proof(Kind.BEARER, "bb")


@pytest.mark.parametrize("presented", ["", "a", "aab", "cc", OLD.value])
def test_any_other_digest_proves_nothing(presented: str) -> None:
    assert by_digest(KEY, presented) is None
    assert by_digest(None, presented) is None
    assert by_digest(replace(KEY, proofs=()), presented) is None


def test_a_signature_proves_the_key_that_made_it() -> None:
    assert by_signature(KEY, FIRST.sign(b"m"), lambda: b"m") is OLD
    assert by_signature(KEY, SECOND.sign(b"m"), lambda: b"m") is NEW
    assert by_signature(KEY, SECOND.sign(b"m"), lambda: b"other") is None
    assert by_signature(KEY, b"", lambda: b"m") is None


def test_nothing_is_computed_for_a_key_that_can_not_sign() -> None:
    assert by_signature(None, b"", pytest.fail) is None
    assert by_signature(replace(KEY, proofs=(Proof(Kind.BEARER, "aa"),)), b"", pytest.fail) is None


@pytest.mark.parametrize(
    ("key", "proof", "reason"),
    [
        ({}, {}, None),
        ({"status": Status.REVOKED, "suspended": True}, {}, Reason.KEY_REVOKED),
        ({"status": Status.DISABLED, "suspended": True}, {}, Reason.SUSPENDED),
        ({"status": Status.DISABLED}, {}, Reason.KEY_DISABLED),
        ({"starts_ms": 1001}, {}, Reason.KEY_DISABLED),
        ({"starts_ms": 1000}, {}, None),
        ({"expires_ms": 1000}, {}, Reason.KEY_EXPIRED),
        ({"expires_ms": 1001}, {}, None),
        ({}, {"starts_ms": 1001}, Reason.KEY_DISABLED),
        ({}, {"ends_ms": 1000}, Reason.KEY_EXPIRED),
        ({}, {"ends_ms": 1001}, None),
    ],
)
def test_whether_a_key_is_served(key: dict[str, Any], proof: dict[str, Any], reason: Reason | None) -> None:
    refusal = standing(replace(KEY, **key), replace(OLD, **proof), 1000)
    assert (refusal.reason if refusal else None) is reason
    assert reason is None or reason in STANDING
    assert refusal is None or refusal.message


def test_a_key_that_begins_later_says_when() -> None:
    refusal = standing(replace(KEY, starts_ms=1_773_144_000_000), OLD, 1_773_143_999_000)
    assert refusal is not None
    assert (refusal.retry_after_ms, "2026-03-10T12:00:00Z" in refusal.message) == (1000, True)


def test_a_key_is_what_its_records_say() -> None:
    key = key_of(RECORD, TENANT)
    assert key.own == Allowance(Rate(2.5, 3), Limits(daily=4, monthly=5, in_flight=6), 7)
    assert key.shared == Allowance(None, Limits(daily=100))
    assert (key.status, key.suspended) == (Status.REVOKED, True)
    assert (key.starts_ms, key.expires_ms) == (1_773_144_000_250, 1_804_636_800_000)
    assert key.proofs[0] == Proof(Kind.BEARER, "cd" * 32, 1_773_144_000_250, 1_773_144_000_250)
    assert key.proofs[1].ends_ms is None
    assert (key.depths, key.options) == ({Depth.DNS, Depth.SYNTAX}, {"retry"})


def test_a_policy_by_name_is_the_tenants() -> None:
    record = RECORD.model_copy(update={"policy": "small", "not_before": None, "expires_at": None, "scopes": Scopes()})
    tenant = TenantRecord(tenant="acme", policies={"small": Policy(rate_per_s=1)})
    key = key_of(KeyRecord.model_validate(record), tenant)
    assert (key.own.rate, key.suspended, key.starts_ms, key.expires_ms) == (Rate(1, 1), False, 0, None)
    assert key.own.most == 1000
    assert Allowance(limits=Limits(in_flight=5)).most == 5
