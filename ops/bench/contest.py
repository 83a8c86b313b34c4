"""Runs contestants against the sink, and takes their measure from outside: clock, CPU and memory of their process."""

import json
import math
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from ops.bench.engine import SESSIONS_MAX, EngineConfig
from ops.bench.lists import BenchList, exists
from ops.bench.relay import RelayConfig
from ops.bench.sink import SinkConfig

ROOT = Path(__file__).resolve().parents[2]
OURS = "mailvet"
"""What the names of our own contestants begin with."""

OPEN_FILES = 65_536
"""What a sink of 10,000 servers with a client each needs, and some."""

PATIENCE_S = 300.0
SLOWEST = 20.0
"""Addresses a second: a contestant that is slower than this, start and last verdict included, hangs."""

LONGER_MAX = 20
"""Times as long as the run before is the next one at most: what was fast for a moment may be slow for long."""

RSS_EVERY = 250
"""Verdicts after which the contestant's memory is looked at."""

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ContestError(RuntimeError):
    """A contestant or the sink failed; the sentence says which and how."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Somebody who keeps to the protocol of :mod:`ops.bench.engine`: how to start it with N addresses in flight."""

    name: str
    command: tuple[str, ...]
    sweep: tuple[int, ...]
    """Numbers of addresses in flight among which its best is looked for."""
    sessions: int = 0
    """Sessions that it opens with one provider at most; 0: it knows no limit."""

    def argv(self, in_flight: int) -> list[str]:
        """``{in_flight}`` of the command filled in."""
        return [part.replace("{in_flight}", str(in_flight)) for part in self.command]


@dataclass(frozen=True, slots=True)
class Measure:
    """One run of one contestant over one list."""

    contestant: str
    list_name: str
    in_flight: int
    addresses: int
    right: int
    seconds: float
    cpu_s: float
    rss_mb: float
    sink: dict[str, float] = field(default_factory=dict)
    sessions: int = 0
    """As in :class:`Contestant`."""

    @property
    def rate(self) -> float:
        """Right verdicts a second: who goes faster than servers allow gains nothing by it."""
        return self.right / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU of the contestant's process for one address."""
        return self.cpu_s / self.addresses * 1000

    @property
    def right_share(self) -> float:
        """Of all addresses asked, those with the right verdict; 0 to 1."""
        return self.right / self.addresses

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "right_verdicts_per_s": round(self.rate, 1),
            "cpu_ms_per_address": round(self.cpu_ms, 4),
            "right_share": round(self.right_share, 5),
        }


