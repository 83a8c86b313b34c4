"""Our own contestant: the verification core with its instruments on, addresses on standard input, verdicts out.

Contestants are processes that keep to one protocol: they read addresses, one a line, to the end of their input; say
``ready``; then verify with so many in flight, and print a line ``address<TAB>verdict`` for each.

Ours shares the work out as a cluster does (``provider_shards``): by domain among so many processes, each with its part
of every limit, so that no provider sees more of us than from one.
"""

import json
import os
import sys
import zlib
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cache

import uvloop
from prometheus_client import CollectorRegistry

from ops.cli.collector import settle_collector
from schemas.vocabulary import Depth
from streams.core import open_core
from streams.metrics import Metrics
from streams.observe import PoolObserver
from streams.settings import Settings

AT_ONCE = 4096
"""Octets that a pipe takes without mixing them with another writer's (Linux' PIPE_BUF)."""


SESSIONS_MAX: int = Settings.model_fields["sessions_per_provider_max"].default


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Where the sink is, and how many addresses are in flight; ``deadline_s`` is for one address."""

    resolver: str
    smtp_port: int
    in_flight: int
    sessions: int = 4
    sessions_total: int = 1000
    deadline_s: float = 60.0
    processes: int = 1
    sessions_max: int = SESSIONS_MAX

    @property
    def settings(self) -> Settings:
        """The core's settings."""
        return Settings(
            resolvers=(self.resolver,),
            smtp_port=self.smtp_port,
            allowed_networks=("127.0.0.0/8",),
            helo="bench.test",
            sessions_per_provider=self.sessions,
            sessions_per_provider_max=self.sessions_max,
            sessions_total=self.sessions_total,
            dialogue_deadline_s=self.deadline_s,
        )

    @property
    def share(self) -> "EngineConfig":
        """What each of the processes may do."""
        parts = self.processes
        return replace(
            self,
            in_flight=-(-self.in_flight // parts),
            sessions=max(1, self.sessions // parts),
            sessions_max=self.sessions_max // parts,
            sessions_total=max(1, self.sessions_total // parts),
            processes=1,
        )


async def verify(config: EngineConfig, addresses: list[str], ready: Callable[[], None]) -> None:
    """Verify all of them, metrics on, and print what was found; ``ready`` is called before the first."""
    metrics = Metrics(CollectorRegistry())
    observer = PoolObserver(metrics)
    queries, verdicts = cache(metrics.dns_queries.labels), cache(metrics.verdicts.labels)

    def asked(_name: str, _type: str, status: str, seconds: float) -> None:
        queries(status).inc()
        metrics.dns_seconds.observe(seconds)

    async with open_core(config.settings, observer=observer, on_query=asked) as core:
        observer.read(core.pool.snapshot)
        settle_collector()
        said = Lines(sys.stdout.fileno())
        ready()
        async with aclosing(core.verifier().verify(addresses, Depth.SMTP, window=config.in_flight)) as answers:
            async for _, address, finding in answers:
                verdicts(finding.verdict, finding.reason).inc()
                said.add(f"{address}\t{finding.verdict}\n")
        said.flush()


class Lines:
    """Whole lines to a pipe that others write to as well."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._lines: list[str] = []
        self._size = 0

    def add(self, line: str) -> None:
        """Write it, now or with those that follow; it is ASCII."""
        if self._size + len(line) > AT_ONCE:
            self.flush()
        self._lines.append(line)
        self._size += len(line)

    def flush(self) -> None:
        """Write what is left."""
        if self._lines:
            os.write(self._file, "".join(self._lines).encode("ascii"))
        self._lines.clear()
        self._size = 0


def shares(addresses: list[str], parts: int) -> list[list[str]]:
    """The addresses by domain; each domain has one owner."""
    owned: list[list[str]] = [[] for _ in range(parts)]
    for address in addresses:
        owned[zlib.crc32(address.rpartition("@")[2].encode()) % parts].append(address)
    return owned


def run(config: EngineConfig, addresses: list[str]) -> int:
    """Verify in as many processes as the configuration says; the exit code."""
    if config.processes == 1:
        uvloop.run(verify(config, addresses, lambda: print("ready", flush=True)))
        return 0
    up, go = os.pipe(), os.pipe()
    children = [_fork(config.share, share, up, go) for share in shares(addresses, config.processes)]
    os.close(up[1])
    for _ in children:
        os.read(up[0], 1)
    print("ready", flush=True)
    os.close(go[1])
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


def _fork(config: EngineConfig, addresses: list[str], up: tuple[int, int], go: tuple[int, int]) -> int:
    """A process for one share. It says in ``up`` that it is ready, and begins when nobody holds ``go`` any more."""
    if child := os.fork():
        return child
    os.close(go[1])

    def ready() -> None:
        os.write(up[1], b".")
        os.read(go[0], 1)

    try:
        uvloop.run(verify(config, addresses, ready))
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  whatever it is, the process ends here
        print(f"a share of the benchmark failed: {error!r}", file=sys.stderr, flush=True)
        os.write(up[1], b".")  # the others are not to wait for it
        os._exit(1)


if __name__ == "__main__":
    sys.exit(run(EngineConfig(**json.loads(sys.argv[1])), sys.stdin.read().split()))
