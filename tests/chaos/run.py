"""One run: an installation of its own on a cluster of its own, a seed's faults, and what became of it."""

import asyncio
import logging
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ops.brokers.kafka import KafkaCluster, affordable_nodes
from ops.world import World, WorldConfig
from tests.chaos.checker import Report, behind, judge
from tests.chaos.faults import Chaos
from tests.chaos.history import History
from tests.chaos.load import MALFORMED_EVERY, Ask, asks
from tests.chaos.observe import Observer
from tests.chaos.rig import TENANT, Rig, rig, shuffled
from tests.chaos.schedule import COPIES, OUTAGES, Fault, schedule, workers

OPTIONS = {"RETRY_DELAYS_S": "4,8,16", "STALL_S": "20"}
"""Settings of a run: an outage of DNS or SMTP is over before the last tier has passed, and a worker that stands still
is ended while its run still waits for answers."""

BREAKERS = "[default]\nbreaker_base_s = 1.0\nbreaker_max_s = 4.0\n"
"""As much shorter than usual as the retry tiers are: five minutes at most where these are 5, 15 and 60."""

ANSWERED_S = 150.0
"""From the last fault to the last result, at most."""

COMMITTED_S = 30.0
"""From the last result to the last commit, at most."""


@dataclass
class Outcome:
    """What a run showed."""

    seed: int
    faults: Sequence[Fault]
    history: History
    report: Report
    told: str = field(repr=False)
    stuck: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Nothing is wrong."""
        return not self.report.faults and not self.stuck

    def __str__(self) -> str:
        head = f"seed {self.seed}: {len(self.history.expected)} addresses, {len(self.faults)} faults"
        again = f"make chaos SEED={self.seed}"
        return "\n".join([head, self.told, f"{self.seconds:.0f} s; again: {again}"])


async def run(
    seed: int,
    *,
    addresses: int,
    logs: Path,
    faults: Sequence[Fault] | None = None,
    afterwards: Sequence[Fault] = (),
    entry: Sequence[str] = (),
    copies: int = COPIES,
    answered_s: float = ANSWERED_S,
    malformed_every: int = MALFORMED_EVERY,
    **options: str,
) -> Outcome:
    """Everything from nothing to the report. ``faults`` and what follows are for runs with a planted defect.

    ``afterwards``: faults that come when all is answered, counted from then.
    """
    began = time.monotonic()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # Brokers that are away are what this is about.
    nodes = affordable_nodes()
    cluster = await asyncio.to_thread(KafkaCluster, nodes)
    breakers = logs / "smtp.toml"
    breakers.write_text(BREAKERS)
    options = OPTIONS | {"SMTP_CONFIG": str(breakers)} | options
    config = WorldConfig(bulk_domains=40, bulk_hosts=8, rtt_s=0.01, tarpit_s=30.0)
    try:
        async with World(config) as world, rig(cluster, world, logs, **options) as system:
            system.note(f"{cluster.name}, {copies} workers of each role")
            system.bootstrap = cluster.front_bootstrap
            system.entry = tuple(entry) or system.entry
            planned = schedule(seed, nodes=nodes, copies=copies) if faults is None else tuple(faults)
            samples = shuffled([*world.samples(), *world.bulk_addresses(addresses - len(world.samples()))], seed)
            key = system.key
            load = list(asks(samples, tenant=TENANT, key=key, seed=seed, malformed_every=malformed_every))
            async with Chaos(system, cluster, seed) as chaos:
                await system.start(*workers(copies))
                history = await _under_fire(system, chaos, planned, load, afterwards=afterwards, answered_s=answered_s)
            kept = logs / f"history-{seed}.pickle"
            kept.write_bytes(pickle.dumps(history))
            system.note(f"the whole history and the workers' logs: {logs}")
            report = judge(history, TENANT)
            told = system.explain(report, [each.value or b"" for each in history.log("mailvet.results.v1")])
            return Outcome(seed, planned, history, report, told, system.stuck, time.monotonic() - began)
    finally:
        await asyncio.to_thread(cluster.stop)


async def _under_fire(
    system: Rig,
    chaos: Chaos,
    faults: Sequence[Fault],
    load: Sequence[Ask],
    *,
    afterwards: Sequence[Fault],
    answered_s: float,
) -> History:
    observer = Observer(system)
    seconds = max((fault.ends_s for fault in faults), default=5.0)
    async with observer.looking(), system.supervised():
        async with asyncio.TaskGroup() as group:
            group.create_task(system.ask_all(load, seconds=seconds))
            group.create_task(chaos.run(faults))
        system.note("all faults are over")
        found = await system.results(within=answered_s)
        system.note("nothing comes any more")
        if len(found) < len(system.expected):
            await system.ask_where_they_wait()
        await chaos.run(afterwards)
        history = History(
            system.expected,
            {ask.digest for ask in load if not ask.samples},
            looks=observer.looks,
            outages=any(fault.kind in OUTAGES for fault in faults),
        )
        # What is asked again afterwards goes the whole way again.
        await _committed(observer, history, answered_s if afterwards else min(COMMITTED_S, answered_s))
    history.logs = await observer.logs()
    return history


async def _committed(observer: Observer, history: History, within: float) -> None:
    """Wait until everything is committed, so that what is not is a fault."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        await asyncio.sleep(1.0)
        if not list(behind(history)):
            return