class RunningSink:
    """The sink's process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        where = self._line()
        self.smtp_port: int = where["smtp_port"]
        self.resolver = f"127.0.0.1:{where['dns_port']}"

    def report(self) -> dict[str, float]:
        """Counters since the last report."""
        stdin = cast(IO[str], self._process.stdin)
        stdin.write("report\n")
        stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        line = cast(IO[str], self._process.stdout).readline()
        if not line:
            raise ContestError("the sink ended before it was told to")
        said: dict[str, Any] = json.loads(line)
        return said


@contextmanager
def running_sink(config: SinkConfig | RelayConfig, program: str = "ops.bench.sink") -> Iterator[RunningSink]:
    """A sink, or a relay, for as long as the block runs; it has as many open files as contestants may have."""
    raise_file_limit()
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", program, json.dumps(asdict(config))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        try:
            yield RunningSink(process)
        finally:
            cast(IO[str], process.stdin).close()
            process.wait(10)


def ours(
    sink: RunningSink,
    *,
    sweep: Sequence[int],
    sessions: int = 4,
    sessions_total: int = 1000,
    deadline_s: float = 60.0,
    processes: int = 1,
    sessions_max: int = SESSIONS_MAX,
) -> Contestant:
    """Our engine, pointed at the sink; ``deadline_s`` is for one address."""
    config = EngineConfig(
        sink.resolver, sink.smtp_port, -1, sessions, sessions_total, deadline_s, processes, sessions_max
    )
    spec = json.dumps(asdict(config)).replace("-1", "{in_flight}")
    name = OURS if processes == 1 else f"{OURS}, {processes} processes"
    command = (sys.executable, "-m", "ops.bench.engine", spec)
    return Contestant(name, command, tuple(sweep), max(sessions, sessions_max))


def run(contestant: Contestant, sink: RunningSink, list_name: str, addresses: Sequence[str], in_flight: int) -> Measure:
    """Let a contestant verify ``addresses``.

    The clock runs from its ``ready`` to its last verdict, so that nobody pays for starting up.

    :raises ContestError: it failed, said something else, or hung.
    """
    raise_file_limit()
    sink.report()
    process = subprocess.Popen(  # noqa: S603
        contestant.argv(in_flight), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
    hung = threading.Timer(PATIENCE_S + len(addresses) / SLOWEST, process.kill)
    hung.start()
    try:
        feeder = threading.Thread(target=_feed, args=(stdin, addresses))
        feeder.start()
        if stdout.readline() != "ready\n":
            process.kill()
            process.wait()
            raise ContestError(f"{contestant.name} did not say that it was ready")
        feeder.join()
        cpu_before, begun = _cpu_of(process.pid), time.monotonic()
        right, ended, rss_mb = _count_right(stdout, process.pid)
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        hung.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    stdout.close()
    if process.returncode:
        raise ContestError(f"{contestant.name} ended with exit code {process.returncode}")
    return Measure(
        contestant.name,
        list_name,
        in_flight,
        len(addresses),
        right,
        ended - begun,
        usage.ru_utime + usage.ru_stime - cpu_before,
        rss_mb or usage.ru_maxrss / 1024,
        sink.report(),
        contestant.sessions,
    )


def contest(
    contestant: Contestant, sink: RunningSink, rows: BenchList, seconds: float, *, first_pass: int = 0
) -> Measure:
    """A run of at least ``seconds`` at the contestant's own best number of addresses in flight.

    Each number of its sweep has a trial of a tenth of that: one pass is mostly run-up for the fast, long for the slow.
    """
    number = first_pass

    def ask(in_flight: int, passes: int) -> Measure:
        nonlocal number
        number += passes
        return run(contestant, sink, rows.name, rows.passes(number - passes, passes), in_flight)

    def lasting(at_least: float, seen: Measure) -> Measure:
        # What is reckoned from a run that was too short is mostly too short again, but longer by a tenth at least.
        while seen.seconds < at_least:
            longer = min(LONGER_MAX, at_least * 1.1 / seen.seconds)
            seen = ask(seen.in_flight, math.ceil(seen.addresses / rows.size * longer))
        return seen

    trials = [lasting(seconds / 10, ask(in_flight, 1)) for in_flight in contestant.sweep]
    if not trials:
        raise ContestError(f"{contestant.name} has no number of addresses in flight to try")
    return lasting(seconds, max(trials, key=lambda trial: trial.rate))


def raise_file_limit() -> None:
    """As many open files as the system lets us have: a peer has a socket for each address in flight."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, OPEN_FILES), hard):
        if soft < limit:
            with suppress(ValueError, OSError):  # only who administrates the machine may go beyond the hard limit
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
                return


def _feed(stdin: IO[str], addresses: Sequence[str]) -> None:
    with suppress(BrokenPipeError), stdin:
        stdin.writelines(f"{address}\n" for address in addresses)


def _count_right(stdout: IO[str], pid: int) -> tuple[int, float, float]:
    """Right verdicts, when the last one came, and the memory until then: what is done after it is not counted."""
    right, rss_mb, ended = 0, 0.0, time.monotonic()
    for number, line in enumerate(stdout):
        address, _, verdict = line.rstrip("\n").partition("\t")
        right += verdict == ("deliverable" if exists(address) else "undeliverable")
        ended = time.monotonic()
        if number % RSS_EVERY == 0:
            rss_mb = max(rss_mb, _peak_mb_of(pid))
    return right, ended, rss_mb


def _peak_mb_of(pid: int) -> float:
    """The most that the largest of a process and its children has held (VmHWM); 0 where there is no /proc.

    ``wait4`` would not do: what it reports is no less than what our own process held when it forked.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return max([int(found[1]) / 1024 if found else 0.0, *map(_peak_mb_of, _children_of(pid))])


def _children_of(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def _cpu_of(pid: int) -> float:
    """CPU seconds of a process that runs and of its children; 0 where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S + sum(map(_cpu_of, _children_of(pid)))
