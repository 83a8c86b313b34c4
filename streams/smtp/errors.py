"""What can go wrong, and who erred: the type says it. Each is also the standard library's error of its kind."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from schemas.vocabulary import Stage
from streams.smtp.hosts import Host

if TYPE_CHECKING:  # the parser in replies raises what is defined here
    from streams.smtp.replies import Reply


class SMTPError(Exception):
    """Everything that this package raises."""


class LocalProtocolError(SMTPError, ValueError):
    """We were about to say what must not be said; nothing was written. Our caller's mistake."""


class RemoteProtocolError(SMTPError, ConnectionError):
    """The server said what is not SMTP; the session can't be trusted any more."""


class PoolTimeout(SMTPError, TimeoutError):
    """No session was free in time: every one that the limits allow was in use."""


class PoolClosed(SMTPError, ConnectionError):
    """The pool gives out no more sessions."""


class DialFailure(StrEnum):
    """Why a dial ended without a reply that says why."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    PROTOCOL = "protocol"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class DialAttempt:
    """One host that was tried in vain: how far it went, and the server's reply or the failure in its place."""

    host: Host
    stage: Stage
    reply: Reply | None = None
    failure: DialFailure | None = None
    detail: str = ""
    old: bool = False
    """Nobody was dialled: this is what was learned before."""
    local: bool = False
    """This machine could not dial (no file descriptor, no port, no memory): it says nothing about the host."""
    way: str = ""
    """The name of the way that was tried, where there are several."""
    way_failed: bool = False
    """The way itself is to blame: its proxy can't be reached, or this machine does not have its address. Goes with
    ``local``."""

    @property
    def unreached(self) -> bool:
        """True when the network failed before the server could say or do anything: another way may be taken."""
        return (
            self.stage is Stage.CONNECT
            and self.reply is None
            and self.failure in (DialFailure.CONNECT, DialFailure.TIMEOUT)
        )

    def __str__(self) -> str:
        why = "; ".join(str(part) for part in (self.reply, self.detail) if part) or str(self.failure)
        where = f"{self.host.name} [{self.host.address}]:{self.host.port}" + (f" via {self.way}" if self.way else "")
        return f"{where} at {self.stage}: {why}"


def unreachable(host: Host, detail: str) -> DialAttempt:
    """What to tell of a host that was not dialled, since our way out does not lead there."""
    return DialAttempt(host, Stage.CONNECT, failure=DialFailure.CONNECT, detail=detail, old=True, local=True)


_LOCAL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


def is_local(error: BaseException | None) -> bool:
    """True when an error of a dial, or one of those that led to it, is this machine's own want."""
    return _has_errno(error, _LOCAL)


def lacks_address(error: BaseException | None) -> bool:
    """True when a dial failed since this machine does not have the address that it was to come from."""
    return _has_errno(error, frozenset({errno.EADDRNOTAVAIL}))


def _has_errno(error: BaseException | None, numbers: frozenset[int]) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in numbers:
            return True
        error = error.__cause__ or error.__context__
    return False


class DialFailed(SMTPError, ConnectionError):
    """One host could not be opened (raised by a dialler, collected by the pool)."""

    def __init__(self, attempt: DialAttempt) -> None:
        super().__init__(str(attempt))
        self.attempt = attempt


class ConnectFailed(SMTPError, ConnectionError):
    """No host could be opened. ``attempts`` has one entry for each that was tried, in order; never empty."""

    def __init__(self, attempts: tuple[DialAttempt, ...]) -> None:
        super().__init__("; ".join(map(str, attempts)))
        self.attempts = attempts
