"""`mailvet deadletters`: what could not be used, why, and back to where it came from."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from ops.cli import kafka
from ops.cli.config import load_settings
from ops.cli.errors import Unfinished, UserError
from ops.cli.kafka import bootstrap_option, silence_client
from ops.cli.letterbox import Letterbox, Plan, Replay, Sender, Span, check_names, opened
from ops.cli.output import counted, json_line, printable
from ops.cli.signals import stop_on_signals, unless_stopped
from ops.deadletters import (
    MAX_REPLAYS,
    ORIGINS,
    Filter,
    Letter,
    full_topic,
    moment,
    refusal,
    shown,
    shown_headers,
    summary,
)
from schemas.pipeline import Replayed
from streams.installed import ROLES, now_ms
from streams.metrics import REASONS
from streams.settings import Settings

T = TypeVar("T")

MAX_BYTES = 512 * 1024
Found = tuple[Letter, Replayed | None]
"""A dead letter, and the word that it was replayed, where it was."""


@click.group("deadletters")
def command() -> None:
    """Records that could not be used: what they are, why they failed, and back to where they came from."""


def _moment(_ctx: object, _param: object, value: str | None) -> int | None:
    try:
        return None if value is None else moment(value, datetime.now(UTC))
    except (ValueError, OverflowError):
        raise click.BadParameter("a time such as 2026-11-23T12:00, or how long ago: 30m, 2h, 7d") from None


def _topics(_ctx: object, _param: object, value: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(map(full_topic, value))
    if unknown := [printable(name) for name in names if name not in ORIGINS]:
        raise click.BadParameter(f"{unknown[0]!r} is no topic that a role reads; they are {', '.join(ORIGINS)}")
    return names


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every subcommand that looks for dead letters takes."""
    for option in (
        click.option("--until", callback=_moment, metavar="TIME", help="Appended before then."),
        click.option(
            "--since", callback=_moment, metavar="TIME", help="Appended since then: ISO 8601, or so long ago (2h)."
        ),
        click.option("--key", metavar="TEXT", help="Of this record key, as it is or as it is listed."),
        click.option(
            "--topic", "topics", multiple=True, callback=_topics, metavar="TOPIC", help="From this topic: tasks.bulk."
        ),
        click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="Of this role."),
        click.option("--reason", "reasons", multiple=True, type=click.Choice(REASONS), help="For this reason."),
    ):
        function = option(function)
    return bootstrap_option(function)


def _wanted(options: dict[str, Any], **more: Any) -> Filter:
    names = ("reasons", "roles", "topics", "key", "since", "until")
    given = {name: options.pop(name) for name in names}
    since, until = given.pop("since"), given.pop("until")
    if since is not None and until is not None and since >= until:
        raise UserError("--since lies after --until: nothing was appended then")
    return Filter(**given, since_ms=since, until_ms=until, **more)


def _run(work: Coroutine[Any, Any, T]) -> T:
    async def stoppable() -> T:
        with stop_on_signals() as stop:
            return await unless_stopped(work, stop)

    silence_client()
    return asyncio.run(stoppable())


# -- list ---------------------------------------------------------------------------------------------------------


