"""`mailvet keys` without a broker: what is asked for, what is given to the gate, and what is shown when."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ops import keys
from ops.cli import keypage
from ops.cli.errors import Unfinished
from ops.cli.main import run
from schemas.keys import KeyCommand, KeyEvent, KeyRecord, Policy, TenantCommand, TenantRecord
from streams.access import keylife
from tests.unit.schemas.samples import KEY, TENANT

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


class Gate:
    """In place of worker and broker: applies commands as the gate does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.keys: dict[tuple[str, str], KeyRecord] = {}
        self.tenants: dict[str, TenantRecord] = {}
        self.events: list[KeyEvent] = []
        self.commands: list[Any] = []
        self.silent = False
        self.unread = 0
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setattr(keys, "carry_out", self._carry_out)
        monkeypatch.setattr(keys, "read_book", self._read_book)
        monkeypatch.setattr(keys, "read_history", self._read_history)

    async def _carry_out(
        self, _bootstrap: str, _namespace: str, command: KeyCommand | TenantCommand, _within_s: float
    ) -> KeyEvent:
        self.commands.append(command)
        known = next((event for event in self.events if event.command_id == command.command_id), None)
        if known is None:
            tenant = self.tenants.get(command.tenant, TenantRecord(tenant=command.tenant))
            name = (command.tenant, getattr(command, "key", ""))
            applied = keylife.apply(command, tenant, self.keys.get(name), command.issued_at)
            self.tenants[command.tenant] = applied.tenant
            if applied.key is not None:
                self.keys[name] = applied.key
            known = keylife.event_of(command, applied, command.issued_at)
            self.events.append(known)
        if self.silent:
            raise Unfinished("the gate did not answer")
        return known

    async def _read_book(self, *_: Any) -> keys.Book:
        used = {name: record.created_at for name, record in self.keys.items()}
        return keys.Book(self.keys, self.tenants, used)

    async def _read_history(self, _b: str, _n: str, _tenant: str, key: str | None) -> keys.History:
        return keys.History([event for event in self.events if key in (None, event.key)], self.unread)

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        self._monkeypatch.setattr(sys, "argv", ["mailvet", "keys", *arguments])
        status = run()
        out, err = self._capsys.readouterr()
        assert status == code, err
        assert "Traceback" not in err
        return out, err


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gate:
    for name in ("MAILVET_ACTOR", "MAILVET_NAMESPACE", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    return Gate(monkeypatch, capsys)


# -- secrets -------------------------------------------------------------------------------------------------


def test_a_secret_is_shown_once_on_stdout_alone(gate: Gate) -> None:
    out, err = gate.run("create", "acme_k1")
    assert out.startswith("mailvet-key-id: acme_k1\n-----BEGIN PRIVATE KEY-----\n")
    assert "PRIVATE KEY" not in err
    assert "create acme_k1: done" in err
    token, err = gate.run("create", "acme_k2", "--type", "bearer")
    assert token.startswith("mv_acme_k2_")
    assert token.strip() not in err
    for command in gate.commands:
        assert token.split("_")[3] not in command.model_dump_json()
        assert out.splitlines()[2] not in command.model_dump_json()


def test_a_secret_may_go_to_a_new_file_that_only_its_owner_reads(gate: Gate, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    out, _ = gate.run("create", "acme_k1", "--out", str(file))
    assert out == "create acme_k1: done\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE KEY" in file.read_text()
    before = len(gate.commands)
    _, err = gate.run("rotate", "acme_k1", "--out", str(file), code=2)
    assert "can't be made: File exists" in err
    assert len(gate.commands) == before, "nothing was sent"


def test_a_secret_whose_command_failed_is_shown_to_nobody(gate: Gate, tmp_path: Path) -> None:
    gate.run("create", "acme_k1")
    for arguments in ((), ("--out", str(tmp_path / "key"))):
        out, err = gate.run("create", "acme_k1", *arguments, code=1)
        assert (out, "refused, key_exists" in err) == ("", True)
    gate.silent = True
    out, err = gate.run("create", "acme_k2", code=1)
    assert (out, "did not answer" in err) == ("", True)
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_was_written_stays_whatever_comes_after(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(keypage, "said", gone)
    gate.run("create", "acme_k1", "--out", str(tmp_path / "key.pem"), code=130)
    assert "PRIVATE KEY" in (tmp_path / "key.pem").read_text()


def test_a_command_given_again_under_its_id_has_lost_its_secret(gate: Gate) -> None:
    again = ("create", "acme_k1", "--command-id", "0" * 32)
    gate.silent = True
    gate.run(*again, code=1)
    gate.silent = False
    out, err = gate.run(*again, code=1)
    assert (out, "mailvet keys rotate acme_k1 --grace 0" in err) == ("", True)
    assert "another command" in gate.run("revoke", "acme_k1", "--command-id", "0" * 32, code=2)[1]
    assert "command_id" in gate.run("revoke", "acme_k1", "--command-id", "x", code=2)[1]


def test_a_public_key_is_brought_and_nothing_is_shown(gate: Gate, tmp_path: Path) -> None:
    secret = gate.run("create", "acme_k1")[0]
    assert secret
    pem = tmp_path / "public.pem"
    pem.write_text(
        "-----BEGIN PUBLIC KEY-----\n"
        "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        "-----END PUBLIC KEY-----\n"
    )
    out, _ = gate.run("create", "acme_k2", "--public-key", str(pem))
    assert out == "create acme_k2: done\n"
    assert gate.run("create", "acme_k2", "--public-key", str(pem))[0] == "create acme_k2: nothing to change\n"
    for wrong in (("--type", "bearer"), ("--out", str(tmp_path / "x"))):
        assert "--public-key is for" in gate.run("rotate", "acme_k2", "--public-key", str(pem), *wrong, code=2)[1]


def test_json_is_the_event_with_the_secret(gate: Gate) -> None:
    made = json.loads(gate.run("create", "acme_k1", "--type", "bearer", "--json")[0])
    assert (made["outcome"], made["secret"].startswith("mv_acme_k1_")) == ("applied", True)
    refused = json.loads(gate.run("create", "acme_k1", "--json", code=1)[0])
    assert (refused["outcome"], refused["refused"]) == ("refused", "key_exists")
    assert "secret" not in json.loads(gate.run("revoke", "acme_k1", "--json")[0])


# -- what is given to the gate -------------------------------------------------------------------------------


def last(gate: Gate) -> Any:
    return gate.commands[-1]


def test_who_and_why_are_said(gate: Gate) -> None:
    gate.run("create", "acme_k1", "--actor", "ann", "--reason", "first")
    assert (last(gate).actor, last(gate).why, last(gate).tenant, last(gate).key) == ("ann", "first", "acme", "k1")
    gate.run("revoke", "acme_k1")
    assert "@" in last(gate).actor
    assert last(gate).why is None


def test_a_key_without_limits_has_the_standard_ones(gate: Gate) -> None:
    gate.run("create", "acme_k1")
    assert (last(gate).policy.rate_per_s, last(gate).policy.in_flight) == (50, 100_000)
    gate.run("create", "acme_k2", "--rate", "none", "--daily", "500", "--in-flight", "7", "--max-addresses", "5")
    assert last(gate).policy == Policy(rate_per_s=None, burst=100, daily=500, in_flight=7, max_addresses=5)


def test_times_are_moments_or_spans(gate: Gate) -> None:
    gate.run("create", "acme_k1", "--expires", "2099-01-31", "--not-before", "2099-01-01T00:00:00+01:00")
    assert last(gate).expires_at == datetime(2099, 1, 31, tzinfo=UTC)
    assert last(gate).not_before == datetime(2098, 12, 31, 23, tzinfo=UTC)
    gate.run("create", "acme_k2", "--expires", "90d")
    assert abs(last(gate).expires_at - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=1)
    for wrong in ("soon", "90", "2099-13-01"):
        assert "write 2027" in gate.run("create", "acme_k3", "--expires", wrong, code=2)[1]


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("30s", 30), ("90m", 5400), ("24h", 86_400), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_a_grace_is_a_span(gate: Gate, text: str, seconds: int) -> None:
    gate.run("create", "acme_k1")
    gate.run("rotate", "acme_k1", "--grace", text)
    assert last(gate).grace_s == seconds


def test_a_grace_is_a_day_by_default_and_no_number_without_a_unit(gate: Gate) -> None:
    gate.run("create", "acme_k1")
    gate.run("rotate", "acme_k1", "--at", "7d")
    assert (last(gate).grace_s, last(gate).starts_at > datetime.now(UTC)) == (86_400, True)
    assert "24h" in gate.run("rotate", "acme_k1", "--grace", "60", code=2)[1]
    assert "grace_s" in gate.run("rotate", "acme_k1", "--grace", "999w", code=2)[1]


def test_scopes_are_named_by_kind(gate: Gate) -> None:
    gate.run("create", "acme_k1", "--scope", "depth:dns", "--scope", "depth:syntax", "--scope", "option:none")
    scopes = last(gate).scopes
    assert (scopes.depths, len(scopes.lanes), scopes.options) == ({"dns", "syntax"}, 2, frozenset())
    for wrong in ("dns", "depth:deep", "lane:", "x:y"):
        assert "is no scope: depth:dns|smtp|syntax" in gate.run("create", "acme_k2", "--scope", wrong, code=2)[1]


@pytest.mark.parametrize("name", ["acme", "acme_", "_k1", "a b_k", "acme_k_1", "x" * 65 + "_k"])
def test_a_key_is_named_by_tenant_and_key(gate: Gate, name: str) -> None:
    assert "is no key id: write TENANT_KEY" in gate.run("create", name, code=2)[1]


def test_limits_that_are_not_given_stay(gate: Gate) -> None:
    gate.run("create", "acme_k1", "--daily", "5")
    gate.run("policy", "acme_k1", "--monthly", "50", "--expires", "never")
    assert (last(gate).policy.daily, last(gate).policy.monthly, last(gate).policy.burst) == (5, 50, 100)
    gate.run("policy", "acme_k1", "--daily", "none")
    assert last(gate).policy.daily is None
    gate.run("policy", "acme_k1", "--scope", "lane:bulk")
    assert last(gate).policy is None


def test_policies_by_name(gate: Gate) -> None:
    gate.run("policy", "acme", "--define", "small", "--daily", "5")
    assert (last(gate).verb, last(gate).name, last(gate).policy.daily) == ("define", "small", 5)
    gate.run("create", "acme_k1", "--policy", "small")
    assert last(gate).policy == "small"
    gate.run("policy", "acme", "--define", "small", "--rate", "1")
    assert (last(gate).policy.daily, last(gate).policy.rate_per_s) == (5, 1)
    gate.run("policy", "acme_k1", "--burst", "9")
    assert (last(gate).policy.daily, last(gate).policy.burst) == (5, 9)
    gate.run("policy", "acme_k1", "--policy", "small")
    assert gate.keys["acme", "k1"].policy == "small"


def test_limits_of_a_tenant_and_its_suspension(gate: Gate) -> None:
    gate.run("policy", "acme", "--daily", "100")
    assert (last(gate).verb, last(gate).limits) == ("limit", Policy(daily=100))
    gate.run("policy", "acme", "--in-flight", "7")
    assert last(gate).limits == Policy(daily=100, in_flight=7)
    assert "needs its --reason" in gate.run("suspend", "acme", code=2)[1]
    gate.run("suspend", "acme", "--reason", "harvesting")
    assert gate.tenants["acme"].suspended == "harvesting"
    gate.run("reinstate", "acme")
    assert gate.tenants["acme"].suspended is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("acme", "--policy", "x"), "are of keys"),
        (("acme",), "say what to limit"),
        (("acme", "--daily", "-5"), "a positive number, or none"),
        (("acme", "--daily", "x"), "a positive number, or none"),
        (("acme", "--rate", "2000000"), "rate_per_s"),
        (("a b", "--daily", "5"), "letters, digits"),
        (("acme_k1", "--define", "x", "--daily", "5"), "belong to tenants"),
        (("acme_k1", "--policy", "x", "--daily", "5"), "limits that stand elsewhere"),
        (("acme_k1",), "say what to change"),
        (("acme_k1", "--expires", "999999w"), "write 2027-01-31T00:00:00Z"),
        (("acme_k1", "--not-before", "9999-12-31T23:59:59-12:00"), "write 2027-01-31T00:00:00Z"),
        (("acme_k1", "--daily", "5", "--bootstrap", "me:s3cret@host:9092"), "alone: user and password"),
        (("acme_k9", "--daily", "5"), "there is no key acme_k9"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(gate: Gate, arguments: tuple[str, ...], sentence: str) -> None:
    gate.run("create", "acme_k1")
    said = gate.run("policy", *arguments, code=2)[1]
    assert sentence in said
    assert "s3cret" not in said
    assert "pydantic" not in said


@pytest.mark.parametrize("verb", ["disable", "enable", "rollback", "revoke"])
def test_a_command_that_is_refused_ends_with_1(gate: Gate, verb: str) -> None:
    assert "refused, unknown_key" in gate.run(verb, "acme_k1", code=1)[1]


# -- reading -------------------------------------------------------------------------------------------------


def test_keys_are_listed_and_shown(gate: Gate) -> None:
    assert gate.run("list") == ("", "no keys\n")
    gate.run("create", "acme_k1", "--type", "bearer", "--expires", "2099-01-01")
    gate.run("create", "acme_k2")
    gate.run("disable", "acme_k2", "--reason", "moving")
    heading, first, second = gate.run("list")[0].splitlines()
    assert heading.split()[:3] == ["KEY", "TYPE", "STATUS"]
    assert first.split()[:3] == ["acme_k1", "bearer", "active"]
    assert second.split()[:3] == ["acme_k2", "signature", "disabled"]
    rows = [json.loads(line) for line in gate.run("list", "acme", "--json")[0].splitlines()]
    assert [(row["key_id"], row["standing"]) for row in rows] == [("acme_k1", "active"), ("acme_k2", "disabled")]
    page = gate.run("show", "acme_k1")[0]
    for part in (
        "status         active",
        "50/s, 100 at once, 100,000 in flight",
        "expires        2099-01-01T00:00:00Z",
    ):
        assert part in page
    assert json.loads(gate.run("show", "acme_k1", "--json")[0])["last_used_at"]
    assert "any rate, 1,000 a request" in gate.run("show", "acme")[0]
    assert json.loads(gate.run("show", "acme", "--json")[0])["tenant"] == "acme"
    assert "there is no key" in gate.run("show", "acme_k3", code=2)[1]


def test_the_audit_trail_says_who_what_when_and_why(gate: Gate) -> None:
    gate.run("create", "acme_k1", "--actor", "ann")
    gate.run("enable", "acme_k1", "--actor", "bob", "--reason", "why not\x1b[2J", code=2)
    gate.run("revoke", "acme_k1", "--actor", "bob", "--reason", "leaked")
    gate.run("enable", "acme_k1", code=1)
    created, revoked, refused = gate.run("show", "acme_k1", "--history")[0].splitlines()
    assert created.endswith("create acme_k1: done  by ann")
    assert revoked.endswith("revoke acme_k1: done  by bob  (leaked)")
    assert "refused, key_revoked" in refused
    lines = gate.run("show", "acme", "--history", "--json")[0].splitlines()
    assert [json.loads(line)["verb"] for line in lines] == ["create", "revoke", "enable"]
    assert gate.run("show", "acme_k9", "--history") == ("", "nothing was commanded\n")
    gate.unread = 2
    assert gate.run("show", "acme", "--history")[1].startswith("2 records of the tenant can't be read")


@pytest.mark.parametrize(
    ("key", "tenant", "standing"),
    [
        ({"status": "revoked"}, {"suspended": "x"}, "revoked"),
        ({"status": "active"}, {"suspended": "x"}, "suspended"),
        ({"status": "disabled"}, {}, "disabled"),
        ({"not_before": NOW + timedelta(1)}, {}, "not yet"),
        ({"expires_at": NOW}, {}, "expired"),
        ({"expires_at": NOW + timedelta(1), "not_before": NOW}, {}, "active"),
    ],
)
def test_a_word_says_how_a_key_stands(key: dict[str, Any], tenant: dict[str, Any], standing: str) -> None:
    record = KEY.model_copy(update={"status": "active", "expires_at": None, "not_before": None, **key})
    shared = TENANT.model_copy(update={"suspended": None, **tenant})
    assert keypage.status_of(KeyRecord.model_validate(dict(record)), shared, NOW) == standing


def test_a_key_is_shown_with_all_its_versions() -> None:
    book = keys.Book({("acme", "k1"): KEY.model_copy(update={"policy": "small"})}, {"acme": TENANT}, {})
    page = keypage.page(book, ("acme", "k1"), NOW + timedelta(days=1))
    for part in ("1/s, 1 at once", "(policy small)", "100 a day", "depth:dns", "ended", "2 signature:abababababababab"):
        assert part in page
    assert "suspended     harvesting" in keypage.tenant_page(TENANT)


def test_the_book_is_read_out_of_rows() -> None:
    rows = {
        b"acme:key:k1": KEY.model_dump_json().encode(),
        b"acme:tenant": TENANT.model_dump_json().encode(),
        b"acme:used:k1": b"1773144000000",
        b"acme:command:0": b"an event",
    }
    book = keys._book(rows)
    assert book == keys.Book({("acme", "k1"): KEY}, {"acme": TENANT}, {("acme", "k1"): NOW})
    assert book.policy(("acme", "k1")) == KEY.policy
    assert book.tenant("other") == TenantRecord(tenant="other")
    assert keys._event(b"no event") is None


def test_a_secret_that_can_not_be_written_is_said_to_be_lost(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    file = tmp_path / "key"
    _, err = gate.run("create", "acme_k1", "--out", str(file), code=1)
    assert f"can't be written to {file}: No space left on device: `mailvet keys rotate acme_k1 --grace 0`" in err
    assert not file.exists()
