"""Where everything waits."""

import asyncio
import os
import signal
import threading

from ops.cli.stacks import stacks, tell_on_signal


async def inner(gate: asyncio.Event, _secret: str) -> None:
    await gate.wait()


async def outer(gate: asyncio.Event) -> None:
    await inner(gate, "hunter2")


async def pieces(gate: asyncio.Event):
    yield await inner(gate, "hunter2")


async def walk(gate: asyncio.Event) -> None:
    async for _ in pieces(gate):
        pass


async def test_each_task_is_told_with_all_that_it_awaits_and_no_values() -> None:
    gate = asyncio.Event()
    tasks = [asyncio.create_task(outer(gate), name="stuck"), asyncio.create_task(walk(gate), name="walking")]
    await asyncio.sleep(0)
    told = stacks()
    gate.set()
    await asyncio.gather(*tasks)
    [stuck] = [line for line in told.splitlines() if line.startswith("task stuck:")]
    places = [part.split(" ")[-1] for part in stuck.split(" > ")]
    assert places[:3] == ["outer", "inner", "Event.wait"]
    assert "task walking: " in told
    assert "thread MainThread: " in told
    assert "hunter2" not in told


async def test_tasks_of_another_threads_loop_are_told_too() -> None:
    gate, begun = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        begun.set()
        while not gate.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    other = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
    await asyncio.to_thread(begun.wait, 5)
    told = stacks()
    gate.set()
    await other
    assert any("elsewhere" in line for line in told.splitlines() if line.startswith("task "))


async def test_a_signal_asks_for_it(capfd) -> None:
    tell_on_signal()
    os.kill(os.getpid(), signal.SIGUSR2)
    await asyncio.sleep(0)
    for _ in range(100):
        if err := capfd.readouterr().err:
            break
        await asyncio.sleep(0.01)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)
    assert "test_a_signal_asks_for_it" in err
