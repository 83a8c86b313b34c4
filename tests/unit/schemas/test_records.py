"""Records keep their bytes from version to version; strangers' are read strictly, ours by older readers too."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.base import Record
from schemas.request import Options, Request, request_uid
from schemas.result import Output, Rejection, Result, Summary
from streams.codec import MAX_PROBLEMS, decode, encode
from streams.records import Unusable
from tests.unit.schemas.samples import GOLDEN, SAMPLES

VALID: dict[str, Any] = {"request_id": "r1", "addresses": ["a@example.com"]}


def read(**changes: Any) -> Request:
    return Request.model_validate_json(json.dumps({**VALID, **changes}), strict=True)


@pytest.mark.parametrize("name", SAMPLES)
def test_golden_bytes_read_and_write_as_they_always_did(name: str) -> None:
    """A difference here breaks readers and writers that are already in the field: raise the version instead."""
    golden = (GOLDEN / f"{name}.json").read_bytes()
    record = decode(type(SAMPLES[name]), golden)
    assert record == SAMPLES[name]
    assert encode(record) == golden


@pytest.mark.parametrize("name", SAMPLES)
def test_every_golden_file_has_every_field(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_bytes())
    assert golden.keys() == type(SAMPLES[name]).model_fields.keys()


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in ("request", "cancel", "key_command")])
def test_a_newer_writers_fields_are_passed_over(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_bytes())
    assert decode(type(SAMPLES[name]), json.dumps({**golden, "added_later": {"x": 1}}).encode()) == SAMPLES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_another_version_is_said_to_be_unknown(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_bytes())
    with pytest.raises(Unusable, match="unknown_version"):
        decode(type(SAMPLES[name]), json.dumps({**golden, "schema_version": 2}).encode())


def test_what_is_wrong_is_named_and_never_quoted() -> None:
    with pytest.raises(Unusable) as refused:
        decode(Summary, b'{"request_uid":"s3cret"}')
    assert refused.value.reason == "invalid"
    assert "request_uid" in refused.value.detail
    assert "s3cret" not in str(refused.value)


def test_a_field_that_strangers_named_is_not_repeated() -> None:
    with pytest.raises(Unusable, match="a field: extra_forbidden") as refused:
        decode(Request, json.dumps({**VALID, "pass" + "word": 1}).encode())
    assert "password" not in str(refused.value)


def test_no_more_than_a_hundred_problems_are_looked_at() -> None:
    for count, said in ((MAX_PROBLEMS, "a field: extra_forbidden"), (MAX_PROBLEMS + 1, "101 fields are wrong")):
        with pytest.raises(Unusable) as refused:
            decode(Request, json.dumps({**VALID, **{f"field{number}": 0 for number in range(count)}}).encode())
        assert (refused.value.reason, refused.value.detail) == ("invalid", said)


def test_records_are_told_apart_on_a_results_topic() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(Output)
    for name, kind in (("result", Result), ("rejection", Rejection), ("summary", Summary)):
        assert type(adapter.validate_json((GOLDEN / f"{name}.json").read_bytes())) is kind


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": 1},
        {"request_id": ""},
        {"request_id": "x" * 129},
        {"request_id": "a\nb"},
        {"addresses": []},
        {"addresses": "a@example.com"},
        {"addresses": [1]},
        {"addresses": [None]},
        {"addresses": ["a"] * 1001},
        {"addresses": ["a" * 1025]},
        {"depth": "SMTP"},
        {"depth": 1},
        {"lane": "fast"},
        {"verdict_by": "tomorrow"},
        {"verdict_by": "2026-03-10T12:00:00"},
        {"verdict_by": 1773144000},
        {"options": {"retry": 1}},
        {"options": {"retries": True}},
        {"options": None},
        {"schema_version": True},
        {"schema_version": "1"},
        {"schema_version": None},
        {"unknown": 1},
    ],
)
def test_a_request_is_read_strictly(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"addresses": ["a" * 1024] * 1000},
        {"addresses": ["\u0000\r\n"]},
        {"addresses": [""]},
        {"request_id": "Größe 1/2"},
        {"depth": "dns", "lane": "bulk", "verdict_by": "2026-03-10T12:00:00+02:00"},
        {"options": {}},
        {"lane": None, "verdict_by": None},
    ],
)
def test_whatever_can_be_answered_is_taken(changes: dict[str, Any]) -> None:
    read(**changes)


def test_defaults_are_those_of_the_guide() -> None:
    request = read()
    assert (request.depth, request.lane, request.verdict_by, request.options) == ("smtp", None, None, Options())


def test_records_are_not_changed_after_they_were_made() -> None:
    with pytest.raises(ValidationError):
        Record().schema_version = 1  # type: ignore[misc]


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_uids_of_different_names_differ(tenant: str, request: str, other_tenant: str, other_request: str) -> None:
    if (tenant, request) != (other_tenant, other_request):
        assert request_uid(tenant, request) != request_uid(other_tenant, other_request)


def test_the_uid_is_fixed_for_other_languages() -> None:
    assert request_uid("ab", "c") != request_uid("a", "bc")
    assert request_uid("acme", "r1") == SAMPLES["result"].request_uid  # type: ignore[attr-defined]
    assert request_uid("acme", "r1") == "d3a0908a5b74a10dd5a9fb0f1a20f2985dda09dd0a29d69c77c554445e62e54b"
