"""The two kinds of record: what strangers write, read strictly, and what we write, read by older readers too."""

from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, StringConstraints

SCHEMA_VERSION = 1


def printable(text: str) -> str:
    """A validator: no control characters, no line ends."""
    if not text.isprintable():
        raise ValueError("must hold printable characters only")
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A tenant, key id or the like: safe in a topic name, a metric label and a file name."""

KEY_NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}"
"""Tenants that have keys, and the keys: no underscore, which joins the two in a key id and in a bearer key."""

KeyName = Annotated[str, StringConstraints(pattern=rf"^{KEY_NAME_PATTERN}$", max_length=64)]
"""A tenant or a key, as it may stand in a key id (:data:`KEY_NAME_PATTERN`)."""

RequestId = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(printable)]
"""The client's own name for a request: 1 to 128 printable characters."""

Uid = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 over tenant and request id, in lower-case hexadecimal (:func:`schemas.request.request_uid`)."""


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


class Inbound(BaseModel):
    """A record that strangers write: unknown fields are refused, so that a misspelt option is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    # Literal compares by value, and to Python true is 1.
    schema_version: Annotated[Literal[1], BeforeValidator(_number)] = 1


class Record(BaseModel):
    """A record that we write: a newer writer may add fields, and this reader passes over them."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    schema_version: Literal[1] = 1


class Part(BaseModel):
    """A piece of a :class:`Record`, without a version of its own."""

    model_config = ConfigDict(frozen=True, extra="ignore")


Instant = AwareDatetime
"""A point in time with its offset from UTC (ISO 8601 in JSON)."""
