"""How an SMTP host talks, as data: every way of behaving is a field here, and :mod:`ops.world.session` obeys it."""

from dataclasses import dataclass
from enum import Enum, StrEnum


class Pause(Enum):
    """How long something takes; :class:`ops.world.config.WorldConfig` says how many seconds each one is."""

    NONE = "none"
    BLINK = "blink"
    SLOW = "slow"
    TARPIT = "tarpit"
    FOREVER = "forever"


class Tls(StrEnum):
    """What a host thinks of STARTTLS (RFC 3207)."""

    ABSENT = "absent"
    OFFERED = "offered"
    REQUIRED = "required"


class Breakage(StrEnum):
    """What is wrong with a host's replies to RCPT."""

    NONE = "none"
    GARBAGE = "garbage"
    NO_CODE = "no_code"
    LONG_LINE = "long_line"


DEFAULT_EXTENSIONS = ("PIPELINING", "SIZE 10240000", "8BITMIME", "ENHANCEDSTATUSCODES")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """One host's behaviour. Replies may use ``{host}``, ``{client}``, ``{sender}`` and ``{rcpt}``.

    The limits default to Postfix's: from the error after ``soft_errors`` on every reply is late, at ``hard_errors``
    421 and the end; after ``junk_commands`` RSET, NOOP and VRFY count as errors. 0 switches a limit off.
    """

    banner: str = "220 {host} ESMTP"
    banner_pause: Pause = Pause.NONE
    reply_pause: Pause = Pause.NONE
    idle_limit: Pause = Pause.FOREVER
    max_connections: int = 0

    esmtp: bool = True
    extensions: tuple[str, ...] = DEFAULT_EXTENSIONS
    tls: Tls = Tls.ABSENT
    tls_hangs: bool = False
    punishes_early_talk: bool = False

    mail_ok: str = "250 2.1.0 Ok"
    rcpt_ok: str = "250 2.1.5 Ok"
    at_mail: str | None = None
    at_rcpt: str | None = None
    not_served: str | None = "554 5.7.1 <{rcpt}>: Relay access denied"
    greylist: str | None = None
    hangs_up_at: str | None = None
    hangs_up_after: int = 0

    max_recipients: int = 1000
    one_domain: bool = False
    soft_errors: int = 10
    hard_errors: int = 20
    junk_commands: int = 100
    nonmail_commands: int = 0

    multiline: bool = False
    one_byte_pieces: bool = False
    unasked: str | None = None
    breakage: Breakage = Breakage.NONE


POLITE = Manners()
"""A well-behaved server with Postfix's limits."""
