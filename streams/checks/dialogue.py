"""The mailbox dialogue: addresses of one provider are gathered and asked in pipelined sessions of the pool.

Who goes into which write is decided in :mod:`streams.checks.jobs`; what a reply means in
:mod:`streams.checks.reply_rules`; this module moves between them and the pool.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

from schemas.vocabulary import Lane, Reason, Stage
from streams.checks.brake import ABOUT_US, Brake
from streams.checks.catch_all import CatchAll, CatchAllMemory, impossible_local
from streams.checks.evidence import Failure, Prepared, Probe
from streams.checks.heard import Heard
from streams.checks.jobs import Batch, Deadlines, Hosts, Job, ProviderQueue, Visit, hosts_of, preferred_of
from streams.checks.providers import traits_of
from streams.checks.reply_rules import match
from streams.checks.reply_text import without_addresses
from streams.dns.answers import MailRoute
from streams.smtp._async.connection import AsyncSMTPConnection
from streams.smtp._async.pool import AsyncSMTPPool
from streams.smtp.errors import ConnectFailed, DialFailure, PoolClosed, PoolTimeout
from streams.smtp.exchange import Answers, too_many
from streams.smtp.replies import Reply
from streams.smtp.session import Ended

log = logging.getLogger(__name__)

MAX_TRIES = 2
"""Sessions that may end on one address before that is its answer."""

SMALL = 4
"""A write of so many recipients, the impossible one included, asks both questions at once."""

LEASE_TIMEOUT_S = 30.0
FAILURES = {Ended.TIMEOUT: Failure.TIMEOUT, Ended.CLOSED: Failure.CLOSED, Ended.PROTOCOL: Failure.PROTOCOL}


class Lanes(Protocol):
    """How many sessions of a provider's limit a lane may use."""

    def __call__(self, limit: int, lane: Lane | None) -> int: ...


def lane_sessions(limit: int, lane: Lane | None) -> int:
    """A quarter for interactive work and the rest for bulk, so that the sum stays at the provider's limit.

    Without a lane there is nobody to share with. A limit of one can't be split: then both lanes take turns in the pool.
    """
    interactive = kept_for_interactive(limit)
    if lane is None or not interactive:
        return limit
    return interactive if lane is Lane.INTERACTIVE else limit - interactive


