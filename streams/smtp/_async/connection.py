"""One connection of a pool: asks, and tells what the pool must know of it."""

import time
from collections.abc import Callable, Sequence

from streams.smtp import policy as rules
from streams.smtp._async.link import AsyncLink
from streams.smtp._async.waiting import Turn
from streams.smtp.errors import DialFailed, DialFailure, LocalProtocolError
from streams.smtp.exchange import Answers, Capabilities, Exchange
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.lifecycle import ConnectionView, Kind, Life, Recorder
from streams.smtp.pace import Pace
from streams.smtp.policy import Learned, ProviderPolicy, StartTLS
from streams.smtp.session import Ended, Session, Verb, line
from streams.smtp.window import ErrorWindow

_QUIT = line("QUIT")
_NOOP = line("NOOP")


def _tell_nobody() -> None:
    """Who asks need not know when the place is free."""


class AsyncSMTPConnection:
    """A session with one host of one provider, leased by :class:`~streams.smtp._async.pool.AsyncSMTPPool`."""

    __slots__ = (
        "_began",
        "_clock",
        "_first_s",
        "_greeted",
        "_learned",
        "_link",
        "_pace",
        "_part",
        "_recorder",
        "_stalled",
        "_whole_s",
        "_window",
        "born",
        "checked_at",
        "host",
        "identity",
        "idle_since",
        "key",
        "max_age_s",
        "place",
        "policy",
        "provider",
        "session",
        "state",
        "uses",
        "way",
    )

    def __init__(
        self,
        provider: str,
        *,
        policy: ProviderPolicy,
        learned: Learned,
        identity: Identity,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
        chance: float = 0.0,
        window: ErrorWindow | None = None,
        pace: Pace | None = None,
        way: str = "",
    ) -> None:
        self.provider = provider
        self.way = way
        """The name of the way out; "" where the pool was given none."""
        self.identity = identity
        self.place = (provider, way)
        self.policy = policy
        self.host: Host | None = None
        self.key = ("", 0)
        """Address and port of the socket."""
        self.session = Session()
        self.state = recorder.move(provider, None, None, Life.DIALLING, "lease", way=way)
        self.born = self.idle_since = self.checked_at = clock()
        self.max_age_s = rules.max_age(policy, chance)
        self.uses = 0
        self._learned = learned
        self._recorder = recorder
        self._clock = clock
        self._link: AsyncLink | None = None
        self._part: Callable[[AsyncSMTPConnection], bool]
        self._stalled = False
        self._began = self._greeted = self.born
        """The dial of its host, and the banner."""
        self._first_s: float | None = None
        self._whole_s = 0.0
        """How long the last ask waited for its first reply, and for the last."""
        self._window = window or ErrorWindow()
        self._pace = pace or Pace(policy)

    def __repr__(self) -> str:
        where = f"{self.host.name} [{self.host.address}]:{self.host.port}" if self.host else "nowhere yet"
        return f"<{type(self).__name__} {self.provider} {where}, {self.state}, {self.uses} uses>"

    # What a caller may ask

    @property
    def capabilities(self) -> Capabilities:
        """What the server offers, as of its last EHLO reply."""
        return self._open_link().capabilities

    @property
    def errors_left(self) -> int | None:
        """Refusals that the session may still collect; None: no limit."""
        return rules.errors_left(self.policy, self.session.usage, self._learned)

    @property
    def room(self) -> int:
        """Recipients that one :meth:`ask` will put to the server; 0: take another session."""
        if self.session.over or self._stalled:
            return 0
        if self.state is Life.DRAINING:
            return rules.final_room(self.policy, self.session.usage, self._learned) if self._may_leave else 0
        return rules.chunk_size(self.policy, self.session.usage, self._learned)

    @property
    def last_room(self) -> int:
        """Recipients that it may part with, as it is likely to be of no use after them; 0: it has more before it."""
        return rules.last_room(self.policy, self.session.usage, self._learned) if self._may_part else 0

    def last_room_after(self, recipients: int) -> int:
        """The same as is to be expected after so many more."""
        usage = self.session.usage
        return rules.last_room_after(self.policy, usage, self._learned, recipients) if self._may_part else 0

    @property
    def leaving(self) -> bool:
        """Its place is given away before its last write."""
        return self.state is Life.DRAINING and not self.session.over

    @property
    def _may_part(self) -> bool:
        """QUIT can go with its next recipients."""
        return not (self.session.over or self._stalled) and self._pipelines

    @property
    def _may_leave(self) -> bool:
        """Nothing will keep it from its last write, and QUIT goes with that."""
        waits = self._pace.recipients.rate or self._clock() < self._learned.listen_until
        return self._pipelines and not waits

    @property
    def _pipelines(self) -> bool:
        """All that is asked is one write."""
        offered = self.capabilities.pipelining
        return offered and rules.may_pipeline(self.policy, self._learned, self._clock())

    async def ask(
        self,
        recipients: Sequence[str],
        *,
        smtputf8: bool = False,
        fresh: bool = False,
        parting: bool = False,
        leaving: bool = False,
        on_parted: Callable[[], None] = _tell_nobody,
        timeout: float | None = None,
    ) -> Answers:
        """Ask whether the server takes mail for ``recipients``; at most the first :attr:`room` of them are asked.

        Goes on with the open transaction where it can; ``fresh`` begins a new one. With PIPELINING all is one write.
        ``parting``: these are its last, and its place goes to others as soon as they are written, and ``on_parted`` is
        called; where that can't be done, it stays. ``leaving``: the next will be its last; place and call go before
        these are answered, when the next session's handshake will end after its QUIT, as far as the provider's times
        tell. ``timeout`` bounds the whole in seconds; silence is bounded by the policy anyhow. Never raises for what
        the server does: see :class:`~streams.smtp.exchange.Answers`.

        :raises LocalProtocolError: an address that must not be written, SMTPUTF8 where the server has it not, or
            another ask under way; nothing was written.
        """
        deadline = self._clock() + (timeout if timeout is not None else float("inf"))
        answers = await self._exchange(
            recipients, smtputf8, fresh, deadline, parting=parting, leaving=leaving, on_parted=on_parted
        )
        if self._must_encrypt(answers):
            self._learned.wants_tls.add(self.key)
            if self.session.parting:
                return Answers(None, answers.replies, None, "the server insists on TLS, and QUIT has been said")
            if (failure := await self._start_tls(deadline)) is not None:
                return Answers(None, answers.replies, self.session.ended, failure)
            if smtputf8 and not self.capabilities.smtputf8:
                return Answers(None, answers.replies, None, "SMTPUTF8 is not offered any more, now that TLS is on")
            answers = await self._exchange(recipients, smtputf8, fresh, deadline)
        return answers

    async def _exchange(
        self,
        recipients: Sequence[str],
        smtputf8: bool,
        fresh: bool,
        deadline: float,
        *,
        parting: bool = False,
        leaving: bool = False,
        on_parted: Callable[[], None] = _tell_nobody,
    ) -> Answers:
        link = self._open_link()
        if self.session.in_flight and not self.session.ended:
            raise LocalProtocolError("another ask is under way on this session")
        if smtputf8 and not link.capabilities.smtputf8:
            raise LocalProtocolError("the server does not offer SMTPUTF8")
        room = self.room if self.alive() else 0
        if not room:
            return self._nothing(len(recipients))
        exchange = Exchange(
            self.session,
            self.identity.mail_from,
            recipients,
            policy=self.policy,
            learned=self._learned,
            room=room,
            pipelining=self._pipelines,
            smtputf8=smtputf8,
            fresh=fresh,
        )
        planned = exchange.planned
        if not planned:
            return Answers(None, (None,) * len(recipients), None, "a new transaction needs a RSET, and none is left")
        if not await self._paced(planned, deadline):
            return Answers(None, (None,) * len(recipients), None, "the provider may not be asked so much in time")
        if not self.alive():
            return self._nothing(len(recipients))
        self._first_s = None
        left = self.leaving
        parts = parting and exchange.may_part and (left or self._part(self))
        if parts:
            exchange.part()
        may_leave = leaving and self._may_leave and not (parts or left)
        leave_s = self._pace.latency.leave_s if may_leave else float("inf")
        while data := exchange.data_to_send():
            link.write(data)
            if parts and not left:
                on_parted()
            await self._hear(exchange, link, deadline, leave_s, on_parted)
            await self._overhear(exchange, link, deadline)
        self._account(exchange)
        return exchange.answers()

    async def _hear(
        self, exchange: Exchange, link: AsyncLink, deadline: float, leave_s: float, on_parted: Callable[[], None]
    ) -> None:
        """Read until every command is answered, or the session has ended; give its place away after ``leave_s``."""
        began = silent_since = self._clock()
        leave_at = began + leave_s
        heard = -1
        while exchange.waiting:
            now = self._clock()
            if now >= leave_at:
                leave_at = float("inf")
                if self._part(self):
                    on_parted()
            if self.session.in_flight != heard:
                silent_since, heard = now, self.session.in_flight
            stall = exchange.heard > 0
            patience = self.policy.stall_s if stall else self.policy.command_timeout_s
            until = min(silent_since + patience, deadline)
            try:
                exchange.receive(await link.read(max(0.0, min(until, leave_at) - now)))
                self._whole_s = self._clock() - began
                if self._first_s is None:
                    self._first_s = self._whole_s
            except TimeoutError:
                if until <= leave_at:
                    self._silence(exchange, stalled=stall and self._clock() < deadline)

    async def _overhear(self, exchange: Exchange, link: AsyncLink, deadline: float) -> None:
        """Take what was said unasked before it passes for the answer to the next write."""
        surplus = link.unread()
        now = self._clock()
        if surplus is None and now < self._learned.listen_until:
            try:
                surplus = await link.read(max(0.0, min(rules.LISTEN_S, deadline - now)))
            except TimeoutError:
                return
        if surplus is not None:
            exchange.receive(surplus)

    async def _paced(self, recipients: int, deadline: float) -> bool:
        """Wait until so many may be asked for; false when that is not before the deadline."""
        with self._recorder.lock:
            now = self._clock()
            wait = self._pace.recipients.reserve(recipients, now)
        if wait:
            await Turn().wait(min(wait, deadline - now))
        if now + wait <= deadline:
            return True
        with self._recorder.lock:
            self._pace.recipients.give_back(recipients)
        return False

    def _account(self, exchange: Exchange) -> None:
        """What an exchange says of the provider: did it end well, was it too fast, and too much at a time?"""
        with self._recorder.lock:
            now, ended = self._clock(), self.session.ended
            self._window.add(now, failed=ended is not None)
            self._learn_of_surplus()
            self._learned.counted(exchange.heard, exchange.refused)
            self._learned.forget(now)
            slow = self._is_slow(exchange)
            if self._first_s is not None and exchange.opens and exchange.pipelined:
                self._pace.latency.answered(self._whole_s)
            if ended is None:
                (self._learned.slowed if slow else self._learned.answered)(exchange.heard)
                self._learned.erred(self.session.usage.errors, self.policy, stalled=False)
            self._learned.parts_badly |= exchange.parted_badly
            changes = self._pace.judge(now, told_off=exchange.told_off, slow=slow, stalled=self._stalled, ended=ended)
            if exchange.pipelined and self._learned.stepped(exchange.lost, now):
                changes.append("one at a time")
        for change in changes:
            self._recorder.notice(Kind.PACE, self.provider, change, host=self.host, way=self.way)

    def _is_slow(self, exchange: Exchange) -> bool:
        """Only MAIL and RSET tell: many a server holds back what it says of a recipient that it does not know."""
        return self._first_s is not None and exchange.opens and self._pace.latency.slow(self._first_s)

    def _silence(self, exchange: Exchange, *, stalled: bool) -> None:
        if stalled:
            self._learned.stalled(exchange.heard)
            self._learned.erred(self.session.usage.errors, self.policy, stalled=True)
            self._stalled = True
            self.session.end(Ended.TIMEOUT, f"stalled with {self.session.in_flight} replies due")
        else:
            self.session.end(Ended.TIMEOUT, "no reply in time")

    def _nothing(self, recipients: int) -> Answers:
        session = self.session
        return Answers(
            None, (None,) * recipients, session.ended or Ended.CLOSED, session.detail or "the session is spent"
        )

    async def lives(self, timeout: float) -> bool:
        """Ask an idle session with NOOP, and wait up to ``timeout`` seconds for whatever it says."""
        link = self._open_link()
        if not self.alive():
            return False
        self.session.say(Verb.NOOP)
        link.write(_NOOP)
        deadline = self._clock() + timeout
        while self.session.in_flight and not self.session.ended:
            try:
                self.session.receive(await link.read(max(0.0, deadline - self._clock())))
            except TimeoutError:
                self.session.end(Ended.TIMEOUT, "no reply to NOOP")
        return self.session.ended is None

    # STARTTLS where the server insists

    def _must_encrypt(self, answers: Answers) -> bool:
        """530 at MAIL (RFC 3207 section 4)."""
        return (
            answers.mail is not None
            and answers.mail.code == 530
            and answers.ended is None
            and self.policy.starttls is not StartTLS.NEVER
            and self.capabilities.starttls
            and not self.capabilities.tls
        )

    async def _start_tls(self, deadline: float) -> str | None:
        """Encrypt the session; a sentence when that failed."""
        try:
            await self._open_link().start_tls(min(self.policy.command_timeout_s, max(0.0, deadline - self._clock())))
        except DialFailed as error:
            timed_out = error.attempt.failure is DialFailure.TIMEOUT
            self.session.end(Ended.TIMEOUT if timed_out else Ended.PROTOCOL, str(error))
            return str(error)
        self.session.secured()
        return None

    # What the pool needs

    def move(self, after: Life, cause: str) -> None:
        """Take the next state and tell of it."""
        self.state = self._recorder.move(self.provider, self.host, self.state, after, cause, way=self.way)

    def dialling(self, host: Host) -> None:
        """The dial goes to ``host`` now; it may be the second one, or the same again."""
        self.host, self.key = host, (host.address, host.port)
        self._began = self._greeted = self._clock()
        if self.state is not Life.DIALLING:
            self.move(Life.DIALLING, "next host")

    def greeted(self) -> None:
        """The banner has come."""
        self.move(Life.GREETING, "banner")
        self._greeted = self._clock()

    def opened(
        self,
        link: AsyncLink,
        on_loss: Callable[["AsyncSMTPConnection"], None],
        part: Callable[["AsyncSMTPConnection"], bool],
    ) -> None:
        """The dial succeeded. ``on_loss`` is called when the session ends while nobody uses it; ``part`` when its place
        could be given to others, and is true where it was."""
        self._link = link
        self._part = part

        def on_activity() -> None:
            if not self.alive():
                on_loss(self)

        link.watch(on_activity)
        self.move(Life.READY, "ehlo")
        # The server has a client from the third packet of the handshake: its banner is two round trips from the first.
        round_trip = min((self._greeted - self._began) / 2, self._clock() - self._greeted)
        with self._recorder.lock:
            self._pace.latency.dialled(round_trip)

    def alive(self) -> bool:
        """True unless the server has closed the session, or spoken, while nobody asked."""
        if not self.session.in_flight and (data := self._open_link().unread()) is not None:
            self.session.receive(data)
            self._learn_of_surplus()
        return self.session.ended is None

    def _learn_of_surplus(self) -> None:
        if self.session.surplus:
            self._learned.listen_until = self._clock() + rules.STEPWISE_S

    def ending(self) -> tuple[Life, str] | None:
        """How this session ends now that nobody uses it, and why; None when it can be used again."""
        if self._stalled:
            return Life.DRAINING, "stalled"
        if self.session.in_flight and not self.session.ended:
            return Life.BROKEN, "cancelled"
        if not self.alive():
            return Life.BROKEN, str(self.session.ended)
        if self.state is Life.DRAINING:
            return Life.DRAINING, "last recipients"
        cause = rules.may_reuse(
            self.policy,
            self.session.usage,
            self._learned,
            uses=self.uses,
            age_s=self._clock() - self.born,
            max_age_s=self.max_age_s,
        )
        return (Life.DRAINING, cause) if cause else None

    @property
    def check_at(self) -> float:
        """When it shall be asked whether it lives, while it is idle."""
        checked = self.checked_at + self.policy.noop_after_s
        return checked if rules.may_check(self.policy, self.session.usage) else float("inf")

    def close(self, life: Life, cause: str) -> None:
        """End the connection: QUIT, not waited for, when ``life`` is draining and it has not been said; without a word
        when it is broken."""
        if self.state is not life:
            self.move(life, cause)
        if self._link is not None:
            self._link.close(_QUIT if life is Life.DRAINING and not self.session.over else b"")
        self.session.end(Ended.CLOSED, cause)
        self.move(Life.CLOSED, cause)

    def abort(self) -> None:
        """The pool closes while the session is in use: whoever uses it learns that it has ended."""
        self.session.end(Ended.CLOSED, "the pool was closed")
        if self._link is not None:
            self._link.cut()

    def view(self) -> ConnectionView:
        """For the snapshot."""
        age = self._clock() - self.born
        return ConnectionView(self.provider, self.host, self.state, age, self.uses, self.errors_left, self.way)

    def _open_link(self) -> AsyncLink:
        if self._link is None:
            raise LocalProtocolError("asked of a connection that was never dialled")
        return self._link
