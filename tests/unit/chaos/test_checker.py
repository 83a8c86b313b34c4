"""The checker catches planted defects: each test fails without the rule that it names."""

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from schemas.pipeline import Admitted, Attempt, AttemptEntry, Position, Settlement, Task, TaskItem
from schemas.result import Evidence, Finding, Summary
from schemas.topics import (
    ADMISSIONS_BULK,
    ADMITTED_BULK,
    ATTEMPTS,
    DEADLETTERS,
    REQUESTS,
    RESULTS,
    RETRIES_5M,
    SETTLEMENTS,
    TASKS_BULK,
)
from schemas.vocabulary import VERDICTS, Lane, Reason, Stage, Verdict
from streams.access.decisions import Account, Decision
from streams.codec import encode
from streams.delivery.dead_letters import dead_letter
from streams.records import Incoming, Unusable
from streams.roles.gate import ORIGIN
from streams.roles.publish import result_of
from streams.roles.upkeep import row_key
from tests.chaos.checker import Report, check, judge
from tests.chaos.history import LEDGER, READERS, History, Look, Written
from tests.unit.roles.support import NOW, request_bytes, ticket

TENANT = "acme"
GOOD, GREY = "a@good.test", "b@grey.test"
TICKET = ticket(2)
UID = TICKET.request_uid
BAD = b"no JSON"


def finding(reason: Reason, attempt: int = 1) -> Finding:
    verdict = VERDICTS[reason]
    return Finding(
        verdict=verdict,
        reason=reason,
        reasons=(reason,),
        score=0,
        retryable=verdict is Verdict.UNKNOWN,
        evidence=Evidence(stage=Stage.RCPT),
        attempt=attempt,
        checked_at=NOW,
    )


def entry(index: int, reason: Reason, attempt: int = 1) -> AttemptEntry:
    return AttemptEntry(
        positions=(Position(index=index, input=(GOOD, GREY)[index]),),
        final=VERDICTS[reason] is not Verdict.UNKNOWN,
        finding=finding(reason, attempt),
    )


def task(indexes: Iterable[int], attempt: int = 1) -> bytes:
    items = tuple(
        TaskItem(positions=(Position(index=each, input="x"),), address=(GOOD, GREY)[each]) for each in indexes
    )
    return encode(Task(ticket=TICKET, provider="p", items=items, attempt=attempt, created_at=NOW))


def attempt(*entries: AttemptEntry) -> bytes:
    return encode(Attempt(ticket=TICKET, origin="probe", entries=entries))


def result(index: int, reason: Reason, attempt: int = 1) -> bytes:
    said = entry(index, reason, attempt)
    return encode(result_of(TICKET, said.positions[0], said))


def summary(*reasons: Reason) -> bytes:
    made = Summary(
        request_uid=UID,
        request_id="r1",
        key_id="k1",
        total=2,
        verdicts={VERDICTS[each]: 1 for each in reasons},
        reasons=dict.fromkeys(reasons, 1),
        charged=2,
        given_back=0,
        admitted_at=NOW,
        finished_at=NOW,
    )
    return encode(made)


def settlement(given_back: int = 0) -> bytes:
    made = Settlement(
        request_uid=UID,
        tenant=TENANT,
        key_id="k1",
        charged=2,
        charged_day="2026-03-10",
        given_back=given_back,
        finished_at=NOW,
    )
    return encode(made)


def decision(*, settled: bool, charged: int = 2) -> bytes:
    made = Decision(
        uid=UID,
        key_id="chaos_k1",
        body="x",
        decided_by="bulk-0-0",
        at_ms=0,
        lane=Lane.BULK,
        verdict_by_ms=0,
        charged=charged,
        settled=settled,
    )
    return encode(made)


def account(used: int, **fields: Any) -> bytes:
    return encode(Account(month="2026-03", month_used=used, **fields))


def letter() -> Written:
    incoming = Incoming(REQUESTS.name, 0, 1, None, BAD)
    made = dead_letter(incoming, Unusable("not_json", "no JSON"), role="gate", at=NOW)
    return Written(DEADLETTERS.name, 0, 0, None, made.value, dict(made.headers))


YES, NO, LATER = Reason.MAILBOX_ACCEPTED, Reason.MAILBOX_NOT_FOUND, Reason.GREYLISTED


