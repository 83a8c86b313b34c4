"""Credits: bounded, in order, and given back whatever happens."""

import asyncio

import pytest

from streams.roles.credits import Credits, CreditsBy


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def hold(credits: Credits, count: int, log: list[str], name: str, release: asyncio.Event) -> None:
    async with credits.take(count):
        log.append(name)
        await release.wait()


async def test_a_large_taker_is_not_overtaken_by_small_ones() -> None:
    credits, log, release = Credits(10), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(credits, n, log, name, release)) for n, name in ((6, "a"), (8, "b"), (1, "c"))]
    await settle()
    assert log == ["a"]
    release.set()
    await asyncio.gather(*tasks)
    assert log == ["a", "b", "c"]
    assert credits.idle


async def test_who_asks_for_more_than_all_gets_all() -> None:
    credits = Credits(3)
    async with credits.take(100):
        assert not credits.idle
    assert credits.idle


async def test_more_of_them_are_given_to_who_waits() -> None:
    credits, log, release = Credits(2), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(credits, 2, log, name, release)) for name in "ab"]
    await settle()
    assert log == ["a"]
    credits.allow(4)
    await settle()
    assert log == ["a", "b"]
    release.set()
    await asyncio.gather(*tasks)
    assert credits.idle


async def test_fewer_of_them_are_all_that_a_waiter_gets() -> None:
    credits, log, release = Credits(4), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(credits, 4, log, name, release)) for name in "ab"]
    await settle()
    credits.allow(2)
    await settle()
    assert log == ["a"], "who has more than there are keeps them"
    release.set()
    await asyncio.gather(*tasks)
    assert log == ["a", "b"]
    assert credits.idle


async def test_how_many_a_name_has_is_asked_each_time() -> None:
    limits, log, release = {"x": 1}, [], asyncio.Event()
    credits = CreditsBy(limits.__getitem__)

    async def take(name: str) -> None:
        async with credits.take("x", 1):
            log.append(name)
            await release.wait()

    tasks = [asyncio.create_task(take(name)) for name in "ab"]
    await settle()
    assert log == ["a"]
    limits["x"] = 3
    tasks.append(asyncio.create_task(take("c")))
    await settle()
    assert sorted(log) == ["a", "b", "c"]
    release.set()
    await asyncio.gather(*tasks)
    assert not len(credits)


async def test_a_waiter_that_gives_up_leaves_its_place() -> None:
    credits, log, release = Credits(2), [], asyncio.Event()
    first = asyncio.create_task(hold(credits, 1, log, "a", release))
    await settle()
    second = asyncio.create_task(hold(credits, 2, log, "b", release))
    third = asyncio.create_task(hold(credits, 1, log, "c", release))
    await settle()
    second.cancel()
    await settle()
    assert log == ["a", "c"]
    release.set()
    await asyncio.gather(first, third)
    assert credits.idle


async def test_who_is_cancelled_when_its_turn_has_come_gives_it_back() -> None:
    credits = Credits(1)
    async with credits.take(1):
        second = asyncio.create_task(hold(credits, 1, [], "b", asyncio.Event()))
        await settle()
    second.cancel()  # the credit is its own by now, but it has not run since
    with pytest.raises(asyncio.CancelledError):
        await second
    assert credits.idle


async def test_names_have_credits_of_their_own_and_are_forgotten() -> None:
    by_name, log, release = CreditsBy(lambda _: 1), [], asyncio.Event()

    async def use(name: str) -> None:
        async with by_name.take(name, 1):
            log.append(name)
            await release.wait()

    tasks = [asyncio.create_task(use(name)) for name in ("x", "x", "y")]
    await settle()
    assert log == ["x", "y"]
    assert len(by_name) == 2
    release.set()
    await asyncio.gather(*tasks)
    assert log == ["x", "y", "x"]
    assert len(by_name) == 0


async def hold_as(credits: Credits, count: int, who: str, log: list[str], release: asyncio.Event) -> None:
    async with credits.take(count, who):
        log.append(f"{who}{count}")
        await release.wait()


async def test_whoever_asks_for_much_holds_others_up_by_one_request_only() -> None:
    credits, log, release = Credits(5), [], asyncio.Event()
    asked = [(5, "flood")] * 4 + [(1, "a"), (1, "a"), (2, "b")]
    tasks = [asyncio.create_task(hold_as(credits, count, who, log, release)) for count, who in asked]
    await settle()
    release.set()
    await asyncio.gather(*tasks)
    assert log == ["flood5", "a1", "b2", "a1", "flood5", "flood5", "flood5"]
    assert credits.idle


async def test_turns_are_equal_in_what_is_taken_and_not_in_how_often() -> None:
    credits, log, release = Credits(10), [], asyncio.Event()
    asked = [(10, "first"), *[(5, "large")] * 3, *[(1, "small")] * 12]
    tasks = [asyncio.create_task(hold_as(credits, count, who, log, release)) for count, who in asked]
    await settle()
    release.set()
    await asyncio.gather(*tasks)
    fives = ["large5", *["small1"] * 5]
    assert log[1:] == [*fives, *fives, "large5", "small1", "small1"]


async def test_who_asks_again_each_time_he_was_served_is_not_new_each_time() -> None:
    credits, log = Credits(5), []

    async def again(who: str, times: int) -> None:
        for _ in range(times):
            async with credits.take(5, who):
                log.append(who)
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group, credits.take(5):
        # Two at a time that ask anew, and four that wait all the while.
        for who, times in (("x", 2), ("x", 2), ("y", 1), ("y", 1), ("y", 1), ("y", 1)):
            group.create_task(again(who, times))
        await settle()
    assert "".join(log) == "xyxyxyxy"
    assert credits.idle
    assert len(credits._taken) <= 2, "and is forgotten"


async def test_whose_turn_it_is_is_not_overtaken_by_those_who_ask_for_less() -> None:
    credits, log, release = Credits(5), [], asyncio.Event()
    asked = [(3, "x"), (4, "large"), (1, "small")]
    tasks = [asyncio.create_task(hold_as(credits, count, who, log, release)) for count, who in asked]
    await settle()
    assert log == ["x3"]
    release.set()
    await asyncio.gather(*tasks)
    assert log == ["x3", "large4", "small1"]


@pytest.mark.parametrize("others", [0, 1])
async def test_who_gives_up_in_the_moment_of_its_turn_takes_nothing(others: int) -> None:
    credits = Credits(1)
    async with credits.take(1):
        waiting = [asyncio.create_task(hold_as(credits, 1, "a", [], asyncio.Event())) for _ in range(1 + others)]
        await settle()
        waiting[0].cancel()
    await settle()
    assert waiting[0].cancelled()
    assert credits.idle is (others == 0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert credits.idle
