"""Passwords of users: made here, kept in a folder or shown once, never logged."""

import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from ops.cli.errors import UserError

BYTES = 24
"""Random bytes of a password: 32 characters."""

MAX_FILE = 4096

Give = Callable[[str, str], Awaitable[None]]
"""Tells the broker a user's password."""


@dataclass(slots=True)
class Passwords:
    """Where passwords come from and stay: a file a user in ``folder``; without one, new ones are in ``shown``."""

    folder: Path | None
    shown: dict[str, str] = field(default_factory=dict, repr=False)

    async def create(self, user: str, give: Give) -> None:
        """Give the user the password of its file, or a new one.

        Raises:
            UserError: the file can't be read or written.
        """
        if self.folder is not None and (path := self.folder / user).exists():
            await give(user, _read(path))
        else:
            await self.renew(user, give)

    async def renew(self, user: str, give: Give) -> None:
        """Give the user a new password. It is kept before the broker has it, and in the file's place after.

        Raises:
            UserError: the file can't be written.
        """
        password = secrets.token_urlsafe(BYTES)
        if self.folder is None:
            await give(user, password)
            self.shown[user] = password
            return
        path = self.folder / user
        fresh = path.with_name(f"{path.name}.new")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(fresh, password)
            await give(user, password)
            fresh.replace(path)
        except OSError as error:
            raise UserError(f"the password of {user} can't be kept in {self.folder}: {error.strerror}") from None


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            password = file.readline(MAX_FILE).strip()
    except (OSError, UnicodeError):
        raise UserError(f"the password file {path} can't be read") from None
    if not password:
        raise UserError(f"the password file {path} is empty: write one into it, or remove it and one is made")
    return password


def _write(path: Path, password: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{password}\n")
        file.flush()
        os.fsync(file.fileno())
