"""`mailvet demo` as its user runs it: every verdict right, nothing left behind, and Ctrl-C at any time."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ops.brokers.base import Broker
from ops.cli.kafka import consumer

DEMO = [sys.executable, "-m", "ops.cli.main", "demo"]


def children_of(pid: int) -> list[int]:
    """Processes whose parent is `pid` (Linux)."""
    stats = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/stat")}
    found = []
    for child, path in stats.items():
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        found += [child] if parent == pid else []
    return found


def test_every_verdict_is_right_on_the_embedded_broker() -> None:
    done = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, timeout=120, check=False)
    *lines, whole = map(json.loads, done.stdout.splitlines())
    assert [line for line in lines if not line["right"]] == []
    assert (done.returncode, whole["right"]) == (0, whole["total"]), done.stderr
    assert len(lines) == whole["total"] > 100


async def test_every_verdict_is_right_on_a_given_broker_and_nothing_stays_there(broker: Broker) -> None:
    command = [*DEMO, "--bootstrap", broker.bootstrap]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdicts as expected in" in done.stdout
    async with consumer(broker.bootstrap) as client:
        assert [name for name in await client.topics() if name.startswith("demo-")] == []


@pytest.mark.parametrize("until", ["broker:", "world:", "worker:"])
def test_ctrl_c_leaves_no_process_behind(until: str) -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith(until):
            assert process.poll() is None
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().splitlines()[-1] == "mailvet: interrupted"
        assert process.wait(30) == 130
    assert children
    assert [child for child in children if os.path.exists(f"/proc/{child}")] == []
