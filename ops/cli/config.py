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
        raise UserError(_sentence(first["msg"], *map(str, first["loc"][:1]))) from None


def _sentence(message: str, name: str = "") -> str:
    """What is wrong, of one setting, or of several together."""
    message = message.removeprefix("Value error, ")
    if not name:
        return message
    field = Settings.model_fields.get(name)
    variable = name if name.startswith("KAFKA_") else (field and field.validation_alias) or f"MAILVET_{name.upper()}"
    return f"setting {name}: {message} (option or {variable})"
