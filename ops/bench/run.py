"""The whole benchmark: which measurements are taken, in which order."""

import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from ops.bench import peers
from ops.bench.contest import OURS, Contestant, Measure, RunningSink, contest, ours, run, running_sink
from ops.bench.engine import SESSIONS_MAX
from ops.bench.limits import limit_rate
from ops.bench.lists import EXISTS, LISTS, PROVIDERS, mail_domain
from ops.bench.pools import PoolRates, compare
from ops.bench.postfix import PostfixRuns, measure_on_postfix
from ops.bench.sink import SinkConfig

SWEEP = (2000, 5000, 20000)
"""Where our own best number of addresses in flight is looked for."""

WIDE = 40
"""Sessions a provider that the sink bears easily: like Postfix it takes 50 of one client, and where sessions part it
may see the next one before it has read QUIT of the last."""

ALONE_RUNS = 10
TARPITS = 10_000
TARPIT_DEADLINE_S = 25.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured. ``seconds`` is the least that a run lasts; ``ports``: SMTP and DNS, 0 takes free ones."""

    lists: tuple[str, ...] = tuple(LISTS)
    peers: tuple[str, ...] = ()
    seconds: float = 30.0
    rtt_s: float = 0.05
    sessions: int = 4
    sessions_max: int = SESSIONS_MAX
    processes: int = 1
    """Ours share a list among so many, too: see :mod:`ops.bench.engine`."""
    wide: int = 0
    """Ours, in those processes, with so many sessions a provider, too, as peers know no limit; 0: not measured."""
    ports: tuple[int, int] = (0, 0)
    sweep: tuple[int, ...] = SWEEP
    postfix: bool = False
    """List B on real Postfix, too."""
    extras: bool = True
    """One pass of each list, one address alone, tarpits and the two pools, too."""


@dataclass(slots=True)
class Report:
    """All that was measured."""

    plan: Plan
    machine: str
    date: str
    measures: list[Measure] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)
    passes: dict[str, Measure] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    tarpits: Measure | None = None
    pools: PoolRates | None = None
    postfix: PostfixRuns | None = None

    def best_peer(self, list_name: str) -> Measure | None:
        """The fastest peer on a list."""
        rivals = [each for each in self.measures if each.list_name == list_name and each.contestant in self.plan.peers]
        return max(rivals, key=lambda each: each.rate, default=None)

    def ours(self, list_name: str) -> Measure | None:
        """Our own best run on a list."""
        mine = [each for each in self.measures if each.list_name == list_name and each.contestant.startswith(OURS)]
        return max(mine, key=lambda each: each.rate, default=None)

    def ratio(self, list_name: str) -> float | None:
        """Our rate by the best peer's, on one list."""
        mine, peer = self.ours(list_name), self.best_peer(list_name)
        return mine.rate / peer.rate if mine and peer else None

    def limit_of(self, seen: Measure) -> float:
        """Addresses a second that the sessions of a run allow; those of the plan where it knows no limit of its own."""
        if seen.sessions and seen.list_name in LISTS:
            return limit_rate(LISTS[seen.list_name], self.plan.rtt_s, seen.sessions)
        return self.limits.get(seen.list_name, math.inf)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "plan": asdict(self.plan),
            "machine": self.machine,
            "date": self.date,
            "measures": [each.as_dict() for each in self.measures],
            "limit_addresses_per_s": self.limits,
            "ratios": {name: self.ratio(name) for name in self.plan.lists},
            "one_pass": {name: each.as_dict() for name, each in self.passes.items()},
            "one_address_alone_s": self.alone,
            "tarpits": self.tarpits.as_dict() if self.tarpits else None,
            "pools": asdict(self.pools) if self.pools else None,
            "postfix": {
                "measures": [each.as_dict() for each in self.postfix.measures],
                "ratios": {sessions: self.postfix.ratio(sessions) for sessions in self.postfix.ours},
            }
            if self.postfix
            else None,
        }


