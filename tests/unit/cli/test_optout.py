"""`mailvet optout` without a broker: what is written, and what is shown."""

import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ops import optouts
from ops.cli.main import run
from schemas.optouts import OptOut, OptOutChange
from streams.codec import encode


class Desk:
    """In place of the topic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.known: dict[str, OptOut] = {}
        self.written: list[OptOut] = []
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setattr(optouts, "read_list", self._read)
        monkeypatch.setattr(optouts, "write", self._write)

    async def _read(self, *_: Any) -> dict[str, OptOut]:
        return dict(sorted(self.known.items()))

    async def _write(self, _bootstrap: str, _namespace: str, records: list[OptOut]) -> None:
        self.written += records
        self.known.update((record.domain, record) for record in records)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["mailvet", "optout", *arguments])
        code = run()
        out, err = self._capsys.readouterr()
        return code, out, err


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(monkeypatch, capsys)


def test_domains_are_put_on_the_list_once_and_taken_off(desk: Desk) -> None:
    why = ("--reason", "asked by mail", "--actor", "ops")
    assert desk("add", "No.Example", "b\u00fccher.example", *why)[:2] == (0, "2 domains put on the list\n")
    assert desk("add", "no.example", *why)[1] == "0 domains put on the list, 1 stood so already\n"
    assert desk("list", "--names")[1].split() == ["no.example", "xn--bcher-kva.example"]
    assert "put on the list by ops  (asked by mail)" in desk("list")[1]
    assert desk("remove", "no.example", "never.example", *why)[1] == (
        "1 domain taken off the list, 1 stood so already\n"
    )
    assert [json.loads(line)["domain"] for line in desk("list", "--json")[1].splitlines()] == ["xn--bcher-kva.example"]
    code, out, _ = desk("show", "no.example")
    assert (code, out.splitlines()[0], len(out.splitlines())) == (0, "no.example: asked, by the entry no.example", 3)


def test_a_file_of_domains_and_the_records_as_json(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("b.example # by phone\na.example\n", encoding="utf-8")
    code, out, _ = desk("add", "--from-file", str(tmp_path / "list"), "--reason", "x", "--json")
    assert code == 0
    assert [json.loads(line)["domain"] for line in out.splitlines()] == ["a.example", "b.example"]
    assert all(record.changes[0].actor for record in desk.written)


def test_which_entry_speaks_of_a_domain(desk: Desk) -> None:
    desk("add", "example.org", "--reason", "x")
    code, out, _ = desk("show", "a.b.example.org")
    assert (code, out.splitlines()[0]) == (0, "a.b.example.org: not asked, by the entry example.org")
    assert json.loads(desk("show", "a.example.org", "--json")[1])["asked"] is False
    assert desk("show", "example.net")[::2] == (1, "mailvet: example.net is not on the list, and never was\n")
    assert desk("remove", "example.org", "--reason", "x")[0] == 0
    assert desk("list") == (0, "", "no domain is on the list\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "--reason", "x"), "name domains"),
        (("add", "no domain", "--reason", "x"), "is no domain"),
        (("add", "a.example"), "--reason"),
        (("add", "a.example", "--reason", "a\x1b[31m"), "printable"),
        (("add", "--from-file", "/nowhere", "--reason", "x"), "can't read"),
    ],
)
def test_mistakes_are_said_in_a_sentence(desk: Desk, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = desk(*arguments)
    assert (code, out, desk.written) == (2, "", [])
    assert said in err
    assert "\x1b" not in err


async def test_what_is_no_entry_does_not_keep_the_list_from_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    change = OptOutChange(listed=True, actor="ops", why="asked", at=datetime(2026, 3, 10, tzinfo=UTC))
    entry = OptOut(domain="a.example", changes=(change,))

    async def records(*_: Any) -> AsyncIterator[tuple[bytes, bytes | None]]:
        for record in (
            (b"a.example", encode(entry)),
            (b"a.example", b"{"),
            (b"\xff", b"no JSON"),
            (b"b.example", None),
        ):
            yield record

    monkeypatch.setattr(optouts, "read_topic", records)
    assert await optouts.read_list("127.0.0.1:1", "") == {"a.example": entry}
