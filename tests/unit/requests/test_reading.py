"""A request looked for on the broker: in the tables where we may, else in what was published."""

import time

import pytest
from aiokafka.partitioner import murmur2

from ops.cli.errors import Unfinished, UserError
from ops.requests import reading
from ops.requests.status import State, Status
from schemas.request import request_uid
from schemas.topics import RESULTS, own_results
from streams.access.decisions import Decision
from streams.codec import encode
from streams.roles.progress import Progress, pack
from tests.unit.requests.broker import PARTITIONS, REFUSED, FakeBroker
from tests.unit.requests.test_status import decided
from tests.unit.roles.support import NOW
from tests.unit.roles.test_completion import GREY, entry
from tests.unit.schemas.samples import SAMPLES

UID = request_uid("acme", "r1")
LEDGER, PROGRESS = "mailvet-gate-ledger-changelog", "mailvet-completion-progress-changelog"
ROW = f"{UID}:1773154800000".encode()


def placed(key: str) -> int:
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    made = FakeBroker().installed(monkeypatch, reading)
    made.seen = {LEDGER, PROGRESS}
    return made


async def find(within_s: float = 10.0) -> Status:
    return await reading.find("b", "", "acme", "r1", delays_s=(300.0, 900.0, 3600.0), within_s=within_s)


@pytest.fixture
def admitted() -> Decision:
    decision = decided(2)
    assert decision is not None
    return decision


def admit(broker: FakeBroker, decision: Decision, **headers: bytes) -> None:
    broker.put(LEDGER, f"acme:decision:{UID}".encode(), encode(decision), partition=placed("acme"), **headers)


def progress(broker: FakeBroker, row: Progress | None, **headers: bytes) -> None:
    broker.put(PROGRESS, ROW, row and encode(row), partition=placed(UID), **headers)


async def test_rows_of_both_tables_make_the_status(broker: FakeBroker, admitted: Decision) -> None:
    admit(broker, admitted)
    broker.put(LEDGER, b"acme:account", b"{}", partition=placed("acme"))
    progress(broker, Progress(known=("0-0",)))
    broker.put(PROGRESS, ROW + b":0-0", pack((entry(GREY, 0, final=False),)), partition=placed(UID))
    broker.put(PROGRESS, b"another:1", b"{}", partition=placed(UID))
    found = await find()
    assert (found.state, found.total, found.key_id) == (State.RUNNING, 2, "k1")
    broker.put(PROGRESS, ROW + b":0-0", None, partition=placed(UID))
    progress(broker, Progress(finished_by="0-1", finished_at=NOW, by={"0-1": (0, 1)}))
    assert (await find()).state is State.FINISHED
    broker.put(LEDGER, f"acme:decision:{UID}".encode(), None, partition=placed("acme"))
    assert (await find()).state is State.UNKNOWN


async def test_a_row_that_a_worker_wrote_after_it_had_lost_the_partition_is_none(
    broker: FakeBroker, admitted: Decision
) -> None:
    admit(broker, admitted, mailvet_epoch=b"7")
    progress(broker, Progress(finished_by="0-1", finished_at=NOW), mailvet_epoch=b"2000")
    progress(broker, Progress(), mailvet_epoch=b"1000")
    assert (await find()).state is State.FINISHED


@pytest.mark.parametrize("topic", [RESULTS.name, own_results("acme").name])
async def test_who_sees_no_tables_is_told_what_was_published_in_the_last_day(broker: FakeBroker, topic: str) -> None:
    broker.hidden = {LEDGER, PROGRESS}
    broker.seen |= {RESULTS.name, topic}
    now_ms = time.time_ns() // 1_000_000
    summary = SAMPLES["summary"].model_copy(update={"request_uid": UID})
    for at_ms, key, value in (
        (now_ms - 30 * 3_600_000, UID, encode(SAMPLES["rejection"].model_copy(update={"request_uid": UID}))),
        (now_ms, "another", encode(summary)),
        (now_ms, UID, b"of a newer version"),
        (now_ms, UID, encode(summary)),
    ):
        broker.put(topic, key.encode(), value, partition=placed(UID), at_ms=at_ms)
    assert (await find()).state is State.FINISHED


async def test_of_nothing_nothing_is_known(broker: FakeBroker) -> None:
    broker.hidden = {LEDGER}
    broker.seen.add(RESULTS.name)
    assert (await find()).state is State.UNKNOWN


async def test_who_sees_neither_and_who_is_refused_or_waits_too_long_is_told(
    broker: FakeBroker, admitted: Decision
) -> None:
    broker.hidden = {LEDGER}
    with pytest.raises(UserError, match=r"neither tables nor mailvet.results.v1 are to be seen"):
        await find()
    broker.hidden = set()
    admit(broker, admitted)
    broker.refuses = REFUSED
    with pytest.raises(UserError, match="does not let us read"):
        await find()
    broker.refuses = None
    with pytest.raises(Unfinished, match="give it more with --timeout"):
        await find(within_s=-1)
