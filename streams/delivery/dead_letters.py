"""What becomes of a record that can't be used: its own bytes, and in a header why. Pure."""

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from schemas.pipeline import DeadLetter
from schemas.topics import DEADLETTERS
from streams.records import Incoming, Outgoing, Unusable

HEADER: Final = "mailvet-deadletter"
REPLAYS: Final = "mailvet-replays"
"""How often a record was replayed; it stays on the record, so that a replay that fails again is known as one."""
REPLAY_ORIGIN: Final = "mailvet-replay-origin"
"""Where the record failed for the first time: topic/partition/offset."""
REPLAYED: Final = "mailvet-replayed"
"""A :class:`schemas.pipeline.Replayed`, of the record that says that a dead letter was replayed."""
MAX_VALUE_BYTES: Final = 512 * 1024
MAX_KEY_BYTES: Final = 4 * 1024
MAX_HEADERS_BYTES: Final = 64 * 1024
MAX_DETAIL_CHARACTERS: Final = 1024

REDACTED: Final = b"[redacted]"
_SECRET_NAME = re.compile(
    r"auth|bearer|token|secret|passw|credential|cookie|signature|key(?![-_]?id$)", re.IGNORECASE
)  # A key's id is no secret; its digest is what admission compares.
_SECRET_VALUE = re.compile(rb"\s*(bearer\s|basic\s|mv_)", re.IGNORECASE)

# Where a client put its key in the wrong place: a bearer key, or what follows the first line of a private one.
_CREDENTIAL = re.compile(
    rb"mv_[A-Za-z0-9.-]{1,64}_[A-Za-z0-9.-]{1,64}_[A-Za-z0-9]{16,128}_[a-z2-7]{7}"
    rb"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{0,8192}"
)
_LONGEST: Final = 8400
"""No credential of these is longer."""


def dead_letter(record: Incoming, unusable: Unusable, *, role: str, at: datetime) -> Outgoing:
    """The dead letter of ``record``: same key, same bytes up to 512 KB, a :class:`DeadLetter` in :data:`HEADER`.

    A credential that stands in key or value is redacted; size and SHA-256 are those of the value as it was. Keys and
    headers of strangers are cut too, so that every dead letter can be written.
    """
    about = DeadLetter(
        reason=unusable.reason,
        detail=unusable.detail[:MAX_DETAIL_CHARACTERS],
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        role=role,
        size=len(record.value),
        sha256=hashlib.sha256(record.value).hexdigest(),
        at=at,
    )
    return Outgoing(
        topic=DEADLETTERS.name,
        key=None if record.key is None else _redacted(record.key, MAX_KEY_BYTES),
        value=_redacted(record.value, MAX_VALUE_BYTES),
        headers=((HEADER, about.model_dump_json().encode()), *_kept_headers(record)),
    )


def is_secret(name: str, value: bytes) -> bool:
    """Whether a header holds a credential, by its name or by what stands in it."""
    return bool(_SECRET_NAME.search(name) or _SECRET_VALUE.match(value))


def _redacted(raw: bytes, limit: int) -> bytes:
    """The beginning without credentials, nor the half of one. Sixteen megabytes that are made for it took 4 s."""
    looked_at = raw[: limit + _LONGEST]
    kept = _CREDENTIAL.sub(REDACTED, looked_at)
    return kept[:limit] if len(looked_at) == len(raw) else kept[: len(kept) - _LONGEST][:limit]


def _kept_headers(record: Incoming) -> Iterator[tuple[str, bytes]]:
    room = MAX_HEADERS_BYTES
    for name, value in record.headers.items():
        room -= len(name.encode(errors="replace")) + max(len(value), len(REDACTED))
        if room < 0:
            return
        kept = REDACTED if is_secret(name, value) else _CREDENTIAL.sub(REDACTED, value)
        # A dead letter that is read in again and fails again names its last failure only.
        if name != HEADER:
            yield name, kept
