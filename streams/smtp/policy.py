"""How a provider is treated: limits as data, and decisions as pure functions of what a session has behind it.

Figures come from servers' documentation and from measurement (Postfix 3.7, Exim 4.96); what is only said of the large
providers in public is marked so. Zero means "no limit" wherever a count is meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from math import sqrt
from types import MappingProxyType
from typing import Any


class StartTLS(StrEnum):
    """When a session is encrypted. Nothing but addresses is sent, and TLS costs three or four round trips."""

    NEVER = "never"
    INSISTED = "insisted"
    OFFERED = "offered"


@dataclass(frozen=True, slots=True)
class ProviderPolicy:
    """What one provider's hosts are asked to bear, and how long they are waited for."""

    sessions: int = 4
    """Sessions open at a time, over all hosts of the provider: politeness, not speed alone."""

    sessions_max: int = 0
    """How far that number may grow while all are in use and every write is answered well; not at all where it is no
    more than ``sessions``. Postfix as a client goes from 5 to 20 (default_destination_concurrency_limit) and as a
    server takes 50 of one client; Exim takes 20 in all (smtp_accept_max), of which some are to be left to others."""

    rcpt_per_transaction: int = 100
    """RFC 5321 section 4.5.3.1.8 makes every server take this many; a smaller limit is learned from 452 4.5.3."""

    domains_per_transaction: int = 0

    error_budget: int = 10
    """Refusals a session may collect: Postfix delays every reply by 1 s from the 11th on (soft error limit)."""

    error_budget_max: int = 0
    """How far the budget may grow while the server slows down for none of them; 0: not at all, since the way to learn
    of a limit is to meet it. A session that stalls makes it smaller in any case."""

    errors_beyond: int = 9
    """Refusals beyond the budget that a write would meet at the worst: where few recipients are missing, more of them
    are asked at a time than the budget has left. Postfix ends a session at the 20th refusal (hard error limit). 0:
    never more than the budget."""

    connections_per_s: float = 0.0
    """New connections a second; 0: as many as are needed, until a server complains (421, or 4xx as its banner)."""

    recipients_per_s: float = 0.0
    """RCPTs a second, over all sessions; likewise."""

    min_errors_left: int = 3
    """With fewer left a session asks nothing more: a new one is cheaper than writes of one or two recipients."""

    parting: bool = True
    """With what are likely a session's last recipients QUIT is written, where others wait (RFC 2920 section 3.1),
    and the next is dialled while the replies are under way, or, where a write is likely the last but one, half a round
    trip before it is answered: when that handshake is over the server has read QUIT. No more than half the sessions
    part at a time, and none where a server once lost replies by it."""

    nonmail_budget: int = 8
    """RSET and NOOP of a session: Exim closes at the 11th (smtp_accept_max_nonmail), Postfix delays at the 101st."""

    pipelining: bool = True
    """Used where the server offers it; false: one command at a time whatever it offers."""

    starttls: StartTLS = StartTLS.INSISTED

    max_uses: int = 1000
    """Leases of one session."""

    max_age_s: float = 600.0
    """Less a random part of up to ``age_jitter`` of it, so that sessions opened together do not end together."""

    age_jitter: float = 0.2

    idle_expiry_s: float = 20.0
    """Shorter than any server's patience with a silent client, so that a session found idle is nearly always alive."""

    noop_after_s: float = 10.0
    """An idle session is asked with NOOP whether it lives after so long, and again; 0: never. With the default expiry
    that is once: a connection that died without a word costs a caller ``command_timeout_s`` if nobody looks."""

    warm: int = 0
    """Sessions that are kept, and opened anew when they end, once the provider was asked for; within ``sessions``."""

    connect_timeout_s: float = 10.0
    """For the TCP handshake, and again for the banner and for each reply until the session is ready."""

    command_timeout_s: float = 30.0
    """The longest silence while a reply is due."""

    stall_s: float = 1.0
    """The longest silence after the first RCPT reply of a write: what is unanswered then is asked elsewhere."""

    breaker_failures: int = 3
    """Dials of one host in a row that fail before it is left alone; twice as many different hosts: the provider."""

    breaker_base_s: float = 5.0
    """How long it is left alone at first; doubled with each failure that follows, up to ``breaker_max_s``."""

    breaker_max_s: float = 300.0

    block_domains: int = 3
    """So many domains must report that our address is blocked, with no word about a mailbox between them, before it is
    believed of the provider: one domain may have rules of its own."""

    block_base_s: float = 300.0
    """How long a provider that blocks us is asked nothing; doubled each time it still does, up to ``block_max_s``: a
    block grows with what is asked in spite of it."""

    block_max_s: float = 21600.0

    def __post_init__(self) -> None:
        for name in _NEVER_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more")
        for name in _DURATIONS:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0 seconds")
        if not 0 <= self.age_jitter < 1:
            raise ValueError("age_jitter must be 0 or more, and less than 1")
        if self.breaker_failures < 1 or self.block_domains < 1:
            raise ValueError("breaker_failures and block_domains must be 1 or more")
        if not 0 <= self.warm <= self.sessions:
            raise ValueError("warm must be 0 to sessions")
        if self.sessions < 1 or self.rcpt_per_transaction < 1:
            raise ValueError("sessions and rcpt_per_transaction must be 1 or more")
        if self.min_errors_left < 1 or 0 < self.error_budget < self.min_errors_left:
            raise ValueError("min_errors_left must be 1 or more, and error_budget 0 or at least min_errors_left")


