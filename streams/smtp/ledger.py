"""Who may have which connection: the pool's books, kept without I/O.

Each provider has an account for each way that it is asked by: open connections, idle ones by socket, callers that
wait, first come first served. The ledger never opens or closes anything. It grants (a connection, or leave to dial) and
appends to ``closing`` what the pool has to close afterwards; what stands there is off the books already.

Every operation is O(1) in the number of connections, waiters and providers (but for the sweep, which looks at the idle
ones): a claim is granted by looking at its own account, and a freed place goes to the first account in ``starved``.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

from streams.smtp.breaker import Health
from streams.smtp.hosts import Host
from streams.smtp.lifecycle import Life
from streams.smtp.pace import Pace, nothing_kept_free
from streams.smtp.policy import Learned, PolicyBook, ProviderPolicy

MAX_LEARNED = 10_000
"""Providers without a connection whose lessons are remembered; the oldest are forgotten first."""

MAX_RECOVERIES = 1000
"""Hosts that wait to be dialled by the pool itself; further ones wait for a caller."""

Key = tuple[str, int]
Place = tuple[str, str]
"""A provider and the name of a way out: whoever counts our sessions there counts them by our address."""

Memory = tuple[Learned, Health, Pace]


class Pooled(Protocol):
    """What the ledger looks at in a connection."""

    place: Place
    key: Key
    idle_since: float
    born: float
    max_age_s: float
    policy: ProviderPolicy

    @property
    def check_at(self) -> float:
        """When it shall be asked whether it lives, while it is idle."""

    def ending(self) -> tuple[Life, str] | None:
        """How and why it must end, or None when it can be given out again."""


C = TypeVar("C", bound=Pooled)


class Account(Generic[C]):
    """One provider's part of the books, by one way out."""

    __slots__ = (
        "health",
        "idle",
        "learned",
        "left_at",
        "open",
        "pace",
        "parted_at",
        "parting",
        "place",
        "policy",
        "provider",
        "waiting",
        "way",
    )

    def __init__(self, place: Place, policy: ProviderPolicy, learned: Learned, health: Health, pace: Pace) -> None:
        self.place = place
        self.provider, self.way = place
        self.policy = policy
        self.learned = learned
        self.health = health
        self.pace = pace
        self.open = 0
        """Connections that count against :attr:`limit`, those being dialled too; see :meth:`count`."""
        self.parting = 0
        """Connections that have given their place away; until they are gone they count for the whole pool alone."""
        self.left_at = self.parted_at = float("-inf")
        """When we ended a session last that the server had let in, and one that was parting."""
        self.idle: dict[Key, list[C]] = {}
        """By socket; the one used last is taken first, so that the others may expire."""
        self.waiting: dict[Claim[C], None] = {}
        """In the order they came; a dict, so that any of them can leave at no cost."""

    @property
    def limit(self) -> int:
        """Connections that may be open now."""
        return self.pace.sessions.limit

    def count(self, change: int) -> None:
        """So many connections more, or fewer."""
        self.open += change
        self.pace.sessions.used = self.open

    @property
    def name(self) -> str:
        """For people: the provider, and the way where there are several."""
        return f"{self.provider} via {self.way}" if self.way else self.provider


class Claim(Generic[C]):
    """A caller's wish for a session. Granted once: with a connection, or with None for leave to dial."""

    __slots__ = ("account", "connection", "granted", "keys", "on_grant")

    def __init__(self, account: Account[C], hosts: Sequence[Host], on_grant: Callable[[], None]) -> None:
        self.account = account
        self.keys = [(host.address, host.port) for host in hosts]
        self.on_grant = on_grant
        self.granted = False
        self.connection: C | None = None

    def grant(self, connection: C | None) -> None:
        """Give it what it waits for."""
        self.granted, self.connection = True, connection
        self.on_grant()


