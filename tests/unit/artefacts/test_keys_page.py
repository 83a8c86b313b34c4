"""docs/keys.md says what is so: its diagram is that of the table, its example signs, its names are ours."""

import re
import subprocess
import sys
from pathlib import Path

from ops.cli.keyfile import mint
from ops.cli.keys import command
from schemas import signing
from schemas.keys import Kind
from streams.access.keylife import diagram

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")


def test_the_diagram_is_drawn_from_the_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in PAGE


def test_the_example_signs(tmp_path: Path) -> None:
    secret = mint(Kind.SIGNATURE, "acme", "web").secret
    assert secret is not None
    (tmp_path / "web.pem").write_text(secret)
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    run = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.stdout, run.stderr) == (f"{list(signing.HEADERS)}\n", "")


def test_every_command_on_the_page_is_there() -> None:
    named = set(re.findall(r"mailvet keys ([a-z]+)", PAGE))
    assert named
    assert named <= set(command.commands)
    assert set(signing.HEADERS) <= set(re.findall(r"`(mailvet-[a-z-]+)`", PAGE))