_NEVER_NEGATIVE = (
    "sessions_max",
    "domains_per_transaction",
    "error_budget",
    "error_budget_max",
    "errors_beyond",
    "connections_per_s",
    "recipients_per_s",
    "nonmail_budget",
    "max_uses",
    "noop_after_s",
)
_DURATIONS = (
    "max_age_s",
    "idle_expiry_s",
    "connect_timeout_s",
    "command_timeout_s",
    "stall_s",
    "breaker_base_s",
    "breaker_max_s",
    "block_base_s",
    "block_max_s",
)

LARGE_PROVIDERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # One domain a transaction (said in public, not measured).
        "google": {"domains_per_transaction": 1, "sessions_max": 0},
        "google-workspace": {"domains_per_transaction": 1, "sessions_max": 0},
        # 452 4.5.3 at the second recipient (said in public, not measured).
        "outlook.com": {"rcpt_per_transaction": 1, "sessions_max": 0},
        # Exchange holds the reply to each unknown recipient back for 5 s (tarpit interval, Microsoft's documentation).
        "microsoft-365": {"stall_s": 8.0, "sessions_max": 0},
        # What these bear from a stranger is not public: as many sessions as the operator says, and no more.
        "yahoo": {"sessions_max": 0},
        "icloud": {"sessions_max": 0},
    }
)
"""What differs from the default for the large providers, by the names that ``streams.checks.providers`` gives them."""


@dataclass(frozen=True, slots=True)
class PolicyBook:
    """The policy of every provider: the default, then :data:`LARGE_PROVIDERS`, then the operator's own words."""

    default: ProviderPolicy = field(default_factory=ProviderPolicy)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    large: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: LARGE_PROVIDERS)

    def __post_init__(self) -> None:
        for provider in self.overrides:
            self.policy(provider)

    def policy(self, provider: str) -> ProviderPolicy:
        """The policy of ``provider``.

        :raises TypeError: an override names no field of :class:`ProviderPolicy`; found when the book is made.
        """
        changes = {**self.large.get(provider, {}), **self.overrides.get(provider, {})}
        return replace(self.default, **changes) if changes else self.default


RELEARN_S = 3600.0
"""Limits that a server has taught us are tried anew after so long: what stands behind a name changes."""

STEPWISE_S = 900.0
"""How long a provider that lost its step is asked one command at a time; then pipelining is tried again."""

LOST_STEPS = 2
"""So many writes that may have been lost for being pipelined, with none that was answered between them, are proof."""

LOST_APART_S = 5.0
"""Sessions that break together are one sign: a server that is restarted ends them all."""

