"""Tables and lists from the operator's side: read from their beginnings to where they end."""

import json
from datetime import datetime
from typing import Any

import pytest

from ops import keys, optouts
from ops.cli.errors import Unfinished, UserError
from schemas.keys import KeyRecord, Outcome, Revoke, Status, TenantRecord
from schemas.optouts import OptOut, OptOutChange
from schemas.topics import KEY_COMMANDS, KEY_EVENTS, OPT_OUTS
from streams.access import keylife
from streams.codec import decode, encode
from tests.unit.access.commands import NOON, give
from tests.unit.requests.broker import REFUSED, FakeBroker, Stored
from tests.unit.schemas.samples import KEY as SAMPLE
from tests.unit.schemas.samples import TENANT

KEY = SAMPLE.model_copy(update={"status": Status.ACTIVE})
TABLE = "mailvet-gate-keys-changelog"
NAME = (KEY.tenant, KEY.key)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    made = FakeBroker().installed(monkeypatch, keys, optouts)
    made.seen = {TABLE, KEY_COMMANDS.name, KEY_EVENTS.name, OPT_OUTS.name}
    return made


def row(kind: str, tenant: str = KEY.tenant) -> bytes:
    return ":".join((tenant, *kind.split())).encode()


async def test_the_book_has_the_newest_row_of_each_key(broker: FakeBroker) -> None:
    older = KEY.model_copy(update={"revision": 0})
    for key, value in (
        (row(f"key {KEY.key}"), encode(older)),
        (row(f"key {KEY.key}"), encode(KEY)),
        (row("key gone"), encode(KEY.model_copy(update={"key": "gone"}))),
        (row("key gone"), None),
        (row("tenant"), encode(TENANT)),
        (row(f"used {KEY.key}"), b"1773144000000"),
        (row("command 1"), b"{}"),
        (row("tenant", "other"), encode(TENANT.model_copy(update={"tenant": "other"}))),
    ):
        broker.put(TABLE, key, value)
    book = await keys.read_book("b", "")
    assert (book.keys, set(book.tenants)) == ({NAME: KEY}, {KEY.tenant, "other"})
    assert book.used == {NAME: datetime.fromisoformat("2026-03-10T12:00:00+00:00")}
    assert set((await keys.read_book("b", "", KEY.tenant)).tenants) == {KEY.tenant}
    assert book.tenant("unheard-of") == TenantRecord(tenant="unheard-of")


@pytest.mark.parametrize("kind", [f"key {KEY.key}", "tenant"])
async def test_rows_of_newer_workers_are_said_to_be_so(broker: FakeBroker, kind: str) -> None:
    record = KEY if kind.startswith("key") else TENANT
    newer = json.dumps(json.loads(encode(record)) | {"schema_version": 2}).encode()
    broker.put(TABLE, row(kind), newer)
    with pytest.raises(UserError, match=r"known is 1.*use the mailvet of their version"):
        await keys.read_book("b", "")


async def test_a_revoked_key_is_shown_so_though_a_worker_wrote_the_old_row_behind_it(broker: FakeBroker) -> None:
    """A worker that had lost its partition and went on: its row stands last, and recovery leaves it out too."""

    async def shown() -> KeyRecord:
        return (await keys.read_book("b", "")).keys[NAME]

    applied = keylife.apply(give(Revoke, tenant=KEY.tenant, key=KEY.key), TENANT, KEY, NOON)
    assert applied.key is not None
    broker.put(TABLE, row(f"key {KEY.key}"), encode(KEY), mailvet_epoch=b"1000")
    broker.put(TABLE, row(f"key {KEY.key}"), encode(applied.key), mailvet_epoch=b"2000")
    broker.put(TABLE, row(f"key {KEY.key}"), encode(KEY), mailvet_epoch=b"1000")
    assert (await shown()).status == "revoked"
    broker.put(TABLE, row(f"key {KEY.key}"), encode(KEY), partition=1, mailvet_epoch=b"1")
    assert (await shown()).status == "active", "each partition has epochs of its own"


