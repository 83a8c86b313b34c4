"""The dialogue as a value: commands become bytes, bytes become replies, each with the command that it answers.

Rules
- A session is handed over when the server has greeted and answered EHLO: it begins ``READY``.
- MAIL is said only when no transaction is open, RCPT only within one: a command that the table does not know in the
  state *that the commands in flight will lead to* is our own mistake (RFC 2920 lets us run ahead).
- What a reply does to the state depends on whether it was positive; the table has both.
- 421 ends the session after the command that it answers. A reply that answers nothing ends it too, and so does 221 to
  anything but QUIT, or anything else to that: from there on nobody could tell which reply belongs to which command.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType

from streams.smtp.errors import LocalProtocolError, RemoteProtocolError
from streams.smtp.policy import Usage
from streams.smtp.replies import Reply, ReplyParser, kept

MAX_COMMAND = 512
"""Octets of a command line with its CRLF (RFC 5321 section 4.5.3.1.4)."""

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_QUOTED = re.compile(r'^"(?:[^"\\]|\\.)*"')
_BREAKS_PATH = re.compile(r"[<>\s]")
_PLAIN = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~@\[\]:-]{1,254}")
"""What most addresses are made of: nothing in it could break out of a command, or make one too long."""


class State(StrEnum):
    """Where the dialogue stands, seen from the replies that have come."""

    READY = "ready"
    TRANSACTION = "transaction"
    ENDED = "ended"


class Verb(StrEnum):
    """The commands a session says itself; EHLO and STARTTLS are said by the library that dials."""

    MAIL = "MAIL"
    RCPT = "RCPT"
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"


class Ended(StrEnum):
    """Why a session can't be used any more, where the server ended it."""

    TIMEOUT = "timeout"
    CLOSED = "closed"
    PROTOCOL = "protocol"


TRANSITIONS: Mapping[tuple[State, Verb], tuple[State, State]] = MappingProxyType(
    {
        # (state, command): (state after a positive reply, state after a refusal)
        (State.READY, Verb.MAIL): (State.TRANSACTION, State.READY),
        (State.READY, Verb.RSET): (State.READY, State.ENDED),
        (State.READY, Verb.NOOP): (State.READY, State.READY),
        (State.READY, Verb.QUIT): (State.ENDED, State.ENDED),
        (State.TRANSACTION, Verb.RCPT): (State.TRANSACTION, State.TRANSACTION),
        (State.TRANSACTION, Verb.RSET): (State.READY, State.ENDED),
        (State.TRANSACTION, Verb.NOOP): (State.TRANSACTION, State.TRANSACTION),
        (State.TRANSACTION, Verb.QUIT): (State.ENDED, State.ENDED),
        # RCPTs that were in flight when MAIL was refused.
        (State.READY, Verb.RCPT): (State.READY, State.READY),
    }
)

_HOPED = {change: hoped for change, (hoped, _) in TRANSITIONS.items() if change != (State.READY, Verb.RCPT)}
"""Where a command that may be said leads, if all goes well."""


def path(address: str) -> str:
    """``<address>`` for MAIL and RCPT; the empty address is the null sender.

    :raises LocalProtocolError: the address would break out of its command.
    """
    if _CONTROL.search(address):
        raise LocalProtocolError(f"an address holds control characters: {address[:80]!r}")
    if _BREAKS_PATH.search(_QUOTED.sub("", address)):
        raise LocalProtocolError(f"an address holds a space or an angle bracket outside quotes: {address[:80]!r}")
    return f"<{address}>"


def line(command: str, *, smtputf8: bool = False) -> bytes:
    """A command as it goes over the wire.

    :raises LocalProtocolError: control characters, characters outside ASCII without ``smtputf8``, or too long.
    """
    if _CONTROL.search(command):
        raise LocalProtocolError(f"a command holds control characters: {command[:80]!r}")
    try:
        encoded = command.encode("utf-8" if smtputf8 else "ascii") + b"\r\n"
    except UnicodeEncodeError:
        raise LocalProtocolError(f"not ASCII, and SMTPUTF8 was not asked for: {command[:80]!r}") from None
    if len(encoded) > MAX_COMMAND:
        raise LocalProtocolError(f"a command of {len(encoded)} octets; {MAX_COMMAND} are allowed: {command[:80]!r}")
    return encoded


@lru_cache(maxsize=256)
def mail_line(sender: str, *, smtputf8: bool = False) -> bytes:
    """``MAIL FROM``, with the parameter that RFC 6531 wants where an address of the transaction is not ASCII."""
    return line(f"MAIL FROM:{path(sender)}" + (" SMTPUTF8" if smtputf8 else ""), smtputf8=smtputf8)


def rcpt_line(recipient: str, *, smtputf8: bool = False) -> bytes:
    """``RCPT TO``; an empty recipient is refused."""
    if _PLAIN.fullmatch(recipient):
        return b"RCPT TO:<%s>\r\n" % recipient.encode("ascii")
    if not recipient:
        raise LocalProtocolError("an empty recipient")
    return line(f"RCPT TO:{path(recipient)}", smtputf8=smtputf8)


