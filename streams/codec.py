"""Records to bytes and back. The same record gives the same bytes, in every process."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from streams.records import Unusable

M = TypeVar("M", bound=BaseModel)


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
    problems = error.errors(include_url=False, include_context=False, include_input=True)
    first = problems[0]
    if first["type"] == "json_invalid":
        return Unusable("not_json", "the value is not JSON, or nested too deeply")
    if any(_is_unknown_version(problem["loc"], problem["input"]) for problem in problems):
        return Unusable("unknown_version", "this schema_version is not known; known is 1")
    where = ".".join(str(part) for part in first["loc"])[:80] if first["type"] != "extra_forbidden" else "a field"
    return Unusable("invalid", f"{where or 'the value'}: {first['type']}")


def _is_unknown_version(location: tuple[int | str, ...], value: object) -> bool:
    return location == ("schema_version",) and isinstance(value, int) and not isinstance(value, bool)
