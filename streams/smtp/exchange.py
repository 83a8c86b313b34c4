"""One question to a server, planned and answered without I/O: which commands, in which writes, and what came back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streams.smtp.policy import (
    Learned,
    Lost,
    ProviderPolicy,
    nonmail_left,
    starts_new_transaction,
)
from streams.smtp.replies import Reply
from streams.smtp.session import Ended, Session, Verb, line, mail_line, rcpt_line

_TOO_MANY = frozenset({"4.5.3", "5.5.3"})
_FULL = (452, 552)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the server offered in its EHLO reply; nothing after HELO."""

    pipelining: bool = False
    smtputf8: bool = False
    starttls: bool = False
    tls: bool = False
    """True when this session is encrypted."""
    size: int | None = None
    """Octets of the largest message (RFC 1870); 0 or None: not said."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What was learned of the recipients of one ask, in the order asked."""

    mail: Reply | None
    """The reply that refused MAIL; None when MAIL was accepted or not needed."""

    replies: tuple[Reply | None, ...]
    """A reply for each recipient; None: unanswered, ask again on this session or another."""

    ended: Ended | None = None
    """Why the session can't be used any more; None: it can (see ``room``)."""

    detail: str = ""
    """With ``ended``: a sentence, or the server's own words."""


class Step(NamedTuple):
    """One command; RCPT knows whom it is about and how many came before it in its transaction."""

    verb: Verb
    line: bytes
    place: int = -1
    ordinal: int = 0
    domain: str = ""


def too_many(reply: Reply) -> bool:
    """True for "too many recipients" (RFC 5321 section 4.5.3.1.10): no word about the recipient that it answers."""
    if reply.positive or (reply.code not in _FULL and ".5.3" not in reply.text):
        return False  # nearly always
    if reply.enhanced is not None:
        return reply.enhanced in _TOO_MANY
    return reply.code in _FULL and "too many recipients" in reply.text.lower()


_ADDRESSES = re.compile(r"<[^<>]*>|\S*@\S*")


def _own_words(reply: Reply) -> str:
    """What the server says itself, in lower case: an address that it quotes was chosen by somebody else."""
    return _ADDRESSES.sub("@", reply.text.lower())


_SUBJECT = re.compile(r"(?:[245]\.\d{1,3}\.\d{1,3} +)?<([^<>]+@[^<>]+)>")


def _subject(text: str) -> str | None:
    """Whom a reply is about, where it begins with that, as Postfix's refusals and all of Sendmail's replies do."""
    found = _SUBJECT.match(text)
    return found[1].lower() if found else None


_SEVERAL_DOMAINS = re.compile(r"\b(multiple|several|different|many|one|single|other)\b.*\bdomains?\b.*\btransaction")


def several_domains(reply: Reply) -> bool:
    """True where the server takes one domain a transaction: no word about the recipient either.

    Google says it with 451 4.3.0 ("multiple destination domains per transaction").
    """
    if reply.positive or "transaction" not in reply.text.lower():
        return False
    return bool(_SEVERAL_DOMAINS.search(_own_words(reply)))


_OUT_OF_STEP = frozenset({421, 500, 501, 503, 554})


def out_of_step(reply: Reply) -> bool:
    """True where a server complains that commands did not wait for its replies, whatever it had offered.

    Exim says 554 ("SMTP synchronization error"), Postfix 503 ("improper use of SMTP command pipelining").
    """
    if reply.code not in _OUT_OF_STEP:
        return False
    text = _own_words(reply)
    return "pipelining" in text or "synchronization" in text or "synchronisation" in text