def good() -> History:
    """One request of two addresses, the second of which is greylisted first, and one malformed record."""
    history = History({(UID, 0): YES, (UID, 1): NO}, {hashlib.sha256(BAD).hexdigest()})
    values: dict[str, list[bytes]] = {
        REQUESTS.name: [request_bytes(addresses=(GOOD, GREY)), BAD],
        ADMISSIONS_BULK.name: [request_bytes(addresses=(GOOD, GREY))],
        ADMITTED_BULK.name: [encode(Admitted(ticket=TICKET, addresses=(GOOD, GREY)))],
        TASKS_BULK.name: [task((0, 1)), task((1,), attempt=2)],
        RETRIES_5M.name: [task((1,), attempt=2)],
        ATTEMPTS.name: [attempt(entry(0, YES), entry(1, LATER)), attempt(entry(1, NO, 2))],
        RESULTS.name: [result(0, YES), result(1, NO, 2), summary(YES, NO)],
        SETTLEMENTS.name: [settlement()],
    }
    history.logs = {topic: [Written(topic, 0, *_place(each)) for each in enumerate(of)] for topic, of in values.items()}
    [admission] = history.logs[ADMISSIONS_BULK.name]
    history.logs[ADMISSIONS_BULK.name] = [replace(admission, headers={ORIGIN: f"{REQUESTS.name}/0/0".encode()})]
    history.logs[DEADLETTERS.name] = [letter()]
    account_key, decision_key = row_key(TENANT, "account"), row_key(TENANT, "decision", UID)
    rows = [
        (account_key, account(2)),
        (decision_key, decision(settled=False)),
        (account_key, account(2)),
        (decision_key, decision(settled=True)),
    ]
    history.logs[LEDGER] = [Written(LEDGER, 0, offset, key, value) for offset, (key, value) in enumerate(rows)]
    history.looks = [look(history, 9.0)]
    return history


def _place(numbered: tuple[int, bytes]) -> tuple[int, None, bytes]:
    offset, value = numbered
    return offset, None, value


def look(history: History, at_s: float, *, all_but: Iterable[str] = ()) -> Look:
    """Everything is committed and there, but for what stands on some topics."""
    ends = {(topic, 0): 0 if topic in all_but else len(of) for topic, of in history.logs.items()}
    committed = {(reader, topic, 0): len(history.log(topic)) for reader, topics in READERS.items() for topic in topics}
    return Look(at_s, committed, ends)


@pytest.fixture
def history() -> History:
    return good()


def found(history: History) -> dict[str, int]:
    return judge(history, TENANT).faults


def drop(history: History, topic: str, offset: int) -> None:
    """As if it had never been written; what stands behind it moves up."""
    left = [each for each in history.logs[topic] if each.offset != offset]
    history.logs[topic] = [replace(each, offset=place) for place, each in enumerate(left)]
    history.looks = [look(history, 9.0)]


def repeat(history: History, topic: str, value: bytes, **fields: Any) -> None:
    history.logs[topic].append(Written(topic, 0, len(history.logs[topic]), None, value, **fields))
    history.looks = [look(history, 9.0)]


def test_a_good_history_has_no_fault(history: History) -> None:
    report = judge(history, TENANT)
    assert report.faults == {}
    assert (report.results, report.repeats) == (2, 0)


def test_repeats_that_are_the_same_are_allowed(history: History) -> None:
    for topic in (RESULTS.name, ATTEMPTS.name, TASKS_BULK.name, SETTLEMENTS.name):
        repeat(history, topic, history.logs[topic][0].value or b"")
    assert judge(history, TENANT).repeats == 1
    assert found(history) == {}


# -- planted defects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "reader"),
    [
        (ADMISSIONS_BULK.name, "gate"),
        (DEADLETTERS.name, "gate"),
        (ADMITTED_BULK.name, "gate"),
        ((TASKS_BULK.name, ATTEMPTS.name, RETRIES_5M.name), "route-bulk"),
        (ATTEMPTS.name, "probe-bulk"),
        (RETRIES_5M.name, "probe-bulk"),
        (TASKS_BULK.name, "retry-5m"),
        (RESULTS.name, "completion"),
        (LEDGER, "gate"),
    ],
)
def test_an_early_ack_is_caught_though_all_is_well_in_the_end(history: History, missing: Any, reader: str) -> None:
    history.looks.insert(0, look(history, 3.0, all_but=[missing] if isinstance(missing, str) else missing))
    report = judge(history, TENANT)
    assert report.faults.keys() == {"past"}
    assert any(text.startswith(f"{reader} had committed") and "at 3.0 s" in text for text in report.past)


def test_what_was_committed_once_stays_so(history: History) -> None:
    """A look that shows less (another node, a rebalance) excuses nothing."""
    early = look(history, 3.0, all_but=[RESULTS.name])
    history.looks = [early, replace(look(history, 4.0), committed={}), look(history, 9.0)]
    assert found(history).keys() == {"past"}


def test_a_dropped_retry_is_caught(history: History) -> None:
    drop(history, RETRIES_5M.name, 0)
    drop(history, TASKS_BULK.name, 1)
    drop(history, ATTEMPTS.name, 1)
    drop(history, RESULTS.name, 1)
    report = judge(history, TENANT)
    assert report.lost == [(UID, 1)]
    assert [text for text in report.past if text.startswith("probe-bulk")]


def test_a_lost_request_is_caught(history: History) -> None:
    for topic in (ADMISSIONS_BULK, ADMITTED_BULK, TASKS_BULK, RETRIES_5M, ATTEMPTS, RESULTS, SETTLEMENTS):
        history.logs[topic.name] = []
    history.looks = [look(history, 9.0)]
    assert judge(history, TENANT).lost == [(UID, 0), (UID, 1)]


