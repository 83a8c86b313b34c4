"""What the soak asks, how it counts what comes back, and when it fails."""

from itertools import chain

import orjson
import pytest

from ops.bench.contest import ContestError
from ops.bench.lists import LATER
from ops.bench.memory import Growth
from ops.bench.soak import HOSTS, SIZES, Report, Tally, failures, lists, text


def test_addresses_are_distinct_of_many_domains_and_the_same_each_time() -> None:
    asked = list(lists(20_000, greylisting=True))
    addresses = list(chain.from_iterable(asked))
    assert len(addresses) == len(set(addresses)) == 20_000
    assert {len(each) for each in asked[:-1]} <= set(SIZES)
    assert len({address.partition("@")[2] for address in addresses[:1000]}) == 1000
    assert len({address.partition("@")[2] for address in addresses}) > 20_000 / 12
    assert asked == list(lists(20_000, greylisting=True))


def test_some_domains_are_their_own_providers_and_most_go_to_few() -> None:
    domains = {a.partition("@")[2] for a in chain.from_iterable(lists(20_000, greylisting=False))}
    providers = [int(domain.split(".")[1].removeprefix("h")) for domain in domains]
    own = [number for number in providers if number >= HOSTS]
    assert len(own) == len(set(own))
    assert 0.1 < len(own) / len(providers) < 0.2
    assert sum(number < 10 for number in providers) > len(providers) / 2


def test_one_request_of_fifty_is_greylisted_whole_where_that_is_asked_for() -> None:
    def later(*, greylisting: bool) -> list[int]:
        asked = enumerate(lists(20_000, greylisting=greylisting), 1)
        return [number for number, addresses in asked if any(a.startswith(LATER) for a in addresses)]

    assert later(greylisting=False) == []
    assert later(greylisting=True)[:3] == [50, 100, 150]


def said(index: int, verdict: str = "deliverable", uid: str = "u", kind: str = "result") -> bytes:
    reason = "mailbox_accepted"
    return orjson.dumps({"request_uid": uid, "kind": kind, "index": index, "verdict": verdict, "reason": reason})


def test_a_verdict_counts_once_and_is_held_against_its_server() -> None:
    tally = Tally()
    tally.ask("u", ["user0@a.test", "gone1@a.test", "later0@b.test"])
    assert (tally.requests, tally.waiting, tally.lost) == (1, 2, 3)
    for value in (said(0), said(0), said(1), said(0, uid="another"), said(0, kind="summary")):
        tally.take(value)
    assert (tally.answered, tally.waiting, tally.lost) == (2, 0, 1)
    assert tally.wrong == {"deliverable (mailbox_accepted) in place of undeliverable": 1}
    tally.take(said(2))
    assert (tally.answered, tally.wrong.total(), tally.lost, tally.open) == (3, 1, 0, {})


def test_a_rejection_ends_the_run() -> None:
    refused = {"request_uid": "u", "kind": "rejection", "reason": "rate_limited", "message": "too many"}
    with pytest.raises(ContestError, match="rate_limited: too many"):
        Tally().take(orjson.dumps(refused))


def report(*, lost: int = 0, wrong: int = 0, end: int = 120) -> Report:
    roles = [Growth("gate", 100, 100, 100), Growth("probe", 100, end, 200)]
    return Report(1_000_000, 10_000, 800.0, lost, {"unknown (timeout)": wrong} if wrong else {}, roles)


def test_what_fails_and_what_does_not() -> None:
    assert failures(report(), 1.2) == []
    assert failures(report(end=121), 1.2) == [
        "probe holds 1.21 times of what it held at one tenth, and may hold 1.2 times"
    ]
    assert failures(report(lost=3, wrong=1), 1.2) == [
        "3 addresses have no verdict",
        "1 verdicts are wrong: unknown (timeout)",
    ]


def test_the_closing_line_says_all_of_it() -> None:
    closing = text(report()).splitlines()[-1]
    assert closing == "1,000,000 addresses in 10,000 requests, 1,250 addresses/s, 0 lost, 0 wrong"
    assert report().as_dict()["rate"] == 1250.0
