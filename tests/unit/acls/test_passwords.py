"""Passwords: made here, kept in a file before the broker has them, shown once, in no repr."""

from pathlib import Path

import pytest

from ops.access.passwords import Passwords
from ops.cli.errors import UserError

USER = "mailvet.gate"


class Broker:
    """Takes passwords; may refuse."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.known: dict[str, str] = {}
        self._refuses = refuses

    async def give(self, user: str, password: str) -> None:
        if self._refuses:
            raise UserError("the broker refused")
        self.known[user] = password


async def test_without_a_folder_a_new_password_is_shown_once_the_broker_has_it() -> None:
    broker, passwords = Broker(), Passwords(None)
    await passwords.create(USER, broker.give)
    assert passwords.shown == broker.known
    assert len(broker.known[USER]) == 32
    assert broker.known[USER] not in repr(passwords)
    refused = Passwords(None)
    with pytest.raises(UserError):
        await refused.create(USER, Broker(refuses=True).give)
    assert refused.shown == {}


async def test_a_new_password_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    broker, folder = Broker(), tmp_path / "new" / "passwords"
    await Passwords(folder).create(USER, broker.give)
    assert (folder / USER).read_text() == f"{broker.known[USER]}\n"
    assert (folder / USER).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == [USER]


async def test_a_password_that_lies_there_is_used_and_renewed_only_when_asked(tmp_path: Path) -> None:
    broker = Broker()
    (tmp_path / USER).write_text("chosen by hand\n\n")
    await Passwords(tmp_path).create(USER, broker.give)
    assert broker.known == {USER: "chosen by hand"}
    await Passwords(tmp_path).renew(USER, broker.give)
    assert broker.known[USER] != "chosen by hand"
    assert (tmp_path / USER).read_text() == f"{broker.known[USER]}\n"


async def test_while_the_broker_has_not_taken_it_the_old_file_stays(tmp_path: Path) -> None:
    (tmp_path / USER).write_text("old\n")
    for _ in range(2):  # What an earlier try left behind is no hindrance.
        with pytest.raises(UserError, match="the broker refused"):
            await Passwords(tmp_path).renew(USER, Broker(refuses=True).give)
    assert (tmp_path / USER).read_text() == "old\n"
    assert (tmp_path / f"{USER}.new").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("content", "sentence"), [(b"\n", "is empty"), (b"\xff\xfe", "can't be read")])
async def test_a_file_without_a_password_is_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / USER).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        await Passwords(tmp_path).create(USER, Broker().give)


async def test_a_folder_that_can_not_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the password of mailvet\.gate can't be kept in"):
        await Passwords(tmp_path / "file" / "folder").create(USER, Broker().give)
