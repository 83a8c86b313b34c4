"""The domain that somebody meant: one or two slips of the finger away from a popular one, and only then.

Precise rather than eager: a name that is known to exist is never corrected, and a slip must be one that fingers make
(two letters swapped, one doubled, dropped, or hit next to the right key).
"""

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList

from streams.checks.lists import DATA, Lists, entries

_KEYBOARD = ("1234567890-", "qwertyuiop", "asdfghjkl", "zxcvbnm,.")

_COMMON_TAILS = ("com", "net", "org", "edu")
"""Top-level domains that a mistyped one is taken for, the likeliest first."""

_SHORT_HEAD = 5
"""Names of fewer letters lie too close to other real ones: ``aol``, ``gmx``, ``me``."""

_LONG_HEAD = 7
"""Names of so many letters are still known by their ends, so that the first letter may be the one that slipped."""

_TWO_SLIPS = 9
"""Names of so many letters are still told apart after two slips."""


def suggest(domain: str, lists: Lists) -> str | None:
    """The popular domain that an ASCII one is a slip of, or the same name under the top-level domain that was meant."""
    popular = popular_domains()
    if domain in popular or lists.is_free(domain) or lists.is_allowed(domain):
        return None
    return max(_candidates(domain), key=popular.__getitem__, default=None) or _mend_top_level(domain)


def _candidates(domain: str) -> Iterator[str]:
    head, _, tail = domain.partition(".")
    exists = _is_top_level(tail)
    for meant_tail in _tails_like(tail):
        heads = _popular_by_tail()[meant_tail]
        if tail == meant_tail:
            found = [meant for meant in heads if _is_head_slip(head, meant)]
        elif exists:
            found = [meant for meant in heads if head == meant and len(head) >= _SHORT_HEAD]
        else:
            found = [meant for meant in heads if head == meant or _is_head_slip(head, meant)]
        yield from (f"{meant}.{meant_tail}" for meant in found)


@lru_cache(maxsize=4096)
def _tails_like(tail: str) -> list[str]:
    """What popular domains end with, where it is the same or a slip away."""
    return [meant for meant in _popular_by_tail() if tail == meant or _is_tail_slip(tail, meant)]


def _is_head_slip(head: str, meant: str) -> bool:
    if len(meant) < _SHORT_HEAD or abs(len(head) - len(meant)) > 1:
        return False
    if is_mistyped(head, meant, 1, first=len(meant) >= _LONG_HEAD):
        return True
    return len(meant) >= _TWO_SLIPS and is_mistyped(head, meant, 2)


def _mend_top_level(domain: str) -> str | None:
    """``acme.con``: whoever the domain belongs to, no such top level exists and a common one is a slip away."""
    head, _, tail = domain.rpartition(".")
    meant = _top_level_meant(tail) if head else None
    return f"{head}.{meant}" if meant else None


@lru_cache(maxsize=4096)
def _top_level_meant(tail: str) -> str | None:
    if _is_top_level(tail):
        return None
    return next((meant for meant in _COMMON_TAILS if _is_tail_slip(tail, meant)), None)


def _is_tail_slip(tail: str, meant: str) -> bool:
    return tail != meant and abs(len(tail) - len(meant)) <= 1 and is_mistyped(tail, meant, 1, first=True)


@lru_cache(maxsize=4096)
def _is_top_level(tail: str) -> bool:
    return public_suffixes().publicsuffix(tail, accept_unknown=False) is not None


@cache
def popular_domains() -> Mapping[str, int]:
    """Domain to weight; weight 0 stands for a real domain that must not be corrected."""
    lines = entries((DATA / "popular_domains.txt").read_text(encoding="utf-8"))
    return {domain: int(weight) for domain, weight in (line.split() for line in lines)}


@cache
def _popular_by_tail() -> Mapping[str, list[str]]:
    """``com`` to ``gmail``, ``yahoo``, ...; without those of weight 0."""
    by_tail: dict[str, list[str]] = {}
    for domain, weight in popular_domains().items():
        head, _, tail = domain.partition(".")
        if weight:
            by_tail.setdefault(tail, []).append(head)
    return by_tail


@cache
def public_suffixes() -> PublicSuffixList:
    """The public suffix list, read when first asked for."""
    return PublicSuffixList()


def is_mistyped(typed: str, meant: str, slips: int, *, first: bool = False) -> bool:
    """True where at most ``slips`` slips of the finger turn ``meant`` into ``typed``.

    People see the first letter of what they type: unless ``first``, it must be right, or have changed places.
    """
    if not first and typed[:1] != meant[:1] and typed[:2] != meant[1::-1]:
        return False
    return _slipped(typed, meant, slips, before="")


def _slipped(typed: str, meant: str, slips: int, before: str) -> bool:
    """Walk both words to where they part, then try each slip there. ``before`` is the last letter that was typed."""
    while typed and meant and typed[0] == meant[0]:
        before, typed, meant = typed[0], typed[1:], meant[1:]
    if not typed and not meant:
        return True
    if not slips:
        return False
    swapped = len(typed) > 1 and typed[:2] == meant[1::-1]
    neighbour = bool(typed) and bool(meant) and typed[0] in _neighbours().get(meant[0], "")
    doubled = bool(typed) and (typed[0] == before or typed[0] in _neighbours().get(before, "") or neighbour)
    rest = slips - 1
    return (
        (swapped and _slipped(typed[2:], meant[2:], rest, typed[1]))
        or (neighbour and _slipped(typed[1:], meant[1:], rest, typed[0]))
        or (doubled and _slipped(typed[1:], meant, rest, typed[0]))
        or (bool(meant) and _slipped(typed, meant[1:], rest, before))
    )


@cache
def _neighbours() -> Mapping[str, str]:
    """The keys around each key; a row lies half a key to the right of the one above it."""
    around: dict[str, str] = {}
    for row, keys in enumerate(_KEYBOARD):
        for at, key in enumerate(keys):
            near = [(row, at - 1), (row, at + 1), (row - 1, at), (row - 1, at + 1), (row + 1, at - 1), (row + 1, at)]
            around[key] = "".join(_KEYBOARD[r][c] for r, c in near if 0 <= r < 4 and 0 <= c < len(_KEYBOARD[r]))
    return around
