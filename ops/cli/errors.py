"""How a command says that it could not do what was asked: one sentence, an exit code, never a traceback."""

import click


class UserError(click.ClickException):
    """One clear sentence that says what to do; the command ends with exit code 2."""

    exit_code = 2


class Unfinished(click.ClickException):
    """The command was right but could not be finished: one sentence that says how to go on; exit code 1."""

    exit_code = 1


class Interrupted(click.ClickException):
    """A signal ended the command in good order; the exit code is the shell's, 128 and the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
