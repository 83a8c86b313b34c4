"""JSON Schemas of every record, for readers and writers in any language: ``python -m schemas.export``.

``schemas/json/`` is written from the models and never edited; a test compares. What clients write is described as it
is validated, what we write as it is serialized.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from schemas.keys import Command, KeyEvent, KeyRecord, TenantRecord
from schemas.optouts import OptOut
from schemas.pipeline import Admitted, Attempt, CancelOrder, DeadLetter, Replayed, Settlement, Task
from schemas.request import Cancel, Request
from schemas.result import Cancellation, Output, Rejection, Result, Summary
from schemas.usage import Usage

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = Path(__file__).parent / "json"

RECORDS: Mapping[str, tuple[Any, Literal["validation", "serialization"]]] = {
    "request": (Request, "validation"),
    "cancel": (Cancel, "validation"),
    "admitted": (Admitted, "serialization"),
    "cancel_order": (CancelOrder, "serialization"),
    "task": (Task, "serialization"),
    "attempt": (Attempt, "serialization"),
    "result": (Result, "serialization"),
    "rejection": (Rejection, "serialization"),
    "summary": (Summary, "serialization"),
    "cancellation": (Cancellation, "serialization"),
    "output": (Output, "serialization"),
    "settlement": (Settlement, "serialization"),
    "key_command": (Command, "validation"),
    "key_event": (KeyEvent, "serialization"),
    "key_record": (KeyRecord, "serialization"),
    "tenant_record": (TenantRecord, "serialization"),
    "usage": (Usage, "serialization"),
    "opt_out": (OptOut, "serialization"),
    "dead_letter": (DeadLetter, "serialization"),
    "replayed": (Replayed, "serialization"),
}
"""File name to the record and the side from which it is seen."""


def documents() -> dict[str, str]:
    """File name to contents, the same for the same models."""
    return {f"{name}.json": _document(record, mode) for name, (record, mode) in RECORDS.items()}


def _document(record: Any, mode: Literal["validation", "serialization"]) -> str:
    schema = TypeAdapter(record).json_schema(mode=mode)
    return json.dumps({"$schema": DIALECT, **schema}, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def write(folder: Path) -> None:
    """Write every schema into ``folder``, and remove those of records that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    written = documents()
    for name, contents in written.items():
        (folder / name).write_text(contents, encoding="utf-8")
    for stale in folder.glob("*.json"):
        if stale.name not in written:
            stale.unlink()


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
