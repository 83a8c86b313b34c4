"""The pool: sessions shared by everybody who asks, within each provider's limits."""

import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
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
)
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.ledger import Account, Claim, Ledger
from streams.smtp.lifecycle import Event, Kind, Life, Notice, ProviderView, Recorder, Snapshot
from streams.smtp.policy import Learned, PolicyBook, ProviderPolicy, StartTLS
from streams.smtp.replies import Reply

_log = logging.getLogger(__name__)

_TICK_S = 0.1
"""What is due is looked for no more often than this."""

_WARM_S = 1.0
"""How long a place that is kept warm stays empty before it is filled again."""

_CHECKS = 20
"""Health checks under way at a time."""


class AsyncSMTPPool:
    """Sessions with mail servers, by provider.

    ``total`` bounds connections over all providers. ``on_event`` is told of every change of a connection,
    ``on_notice`` of waits, dials, health checks and breakers. ``clock`` (seconds, monotonic), ``rng`` (0 to 1) and
    ``dial`` are passed in so that tests need neither time nor network.

    ``async with AsyncSMTPPool(identity=...) as pool`` closes it at the end. The asynchronous pool belongs to one event
    loop; the synchronous one may be used from any number of threads.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        policies: PolicyBook | None = None,
        total: int = 1000,
        on_event: Callable[[Event], None] | None = None,
        on_notice: Callable[[Notice], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        dial: Dial = dial_aiosmtplib,
    ) -> None:
        if total < 1:
            raise ValueError("total must be 1 or more")
        self._identity = identity
        self._clock = clock
        self._rng = rng
        self._dial = dial
        self._lock = Lock()
        self._recorder = Recorder(clock, on_event, on_notice, self._lock)
        self._ledger: Ledger[AsyncSMTPConnection] = Ledger(policies or PolicyBook(), total)
        self._connections: dict[AsyncSMTPConnection, None] = {}
        self._alarm = Alarm(self._tick)
        self._background = Background()
        self._warm: dict[str, tuple[Host, ...]] = {}
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
        self, provider: str, hosts: Sequence[Host], *, timeout: float
    ) -> AsyncIterator[AsyncSMTPConnection]:
        """A session with one of ``hosts`` (preferred first) for as long as the block runs.

        An idle one of ``provider`` if there is one, else a new one: each host is dialled in turn until one answers
        well. ``timeout`` seconds bound the wait for a free session and the dials together.

        :raises ConnectFailed: no host could be opened; it tells of each. Or our address is believed to be blocked: then
            the only attempt has the reply that made us believe.
        :raises PoolTimeout: no session was free in time.
        :raises PoolClosed: the pool is closed, or draining.
        """
        if not hosts:
            raise LocalProtocolError("a lease needs at least one host")
        trial = self._admit(provider, hosts[0])
        try:
            connection = await self._acquire(provider, hosts, self._clock() + timeout)
            try:
                yield connection
            finally:
                self._release(connection)
        finally:
            if trial is not None:
                with self._lock:
                    trial.block.abandoned()

    def report_block(self, provider: str, domain: str, reply: Reply, stage: Stage = Stage.RCPT) -> None:
        """Tell that a server of ``provider`` said, when asked for ``domain``, that our address is blocked.

        After ``block_domains`` different ones, with no :meth:`report_service` between, the block is believed: leases
        fail with ``reply`` for a while. The pool can't tell by itself: what a reply means is its caller's knowledge.
        """
        with self._lock:
            health = self._ledger.health(provider)
            if health is not None and health.blocked(domain, stage, reply, self._clock(), self._rng()):
                self._recorder.notice(Kind.BLOCK, provider, "believed")

    def report_service(self, provider: str) -> None:
        """Tell that a server of ``provider`` spoke of a mailbox: it does not block us."""
        health = self._ledger.health(provider)
        if health is None or not health.block.culprits:
            return  # nearly always
        with self._lock:
            if health.served():
                self._recorder.notice(Kind.BLOCK, provider, "lifted")

    def blocked(self, provider: str) -> bool:
        """True while our address is believed to be blocked there: let go of a session that you have."""
        with self._lock:
            health = self._ledger.health(provider)
            return health is not None and health.block.state(self._clock()) is BreakerState.OPEN

    def sessions(self, provider: str) -> int:
        """Sessions that may be open with ``provider`` now: its policy's, and more where it has served well."""
        return self._ledger.limit(provider)

    def snapshot(self) -> Snapshot:
        """The pool at this moment."""
        with self._lock:
            now = self._clock()
            views = tuple(connection.view() for connection in self._connections)
            accounts = self._ledger.troubled(now)
            by_provider: dict[str, Counter[Life]] = {name: Counter() for name in accounts}
            for view in views:
                by_provider.setdefault(view.provider, Counter())[view.state] += 1
            return Snapshot(
                time=now,
                total=self._ledger.total,
                states=Counter(view.state for view in views),
                waiters=self._ledger.waiters(),
                providers={
                    name: ProviderView(
                        account.limit,
                        by_provider[name],
                        len(account.waiting),
                        account.health.provider.state(now),
                        account.health.left_alone(now),
                        account.health.window.rate(now),
                        account.pace.connections.rate,
                        account.pace.recipients.rate,
                        account.health.block.state(now),
                    )
                    for name, account in accounts.items()
                },
                connections=views,
                counters=dict(self._recorder.counters),
            )

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

    def _admit(self, provider: str, host: Host) -> Health | None:
        """Let a caller in; the health of the provider where it is the one that tries whether a block is over."""
        with self._lock:
            health = self._ledger.health(provider)
            if health is None or not health.block.opened:
                return None
            if (barred := health.barred(host, self._clock())) is not None:
                raise ConnectFailed((barred,))
            return health

    async def _acquire(self, provider: str, hosts: Sequence[Host], deadline: float) -> AsyncSMTPConnection:
        claim = await self._granted(provider, hosts, deadline)
        self._keep_warm(provider, hosts, claim.account.policy)
        connection = claim.connection
        if connection is None:
            connection = await self._open(claim, hosts, deadline)
        else:
            self._recorder.count("reused")
        self._recorder.count("leases")
        connection.uses += 1
        connection.move(Life.BUSY, "leased")
        return connection

    async def _granted(self, provider: str, hosts: Sequence[Host], deadline: float) -> Claim[AsyncSMTPConnection]:
        turn = Turn()
        with self._lock:
            if self._closed:
                raise PoolClosed("the pool is closed")
            claim = Claim(self._ledger.account(provider), hosts, turn.ring)
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
        self._recorder.notice(Kind.WAIT, claim.account.name, outcome, seconds=waited)
        if not granted:
            self._recorder.count("wait_timeouts")
            if self._closed:
                raise PoolClosed("the pool was closed while a session was waited for")
            raise PoolTimeout(f"no session with {claim.account.name} was free in time")

    def _withdraw_unless_granted(self, claim: Claim[AsyncSMTPConnection]) -> bool:
        with self._lock:
            if not claim.granted:
                self._ledger.withdraw(claim)
            return claim.granted

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
            account.name,
            policy=account.policy,
            learned=account.learned,
            identity=self._identity,
            recorder=self._recorder,
            clock=self._clock,
            chance=self._rng(),
            window=account.health.window,
            pace=account.pace,
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
        connection.opened(link, self._lost)
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
            if attempts and self._clock() >= deadline:
                break
            with self._lock:
                spared = account.health.spared(host, self._clock())
                self._tell_of_breakers(account)
                if spared is not None:
                    self._ledger.wanted(account, host, self._clock())
                    self._arm(self._ledger.recoveries.get((account.name, host)))
            if spared is not None:
                self._recorder.count("dials_spared")
                attempts.append(spared)
                continue
            try:
                return await self._dial_reporting(connection, account, host, deadline)
            except DialFailed as error:
                attempts.append(error.attempt)
        raise ConnectFailed(tuple(attempts))

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
            raise
        with self._lock:
            now = self._clock()
            health.window.add(now, failed=False)
            self._recorder.notice(Kind.DIAL, account.name, "ok", host=host, seconds=now - since)
            health.succeeded(host)
            if account.pace.connections.content(now):
                self._recorder.notice(Kind.PACE, account.name, "connections faster", host=host)
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
            raise PoolTimeout(f"no further connection with {account.name} may be opened in time")

    def _dial_failed(
        self, account: Account[AsyncSMTPConnection], attempt: DialAttempt, since: float, deadline: float
    ) -> None:
        health, now = account.health, self._clock()
        outcome = f"{attempt.reply.code // 100}xx" if attempt.reply else str(attempt.failure)
        self._recorder.notice(Kind.DIAL, account.name, outcome, host=attempt.host, seconds=now - since)
        # A caller in a hurry proves nothing about the host, nor does what this machine lacks.
        if attempt.local or (attempt.failure is DialFailure.TIMEOUT and now >= deadline):
            health.abandoned(attempt.host)
            return
        health.window.add(now, failed=True)
        health.failed(attempt, now, self._rng())
        if attempt.reply is not None and attempt.reply.transient:
            if account.pace.connections.complained(now):
                self._recorder.notice(Kind.PACE, account.name, "connections slower", host=attempt.host)
            if account.pace.sessions.complained(now):
                self._recorder.notice(Kind.PACE, account.name, "sessions fewer", host=attempt.host)
        self._tell_of_breakers(account)

    def _tell_of_breakers(self, account: Account[AsyncSMTPConnection]) -> None:
        changes, account.health.changes = account.health.changes, []
        for host, state in changes:
            self._recorder.notice(Kind.BREAKER, account.name, state, host=host)

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
            self._identity.helo,
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

    def _forget(self, connection: AsyncSMTPConnection, life: Life, cause: str) -> None:
        """A connection ends that is on the books and not idle."""
        self._close(connection, life, cause)
        with self._lock:
            self._ledger.gone(connection.provider)
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
        connection.close(life, cause)
        with self._lock:
            self._connections.pop(connection, None)
            if connection.provider in self._warm:
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
        for provider, host in left_alone:
            self._background.start(self._recover, provider, host)
        for provider in cold:
            self._background.start(self._warm_up, provider)
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
            self._recorder.notice(
                Kind.HEALTH_CHECK, connection.provider, outcome, host=connection.host, seconds=seconds
            )
            if alive and not self._closed:
                self._rest(connection, "it lives")
            else:
                self._release(connection)

    async def _recover(self, provider: str, host: Host) -> None:
        """Dial a host whose time of being left alone is over, so that no caller's address has to try it."""
        self._recorder.count("checks")
        since, outcome = self._clock(), "down"
        try:
            self._release(await self._fresh(provider, (host,)))
            outcome = "recovered"
        except SMTPError as error:
            _log.debug("%s of %s is still down: %s", host.name, provider, error)
        self._recorder.notice(Kind.HEALTH_CHECK, provider, outcome, host=host, seconds=self._clock() - since)

    def _keep_warm(self, provider: str, hosts: Sequence[Host], policy: ProviderPolicy) -> None:
        if policy.warm:
            with self._lock:
                self._warm.pop(provider, None)
                self._warm[provider] = tuple(hosts)
                if len(self._warm) > self._ledger.total:
                    del self._warm[next(iter(self._warm))]
            self._arm(self._clock() + _WARM_S)

    def _cold(self) -> Iterator[str]:
        """Providers, once for each session that they lack of their warm minimum."""
        for provider in self._warm:
            account = self._ledger.account(provider)
            if not account.waiting and self._ledger.open < self._ledger.total:
                yield from [provider] * (account.policy.warm - account.open)

    async def _warm_up(self, provider: str) -> None:
        """Open one of the sessions that are kept."""
        try:
            self._release(await self._fresh(provider, self._warm[provider]))
        except SMTPError as error:
            _log.debug("no warm session with %s: %s", provider, error)
            self._arm(self._clock() + _WARM_S)

    async def _fresh(self, provider: str, hosts: Sequence[Host]) -> AsyncSMTPConnection:
        """A new session, whatever rests."""
        deadline = self._clock() + 4 * self._ledger.book.policy(provider).connect_timeout_s
        claim = await self._granted(provider, (), deadline)
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
