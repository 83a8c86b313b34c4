"""`mailvet`: one command line; each command is a module of its own, loaded only when it is asked for."""

import importlib
import sys
from collections.abc import Mapping

import click

COMMANDS: Mapping[str, str] = {
    "check": "ops.cli.check",
    "demo": "ops.cli.demo",
    "explain": "ops.cli.explain",
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


def main() -> None:
    """Run the command line. A user's mistake is one clear line on stderr and exit code 2, never a traceback."""
    try:
        cli.main(prog_name="mailvet", standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.Abort:
        click.echo("mailvet: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as mistake:
        click.echo(f"mailvet: {mistake.format_message()}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
