"""Dead letters as an operator meets them: what they say, which are meant, and whether one may go back. Pure."""

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from ops.cli.output import printable
from schemas.pipeline import DeadLetter, Replayed
from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    DEADLETTERS,
    KEY_COMMANDS,
    LEADING,
    PREFIX,
    REQUESTS,
)
from streams.delivery.dead_letters import (
    HEADER,
    MAX_KEY_BYTES,
    REDACTED,
    REPLAY_ORIGIN,
    REPLAYED,
    REPLAYS,
    is_secret,
)
from streams.records import Outgoing

M = TypeVar("M", bound=BaseModel)

ORIGINS: Final = tuple(topic.name for topic in (*LEADING, KEY_COMMANDS))
"""What roles read: a dead letter comes from there, and nothing else is ever written by a replay."""

MAX_REPLAYS: Final = 3
"""So often at most a record is replayed, whoever insists."""

AGE_MARGIN: Final = timedelta(hours=1)
"""What a replayed record may take to the last table that has to know it."""

_WITH_CREDENTIAL = (REQUESTS.name, ADMISSIONS_INTERACTIVE.name, ADMISSIONS_BULK.name)

_KEY = re.compile(rb"(mv_[A-Za-z0-9.-]{1,64}_[A-Za-z0-9.-]{1,64}_)[A-Za-z0-9_]+")
_SCHEME = re.compile(rb"\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]+", re.IGNORECASE)
_FIELD = re.compile(
    rb'("[^"]{0,64}(?:secret|passw|token|authorization|credential|api[_-]?key|signature|cookie)[^"]{0,64}"\s*:\s*)'
    rb'"(?:[^"\\]|\\.)*+"?',
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Letter:
    """A record of ``deadletters.v1``."""

    partition: int
    offset: int
    appended_ms: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]

    @property
    def name(self) -> str:
        """What an operator calls it: partition-offset."""
        return f"{self.partition}-{self.offset}"

    @cached_property
    def about(self) -> DeadLetter | None:
        """Why it is here; None where nobody of ours wrote it."""
        return _parsed(DeadLetter, self._header(HEADER))

    @cached_property
    def replayed(self) -> Replayed | None:
        """Not a dead letter but the word that one was replayed, where it is that."""
        return _parsed(Replayed, self._header(REPLAYED))

    @property
    def replays(self) -> int:
        """How often it was replayed before it came here; as often as may be where that can't be read."""
        said = self._header(REPLAYS)
        if said is None:
            return 0
        return int(said) if said.isdigit() and len(said) < 4 else MAX_REPLAYS

    @property
    def origin(self) -> str:
        """Where it failed for the first time: topic/partition/offset."""
        first = self._header(REPLAY_ORIGIN)
        if first is not None and self.replays:
            return printable(first.decode(errors="backslashreplace"))
        return "" if self.about is None else f"{self.about.topic}/{self.about.partition}/{self.about.offset}"

    @property
    def truncated(self) -> bool:
        """Only the beginning of the record was kept."""
        return self.about is not None and self.about.size > len(self.value)

    def _header(self, name: str) -> bytes | None:
        return next((value for each, value in self.headers if each == name), None)


def _parsed(model: type[M], header: bytes | None) -> M | None:
    try:
        return None if header is None else model.model_validate_json(header)
    except ValidationError:
        return None


