"""The pool: sessions shared by everybody who asks, within each provider's limits."""

import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

from schemas.vocabulary import Stage
from streams.smtp._async.connection import AsyncSMTPConnection
from streams.smtp._async.dial import Dial, dial_aiosmtplib
from streams.smtp._async.link import AsyncLink
from streams.smtp._async.waiting import Alarm, Background, Lock, Turn
from streams.smtp.breaker import BreakerState, Health
from streams.smtp.errors import (
    ConnectFailed,
    DialAttempt,
    DialFailed,
    DialFailure,
    LocalProtocolError,
    PoolClosed,
    PoolTimeout,
    SMTPError,
    unreachable,
)
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.ledger import Account, Claim, Ledger, Place
from streams.smtp.lifecycle import ConnectionView, Event, Kind, Life, Notice, ProviderView, Recorder, Snapshot, WayView
from streams.smtp.pace import nothing_kept_free
from streams.smtp.policy import Learned, PolicyBook, ProviderPolicy, StartTLS
from streams.smtp.replies import Reply
from streams.smtp.ways import Way, Ways

_log = logging.getLogger(__name__)

_TICK_S = 0.1
"""What is due is looked for no more often than this."""

_WARM_S = 1.0
"""How long a place that is kept warm stays empty before it is filled again."""

_EARLY_S = 0.002
"""A deadline so near is over: uvloop's timers have whole milliseconds, and may ring before their time."""

_CHECKS = 20
"""Health checks under way at a time."""

_OPEN = frozenset({Life.READY, Life.BUSY, Life.IDLE, Life.DRAINING})
"""States of a connection whose server has let it in, and not ended it."""


