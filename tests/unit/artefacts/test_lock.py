"""The lock files cover what the project declares, with hashes and without the name of any registry."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[3]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted(ROOT.glob("requirements*.lock"))


def pinned(lock: str) -> dict[str, list[Version]]:
    """Name to versions: one package may stand several times, for several platforms."""
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^ ;\\]+)", (ROOT / lock).read_text(), re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


def declared(*lists: list[Any]) -> list[Requirement]:
    return [Requirement(line) for each in lists for line in each if isinstance(line, str)]


RUNTIME = declared(PROJECT["project"]["dependencies"])
BUILD = declared(PROJECT["dependency-groups"]["build"])
DEVELOPMENT = declared(PROJECT["dependency-groups"]["dev"], *PROJECT["project"]["optional-dependencies"].values())
EVERYTHING = [*RUNTIME, *BUILD, *DEVELOPMENT]


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("requirements.lock", EVERYTHING),
        ("requirements-runtime.lock", RUNTIME),
        ("requirements-build.lock", BUILD),
    ],
)
def test_what_is_declared_is_locked(lock: str, requirements: list[Requirement]) -> None:
    versions = pinned(lock)
    for requirement in requirements:
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement} is not locked: run `make lock`"
        assert all(requirement.specifier.contains(version, prereleases=True) for version in found), requirement


def test_the_image_runs_on_the_versions_that_were_tested() -> None:
    everything = pinned("requirements.lock")
    for lock in ("requirements-runtime.lock", "requirements-build.lock"):
        for name, versions in pinned(lock).items():
            assert versions == everything[name]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_pin_has_hashes_and_no_host_is_named(lock: Path) -> None:
    text = lock.read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)
