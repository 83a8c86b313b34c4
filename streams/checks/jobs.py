"""The addresses that wait for a session of one provider: who goes into the next write, decided without I/O."""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, groupby, islice
from operator import attrgetter

from schemas.vocabulary import Lane
from streams.checks.evidence import Probe
from streams.dns.answers import MailHost
from streams.smtp.hosts import Host

MAX_HOSTS = 6
"""Addresses of a route that are tried at most; RFC 5321 section 5.1 asks for two at least."""

PER_SESSION = 10
"""Addresses that a session is good for where all may be missing: the error budget of an unknown server."""

MOST_PER_SESSION = 100
"""Though nobody be missing: a session is one round trip after the other, and somebody waits for each."""

TICK_S = 0.1
"""Deadlines are kept to this much."""

AT_ONCE_S = 1.0
"""Who is turned away so soon may have come together with one that is let in: a slow handshake, at most."""

Hosts = tuple[Host, ...]


@lru_cache(maxsize=4096)
def hosts_of(hosts: tuple[MailHost, ...], port: int) -> Hosts:
    """The addresses of a route's hosts, the preferred first; the same object each time, which is soon compared."""
    return tuple(Host(host.name, address, port) for host in hosts for address in host.addresses)[:MAX_HOSTS]


@lru_cache(maxsize=4096)
def preferred_of(hosts: tuple[MailHost, ...]) -> frozenset[str]:
    """The addresses of the hosts of the best preference: a session with one of them will do."""
    best = min((host.preference for host in hosts), default=0)
    return frozenset(address for host in hosts if host.preference == best for address in host.addresses)


class Batch:
    """The probes of one call, in the order asked; ``done`` is set when the last one is in."""

    __slots__ = ("done", "probes", "remaining")

    def __init__(self, size: int, done: "asyncio.Future[None]") -> None:
        self.probes: list[Probe | None] = [None] * size
        self.remaining = size
        self.done = done

    @property
    def abandoned(self) -> bool:
        """True when nobody waits any more: the deadline passed or the call was cancelled."""
        return self.done.done()

    async def wait(self, timeout: float, deadlines: "Deadlines") -> None:
        """Until the last probe is in, or for ``timeout`` seconds, and up to :data:`TICK_S` more."""
        waiting = deadlines.enter(self, timeout)
        try:
            await self.done
        finally:
            waiting.discard(self)
            self.abandon()

    def abandon(self) -> None:
        """Wait no more."""
        if not self.done.done():
            self.done.set_result(None)

    def settle(self, index: int, probe: Probe) -> None:
        """Take one probe; what comes after the deadline is dropped."""
        if self.done.done() or self.probes[index] is not None:
            return
        self.probes[index] = probe
        self.remaining -= 1
        if not self.remaining:
            self.done.set_result(None)


class Deadlines:
    """Batches that wait, by the tick at which they give up: one timer for all of a tick (a hashed timing wheel).

    A timer for each would nearly always be set in vain, and cost more than the rest of the waiting.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[int, set[Batch]] = {}

    def enter(self, batch: Batch, timeout: float) -> set[Batch]:
        """Abandon ``batch`` after ``timeout`` seconds, unless it has left the set that is returned by then."""
        loop = batch.done.get_loop()
        tick = math.ceil((loop.time() + timeout) / TICK_S)
        waiting = self._waiting.get(tick)
        if waiting is None:
            waiting = self._waiting[tick] = set()
            loop.call_at(tick * TICK_S, self._expire, tick)
        waiting.add(batch)
        return waiting

    def _expire(self, tick: int) -> None:
        for batch in self._waiting.pop(tick):
            batch.abandon()


@dataclass(slots=True, eq=False)
class Job:
    """One recipient to ask for. Without a batch it is the one that can't exist, asked on behalf of its domain."""

    address: str
    domain: str
    smtputf8: bool
    hosts: Hosts
    preferred: frozenset[str]
    queued_at: float
    batch: Batch | None = None
    index: int = 0
    probe_wanted: bool = True
    taken_at: float = 0.0
    tries: int = 0

    @property
    def stale(self) -> bool:
        """True when nobody waits for the answer."""
        return self.batch is not None and self.batch.abandoned

    def times(self, now: float) -> tuple[int, int]:
        """Milliseconds that it waited for its write, and for the answer that came ``now``."""
        taken_at = self.taken_at or now
        return round((taken_at - self.queued_at) * 1000), round((now - taken_at) * 1000)

    def settle(self, probe: Probe) -> None:
        """Tell whoever waits; for a job without a batch that is nobody."""
        if self.batch is not None:
            self.batch.settle(self.index, probe)