def letter_of(message: Any) -> Letter:
    """aiokafka's record as a letter."""
    headers = tuple((name, value or b"") for name, value in message.headers)
    return Letter(message.partition, message.offset, message.timestamp, message.key, message.value or b"", headers)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant; what is empty asks for nothing. Times are milliseconds since 1970."""

    reasons: Collection[str] = ()
    roles: Collection[str] = ()
    topics: Collection[str] = ()
    key: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    names: Collection[str] = ()

    def __contains__(self, letter: Letter) -> bool:
        about = letter.about
        return (
            (not self.names or letter.name in self.names)
            and (self.since_ms is None or letter.appended_ms >= self.since_ms)
            and (self.until_ms is None or letter.appended_ms < self.until_ms)
            and (self.key is None or self.key in _spellings(letter.key))
            and (not self.reasons or (about is not None and about.reason in self.reasons))
            and (not self.roles or (about is not None and about.role in self.roles))
            and (not self.topics or (about is not None and about.topic in self.topics))
        )


def _spellings(key: bytes | None) -> tuple[str, ...]:
    """A key as it is, and as it is shown."""
    return () if key is None else (key.decode(errors="backslashreplace"), shown(key))


def full_topic(name: str) -> str:
    """A topic by its whole name, or without its prefix and version: ``attempts``, ``tasks.bulk``."""
    known = {each.removeprefix(PREFIX).removesuffix(".v1"): each for each in ORIGINS}
    return known.get(name, name)


def moment(text: str, now: datetime) -> int:
    """A time in milliseconds since 1970: ISO 8601 (UTC where it names no zone), or how long ago: 90s, 30m, 2h, 7d.

    Raises:
        ValueError: it is neither.
    """
    if found := re.fullmatch(r"(\d{1,6})([smhd])", text):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]
        return _ms(now - timedelta(**{unit: int(found[1])}))
    at = datetime.fromisoformat(text)
    return _ms(at if at.tzinfo else at.replace(tzinfo=UTC))


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


# -- going back -------------------------------------------------------------------------------------------------------


def refusal(letter: Letter, *, now_ms: int, decisions_kept: timedelta, force: bool = False) -> str | None:  # noqa: PLR0911
    """Why this dead letter can't go back where it came from, or None when it may."""
    about = letter.about
    if about is None:
        return "it isn't one of mailvet's dead letters: it doesn't say where it came from"
    if about.topic not in ORIGINS:
        return "it doesn't come from a topic that a role reads"
    if about.reason == "not_authenticated" or _lost_credential(letter, about):
        return "its credential was redacted, so nobody but its client can send it again"
    if letter.truncated or about.reason == "too_large":
        return "only its beginning was kept: its client has to send it again, in smaller requests"
    if hashlib.sha256(letter.value).hexdigest() != about.sha256:
        return "its bytes aren't those that failed"
    if len(letter.key or b"") >= MAX_KEY_BYTES:
        return "its key may have been cut"
    if now_ms - (about.timestamp_ms or 0) > _span_ms(decisions_kept - AGE_MARGIN):
        return "it's older than decisions are kept (MAILVET_DECISIONS_KEPT): it could be decided or charged twice"
    if letter.replays >= MAX_REPLAYS:
        return f"it failed again after {MAX_REPLAYS} replays: mend what it failed of"
    if letter.replays and not force:
        return "it failed again after a replay: --force replays it once more"
    return None


def _lost_credential(letter: Letter, about: DeadLetter) -> bool:
    return about.topic in _WITH_CREDENTIAL and any(value == REDACTED for _, value in letter.headers)


def _span_ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


def replay_of(letter: Letter) -> Outgoing:
    """The record as it was, with its origin; our own headers come first, since of each name the first one counts."""
    assert letter.about is not None  # noqa: S101  refusal() was asked
    ours = ((REPLAYS, str(letter.replays + 1).encode()), (REPLAY_ORIGIN, letter.origin.encode()))
    theirs = ((name, value) for name, value in letter.headers if name not in (HEADER, REPLAYS, REPLAY_ORIGIN))
    return Outgoing(letter.about.topic, letter.key, letter.value, (*ours, *theirs))


def marker_of(letter: Letter, now_ms: int) -> Outgoing:
    """The word that this letter was replayed, for its own partition."""
    assert letter.about is not None  # noqa: S101  refusal() was asked
    word = Replayed(
        partition=letter.partition,
        offset=letter.offset,
        topic=letter.about.topic,
        replays=letter.replays + 1,
        at=datetime.fromtimestamp(now_ms / 1000, UTC),
    )
    return Outgoing(DEADLETTERS.name, letter.key, b"", ((REPLAYED, word.model_dump_json().encode()),))


# -- showing ----------------------------------------------------------------------------------------------------------


def redacted(raw: bytes) -> bytes:
    """The bytes without what looks like a credential: keys of mailvet, HTTP schemes, telling names in JSON."""
    raw = _KEY.sub(rb"\1[redacted]", raw)
    raw = _SCHEME.sub(rb"\1\2[redacted]", raw)
    return _FIELD.sub(rb'\1"[redacted]"', raw)


def shown(raw: bytes | None, limit: int = 80) -> str:
    """A stranger's bytes, redacted, escaped and cut to ``limit`` characters."""
    return "-" if raw is None else printable(redacted(raw).decode(errors="backslashreplace"), limit)


def shown_headers(headers: Iterable[tuple[str, bytes]], limit: int = 200) -> list[tuple[str, str]]:
    """A record's own headers, fit to be seen."""
    return [
        (printable(name, 80), shown(REDACTED if is_secret(name, value) else value, limit))
        for name, value in headers
        if name != HEADER
    ]


def summary(letter: Letter) -> dict[str, object]:
    """One dead letter for machines."""
    about = letter.about
    return {
        "id": letter.name,
        "appended_at": datetime.fromtimestamp(letter.appended_ms / 1000, UTC).isoformat(),
        "reason": about and about.reason,
        "role": about and about.role,
        "topic": about and about.topic,
        "partition": about and about.partition,
        "offset": about and about.offset,
        "first_origin": letter.origin,
        "key": None if letter.key is None else shown(letter.key),
        "size": about.size if about else len(letter.value),
        "truncated": letter.truncated,
        "replays": letter.replays,
        "detail": about and printable(about.detail, 1024),
    }
