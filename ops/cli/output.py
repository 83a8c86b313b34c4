"""How text is shown: what a server or a stranger's file said never reaches a terminal as it stands."""

import json
from collections.abc import Mapping
from datetime import timedelta

MAX_SHOWN = 200
"""Characters of a stranger's text in one line of ours."""


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """`text` with every character that isn't printable escaped (controls, line ends, bidirectional marks, unpaired
    surrogates), cut to `limit` characters with an ellipsis."""
    shown = text if text.isprintable() else "".join(map(_escaped, text[: limit + 1]))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def json_line(record: Mapping[str, object]) -> str:
    """One line of JSON in ASCII: no terminal is driven by it, and every reader splits it at the line end alone."""
    return json.dumps(record, ensure_ascii=True, separators=(",", ":"), default=str)


def counted(number: int, singular: str, plural: str = "") -> str:
    """``1 address``, ``2,000 addresses``: the plural is the singular and an s unless given."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def duration(seconds: float) -> str:
    """``12.3 s`` below a minute, else ``h:mm:ss``."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
