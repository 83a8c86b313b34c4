"""`mailvet explain`: what a server's reply means to us, and which rule says so."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping

import click
import orjson

from ops.cli.errors import UserError
from schemas.vocabulary import RETRYABLE, VERDICTS, Stage
from streams.checks.reply_rules import SMTP_STAGES, Match, Rule, load_rules, match, rule_named, unwrap
from streams.checks.reply_text import enhanced_of, printable
from streams.smtp.replies import Reply

BAD_LINES = 2
"""Exit code when a line of ``--stdin --json`` was no such object; each of them got an ``error`` object in its place."""


@click.command("explain", no_args_is_help=True)
@click.argument("replies", metavar="REPLY...", nargs=-1)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read replies from standard input, one a line.")
@click.option(
    "--stage",
    type=click.Choice([stage.value for stage in SMTP_STAGES]),
    help='The command that was answered; by default what a log line says ("in reply to ..."), else rcpt.',
)
@click.option("--sender", default="", help="The envelope sender that was used: a reply that refuses it is about us.")
@click.option("--rules", "list_rules", is_flag=True, help="Print the table of all rules, in order of precedence.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a reply; with --stdin one is read a line, too.")
def command(
    replies: tuple[str, ...], *, from_stdin: bool, stage: str | None, sender: str, list_rules: bool, as_json: bool
) -> None:
    r"""What a mail server's REPLY means: verdict, reason, and the rule that says so.

    A REPLY is what the server wrote ("550 5.1.1 User unknown"), several lines joined by \n, or a line of a log or a
    bounce that quotes it. With --stdin --json each line read is {"reply": "...", "stage": "rcpt"} and exactly one
    object is written for it, at once; a line that is none gets {"error": "..."} and the exit code is 2 at the end.
    """
    if list_rules:
        click.echo(rules_as_markdown(), nl=False)
        return
    if bool(replies) == from_stdin:
        raise UserError("give either replies as arguments or --stdin, e.g.: mailvet explain '550 5.1.1 User unknown'")
    if from_stdin and sys.stdin is None:
        raise UserError("standard input is closed: nothing to read replies from")
    chosen = Stage(stage) if stage else None
    if from_stdin and as_json:
        sys.exit(_stream(chosen, sender))
    for text in _lines() if from_stdin else replies:
        explained = explain(text, chosen, sender)
        click.echo(orjson.dumps(explained) if as_json else _for_people(explained))


def explain(text: str, stage: Stage | None = None, sender: str = "") -> dict[str, object]:
    """All that the command says of one reply; every string in it is printable."""
    unwrapped = unwrap(text)
    asked = stage or unwrapped.stage or Stage.RCPT
    return _fields(unwrapped.reply, asked, match(unwrapped.reply, asked, sender=sender))


def _fields(reply: Reply, stage: Stage, found: Match) -> dict[str, object]:
    return {
        "verdict": VERDICTS[found.reason],
        "reason": found.reason,
        "rule": found.rule,
        "retryable": found.reason in RETRYABLE,
        "retry_after_s": found.retry_after_s,
        "smtp_code": reply.code or None,
        "enhanced_code": enhanced_of(reply),
        "stage": stage,
        "text": printable(reply.text),
    }


def _for_people(explained: Mapping[str, object]) -> str:
    rule = rule_named(str(explained["rule"]))
    later = f", worth asking again after {explained['retry_after_s']} s" if explained["retry_after_s"] else ""
    return "\n".join(
        (
            f"{explained['smtp_code'] or '---'} {explained['text']}",
            f"  verdict  {explained['verdict']}{later}",
            f"  reason   {explained['reason']}",
            f"  rule     {rule.id} (stage {explained['stage']})",
            f"  means    {rule.means}",
            f"  source   {rule.source}",
        )
    )


def _lines() -> Iterator[str]:
    """Standard input as it comes, whatever its bytes are."""
    for line in sys.stdin.buffer:
        yield line.decode(errors="replace").rstrip("\r\n")


def _stream(default: Stage | None, sender: str) -> int:
    """One object in, one object out, written at once so that a program can ask and wait."""
    bad = False
    for answer in _answers(sys.stdin.buffer, default, sender):
        bad = bad or "error" in answer
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()
    return BAD_LINES if bad else 0


def _answers(lines: Iterable[bytes], default: Stage | None, sender: str) -> Iterator[dict[str, object]]:
    for number, line in enumerate(lines, start=1):
        try:
            yield _answer(line, default, sender)
        except ValueError as problem:
            yield {"error": printable(str(problem)), "line": number}


def _answer(line: bytes, default: Stage | None, sender: str) -> dict[str, object]:
    """:raises ValueError: the line is not what the command reads, in words for its writer."""
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(
            'a line must be a JSON object such as {"reply": "550 5.1.1 User unknown", "stage": "rcpt"}'
        ) from None
    if not isinstance(asked, dict) or not isinstance(asked.get("reply"), str):
        raise ValueError('"reply" must be there and be a string')
    return explain(asked["reply"], _stage(asked.get("stage"), default), sender)


def _stage(name: object, default: Stage | None) -> Stage | None:
    if name is None:
        return default
    if name not in [stage.value for stage in SMTP_STAGES]:
        raise ValueError(f'"stage" must be one of {", ".join(SMTP_STAGES)}')
    return Stage(str(name))


_INTRODUCTION = """# What a server's reply means

Generated by `mailvet explain --rules` from `streams/checks/rules/`; a test compares. The first rule that fits decides.
Whatever says that a reply is about us stands before the codes, since a block can wear any code; the codes stand before
the words; a bare code comes last. No 4xx and nothing said before RCPT is ever `undeliverable`. Addresses, host names
and URLs in a reply decide nothing, but for blocklists and providers' own codes that are known by them, and for our own
envelope sender, which stands as `[@]`.

| rule | verdict | reason | asked at | what it means | source | for example |
|---|---|---|---|---|---|---|
"""


def rules_as_markdown() -> str:
    """The page `docs/reply-rules.md`."""
    return _INTRODUCTION + "".join(f"{_row(rule)}\n" for rule in load_rules())


def _row(rule: Rule) -> str:
    stages = "any" if rule.stages == set(SMTP_STAGES) else ", ".join(s for s in SMTP_STAGES if s in rule.stages)
    sample = f"`{rule.samples[0]}`" if rule.samples else ""
    cells = (f"`{rule.id}`", VERDICTS[rule.reason], f"`{rule.reason}`", stages, rule.means, rule.source, sample)
    return "| " + " | ".join(cell.replace("\n", "\\n").replace("|", "\\|") for cell in cells) + " |"
