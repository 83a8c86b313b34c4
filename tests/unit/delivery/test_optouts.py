"""The do-not-probe list as records: each changes one domain, and one that can't be read changes nothing."""

from dataclasses import dataclass

import pytest

from schemas.optouts import MAX_HISTORY, OptOut, OptOutChange
from streams.checks.optouts import OptOuts
from streams.codec import encode
from streams.optouts import apply
from tests.unit.roles.support import NOW


def change(*, listed: bool, why: str = "asked by mail") -> OptOutChange:
    return OptOutChange(listed=listed, actor="ops", why=why, at=NOW)


@dataclass
class Record:
    key: bytes | None
    value: bytes | None
    topic: str = "mailvet.opt-outs.v1"
    offset: int = 0


def test_records_in_their_order(caplog: pytest.LogCaptureFixture) -> None:
    opt_outs = OptOuts()
    on = OptOut(domain="a.example", changes=(change(listed=True),))
    off = on.after(change(listed=False))
    apply(
        opt_outs,
        [Record(b"a.example", encode(on)), Record(b"b.example", encode(on)), Record(b"a.example", encode(off))],
    )
    assert (opt_outs("a.example"), opt_outs("b.example")) == (False, True)
    assert not caplog.records


def test_a_record_that_is_none_changes_nothing_and_a_tombstone_is_an_end(caplog: pytest.LogCaptureFixture) -> None:
    opt_outs = OptOuts()
    on = encode(OptOut(domain="a.example", changes=(change(listed=True),)))
    apply(opt_outs, [Record(b"a.example", on), Record(b"a.example", b"{secret"), Record(None, b"[]", offset=7)])
    assert opt_outs("a.example")
    assert [record.getMessage() for record in caplog.records] == [
        "record 0 of mailvet.opt-outs.v1 is no entry of the do-not-probe list",
        "record 7 of mailvet.opt-outs.v1 is no entry of the do-not-probe list",
    ]
    apply(opt_outs, [Record(b"a.example", None)])
    assert not opt_outs("a.example")


def test_the_history_is_bounded_and_keeps_the_newest() -> None:
    entry = OptOut(domain="a.example", changes=(change(listed=True, why="0"),))
    for number in range(1, 3 * MAX_HISTORY):
        entry = entry.after(change(listed=number % 2 == 0, why=str(number)))
    assert len(entry.changes) == MAX_HISTORY
    assert (entry.changes[-1].why, entry.listed) == (str(3 * MAX_HISTORY - 1), False)
    assert OptOut.model_validate_json(encode(entry)) == entry