class Session:
    """One dialogue, from EHLO's reply to its end. No socket, no clock: the connection moves the bytes."""

    __slots__ = (
        "_ahead",
        "_in_flight",
        "_parser",
        "detail",
        "ended",
        "last_recipient",
        "smtputf8",
        "state",
        "surplus",
        "usage",
    )

    def __init__(self) -> None:
        self.state = State.READY
        self.usage = Usage()
        self.smtputf8 = False
        self.last_recipient = ""
        """Whom the last RCPT asked for."""
        self.ended: Ended | None = None
        self.detail = ""
        self.surplus = False
        self._ahead = State.READY
        self._in_flight: list[Verb] = []  # never long, and a deque takes 0.6 KB though it be empty
        self._parser = ReplyParser()

    @property
    def in_flight(self) -> int:
        """Commands whose replies have not come, but for QUIT: nobody waits for what is said to that."""
        return len(self._in_flight) - (Verb.QUIT in self._in_flight[-1:])

    @property
    def over(self) -> bool:
        """Nothing more can be said: it has ended, or QUIT was the last word."""
        return self._ahead is State.ENDED

    @property
    def parting(self) -> bool:
        """QUIT has been said: what was asked before it will be answered, and nothing more can be."""
        return self.ended is None and self.over

    @property
    def in_transaction(self) -> bool:
        """True when RCPT may be said next, if all goes as the commands in flight hope."""
        return self._ahead is State.TRANSACTION

    def say(self, verb: Verb, *, domain: str = "", smtputf8: bool = False) -> None:
        """Note that ``verb`` is being written now; its reply is waited for.

        ``domain`` is that of RCPT's recipient; ``smtputf8`` tells whether MAIL announced it.

        :raises LocalProtocolError: the command has no place here, or the session has ended.
        """
        hoped = _HOPED.get((self._ahead, verb))
        if self.ended or hoped is None:
            raise LocalProtocolError(f"{verb} in a session that is {self.ended or self._ahead}")
        self._in_flight.append(verb)
        self._ahead = hoped
        if verb is Verb.RCPT:
            self.usage.recipients += 1
            self.usage.domains.add(domain)
        elif verb is Verb.MAIL:
            self.smtputf8 = smtputf8
        elif verb in (Verb.RSET, Verb.NOOP):
            self.usage.nonmail += 1
            if verb is Verb.RSET:
                self._forget_transaction()

    def receive(self, data: bytes) -> list[tuple[Verb, Reply]]:
        """Take bytes (none: the server has closed) and tell which commands they answer, in order.

        Never raises: a session that can't go on has :attr:`ended` and :attr:`detail` set.
        """
        if self.ended:
            return []
        if not data:
            if self.in_flight or not self.parting:
                self.end(Ended.CLOSED, "the server closed the connection")
            return []
        self._parser.feed(data)
        answers: list[tuple[Verb, Reply]] = []
        try:
            while not self.ended and (reply := self._parser.next_reply()):
                self._match(reply, answers)
        except RemoteProtocolError as error:
            self.end(Ended.PROTOCOL, str(error))
        if not self._in_flight and not self.ended:
            self._settle()
        return answers

    def end(self, ended: Ended, detail: str) -> None:
        """The session is over; the first cause stands."""
        if self.ended is None:
            self.ended, self.detail, self.state, self._ahead = ended, detail, State.ENDED, State.ENDED

    def lose_step(self, detail: str) -> None:
        """Nobody can tell any more which reply belongs to which command."""
        self.surplus = True
        self.end(Ended.PROTOCOL, detail)

    def secured(self) -> None:
        """TLS was begun and EHLO said again: the server knows of no transaction (RFC 3207 section 4.2)."""
        self.state = self._ahead = State.READY
        self._parser = ReplyParser()
        self._forget_transaction()

    def _match(self, reply: Reply, answers: list[tuple[Verb, Reply]]) -> None:
        reply = kept(reply)
        if not self._in_flight:
            self.surplus = reply.code != 421
            self.end(Ended.PROTOCOL if self.surplus else Ended.CLOSED, f"a reply that nobody asked for: {reply}")
            return
        verb, refused = self._in_flight.pop(0), reply.code >= 400
        answers.append((verb, reply))
        self.usage.errors += refused
        self.usage.answered += verb is Verb.RCPT
        self.state = TRANSITIONS[self.state, verb][refused]
        if reply.code == 421:
            self.end(Ended.CLOSED, str(reply))
        elif (reply.code == 221) is not (verb is Verb.QUIT):
            self.lose_step(f"{verb} was answered with {reply}")
        elif self.state is State.ENDED and verb is not Verb.QUIT:
            self.end(Ended.CLOSED, f"{verb} was answered with {reply}")

    def _settle(self) -> None:
        """Nothing is in flight: what we hoped for gives way to what was answered."""
        if not self._parser.empty:
            # Half a reply that nobody asked for: the replies before it may be one off.
            self.lose_step("more was sent than was asked for")
            return
        self._ahead = self.state
        if self.state is State.READY:
            self._forget_transaction()

    def _forget_transaction(self) -> None:
        self.usage.recipients = 0
        self.usage.domains = set()
        self.smtputf8 = False
