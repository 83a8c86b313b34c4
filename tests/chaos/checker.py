"""What must hold whatever happened on the way, in the manner of Jepsen's checkers: pure functions of a history."""

import hashlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from schemas.pipeline import DeadLetter
from schemas.topics import DEADLETTERS, REQUESTS, RESULTS, SETTLEMENTS
from schemas.vocabulary import VERDICTS, Reason, Verdict
from streams.access.decisions import Decision, TenantAccount
from streams.codec import decode
from streams.delivery.dead_letters import HEADER
from streams.roles.gate import ORIGIN
from streams.roles.upkeep import row_key
from tests.chaos.consequences import Owed, Said, index_of, owed
from tests.chaos.history import LEDGER, READERS, History, Look, Place, Written

DEFINITE = 0.99
"""The part of the places with a definite verdict to be had that must have got it, where the world failed a while."""


@dataclass(frozen=True, slots=True)
class Report:
    """Every list is empty in a good run; ``repeats`` are allowed, because at-least-once may say a thing twice.

    ``lost``: places without a result. ``changed``: places whose results differ in a byte. ``wrong``: place, expected,
    said. ``stray``: results that nobody asked for. ``unsummed``: requests without exactly one summary, or whose
    summary does not add up or stands before a result. ``rejected``: requests that were not served.
    ``indefinite``: places that should have got a definite verdict. ``unburied``: malformed records without a dead
    letter; ``buried``: good records with one. ``past``: what was committed before it was said what follows from it.
    ``behind``: what was not committed in the end. ``charges``: what does not add up in the ledger.
    """

    lost: list[Place] = field(default_factory=list)
    changed: list[Place] = field(default_factory=list)
    wrong: list[tuple[Place, str, str]] = field(default_factory=list)
    stray: list[Place] = field(default_factory=list)
    unsummed: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    indefinite: list[Place] = field(default_factory=list)
    unburied: list[str] = field(default_factory=list)
    buried: list[str] = field(default_factory=list)
    past: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    charges: list[str] = field(default_factory=list)
    results: int = 0
    repeats: int = 0
    unknown: int = 0
    """Places that could have had a definite verdict, however few."""

    @property
    def faults(self) -> dict[str, int]:
        """How many of each; empty when all is well."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: len(value) for name, value in found.items() if isinstance(value, list) and value}

    def examples(self, most: int = 5) -> Iterable[str]:
        """A line for each kind of fault."""
        for name, count in self.faults.items():
            yield f"{name} ({count}): {getattr(self, name)[:most]}"


# -- results ---------------------------------------------------------------------------------------------------------


def check(expected: Mapping[Place, str], records: Iterable[bytes], *, outages: bool = False) -> Report:
    """Compare the records of a results topic with the reason that each place must have in the end.

    With ``outages`` of the world that was asked, a place may be unknown whose verdict is definite: few of them may.
    """
    said = _Said.read(records)
    reasons = said.reasons
    wrong = [(place, want, reasons[place]) for place, want in expected.items() if reasons.get(place, want) != want]
    missed = [place for place, want, got in wrong if not _is_definite(got)]
    definite = sum(map(_is_definite, expected.values()))
    could_be = [place for place in missed if _is_definite(expected[place])]
    few = outages and len(could_be) <= (1 - DEFINITE) * definite
    return Report(
        lost=sorted(set(expected) - set(reasons)),
        changed=sorted(place for place, values in said.results.items() if len(values) > 1),
        wrong=[each for each in wrong if not outages or _is_definite(each[2])],
        stray=sorted(set(reasons) - set(expected)),
        unsummed=said.unsummed({uid for uid, _ in expected}),
        rejected=said.rejected,
        indefinite=[] if few or not outages else could_be,
        results=len(reasons),
        repeats=said.count - len(reasons),
        unknown=len(could_be),
    )


def _is_definite(reason: str) -> bool:
    return VERDICTS[Reason(reason)] is not Verdict.UNKNOWN


@dataclass(slots=True)
class _Said:
    """What stands on a results topic."""

    results: dict[Place, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    summaries: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    rejected: list[str] = field(default_factory=list)
    late: set[str] = field(default_factory=set)
    count: int = 0

    @classmethod
    def read(cls, records: Iterable[bytes]) -> "_Said":
        said = cls()
        for value in records:
            record = orjson.loads(value)
            uid = record["request_uid"]
            if record["kind"] == "result":
                if said.summaries.get(uid) and (uid, record["index"]) not in said.results:
                    said.late.add(uid)
                said.results[uid, record["index"]].add(value)
                said.count += 1
            elif record["kind"] == "summary":
                said.summaries[uid].add(value)
            else:
                said.rejected.append(uid)
        return said

    @property
    def reasons(self) -> dict[Place, str]:
        return {place: orjson.loads(min(values))["reason"] for place, values in self.results.items()}

    def unsummed(self, uids: set[str]) -> list[str]:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for (uid, _), reason in self.reasons.items():
            counts[uid][reason] += 1
        return sorted(uid for uid in uids if uid in self.late or not self._adds_up(uid, counts[uid]))

    def _adds_up(self, uid: str, reasons: Counter[str]) -> bool:
        summaries = self.summaries.get(uid, set())
        return len(summaries) == 1 and orjson.loads(next(iter(summaries)))["reasons"] == dict(reasons)


# -- a whole run -----------------------------------------------------------------------------------------------------


def judge(history: History, tenant: str) -> Report:
    """Everything that can be said of a run."""
    report = check(history.expected, [each.value or b"" for each in history.log(RESULTS.name)], outages=history.outages)
    report.unburied.extend(_unburied(history))
    report.buried.extend(_buried(history))
    report.past.extend(_past(history, tenant))
    report.behind.extend(behind(history))
    report.charges.extend(_charges(history, tenant))
    return report


def _unburied(history: History) -> Iterable[str]:
    """Every malformed record that was sent is a dead letter, by its own place; some are found out at admission only."""
    there = {_origin(each) for each in history.log(DEADLETTERS.name)}
    requests = history.log(REQUESTS.name)
    for record in requests:
        if _digest(record) in history.malformed and f"{record.topic}/{record.partition}/{record.offset}" not in there:
            yield _name(record)
    never = history.malformed - {_digest(record) for record in requests}
    yield from (f"never sent: {digest}" for digest in sorted(never))


def _origin(letter: Written) -> str:
    about = _about(letter)
    return letter.headers.get(ORIGIN, f"{about.topic}/{about.partition}/{about.offset}".encode()).decode()


def _buried(history: History) -> Iterable[str]:
    """Nothing else is: a bug of a role would show here."""
    for letter in history.log(DEADLETTERS.name):
        about = _about(letter)
        if about.sha256 not in history.malformed:
            yield f"{about.topic}[{about.partition}]@{about.offset} by {about.role}: {about.reason}, {about.detail}"


def _about(letter: Written) -> DeadLetter:
    return DeadLetter.model_validate_json(letter.headers[HEADER])


def _digest(record: Written) -> str:
    return hashlib.sha256(record.value or b"").hexdigest()


def _name(record: Written) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"


def _past(history: History, tenant: str) -> Iterable[str]:
    """Nothing was committed before everything that follows from it was there."""
    places = index_of(history.all())
    for reader, topics in READERS.items():
        for topic in topics:
            rising = _Rising(history.looks, reader, topic)
            for record in history.log(topic):
                look = rising.first_look(record)
                missing = None if look is None else _missing(owed(reader, record, tenant), places, look)
                if look is not None and missing is not None:
                    yield f"{reader} had committed {_name(record)} at {look.at_s:.1f} s without {missing}"


def _missing(all_owed: Iterable[Owed], places: Mapping[Said, Sequence[Written]], look: Look) -> str | None:
    """The first thing that was owed and not said by the time of the look."""
    for ways in all_owed:
        found = (each for way in ways for each in places.get(way, ()))
        if not any(each.offset < look.ends.get((each.topic, each.partition), 0) for each in found):
            return str(min(map(str, ways)))
    return None


class _Rising:
    """When the records of a topic were seen to be committed. What was committed once stays so."""

    def __init__(self, looks: Sequence[Look], reader: str, topic: str) -> None:
        self._looks = looks
        self._offsets: dict[int, list[int]] = defaultdict(list)
        for look in looks:
            for partition in {partition for name, partition in look.ends if name == topic}:
                offsets = self._offsets[partition]
                offsets.append(max(look.committed.get((reader, topic, partition), 0), *offsets[-1:], 0))

    def first_look(self, record: Written) -> Look | None:
        """The first look at which the record was committed."""
        place = bisect_right(self._offsets[record.partition], record.offset)
        return self._looks[place] if place < len(self._looks) else None


def behind(history: History) -> Iterable[str]:
    """In the end everything is committed: a partition that stands still shows here."""
    if not history.looks:
        return
    last = history.looks[-1]
    for reader, topics in READERS.items():
        for (topic, partition), end in last.ends.items():
            committed = last.committed.get((reader, topic, partition), 0)
            if topic in topics and committed < end:
                yield f"{reader} is at {committed} of {end} of {topic}[{partition}]"


def _charges(history: History, tenant: str) -> Iterable[str]:
    """The account holds what was admitted less what was given back; nothing is in flight; all is settled once."""
    asked = Counter(uid for uid, _ in history.expected)
    rows = {record.key or b"": record.value for record in history.log(LEDGER)}
    decisions = {
        decision.uid: decision
        for key, value in rows.items()
        if b":decision:" in key and value
        for decision in (decode(Decision, value),)
    }
    admitted = {uid: each for uid, each in decisions.items() if each.reason is None}
    for uid, count in asked.items():
        if uid not in admitted or admitted[uid].charged != count:
            yield f"{uid} was charged {admitted[uid].charged if uid in admitted else None} of {count}"
    yield from (f"{uid} was never settled" for uid, each in admitted.items() if not each.settled)
    back = _given_back(history)
    unknown = _unknown(history)
    yield from (f"{uid}: gave back {back.get(uid)} of {unknown[uid]}" for uid in asked if back.get(uid) != unknown[uid])
    owed_ = sum(asked.values()) - sum(unknown[uid] for uid in asked)
    # The tenant's account leads; that of its key may be written again from it later.
    row = rows.get(row_key(tenant, "account"))
    account = decode(TenantAccount, row) if row else TenantAccount()
    if asked and account.month_used != owed_:
        yield f"the account is charged {account.month_used}, and {owed_} were served"
    if account.in_flight:
        yield f"still in flight: {account.in_flight}"


def _given_back(history: History) -> dict[str, int | None]:
    """By request; None where settlements differ."""
    found: dict[str, Any] = {}
    for record in history.log(SETTLEMENTS.name):
        about: Any = record.json
        uid, back = about["request_uid"], about["given_back"]
        found[uid] = back if found.get(uid, back) == back else None
    return found


def _unknown(history: History) -> Counter[str]:
    """Places of each request for which nothing is charged: what could not be learned is free."""
    places: dict[Place, str] = {}
    for record in history.log(RESULTS.name):
        about: Any = record.json
        if about["kind"] == "result":
            places.setdefault((about["request_uid"], about["index"]), about["verdict"])
    return Counter(uid for (uid, _), verdict in places.items() if verdict == Verdict.UNKNOWN)
