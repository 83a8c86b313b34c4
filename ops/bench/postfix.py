"""List B on real Postfix with its default limits, behind a round-trip time; by right verdicts, since it may refuse."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ops.bench.contest import Contestant, Measure, RunningSink, contest, ours, running_sink
from ops.bench.lists import LISTS, ZONE
from ops.bench.relay import RelayConfig, upstream_address
from ops.mta.postfix import Postfix

NAME = "B on Postfix"
SESSIONS = (4, 20)
"""Sessions a provider for ours; peers open as many connections as they have addresses in flight."""

SWEEP = (1000, 2000, 5000)
"""Where our own best number of addresses in flight is looked for; a pass has 2,000."""

PEER_SWEEP = (100, 200, 250, 300, 1000, 2000)
"""Where a peer's best is looked for: Postfix takes 50 connections of a client at each of the five hosts."""


@dataclass(slots=True)
class PostfixRuns:
    """What was measured: ours by sessions a provider, and each peer's best."""

    ours: dict[int, Measure] = field(default_factory=dict)
    peers: list[Measure] = field(default_factory=list)

    @property
    def measures(self) -> list[Measure]:
        """All of them."""
        return [*self.ours.values(), *self.peers]

    def ratio(self, sessions: int) -> float | None:
        """Our right verdicts a second by the better peer's."""
        better = max((each.rate for each in self.peers), default=0.0)
        return self.ours[sessions].rate / better if sessions in self.ours and better else None


def measure_on_postfix(
    rivals: Sequence[Contestant],
    seconds: float,
    rtt_s: float,
    say: Callable[[str], None],
    *,
    ports: tuple[int, int] = (0, 0),
    sweep: tuple[int, ...] = SWEEP,
) -> PostfixRuns:
    """Run ours and every rival; ``ports``: SMTP and DNS of the relay, 0 takes free ones.

    :raises ContestError: a contestant failed.
    :raises ops.mta.packages.MtaError: there is no Postfix to be had.
    """
    runs, passes = PostfixRuns(), iter(range(0, 10**9, 10**6))
    with running_relay(rtt_s, ports) as relay:
        for sessions in SESSIONS:
            say(f"list {NAME}: mailvet, {sessions} sessions a provider")
            mine = ours(relay, sweep=sweep, sessions=sessions, sessions_max=0)
            mine = replace(mine, name=f"{mine.name}, {sessions} sessions")
            runs.ours[sessions] = _best(mine, relay, seconds, next(passes))
        for rival in rivals:
            say(f"list {NAME}: {rival.name}")
            runs.peers.append(_best(replace(rival, sweep=PEER_SWEEP), relay, seconds, next(passes)))
    return runs


@contextmanager
def running_relay(rtt_s: float, ports: tuple[int, int] = (0, 0)) -> Iterator[RunningSink]:
    """Real Postfix for each host of list B, and the way to it."""
    hosts = LISTS["B"].providers
    smtp_port, dns_port = ports
    served = rf"\.{ZONE.replace('.', '[.]')}$"
    with (
        Postfix([upstream_address(provider) for provider in range(hosts)], domains=served) as server,
        running_sink(RelayConfig(server.port, hosts, smtp_port, dns_port, rtt_s), "ops.bench.relay") as relay,
    ):
        yield relay


def _best(contestant: Contestant, relay: RunningSink, seconds: float, first_pass: int) -> Measure:
    seen = contest(contestant, relay, LISTS["B"], seconds, first_pass=first_pass)
    return replace(seen, list_name=NAME)
