"""Does a tenant clean a list, or does it harvest? Pure functions of what was learned of its addresses.

A list has mostly people that exist; who guesses names asks mostly for people that don't. So what counts is how many
*distinct* mailboxes of a domain were asked for that are unknown there, and what part of all answers that is. A family
of names that only counting makes (``a1, a2, a3`` or ``aaa, aab, aac``) is a sign of its own.

How many are distinct is known from the smallest :data:`KEPT` of their hashes (k minimum values: Bar-Yossef and others,
"Counting Distinct Elements in a Data Stream", 2002): exact up to that many, then within about 13 % (one standard
deviation). Such a sketch is a set, so what is merged into it twice changes nothing, and a row never grows beyond
three of them, about 2 KB.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import Field

from schemas.base import Part
from schemas.pipeline import Seen

KEPT = 64
"""Hashes of a sketch."""

FAMILY = 10
"""So many names of one attempt that only counting makes are a family; people's names come in twos and threes."""

DICTIONARY = 5
"""A domain's limit is lower by this where at least half of the unknown names are of such families."""

WHOLE = "*"
"""Stands for all domains of a tenant together; its limit is higher by :data:`WHOLE_TIMES`."""

WHOLE_TIMES = 10

_SPACE = 2**32
_DIGITS = re.compile(r"[0-9]+")

Sketch = tuple[int, ...]
"""The smallest hashes of a set, in order."""


def hash_of(local: str, domain: str) -> int:
    """32 bits of a mailbox's name; local parts are compared without case, as nearly every server does."""
    return int.from_bytes(hashlib.blake2b(f"{local.lower()}@{domain}".encode(), digest_size=4).digest(), "big")


def merged(one: Iterable[int], other: Iterable[int]) -> Sketch:
    """The sketch of both sets together."""
    return tuple(sorted({*one, *other})[:KEPT])


def distinct(sketch: Sketch) -> int:
    """How many were put in, exactly below :data:`KEPT`."""
    return len(sketch) if len(sketch) < KEPT else round((KEPT - 1) * _SPACE / (sketch[-1] + 1))


def families(names: Iterable[str]) -> set[str]:
    """Those of the names that only counting makes: they differ in a number, or in their last letter alone."""
    groups: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for name in names:
        if (stem := _DIGITS.sub("#", name)) != name:
            groups["number", stem].add(name)
        groups["letter", f"{name[:-1]}/{len(name)}"].add(name)
    return {name for group in groups.values() if len(group) >= FAMILY for name in group}


def seen_in(domain: str, *, unknown: Iterable[str], found: Iterable[str]) -> Seen:
    """What one attempt learned of a domain, by its local parts."""
    unknown = set(unknown)
    return Seen(
        unknown=merged((), (hash_of(name, domain) for name in unknown)),
        found=merged((), (hash_of(name, domain) for name in found)),
        counted=merged((), (hash_of(name, domain) for name in families(unknown))),
    )


def together(one: Seen, other: Seen) -> Seen:
    """What two attempts, requests or days learned together."""
    return Seen(
        unknown=merged(one.unknown, other.unknown),
        found=merged(one.found, other.found),
        counted=merged(one.counted, other.counted),
    )


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is too much: so many distinct ``unknown`` mailboxes of a domain, if they are this ``part`` of all answers (0
    to 1), within ``window_ms``."""

    unknown: int
    part: float
    window_ms: int


class Alarm(Part):
    """Why a tenant looks like a harvester, and which record showed it. ``level``: see :func:`_level`."""

    record: str
    domain: str
    since_ms: int
    level: int
    dictionary: bool
    why: str = Field(description="A sentence for the audit trail.")


class Watch(Part):
    """What is known of a tenant and a domain (a row of the gate's ledger). ``level``: of the last alarm."""

    since_ms: int
    seen: Seen = Seen()
    level: int = 0
    alarm: Alarm | None = None


def watched(row: Watch | None, seen: Seen, at_ms: int, bounds: Bounds) -> Watch:
    """The row after a settlement; when its window is over, a new one begins."""
    if row is None or at_ms >= row.since_ms + bounds.window_ms:
        row = Watch(since_ms=at_ms, alarm=None if row is None else row.alarm)
    both = together(row.seen, seen)
    return row if both == row.seen else row.model_copy(update={"seen": both})


def judged(row: Watch, record: str, domain: str, bounds: Bounds) -> Alarm | None:
    """Whether that is too much; the next alarm is due when twice as much has come together, or more."""
    unknown, found, counted = (distinct(each) for each in (row.seen.unknown, row.seen.found, row.seen.counted))
    dictionary = counted * 2 >= unknown
    load = max(unknown, counted * DICTIONARY if dictionary else 0)
    level = _level(load, bounds.unknown * (WHOLE_TIMES if domain == WHOLE else 1))
    if level <= row.level or unknown < bounds.part * (unknown + found):
        return None
    named = "" if not dictionary else f", {counted:,} of them names that only counting makes"
    where = "all domains together" if domain == WHOLE else domain
    why = f"about {unknown:,} mailboxes of {where} were asked for that do not exist{named}, and {found:,} that do"
    return Alarm(record=record, domain=domain, since_ms=row.since_ms, level=level, dictionary=dictionary, why=why[:256])


def _level(load: int, limit: int) -> int:
    """0 below the limit, 1 from there on, 2 from twice the limit on, 3 from four times, and so on."""
    return (load // limit).bit_length()


def is_allowed(domain: str, allowed: Iterable[str]) -> bool:
    """Whether the operator lets the tenant ask for any names of the domain: it, or one above it, or all (``*``)."""
    return any(name in (WHOLE, domain) or domain.endswith(f".{name}") for name in allowed)
