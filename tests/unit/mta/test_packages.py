"""What is fetched, from what apt says; nothing is started here."""

import os
import stat
from pathlib import Path

import pytest

from ops.mta import packages
from ops.mta.packages import MtaError, MtaMissing, lacking, libraries, unpacked
from ops.mta.postfix import Postfix

SIMULATED = """\
Reading package lists...
Inst perl [5.36.0-7] (5.36.0-8 Debian:12 [amd64]) []
Inst libidn12 (1.41-1 Debian:12.11/oldstable [amd64])
Inst exim4-daemon-light (4.96-15 Debian:12 [amd64])
Conf libidn12 (1.41-1 Debian:12.11/oldstable [amd64])
"""


def script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose apt serves one package, with a program that is set-user-ID."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    script(
        bin_folder,
        "apt-get",
        'case "$*" in *--simulate*) echo "Inst wanted (1)"; echo "Inst needed (2)";; '
        'download*) shift 2; for each; do touch "$each.deb"; done;; esac',
    )
    script(bin_folder, "dpkg-deb", 'mkdir -p "$3/usr/lib/x-linux-gnu"; touch "$3/$2"; chmod 4755 "$3/$2"')
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("MAILVET_CACHE", str(tmp_path / "cache"))
    return bin_folder


def test_what_is_lacking_is_what_would_be_added_not_what_would_be_renewed() -> None:
    assert lacking(SIMULATED) == ["libidn12", "exim4-daemon-light"]


def test_packages_are_unpacked_once_without_set_user_id(machine: Path) -> None:
    root = unpacked(("wanted",))
    assert {path.name for path in root.glob("*.deb")} == {"wanted.deb", "needed.deb"}
    assert not any(path.stat().st_mode & stat.S_ISUID for path in root.rglob("*"))
    assert libraries(root) == str(root / "usr/lib/x-linux-gnu")
    script(machine, "apt-get", "exit 1")
    assert unpacked(("wanted",)) == root


def test_unknown_packages_are_missing(machine: Path) -> None:
    script(machine, "apt-get", "echo E: Unable to locate package >&2; exit 100")
    with pytest.raises(MtaMissing, match=r"apt-get update.*Unable to locate"):
        unpacked(("wanted",))


def test_a_torn_download_is_no_package(machine: Path) -> None:
    script(machine, "dpkg-deb", "echo broken archive >&2; exit 2")
    with pytest.raises(MtaError, match="broken archive"):
        unpacked(("wanted",))
    script(machine, "dpkg-deb", 'touch "$3/$2"')
    assert (unpacked(("wanted",)) / "wanted.deb").exists()


def test_another_system_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MAILVET_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MtaMissing, match="apt-get is not installed"):
        unpacked(("wanted",))


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MtaMissing, match="run this as root"):
        Postfix()


def test_a_command_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_TIMEOUT_S", 0.05)
    with pytest.raises(MtaError, match="did not end"):
        packages._run(["sleep", "5"], tmp_path)
