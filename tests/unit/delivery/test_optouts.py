"""The do-not-probe list as records: each changes one domain, and one that can't be read changes nothing."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from schemas.optouts import MAX_HISTORY, OptOut, OptOutChange
from streams import optouts
from streams.checks.optouts import OptOuts
from streams.codec import encode
from streams.kafka import StartupError
from streams.optouts import OptOutReader, apply
from tests.unit.roles.support import NOW, settings


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


# -- the reader of a worker -------------------------------------------------------------------------------------------


@dataclass
class Consumer:
    """A consumer of one partition; ``fails`` is raised instead of reading."""

    records: list[Record]
    fails: Exception | None = None
    closes: Exception | None = None
    at: int = 0

    async def start(self) -> None:
        if self.fails is not None:
            raise self.fails

    async def stop(self) -> None:
        if self.closes is not None:
            raise self.closes

    def assignment(self) -> set[int]:
        return {0}

    async def end_offsets(self, _: object) -> dict[int, int]:
        return {0: len(self.records)}

    async def position(self, _: int) -> int:
        return self.at

    async def getmany(self, **_: object) -> dict[int, list[Record]]:
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        batch = self.records[self.at : self.at + 1]
        self.at += len(batch)
        return {0: batch}


def entry(domain: str, *, listed: bool = True) -> Record:
    return Record(domain.encode(), encode(OptOut(domain=domain, changes=(change(listed=listed),))))


def reader(
    monkeypatch: pytest.MonkeyPatch, consumer: Consumer, **changes: Any
) -> tuple[OptOutReader, OptOuts, list[Exception]]:
    fatal: list[Exception] = []
    opt_outs = OptOuts()
    monkeypatch.setattr(optouts, "AIOKafkaConsumer", lambda *_, **__: consumer)
    return OptOutReader(settings(**changes), opt_outs, on_fatal=fatal.append), opt_outs, fatal


async def test_all_of_the_list_is_read_before_the_start_and_followed_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = Consumer([entry("a.example"), entry("b.example"), entry("a.example", listed=False)])
    service, opt_outs, fatal = reader(monkeypatch, consumer)
    await service.on_start()
    assert (opt_outs("a.example"), opt_outs("b.example")) == (False, True)
    consumer.records.append(entry("c.example"))
    following = asyncio.create_task(service._follow.fun(service))
    for _ in range(20):
        await asyncio.sleep(0)
    assert opt_outs("c.example")
    service._stopped.set()
    await asyncio.wait_for(following, 5)
    await service.on_stop()
    assert fatal == []


@pytest.mark.parametrize(("fails", "wait_s"), [(KafkaError("no"), 5.0), (None, -1.0)])
async def test_a_worker_without_the_list_does_not_start(
    monkeypatch: pytest.MonkeyPatch, fails: Exception | None, wait_s: float
) -> None:
    service, _, _ = reader(monkeypatch, Consumer([entry("a.example")], fails=fails), broker_wait_s=wait_s)
    with pytest.raises(StartupError, match="nobody is asked without it"):
        await service.on_start()


@pytest.mark.parametrize("stopping", [False, True])
async def test_a_list_that_stands_still_ends_the_worker_unless_it_ends_anyway(
    monkeypatch: pytest.MonkeyPatch, stopping: bool
) -> None:
    consumer = Consumer([entry("a.example")])
    service, opt_outs, fatal = reader(monkeypatch, consumer)
    await service.on_start()
    following = asyncio.create_task(service._follow.fun(service))
    await asyncio.sleep(0)
    if stopping:
        service._stopped.set()
    consumer.fails = KafkaError("gone")
    await asyncio.wait_for(following, 5)
    assert fatal == ([] if stopping else [consumer.fails])
    assert opt_outs("a.example")


async def test_a_consumer_that_does_not_close_is_logged_and_one_that_never_was_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service, _, _ = reader(monkeypatch, Consumer([], closes=KafkaError("no")))
    await service.on_stop()
    assert not caplog.records
    await service.on_start()
    await service.on_stop()
    assert "did not close" in caplog.text
