"""The exported JSON Schemas are those of the models."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from schemas.export import FOLDER, RECORDS, documents, write
from schemas.vocabulary import Reason


def test_the_files_in_the_repository_are_up_to_date() -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert found == documents(), "run: python -m schemas.export"


@pytest.mark.parametrize("name", RECORDS)
def test_every_schema_says_its_dialect_and_what_it_is(name: str) -> None:
    schema = json.loads(documents()[f"{name}.json"])
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert name in ("output", "key_command") or schema["description"]


def test_what_strangers_write_is_closed_and_what_we_write_is_open() -> None:
    request = json.loads(documents()["request.json"])
    assert request["additionalProperties"] is False
    assert request["properties"]["addresses"]["maxItems"] == 1000
    assert request["properties"]["schema_version"]["const"] == 1
    assert "additionalProperties" not in json.loads(documents()["result.json"])


def test_the_vocabulary_stands_in_the_schema_of_results() -> None:
    assert json.loads(documents()["result.json"])["$defs"]["Reason"]["enum"] == [reason.value for reason in Reason]


def test_writing_removes_what_is_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "json"
    write(folder)
    (folder / "gone.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["export", str(folder)])
    monkeypatch.delitem(sys.modules, "schemas.export")
    runpy.run_module("schemas.export", run_name="__main__")
    assert {path.name for path in folder.iterdir()} == set(documents())
