"""Records to bytes and back. The same record gives the same bytes, in every process."""

from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from streams.records import Unusable

M = TypeVar("M", bound=BaseModel)

MAX_PROBLEMS: Final = 100
"""Looked at of one value: a megabyte holds 90,000 fields that there are not, and telling of each took 4 s."""


def encode(record: BaseModel) -> bytes:
    """The record as UTF-8 JSON: fields in the order of their declaration, no spaces."""
    return to_json(record)


def decode(model: type[M], value: bytes) -> M:
    """A record that one of our roles wrote.

    Raises :class:`Unusable` for anything else; the sentence names fields, never what stands in them.
    """
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        raise unusable(error) from None


def unusable(error: ValidationError) -> Unusable:
    """What is wrong with a value that did not validate, in one sentence that quotes nothing of it."""
    problems = problems_of(error)
    if not problems:
        return Unusable("invalid", f"{error.error_count()} fields are wrong")
    first = problems[0]
    if first["type"] == "json_invalid":
        return Unusable("not_json", "the value is not JSON, or nested too deeply")
    if any(_is_unknown_version(problem["loc"], problem["input"]) for problem in problems):
        return Unusable("unknown_version", "this schema_version is not known; known is 1")
    where = ".".join(str(part) for part in first["loc"])[:80] if first["type"] != "extra_forbidden" else "a field"
    return Unusable("invalid", f"{where or 'the value'}: {first['type']}")


def problems_of(error: ValidationError) -> list[Any]:
    """What is wrong, each as pydantic tells it; nothing where that is more than :data:`MAX_PROBLEMS`."""
    if error.error_count() > MAX_PROBLEMS:
        return []
    return error.errors(include_url=False, include_context=False, include_input=True)


def _is_unknown_version(location: tuple[int | str, ...], value: object) -> bool:
    return location == ("schema_version",) and isinstance(value, int) and not isinstance(value, bool)