class Ledger(Generic[C]):
    """The books of one pool. Callers hold the pool's lock."""

    def __init__(self, book: PolicyBook, total: int, kept_free: Callable[[int], int] = nothing_kept_free) -> None:
        self.book = book
        self._kept_free = kept_free
        self.total = total
        self.open = 0
        self.accounts: dict[Place, Account[C]] = {}
        self.idle: OrderedDict[C, None] = OrderedDict()
        """All idle connections, the longest idle first."""
        self.closing: list[tuple[C, Life, str]] = []
        """Off the books, and to be closed: each with the state to take and the cause."""
        self.recoveries: dict[tuple[Place, Host], float] = {}
        """When a host of a provider is dialled again by the pool itself."""
        self._starved: OrderedDict[Account[C], None] = OrderedDict()
        """Accounts with waiters that only the global limit holds back, in turn."""
        self._memory: OrderedDict[Place, Memory] = OrderedDict()

    # Claims

    def account(self, place: Place) -> Account[C]:
        """The account of a provider and a way, opened when there is none."""
        account = self.accounts.get(place)
        if account is None:
            policy = self.book.policy(place[0])
            known = self._memory.pop(place, None) or (Learned(), Health(policy), Pace(policy, self._kept_free))
            account = self.accounts[place] = Account(place, policy, *known)
        return account

    def health(self, place: Place) -> Health | None:
        """What is known of a provider's health, seen from a way; None: nothing."""
        if (account := self.accounts.get(place)) is not None:
            return account.health
        known = self._memory.get(place)
        return known[1] if known is not None else None

    def limit(self, place: Place) -> int:
        """Connections that may be open with a provider now, by a way."""
        if (account := self.accounts.get(place)) is not None:
            return account.limit
        known = self._memory.get(place)
        return known[2].sessions.limit if known is not None else self.book.policy(place[0]).sessions

    def claim(self, claim: Claim[C]) -> None:
        """Grant now if nobody waits before it and the limits allow, else let it wait."""
        account = claim.account
        if account.waiting or not self._try(claim):
            account.waiting[claim] = None

    def withdraw(self, claim: Claim[C]) -> None:
        """The caller gave up: what it was granted meanwhile goes to the next."""
        if not claim.granted:
            del claim.account.waiting[claim]
            self._serve(claim.account)
            self._tidy(claim.account)
        elif claim.connection is None:
            self.gone(claim.account.place)
        else:
            self.give_back(claim.connection)

    # Connections

    def give_back(self, connection: C) -> None:
        """A whole connection comes back: to the next waiter, or to rest; where fewer are allowed now, it ends."""
        account = self.accounts[connection.place]
        if account.open > account.limit:
            self.closing.append((connection, Life.DRAINING, "sessions fewer"))
            self.gone(connection.place)
            return
        account.idle.setdefault(connection.key, []).append(connection)
        self.idle[connection] = None
        self._serve(account)
        self._feed_starved()

    def gone(self, place: Place) -> None:
        """A connection is no more, or its dial has failed: its place is free."""
        account = self.accounts[place]
        account.count(-1)
        self.open -= 1
        self._feed_starved()
        self._serve(account)
        self._tidy(account)

    def part(self, place: Place) -> bool:
        """A connection has written its last, or will have in time: its place is free, though not its socket. False: it
        keeps its place, since half as many as may be open have given theirs away."""
        account = self.accounts[place]
        if account.parting >= max(1, account.limit // 2):
            return False
        account.parting += 1
        account.count(-1)
        self._serve(account)
        return True

    def parted(self, place: Place) -> None:
        """A connection that had given up its place is no more."""
        account = self.accounts[place]
        account.parting -= 1
        self.open -= 1
        self._feed_starved()
        self._tidy(account)

    def lost(self, connection: C, life: Life, cause: str) -> None:
        """An idle connection has ended; does nothing when it is not idle."""
        if connection in self.idle:
            self._retire(connection, life, cause)

    def sweep(self, now: float) -> None:
        """Retire what has been idle too long."""
        for connection in [each for each in self.idle if self._expires(each) <= now]:
            # Each that goes may leave the next one among those that are kept warm.
            if connection in self.idle and self._expires(connection) <= now:
                self.lost(connection, Life.DRAINING, "idle expiry")

    def overdue(self, now: float, limit: int) -> list[C]:
        """Up to ``limit`` idle connections that shall be asked whether they live: the caller has them now."""
        taken = list(islice((each for each in self.idle if each.check_at <= now), limit))
        for connection in taken:
            self._unlist(connection)
        return taken

    def next_due(self) -> float:
        """When the first idle connection expires or is to be asked, or the first host dialled again; may be past."""
        idle = (min(self._expires(each), each.check_at) for each in self.idle)
        return min(chain(idle, self.recoveries.values()), default=float("inf"))

    # Hosts that were left alone, and that somebody wanted meanwhile

    def wanted(self, account: Account[C], host: Host, now: float) -> None:
        """Somebody was told that ``host`` is left alone: it shall be dialled as soon as that is over."""
        due = account.health.retry_at(host)
        if due > now and len(self.recoveries) < MAX_RECOVERIES:
            self.recoveries[account.place, host] = due

    def recoverable(self, now: float, limit: int) -> list[tuple[Place, Host]]:
        """Up to ``limit`` hosts (with their provider and way) that shall be dialled now; the caller does."""
        due = list(islice((each for each, at in self.recoveries.items() if at <= now), limit))
        for each in due:
            del self.recoveries[each]
        return due

    def troubled(self, now: float) -> dict[Place, Account[C]]:
        """Accounts of all providers that have connections or callers, or a breaker that is not closed."""
        remembered = {
            place: Account[C](place, self.book.policy(place[0]), learned, health, pace)
            for place, (learned, health, pace) in self._memory.items()
            if health.left_alone(now) or health.provider.opened or health.block.opened
        }
        return {**remembered, **self.accounts}

    def waiters(self) -> int:
        """Callers that wait, over all providers."""
        return sum(len(account.waiting) for account in self.accounts.values())

    # Decisions

    def _try(self, claim: Claim[C]) -> bool:
        account = claim.account
        if (connection := self._take_idle(claim)) is not None:
            claim.grant(connection)
            return True
        while account.open >= account.limit:
            if not self._evict_own(account):
                return False
        if self.open >= self.total and not self._evict_oldest(account):
            self._starved[account] = None
            return False
        account.count(1)
        self.open += 1
        claim.grant(None)
        return True

    def _take_idle(self, claim: Claim[C]) -> C | None:
        for key in claim.keys:
            while stack := claim.account.idle.get(key):
                connection = stack[-1]
                self._unlist(connection)
                if (ending := connection.ending()) is None:
                    return connection
                self._strike(connection, *ending)
        return None

    def _evict_own(self, account: Account[C]) -> bool:
        """All places of the provider are taken, but one by an idle session with a host that nobody here wants."""
        stack = next(iter(account.idle.values()), None)
        if stack is None:
            return False
        self._drop(stack[0], Life.DRAINING, "evicted")
        return True

    def _evict_oldest(self, account: Account[C]) -> bool:
        """All places are taken, but one by a session that rests."""
        oldest = next(iter(self.idle), None)
        if oldest is None:
            return False
        self._drop(oldest, Life.DRAINING, "evicted")
        if oldest.place != account.place:
            self._tidy(self.accounts[oldest.place])
        return True

    def _serve(self, account: Account[C]) -> None:
        while account.waiting:
            claim = next(iter(account.waiting))
            if not self._try(claim):
                return
            del account.waiting[claim]

    def _feed_starved(self) -> None:
        """Places that became free go round the accounts that wait for one, one each."""
        while self._starved and (self.open < self.total or self.idle):
            account, _ = self._starved.popitem(last=False)
            claim = next(iter(account.waiting), None)
            if claim is not None and self._try(claim):
                del account.waiting[claim]
                if account.waiting:
                    self._starved[account] = None

    # Bookkeeping

    def _expires(self, connection: C) -> float:
        """When an idle connection shall go; one that is kept warm stays until it is too old."""
        if self.accounts[connection.place].open <= connection.policy.warm:
            return connection.born + connection.max_age_s
        return connection.idle_since + connection.policy.idle_expiry_s

    def _retire(self, connection: C, life: Life, cause: str) -> None:
        """An idle connection ends, and its place goes to whoever waits."""
        self._unlist(connection)
        self.closing.append((connection, life, cause))
        self.gone(connection.place)

    def _drop(self, connection: C, life: Life, cause: str) -> None:
        """An idle connection ends, and its place is already promised."""
        self._unlist(connection)
        self._strike(connection, life, cause)

    def _strike(self, connection: C, life: Life, cause: str) -> None:
        self.closing.append((connection, life, cause))
        self.accounts[connection.place].count(-1)
        self.open -= 1

    def _unlist(self, connection: C) -> None:
        del self.idle[connection]
        idle = self.accounts[connection.place].idle
        stack = idle[connection.key]
        stack.remove(connection)
        if not stack:
            del idle[connection.key]

    def _tidy(self, account: Account[C]) -> None:
        """Providers come and go by the thousand: an account without connections and callers is closed."""
        if account.open or account.parting or account.waiting:
            return
        del self.accounts[account.place]
        self._starved.pop(account, None)
        if account.learned != Learned() or not account.health.blank or not account.pace.blank:
            self._memory[account.place] = account.learned, account.health, account.pace
            if len(self._memory) > MAX_LEARNED:
                self._memory.popitem(last=False)
