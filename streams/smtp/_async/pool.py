"""The pool: sessions shared by everybody who asks, within each provider's limits."""

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from schemas.vocabulary import Stage
from streams.smtp._async.connection import AsyncSMTPConnection
from streams.smtp._async.dial import Dial, dial_aiosmtplib
from streams.smtp._async.link import AsyncLink
from streams.smtp._async.waiting import Alarm, Lock, Turn
from streams.smtp.errors import (
    ConnectFailed,
    DialAttempt,
    DialFailed,
    DialFailure,
    LocalProtocolError,
    PoolClosed,
    PoolTimeout,
)
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.ledger import Account, Claim, Ledger
from streams.smtp.lifecycle import Event, Life, ProviderView, Recorder, Snapshot
from streams.smtp.policy import Learned, PolicyBook, StartTLS

_SWEEP_S = 0.1
"""Idle sessions are looked through no more often than this."""


class AsyncSMTPPool:
    """Sessions with mail servers, by provider.

    ``total`` bounds connections over all providers. ``on_event`` is told of every change of a connection. ``clock``
    (seconds, monotonic), ``rng`` (0 to 1) and ``dial`` are passed in so that tests need neither time nor network.

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
        self._recorder = Recorder(clock, on_event, self._lock)
        self._ledger: Ledger[AsyncSMTPConnection] = Ledger(policies or PolicyBook(), total)
        self._connections: dict[AsyncSMTPConnection, None] = {}
        self._alarm = Alarm(self._sweep)
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

        :raises ConnectFailed: no host could be opened; it tells of each.
        :raises PoolTimeout: no session was free in time.
        :raises PoolClosed: the pool is closed, or draining.
        """
        connection = await self._acquire(provider, hosts, self._clock() + timeout)
        try:
            yield connection
        finally:
            self._release(connection)

    def snapshot(self) -> Snapshot:
        """The pool at this moment."""
        with self._lock:
            now = self._clock()
            views = tuple(connection.view() for connection in self._connections)
            by_provider: dict[str, Counter[Life]] = {name: Counter() for name in self._ledger.accounts}
            for view in views:
                by_provider.setdefault(view.provider, Counter())[view.state] += 1
            return Snapshot(
                time=now,
                total=self._ledger.total,
                states=Counter(view.state for view in views),
                waiters=self._ledger.waiters(),
                providers={
                    name: ProviderView(
                        account.policy.sessions,
                        by_provider[name],
                        len(account.waiting),
                        account.health.provider.state(now),
                        account.health.left_alone(now),
                    )
                    for name, account in self._ledger.accounts.items()
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
        with self._lock:
            busy = list(self._connections)
        for connection in busy:
            connection.abort()

    # Getting a session

    async def _acquire(self, provider: str, hosts: Sequence[Host], deadline: float) -> AsyncSMTPConnection:
        if not hosts:
            raise LocalProtocolError("a lease needs at least one host")
        claim = await self._granted(provider, hosts, deadline)
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
        if not self._withdraw_unless_granted(claim):
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
        try:
            link = await self._dial_host(connection, account.learned, host, deadline)
        except DialFailed as error:
            with self._lock:
                # A caller in a hurry proves nothing about the host.
                if error.attempt.failure is DialFailure.TIMEOUT and self._clock() >= deadline:
                    health.abandoned(host)
                else:
                    health.failed(error.attempt, self._clock(), self._rng())
            raise
        except BaseException:
            with self._lock:
                health.abandoned(host)
            raise
        with self._lock:
            health.succeeded(host)
        return link

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
        now = self._clock()
        with self._lock:
            connection.idle_since = now
            connection.move(Life.IDLE, "given back")
            self._ledger.give_back(connection)
        self._close_struck()
        self._arm(now + connection.policy.idle_expiry_s, connection.policy.idle_expiry_s)

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
            if self._quiet is not None and not self._connections:
                self._quiet.ring()

    # Time

    def _arm(self, due: float, delay: float) -> None:
        with self._lock:
            if self._ledger.idle and (self._alarm.due is None or due < self._alarm.due):
                self._alarm.set(due, delay)

    def _sweep(self) -> None:
        now = self._clock()
        with self._lock:
            delay = self._ledger.sweep(now)
        self._close_struck()
        if delay is not None:
            self._arm(now + max(delay, _SWEEP_S), max(delay, _SWEEP_S))

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
