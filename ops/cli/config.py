"""Settings from the environment and a command's options, or one clear sentence."""

from typing import Any

from pydantic import ValidationError

from ops.cli.errors import UserError
from streams.settings import Settings


def load_settings(**options: Any) -> Settings:
    """Settings of this process; options that were not given (None or empty) leave the environment's word.

    :raises UserError: a value is wrong; says which, but never shows a secret.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    try:
        return Settings(**given)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"][:1])
        raise UserError(f"setting {name}: {first['msg']} (option or MAILVET_{name.upper()})") from None
