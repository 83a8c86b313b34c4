"""Other verifiers as contestants: small programs around their libraries, built when they are asked for."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.bench.contest import ROOT, Contestant
from ops.cli.errors import UserError

HERE = Path(__file__).resolve().parent
BUILT = ROOT / ".kafka" / "peers"
"""Where the programs are kept; the folder of all that tests and benchmarks fetch and build."""

BUILD_TIMEOUT_S = 900.0
IN_FLIGHT = (100, 300, 1000, 2000)
"""Where a peer's best number of addresses in flight is looked for."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's name as published, and the tool that builds our program around it."""

    published: str
    tool: str
    build: tuple[str, ...]
    """``{out}`` is the program's place, ``{cache}`` a folder for what is made on the way."""


PEERS: Mapping[str, Peer] = {
    "aftership": Peer("AfterShip email-verifier 1.4.1", "go", ("go", "build", "-o", "{out}", ".")),
    "reacher": Peer(
        "Reacher check-if-email-exists 0.11.11",
        "cargo",
        ("cargo", "build", "--release", "--target-dir", "{cache}"),
    ),
}
"""By the name that ``--peer`` takes."""


def contestant(name: str) -> Contestant:
    """The peer, built already."""
    return Contestant(name, (str(BUILT / name), "{in_flight}"), IN_FLIGHT)


def build(name: str) -> None:
    """Build a peer's program unless it is newer than its source.

    :raises UserError: its tool is missing or failed.
    """
    peer, out, cache = PEERS[name], BUILT / name, BUILT / f"{name}.build"
    source = HERE / name
    newest = max(path.stat().st_mtime for path in source.rglob("*") if path.is_file())
    if out.exists() and out.stat().st_mtime > newest:
        return
    if shutil.which(peer.tool) is None:
        raise UserError(f"--peer {name} is built with {peer.tool}, which is not installed")
    cache.mkdir(parents=True, exist_ok=True)
    _run([part.format(out=out, cache=cache) for part in peer.build], source)
    if (made := cache / "release" / name).exists():
        shutil.copy2(made, out)
    os.utime(out)


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)  # noqa: S603
    except subprocess.CalledProcessError as failed:
        last = (failed.stderr.strip().splitlines() or ["no word why"])[-1]
        raise UserError(f"{command[0]} could not build {folder.name}: {last}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} needed more than {BUILD_TIMEOUT_S:.0f} s for {folder.name}") from None