class AsyncSMTPPool:
    """Sessions with mail servers, by provider.

    ``identity`` is who we are; or ``ways`` are the addresses and proxies that servers are asked from, each with an
    identity of its own. The limits of a provider hold for each way, since servers count by address; ``total`` bounds
    connections over all providers and ways. ``kept_free`` tells how many of a provider's sessions its callers leave to
    others, and which may be idle when more are asked for.

    ``on_event`` is told of every change of a connection, ``on_notice`` of waits, dials, health checks and breakers.
    ``clock`` (seconds, monotonic), ``rng`` (0 to 1) and ``dial`` are passed in so that tests need neither time nor
    network.

    ``async with AsyncSMTPPool(identity=...) as pool`` closes it at the end. The asynchronous pool belongs to one event
    loop; the synchronous one may be used from any number of threads.
    """

    def __init__(
        self,
        *,
        identity: Identity | None = None,
        ways: Sequence[Way] = (),
        policies: PolicyBook | None = None,
        total: int = 1000,
        kept_free: Callable[[int], int] = nothing_kept_free,
        on_event: Callable[[Event], None] | None = None,
        on_notice: Callable[[Notice], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        dial: Dial = dial_aiosmtplib,
    ) -> None:
        if total < 1:
            raise ValueError("total must be 1 or more")
        if (identity is None) is not bool(ways):
            raise ValueError("a pool wants an identity, or ways that have one each")
        book = policies or PolicyBook()
        self._ways = Ways(ways or [Way("", identity)] if identity is not None else ways, book.default)
        self._clock = clock
        self._rng = rng
        self._dial = dial
        self._lock = Lock()
        self._recorder = Recorder(clock, on_event, on_notice, self._lock)
        self._ledger: Ledger[AsyncSMTPConnection] = Ledger(book, total, kept_free)
        self._connections: dict[AsyncSMTPConnection, None] = {}
        self._alarm = Alarm(self._tick)
        self._background = Background()
        self._warm: dict[Place, tuple[Host, ...]] = {}
        self._waiting: dict[Turn, None] = {}
        self._closed = False
        self._quiet: Turn | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def lease(
        self, provider: str, hosts: Sequence[Host], *, timeout: float, source: str | None = None
    ) -> AsyncIterator[AsyncSMTPConnection]:
        """A session with one of ``hosts`` (preferred first) for as long as the block runs.

        An idle one of ``provider`` if there is one, else a new one: each host is dialled in turn until one answers
        well. ``timeout`` seconds bound the wait for a free session and the dials together. By the way that is named
        ``source`` (see :meth:`way`); by others only where the network fails, never after a refusal.

        :raises ConnectFailed: no host could be opened; it tells of each. Or our address is believed to be blocked: then
            the only attempt has the reply that made us believe.
        :raises PoolTimeout: no session was free in time.
        :raises PoolClosed: the pool is closed, or draining.
        """
        if not hosts:
            raise LocalProtocolError("a lease needs at least one host")
        ways, trial = self._admit(provider, source, hosts[0])
        try:
            connection = await self._acquire(provider, ways, hosts, self._clock() + timeout)
            try:
                yield connection
            finally:
                self._release(connection)
        finally:
            if trial is not None:
                with self._lock:
                    trial.block.abandoned()

    def way(self, provider: str, source: str | None = None) -> str:
        """The name of the way that ``provider`` is asked by: ``source`` where there is one of that name, else its home.

        The same in every process that has the same ways. "" where the pool was given none.
        """
        return self._ways.home(provider, source).name

    def report_block(
        self, provider: str, domain: str, reply: Reply, stage: Stage = Stage.RCPT, *, source: str | None = None
    ) -> None:
        """Tell that a server of ``provider`` said, when asked for ``domain``, that our address is blocked.

        ``source`` is the way that heard it (``connection.way``, ``attempt.way``); the home where none is named.

        After ``block_domains`` different ones, with no :meth:`report_service` between, the block is believed: leases
        fail with ``reply`` for a while. The pool can't tell by itself: what a reply means is its caller's knowledge.
        """
        with self._lock:
            way, now = self.way(provider) if source is None else source, self._clock()
            health = self._ledger.health((provider, way))
            if health is None:
                return
            if health.blocked(domain, stage, reply, now, self._rng()):
                self._recorder.notice(Kind.BLOCK, provider, "believed", way=way)
            self._ways.refuse(provider, way, float("inf") if health.block.opened else self._grudge(provider, now))

    def report_service(self, provider: str, *, source: str | None = None) -> None:
        """Tell that a server of ``provider`` spoke of a mailbox: it does not block us. ``source`` as above."""
        way = self.way(provider) if source is None else source
        health = self._ledger.health((provider, way))
        if self._ways.welcome and (health is None or not health.block.culprits):
            return  # nearly always
        with self._lock:
            self._ways.serve(provider, way)
            if health is not None and health.served():
                self._recorder.notice(Kind.BLOCK, provider, "lifted", way=way)

    def blocked(self, provider: str) -> bool:
        """True while our address is believed to be blocked there: let go of a session that you have."""
        with self._lock:
            now = self._clock()
            way = self._ways.refused_by(provider, now) or self._ways.home(provider)
            health = self._ledger.health((provider, way.name))
            return health is not None and health.block.state(now) is BreakerState.OPEN

    def sessions(self, provider: str, source: str | None = None) -> int:
        """Sessions that may be open with ``provider`` now: its policy's, and more where it has served well.

        ``source`` is the way out that is meant; the home where none is named.
        """
        return self._ledger.limit((provider, self.way(provider) if source is None else source))

    def snapshot(self) -> Snapshot:
        """The pool at this moment."""
        with self._lock:
            now = self._clock()
            views = tuple(connection.view() for connection in self._connections)
            accounts = self._ledger.troubled(now)
            by_place: dict[Place, Counter[Life]] = {place: Counter() for place in accounts}
            for view in views:
                by_place.setdefault((view.provider, view.way), Counter())[view.state] += 1
            return Snapshot(
                time=now,
                total=self._ledger.total,
                states=Counter(view.state for view in views),
                waiters=self._ledger.waiters(),
                providers={
                    account.name: ProviderView(
                        account.limit,
                        by_place[place],
                        len(account.waiting),
                        account.health.provider.state(now),
                        account.health.left_alone(now),
                        account.health.window.rate(now),
                        account.pace.connections.rate,
                        account.pace.recipients.rate,
                        account.health.block.state(now),
                    )
                    for place, account in accounts.items()
                },
                connections=views,
                counters=dict(self._recorder.counters),
                ways=self._way_views(views, accounts.values(), now),
            )

    def _way_views(
        self, views: Iterable[ConnectionView], accounts: Iterable[Account[AsyncSMTPConnection]], now: float
    ) -> dict[str, WayView]:
        sessions = Counter(view.way for view in views)
        blocked = Counter(account.way for account in accounts if account.health.block.opened)
        return {
            way.name: WayView(sessions[way.name], self._ways.state(way.name, now), blocked[way.name])
            for way in self._ways
        }

    async def drain(self, timeout: float) -> bool:
        """Give out no more sessions, and wait up to ``timeout`` seconds for those in use; true when all came back.

        Callers that wait for a session get :class:`PoolClosed`. Call :meth:`close` afterwards.
        """
        self._shut()
        with self._lock:
            if not self._connections:
                return True
            turn = self._quiet = Turn()
        return await turn.wait(timeout)

    async def close(self) -> None:
        """End every session at once: idle ones with QUIT, which nothing waits for; asks under way end as closed."""
        self._shut()
        await self._background.stop()
        with self._lock:
            busy = list(self._connections)
        for connection in busy:
            connection.abort()

    # Getting a session

    def _admit(self, provider: str, source: str | None, host: Host) -> tuple[Sequence[Way], Health | None]:
        """Let a caller in: its ways, and the health of the provider where it is to try whether a block is over."""
        with self._lock:
            now = self._clock()
            ways = self._ways.order(provider, source, now)
            health = self._ledger.health((provider, ways[0].name))
            if health is None or not health.block.opened:
                return ways, None
            if (barred := health.barred(host, now)) is not None:
                raise ConnectFailed((replace(barred, way=ways[0].name),))
            return ways, health

    async def _acquire(
        self, provider: str, ways: Sequence[Way], hosts: Sequence[Host], deadline: float
    ) -> AsyncSMTPConnection:
        """By the first way that the network lets through; a refusal, or anything else that a server did, is the end."""
        attempts: list[DialAttempt] = []
        for way in ways:
            if attempts and not self._may_turn_to(way, provider, attempts, deadline):
                break
            try:
                return await self._acquire_by((provider, way.name), hosts, deadline, at_home=not attempts)
            except ConnectFailed as error:
                attempts += error.attempts
        raise ConnectFailed(tuple(attempts))

    def _may_turn_to(self, way: Way, provider: str, attempts: Sequence[DialAttempt], deadline: float) -> bool:
        """True when only the network has failed so far, and nobody was refused meanwhile."""
        with self._lock:
            now = self._clock()
            free = now < deadline and all(attempt.unreached for attempt in attempts)
            health = self._ledger.health((provider, way.name))
            blocked = health is not None and health.block.opened
            if not free or blocked or self._ways.refused_by(provider, now) is not None:
                return False
            self._recorder.notice(Kind.WAY, provider, "taken", way=way.name)
            return True

    async def _acquire_by(
        self, place: Place, hosts: Sequence[Host], deadline: float, *, at_home: bool
    ) -> AsyncSMTPConnection:
        claim = await self._granted(place, hosts, deadline)
        if at_home:
            self._keep_warm(place, hosts, claim.account.policy)
        connection = claim.connection
        if connection is None:
            connection = await self._open(claim, hosts, deadline)
        else:
            self._recorder.count("reused")
        self._recorder.count("leases")
        connection.uses += 1
        connection.move(Life.BUSY, "leased")
        return connection

    async def _granted(self, place: Place, hosts: Sequence[Host], deadline: float) -> Claim[AsyncSMTPConnection]:
        turn = Turn()
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed")
            claim = Claim(self._ledger.account(place), hosts, turn.ring)
            self._ledger.claim(claim)
        self._close_struck()
        if not claim.granted:
            await self._wait(claim, turn, deadline)
        return claim

    async def _wait(self, claim: Claim[AsyncSMTPConnection], turn: Turn, deadline: float) -> None:
        self._recorder.count("waited")
        since = self._clock()
        with self._lock:
            self._waiting[turn] = None
            if self._closed:  # by another thread, just now
                turn.ring()
        try:
            await turn.wait(deadline - self._clock())
        except BaseException:
            self._withdraw(claim)
            raise
        finally:
            with self._lock:
                del self._waiting[turn]
        granted = self._withdraw_unless_granted(claim)
        outcome, waited = "served" if granted else "in vain", self._clock() - since
        account = claim.account
        self._recorder.notice(Kind.WAIT, account.provider, outcome, seconds=waited, way=account.way)
        if not granted:
            self._recorder.count("wait_timeouts")
            if self._closed:
                raise PoolClosed("the pool was closed while a session was waited for")
            raise PoolTimeout(f"no session with {account.name} was free in time")

    def _withdraw_unless_granted(self, claim: Claim[AsyncSMTPConnection]) -> bool:
        with self._lock:
            granted = claim.granted
            if not granted:
                self._ledger.withdraw(claim)
        self._close_struck()
        return granted

    def _withdraw(self, claim: Claim[AsyncSMTPConnection]) -> None:
        with self._lock:
            self._ledger.withdraw(claim)
        self._close_struck()

    # Dialling

    async def _open(
        self, claim: Claim[AsyncSMTPConnection], hosts: Sequence[Host], deadline: float
    ) -> AsyncSMTPConnection:
        account = claim.account
        connection = AsyncSMTPConnection(
            account.provider,
            policy=account.policy,
            learned=account.learned,
            identity=self._ways[account.way].identity,
            recorder=self._recorder,
            clock=self._clock,
            chance=self._rng(),
            window=account.health.window,
            pace=account.pace,
            way=account.way,
        )
        with self._lock:
            self._connections[connection] = None
            self._recorder.count("dials")
        try:
            link = await self._dial_any(connection, account, hosts, deadline)
        except BaseException as error:
            self._recorder.count("dials_failed")
            self._forget(connection, Life.BROKEN, "dial failed" if isinstance(error, Exception) else "cancelled")
            raise
        connection.opened(link, self._lost, self._part)
        if self._closed:
            self._forget(connection, Life.DRAINING, "pool closed")
            raise PoolClosed("the pool was closed while a session was dialled")
        return connection

    async def _dial_any(
        self,
        connection: AsyncSMTPConnection,
        account: Account[AsyncSMTPConnection],
        hosts: Sequence[Host],
        deadline: float,
    ) -> AsyncLink:
        attempts: list[DialAttempt] = []
        for host in hosts:
            if attempts and self._clock() >= deadline - _EARLY_S:
                break
            if (spared := self._spared(account, host)) is not None:
                self._recorder.count("dials_spared")
                attempts.append(spared)
                continue
            try:
                return await self._dial_reporting(connection, account, host, deadline)
            except DialFailed as error:
                attempts.append(error.attempt)
                if error.attempt.way_failed:
                    break  # it would not reach the other hosts either
        raise ConnectFailed(tuple(replace(attempt, way=account.way) for attempt in attempts))

    def _spared(self, account: Account[AsyncSMTPConnection], host: Host) -> DialAttempt | None:
        """None: dial. Else what to tell in place of a dial, since the host or the way is left alone."""
        with self._lock:
            now = self._clock()
            if not self._ways[account.way].reaches(host.address):
                return unreachable(host, "our way out has no address of its family")
            spared = account.health.spared(host, now)
            self._tell_of_breakers(account)
            if spared is not None:
                self._ledger.wanted(account, host, now)
                self._arm(self._ledger.recoveries.get((account.place, host)))
            elif not self._ways.allows(account.way, now):
                account.health.abandoned(host)
                return unreachable(host, "our way out is down")
            return spared

    async def _dial_reporting(
        self,
        connection: AsyncSMTPConnection,
        account: Account[AsyncSMTPConnection],
        host: Host,
        deadline: float,
    ) -> AsyncLink:
        """Dial one host, and tell its breaker what became of it."""
        health = account.health
        since = self._clock()
        try:
            await self._paced(account, deadline)
            since = self._clock()
            link = await self._dial_host(connection, account.learned, host, deadline)
        except DialFailed as error:
            with self._lock:
                self._dial_failed(account, error.attempt, since, deadline)
            raise
        except BaseException:
            with self._lock:
                health.abandoned(host)
                self._ways.abandoned(account.way)
            raise
        with self._lock:
            now = self._clock()
            health.window.add(now, failed=False)
            self._notice(account, Kind.DIAL, "ok", host, now - since)
            health.succeeded(host)
            self._way_works(account)
            if account.pace.connections.content(now):
                self._notice(account, Kind.PACE, "connections faster", host)
            self._tell_of_breakers(account)
        return link

    async def _paced(self, account: Account[AsyncSMTPConnection], deadline: float) -> None:
        """Wait until a connection may be opened."""
        with self._lock:
            now = self._clock()
            wait = account.pace.connections.reserve(1, now)
        if wait:
            await Turn().wait(min(wait, deadline - now))
        if now + wait > deadline:
            with self._lock:
                account.pace.connections.give_back(1)
            raise PoolTimeout(f"no further connection with {account.name} may be opened in time")

    def _dial_failed(
        self, account: Account[AsyncSMTPConnection], attempt: DialAttempt, since: float, deadline: float
    ) -> None:
        health, now = account.health, self._clock()
        outcome = f"{attempt.reply.code // 100}xx" if attempt.reply else str(attempt.failure)
        self._notice(account, Kind.DIAL, outcome, attempt.host, now - since)
        self._tell_of_way(account, attempt, now, deadline)
        # A caller in a hurry proves nothing about the host, nor does what this machine lacks.
        if attempt.local or (attempt.failure is DialFailure.TIMEOUT and now >= deadline - _EARLY_S):
            health.abandoned(attempt.host)
            return
        health.window.add(now, failed=True)
        crowded = account.left_at >= since or self._open_with(account, attempt.host)
        if crowded:
            health.abandoned(attempt.host)  # it is not down: one more was too many, in whatever way it says so
        else:
            health.failed(attempt, now, self._rng())
        if crowded or (attempt.reply is not None and attempt.reply.transient):
            # It may be one that counts those who have said QUIT until they are gone.
            account.learned.parts_badly |= account.parting > 0 or account.parted_at >= since
            if account.pace.connections.complained(now):
                self._notice(account, Kind.PACE, "connections slower", attempt.host)
            if account.pace.sessions.complained(now):
                self._notice(account, Kind.PACE, "sessions fewer", attempt.host)
        self._tell_of_breakers(account)

    def _open_with(self, account: Account[AsyncSMTPConnection], host: Host) -> bool:
        """True while a session with ``host`` is open."""
        return any(
            connection.place == account.place and connection.host == host and connection.state in _OPEN
            for connection in self._connections
        )

    def _tell_of_way(
        self, account: Account[AsyncSMTPConnection], attempt: DialAttempt, now: float, deadline: float
    ) -> None:
        """What a failed dial says of our way out, and whether another one may be taken."""
        if attempt.way_failed:
            if self._ways.failed(account.way, now, self._rng()):
                self._notice(account, Kind.WAY, "down")
        elif attempt.local or now >= deadline - _EARLY_S:
            self._ways.abandoned(account.way)
        else:
            self._way_works(account)
        if attempt.reply is not None and attempt.stage is not Stage.STARTTLS:
            self._ways.refuse(account.provider, account.way, self._grudge(account.provider, now))

    def _way_works(self, account: Account[AsyncSMTPConnection]) -> None:
        if self._ways.works(account.way):
            self._notice(account, Kind.WAY, "up")

    def _grudge(self, provider: str, now: float) -> float:
        """Until when a provider that has refused one way is asked by no other, if it says nothing more."""
        return now + self._ledger.book.policy(provider).block_base_s

    def _notice(
        self,
        account: Account[AsyncSMTPConnection],
        kind: Kind,
        outcome: str,
        host: Host | None = None,
        seconds: float | None = None,
    ) -> None:
        self._recorder.notice(kind, account.provider, outcome, host=host, seconds=seconds, way=account.way)

    def _tell_of_breakers(self, account: Account[AsyncSMTPConnection]) -> None:
        changes, account.health.changes = account.health.changes, []
        for host, state in changes:
            self._notice(account, Kind.BREAKER, state, host)

    async def _dial_host(
        self, connection: AsyncSMTPConnection, learned: Learned, host: Host, deadline: float
    ) -> AsyncLink:
        """One host; without TLS when the handshake fails and the server does not insist on it."""
        wish = connection.policy.starttls
        insists = (host.address, host.port) in learned.wants_tls and wish is not StartTLS.NEVER
        try:
            return await self._dial_once(connection, host, deadline, starttls=insists or wish is StartTLS.OFFERED)
        except DialFailed as error:
            if insists or error.attempt.stage is not Stage.STARTTLS:
                raise
        return await self._dial_once(connection, host, deadline, starttls=False)

    async def _dial_once(
        self, connection: AsyncSMTPConnection, host: Host, deadline: float, *, starttls: bool
    ) -> AsyncLink:
        connection.dialling(host)
        return await self._dial(
            host,
            self._ways[connection.way],
            starttls=starttls,
            step_timeout_s=connection.policy.connect_timeout_s,
            timeout_s=max(0.0, deadline - self._clock()),
            on_greeting=connection.greeted,
        )

    # Giving back

    def _release(self, connection: AsyncSMTPConnection) -> None:
        ending = connection.ending() or ((Life.DRAINING, "pool closed") if self._closed else None)
        if ending is not None:
            self._forget(connection, *ending)
            return
        connection.idle_since = self._clock()
        self._rest(connection, "given back")

    def _rest(self, connection: AsyncSMTPConnection, cause: str) -> None:
        """It is whole: to the next caller, or to the idle ones."""
        connection.checked_at = self._clock()
        with self._lock:
            connection.move(Life.IDLE, cause)
            self._ledger.give_back(connection)
        self._close_struck()
        self._arm(min(connection.idle_since + connection.policy.idle_expiry_s, connection.check_at))

    def _part(self, connection: AsyncSMTPConnection) -> bool:
        """Its place goes to whoever waits, while it hears its last replies; false where too many do that already."""
        with self._lock:
            if self._closed or not self._ledger.part(connection.place):
                return False
            connection.move(Life.DRAINING, "last recipients")
            self._recorder.count("parted")
        self._close_struck()
        return True

    def _forget(self, connection: AsyncSMTPConnection, life: Life, cause: str) -> None:
        """A connection ends that is on the books and not idle."""
        parted = connection.state is Life.DRAINING
        self._close(connection, life, cause)
        with self._lock:
            (self._ledger.parted if parted else self._ledger.gone)(connection.place)
        self._close_struck()

    def _lost(self, connection: AsyncSMTPConnection) -> None:
        """A session ended while nobody used it; one in use is seen to when it comes back."""
        with self._lock:
            self._ledger.lost(connection, Life.BROKEN, str(connection.session.ended))
        self._close_struck()

    def _close_struck(self) -> None:
        """Close what the ledger has struck off."""
        with self._lock:
            closing, self._ledger.closing = self._ledger.closing, []
        for connection, life, cause in closing:
            self._close(connection, life, cause)

    def _close(self, connection: AsyncSMTPConnection, life: Life, cause: str) -> None:
        was = connection.state
        connection.close(life, cause)
        with self._lock:
            self._connections.pop(connection, None)
            account = self._ledger.accounts.get(connection.place)
            if account is not None and was in _OPEN and life is not Life.BROKEN:
                account.left_at = self._clock()
                if was is Life.DRAINING:
                    account.parted_at = account.left_at
            if connection.place in self._warm:
                self._arm(self._clock() + _WARM_S)
            if self._quiet is not None and not self._connections:
                self._quiet.ring()

    # Time

    def _arm(self, due: float | None) -> None:
        """Look for what is due at ``due``, if not before."""
        with self._lock:
            if due is None or self._closed or (self._alarm.due is not None and self._alarm.due <= due):
                return
            self._alarm.set(due, max(0.0, due - self._clock()))

    def _tick(self) -> None:
        """Do what is due: let idle sessions go, or ask whether they live; dial hosts that were left alone."""
        now = self._clock()
        with self._lock:
            if self._closed:
                return
            self._ledger.sweep(now)
            room = max(0, _CHECKS - len(self._background))
            silent = self._ledger.overdue(now, room)
            for connection in silent:
                connection.move(Life.BUSY, "health check")
            left_alone = self._ledger.recoverable(now, room - len(silent))
            cold = list(self._cold())
        self._close_struck()
        for connection in silent:
            self._background.start(self._check, connection)
        for place, host in left_alone:
            self._background.start(self._recover, place, host)
        for place in cold:
            self._background.start(self._warm_up, place)
        self._arm_next(now)

    def _arm_next(self, now: float) -> None:
        with self._lock:
            due = self._ledger.next_due()
        if due < float("inf"):
            self._arm(max(due, now + _TICK_S))

    # Health

    async def _check(self, connection: AsyncSMTPConnection) -> None:
        """Ask an idle session whether it lives."""
        self._recorder.count("checks")
        since, alive = self._clock(), False
        try:
            alive = await connection.lives(connection.policy.connect_timeout_s)
        finally:
            seconds, outcome = self._clock() - since, "alive" if alive else "dead"
            provider, host, way = connection.provider, connection.host, connection.way
            self._recorder.notice(Kind.HEALTH_CHECK, provider, outcome, host=host, seconds=seconds, way=way)
            if alive and not self._closed:
                self._rest(connection, "it lives")
            else:
                self._release(connection)

    async def _recover(self, place: Place, host: Host) -> None:
        """Dial a host whose time of being left alone is over, so that no caller's address has to try it."""
        self._recorder.count("checks")
        since, outcome = self._clock(), "down"
        try:
            self._release(await self._fresh(place, (host,)))
            outcome = "recovered"
        except SMTPError as error:
            _log.debug("%s of %s is still down: %s", host.name, place, error)
        provider, way = place
        self._recorder.notice(Kind.HEALTH_CHECK, provider, outcome, host=host, seconds=self._clock() - since, way=way)

    def _keep_warm(self, place: Place, hosts: Sequence[Host], policy: ProviderPolicy) -> None:
        if policy.warm:
            with self._lock:
                self._warm.pop(place, None)
                self._warm[place] = tuple(hosts)
                if len(self._warm) > self._ledger.total:
                    del self._warm[next(iter(self._warm))]
            self._arm(self._clock() + _WARM_S)

    def _cold(self) -> Iterator[Place]:
        """Providers and ways, once for each session that they lack of their warm minimum."""
        for place in self._warm:
            account = self._ledger.account(place)
            if not account.waiting and self._ledger.open < self._ledger.total:
                yield from [place] * (min(account.policy.warm, account.limit) - account.open)

    async def _warm_up(self, place: Place) -> None:
        """Open one of the sessions that are kept."""
        try:
            self._release(await self._fresh(place, self._warm[place]))
        except SMTPError as error:
            _log.debug("no warm session with %s: %s", place, error)
            self._arm(self._clock() + _WARM_S)

    async def _fresh(self, place: Place, hosts: Sequence[Host]) -> AsyncSMTPConnection:
        """A new session, whatever rests."""
        deadline = self._clock() + 4 * self._ledger.book.policy(place[0]).connect_timeout_s
        claim = await self._granted(place, (), deadline)
        connection = await self._open(claim, hosts, deadline)
        connection.move(Life.BUSY, "health check")
        return connection

    def _shut(self) -> None:
        """No more leases: waiters are sent away, idle sessions end."""
        with self._lock:
            self._closed = True
            idle = list(self._ledger.idle)
            for turn in list(self._waiting):
                turn.ring()
            for connection in idle:
                self._ledger.lost(connection, Life.DRAINING, "pool closed")
            self._alarm.cancel()
        self._close_struck()
