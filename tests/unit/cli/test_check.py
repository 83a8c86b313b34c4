"""`mailvet check` as a person types it, without a network."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result

from ops.cli.check import _source, command
from ops.cli.errors import UserError


def run(*arguments: str, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(command, ["--depth", "syntax", *arguments], input=given)


def records(result: Result) -> list[dict[str, object]]:
    return sorted((json.loads(line) for line in result.stdout.splitlines()), key=lambda record: record["index"])


def test_a_line_for_each_address() -> None:
    result = run("user@example.com", "no address", "user@gmial.com")
    lines = sorted(result.stdout.splitlines())
    assert result.exit_code == 0
    assert [line.split()[0] for line in lines] == ["no", "user@example.com", "user@gmial.com"]
    assert "did you mean user@gmail.com?" in lines[2]


def test_json_carries_the_fields_of_a_result() -> None:
    (record,) = records(run("--json", "info+x@example.com"))
    fields = "schema_version index input normalized ascii_address domain suggestion verdict reason reasons score flags"
    assert set(f"{fields} retryable attempt next_attempt_at evidence timing checked_at".split()) <= set(record)
    assert record["flags"] == {
        "catch_all": None,
        "role": True,
        "free": False,
        "disposable": False,
        "alias": True,
        "smtputf8": False,
        "mailbox_full": None,
        "disabled": None,
    }


def test_what_would_drive_a_terminal_is_escaped() -> None:
    hostile = "a\x1b[31m\u202e@example.com"
    for result in (run(hostile), run("--json", hostile)):
        assert result.exit_code == 0
        assert result.stdout.strip().isascii() or result.stdout.strip().isprintable()
        assert "\x1b" not in result.stdout


def test_standard_input_and_files_are_read_alike(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfa@example.com\r\n\n  \nb@example.com\n\xff@example.com"
    (tmp_path / "list.txt").write_bytes(text)
    from_file = records(run("--json", "--from-file", str(tmp_path / "list.txt")))
    assert [record["input"] for record in from_file] == ["a@example.com", "b@example.com", "\\xff@example.com"]
    assert [record["input"] for record in records(run("--json", "--stdin", given=text))] == [
        record["input"] for record in from_file
    ]


def test_a_configuration_that_is_wrong_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smtp.toml").write_text("[providers.google]\nsesions = 3\n")
    monkeypatch.setenv("MAILVET_SMTP_CONFIG", str(tmp_path / "smtp.toml"))
    result = run("user@example.com")
    assert result.exit_code == 2
    said = f"Error: {tmp_path}/smtp.toml: providers.google.sesions: there is no such field; did you mean sessions?\n"
    assert result.stderr == said


def test_nothing_to_read_gives_nothing() -> None:
    result = run("--stdin", given="")
    assert (result.exit_code, result.stdout) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name one source"),
        (["a@example.com", "--stdin"], "name one source"),
        (["--from-file", "/nonexistent"], "can't read /nonexistent: No such file"),
        (["--from-file", "/"], "can't read /: Is a directory"),
        (["a@example.com", "--retry-delays", "soon"], "--retry-delays wants seconds"),
        (["a@example.com", "--retry-delays", "nan"], "--retry-delays wants seconds from 0"),
        (["a@example.com", "--timeout", "nan"], "dialogue_deadline_s"),
        (["a@example.com", "--mail-from", "nonsense"], "--mail-from 'nonsense' is no address"),
        (["a@example.com", "--mail-from", "a@b.test>\r\nRCPT"], "--mail-from 'a@b.test>"),
        (["a@example.com", "--helo", "two words"], "not a name for EHLO"),
        (["a@example.com", "--resolver", "dns.example"], "give an IP address"),
        (["a@example.com", "--allow-network", "here"], "'here' does not appear to be"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(arguments: list[str], sentence: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.output


def test_standard_input_that_is_closed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        _source((), None)


def test_only_what_may_keep_a_reader_waiting_is_read_as_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_text("a@example.com\n")
    assert list(cast(Iterable[str], _source((), tmp_path / "list.txt"))) == ["a@example.com"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a@example.com\n")))
    assert list(cast(Iterable[str], _source((), None))) == ["a@example.com"]
    with (tmp_path / "list.txt").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert not isinstance(_source((), None), int)
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert _source((), None) == reading


def test_an_answer_comes_before_the_input_ends() -> None:
    arguments = [sys.executable, "-m", "ops.cli.main", "check", "--stdin", "--json", "--depth", "syntax"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        indexes = []
        for text in (b"a@example.com\n", b"b@exam", b"ple.com\r\n\n", b"c@example.com"):
            process.stdin.write(text)
            process.stdin.flush()
            if text.endswith(b"\n"):
                indexes.append(json.loads(process.stdout.readline())["index"])
        process.stdin.close()
        last = json.loads(process.stdout.readline())
        assert (indexes, last["index"], last["input"]) == ([0, 1], 2, "c@example.com")
        assert process.stdout.read() == b""
        assert process.wait(timeout=60) == 0


def test_a_reader_that_went_away_ends_a_stream_without_a_word() -> None:
    arguments = [sys.executable, "-m", "ops.cli.main", "check", "--stdin", "--depth", "syntax"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, said = process.communicate(b"a@example.com\n" * 100, timeout=60)
    assert (process.returncode, said) == (1, b"")


def test_ctrl_c_ends_the_wait_for_a_slow_writer() -> None:
    reading, writing = os.pipe()
    arguments = [sys.executable, "-m", "ops.cli.main", "check", "--stdin", "--depth", "syntax"]
    with subprocess.Popen(arguments, stdin=reading, stderr=subprocess.PIPE) as process:
        os.close(reading)
        # More than a pipe holds: when all of it is written the command is reading.
        with os.fdopen(os.dup(writing), "wb") as pipe:
            pipe.write(b"a@example.com\n" * 20_000)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    os.close(writing)
    assert process.returncode == 130
    assert b"interrupted" in said
    assert b"Traceback" not in said