@pytest.mark.parametrize("key", ["account", "decision"])
def test_a_double_charge_is_caught(history: History, key: str) -> None:
    value, names = (account(4), ()) if key == "account" else (decision(settled=True, charged=4), (UID,))
    history.logs[LEDGER].append(Written(LEDGER, 0, 4, row_key(TENANT, key, *names), value))
    assert found(history) == {"charges": 1}


def test_what_is_given_back_twice_is_caught(history: History) -> None:
    history.logs[LEDGER].append(Written(LEDGER, 0, 4, row_key(TENANT, "account"), account(1)))
    assert found(history) == {"charges": 1}


@pytest.mark.parametrize("given_back", [[1], [0, 1], []])
def test_a_settlement_that_says_something_else_is_caught(history: History, given_back: list[int]) -> None:
    history.logs[SETTLEMENTS.name] = []
    for each in given_back:
        repeat(history, SETTLEMENTS.name, settlement(each))
    assert found(history) == {"charges": 1}


def test_a_request_that_is_never_settled_is_caught(history: History) -> None:
    del history.logs[LEDGER][3]
    history.logs[LEDGER].append(Written(LEDGER, 0, 3, row_key(TENANT, "account"), account(2, in_flight={60000: 2})))
    history.looks = []
    assert len(judge(history, TENANT).charges) == 2


def test_a_skipped_dead_letter_is_caught(history: History) -> None:
    drop(history, DEADLETTERS.name, 0)
    assert found(history).keys() == {"unburied", "past"}
    history.looks = []
    assert found(history) == {"unburied": 1}


def test_a_malformed_record_that_was_never_sent_proves_nothing(history: History) -> None:
    history.malformed.add("0" * 64)
    assert judge(history, TENANT).unburied == ["never sent: " + "0" * 64]


def test_a_repeat_of_a_malformed_record_needs_a_dead_letter_of_its_own(history: History) -> None:
    repeat(history, REQUESTS.name, BAD)
    history.looks = []
    assert judge(history, TENANT).unburied == [f"{REQUESTS.name}[0]@2"]


def test_what_admission_buries_counts_for_the_request_that_it_came_from(history: History) -> None:
    about = dead_letter(
        Incoming(ADMISSIONS_BULK.name, 0, 7, None, BAD, {ORIGIN: f"{REQUESTS.name}/0/1".encode()}),
        Unusable("not_authenticated", "no such key"),
        role="gate",
        at=NOW,
    )
    history.logs[DEADLETTERS.name] = [Written(DEADLETTERS.name, 0, 0, None, about.value, dict(about.headers))]
    history.looks = []
    assert found(history) == {}


def test_a_good_record_that_became_a_dead_letter_is_caught(history: History) -> None:
    history.malformed = set()
    report = judge(history, TENANT)
    assert report.faults == {"buried": 1}
    assert "by gate: not_json" in report.buried[0]


def test_a_verdict_changed_on_replay_is_caught(history: History) -> None:
    again = copy.deepcopy(finding(YES)).model_copy(update={"checked_at": NOW + timedelta(seconds=1)})
    said = AttemptEntry(positions=(Position(index=0, input=GOOD),), final=True, finding=again)
    repeat(history, RESULTS.name, encode(result_of(TICKET, said.positions[0], said)))
    assert found(history) == {"changed": 1}


def test_a_summary_before_the_last_result_is_caught(history: History) -> None:
    values = history.logs[RESULTS.name]
    values[1], values[2] = replace(values[2], offset=1), replace(values[1], offset=2)
    assert found(history) == {"unsummed": 1}


def test_a_partition_that_stands_still_is_caught(history: History) -> None:
    last = history.looks[-1]
    history.looks[-1] = replace(last, committed={**last.committed, ("retry-5m", RETRIES_5M.name, 0): 0})
    report = judge(history, TENANT)
    assert report.faults == {"behind": 1}
    assert report.behind == [f"retry-5m is at 0 of 1 of {RETRIES_5M.name}[0]"]


# -- verdicts while the world fails ----------------------------------------------------------------------------------


def checked(said: Iterable[Reason], *, outages: bool) -> Report:
    """A hundred places where a mailbox was to be found."""
    expected = {(UID, index): str(YES) for index in range(100)}
    values = []
    for index, reason in enumerate([*said, *[YES] * 100][:100]):
        position = Position(index=index, input="x")
        made = AttemptEntry(positions=(position,), final=True, finding=finding(reason))
        values.append(encode(result_of(TICKET, position, made)))
    return check(expected, values, outages=outages)


def test_every_definite_verdict_is_right_whatever_fails() -> None:
    assert checked([NO], outages=True).faults.keys() == {"wrong", "unsummed"}


def test_few_places_may_stay_unknown_where_the_world_failed_for_a_while() -> None:
    report = checked([Reason.CONNECT_FAILED], outages=True)
    assert (report.faults.keys(), report.unknown) == ({"unsummed"}, 1)
    report = checked([Reason.CONNECT_FAILED] * 2, outages=True)
    assert (len(report.indefinite), report.unknown) == (2, 2)


def test_none_may_where_it_did_not_fail() -> None:
    assert len(checked([Reason.CONNECT_FAILED], outages=False).wrong) == 1
