"""The core without Kafka: addresses in, findings out, as `mailvet check` shows them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Protocol

from schemas.result import Finding, PastAttempt
from schemas.vocabulary import Depth, Lane, Reason
from streams.checks import sandbox
from streams.checks.classify import Circumstances, classify, past_of
from streams.checks.dialogue import Prober
from streams.checks.evidence import Prepared, Probe
from streams.checks.precheck import Precheck
from streams.checks.providers import provider_of, traits_of
from streams.dns.answers import MailRoute


class Resolver(Protocol):
    """Whoever knows where a domain's mail goes."""

    async def route(self, domain: str) -> MailRoute: ...


def utc_now() -> datetime:
    """The time as findings carry it."""
    return datetime.now(UTC)


def everybody_is_asked(_domain: str) -> bool:
    """The do-not-probe list of those who have none."""
    return False


@dataclass(slots=True)
class _Asked:
    """One address and every place where it stands."""

    prepared: Prepared
    positions: list[tuple[int, str]]
    past: tuple[PastAttempt, ...] = ()


REFILL = 1 / 8
"""So much of the window is free before more is read: what is read together shares questions and writes.

At half of it, an address among many small domains costs 4 % more CPU; at twice, an eighth of the window would be empty
on average where it waits for slow servers."""

Answer = tuple[int, str, Finding]
"""Where the address stood, as it was written there, and what was found."""


@dataclass(slots=True)
class Verifier:
    """Verifies addresses with a window of them in flight; the order of answers is that of their arrival."""

    precheck: Precheck
    resolver: Resolver
    prober: Prober
    risky: frozenset[Reason]
    timeout_s: float = 60.0
    retry_delays_s: tuple[float, ...] = ()
    lane: Lane | None = None
    catch_all_probe: bool = True
    opted_out: Callable[[str], bool] = everybody_is_asked
    now: Callable[[], datetime] = utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def verify(
        self, addresses: Iterable[str], depth: Depth = Depth.SMTP, *, window: int = 1000
    ) -> AsyncGenerator[Answer, None]:
        """Each address of ``addresses`` once; at most ``window`` of them are read ahead and in flight.

        An address that stands several times among those that are read together is probed once.
        """
        source = enumerate(addresses)
        in_flight, room = 0, window
        running: dict[asyncio.Task[list[Answer]], int] = {}
        # asyncio.wait would look at every task each time one ends.
        done: asyncio.Queue[asyncio.Task[list[Answer]]] = asyncio.Queue()
        try:
            while True:
                for group in self._groups(islice(source, room if room >= window * REFILL else 0)):
                    size = sum(len(asked.positions) for asked in group)
                    task = asyncio.create_task(self._verify_group(group, depth))
                    task.add_done_callback(done.put_nowait)
                    running[task] = size
                    in_flight += size
                if not running:
                    return
                ended = [await done.get()]
                while not done.empty():
                    ended.append(done.get_nowait())
                for task in ended:
                    in_flight -= running.pop(task)
                    for answer in task.result():
                        yield answer
                room = window - in_flight
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _groups(self, addresses: Iterable[tuple[int, str]]) -> Iterable[list[_Asked]]:
        """Addresses by domain, each with all the places where it stands."""
        by_domain: dict[str, dict[str, _Asked]] = {}
        for index, text in addresses:
            prepared = self.precheck(text)
            domain = by_domain.setdefault(prepared.domain, {})
            asked = domain.get(prepared.address or text)
            if asked is None:
                asked = domain[prepared.address or text] = _Asked(prepared, [])
            asked.positions.append((index, text))
        return [list(domain.values()) for domain in by_domain.values()]

    async def _verify_group(self, group: list[_Asked], depth: Depth) -> list[Answer]:
        answers: list[Answer] = []
        delays = iter(self.retry_delays_s)
        attempt, way = 0, None
        while group:
            attempt, delay = attempt + 1, next(delays, None)
            findings = await self._attempt(group, depth, attempt, way)
            later: list[tuple[_Asked, Finding]] = []
            for asked, finding in zip(group, findings, strict=True):
                if finding.retryable and delay is not None:
                    later.append((asked, finding))
                else:
                    for index, text in asked.positions:
                        answers.append((index, text, finding))
            group = [replace(asked, past=(*asked.past, past_of(finding))) for asked, finding in later]
            if group and delay is not None:
                # Whoever was greylisted is asked for again from the same address.
                way = next((finding.evidence.way for _, finding in later if _heard(finding)), way)
                await self.sleep(delay)
        return answers

    async def _attempt(self, group: list[_Asked], depth: Depth, attempt: int, way: str | None) -> list[Finding]:
        """One finding for each of a domain's addresses."""
        prepared = [asked.prepared for asked in group]
        if sandbox.is_sandbox(prepared[0]):
            begun = self.now()
            return [finding for each in prepared if (finding := sandbox.finding(each, begun)) is not None]
        route = await self._route(prepared[0], depth)
        provider = provider_of(route) if route and route.has_hosts else None
        opted_out = provider is not None and self.opted_out(prepared[0].domain)
        probes = await self._probes(route, None if opted_out else provider, prepared, depth, way)
        hides_mailboxes = traits_of(provider).hides_mailboxes
        given = Circumstances(route, provider, depth, self.risky, self.now(), hides_mailboxes, attempt, opted_out)
        return [classify(asked.prepared, probe, given, asked.past) for asked, probe in zip(group, probes, strict=True)]

    async def _route(self, prepared: Prepared, depth: Depth) -> MailRoute | None:
        if depth is Depth.SYNTAX or prepared.syntax_error is not None:
            return None
        return await self.resolver.route(prepared.domain)

    async def _probes(
        self, route: MailRoute | None, provider: str | None, prepared: list[Prepared], depth: Depth, way: str | None
    ) -> Sequence[Probe | None]:
        if depth is not Depth.SMTP or route is None or provider is None:
            return [None] * len(prepared)
        return await self.prober.ask(
            route,
            provider,
            prepared,
            catch_all_probe=self.catch_all_probe,
            lane=self.lane,
            timeout=self.timeout_s,
            source=way,
        )


def _heard(finding: Finding) -> bool:
    """A server has replied, and the way by which it was asked is known."""
    return finding.evidence.smtp_code is not None and finding.evidence.way is not None
