"""New credentials of commands on keys: made, or brought by their holder, and the secret handed over once."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ops.cli import keypage
from ops.cli.errors import Unfinished, UserError
from ops.cli.keyfile import Minted, brought, mint
from ops.cli.keyoffice import Office
from schemas.keys import KeyEvent, Kind

Function = Callable[..., Any]
Pair = tuple[str, str]


def credential_options(function: Function) -> Function:
    """``--type``, ``--public-key``, ``--out``."""
    for option in (
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="A new file for the secret, which only you can read; else it is shown here, once.",
        ),
        click.option(
            "--public-key",
            type=click.Path(path_type=Path),
            help="An Ed25519 public key in PEM that its holder made: we never see the private one.",
        ),
        click.option(
            "--type",
            "kind",
            type=click.Choice(Kind, case_sensitive=False),
            default=Kind.SIGNATURE,
            show_default=True,
            help="How requests are proven; a bearer key lies in the topic of requests for its retention.",
        ),
    ):
        function = option(function)
    return function


def minted_for(key: Pair, kind: Kind, public_key: Path | None, out: Path | None) -> Minted:
    """A new credential, or the one that was brought. Raises :class:`UserError`."""
    if public_key is None:
        return mint(kind, *key)
    if kind is not Kind.SIGNATURE or out is not None:
        raise UserError("--public-key is for keys of type signature, and there is no secret to write with --out")
    return brought(public_key)


def hand_over(office: Office, key: Pair, minted: Minted, out: Path | None, give: Callable[[], KeyEvent]) -> None:
    """Give the command, and only after its answer the secret; a file for it is made before anything is sent."""
    with _secret_file(out) as write:
        event = give()
        record = event.key_record
        known = record is not None and any(each.credential == minted.credential for each in record.versions)
        if not known:
            raise _lost(key, "the command was carried out before, and its secret went with that attempt")
        if minted.secret is None:
            office.say(event)
        elif write is not None:
            try:
                write(minted.secret)
            except OSError as error:
                raise _lost(key, f"the secret can't be written to {out}: {error.strerror}") from None
            office.say(event)
        elif office.as_json:
            office.say(event, secret=minted.secret)
        else:
            click.echo(f"{keypage.said(event)}; the secret is shown this once:", err=True)
            click.echo(minted.secret, nl=False)


def _lost(key: Pair, why: str) -> Unfinished:
    return Unfinished(f"{why}: `mailvet keys rotate {'_'.join(key)} --grace 0` makes another one")


@contextlib.contextmanager
def _secret_file(path: Path | None) -> Iterator[Callable[[str], None] | None]:
    if path is None:
        yield None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UserError(f"{path} can't be made: {error.strerror}") from None
    written = False

    def write(secret: str) -> None:
        nonlocal written
        _write_all(descriptor, secret.encode())
        written = True

    try:
        yield write
    except BaseException:
        if not written:  # Else it is the only copy there is, whatever went wrong since.
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
