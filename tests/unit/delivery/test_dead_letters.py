"""A dead letter holds the record's own bytes, says why, and keeps no secret."""

import hashlib
import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.cli.keyfile import mint
from schemas.keys import Kind
from schemas.pipeline import DeadLetter
from schemas.topics import DEADLETTERS
from streams.delivery import dead_letters
from streams.delivery.dead_letters import (
    _LONGEST,
    HEADER,
    MAX_HEADERS_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    dead_letter,
)
from streams.delivery.producer import MAX_RECORD_BYTES
from streams.records import Incoming, Outgoing, Unusable

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def letter(reason: str = "not_json", detail: str = "no JSON", **record: object) -> Outgoing:
    given_ = {"key": b"k", "value": b"{", "headers": {}, **record}
    incoming = Incoming("mailvet.requests.v1", 3, 7, timestamp_ms=1000, **given_)  # type: ignore[arg-type]
    return dead_letter(incoming, Unusable(reason, detail), role="gate", at=AT)


def about(outgoing: Outgoing) -> DeadLetter:
    return DeadLetter.model_validate_json(dict(outgoing.headers)[HEADER])


def test_it_says_what_could_not_be_used_and_why() -> None:
    made = letter(value=b"\xff{")
    assert (made.topic, made.key, made.value) == (DEADLETTERS.name, b"k", b"\xff{")
    assert about(made) == DeadLetter(
        reason="not_json",
        detail="no JSON",
        topic="mailvet.requests.v1",
        partition=3,
        offset=7,
        timestamp_ms=1000,
        role="gate",
        size=2,
        sha256=hashlib.sha256(b"\xff{").hexdigest(),
        at=AT,
    )


@pytest.mark.parametrize(("size", "kept"), [(MAX_VALUE_BYTES, MAX_VALUE_BYTES), (MAX_VALUE_BYTES + 1, MAX_VALUE_BYTES)])
def test_a_large_value_is_cut_and_its_length_and_digest_are_kept(size: int, kept: int) -> None:
    value = b"x" * size
    made = letter(value=value)
    assert made.value == value[:kept]
    assert (about(made).size, about(made).sha256) == (size, hashlib.sha256(value).hexdigest())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", b"x"),
        ("mailvet-key", b"no form at all"),
        ("mailvet-key-sha256", b"0f"),
        ("X-API-Key", b"x"),
        ("cookie", b"x"),
        ("signature", b"x"),
        ("note", b"Bearer abc"),
        ("note", b" mv_acme_k1_secret_1234"),
    ],
)
def test_secrets_are_redacted(name: str, value: bytes) -> None:
    headers = dict(letter(headers={name: value, "trace": b"t", "mailvet-key-id": b"k1"}).headers)
    assert headers[name] == b"[redacted]"
    assert (headers["trace"], headers["mailvet-key-id"]) == (b"t", b"k1")


@pytest.mark.parametrize("kind", Kind)
def test_a_key_in_the_wrong_place_is_redacted(kind: Kind) -> None:
    secret = mint(kind, "acme.example", "k-1").secret
    assert secret is not None
    misplaced = b'{"key": ' + json.dumps(secret.strip()).encode() + b', "addresses": ["mv_a_b@example.com"]}'
    made = letter(value=misplaced, key=secret.encode(), headers={"note": b"it is " + secret.encode()})
    assert b"[redacted]" in made.value
    assert b"mv_a_b@example.com" in made.value
    hidden = secret.split("_")[3] if kind is Kind.BEARER else secret.splitlines()[2]
    for part in (made.value, made.key, *(value for _, value in made.headers)):
        assert hidden.encode() not in (part or b"")
    assert about(made).sha256 == hashlib.sha256(misplaced).hexdigest()


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("before", [0, 1, 300])
def test_no_half_of_a_key_is_left_where_a_value_is_cut(kind: Kind, before: int) -> None:
    secret = (mint(kind, "acme", "k1").secret or "").strip().encode()
    hidden = secret.split(b"_")[3] if kind is Kind.BEARER else secret.splitlines()[2]
    for cut in (MAX_VALUE_BYTES, MAX_VALUE_BYTES + _LONGEST):
        for part in (1, len(secret) // 2, len(secret) - 1):
            value = (secret * before).ljust(cut - part, b".") + secret + bytes(100_000)
            made = letter(value=value, key=value)
            assert hidden[:8] not in made.value
            assert hidden[:8] not in (made.key or b"")


def test_what_is_not_kept_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    def sub(_: bytes, raw: bytes) -> bytes:
        looked_at.append(len(raw))
        return raw

    monkeypatch.setattr(dead_letters, "_CREDENTIAL", SimpleNamespace(sub=sub))
    large = bytes(16 * 1024 * 1024)
    letter(value=large, key=large, headers={"h": large, "i": b"small"})
    assert looked_at == [MAX_KEY_BYTES + _LONGEST, MAX_VALUE_BYTES + _LONGEST]


def test_no_key_stays_no_key() -> None:
    assert letter(key=None).key is None


def test_a_dead_letter_that_fails_again_names_its_last_failure_only() -> None:
    made = letter(headers={HEADER: b"old"})
    assert [name for name, _ in made.headers] == [HEADER]
    assert about(made).reason == "not_json"


@given(
    st.binary(max_size=20),
    st.dictionaries(st.text(max_size=20), st.integers(0, 200_000).map(bytes), max_size=5),
    st.integers(0, 100_000),
)
def test_every_dead_letter_can_be_written(value: bytes, headers: dict[str, bytes], key_size: int) -> None:
    made = letter(value=value * 100_000, headers=headers, key=bytes(key_size), detail="d" * key_size)
    assert len(made.key or b"") <= MAX_KEY_BYTES
    kept = sum(len(name.encode()) + len(text) for name, text in made.headers if name != HEADER)
    assert kept <= MAX_HEADERS_BYTES
    assert len(made.value) + kept + len(dict(made.headers)[HEADER]) + MAX_KEY_BYTES < MAX_RECORD_BYTES