@command.command("list")
@_filters
@click.option("--pending", is_flag=True, help="Only those that were not replayed.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="So many at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object each.")
def list_(bootstrap: str, pending: bool, limit: int | None, as_json: bool, **options: Any) -> None:
    """List dead letters: each partition in its order, as they are read."""
    wanted = _wanted(options)
    settings = load_settings()

    async def show() -> int:
        async with opened(bootstrap, settings.namespace) as box:
            span = await box.span(wanted)
            words = await box.replayed(span) if pending else {}
            count = 0
            async for letter in box.read(span):
                if _is_meant(letter, wanted) and letter.offset not in words.get(letter.partition, {}):
                    if not (count or as_json):
                        click.echo(_HEADING)
                    click.echo(json_line(summary(letter)) if as_json else _row(letter))
                    count += 1
                    if count == limit:
                        break
            return count

    if not _run(show()) and not as_json:
        click.echo("no dead letters")


def _is_meant(letter: Letter, wanted: Filter) -> bool:
    return letter.replayed is None and letter in wanted


_HEADING = f"{'ID':<10} {'APPENDED (UTC)':<19} {'ROLE':<10} {'REASON':<17} {'BYTES':>9}  FROM, KEY: WHY"


def _row(letter: Letter) -> str:
    about = letter.about
    at = datetime.fromtimestamp(letter.appended_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    head = f"{letter.name:<10} {at:<19}"
    if about is None:
        return f"{head} {'-':<10} {'-':<17} {len(letter.value):>9}  not written by mailvet"
    # These columns are text of a header that a stranger may have written.
    role, where = printable(about.role, 10), printable(f"{about.topic}/{about.partition}/{about.offset}", 60)
    return f"{head} {role:<10} {about.reason:<17} {about.size:>9}  {where}, {shown(letter.key, 40)}: {_why(letter)}"


def _why(letter: Letter) -> str:
    again = f" (after {counted(letter.replays, 'replay')})" if letter.replays else ""
    return printable(letter.about.detail if letter.about else "", 120) + again


# -- show ---------------------------------------------------------------------------------------------------------


@command.command()
@bootstrap_option
@click.argument("name", metavar="PARTITION-OFFSET")
@click.option("--bytes", "limit", type=click.IntRange(0, MAX_BYTES), default=2000, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(bootstrap: str, name: str, limit: int, as_json: bool) -> None:
    """Show one dead letter: where it came from, why it failed, and its bytes, escaped, --bytes of them at most.

    What looks like a credential is not shown.
    """
    wanted = Filter(names=check_names((name,)))
    settings = load_settings()

    async def find() -> Found | None:
        async with opened(bootstrap, settings.namespace) as box:
            span = await box.span(wanted)
            async for letter in box.read(span):
                if letter in wanted and letter.replayed is None:
                    words = await box.replayed(span)
                    return letter, words.get(letter.partition, {}).get(letter.offset)
        return None

    found = _run(find())
    if found is None:
        raise UserError(f"there is no dead letter {name}: `mailvet deadletters list` shows those that there are")
    letter, word = found
    fields = _fields(letter, word, settings, limit)
    if as_json:
        click.echo(json_line(fields))
        return
    for label, text in fields.items():
        lines = [f"{each}: {said}" for each, said in text] if isinstance(text, list) else [text]
        for line in lines if text is not None else ():
            click.echo(f"{label.replace('_', ' ') + ':':<13} {line}")


def _fields(letter: Letter, word: Replayed | None, settings: Settings, limit: int) -> dict[str, Any]:
    why = refusal(letter, now_ms=now_ms(), decisions_kept=settings.decisions_kept)
    replayed = f"{word.at:%Y-%m-%d %H:%M:%S} UTC, to {word.topic}" if word else None
    return {
        **summary(letter),
        "sha256": letter.about and printable(letter.about.sha256, 64),
        "headers": shown_headers(letter.headers),
        "value": shown(letter.value[: 4 * limit], limit),
        "replayed": replayed,
        "replay": "it was replayed" if word else why or "it can be replayed",
    }


# -- replay -------------------------------------------------------------------------------------------------------


@command.command()
@_filters
@click.argument("names", nargs=-1, metavar="[PARTITION-OFFSET]...")
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--force", is_flag=True, help=f"Replay what failed again after a replay, {MAX_REPLAYS} times at most.")
def replay(  # noqa: PLR0917
    bootstrap: str,
    names: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    force: bool,
    **options: Any,
) -> None:
    """Send dead letters back to the topic that they came from, with their key, headers and partition.

    Each is replayed once: that is remembered beside it. One that fails again is a new dead letter, which is left alone
    unless --force is given. Exit code 1 when some that were meant can't be replayed.
    """
    wanted = _wanted(options, names=check_names(names))
    if everything == (wanted != Filter()):
        raise UserError("say which: names of dead letters, filters such as --reason internal_error, or --all")
    settings = load_settings()
    span, plan = _run(_plan(bootstrap, settings, wanted, force))
    _say(plan, "would be replayed" if dry_run else "to replay")
    if dry_run or not plan.count:
        _end(plan)
    elif yes or click.confirm(f"Replay {counted(plan.count, 'dead letter')}?"):
        topics = {topic for topic, _ in plan.replays}
        _end(_run(_send(bootstrap, settings, wanted, force, span, topics)))
    else:
        click.echo("nothing was replayed")


async def _plan(bootstrap: str, settings: Settings, wanted: Filter, force: bool) -> tuple[Span, Plan]:
    async with opened(bootstrap, settings.namespace) as box:
        span = await box.span(wanted)
        return span, await (await _replay(box, span, settings, wanted, force)).plan()


async def _send(  # noqa: PLR0917
    bootstrap: str, settings: Settings, wanted: Filter, force: bool, span: Span, topics: set[str]
) -> Plan:
    done = Plan()
    async with opened(bootstrap, settings.namespace) as box, kafka.producer(bootstrap) as client:
        await box.require(topics)
        sender = Sender(client, settings.namespace, now_ms)
        # What was replayed since the question was asked isn't replayed twice.
        again = await box.span(wanted)
        span = Span(span.topic, span.starts, span.ends, again.last)
        try:
            await (await _replay(box, span, settings, wanted, force)).send(sender, done)
        finally:
            click.echo(f"replayed {counted(sender.sent, 'dead letter')}")
    return done


async def _replay(box: Letterbox, span: Span, settings: Settings, wanted: Filter, force: bool) -> Replay:
    return Replay(box, span, wanted, await box.replayed(span), now_ms, settings.decisions_kept, force)


def _say(plan: Plan, what: str) -> None:
    for (topic, reason), count in sorted(plan.replays.items()):
        click.echo(f"{count:>9,} {what}: {reason}, to {topic}")
    if plan.before:
        click.echo(f"{plan.before:>9,} were replayed before")
    for why, count in sorted(plan.refused.items()):
        click.echo(f"{count:>9,} can't be replayed: {why}")
    if not (plan.count or plan.before or plan.refused):
        click.echo("no dead letters")


def _end(plan: Plan) -> None:
    if plan.refused:
        raise Unfinished(f"{counted(plan.refused.total(), 'dead letter')} can't be replayed")
