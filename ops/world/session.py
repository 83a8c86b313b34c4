"""One SMTP connection as a state machine without I/O: pieces of bytes in, a :class:`Turn` of replies out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from ops.world import replies
from ops.world.budget import Budget
from ops.world.grammar import forward_path, is_hello, reverse_path
from ops.world.lines import BadLine, LineReader, command_text
from ops.world.manners import Breakage, Tls
from ops.world.stats import ViolationKind
from ops.world.transaction import Site, Transaction

LAST_IN_GROUP = frozenset({"EHLO", "HELO", "DATA", "VRFY", "EXPN", "NOOP", "STARTTLS", "QUIT"})
"""After these a client waits for the reply, even where PIPELINING is offered (RFC 2920 section 3.1)."""


class End(Enum):
    """What becomes of the connection after a turn."""

    OPEN = auto()
    STARTTLS = auto()
    CLOSE = auto()
    ABORT = auto()


@dataclass(slots=True)
class Turn:
    """What the server says to one piece of data: all replies in one write, after ``pause_s`` seconds."""

    output: list[bytes] = field(default_factory=list)
    pause_s: float = 0.0
    end: End = End.OPEN


class Session:
    """The server's side of one dialogue. ``clock`` gives seconds that never run backwards."""

    def __init__(self, site: Site, client: str, clock: Callable[[], float]) -> None:
        self._site = site
        self._manners = site.manners
        self._enhanced = "ENHANCEDSTATUSCODES" in site.manners.extensions
        self._client = client
        self._clock = clock
        self._reply_pause_s = site.config.seconds(site.manners.reply_pause)
        self._lines = LineReader()
        self._budget = Budget(site.manners)
        self._offered: frozenset[str] = frozenset()
        self._hello = False
        self._secure = False
        self._counted = 0
        self._last_verb = ""
        self._in_data = False
        self._forget()

    def greeting(self, connections: int) -> Turn:
        """The banner, where so many connections to the host are open, this one among them."""
        turn = Turn(pause_s=self._site.config.seconds(self._manners.banner_pause))
        if 0 < self._manners.max_connections < connections:
            self._say(turn, "421 4.7.0 {host} Error: too many connections from [{client}]")
            turn.end = End.CLOSE
            return turn
        self._say(turn, self._manners.banner)
        if not self._manners.banner.startswith("2"):
            turn.end = End.CLOSE
        return turn

    def secured(self) -> None:
        """TLS stands: the dialogue begins anew (RFC 3207 section 4.2)."""
        self._secure = True
        self._hello = False
        self._offered = frozenset()
        self._lines = LineReader()
        self._forget()

    def idle(self) -> Turn:
        """The client was silent too long."""
        turn = Turn(end=End.CLOSE)
        self._say(turn, "421 4.4.2 {host} Error: timeout exceeded")
        return turn

    def receive(self, data: bytes, *, outstanding: bool = False, greeted: bool = True) -> Turn:
        """Answer a piece of data.

        ``outstanding``: replies to earlier commands have not left yet; ``greeted``: the banner has.
        """
        turn = Turn()
        lines = self._lines.feed(data)
        if not self._in_data:
            self._check_order(lines, outstanding, greeted, turn)
        for number, raw in enumerate(lines):
            if turn.end is not End.OPEN:
                self._leftover(turn, raw)
                break
            if self._in_data:
                self._body_line(raw, turn)
            else:
                self._command_line(raw, turn, last=number == len(lines) - 1)
        if turn.end is End.OPEN and self._lines.bare:
            self._refuse_line(ViolationKind.BARE_LINE_END, turn)
        return turn

    # What a client may send when

    def _check_order(self, lines: list[bytes], outstanding: bool, greeted: bool, turn: Turn) -> None:
        if not lines or lines[0].upper() == b"QUIT":
            return  # who gives up need not wait
        if not greeted:
            self._early(ViolationKind.BEFORE_BANNER, lines[0], turn)
        elif outstanding and self._last_verb in LAST_IN_GROUP:
            self._early(ViolationKind.NOT_LAST_IN_GROUP, lines[0], turn)
        elif (outstanding or len(lines) > 1) and self._hello and "PIPELINING" not in self._offered:
            self._early(ViolationKind.PIPELINING_NOT_OFFERED, lines[-1], turn)

    def _early(self, kind: ViolationKind, raw: bytes, turn: Turn) -> None:
        self._violated(kind, raw)
        if self._manners.punishes_early_talk:
            self._say(turn, "503 5.5.0 Error: improper use of SMTP command pipelining")
            turn.end = End.CLOSE

    def _leftover(self, turn: Turn, raw: bytes) -> None:
        if turn.end is End.STARTTLS:
            self._violated(ViolationKind.AFTER_STARTTLS, raw)
        elif self._last_verb == "QUIT":
            self._violated(ViolationKind.AFTER_QUIT, raw)

    # Lines

    def _command_line(self, raw: bytes, turn: Turn, *, last: bool) -> None:
        try:
            text = command_text(raw)
        except BadLine as bad:
            self._refuse_line(bad.kind, turn, raw)
            return
        verb, _, argument = text.partition(" ")
        verb = verb.upper()
        self._last_verb = verb
        if not last and verb in LAST_IN_GROUP and verb not in ("QUIT", "STARTTLS"):
            self._early(ViolationKind.NOT_LAST_IN_GROUP, raw, turn)
        if turn.end is End.OPEN:
            self._obey(verb, argument, turn)

    def _obey(self, verb: str, argument: str, turn: Turn) -> None:
        handler = _COMMANDS.get(verb)
        self._site.counters.commands[verb if handler else "unknown"] += 1
        if self._hangs_up(verb):
            turn.end = End.ABORT
            return
        if handler:
            handler(self, argument, turn)
        else:
            self._violated(ViolationKind.UNKNOWN_COMMAND, verb.encode())
            self._say(turn, "500 5.5.2 Error: command not recognized")
        if self._budget.spent and turn.end is End.OPEN:
            self._say(turn, "421 4.7.0 {host} Error: too many errors")
            turn.end = End.CLOSE

    def _hangs_up(self, verb: str) -> bool:
        if verb != self._manners.hangs_up_at:
            return False
        self._counted += 1
        return self._counted > self._manners.hangs_up_after

    def _refuse_line(self, kind: ViolationKind, turn: Turn, raw: bytes = b"") -> None:
        self._violated(kind, raw)
        if kind is ViolationKind.BARE_LINE_END:
            # Servers hang up since "SMTP smuggling" (2023): what follows can't be told from commands.
            self._say(turn, "521 5.5.2 {host} Error: a line ends in CR LF")
            turn.end = End.CLOSE
        elif kind is ViolationKind.LINE_TOO_LONG:
            self._say(turn, "500 5.5.2 Error: line too long")
        else:
            self._say(turn, "500 5.5.2 Error: bad characters in the command")

    def _body_line(self, raw: bytes, turn: Turn) -> None:
        if raw != b".":
            return
        self._in_data = False
        self._site.counters.messages += 1
        self._forget()
        self._say(turn, "250 2.0.0 Ok: taken, and thrown away")

    # Commands

    def _ehlo(self, argument: str, turn: Turn) -> None:
        if not self._manners.esmtp:
            self._say(turn, "502 5.5.1 Error: command not implemented")
            return
        if not self._greets(argument, turn):
            return
        keywords = self._keywords()
        self._offered = frozenset(word.partition(" ")[0] for word in keywords)
        self._put(turn, replies.encode_ehlo(self._site.name, keywords))
        if self._manners.unasked:
            turn.output.append(replies.encode(self._manners.unasked))

    def _helo(self, argument: str, turn: Turn) -> None:
        if self._greets(argument, turn):
            self._offered = frozenset()
            self._say(turn, "250 {host}")

    def _greets(self, argument: str, turn: Turn) -> bool:
        if not is_hello(argument):
            self._syntax(turn, "501 5.5.4 Error: say a domain or an address literal", argument)
            return False
        self._hello = True
        self._forget()
        return True

    def _keywords(self) -> tuple[str, ...]:
        offers_tls = self._manners.tls is not Tls.ABSENT and not self._secure
        return (*self._manners.extensions, *(("STARTTLS",) if offers_tls else ()))

    def _starttls(self, argument: str, turn: Turn) -> None:
        if argument:
            self._syntax(turn, "501 5.5.4 Error: STARTTLS takes no argument", argument)
        elif "STARTTLS" not in self._offered:
            self._sequence(turn, "503 5.5.1 Error: STARTTLS is not offered", "STARTTLS")
        else:
            self._say(turn, "220 2.0.0 Ready to start TLS")
            turn.end = End.STARTTLS

    def _mail(self, argument: str, turn: Turn) -> None:
        if not self._hello:
            self._sequence(turn, "503 5.5.1 Error: say EHLO first", argument)
            return
        if self._transaction.sender is not None:
            self._sequence(turn, "503 5.5.1 Error: nested MAIL", argument)
            return
        self._transaction.tried = True
        path = reverse_path(argument)
        if path is None:
            self._syntax(turn, "501 5.5.4 Error: the syntax is MAIL FROM:<address>", argument)
            return
        refusal = self._transaction.mail(path, self._offered, secure=self._secure)
        self._say(turn, refusal or self._manners.mail_ok)

    def _rcpt(self, argument: str, turn: Turn) -> None:
        self._site.counters.recipients += 1
        if self._transaction.sender is None:
            self._rcpt_without_mail(argument, turn)
            return
        path = forward_path(argument)
        if path is None or path.parameters:
            self._syntax(turn, "501 5.1.3 Error: the syntax is RCPT TO:<address>", argument)
            return
        refusal = self._transaction.rcpt(path, self._clock())
        if refusal is not None:
            self._site.counters.refused += 1
        self._answer_rcpt(refusal or self._manners.rcpt_ok, path.address, turn)

    def _rcpt_without_mail(self, argument: str, turn: Turn) -> None:
        # Behind a MAIL that was refused, a pipelined RCPT is no fault of the client.
        if not self._transaction.tried:
            self._violated(ViolationKind.OUT_OF_SEQUENCE, argument.encode())
        self._say(turn, "503 5.5.1 Error: need MAIL command")

    def _answer_rcpt(self, text: str, recipient: str, turn: Turn) -> None:
        if self._manners.breakage is not Breakage.NONE:
            self._put(turn, replies.broken(self._fill(text, recipient), self._manners.breakage))
        else:
            self._say(turn, text, recipient)

    def _data(self, argument: str, turn: Turn) -> None:
        if self._transaction.recipients == 0:
            if not self._transaction.tried:
                self._violated(ViolationKind.OUT_OF_SEQUENCE, b"DATA")
            self._say(turn, "554 5.5.1 Error: no valid recipients")
        elif argument:
            self._syntax(turn, "501 5.5.4 Error: DATA takes no argument", argument)
        else:
            self._in_data = True
            self._say(turn, "354 End data with <CR><LF>.<CR><LF>")

    def _rset(self, argument: str, turn: Turn) -> None:
        if argument:
            self._syntax(turn, "501 5.5.4 Error: RSET takes no argument", argument)
            return
        self._forget()
        self._junk("RSET", "250 2.0.0 Ok", turn)

    def _noop(self, argument: str, turn: Turn) -> None:
        self._junk("NOOP", "250 2.0.0 Ok", turn)

    def _vrfy(self, argument: str, turn: Turn) -> None:
        self._junk("VRFY", "252 2.5.2 Send some mail, that will tell", turn)

    def _quit(self, argument: str, turn: Turn) -> None:
        self._say(turn, "221 2.0.0 Bye")
        turn.end = End.CLOSE

    def _junk(self, verb: str, text: str, turn: Turn) -> None:
        self._budget.command(verb)
        if self._budget.too_much_nonmail:
            self._say(turn, "554 Too many nonmail commands")
            turn.end = End.CLOSE
        else:
            self._say(turn, text)

    # Help for all of them

    def _forget(self) -> None:
        self._transaction = Transaction(self._site, self._client)

    def _syntax(self, turn: Turn, text: str, detail: str) -> None:
        self._violated(ViolationKind.SYNTAX, detail.encode())
        self._say(turn, text)

    def _sequence(self, turn: Turn, text: str, detail: str) -> None:
        self._violated(ViolationKind.OUT_OF_SEQUENCE, detail.encode())
        self._say(turn, text)

    def _violated(self, kind: ViolationKind, raw: bytes) -> None:
        self._site.violated(kind, raw.decode(errors="replace"))

    def _say(self, turn: Turn, text: str, recipient: str = "") -> None:
        text = self._fill(text if self._enhanced else replies.without_enhanced(text), recipient)
        # Postfix counts every refusal as an error, but not a recipient too many.
        if text[0] in "45" and not text.startswith("452 4.5.3"):
            self._budget.errors += 1
        self._put(turn, replies.encode_multiline(text) if self._manners.multiline else replies.encode(text))

    def _fill(self, text: str, recipient: str) -> str:
        if "{" not in text:
            return text
        return text.format(
            host=self._site.name, client=self._client, sender=self._transaction.sender or "", rcpt=recipient
        )

    def _put(self, turn: Turn, output: bytes) -> None:
        turn.output.append(output)
        turn.pause_s += self._reply_pause_s
        if self._budget.slow:
            turn.pause_s += self._site.config.soft_error_s


_COMMANDS: Mapping[str, Callable[[Session, str, Turn], None]] = {
    "EHLO": Session._ehlo,
    "HELO": Session._helo,
    "STARTTLS": Session._starttls,
    "MAIL": Session._mail,
    "RCPT": Session._rcpt,
    "DATA": Session._data,
    "RSET": Session._rset,
    "NOOP": Session._noop,
    "VRFY": Session._vrfy,
    "QUIT": Session._quit,
}
