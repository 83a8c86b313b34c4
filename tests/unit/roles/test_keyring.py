"""Commands are applied once, in the order of the log, and answered alike whenever they are read."""

from datetime import timedelta
from typing import Any

import orjson
import pytest

from schemas.keys import (
    Change,
    Create,
    Define,
    Disable,
    Enable,
    KeyCommand,
    KeyEvent,
    Limit,
    Outcome,
    Policy,
    Refused,
    Revoke,
    Rollback,
    Rotate,
    Status,
    Suspend,
    TenantCommand,
)
from streams.access.keys import ConfiguredKey, Key
from streams.access.quota import Limits
from streams.codec import decode, encode
from streams.records import Incoming, Outgoing, Unusable
from streams.roles import keyring
from streams.roles.keyring import USED_EVERY_MS, Keyring
from tests.unit.access.commands import credential, give
from tests.unit.roles.support import NOW, NOW_MS, Log, metrics, run, settings
from tests.unit.roles.test_gate import Journal

KEPT = timedelta(days=4)
DAY = timedelta(days=1)


class Ring:
    """A keyring with its topic."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.log = Log("mailvet.key-commands.v1")
        self.metrics = metrics()
        self.restart()

    def restart(self) -> None:
        self.keyring = Keyring(self.metrics, self.rows, ConfiguredKey(settings()), KEPT)

    def write(self, verb: type[KeyCommand | TenantCommand], after: timedelta = timedelta(0), **fields: Any) -> Incoming:
        command = give(verb, NOW + after, **fields)
        at_ms = NOW_MS + round(after.total_seconds() * 1000)
        return self.log.append(encode(command), command.tenant.encode(), at_ms=at_ms)

    def read(self, record: Incoming) -> list[Outgoing]:
        return list(run(self.keyring.command(record)))

    def do(self, verb: Any, after: timedelta = timedelta(0), **fields: Any) -> KeyEvent:
        [event] = self.read(self.write(verb, after, **fields))
        assert (event.topic, event.key) == ("mailvet.key-events.v1", b"acme")
        return decode(KeyEvent, event.value)

    def find(self, key: str = "k1") -> Key | None:
        return self.keyring.find("acme", key)


def status(ring: Ring, key: str = "k1") -> Status:
    found = ring.keyring._record("acme", key)
    assert found is not None
    return found.status


def test_a_key_is_found_from_the_moment_of_its_command() -> None:
    ring = Ring()
    assert ring.keyring.find("acme", "k9") is None
    event = ring.do(Create, key="k9", policy=Policy(daily=5))
    assert (event.outcome, event.actor, event.key) == (Outcome.APPLIED, "ann", "k9")
    found = ring.find("k9")
    assert found is not None
    assert (found.own.limits, found.proofs[0].value) == (Limits(daily=5), credential().proof)
    assert ring.find("k9") is found, "read out of its row once"


def test_what_a_tenant_shares_holds_for_its_keys_at_once() -> None:
    ring = Ring()
    ring.do(Define, name="small", policy=Policy(daily=5))
    ring.do(Create, key="k9", policy="small")
    ring.do(Define, name="small", policy=Policy(daily=6))
    ring.do(Limit, limits=Policy(daily=7))
    ring.do(Suspend, why="harvesting")
    found = ring.find("k9")
    assert found is not None
    assert (found.own.limits.daily, found.shared.limits.daily, found.suspended) == (6, 7, True)


def test_a_command_comes_before_the_configuration() -> None:
    ring = Ring()
    configured = ring.find("k1")
    assert configured is not None
    ring.do(Create, key="k1")
    found = ring.find("k1")
    assert found is not None
    assert found.proofs != configured.proofs


def test_the_cache_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "_CACHED_KEYS", 2)
    ring = Ring()
    for name in ("a", "b", "c"):
        ring.do(Create, key=name)
        assert ring.find(name) is not None
    assert len(ring.keyring._read) <= 2


@pytest.mark.parametrize("verb", [Rotate, Rollback, Disable, Enable, Change, Revoke])
def test_a_refused_command_is_answered_too(verb: Any) -> None:
    fields = {Rotate: {"credential": credential("b"), "grace_s": 0}, Change: {"policy": Policy()}}
    event = Ring().do(verb, key="nobody", **fields.get(verb, {}))
    assert (event.outcome, event.refused) == (Outcome.REFUSED, Refused.UNKNOWN_KEY)


def test_a_command_read_again_is_answered_alike_and_changes_nothing() -> None:
    ring = Ring()
    ring.do(Create)
    record = ring.write(Disable)
    first = ring.read(record)
    ring.do(Enable)
    ring.restart()
    before = dict(ring.rows)
    assert ring.read(record) == first
    assert ring.rows == before
    assert status(ring) is Status.ACTIVE


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
@pytest.mark.parametrize("verb", ["create", "rollback"])
def test_a_crash_between_the_rows_of_a_command_changes_nothing_of_it(lost: int, verb: str) -> None:
    ring = Ring()
    if verb == "rollback":
        ring.do(Create)
        ring.do(Rotate, credential=credential("b"), grace_s=60)
    journal = Journal(ring.rows)
    ring.rows = journal
    ring.restart()
    record = ring.write(Create if verb == "create" else Rollback, timedelta(seconds=1))
    first = ring.read(record)
    whole = dict(journal)
    assert len(journal.before) == 3
    ring.rows = journal.cut(lost)
    ring.restart()
    again = ring.read(record)
    assert again == first
    assert ring.rows == whole


def test_the_whole_log_read_again_raises_no_key() -> None:
    """Offsets that were lost: every command is read again, when those long past are not remembered any more."""
    ring = Ring()
    ring.do(Create)
    ring.do(Rotate, credential=credential("b"), grace_s=3600)
    ring.do(Disable, DAY)
    ring.do(Enable, DAY)
    ring.do(Revoke, 2 * DAY)
    ring.do(Create, 20 * DAY, key="k2")
    while ring.keyring.expire(0):
        pass
    remembered = {row for row in ring.rows if b":command:" in row}
    assert len(remembered) == 1
    before = dict(ring.rows)
    ring.restart()
    for record in ring.log.records:
        ring.read(record)
        assert status(ring) is Status.REVOKED
    assert ring.rows == before


def test_a_command_copied_later_is_refused_as_stale() -> None:
    ring = Ring()
    ring.do(Create)
    enable = ring.write(Enable)
    ring.read(enable)
    ring.do(Disable, 20 * DAY)
    while ring.keyring.expire(0):
        pass
    copied = ring.log.append(enable.value, enable.key, at_ms=NOW_MS + 21 * 86_400_000)
    [event] = ring.read(copied)
    assert orjson.loads(event.value)["refused"] == "stale"
    assert status(ring) is Status.DISABLED


def test_a_revoked_key_stays_so_whatever_is_copied() -> None:
    ring = Ring()
    create = ring.write(Create)
    [created] = ring.read(create)
    ring.do(Revoke)
    copy = ring.log.append(create.value, create.key)
    assert ring.read(copy) == [created], "the same command, the same answer"
    assert status(ring) is Status.REVOKED
    assert ring.do(Create).refused is Refused.KEY_EXISTS
    assert ring.do(Enable).refused is Refused.KEY_REVOKED


def test_commands_are_forgotten_when_no_reader_can_come_to_them() -> None:
    ring = Ring()
    ring.do(Create)
    ring.do(Disable, KEPT)
    assert ring.keyring.expire(0) == 0
    ring.do(Enable, KEPT + timedelta(milliseconds=1))
    assert ring.keyring.expire(0) == 1
    assert ring.keyring.expire(0) == 0
    ring.rows.clear()
    assert ring.keyring.expire(0) == 0


def test_rows_that_are_gone_meanwhile_are_passed_over() -> None:
    ring = Ring()
    for name in ("a", "b", "c"):
        ring.do(Create, key=name)
    ring.keyring._round._step = 1
    ring.keyring.expire(0)
    ring.rows.clear()
    assert [ring.keyring.expire(0) for _ in range(20)] == [0] * 20


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (b"", b"acme", "not_json"),
        (b"{}", b"acme", "invalid"),
        (encode(give(Revoke)), b"other", "invalid"),
        (encode(give(Revoke)), None, "invalid"),
    ],
)
def test_what_is_no_command_is_a_dead_letter(value: bytes, key: bytes | None, reason: str) -> None:
    ring = Ring()
    with pytest.raises(Unusable) as refused:
        ring.read(ring.log.append(value, key))
    assert refused.value.reason == reason
    assert ring.rows == {}


def test_when_a_key_was_used_is_written_now_and_then() -> None:
    ring = Ring()
    for ms in (NOW_MS, NOW_MS + USED_EVERY_MS - 1):
        ring.keyring.used("acme", "k1", ms)
        assert ring.rows == {b"acme:used:k1": str(NOW_MS).encode()}
    ring.keyring.used("acme", "k1", NOW_MS + USED_EVERY_MS)
    assert ring.rows == {b"acme:used:k1": str(NOW_MS + USED_EVERY_MS).encode()}


def test_commands_are_counted() -> None:
    ring = Ring()
    ring.do(Create)
    ring.do(Create)
    ring.do(Create, credential=credential("b"))
    counted = ring.metrics.key_commands
    outcomes = {outcome: counted.labels("create", outcome)._value.get() for outcome in ("applied", "unchanged")}
    assert outcomes == {"applied": 1, "unchanged": 1}
    assert counted.labels("create", "key_exists")._value.get() == 1


def test_what_a_tenant_shares_holds_for_the_configured_key_too() -> None:
    ring = Ring()
    ring.do(Limit, limits=Policy(daily=7))
    ring.do(Suspend, why="harvesting")
    found = ring.find("k1")
    assert found is not None
    assert (found.shared.limits.daily, found.suspended, ring.find("k2")) == (7, True, None)


def test_a_table_that_was_lost_is_made_again_from_the_log() -> None:
    ring = Ring()
    answers = [
        ring.read(ring.write(verb, after, **fields))
        for verb, after, fields in (
            (Define, timedelta(0), {"name": "small", "policy": Policy(daily=5)}),
            (Create, timedelta(0), {"policy": "small"}),
            (Rotate, DAY, {"credential": credential("b"), "grace_s": 60}),
            (Rollback, DAY + timedelta(seconds=30), {}),
            (Revoke, 30 * DAY, {}),
        )
    ]
    before = dict(ring.rows)
    ring.rows.clear()
    ring.restart()
    assert [ring.read(record) for record in ring.log.records] == answers
    assert ring.rows == before
