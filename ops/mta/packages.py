"""Debian packages without installing them: downloaded by apt, unpacked into the cache, shared by parallel runs.

Postfix and Exim exclude one another as installed packages; side by side in folders of their own they do not meet, and
the system keeps the mail server that it has, or none.
"""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from ops.brokers.base import BrokerError, cache_dir
from ops.brokers.jars import locked

POSTFIX = ("postfix",)
EXIM = ("exim4-daemon-light", "libnss-wrapper")
POSTGREY = ("postgrey",)
SETS = (POSTFIX, EXIM, POSTGREY)
"""All that the tests need."""

_TIMEOUT_S = 300.0


class MtaError(RuntimeError):
    """A mail server did not do what was asked; the sentence says why, and where its log lies."""


class MtaMissing(MtaError):
    """There is nothing on this machine that the mail server could be made of; the sentence says what to install."""


def unpacked(packages: tuple[str, ...]) -> Path:
    """The folder under which the packages lie, with what they depend on and the system has not; fetched once.

    :raises MtaMissing: apt is not there, or knows no such packages.
    :raises MtaError: a download or its unpacking failed.
    """
    root = cache_dir() / "mta" / packages[0]
    if root.is_dir():
        return root
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MtaMissing(f"real {packages[0]} comes from Debian's packages, and {tool} is not installed here")
    root.parent.mkdir(exist_ok=True)
    try:
        with locked(root.parent / "download.lock", timeout=_TIMEOUT_S):
            if not root.is_dir():
                _fetch(packages, root)
    except BrokerError as held:
        raise MtaError(str(held)) from None
    return root


def libraries(root: Path) -> str:
    """``LD_LIBRARY_PATH`` for what lies under ``root``."""
    folders = [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*"), *root.glob("usr/lib/postfix")]
    return ":".join(map(str, folders))


def lacking(simulation: str) -> list[str]:
    """The packages that ``apt-get install --simulate`` would add; one that it would only renew is there already."""
    added = []
    for line in simulation.splitlines():
        word, _, rest = line.partition(" ")
        name, _, version = rest.partition(" ")
        if word == "Inst" and not version.startswith("["):
            added.append(name)
    return added


def _fetch(packages: tuple[str, ...], root: Path) -> None:
    """Fill a folder beside the final one and rename it: a torn download never looks like a whole one."""
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "root").mkdir(parents=True)
    try:
        said = _run(["apt-get", "install", "--simulate", "--no-install-recommends", *packages], partial)
    except MtaError as unknown:
        raise MtaMissing(f"apt knows no {' or '.join(packages)} (run apt-get update first): {unknown}") from None
    _run(["apt-get", "download", "-q", *dict.fromkeys([*packages, *lacking(said)])], partial)
    for archive in sorted(partial.glob("*.deb")):
        _run(["dpkg-deb", "--extract", archive.name, "root"], partial)
    for path in (partial / "root").rglob("*"):
        _disarm(path)
    (partial / "root").rename(root)
    shutil.rmtree(partial)


def _disarm(path: Path) -> None:
    """Nothing here is set-user-ID: a cache is no place for it, and who starts these programs is root anyway."""
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
        path.chmod(stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID))


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(  # noqa: S603  our own command, no shell
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise MtaError(f"{command[0]} did not end within {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise MtaError(f"{' '.join(command[:2])} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


if __name__ == "__main__":
    try:
        for needed in SETS:
            unpacked(needed)
    except MtaError as error:
        sys.exit(f"real mail servers are missing: {error}")
