"""docs/pool.md says what is so: its diagram and counters are those of the tables, its examples run."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from streams.smtp.lifecycle import COUNTERS, diagram

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "pool.md").read_text()
SAID = ("250 2.0.0 ok\n550 5.1.1 no\n", "250 2.0.0 ok\n", "eu-1\n")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_diagram_is_drawn_from_the_table():
    assert f"```mermaid\n{diagram()}\n```" in PAGE


def test_every_counter_is_described():
    for counter, meaning in COUNTERS.items():
        assert f"| `{counter}` | {meaning} |" in PAGE


@pytest.mark.parametrize(("example", "said"), list(zip(EXAMPLES, SAID, strict=True)))
async def test_the_examples_run(serve, example, said):
    server = await serve(respond=lambda c: b"550 5.1.1 no\r\n" if "<nobody@" in c else None)
    program = f"HOST, PORT = '127.0.0.1', {server.port}\n{example}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert (out.decode(), err.decode()) == (said, "")
