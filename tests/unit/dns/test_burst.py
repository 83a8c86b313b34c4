"""How many questions lie before a server: bounded, given back once, and not used up by what nobody answers."""

import asyncio

from streams.dns.burst import Burst, Room


class Asking:
    """Questions that are answered when the event is set."""

    def __init__(self, burst: Burst) -> None:
        self.burst = burst
        self.answer = asyncio.Event()
        self.sent = 0

    async def ask(self) -> None:
        async with self.burst.turn():
            self.sent += 1
            await self.answer.wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_than_its_size_are_on_their_way() -> None:
    asking = Asking(Burst(2, fresh_s=3600.0))
    tasks = [asyncio.create_task(asking.ask()) for _ in range(5)]
    await settled()
    assert asking.sent == 2
    asking.answer.set()
    await asyncio.gather(*tasks)
    assert asking.sent == 5


async def test_what_nobody_answers_makes_room_when_it_is_old() -> None:
    asking = Asking(Burst(1, fresh_s=0.0))
    tasks = [asyncio.create_task(asking.ask()) for _ in range(5)]
    while asking.sent < 5:  # noqa: ASYNC110
        await asyncio.sleep(0)
    asking.answer.set()
    await asyncio.gather(*tasks)


async def test_room_is_given_back_once_whether_by_age_or_by_answer() -> None:
    burst = Burst(1, fresh_s=0.0)
    old = Asking(burst)
    first, second = asyncio.create_task(old.ask()), asyncio.create_task(old.ask())
    while old.sent < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    old.answer.set()
    await asyncio.gather(first, second)
    burst._fresh_s = 3600.0
    asking = Asking(burst)
    tasks = [asyncio.create_task(asking.ask()) for _ in range(3)]
    await settled()
    assert asking.sent == 1
    asking.answer.set()
    await asyncio.gather(*tasks)


async def test_who_is_cancelled_gives_its_room_back() -> None:
    asking = Asking(Burst(1, fresh_s=3600.0))
    tasks = [asyncio.create_task(asking.ask()) for _ in range(3)]
    await settled()
    tasks[0].cancel()
    tasks[1].cancel()
    await settled()
    assert asking.sent == 2
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_is_called_and_cancelled_at_once_calls_the_next() -> None:
    room, entered = Room(1), []

    async def enter(name: str) -> None:
        await room.enter()
        entered.append(name)

    await room.enter()
    tasks = [asyncio.create_task(enter(name)) for name in ("first", "second")]
    await settled()
    room.leave()
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert entered == ["second"]
    room.leave()
    await asyncio.wait_for(room.enter(), 1)


async def test_who_gives_up_while_it_waits_takes_no_place() -> None:
    room = Room(1)
    await room.enter()
    waiting = asyncio.create_task(room.enter())
    await settled()
    waiting.cancel()
    await settled()
    room.leave()
    await asyncio.wait_for(room.enter(), 1)
