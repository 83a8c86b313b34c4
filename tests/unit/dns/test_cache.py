"""One ask for many askers, kept for its time."""

import asyncio

import pytest

from streams.dns.cache import FlightCache


class Source:
    """Loads on command, and counts."""

    def __init__(self, ttl: float = 10.0) -> None:
        self.asked: list[str] = []
        self.ttl = ttl
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, key: str) -> tuple[str, float]:
        self.asked.append(key)
        await self.gate.wait()
        if key == "broken":
            raise RuntimeError(key)
        return key.upper(), self.ttl


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def cache_of(source: Source, clock: Clock, size: int = 10) -> FlightCache[str, str]:
    return FlightCache(source.load, size=size, clock=clock)


async def test_a_value_is_kept_until_its_time_is_over() -> None:
    source, clock = Source(ttl=10), Clock()
    cache = cache_of(source, clock)
    assert cache.peek("a") is None
    assert [await cache.get("a"), await cache.get("a")] == ["A", "A"]
    clock.now += 9.9
    assert cache.peek("a") == "A"
    clock.now += 0.1
    assert cache.peek("a") is None
    assert len(cache) == 0
    await cache.get("a")
    assert source.asked == ["a", "a"]


async def test_the_least_recently_used_goes_first() -> None:
    source = Source()
    cache = cache_of(source, Clock(), size=2)
    for key in ("a", "b", "a", "c"):
        await cache.get(key)
    assert [cache.peek(key) for key in "abc"] == ["A", None, "C"]


async def test_concurrent_asks_are_one() -> None:
    source = Source()
    source.gate.clear()
    cache = cache_of(source, Clock())
    askers = [asyncio.create_task(cache.get("a")) for _ in range(50)]
    await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*askers) == ["A"] * 50
    assert source.asked == ["a"]


async def test_an_asker_who_gives_up_takes_nothing_from_the_others() -> None:
    source = Source()
    source.gate.clear()
    cache = cache_of(source, Clock())
    impatient, patient = (asyncio.create_task(cache.get("a")) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await patient == "A"
    assert impatient.cancelled()


async def test_where_the_first_gives_up_the_next_loads_for_the_rest() -> None:
    source = Source()
    source.gate.clear()
    cache = cache_of(source, Clock())
    askers = [asyncio.create_task(cache.get("a")) for _ in range(5)]
    await asyncio.sleep(0)
    for gone in askers[:3]:
        gone.cancel()
    await asyncio.sleep(0)
    late = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*askers[3:], late) == ["A"] * 3
    assert all(gone.cancelled() for gone in askers[:3])
    assert source.asked == ["a", "a"]


async def test_where_the_first_fails_the_next_tries() -> None:
    source = Source()
    source.gate.clear()
    cache = cache_of(source, Clock())
    askers = [asyncio.create_task(cache.get("broken")) for _ in range(3)]
    await asyncio.sleep(0)
    source.gate.set()
    failures = await asyncio.gather(*askers, return_exceptions=True)
    assert [type(failure) for failure in failures] == [RuntimeError] * 3
    assert source.asked == ["broken"] * 3


async def test_a_failure_is_not_kept() -> None:
    source = Source()
    cache = cache_of(source, Clock())
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await cache.get("broken")
    assert source.asked == ["broken", "broken"]


async def test_closing_ends_what_is_under_way() -> None:
    source = Source()
    source.gate.clear()
    cache = cache_of(source, Clock())
    askers = [asyncio.create_task(cache.get("a")) for _ in range(3)]
    await asyncio.sleep(0)
    cache.close()
    for asker in askers:
        with pytest.raises(asyncio.CancelledError):
            await asker
    assert source.asked == ["a"]
