"""Our own contestant: the verification core with its instruments on, addresses on standard input, verdicts out.

Contestants are processes that keep to one protocol: they read addresses, one a line, to the end of their input; say
``ready``; then verify with so many in flight, and print a line ``address<TAB>verdict`` for each.
"""

import asyncio
import json
import sys
from contextlib import aclosing
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from ops.cli.collector import settle_collector
from schemas.vocabulary import Depth
from streams.core import open_core
from streams.metrics import Metrics
from streams.observe import PoolObserver
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Where the sink is, and how many addresses are in flight; ``deadline_s`` is for one address."""

    resolver: str
    smtp_port: int
    in_flight: int
    sessions: int = 4
    sessions_total: int = 1000
    deadline_s: float = 60.0

    @property
    def settings(self) -> Settings:
        """The core's settings."""
        return Settings(
            resolvers=(self.resolver,),
            smtp_port=self.smtp_port,
            allowed_networks=("127.0.0.0/8",),
            helo="bench.test",
            sessions_per_provider=self.sessions,
            sessions_total=self.sessions_total,
            dialogue_deadline_s=self.deadline_s,
        )


async def verify(config: EngineConfig, addresses: list[str]) -> None:
    """Verify all of them, metrics on, and print what was found."""
    metrics = Metrics(CollectorRegistry())
    observer = PoolObserver(metrics)
    write = sys.stdout.write

    def asked(_name: str, _type: str, status: str, seconds: float) -> None:
        metrics.dns_queries.labels(status).inc()
        metrics.dns_seconds.observe(seconds)

    async with open_core(
        config.settings,
        observer=observer,
        on_query=asked,
    ) as core:
        observer.read(core.pool.snapshot)
        settle_collector()
        print("ready", flush=True)
        async with aclosing(core.verifier().verify(addresses, Depth.SMTP, window=config.in_flight)) as answers:
            async for _, address, finding in answers:
                metrics.verdicts.labels(finding.verdict, finding.reason).inc()
                write(f"{address}\t{finding.verdict}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(verify(EngineConfig(**json.loads(sys.argv[1])), sys.stdin.read().split()))
