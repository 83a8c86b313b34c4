"""What a server's reply means: the first rule that fits, from tables with a source and samples for each rule.

The tables in ``rules/`` stand in order of precedence. Whatever says that the reply is about *us* comes first, since a
block can wear any code; then the codes (RFC 5321, RFC 3463) and the words about the mailbox; then what a bare code
means. No rule can call an address undeliverable on a 4xx reply or before RCPT: :func:`load_rules` refuses such a table.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from schemas.vocabulary import RETRYABLE, VERDICTS, Reason, Stage, Verdict
from streams.checks.reply_text import (
    enhanced_of,
    fold,
    parse_reply,
    unwrap,
    without_accents,
    without_addresses,
    without_names,
)
from streams.smtp.replies import Reply

__all__ = ["Match", "Rule", "load_rules", "match", "parse_reply", "rule_named", "unwrap"]

TABLES = ("protocol", "exceptions", "sender", "later", "mailbox", "languages", "server", "codes")
"""The files of ``rules/`` in order of precedence."""

SMTP_STAGES = (Stage.CONNECT, Stage.BANNER, Stage.EHLO, Stage.STARTTLS, Stage.MAIL, Stage.RCPT)
UNCODED = 0
"""The class of a text that came without any code."""

MAX_RETRY_AFTER_S = 86_400


@dataclass(frozen=True, slots=True)
class Match:
    """What a reply means to us. ``retry_after_s`` is the server's own hint in seconds, where it gave one."""

    reason: Reason
    rule: str
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the tables: fits when stage, class, code, enhanced code and text all fit; what is empty fits all.

    ``text`` and ``unless`` read the server's words, ``anywhere`` reads its URLs and host names as well; either of
    ``text`` and ``anywhere`` is enough.
    """

    id: str
    reason: Reason
    means: str
    source: str
    stages: frozenset[Stage]
    classes: frozenset[int]
    codes: frozenset[int]
    enhanced: re.Pattern[str] | None
    text: re.Pattern[str] | None
    anywhere: re.Pattern[str] | None
    unless: re.Pattern[str] | None
    samples: tuple[str, ...]

    def fits(self, code: int, enhanced: str | None, text: str, whole: str | None = None) -> bool:
        """Whether the reply fits; stage and class are the bucket's business (:func:`_bucket`).

        ``whole`` is ``text`` with its URLs and host names, where it had any.
        """
        if self.codes and code not in self.codes:
            return False
        if self.enhanced and not (enhanced and self.enhanced.fullmatch(enhanced)):
            return False
        if not self._says(text, whole):
            return False
        return not (self.unless and self.unless.search(text))

    def _says(self, text: str, whole: str | None) -> bool:
        if self.text and self.text.search(text):
            return True
        if self.anywhere:
            return self.anywhere.search(whole or text) is not None
        return self.text is None


def match(reply: Reply, stage: Stage, asked: str = "", sender: str = "") -> Match:
    """What ``reply`` to ``stage``'s command means. Always an answer, whatever the server wrote.

    ``asked``: the address that the command named, where it is known: a reply that quotes it is read sooner.
    ``sender``: the envelope sender, where it is known: a reply that names it alone is about us.
    """
    return _match(without_addresses(reply, asked, sender), stage)


@lru_cache(maxsize=4096)
def _match(reply: Reply, stage: Stage) -> Match:
    """Remembered without the addresses that it names: a server says the same of one mailbox as of the next."""
    enhanced, text = enhanced_of(reply), fold(reply)
    rule = _decide(reply.code, enhanced, text, stage)
    hint = retry_after(text) if rule.reason in RETRYABLE else None
    return Match(rule.reason, rule.id, hint)


@lru_cache(maxsize=16_384)
def _decide(code: int, enhanced: str | None, text: str, stage: Stage) -> Rule:
    words = without_names(text)
    return next(rule for rule in _bucket(stage, class_of(code, enhanced)) if rule.fits(code, enhanced, words, text))


def class_of(code: int, enhanced: str | None) -> int:
    """2, 3, 4 or 5; :data:`UNCODED`; -1 for what is no SMTP code.

    Where a 5xx carries a 4.x.x the milder one counts: "later" must never read as "never".
    """
    basic = code // 100 if code else UNCODED
    if enhanced and basic in (UNCODED, 5):
        return int(enhanced[0])
    return basic if basic in (UNCODED, 2, 3, 4, 5) else -1


@cache
def _bucket(stage: Stage, klass: int) -> tuple[Rule, ...]:
    """The rules that can fit at all, in order; the last one always does."""
    asked = stage if stage in SMTP_STAGES else Stage.CONNECT
    return tuple(rule for rule in load_rules() if asked in rule.stages and klass in rule.classes)


def rule_named(name: str) -> Rule:
    """The rule of that id. :raises KeyError: there is none."""
    return _by_id()[name]


@cache
def _by_id() -> Mapping[str, Rule]:
    return {rule.id: rule for rule in load_rules()}


_HINT = re.compile(
    r"(?:try|retry|retries|come back|again|wait|delay(?:ed)?|after|in|for|within|next|remaining)\b[^.;\d]{0,40}?"
    r"(?:(?P<clock>\d{1,2}:\d{2}(?::\d{2})?)"
    r"|(?P<count>\d{1,5}) ?(?P<unit>s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?)\b)"
)
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def retry_after(text: str) -> int | None:
    """Seconds that a folded text asks us to wait ("try again in 5 minutes", "come back in 00:04:58"), at most a day."""
    found = _HINT.search(text)
    if not found:
        return None
    seconds = _clock(found["clock"]) if found["clock"] else int(found["count"]) * _SECONDS[found["unit"][0]]
    return min(seconds, MAX_RETRY_AFTER_S) or None


def _clock(text: str) -> int:
    """``HH:MM:SS`` or ``MM:SS`` in seconds."""
    seconds = 0
    for part in text.split(":"):
        seconds = seconds * 60 + int(part)
    return seconds


@cache
def load_rules() -> tuple[Rule, ...]:
    """Every rule in order of precedence.

    :raises ValueError: a table that contradicts itself or the promises above.
    """
    folder = resources.files("streams.checks") / "rules"
    words = _words(tomllib.loads((folder / "words.toml").read_text("utf-8"))["words"])
    tables = (tomllib.loads((folder / f"{name}.toml").read_text("utf-8")) for name in TABLES)
    return compile_rules((row for table in tables for row in table["rule"]), words)


def _words(table: Mapping[str, str | list[str]]) -> Mapping[str, str]:
    """Long words stand as lists of alternatives."""
    return {name: word if isinstance(word, str) else "|".join(word) for name, word in table.items()}


def compile_rules(rows: Iterable[Mapping[str, Any]], words: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules from rows as the tables hold them. :raises ValueError: see :func:`load_rules`."""
    rules = tuple(_compile(row, words) for row in rows)
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise ValueError(f"rule {rule.id} stands twice")
        seen.add(rule.id)
        _keep_promises(rule)
    return rules


