"""`mailvet explain`: for people, for programs, and against hostile text."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ops.cli.errors import UserError
from ops.cli.explain import command, explain, rules_as_markdown
from schemas.vocabulary import Stage

PAGE = Path(__file__).parents[3] / "docs" / "reply-rules.md"


def run(*arguments: str, given: str | bytes | None = None):
    return CliRunner().invoke(command, list(arguments), input=given)


def answers(*lines: str | bytes) -> tuple[list[dict], int]:
    raw = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
    result = run("--stdin", "--json", given=raw)
    return [json.loads(line) for line in result.stdout.splitlines()], result.exit_code


def test_for_people_it_says_verdict_reason_rule_meaning_and_source():
    result = run("550 5.1.1 User unknown", "450 4.2.0 Greylisted, try again in 5 minutes", "what?")
    assert result.exit_code == 0
    assert result.output.splitlines()[:5] == [
        "550 5.1.1 User unknown",
        "  verdict  undeliverable",
        "  reason   mailbox_not_found",
        "  rule     recipient-code (stage rcpt)",
        "  means    The enhanced code says that the recipient's address is bad.",
    ]
    assert "  source   RFC 3463" in result.output
    assert "unknown, worth asking again after 300 s" in result.output
    assert "--- what?" in result.output


@pytest.mark.parametrize("given", [(), ("--stdin", "--json")])
def test_a_reply_that_refuses_our_envelope_sender_is_about_us(given):
    reply = "550 5.1.1 <probe@example.net>: no such user"
    asked = {"input": json.dumps({"reply": reply})} if given else {}
    arguments = (*given, "--sender", "probe@example.net") + (() if given else ("--json", reply))
    assert json.loads(CliRunner().invoke(command, arguments, **asked).stdout)["reason"] == "sender_blocked"


def test_for_programs_it_is_one_object_a_reply():
    result = run("--json", "550 5.1.1 User unknown", "250 Ok")
    first, second = map(json.loads, result.output.splitlines())
    assert first == {
        "verdict": "undeliverable",
        "reason": "mailbox_not_found",
        "rule": "recipient-code",
        "retryable": False,
        "retry_after_s": None,
        "smtp_code": 550,
        "enhanced_code": "5.1.1",
        "stage": "rcpt",
        "text": "5.1.1 User unknown",
    }
    assert (second["verdict"], second["enhanced_code"]) == ("deliverable", None)


def test_replies_one_a_line():
    result = run("--stdin", given=b"550 User unknown\r\n\xff\xfe\n")
    assert result.output.count("  verdict ") == 2


@pytest.mark.parametrize(
    ("arguments", "stage"),
    [
        ((), "mail"),
        (("--stage", "banner"), "banner"),
    ],
)
def test_the_stage_is_as_asked_else_as_the_log_says(arguments, stage):
    result = run("--json", *arguments, "host mx said: 550 no (in reply to MAIL FROM command)")
    assert json.loads(result.output)["stage"] == stage


def test_an_object_a_line_in_and_out():
    found, code = answers(
        '{"reply": "554 blocked", "stage": "banner"}', '{"reply": "250 Ok"}', '{"reply": "", "stage": null}'
    )
    assert [(one["reason"], one["stage"]) for one in found] == [
        ("sender_blocked", "banner"),
        ("mailbox_accepted", "rcpt"),
        ("protocol_error", "rcpt"),
    ]
    assert code == 0


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "no json",
        "[]",
        '"550 x"',
        "{}",
        '{"reply": 550}',
        '{"reply": "550 x", "stage": "data"}',
        '{"reply": "550 x", "stage": ["rcpt"]}',
        b'{"reply": "\xff"}',
        "[" * 100_000,
    ],
)
def test_a_bad_line_is_answered_and_the_stream_goes_on(bad):
    found, code = answers(bad, '{"reply": "250 Ok"}')
    assert found[0]["line"] == 1
    assert found[0]["error"]
    assert found[1]["reason"] == "mailbox_accepted"
    assert code == 2


def test_each_answer_is_written_before_the_next_line_is_read(monkeypatch):
    written = []

    class Interactive:
        def __iter__(self):
            yield b'{"reply": "250 Ok"}\n'
            assert written == ["answer", "flush"]

    class Out:
        def write(self, data):
            written.append("answer")

        def flush(self):
            written.append("flush")

    monkeypatch.setattr("sys.stdin", type("In", (), {"buffer": Interactive()}))
    monkeypatch.setattr("sys.stdout", type("Out", (), {"buffer": Out()}))
    with pytest.raises(SystemExit) as ended:
        command.callback(replies=(), from_stdin=True, stage=None, sender="", list_rules=False, as_json=True)
    assert ended.value.code == 0


@pytest.mark.parametrize("arguments", [("--json",), ("--stdin", "550 x")])
def test_a_users_mistake_is_one_line(arguments):
    result = run(*arguments, given="")
    assert result.exit_code == 2
    assert "give either replies as arguments or --stdin" in result.output
    assert run("--stage", "nowhere", "550 x").exit_code == 2


@pytest.mark.parametrize(
    "hostile", ["550 \x1b]0;owned\x07\x1b[2J", "550 a\rb\x08\x9b1m\u202e", '{"reply": "550 \\u001b[2J"}']
)
def test_no_control_character_reaches_the_terminal(hostile):
    for arguments, given_ in (((hostile,), None), (("--stdin",), hostile), (("--stdin", "--json"), hostile)):
        shown = run(*arguments, given=given_).output
        assert all(char.isprintable() or char == "\n" for char in shown)


@given(st.text(), st.sampled_from([None, *Stage]))
def test_every_string_of_an_explanation_is_printable(text, stage):
    assert all(value.isprintable() for value in explain(text, stage).values() if isinstance(value, str))


@given(st.lists(st.binary(max_size=80).filter(lambda raw: b"\n" not in raw), max_size=5))
def test_as_many_lines_out_as_in(lines):
    found, _ = answers(*lines)
    assert len(found) == len(lines)


def test_the_page_of_rules_is_the_one_in_the_documentation():
    shown = run("--rules").output
    assert shown == rules_as_markdown() == PAGE.read_text("utf-8"), "run: mailvet explain --rules > docs/reply-rules.md"


def test_standard_input_that_is_closed_is_told(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        command.callback(replies=(), from_stdin=True, stage=None, sender="", list_rules=False, as_json=False)
