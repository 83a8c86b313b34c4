"""Turns by tenant at one provider, in virtual time: what a flood costs others where only the provider is scarce.

The loop's clock goes on only when everybody waits, so nothing here depends on the machine. The provider has four
sessions and answers a dialogue after three round trips of 20 ms and 1 ms an address.
"""

import asyncio
import selectors
import statistics
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from streams.checks.evidence import Probe
from streams.roles import credits
from streams.roles.judge import TENANT
from tests.unit.roles.support import OK
from tests.unit.roles.test_probe import World, task

SESSIONS = 4
FLOOD, STEADY = "flood", tuple(f"steady{number}" for number in range(8))
SECONDS = 8.0


class Selector(selectors.SelectSelector):
    """Waits for nothing: the time that it would have waited has passed."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits, and for ever"
        self.passed_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock is its own."""

    def __init__(self) -> None:
        self._passing = Selector()
        super().__init__(self._passing)

    def time(self) -> float:
        return self._passing.passed_s


def in_virtual_time(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


class Provider:
    """Sessions are given to those who ask first."""

    def __init__(self) -> None:
        self._sessions = asyncio.Semaphore(SESSIONS)

    async def ask(self, _route: Any, provider: str, prepared: Any, **_: Any) -> list[Probe]:
        async with self._sessions:
            await asyncio.sleep(3 * 0.02 + 0.001 * len(prepared))
        return [OK._replace(provider=provider) for _ in prepared]


def addresses(number: int, count: int) -> list[str]:
    """Of four domains of the provider, as in `mailvet bench fairness`."""
    return [f"a{number}x{each}@d{each % 4}.example" for each in range(count)]


async def play(*, flood: bool) -> dict[str, list[float]]:
    """Seconds from a task's arrival to its answers, by tenant. The flood has 500 addresses in flight all the time."""
    took: defaultdict[str, list[float]] = defaultdict(list)
    world = World(sessions_per_provider=SESSIONS)
    world.prober.ask = Provider().ask  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()

    async def one(tenant: str, number: int, count: int) -> None:
        record = task(addresses(number, count), tenant=tenant)
        began = loop.time()
        await world.role.handle(replace(record, headers={TENANT: tenant.encode()}))
        took[tenant].append(loop.time() - began)

    async def floods() -> None:
        for number in range(10**6):
            if loop.time() > SECONDS:
                return
            await one(FLOOD, number, 100)

    async def steadily(tenant: str, offset: float) -> None:
        await asyncio.sleep(offset)
        async with asyncio.TaskGroup() as group:
            for number in range(int(SECONDS / 2)):
                group.create_task(one(tenant, number, 5))
                await asyncio.sleep(2)

    async with asyncio.TaskGroup() as group:
        for number, tenant in enumerate(STEADY):
            group.create_task(steadily(tenant, 0.2 * number))
        for _ in range(5 if flood else 0):
            group.create_task(floods())
    return took


def middle(took: dict[str, list[float]]) -> float:
    return statistics.median(each for tenant in STEADY for each in took[tenant])


def test_who_asks_little_waits_a_fraction_of_what_a_flood_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = middle(in_virtual_time(play(flood=False)))
    fair = in_virtual_time(play(flood=True))
    monkeypatch.setattr(credits.Credits, "take", without_names(credits.Credits.take))
    unfair = in_virtual_time(play(flood=True))
    flood, crowd = (statistics.median(took[FLOOD]) for took in (fair, unfair))
    print(
        f"\nsteady p50 alone {alone:.2f} s; beside the flood in turns {middle(fair):.2f} s (the flood {flood:.2f} s), "
        f"first come, first served {middle(unfair):.2f} s (the flood {crowd:.2f} s)"
    )
    assert middle(fair) < middle(unfair) / 2
    assert middle(fair) < flood / 2
    assert len(fair[FLOOD]) > 0.9 * len(unfair[FLOOD]), "and the provider is as busy as before"


def without_names(take: Callable[..., Any]) -> Callable[..., Any]:
    """Everybody is the same to it: first come, first served."""
    return lambda self, count, _who=None: take(self, count)