def _keep_promises(rule: Rule) -> None:
    if VERDICTS[rule.reason] is not Verdict.UNDELIVERABLE:
        return
    if not rule.classes <= {5, UNCODED}:
        raise ValueError(f"rule {rule.id} would call an address undeliverable on a reply that is no 5xx")
    if rule.stages != {Stage.RCPT}:
        raise ValueError(f"rule {rule.id} would call an address undeliverable before it was asked for")


def _compile(row: Mapping[str, Any], words: Mapping[str, str]) -> Rule:
    return Rule(
        id=row["id"],
        reason=Reason(row["reason"]),
        means=row["means"],
        source=row["source"],
        stages=frozenset(map(Stage, row.get("stages", SMTP_STAGES))),
        classes=_classes(row),
        codes=frozenset(row.get("codes", ())),
        enhanced=_enhanced(row.get("enhanced", ())),
        text=_text(row.get("text", ()), words),
        anywhere=_text(row.get("anywhere", ()), words),
        unless=_text(row.get("unless", ()), words),
        samples=tuple(row["samples"]),
    )


def _classes(row: Mapping[str, Any]) -> frozenset[int]:
    """As the row says, else those of its codes, else 4, 5 and, for rules that read the text or enhanced code, none."""
    if "classes" in row:
        return frozenset(row["classes"])
    if "codes" in row:
        return frozenset(code // 100 for code in row["codes"])
    return frozenset({4, 5, UNCODED})


def _enhanced(patterns: Iterable[str]) -> re.Pattern[str] | None:
    """``5.1.1``; ``x.2.2`` for 4 and 5; ``5.7.*``; ``5.7.606-649``."""
    parts = [_enhanced_part(pattern) for pattern in patterns]
    return re.compile("|".join(parts)) if parts else None


def _enhanced_part(pattern: str) -> str:
    head, _, last = pattern.rpartition(".")
    first, dash, final = last.partition("-")
    details = "|".join(str(number) for number in range(int(first), int(final) + 1)) if dash else last
    return rf"{re.escape(head).replace('x', '[45]')}\.(?:{details.replace('*', '[0-9]+')})"


_WORD = re.compile(r"\{([a-z_]+)\}")


def _text(patterns: Iterable[str], words: Mapping[str, str]) -> re.Pattern[str] | None:
    """The alternatives as one pattern, each ``{word}`` replaced by what ``words.toml`` has for it."""
    joined = "|".join(patterns)
    while _WORD.search(joined):
        joined = _WORD.sub(lambda found: f"(?:{words[found[1]]})", joined)
    return re.compile(without_accents(joined)) if joined else None
