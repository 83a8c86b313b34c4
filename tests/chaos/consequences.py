"""What has to follow from each record before it may be committed, as the roles promise it: pure.

A record *says* things (a task of attempt 2 for this place of a request, a final finding on it, ...), and the reader of
a record owes that certain things are said. What is owed may be said in one of several ways.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from schemas.pipeline import DeadLetter
from schemas.request import request_uid
from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    ADMITTED_BULK,
    ADMITTED_INTERACTIVE,
    ATTEMPTS,
    DEADLETTERS,
    REQUESTS,
    RESULTS,
    SETTLEMENTS,
    TASKS_BULK,
    TASKS_INTERACTIVE,
    TIERS,
)
from streams.delivery.dead_letters import HEADER
from streams.roles.gate import ORIGIN
from streams.roles.probe import PUT_ASIDE
from tests.chaos.history import LEDGER, Written

Said = tuple[Any, ...]
"""One thing that a record says."""

Owed = frozenset[Said]
"""One thing that has to be said, in any of these ways."""

ADMISSIONS = frozenset({ADMISSIONS_BULK.name, ADMISSIONS_INTERACTIVE.name})
ADMITTED = frozenset({ADMITTED_BULK.name, ADMITTED_INTERACTIVE.name})
TASKS = frozenset({TASKS_BULK.name, TASKS_INTERACTIVE.name})
RETRIES = frozenset(tier.name for tier in TIERS)


def said(record: Written) -> Iterator[Said]:
    """Everything that a record says."""
    if record.topic == DEADLETTERS.name:
        about = DeadLetter.model_validate_json(record.headers[HEADER])
        yield "dead", about.topic, about.partition, about.offset
    elif record.topic in ADMISSIONS:
        yield "admission", record.headers[ORIGIN].decode()
    elif record.topic in ADMITTED:
        yield "admitted", _uid(record.json)
    elif record.topic in TASKS:
        yield from _of_task("task", record.json, hops=True)
    elif record.topic in RETRIES:
        yield from _of_task("put aside" if PUT_ASIDE in record.headers else "retry", record.json)
    elif record.topic == ATTEMPTS.name:
        yield from _of_attempt(record.json)
    elif record.topic == RESULTS.name:
        about_ = record.json
        yield about_["kind"], about_["request_uid"], about_.get("index")
    elif record.topic == LEDGER and b":decision:" in (record.key or b"") and record.json.get("settled"):
        yield "settled", record.json["uid"]


def owed(reader: str, record: Written, tenant: str) -> Iterator[Owed]:
    """Everything that the group ``reader`` owes for a record before it commits it."""
    dead = ("dead", record.topic, record.partition, record.offset)
    if record.topic == REQUESTS.name:
        yield frozenset({("admission", f"{record.topic}/{record.partition}/{record.offset}"), dead})
    elif record.topic in ADMISSIONS:
        uid = request_uid(tenant, str(record.json["request_id"]))
        yield frozenset({("admitted", uid), ("rejection", uid, None), dead})
    elif record.topic in ADMITTED and reader.startswith("route"):
        ticket: Any = record.json["ticket"]
        for index in range(ticket["total"]):
            yield _answers(ticket["request_uid"], index, 1) | {("task", ticket["request_uid"], index, 1), dead}
    elif record.topic in TASKS:
        task = record.json
        for uid, index in _places(task):
            handed_on = ("handed on", uid, index, task["attempt"], task["hops"] + 1)  # type: ignore[operator]
            put_aside = ("put aside", uid, index, task["attempt"])
            yield _answers(uid, index, task["attempt"]) | {handed_on, put_aside, dead}
    elif record.topic in RETRIES:
        for uid, index in _places(record.json):
            yield frozenset({("task", uid, index, record.json["attempt"]), dead})
    elif record.topic == ATTEMPTS.name:
        for what, uid, index, _ in _of_attempt(record.json):
            if what == "final":
                yield frozenset({("result", uid, index), dead})
    elif record.topic == SETTLEMENTS.name:
        yield frozenset({("settled", record.json["request_uid"]), dead})


def _answers(uid: str, index: int, attempt: Any) -> Owed:
    """An address that was asked for is decided, or is asked for again: what is said of it meanwhile is not enough."""
    return frozenset({("final", uid, index, attempt), ("retry", uid, index, attempt + 1)})


def _of_task(what: str, task: Mapping[str, Any], *, hops: bool = False) -> Iterator[Said]:
    for uid, index in _places(task):
        yield what, uid, index, task["attempt"]
        if hops:
            yield "handed on", uid, index, task["attempt"], task["hops"]


def _of_attempt(attempt: Mapping[str, Any]) -> Iterator[Said]:
    uid = _uid(attempt)
    for entry in attempt["entries"]:
        what = "final" if entry["final"] else "later"
        for position in entry["positions"]:
            yield what, uid, position["index"], entry["finding"]["attempt"]


def _places(task: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    uid = _uid(task)
    for item in task["items"]:
        for position in item["positions"]:
            yield uid, position["index"]


def _uid(record: Mapping[str, Any]) -> str:
    return str(record["ticket"]["request_uid"])


def index_of(records: Iterable[Written]) -> dict[Said, list[Written]]:
    """Where each thing is said."""
    found: dict[Said, list[Written]] = {}
    for record in records:
        for thing in said(record):
            found.setdefault(thing, []).append(record)
    return found
