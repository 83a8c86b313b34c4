"""Commands are read strictly, in their parts too: a misspelt limit is never no limit."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.keys import Change, Create, KeyRecord, Policy, Scopes, read_command
from schemas.vocabulary import Depth, Lane
from tests.unit.schemas.samples import KEY

CREATE: dict[str, Any] = {
    "verb": "create",
    "command_id": "0" * 32,
    "tenant": "acme",
    "key": "k1",
    "issued_at": "2026-03-10T12:00:00Z",
    "actor": "ann",
    "credential": {"kind": "bearer", "proof": "0" * 64},
}


def read(**changes: Any) -> Any:
    return read_command(json.dumps({**CREATE, **changes}).encode())


def test_a_command_reads_as_it_was_written() -> None:
    command = read(policy={"daily": 5}, scopes={"depths": ["dns"]}, expires_at="2027-01-01T00:00:00Z")
    assert isinstance(command, Create)
    assert (command.policy, command.scopes.depths) == (Policy(daily=5), {Depth.DNS})
    assert command.expires_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert read_command(command.model_dump_json().encode()) == command


@pytest.mark.parametrize(
    "changes",
    [
        {"verb": "destroy"},
        {"command_id": "1"},
        {"tenant": "a_b"},
        {"tenant": "a:b"},
        {"key": "k_1"},
        {"key": ""},
        {"issued_at": "2026-03-10T12:00:00"},
        {"actor": ""},
        {"why": "a\nb"},
        {"dayly": 5},
        {"policy": {"dayly": 5}},
        {"policy": {"daily": 0}},
        {"policy": {"daily": "5"}},
        {"policy": {"rate_per_s": 0}},
        {"policy": {"rate_per_s": "NaN"}},
        {"policy": {"max_addresses": 1001}},
        {"scopes": {"depths": ["deep"]}},
        {"scopes": {"options": ["x"]}},
        {"credential": {"kind": "bearer", "proof": "0" * 63}},
        {"credential": {"kind": "password", "proof": "0" * 64}},
        {"credential": {"kind": "bearer", "proof": "0" * 64, "secret": "x"}},
        {"schema_version": 2},
    ],
)
def test_what_is_no_command_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(**changes)


def test_a_change_changes_something() -> None:
    fields = {name: CREATE[name] for name in ("command_id", "tenant", "key", "issued_at", "actor")}
    with pytest.raises(ValidationError, match="changes something"):
        read_command(json.dumps({**fields, "verb": "change"}).encode())
    change = read_command(json.dumps({**fields, "verb": "change", "expires_at": "never"}).encode())
    assert isinstance(change, Change)


def test_sets_have_one_order_in_bytes() -> None:
    assert Scopes(lanes=frozenset(Lane)).model_dump_json() == (
        '{"depths":["dns","smtp","syntax"],"lanes":["bulk","interactive"],"options":["catch_all_probe","retry"]}'
    )


def test_a_newer_writers_limits_do_not_stop_an_older_reader_of_rows() -> None:
    row = json.loads(KEY.model_dump_json())
    row["policy"]["hourly"] = row["scopes"]["regions"] = 1
    assert KeyRecord.model_validate_json(json.dumps(row)) == KEY