def measure(plan: Plan, say: Callable[[str], None]) -> Report:
    """Take all measurements; ``say`` is told what is being done."""
    report = Report(plan, machine(), datetime.now(UTC).strftime("%Y-%m-%d"))
    smtp_port, dns_port = plan.ports
    with running_sink(SinkConfig(smtp_port=smtp_port, dns_port=dns_port, rtt_s=plan.rtt_s)) as sink:
        mine = _ours(plan, sink)
        rivals = [peers.contestant(name) for name in plan.peers]
        # Passes have numbers that nobody has used before, so that nothing that is remembered helps anybody.
        numbers = count(0, 1_000_000)
        for name in plan.lists:
            report.limits[name] = limit_rate(LISTS[name], plan.rtt_s, max(plan.sessions, plan.sessions_max))
            for contestant in [*mine, *rivals]:
                say(f"list {name}: {contestant.name}")
                report.measures.append(contest(contestant, sink, LISTS[name], plan.seconds, first_pass=next(numbers)))
        if plan.extras:
            _extras(report, sink, [mine[0], *rivals], numbers, say)
    if plan.postfix:
        report.postfix = measure_on_postfix(rivals, plan.seconds, plan.rtt_s, say, ports=plan.ports)
    if plan.extras:
        say(f"{TARPITS:,} sessions with tarpits")
        report.tarpits = tarpits()
    return report


def _ours(plan: Plan, sink: RunningSink) -> list[Contestant]:
    """Ours as it comes; in several processes; and with more sessions than it takes by default."""
    made = partial(ours, sink, sweep=plan.sweep)
    mine = [
        made(sessions=plan.sessions, sessions_max=plan.sessions_max, processes=processes)
        for processes in sorted({1, plan.processes})
    ]
    if plan.wide:
        # From the start: a trial would be over before they had grown to so many.
        wide = made(sessions=plan.wide, sessions_max=plan.wide, processes=plan.processes)
        mine.append(replace(wide, name=f"{wide.name}, {plan.wide} sessions"))
    return mine


def _extras(
    report: Report,
    sink: RunningSink,
    contestants: Sequence[Contestant],
    numbers: Iterable[int],
    say: Callable[[str], None],
) -> None:
    for (name, rows), number in zip(LISTS.items(), numbers, strict=False):
        say(f"one pass of list {name}")
        report.passes[name] = run(contestants[0], sink, name, rows.one_pass(number), rows.size)
    for contestant, number in zip(contestants, numbers, strict=False):
        say(f"one address alone: {contestant.name}")
        report.alone[contestant.name] = alone(contestant, sink, number)
    say("both pools")
    report.pools = compare(sink, 20_000)


def alone(contestant: Contestant, sink: RunningSink, number: int) -> float:
    """Seconds from the question to the verdict on one address of a domain never heard of; the median of some runs."""
    seconds = []
    for n in range(ALONE_RUNS):
        address = f"{EXISTS}1@{mail_domain(f'p{number}n{n}', n % PROVIDERS)}"
        seconds.append(run(contestant, sink, "alone", [address], 1).seconds)
    return statistics.median(seconds)


def tarpits(sessions: int = TARPITS, deadline_s: float = TARPIT_DEADLINE_S) -> Measure:
    """Our memory with a session to each of so many servers that never answer RCPT."""
    addresses = [f"{EXISTS}1@{mail_domain('t', provider)}" for provider in range(sessions)]
    with running_sink(SinkConfig(hosts=sessions, tarpit=True)) as sink:
        contestant = ours(sink, sweep=(), sessions_total=sessions, deadline_s=deadline_s)
        return run(contestant, sink, "tarpits", addresses, sessions)


def machine() -> str:
    """This machine in neutral words."""
    memory = Path("/proc/meminfo")
    total = int(memory.read_text(encoding="ascii").split()[1]) // 1024**2 if memory.exists() else 0
    return (
        f"{_cores()} cores ({platform.machine()}), {total} GB, {platform.system()}, Python {platform.python_version()}"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
