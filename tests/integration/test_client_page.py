"""The example of docs/requests.md, run as it stands there."""

import asyncio
import re
import sys
from pathlib import Path

from ops.brokers.base import Broker
from ops.world import World
from tests.chaos.rig import rig

PAGE = Path(__file__).parents[2] / "docs" / "requests.md"


async def test_the_example_asks_and_reads(broker: Broker, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    async with World() as world, rig(broker, world, tmp_path) as system:
        await system.start("all")
        script = tmp_path / "example.py"
        script.write_text(example)
        addresses = ["mailbox-full@sandbox.mailvet.test", "zoe.missing@accepts.test"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), broker.bootstrap, system.key, *addresses,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=PAGE.parents[1],
            env={"PYTHONPATH": str(PAGE.parents[1]), "MAILVET_NAMESPACE": system.namespace},
        )  # fmt: skip
        out, said = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, said.decode()
        lines = out.decode().splitlines()
        assert sorted(lines[:2]) == [
            "mailbox-full@sandbox.mailvet.test risky mailbox_full",
            "zoe.missing@accepts.test undeliverable mailbox_not_found",
        ]
        assert len(lines) == 3
