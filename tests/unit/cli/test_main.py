"""One clear line for every mistake, the right exit code, and no traceback."""

import os
import sys
from collections.abc import Callable
from types import SimpleNamespace

import click
import pytest

from ops.cli import main as main_module
from ops.cli.errors import Interrupted, Unfinished, UserError
from ops.cli.output import counted, duration, json_line, printable

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str, body: Callable[[], object] = lambda: None) -> tuple[int, str, str]:
        @click.command()
        @click.option("--size", type=int)
        def command(size: int | None) -> object:
            """Does a thing. And more of it."""
            return body()

        module = SimpleNamespace(command=command)
        monkeypatch.setattr(main_module, "COMMANDS", {"thing": "a.module", "other": "a.module"})
        monkeypatch.setattr(main_module.importlib, "import_module", lambda name: module)
        monkeypatch.setattr(sys, "argv", ["mailvet", *arguments])
        with pytest.raises(SystemExit) as ended:
            main_module.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def raising(error: BaseException) -> Callable[[], object]:
    def body() -> object:
        raise error

    return body


def test_a_command_that_works_ends_with_0(run: Run) -> None:
    assert run("thing", body=lambda: click.echo("done")) == (0, "done\n", "")


def test_help_has_a_line_for_each_command(run: Run) -> None:
    for flag in ("--help", "-h"):
        code, out, _ = run(flag)
        assert code == 0
        assert out.splitlines()[-2:] == ["  other  Does a thing.", "  thing  Does a thing."]
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Commands:" in err


def test_every_command_that_is_named_is_there() -> None:
    group = main_module.cli
    assert isinstance(group, click.Group)
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        assert command.get_short_help_str(100), name


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("nonsense",), "mailvet: No such command 'nonsense'. Try 'mailvet --help'."),
        (("--nonsense",), "mailvet: No such option: --nonsense Try 'mailvet --help'."),
        (("thing", "--nonsense"), "mailvet: No such option: --nonsense Try 'mailvet thing --help'."),
        (("thing", "surplus"), "mailvet: Got unexpected extra argument (surplus) Try 'mailvet thing --help'."),
        (
            ("thing", "--size", "big"),
            "mailvet: Invalid value for '--size': 'big' is not a valid integer. Try 'mailvet thing --help'.",
        ),
    ],
)
def test_a_wrong_argument_is_one_line_with_a_hint(run: Run, arguments: tuple[str, ...], line: str) -> None:
    assert run(*arguments) == (2, "", line + "\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such\nfile"), 2, "mailvet: no such file\n"),
        (Unfinished("half done"), 1, "mailvet: half done\n"),
        (Interrupted("stopped", 15), 143, "mailvet: stopped\n"),
        (click.ClickException("wrong"), 2, "mailvet: wrong\n"),
        (click.FileError("x", "gone"), 2, "mailvet: Could not open file 'x': gone\n"),
        (click.Abort(), 130, "mailvet: interrupted\n"),
    ],
)
def test_each_end_has_its_exit_code(run: Run, error: Exception, code: int, line: str) -> None:
    assert run("thing", body=raising(error)) == (code, "", line)


def test_ctrl_c_is_one_line(run: Run) -> None:
    assert run("thing", body=raising(KeyboardInterrupt()))[0] == 130


def test_an_exit_code_of_a_command_is_kept(run: Run) -> None:
    assert run("thing", body=lambda: click.get_current_context().exit(3))[0] == 3


def test_a_reader_that_went_away_is_told_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("thing", body=raising(BrokenPipeError(32, "gone"))) == (1, "", "")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert run("thing", body=lambda: gone.write("text"))[0] == 1
        gone.write("what is flushed later finds a place")


def test_hostile_text_is_shown_escaped_and_cut() -> None:
    assert printable("plain ünï text") == "plain ünï text"
    assert printable("\x1b[2J\r\n\u202e\ud800") == "\\x1b[2J\\r\\n\\u202e\\ud800"
    assert printable("x" * 300) == "x" * 199 + "…"
    assert len(printable("\0" * 300)) == 200


def test_a_record_is_one_line_of_ascii() -> None:
    assert json_line({"text": "\u2028ü\n", "none": None}) == '{"text":"\\u2028\\u00fc\\n","none":null}'


def test_numbers_are_said_as_people_say_them() -> None:
    assert (counted(1, "address", "addresses"), counted(2000, "row")) == ("1 address", "2,000 rows")
    assert (duration(12.34), duration(3725.4)) == ("12.3 s", "1:02:05")