async def test_the_answer_to_a_command_is_found_among_others(broker: FakeBroker) -> None:
    command = give(Revoke, tenant=KEY.tenant, key=KEY.key)
    event = keylife.event_of(command, keylife.apply(command, TENANT, KEY, NOON), NOON)

    def answer(_: Stored) -> None:
        other = event.model_copy(update={"command_id": "0" * 32})
        broker.put(KEY_EVENTS.name, b"acme", encode(other), partition=3)
        broker.put(KEY_EVENTS.name, b"acme", encode(event), partition=2)

    broker.react = answer
    assert (await keys.carry_out("b", "", command, 5.0)) == event
    assert event.outcome is Outcome.APPLIED
    broker.put(KEY_EVENTS.name, KEY.tenant.encode(), b"{")
    history = await keys.read_history("b", "", KEY.tenant)
    assert {each.command_id for each in history.events} == {"0" * 32, command.command_id}
    assert await keys.read_history("b", "", KEY.tenant, "another") == keys.History([], unread=1)


async def test_a_command_that_is_not_answered_or_refused_by_the_broker_is_said_to_be(broker: FakeBroker) -> None:
    command = give(Revoke, tenant=KEY.tenant, key=KEY.key)
    with pytest.raises(Unfinished, match="given again with --command-id"):
        await keys.carry_out("b", "", command, 0.01)
    broker.refuses = REFUSED
    with pytest.raises(Unfinished, match="the broker refused the command"):
        await keys.carry_out("b", "", command, 5.0)
    broker.put(KEY_EVENTS.name, b"acme", b"{")
    with pytest.raises(UserError, match="can't be read"):
        await keys.read_history("b", "", KEY.tenant)


async def test_what_can_not_be_read_to_its_end_in_time_is_said(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.put(TABLE, row("tenant"), encode(TENANT))
    monkeypatch.setattr(keys, "READ_S", -1.0)
    with pytest.raises(Unfinished, match="could not be read to its end"):
        await keys.read_book("b", "")


# -- the do-not-probe list --------------------------------------------------------------------------------------------


def change(*, listed: bool) -> OptOutChange:
    return OptOutChange(listed=listed, actor="ops", why="asked by mail", at=NOON)


async def test_the_list_is_the_newest_record_of_each_domain(broker: FakeBroker) -> None:
    on = OptOut(domain="b.example", changes=(change(listed=True),))
    await optouts.write("b", "", [on, OptOut(domain="a.example", changes=on.changes), on.after(change(listed=False))])
    broker.put(OPT_OUTS.name, b"c.example", encode(on))
    broker.put(OPT_OUTS.name, b"c.example", None)
    found = await optouts.read_list("b", "")
    assert [(name, entry.listed) for name, entry in found.items()] == [("a.example", True), ("b.example", False)]
    stored = [decode(OptOut, value) for value in broker.values(OPT_OUTS.name) if value]
    assert stored[0] == on


async def test_a_domain_that_the_broker_does_not_take_is_named(broker: FakeBroker) -> None:
    broker.refuses = REFUSED
    with pytest.raises(Unfinished, match=r"did not take a.example"):
        await optouts.write("b", "", [OptOut(domain="a.example", changes=(change(listed=True),))])


@pytest.mark.parametrize(
    ("known", "listed", "written"),
    [(None, True, 1), (None, False, 0), (True, True, 0), (True, False, 1), (False, True, 1), (False, False, 0)],
)
def test_a_domain_that_stands_so_already_is_not_written_again(known: Any, listed: bool, written: int) -> None:
    entries = {} if known is None else {"a.example": OptOut(domain="a.example", changes=(change(listed=known),))}
    records = optouts.changed(entries, ["a.example", "a.example"], change(listed=listed))
    assert [(each.domain, each.listed) for each in records] == [("a.example", listed)] * written
    assert all(len(each.changes) == len(entries) + 1 for each in records)