LISTEN_S = 0.2
"""How long one who has said what nobody had asked for is listened to after each write; a round trip and some."""

RECENT = 200
"""Answers after which older ones count half: a list's next part may be another."""

DOUBT = 5
"""So many refusals are taken for granted before anything was answered."""

FEW = 0.25
"""The part of refusals up to which more is asked at a time than could be refused; beyond that little is won by it."""

SAFETY = 3.0
"""Standard deviations: of hundreds of such writes hardly one meets more refusals than the session has left."""

SLOW_BATCH = 5
"""Slow replies make writes no smaller than this."""


class Lost(IntEnum):
    """Whether a write was lost since it held several commands; how many signs it counts for."""

    NO = 0
    PERHAPS = 1
    SURELY = LOST_STEPS


@dataclass(slots=True)
class Learned:
    """What a provider's servers have taught us by their replies; shared by its sessions."""

    rcpt_per_transaction: int | None = None
    """Recipients that fitted into a transaction before 452 4.5.3."""

    one_domain: bool = False
    """A transaction with a second domain was told "later" for that."""

    batch: int | None = None
    """Recipients of one write since the last stall; doubles with every write that is answered without one."""

    error_budget: int | None = None
    """Refusals that a session may collect; grows and shrinks by what the last ones met."""

    slows_errors: bool = False
    """A session stalled after some refusals: the budget grows no more."""

    stepwise_until: float = 0.0
    """Until then one command at a time, though PIPELINING is offered."""

    listen_until: float = 0.0
    """Until then it is waited after each write for a reply too many: once it came after the answers were taken."""

    recent_answers: int = field(default=0, compare=False)
    """RCPTs that were answered of late, and of these the refused. No lesson to be kept: it is soon learned anew."""

    recent_refusals: int = field(default=0, compare=False)

    taught: tuple[int | None, bool, bool, bool] = field(default=(None, False, False, False), compare=False)
    """The limits as they were when last looked at, and since when they are so."""

    taught_at: float = field(default=float("-inf"), compare=False)

    lost_steps: int = 0
    lost_at: float = float("-inf")

    parts_badly: bool = False
    """Replies were lost in a write that ended with QUIT, or a connection was turned away while such a write was under
    way: the server counts sessions until they are gone."""

    wants_tls: set[tuple[str, int]] = field(default_factory=set)
    """Addresses and ports that answered MAIL with 530: the next session begins with STARTTLS."""

    def stalled(self, answered: int) -> None:
        """A write was answered in part, then came silence: ask no more at a time than was answered."""
        self.batch = max(1, answered)

    def answered(self, asked: int) -> None:
        """A write was answered whole."""
        if self.batch is not None and asked >= self.batch:
            self.batch *= 2

    def counted(self, answers: int, refusals: int) -> None:
        """So many recipients more were answered, and so many of them refused."""
        if self.recent_answers > RECENT:
            self.recent_answers //= 2
            self.recent_refusals //= 2
        self.recent_answers += answers
        self.recent_refusals += refusals

    def forget(self, now: float) -> None:
        """Give up limits that have stood for :data:`RELEARN_S`; to be called now and then."""
        limits = (self.rcpt_per_transaction, self.one_domain, self.slows_errors, self.parts_badly)
        if limits != self.taught:
            self.taught, self.taught_at = limits, now
        elif any(limits) and now >= self.taught_at + RELEARN_S:
            if self.slows_errors:
                self.error_budget = None
            self.rcpt_per_transaction, self.one_domain, self.slows_errors, self.parts_badly = None, False, False, False

    def slowed(self, asked: int) -> None:
        """A write was answered whole, but late: ask less at a time."""
        self.batch = max(min(asked, SLOW_BATCH), asked // 2)

    def stepped(self, lost: Lost, now: float) -> bool:
        """What became of a write of several commands; true when from now on it is one at a time.

        When that time is over, one sign is enough to begin it anew, and one write that is answered to forget.
        """
        if lost is Lost.NO:
            self.lost_steps = 0
            return False
        if lost is Lost.PERHAPS and now < self.lost_at + LOST_APART_S:
            return False
        self.lost_at = now
        self.lost_steps += lost
        if self.lost_steps < LOST_STEPS:
            return False
        self.lost_steps = LOST_STEPS - 1
        self.stepwise_until = now + STEPWISE_S
        return True

    def erred(self, errors: int, policy: ProviderPolicy, *, stalled: bool) -> None:
        """A session that has collected ``errors`` refusals stalled, or answered a write whole."""
        budget = error_budget(policy, self)
        if not policy.error_budget or errors < policy.min_errors_left:
            return
        if stalled:
            self.slows_errors = True
            self.error_budget = max(policy.min_errors_left, min(budget, errors - 1))
        elif not self.slows_errors and budget - errors < policy.min_errors_left and budget < policy.error_budget_max:
            self.error_budget = min(budget + policy.min_errors_left, policy.error_budget_max)

    def too_many(self, fitted: int) -> None:
        """The server said "too many recipients" after ``fitted`` recipients of a transaction."""
        self.rcpt_per_transaction = max(1, min(fitted, self.rcpt_per_transaction or fitted))


@dataclass(slots=True)
class Usage:
    """What a session has behind it: kept by the session, read by the decisions below."""

    errors: int = 0
    """4xx and 5xx replies to commands, counted as Postfix counts them."""

    nonmail: int = 0
    """RSET and NOOP sent."""

    recipients: int = 0
    """RCPTs of the open transaction, refused ones too."""

    domains: set[str] = field(default_factory=set)
    """Their domains, in lower case."""

    answered: int = 0
    """RCPTs that were answered."""

    spent: bool = False
    """A recipient needed a transaction of its own, and no RSET was left to begin one."""


def transaction_limit(policy: ProviderPolicy, learned: Learned) -> int:
    """RCPTs that one transaction may carry."""
    fitted, limit = learned.rcpt_per_transaction, policy.rcpt_per_transaction
    return fitted if fitted and fitted < limit else limit


def error_budget(policy: ProviderPolicy, learned: Learned) -> int:
    """Refusals that a session may collect; 0: no limit."""
    return policy.error_budget and (learned.error_budget or policy.error_budget)


def errors_left(policy: ProviderPolicy, usage: Usage, learned: Learned) -> int | None:
    """Refusals that the session may still collect; None: no limit."""
    return max(0, error_budget(policy, learned) - usage.errors) if policy.error_budget else None


def nonmail_left(policy: ProviderPolicy, usage: Usage) -> int | None:
    """RSET and NOOP that the session may still send; None: no limit."""
    return max(0, policy.nonmail_budget - usage.nonmail) if policy.nonmail_budget else None


def retire_cause(policy: ProviderPolicy, usage: Usage, learned: Learned) -> str | None:
    """Why the session shall ask nothing more, or None when it may go on."""
    if policy.error_budget and error_budget(policy, learned) - usage.errors < policy.min_errors_left:
        return "error budget"
    spent = policy.nonmail_budget and usage.nonmail >= policy.nonmail_budget
    if usage.spent or (spent and usage.recipients >= transaction_limit(policy, learned)):
        return "nonmail budget"
    return None


def may_reuse(
    policy: ProviderPolicy, usage: Usage, learned: Learned, *, uses: int, age_s: float, max_age_s: float
) -> str:
    """Why an idle session can't be given out again, or "" when it can. ``max_age_s`` has its jitter in it."""
    if age_s >= max_age_s:
        return "max age"
    if policy.max_uses and uses >= policy.max_uses:
        return "max uses"
    return retire_cause(policy, usage, learned) or ""


def may_pipeline(policy: ProviderPolicy, learned: Learned, now: float) -> bool:
    """True when several commands may go out in one write, where the server offers that."""
    return policy.pipelining and now >= learned.stepwise_until


def likely_within(errors: int, learned: Learned) -> int:
    """Recipients of whom, as things go with this provider, hardly ever more than ``errors`` are refused; 0: unknown.

    The number of refused among n is binomial: the largest n with n p + :data:`SAFETY` deviations at most ``errors``.
    """
    p = (learned.recent_refusals + DOUBT) / (learned.recent_answers + DOUBT)
    if p > FEW:
        return 0
    spread = SAFETY * sqrt(p * (1 - p))
    return int(((sqrt(spread * spread + 4 * p * errors) - spread) / (2 * p)) ** 2)


def _write_size(policy: ProviderPolicy, usage: Usage, learned: Learned) -> int | None:
    """Recipients that a session's error budget allows in one write; None: no limit."""
    left = errors_left(policy, usage, learned)
    if not left or not policy.errors_beyond or learned.slows_errors:
        return left
    return max(left, min(likely_within(left, learned), left + policy.errors_beyond))


def chunk_size(policy: ProviderPolicy, usage: Usage, learned: Learned) -> int:
    """Recipients that may be asked in one write.

    No limit is passed even if all of them are refused; but for the error budget where few have been: then it is
    improbable, and ``errors_beyond`` bounds what could come of it. A stall after refusals ends that.
    """
    if retire_cause(policy, usage, learned):
        return 0
    limit = transaction_limit(policy, learned)
    resets = nonmail_left(policy, usage)
    size = max(0, limit - usage.recipients) + limit * (1 if resets is None else resets)
    if (errors := _write_size(policy, usage, learned)) is not None and errors < size:
        size = errors
    return size if learned.batch is None else min(size, learned.batch)


def last_room(policy: ProviderPolicy, usage: Usage, learned: Learned) -> int:
    """Recipients that a session may be asked together with QUIT; 0: it stays.

    It parts where, as things go with this provider, another write would leave it with too little to go on. One refusal
    fewer than the budget has left: from there on Postfix holds back every reply for a second, and with that to QUIT
    those before it. Where few are missing a session lasts long, and there is nothing to be won; nor where a write may
    not hold so many (a server that stalls), since most of the budget would be thrown away.
    """
    left, p = errors_left(policy, usage, learned), _missing(learned)
    if not left or not policy.parting or learned.parts_badly:
        return 0
    if p <= FEW or left * (1 - p) > policy.min_errors_left:
        return 0
    return left - 1 if left <= chunk_size(policy, usage, learned) + 1 else 0


def last_room_after(policy: ProviderPolicy, usage: Usage, learned: Learned, recipients: int) -> int:
    """What :func:`last_room` is likely to be after so many recipients more; 0, too, where the session is spent then."""
    errors = usage.errors + round(recipients * _missing(learned))
    return last_room(policy, Usage(errors, usage.nonmail, usage.recipients + recipients), learned)


def final_room(policy: ProviderPolicy, usage: Usage, learned: Learned) -> int:
    """Recipients that a session may be asked together with QUIT though it could be of more use; 0: none any more."""
    left = errors_left(policy, usage, learned)
    return min(left - 1, chunk_size(policy, usage, learned)) if left and not learned.parts_badly else 0


def _missing(learned: Learned) -> float:
    """The part of recipients that were refused of late."""
    return learned.recent_refusals / learned.recent_answers if learned.recent_answers else 0.0


def may_check(policy: ProviderPolicy, usage: Usage) -> bool:
    """True when an idle session may be asked with NOOP: one of the budget stays for RSET."""
    left = nonmail_left(policy, usage)
    return bool(policy.noop_after_s) and (left is None or left > 1)


def max_age(policy: ProviderPolicy, chance: float) -> float:
    """Seconds that a session may live; ``chance`` is a random number of 0 to 1, drawn once a session."""
    return policy.max_age_s * (1 - policy.age_jitter * chance)


def starts_new_transaction(
    policy: ProviderPolicy, learned: Learned, recipients: int, domains: set[str], domain: str
) -> bool:
    """True when a recipient at ``domain`` does not fit into a transaction that has ``recipients`` and ``domains``."""
    if recipients >= transaction_limit(policy, learned):
        return True
    limit = 1 if learned.one_domain else policy.domains_per_transaction
    return bool(limit) and len(domains | {domain}) > limit
