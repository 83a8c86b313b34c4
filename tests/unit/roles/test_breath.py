"""Long work leaves others their turn."""

import asyncio

from streams.roles.breath import Turns, breathing


async def test_others_run_after_every_few_things() -> None:
    log: list[object] = []

    async def other() -> None:
        for turn in "abc":
            log.append(turn)
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    async for thing in breathing(range(5), every=2):
        log.append(thing)
    await running
    assert log == [0, 1, "a", 2, 3, "b", 4, "c"]


async def test_one_of_a_name_computes_at_a_time_in_the_order_in_which_they_came() -> None:
    turns, log = Turns(), []

    async def work(name: str, who: int) -> None:
        async with turns.take(name):
            log.append((name, who, "begins"))
            await asyncio.sleep(0)
            log.append((name, who, "ends"))

    await asyncio.gather(work("bulk", 1), work("bulk", 2), work("interactive", 3))
    assert [entry for entry in log if entry[0] == "bulk"] == [
        ("bulk", 1, "begins"),
        ("bulk", 1, "ends"),
        ("bulk", 2, "begins"),
        ("bulk", 2, "ends"),
    ]
    assert log.index(("interactive", 3, "ends")) < log.index(("bulk", 2, "begins"))


async def test_short_work_of_many_is_one_piece_a_round() -> None:
    turns, done = Turns(), 0

    async def work() -> None:
        nonlocal done
        async with turns.take("bulk"):
            done += 1

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0)
    assert done == 1
    await asyncio.gather(*tasks)
    assert done == 3