class Exchange:
    """Plans the commands for some recipients and gathers the replies.

    Use: write what :meth:`data_to_send` gives, then feed :meth:`receive` while :attr:`waiting`; over again until
    there is nothing to send. :meth:`answers` may be called at any time.
    """

    __slots__ = (
        "_asked_before",
        "_fitted",
        "_learned",
        "_mail",
        "_parts",
        "_recipients",
        "_replies",
        "_sender",
        "_sent",
        "_session",
        "_smtputf8",
        "_void",
        "_writes",
        "began_late",
        "heard",
        "may_part",
        "opens",
        "parted_badly",
        "pipelined",
        "refused",
        "told_off",
    )

    def __init__(
        self,
        session: Session,
        sender: str,
        recipients: Sequence[str],
        *,
        policy: ProviderPolicy,
        learned: Learned,
        room: int,
        pipelining: bool,
        smtputf8: bool = False,
        fresh: bool = False,
    ) -> None:
        """``room``: as many recipients are asked at most.

        :raises LocalProtocolError: an address that must not be written; nothing was.
        """
        self._session = session
        self._sender = sender
        self._recipients = recipients
        self._asked_before = session.last_recipient
        self._learned = learned
        self._smtputf8 = smtputf8
        self._replies: list[Reply | None] = [None] * len(recipients)
        self._mail: Reply | None = None
        self._fitted: int | None = None
        lines = [rcpt_line(recipient, smtputf8=smtputf8) for recipient in recipients]
        mail = mail_line(sender, smtputf8=smtputf8)
        fresh = fresh or smtputf8 > session.smtputf8
        steps = _plan(session, recipients[:room], lines, mail, policy=policy, learned=learned, fresh=fresh)
        self.may_part = pipelining and bool(steps)
        """All is one write, which QUIT may end (RFC 2920 section 3.1)."""
        self._parts = False
        self._writes = [steps] if pipelining else [[step] for step in steps]
        self._writes.reverse()
        self._sent: list[Step] = []
        self._void = False
        self.pipelined = pipelining and len(steps) > 1
        """Several commands are one write."""
        self.opens = bool(steps) and steps[0].verb is not Verb.RCPT
        """It begins with a transaction of its own."""
        self.began_late = session.usage.answered > 0
        """The session has answered before."""
        self.heard = 0
        """RCPT replies that have come."""
        self.refused = 0
        """Those of them that were no."""
        self.told_off = False
        """The session's first answer was 421: we come too fast. A later one says that this session has had enough."""
        self.parted_badly = False
        """QUIT came to no good: the server has closed, without a word, before it had answered what came before that; or
        nobody can tell any more which reply belongs to which command."""

    def part(self) -> None:
        """End the write with QUIT. Only where it :attr:`may_part`, and before anything is sent."""
        self._writes[0].append(Step(Verb.QUIT, line("QUIT")))
        self._parts = self.pipelined = True

    @property
    def planned(self) -> int:
        """Recipients that are still to be written."""
        return sum(step.verb is Verb.RCPT for write in self._writes for step in write)

    @property
    def waiting(self) -> bool:
        """True while replies are due."""
        return bool(self._session.in_flight) and self._session.ended is None

    def data_to_send(self) -> bytes:
        """The next write; empty when nothing is left to ask, or nobody to ask it of."""
        while self._writes and self._session.ended is None:
            said = [step for step in self._writes.pop() if self._say(step)]
            if said:
                self._sent = said[::-1]
                return b"".join(step.line for step in said)
        return b""

    def receive(self, data: bytes) -> None:
        """Take what came from the socket; nothing: the server has closed."""
        self.parted_badly |= self._parts and not data and self.waiting
        for verb, reply in self._session.receive(data):
            step = self._sent.pop()
            if reply.code == 421:
                self.told_off |= self._session.usage.answered <= (verb is Verb.RCPT)
            self._void |= self.pipelined and out_of_step(reply)
            if "@" in reply.lines[0] and self._is_for_another(step, reply):
                self._session.lose_step(f"the reply to another command: {reply}")
            if verb is Verb.MAIL:
                self._take_mail(reply)
            elif verb is Verb.RCPT:
                self._take_rcpt(step, reply)
        if self._session.surplus or self._void:
            # With one reply too many, each of them may belong to its neighbour.
            self.parted_badly |= self._parts
            self._mail, self._replies = None, [None] * len(self._replies)

    @property
    def lost(self) -> Lost:
        """Whether the server could not do with several commands at a time.

        Surely, when it says so or answers more than it was asked; perhaps, when it ended a session that had refused
        nothing in the midst of its first write.
        """
        session = self._session
        if not self.pipelined:
            return Lost.NO
        if session.surplus or self._void:
            return Lost.SURELY
        broken = session.ended in (Ended.CLOSED, Ended.PROTOCOL) and session.in_flight > 0
        first = not (self.began_late or session.usage.errors)
        return Lost.PERHAPS if broken and first else Lost.NO

    def answers(self) -> Answers:
        """What is known now."""
        return Answers(self._mail, tuple(self._replies), self._session.ended, self._session.detail)

    def _say(self, step: Step) -> bool:
        """One at a time, a refused MAIL or a full transaction makes the RCPTs behind it pointless: false."""
        session = self._session
        if step.verb is Verb.RCPT:
            if self._fitted is not None or not session.in_transaction:
                return False
            session.last_recipient = self._recipients[step.place]
        session.say(step.verb, domain=step.domain, smtputf8=self._smtputf8)
        return True

    def _is_for_another(self, step: Step, reply: Reply) -> bool:
        """It begins with the address of somebody else that was asked for: one reply was too many, or too few."""
        own = self._recipients[step.place] if step.verb is Verb.RCPT else ""
        text = reply.lines[0]
        if own and text.startswith(f"<{own}>", text.find("<")):
            return False  # nearly always
        subject = _subject(text)
        if subject is None or own.lower() == subject:
            return False
        asked = {address.lower() for address in (*self._recipients, self._asked_before)}
        return subject in asked and subject != self._sender.lower()

    def _take_mail(self, reply: Reply) -> None:
        if not reply.positive and self._mail is None:
            self._mail = reply

    def _take_rcpt(self, step: Step, reply: Reply) -> None:
        self.heard += 1
        self.refused += not reply.positive
        if self._mail is not None:
            return
        if reply.positive:
            self._replies[step.place] = reply
            return
        if self._fitted is None and step.ordinal and too_many(reply):
            self._fitted = step.ordinal
            self._learned.too_many(step.ordinal)
        if step.ordinal and several_domains(reply):
            self._learned.one_domain = True
        elif self._fitted is None or not too_many(reply):
            self._replies[step.place] = reply


def _plan(
    session: Session,
    recipients: Sequence[str],
    lines: Sequence[bytes],
    mail: bytes,
    *,
    policy: ProviderPolicy,
    learned: Learned,
    fresh: bool,
) -> list[Step]:
    """The commands for recipients that the session may still be asked for."""
    usage = session.usage
    is_open = session.in_transaction
    count, domains = usage.recipients, set(usage.domains)
    resets = nonmail_left(policy, usage)
    steps: list[Step] = []
    for index, recipient in enumerate(recipients):
        domain = recipient.rpartition("@")[2].lower()
        if not is_open or fresh or starts_new_transaction(policy, learned, count, domains, domain):
            if is_open:
                if resets == 0:
                    usage.spent = True
                    break
                resets = None if resets is None else resets - 1
                steps.append(Step(Verb.RSET, line("RSET")))
            steps.append(Step(Verb.MAIL, mail))
            is_open, fresh, count, domains = True, False, 0, set()
        steps.append(Step(Verb.RCPT, lines[index], index, count, domain))
        count += 1
        domains.add(domain)
    return steps
