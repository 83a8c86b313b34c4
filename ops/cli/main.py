"""`mailvet`: one command line; each command is a module of its own, loaded only when it is asked for."""

import importlib
import os
import sys
from collections.abc import Mapping

import click
from click.exceptions import NoArgsIsHelpError

COMMANDS: Mapping[str, str] = {
    "bench": "ops.cli.bench",
    "check": "ops.cli.check",
    "deadletters": "ops.cli.deadletters",
    "demo": "ops.cli.demo",
    "explain": "ops.cli.explain",
    "keys": "ops.cli.keys",
    "request": "ops.cli.request",
    "optout": "ops.cli.optout",
    "submit": "ops.cli.submit",
    "topics": "ops.cli.topics",
    "worker": "ops.cli.worker",
    "world": "ops.cli.world",
}
"""Command name to module; the module's ``command`` is the click command."""


class LazyGroup(click.Group):
    """Imports a command's module when it is used, so that `explain` never waits for Faust."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mailvet", prog_name="mailvet")
def cli() -> None:
    """Tells whether mailboxes exist, as an event stream on Kafka."""


def _sentence(mistake: click.ClickException) -> str:
    message = " ".join(mistake.format_message().split())
    if isinstance(mistake, click.UsageError) and mistake.ctx is not None:
        return f"mailvet: {message} Try '{mistake.ctx.command_path} --help'."
    return f"mailvet: {message}"


def _exit_code(mistake: click.ClickException) -> int:
    # click gives its own base class 1, and raises it for what a user wrote wrong.
    return 2 if type(mistake).__module__.startswith("click.") else mistake.exit_code


def run() -> int:
    """Run the command line and return its exit code. A user's mistake is one clear line on stderr, no traceback."""
    try:
        status = cli.main(prog_name="mailvet", standalone_mode=False)
        sys.stdout.flush()
    except NoArgsIsHelpError as help_wanted:
        click.echo(help_wanted.format_message(), err=True)
        return 2
    except click.ClickException as mistake:
        click.echo(_sentence(mistake), err=True)
        return _exit_code(mistake)
    except click.Abort:
        click.echo("mailvet: interrupted", err=True)
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`): nobody is told, and Python's own flush at exit must find a place to write.
        # Click does the same, with the same exit code, for what is written before the last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status if isinstance(status, int) else 0


def main() -> None:
    """The entry point."""
    sys.exit(run())


if __name__ == "__main__":
    main()