def kept_for_interactive(limit: int) -> int:
    """What bulk work leaves free though nobody may want it; the pool counts it as used when it looks for growth."""
    return max(1, limit // 4) if limit > 1 else 0


class Shift:
    """One task that serves a queue, counted among its sessions until it parts: then the next may begin."""

    __slots__ = ("parting", "queue")

    def __init__(self, queue: ProviderQueue) -> None:
        self.queue = queue
        self.parting = False

    def part(self) -> None:
        """It is at its last recipients, and another one may take its place."""
        self.parting = True
        self.queue.sessions -= 1
        self.queue.parting += 1

    def end(self) -> None:
        """It is over."""
        if self.parting:
            self.queue.parting -= 1
        else:
            self.queue.sessions -= 1


class Prober:
    """Asks servers for mailboxes. One for each pool; any number of calls at a time may share it."""

    def __init__(
        self,
        pool: AsyncSMTPPool,
        *,
        port: int = 25,
        memory: CatchAllMemory | None = None,
        brake: Brake | None = None,
        sessions: Lanes = lane_sessions,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._pool = pool
        self._port = port
        self._memory = memory or CatchAllMemory(clock=clock)
        self._brake = brake or Brake(clock=clock)
        self._lane_sessions = sessions
        self._clock = clock
        self._rng = rng
        self._queues: dict[tuple[str, Lane | None, str], ProviderQueue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadlines = Deadlines()

    @property
    def waiting(self) -> int:
        """Addresses that wait for a session, of all providers."""
        return sum(queue.size for queue in self._queues.values())

    async def ask(
        self,
        route: MailRoute,
        provider: str,
        prepared: Sequence[Prepared],
        *,
        catch_all_probe: bool = True,
        lane: Lane | None = None,
        timeout: float = 60.0,
        source: str | None = None,
    ) -> list[Probe]:
        """What the servers of ``route`` say of each address, in the order asked.

        All addresses must be of the route's domain. Never raises for what a server or the network does; what has no
        answer after ``timeout`` seconds is a probe that failed with a timeout. ``source`` is the way out of the earlier
        attempts (:attr:`Probe.way`): a greylisted triplet is asked again from the same address.
        """
        if not prepared:
            return []
        queued_at = self._clock()
        batch = Batch(len(prepared), asyncio.get_running_loop().create_future())
        catch_all_probe = catch_all_probe and traits_of(provider).catch_all_probe_useful
        hosts, preferred = hosts_of(route.hosts, self._port), preferred_of(route.hosts)
        way = self._pool.way(provider, source)
        queue = self._queues.get((provider, lane, way))
        if queue is None:
            queue = self._queues[provider, lane, way] = ProviderQueue(provider, lane, way)
        queue.add(
            Job(p.address, p.domain, not p.address.isascii(), hosts, preferred, queued_at, batch, i, catch_all_probe)
            for i, p in enumerate(prepared)
        )
        self._staff(queue)
        await batch.wait(timeout, self._deadlines)
        return [probe or _late(provider, timeout) for probe in batch.probes]

    async def close(self) -> None:
        """End every dialogue; whoever waits for one hears of a timeout. The pool stays open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- sessions -----------------------------------------------------------------------------------------------

    def _staff(self, queue: ProviderQueue) -> None:
        """As many sessions as the waiting addresses call for, within the lane's share of the provider's limit."""
        while queue.sessions < queue.sessions_wanted and queue.sessions < self._share(queue):
            queue.sessions += 1
            task = asyncio.get_running_loop().create_task(self._serve(queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _share(self, queue: ProviderQueue) -> int:
        return self._lane_sessions(self._pool.sessions(queue.provider, queue.way), queue.lane)

    def _overstaffed(self, queue: ProviderQueue) -> bool:
        """The provider bears fewer sessions than it did: those beyond its share would keep the other lane waiting."""
        return queue.sessions > 1 and queue.sessions > self._share(queue)

    async def _serve(self, queue: ProviderQueue) -> None:
        shift = Shift(queue)
        try:
            while not shift.parting and not self._overstaffed(queue) and (job := queue.head()) is not None:
                if (held := self._brake.held(queue.provider, job.domain)) is not None:
                    self._refuse(queue, queue.take_alike(job), held)
                elif not await self._visit(shift, job.hosts):
                    break
            if shift.parting:
                self._staff(queue)  # for what came back
        finally:
            shift.end()
            if queue.deserted:
                self._queues.pop((queue.provider, queue.lane, queue.way), None)

    async def _visit(self, shift: Shift, hosts: Hosts) -> bool:
        """One lease: ask until nobody waits who could share it, or the session has had enough. False when those who
        wait are left to other sessions."""
        queue = shift.queue
        visit = Visit(hosts, self._clock())
        try:
            with queue.visiting(visit):
                async with self._lease(queue, hosts) as connection:
                    visit.let_in = True
                    used = connection.uses > 1
                    while await self._converse(shift, hosts, connection, used=used):
                        used = True
        except ConnectFailed as failed:
            return self._refused_to_talk(queue, visit, failed)
        except PoolTimeout:
            log.debug("no session of %s was free within %g s", queue.provider, LEASE_TIMEOUT_S)
        except PoolClosed as closed:
            self._refuse(queue, queue.take_all(hosts), Probe(Stage.CONNECT, failure=Failure.CLOSED, detail=str(closed)))
        except Exception:
            log.exception("a dialogue with %s failed by a mistake of ours", queue.provider)
            broken = Probe(Stage.CONNECT, failure=Failure.INTERNAL, detail="internal error", provider=queue.provider)
            self._refuse(queue, queue.take_all(hosts), broken)
        return True

    def _lease(self, queue: ProviderQueue, hosts: Hosts) -> AbstractAsyncContextManager[AsyncSMTPConnection]:
        return self._pool.lease(queue.provider, hosts, timeout=LEASE_TIMEOUT_S, source=queue.way)

    def _refused_to_talk(self, queue: ProviderQueue, visit: Visit, failed: ConnectFailed) -> bool:
        """All who wait for these hosts hear why; one of their domains is the witness of a block. False: they wait on
        for another session that is there or about to be: that one more was too many is no word about those who wait.
        Where the last of these has ended meanwhile they are asked for once more."""
        witness = queue.first(visit.hosts)
        for attempt in failed.attempts:
            if attempt.reply is not None and not attempt.old and witness is not None:
                self._report(queue.provider, witness.domain, attempt.reply, attempt.stage, way=attempt.way)
        if not self._pool.blocked(queue.provider):
            if queue.outlived(visit, self._clock()):
                return False
            if visit.crowded and any(each.failure is not DialFailure.TIMEOUT for each in failed.attempts):
                return True  # once more, now that there is room
        self._refuse(queue, queue.take_all(visit.hosts), _unreachable(failed, queue.provider))
        return True

    def _report(self, provider: str, domain: str, reply: Reply, stage: Stage, *, way: str) -> None:
        """Tell the pool of a reply that says that our own address is blocked; all others will be told the same."""
        if match(reply, stage).reason is Reason.SENDER_BLOCKED:
            self._pool.report_block(provider, domain, without_addresses(reply), stage, source=way)

    async def _converse(self, shift: Shift, hosts: Hosts, connection: AsyncSMTPConnection, *, used: bool) -> bool:
        """One write and its replies; ``used``: the session has answered before. False when it is of no more use."""
        queue = shift.queue
        if self._pool.blocked(queue.provider):
            return False
        one_domain, room = connection.policy.domains_per_transaction == 1, connection.room
        last = connection.last_room
        if parting := not connection.leaving and _others_wait(queue, connection, last):
            room = last
        chunk = queue.take(room, hosts, connection.key[0], one_domain=one_domain)
        if not chunk:
            return False
        chunk = self._unheld(queue, chunk)
        if not chunk:
            return True
        if len(chunk) < min(room, SMALL):
            chunk = self._with_impossible(queue, chunk, min(room, SMALL))
        now = self._clock()
        for job in chunk:
            job.taken_at = job.taken_at or now
        if chunk[0].smtputf8 and not connection.capabilities.smtputf8:
            unsupported = Heard(connection, now).probe(Stage.MAIL, failure=Failure.UTF8_UNSUPPORTED)
            self._refuse(queue, chunk, unsupported)
            return True
        full = len(chunk) == room  # with fewer it has more before it, whoever comes for that
        parting = (parting and full) or connection.leaving
        leaving = full and not parting and _others_wait(queue, connection, connection.last_room_after(room))
        try:
            answers = await connection.ask(
                [job.address for job in chunk],
                smtputf8=chunk[0].smtputf8,
                parting=parting,
                leaving=leaving,
                on_parted=partial(self._parted, shift),
            )
            self._settle(queue, Heard(connection, self._clock()), chunk, answers, used=used)
        except BaseException:
            queue.add(reversed(chunk), front=True)
            raise
        self._staff(queue)  # the provider may have earned one session more
        return answers.ended is None and connection.room > 0 and (shift.parting or not self._overstaffed(queue))

    def _parted(self, shift: Shift) -> None:
        """The place of the session is free, since all is written or will be in time: whoever is next may begin."""
        shift.part()
        self._staff(shift.queue)

    def _unheld(self, queue: ProviderQueue, chunk: list[Job]) -> list[Job]:
        """Those of a chunk that may be asked; the others hear at once what holds them back."""
        if self._brake.idle:
            return chunk
        free = []
        for job in chunk:
            if (held := self._brake.held(queue.provider, job.domain)) is None:
                free.append(job)
            else:
                self._refuse(queue, [job], held)
        return free

    # -- the recipient that can't exist ---------------------------------------------------------------------------

    def _with_impossible(self, queue: ProviderQueue, chunk: list[Job], room: int) -> list[Job]:
        """A small job carries the impossible recipient of its domain in the same write: one round trip fewer."""
        wanted = {job.domain: job for job in chunk if job.batch is not None and job.probe_wanted}
        unknown = [job for job in wanted.values() if self._must_ask(queue, job.domain)]
        return chunk + [self._impossible(queue, job) for job in unknown[: room - len(chunk)]]

    def _must_ask(self, queue: ProviderQueue, domain: str) -> bool:
        return domain not in queue.asking and self._memory.get(domain) is None

    def _impossible(self, queue: ProviderQueue, job: Job) -> Job:
        queue.asking.add(job.domain)
        address = f"{impossible_local(self._rng)}@{job.domain}"
        return Job(address, job.domain, not address.isascii(), job.hosts, job.preferred, self._clock())

    def _learn(self, queue: ProviderQueue, domain: str, catch_all: CatchAll) -> None:
        """Remember what a domain does, and answer those who waited to hear it."""
        self._memory.learn(domain, catch_all)
        for job, probe in queue.accepted.pop(domain, ()):
            job.settle(probe._replace(catch_all=catch_all.accepts, catch_all_reply=catch_all.reply))

    # -- answers --------------------------------------------------------------------------------------------------

    def _settle(
        self,
        queue: ProviderQueue,
        heard: Heard,
        chunk: list[Job],
        answers: Answers,
        *,
        used: bool,
    ) -> None:
        if answers.mail is not None and not answers.mail.positive:
            self._settle_mail(queue, heard, chunk, answers, answers.mail, used=used)
            return
        unanswered: list[tuple[Job, Reply | None]] = []
        for job, reply in zip(chunk, answers.replies, strict=True):
            if reply is None or (reply.code >= 400 and _about_session(reply, first=job is chunk[0] and not used)):
                unanswered.append((job, reply))
            else:
                self._answered(queue, heard, job, reply)
        self._ask_again(queue, heard, unanswered, answers, progressed=len(unanswered) < len(chunk))
        self._ask_impossible(queue, chunk)

    def _settle_mail(
        self,
        queue: ProviderQueue,
        heard: Heard,
        chunk: list[Job],
        answers: Answers,
        refusal: Reply,
        *,
        used: bool,
    ) -> None:
        """Nobody was asked for: what is said of the sender holds for everyone who waits for these hosts."""
        if used and refusal.code == 421:
            # The session has had its day (Exim: "too many messages in this connection"); a new one may do.
            again = [(job, refusal) for job in chunk]
            self._ask_again(queue, heard, again, answers, progressed=False, stage=Stage.MAIL)
            return
        # With SMTPUTF8 it may be the extension that was refused: then only those hear of it who need it.
        self._report(queue.provider, chunk[0].domain, refusal, Stage.MAIL, way=heard.connection.way)
        utf8_only = chunk[0].smtputf8
        everyone = chunk + [
            job for hosts in {job.hosts for job in chunk} for job in queue.take_all(hosts, utf8_only=utf8_only)
        ]
        self._refuse(queue, everyone, heard.probe(Stage.MAIL, refusal))

    def _answered(self, queue: ProviderQueue, heard: Heard, job: Job, reply: Reply) -> None:
        meaning = match(reply, Stage.RCPT, job.address, heard.sender)
        reason, positive = meaning.reason, reply.positive
        queue.answered += 1
        queue.refused += not positive
        refused = not positive and reason is Reason.MAILBOX_NOT_FOUND
        if reply.code == 421 or reason in ABOUT_US:
            self._brake.useless(queue.provider, job.domain, heard.probe(Stage.RCPT, reply, meaning=meaning))
            said = without_addresses(reply, job.address, heard.sender)
            self._report(queue.provider, job.domain, said, Stage.RCPT, way=heard.connection.way)
            heard.service_told = False
        else:
            if not heard.service_told:
                self._pool.report_service(queue.provider, source=heard.connection.way)
                heard.service_told = True
            self._brake.useful(queue.provider, job.domain)
        if job.batch is None:
            queue.asking.discard(job.domain)
            accepts = True if positive else False if refused else None
            self._learn(queue, job.domain, CatchAll(accepts, reply))
            return
        known = self._memory.get(job.domain)
        if refused and (known is None or known.accepts is None):
            known = CatchAll(False, reply)
            self._learn(queue, job.domain, known)
        probe = heard.probe(Stage.RCPT, reply, job=job, catch_all=known, meaning=meaning)
        if positive and job.probe_wanted and known is None:
            queue.accepted.setdefault(job.domain, []).append((job, probe))
        else:
            job.settle(probe)

    def _ask_impossible(self, queue: ProviderQueue, chunk: list[Job]) -> None:
        """Whoever was accepted by a domain that nothing is known of waits for the impossible recipient."""
        if not queue.accepted:
            return
        for job in {job.domain: job for job in chunk}.values():
            if job.domain in queue.accepted and self._must_ask(queue, job.domain):
                queue.add([self._impossible(queue, job)], front=True)

    def _ask_again(
        self,
        queue: ProviderQueue,
        heard: Heard,
        unanswered: Sequence[tuple[Job, Reply | None]],
        answers: Answers,
        *,
        progressed: bool,
        stage: Stage = Stage.RCPT,
    ) -> None:
        """Queue what has no answer once more, and blame who may have ended the session: the first, or all."""
        if not unanswered:
            return
        if not progressed and answers.ended:
            first, reply = unanswered[0]
            failure = None if reply else FAILURES[answers.ended]
            dead = heard.probe(stage, reply, failure=failure, detail=answers.detail)
            self._brake.useless(queue.provider, first.domain, dead)
        again = []
        spent = answers.ended is None and heard.connection.room == 0
        for position, (job, reply) in enumerate(unanswered):
            # A session that had no more room has done nobody wrong of whom it said nothing.
            if (reply or not spent) and (not progressed or position == 0):
                job.tries += 1
            hopeless = answers.ended is Ended.TIMEOUT and not progressed
            if job.tries >= MAX_TRIES or hopeless:
                failure = None if reply else FAILURES[answers.ended or Ended.TIMEOUT]
                probe = heard.probe(stage, reply, failure=failure, detail=answers.detail, job=job)
                self._refuse(queue, [job], probe)
            else:
                again.append(job)
        queue.add(reversed(again), front=True)

    def _refuse(self, queue: ProviderQueue, jobs: Sequence[Job], probe: Probe) -> None:
        """One fate for many: nothing was learned of these mailboxes themselves."""
        now = self._clock()
        for job in jobs:
            if job.batch is None:
                queue.asking.discard(job.domain)
                self._learn(queue, job.domain, CatchAll(None, probe.reply))
            else:
                queued_ms, smtp_ms = job.times(now)
                job.settle(probe._replace(queued_ms=queued_ms, smtp_ms=smtp_ms))


def _others_wait(queue: ProviderQueue, connection: AsyncSMTPConnection, last: int) -> bool:
    """Beside the ``last`` recipients of a session, which there must be, enough for that in its place."""
    return 0 < last <= queue.size - connection.policy.min_errors_left


def _late(provider: str, timeout: float) -> Probe:
    return Probe(Stage.RCPT, failure=Failure.TIMEOUT, detail=f"no answer within {timeout:g} s", provider=provider)


def _about_session(reply: Reply, *, first: bool) -> bool:
    """True when a reply to RCPT speaks of the session: ask again in another one.

    421 after other answers is the end of an error budget (Postfix's hard limit); as the first answer it is what the
    server has to say.
    """
    if reply.code == 421:
        return not first
    return too_many(reply)


def _unreachable(failed: ConnectFailed, provider: str) -> Probe:
    """No host would talk to us: the first one that said why speaks for all, else the first failure not our own."""
    theirs = [attempt for attempt in failed.attempts if not attempt.local] or failed.attempts
    said = next((attempt for attempt in theirs if attempt.reply is not None), theirs[0])
    failure = None if said.reply is not None else Failure(said.failure or Failure.CONNECT)
    return Probe(
        Stage(said.stage),
        said.reply,
        failure,
        said.detail,
        said.host.name,
        said.host.address,
        provider,
        way=said.way,
    )