@dataclass(slots=True)
class Group:
    """Waiting jobs of one domain that share hosts and the need for SMTPUTF8."""

    hosts: Hosts
    domain: str
    smtputf8: bool
    preferred: frozenset[str]
    jobs: deque[Job] = field(default_factory=deque)

    @property
    def shared(self) -> tuple[Hosts | str, ...]:
        """What a session has that may serve this group: the same hosts, or one of the preferred addresses."""
        return (self.hosts, *self.preferred)

    def drop_stale(self) -> int:
        """Let go of the jobs at the front that nobody waits for; how many those were."""
        dropped = 0
        while self.jobs and self.jobs[0].stale:
            self.jobs.popleft()
            dropped += 1
        return dropped


GroupKey = tuple[Hosts, str, bool]
_GROUP_KEY: Callable[[Job], GroupKey] = attrgetter("hosts", "domain", "smtputf8")


@dataclass(slots=True, eq=False)
class Visit:
    """One lease of a session with ``hosts``, from the wish for it to its end."""

    hosts: Hosts
    began: float
    let_in: bool = False
    crowded: bool = False
    """A session with these hosts ended while this one was being opened: it may have been one too many because of it."""


class ProviderQueue:
    """Waiting jobs of one provider, lane and way out; domains take turns, and each step costs what it moves."""

    __slots__ = (
        "_groups",
        "_sharing",
        "_visits",
        "accepted",
        "answered",
        "asking",
        "followed",
        "lane",
        "parting",
        "provider",
        "refused",
        "sessions",
        "size",
        "way",
    )

    def __init__(self, provider: str, lane: Lane | None = None, way: str = "") -> None:
        self.provider = provider
        self.lane = lane
        self.way = way
        self.sessions = 0
        self.parting = 0
        """Sessions that have given their place away; they are not counted among :attr:`sessions` any more."""
        self.size = 0
        self.answered = self.refused = 0
        """Recipients so far, and those of them that were refused."""
        self.followed = 0
        """Addresses that came when others had been answered."""
        self.asking: set[str] = set()
        """Domains whose impossible recipient is queued or in flight."""
        self.accepted: dict[str, list[tuple[Job, Probe]]] = {}
        """By domain: accepted addresses that wait to hear whether the domain accepts everything."""
        self._groups: OrderedDict[GroupKey, Group] = OrderedDict()
        # Whoever could share a session: by the hosts it was leased for, or by its address.
        self._sharing: dict[Hosts | str, OrderedDict[GroupKey, None]] = {}
        self._visits: dict[Visit, None] = {}

    @contextmanager
    def visiting(self, visit: Visit) -> Iterator[None]:
        """``visit`` is under way as long as the block runs."""
        self._visits[visit] = None
        try:
            yield
        finally:
            del self._visits[visit]
            for other in self._visits if visit.let_in else ():
                other.crowded |= other.hosts == visit.hosts

    def outlived(self, visit: Visit, now: float) -> bool:
        """True while there is reason to wait for another visit to the same hosts, though ``visit`` was not let in.

        That is one that has been let in, or is under way since before it; where it was turned away at once, any that is
        under way. Else those that came later are no reason: where nobody gets through there is always one more of them.
        """
        latest = now if now - visit.began < AT_ONCE_S else visit.began
        return any(other.hosts == visit.hosts and (other.let_in or other.began <= latest) for other in self._visits)

    @property
    def sessions_wanted(self) -> int:
        """As many as the addresses call for: each lasts until its errors are used up, by what was refused.

        Those that followed count again: what waits is only what senders have in hand at a time (the probe role a few
        hundred of a provider), and where more has followed, more will.
        """
        lasts = PER_SESSION * (self.answered + PER_SESSION) // (self.refused + PER_SESSION)
        return min(-(-(self.size + self.followed) // min(lasts, MOST_PER_SESSION)), -(-self.size // PER_SESSION))

    @property
    def deserted(self) -> bool:
        """Nobody waits, and nobody could come back."""
        return not (self.sessions or self.parting or self.size)

    def add(self, jobs: Iterable[Job], *, front: bool = False) -> None:
        """Queue jobs; ``front`` is for those that were taken and came back, last one first."""
        for key, run in groupby(jobs, _GROUP_KEY):
            alike = list(run)
            group = self._groups.get(key) or self._open(key, alike[0].preferred)
            (group.jobs.extendleft if front else group.jobs.extend)(alike)
            self.size += len(alike)
            self.followed += len(alike) if self.answered and not front else 0

    def head(self) -> Job | None:
        """The next job that somebody waits for; the stale ones before it are dropped."""
        while self._groups:
            key, group = next(iter(self._groups.items()))
            self.size -= group.drop_stale()
            if group.jobs:
                return group.jobs[0]
            self._close(key)
        return None

    def first(self, hosts: Hosts) -> Job | None:
        """One of the jobs for these hosts."""
        return next((self._groups[key].jobs[0] for key in self._sharing.get(hosts, ())), None)

    def take(self, room: int, hosts: Hosts, address: str, *, one_domain: bool) -> list[Job]:
        """Up to ``room`` jobs for a session with ``address`` that was leased for ``hosts``.

        All of them need SMTPUTF8 or none does, because the extension is asked for once a transaction (RFC 6531).
        """
        chunk: list[Job] = []
        # Every group gives one job at least, or is closed: more than ``room`` of them need not be looked at.
        keys = chain(islice(self._sharing.get(hosts, ()), room), islice(self._sharing.get(address, ()), room))
        for key in list(keys):
            group = self._groups.get(key)
            if group is None or (chunk and group.smtputf8 != chunk[0].smtputf8):
                continue
            self._move(group, chunk, room)
            self._rotate(key, group)
            if len(chunk) >= room or (one_domain and chunk):
                break
        return chunk

    def take_all(self, hosts: Hosts, *, utf8_only: bool = False) -> list[Job]:
        """Every job for these hosts, or those of them that need SMTPUTF8: they all share one fate."""
        keys = [key for key in self._sharing.get(hosts, ()) if self._groups[key].smtputf8 or not utf8_only]
        return [job for key in keys for job in self._take_group(key)]

    def take_alike(self, job: Job) -> list[Job]:
        """The jobs that wait with ``job``: same domain, same hosts, same need for SMTPUTF8."""
        return self._take_group(_GROUP_KEY(job))

    def _take_group(self, key: GroupKey) -> list[Job]:
        jobs: list[Job] = []
        self._move(self._groups[key], jobs, self.size)
        self._close(key)
        return jobs

    def _move(self, group: Group, chunk: list[Job], room: int) -> None:
        while group.jobs and len(chunk) < room:
            job = group.jobs.popleft()
            self.size -= 1
            if not job.stale:
                chunk.append(job)

    def _rotate(self, key: GroupKey, group: Group) -> None:
        """The next take begins with another domain; an empty group goes."""
        if not group.jobs:
            self._close(key)
            return
        self._groups.move_to_end(key)
        for shared in group.shared:
            self._sharing[shared].move_to_end(key)

    def _open(self, key: GroupKey, preferred: frozenset[str]) -> Group:
        group = self._groups[key] = Group(*key, preferred)
        for shared in group.shared:
            self._sharing.setdefault(shared, OrderedDict())[key] = None
        return group

    def _close(self, key: GroupKey) -> None:
        group = self._groups.pop(key)
        for shared in group.shared:
            keys = self._sharing[shared]
            del keys[key]
            if not keys:
                del self._sharing[shared]
