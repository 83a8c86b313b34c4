"""How a command says that the user has to do something."""

import click


class UserError(click.ClickException):
    """One clear sentence that says what to do; the command ends with exit code 2."""

    exit_code = 2
