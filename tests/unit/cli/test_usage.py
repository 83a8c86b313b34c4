"""`mailvet keys usage` over records as the topic has them."""

import csv
import io
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ops import usage
from ops.cli.main import run
from schemas.usage import Usage
from schemas.vocabulary import Reason, Verdict
from streams.codec import encode


def day(day: str, key: str = "web", tenant: str = "acme", **fields: Any) -> Usage:
    return Usage(tenant=tenant, key=key, day=day, **{"revision": 1, **fields})


SETTLED = {"settled": 4, "seconds": 6.0, "latency": (0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)}
RECORDS = [
    day("2026-03-11", requests=1200, addresses=12_000, verdicts={Verdict.UNKNOWN: 1}, given_back=1, **SETTLED),
    day("2026-03-10", requests=2, revision=9, refused={Reason.RATE_EXCEEDED: 3, Reason.SUSPENDED: 1}),
    day("2026-03-10", requests=1, revision=8),
    day("2026-03-10", key="app", requests=5),
    day("2026-03-10", tenant="other", requests=7),
]


class Desk:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.records = RECORDS
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setattr(usage, "read_topic", self._read)

    async def _read(self, _bootstrap: str, topic: str) -> AsyncIterator[tuple[bytes, bytes | None]]:
        assert topic == "mailvet.usage.v1"
        for record in self.records:
            yield record.record_key.encode(), encode(record)
        yield b"acme:gone:2026-03-10", None

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["mailvet", "keys", "usage", *arguments])
        code = run()
        return code, *self._capsys.readouterr()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(monkeypatch, capsys)


def test_a_table_with_sums(desk: Desk) -> None:
    code, out, err = desk("--key", "acme_web")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "DAY         KEY ID    REQUESTS  ADDRESSES  DELIVERABLE  RISKY  UNDELIVERABLE  UNKNOWN  GIVEN BACK  REFUSED"
        "  P50 S   P95 S",
        "2026-03-10  acme_web         2          0            0      0              0        0           0        4"
        "      -       -",
        "2026-03-11  acme_web     1,200     12,000            0      0              0        1           1        0"
        "   0.25  longer",
        "all                      1,202     12,000            0      0              0        1           1        4"
        "      -       -",
    ]


def test_csv_has_every_column(desk: Desk) -> None:
    code, out, _ = desk("--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(row["day"], row["key_id"]) for row in rows] == [
        ("2026-03-10", "acme_app"),
        ("2026-03-10", "acme_web"),
        ("2026-03-10", "other_web"),
        ("2026-03-11", "acme_web"),
    ]
    assert (rows[1]["refused_rate_exceeded"], rows[1]["refused"], rows[1]["mean_s"]) == ("3", "4", "")
    assert (rows[3]["mean_s"], rows[3]["p50_s"], rows[3]["p99_s"]) == ("1.5", "0.25", "inf")


def test_json_lines_of_the_days_and_tenants_asked_for(desk: Desk) -> None:
    code, out, _ = desk("--json", "--tenant", "acme", "--from", "2026-03-11", "--to", "2026-03-12")
    [line] = [json.loads(line) for line in out.splitlines()]
    assert (code, line["key_id"], line["requests"]) == (0, "acme_web", 1200)
    assert len(desk("--json", "--to", "2026-03-10")[1].splitlines()) == 3


def test_nothing_was_used(desk: Desk) -> None:
    desk.records = []
    assert desk() == (0, "", "nothing was used\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--csv", "--json"), "choose one"),
        (("--tenant", "other", "--key", "acme_web"), "names another tenant"),
        (("--from", "yesterday"), "YYYY-MM-DD"),
        (("--key", "acme"), "TENANT_KEY"),
    ],
)
def test_mistakes_are_said_in_a_sentence(desk: Desk, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = desk(*arguments)
    assert (code, out) == (2, "")
    assert said in err
