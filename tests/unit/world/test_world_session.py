"""The server's side of a dialogue, without sockets: bytes in, bytes out."""

import pytest

from ops.world.config import WorldConfig
from ops.world.greylist import Greylist
from ops.world.manners import Breakage, Manners, Pause, Tls
from ops.world.personality import Mailboxes
from ops.world.session import End, Session, Turn
from ops.world.stats import ViolationKind, WorldStats
from ops.world.transaction import Site

HELLO = b"EHLO me.test\r\n"
MAIL = b"MAIL FROM:<me@me.test>\r\n"
ALICE = b"RCPT TO:<alice@a.test>\r\n"
ZOE = b"RCPT TO:<zoe@a.test>\r\n"


class Client:
    """Says pieces of bytes to a session, and keeps what became of the last one."""

    def __init__(self, manners: Manners | None = None, mailboxes: Mailboxes | None = None, **config: float) -> None:
        self.stats = WorldStats()
        self.now = 0.0
        settings = WorldConfig(**config)  # type: ignore[arg-type]
        boxes = mailboxes or Mailboxes()
        site = Site(
            "mx.a.test",
            manners or Manners(),
            {"a.test": boxes, "b.test": boxes, "xn--bcher-kva.test": boxes},
            Greylist(settings.greylist_s),
            settings,
            self.stats,
            self.stats.host("mx.a.test"),
        )
        self.session = Session(site, "127.0.0.1", lambda: self.now)
        self.turn = Turn()

    def say(self, data: bytes, **how: bool) -> list[str]:
        """The lines of the answer."""
        self.turn = self.session.receive(data, **how)
        return b"".join(self.turn.output).decode(errors="replace").splitlines()

    def ready(self) -> "Client":
        self.say(HELLO)
        self.say(MAIL)
        return self

    @property
    def violations(self) -> list[ViolationKind]:
        return [violation.kind for violation in self.stats.violations]


def codes(lines: list[str]) -> list[str]:
    return [line[:3] for line in lines]


def test_a_pipelined_dialogue_gets_all_its_replies_in_one_write() -> None:
    client = Client()
    client.say(HELLO)
    assert codes(client.say(MAIL + ALICE + ZOE + b"RSET\r\nQUIT\r\n")) == ["250", "250", "550", "250", "221"]
    assert client.turn.end is End.CLOSE
    assert client.violations == []
    assert client.stats.commands == {"EHLO": 1, "MAIL": 1, "RCPT": 2, "RSET": 1, "QUIT": 1}
    assert (client.stats.total("recipients"), client.stats.total("refused")) == (2, 1)


def test_commands_may_arrive_in_pieces_of_one_byte() -> None:
    client = Client().ready()
    answers = [line for octet in ALICE for line in client.say(bytes((octet,)))]
    assert answers == ["250 2.1.5 Ok"]


@pytest.mark.parametrize(
    ("data", "code", "kind"),
    [
        (b"FROB\r\n", "500", ViolationKind.UNKNOWN_COMMAND),
        (b"NOOP \x00\r\n", "500", ViolationKind.CONTROL_CHARACTER),
        (b"NOOP \xff\r\n", "500", ViolationKind.NOT_UTF8),
        (b"NOOP " + b"x" * 600 + b"\r\n", "500", ViolationKind.LINE_TOO_LONG),
        (b"NOOP\nNOOP\r\n", "521", ViolationKind.BARE_LINE_END),
        (b"NOOP\rNOOP\r\n", "521", ViolationKind.BARE_LINE_END),
        (b"NOOP\n", "521", ViolationKind.BARE_LINE_END),
        (ALICE, "503", ViolationKind.OUT_OF_SEQUENCE),
        (b"DATA\r\n", "554", ViolationKind.OUT_OF_SEQUENCE),
        (b"STARTTLS\r\n", "503", ViolationKind.OUT_OF_SEQUENCE),
        (b"STARTTLS now\r\n", "501", ViolationKind.SYNTAX),
        (b"RSET now\r\n", "501", ViolationKind.SYNTAX),
        (b"EHLO\r\n", "501", ViolationKind.SYNTAX),
        (b"HELO me..test\r\n", "501", ViolationKind.SYNTAX),
        (b"MAIL FROM: <a@b.test>\r\n", "501", ViolationKind.SYNTAX),
        (b"MAIL FROM:<a@b.test> FROB=1\r\n", "555", ViolationKind.SYNTAX),
        (b"MAIL FROM:<a@b.test> SMTPUTF8\r\n", "555", ViolationKind.SYNTAX),
        ("MAIL FROM:<ä@b.test>\r\n".encode(), "553", ViolationKind.UTF8_NOT_ANNOUNCED),
    ],
)
def test_what_breaks_the_rules_is_refused_and_recorded(data: bytes, code: str, kind: ViolationKind) -> None:
    client = Client()
    client.say(HELLO)
    assert codes(client.say(data)) == [code]
    assert client.violations == [kind]
    assert (client.turn.end is End.CLOSE) is (code == "521")


@pytest.mark.parametrize(
    "data",
    [
        b"RCPT TO:<alice@a.test> X=1\r\n",
        b"RCPT TO:alice@a.test\r\n",
        b"RCPT TO:<alice>\r\n",
        b"RCPT TO:<" + b"x" * 65 + b"@a.test>\r\n",
    ],
)
def test_recipients_of_bad_syntax_are_refused(data: bytes) -> None:
    client = Client().ready()
    assert client.say(data)[0].startswith("501 5.1.3")
    assert client.violations == [ViolationKind.SYNTAX]


def test_mail_comes_after_hello_and_only_once() -> None:
    client = Client()
    assert codes(client.say(MAIL)) == ["503"]
    client.say(HELLO)
    assert codes(client.say(MAIL)) == ["250"]
    assert codes(client.say(MAIL)) == ["503"]
    assert client.violations == [ViolationKind.OUT_OF_SEQUENCE] * 2


def test_hello_and_rset_forget_the_transaction() -> None:
    client = Client().ready()
    for forget in (b"RSET\r\n", HELLO):
        client.say(forget)
        assert codes(client.say(MAIL)) == ["250"]


def test_rcpt_behind_a_refused_mail_is_no_violation() -> None:
    client = Client(Manners(at_mail="550 5.7.1 [{client}] is blocked"))
    client.say(HELLO)
    assert client.say(MAIL + ALICE) == ["550 5.7.1 [127.0.0.1] is blocked", "503 5.5.1 Error: need MAIL command"]
    assert client.violations == []


def test_a_message_is_taken_and_counted() -> None:
    client = Client().ready()
    client.say(ALICE)
    assert codes(client.say(b"DATA\r\n")) == ["354"]
    assert client.say(b"Subject: x\r\n\r\n\x00RSET\r\n") == []
    assert codes(client.say(b".\r\n")) == ["250"]
    assert client.stats.total("messages") == 1
    assert codes(client.say(b"DATA now\r\n" + MAIL)) == ["554", "250"]


def test_data_takes_no_argument() -> None:
    client = Client().ready()
    client.say(ALICE)
    assert codes(client.say(b"DATA now\r\n")) == ["501"]


def test_other_commands_have_their_replies() -> None:
    client = Client()
    assert codes(client.say(b"HELO me.test\r\n")) == ["250"]
    assert codes(client.say(b"NOOP hello\r\n")) == ["250"]
    assert codes(client.say(b"VRFY alice\r\n")) == ["252"]


def test_postmaster_without_a_domain_is_accepted() -> None:
    assert codes(Client().ready().say(b"RCPT TO:<Postmaster>\r\n")) == ["250"]


def test_domains_that_are_not_served_are_not_relayed_for() -> None:
    assert Client().ready().say(b"RCPT TO:<alice@c.test>\r\n") == ["554 5.7.1 <alice@c.test>: Relay access denied"]


def test_everyone_is_accepted_where_nothing_is_refused() -> None:
    client = Client(Manners(not_served=None), Mailboxes(unknown=None)).ready()
    assert codes(client.say(b"RCPT TO:<anybody@c.test>\r\n")) == ["250"]


# Order, pipelining, TLS


def test_pipelining_that_is_not_offered_is_recorded_and_punished() -> None:
    client = Client(Manners(extensions=()))
    client.say(HELLO)
    assert codes(client.say(MAIL + ALICE)) == ["250", "250"]
    assert client.violations == [ViolationKind.PIPELINING_NOT_OFFERED]
    strict = Client(Manners(extensions=(), punishes_early_talk=True))
    strict.say(HELLO)
    assert codes(strict.say(MAIL + ALICE)) == ["503"]
    assert strict.turn.end is End.CLOSE


def test_talking_while_a_reply_is_outstanding_is_pipelining() -> None:
    client = Client(Manners(extensions=()))
    client.say(HELLO)
    client.say(MAIL)
    client.say(ALICE, outstanding=True)
    assert client.violations == [ViolationKind.PIPELINING_NOT_OFFERED]


def test_some_commands_are_the_last_of_their_group() -> None:
    client = Client()
    client.say(HELLO + MAIL)
    client.say(b"RSET\r\nNOOP\r\nRSET\r\n")
    client.say(b"NOOP\r\n")
    client.say(MAIL, outstanding=True)
    assert client.violations == [ViolationKind.NOT_LAST_IN_GROUP] * 3


def test_talking_before_the_banner_is_recorded() -> None:
    client = Client()
    client.say(HELLO, greeted=False)
    assert client.violations == [ViolationKind.BEFORE_BANNER]


def test_quit_may_be_said_at_any_time_and_nothing_after_it() -> None:
    client = Client()
    client.say(b"QUIT\r\n", greeted=False)
    assert client.violations == []
    client = Client()
    client.say(HELLO)
    assert codes(client.say(b"QUIT\r\nNOOP\r\n")) == ["221"]
    assert client.violations == [ViolationKind.AFTER_QUIT]


def test_starttls_is_insisted_on_and_begins_anew() -> None:
    client = Client(Manners(tls=Tls.REQUIRED))
    assert client.say(HELLO)[-1] == "250 STARTTLS"
    assert codes(client.say(MAIL)) == ["530"]
    client.say(b"STARTTLS\r\n")
    assert client.turn.end is End.STARTTLS
    client.session.secured()
    assert codes(client.say(MAIL)) == ["503"]
    assert "250 STARTTLS" not in client.say(HELLO)
    assert codes(client.say(MAIL)) == ["250"]


def test_what_follows_starttls_in_clear_text_is_thrown_away() -> None:
    client = Client(Manners(tls=Tls.OFFERED))
    client.say(HELLO)
    assert codes(client.say(b"STARTTLS\r\nRSET\r\n")) == ["220"]
    assert client.violations == [ViolationKind.AFTER_STARTTLS]


# Personalities


def test_the_banner_may_end_it_all() -> None:
    turn = Client(Manners(banner="554 5.7.1 {host} refuses [{client}]")).session.greeting(1)
    assert (turn.output, turn.end) == ([b"554 5.7.1 mx.a.test refuses [127.0.0.1]\r\n"], End.CLOSE)


def test_connections_beyond_the_limit_are_sent_away() -> None:
    client = Client(Manners(max_connections=2))
    assert client.session.greeting(2).output == [b"220 mx.a.test ESMTP\r\n"]
    assert client.session.greeting(3).output[0].startswith(b"421 4.7.0")


def test_greylisting_ends_after_its_delay_for_that_triplet() -> None:
    client = Client(Manners(greylist="450 4.2.0 wait {wait}"), greylist_s=5).ready()
    assert client.say(ALICE) == ["450 4.2.0 wait 5"]
    client.now = 4.5
    assert client.say(ALICE + ZOE) == ["450 4.2.0 wait 1", "450 4.2.0 wait 5"]
    client.now = 5.0
    assert codes(client.say(ALICE + ZOE)) == ["250", "450"]


def test_the_soft_error_limit_makes_every_later_reply_late() -> None:
    client = Client(soft_error_s=1.0).ready()
    client.say(ZOE * 10)
    assert client.turn.pause_s == 0
    client.say(ZOE + ALICE)
    assert client.turn.pause_s == 2
    client.say(b"RSET\r\n")
    assert client.turn.pause_s == 1


def test_the_hard_error_limit_ends_the_connection() -> None:
    client = Client().ready()
    answers = codes(client.say(ZOE * 25))
    assert answers == ["550"] * 20 + ["421"]
    assert client.turn.end is End.CLOSE


def test_junk_commands_count_as_errors_beyond_their_limit() -> None:
    client = Client()
    client.say(HELLO)
    assert codes(client.say(b"RSET\r\n" * 200)) == ["250"] * 120 + ["421"]


def test_exim_counts_what_sends_no_mail() -> None:
    client = Client(Manners(nonmail_commands=10))
    client.say(HELLO)
    assert codes(client.say(b"RSET\r\n" * 20)) == ["250"] * 11 + ["554"]
    assert client.turn.end is End.CLOSE


def test_one_recipient_a_transaction() -> None:
    client = Client(Manners(max_recipients=1)).ready()
    assert client.say(ZOE + ALICE + ALICE)[1:] == ["250 2.1.5 Ok", "452 4.5.3 Error: too many recipients"]


def test_one_domain_a_transaction() -> None:
    client = Client(Manners(one_domain=True)).ready()
    assert codes(client.say(ALICE + b"RCPT TO:<alice@b.test>\r\nRSET\r\n")) == ["250", "451", "250"]
    assert codes(client.say(MAIL + b"RCPT TO:<alice@b.test>\r\n")) == ["250", "250"]


def test_it_hangs_up_at_a_command_without_a_word() -> None:
    client = Client(Manners(hangs_up_at="RCPT", hangs_up_after=1)).ready()
    assert codes(client.say(ALICE + ALICE)) == ["250"]
    assert client.turn.end is End.ABORT


def test_without_esmtp_only_helo_is_known() -> None:
    client = Client(Manners(esmtp=False, extensions=()))
    assert client.say(HELLO) == ["502 Error: command not implemented"]
    assert client.say(b"HELO me.test\r\n") == ["250 mx.a.test"]


def test_utf8_needs_the_extension_and_its_word() -> None:
    jorg = "RCPT TO:<jörg@bücher.test>\r\n".encode()
    client = Client(Manners(extensions=("SMTPUTF8", "PIPELINING")), Mailboxes(known=frozenset({"jörg"})))
    client.say(HELLO)
    assert codes(client.say(b"MAIL FROM:<> SMTPUTF8\r\n" + jorg)) == ["250", "250"]
    assert codes(client.say(b"RSET\r\n" + b"MAIL FROM:<>\r\n" + jorg)) == ["250", "250", "553"]
    assert client.violations == [ViolationKind.UTF8_NOT_ANNOUNCED]


def test_replies_in_several_lines_keep_their_codes() -> None:
    client = Client(Manners(multiline=True)).ready()
    assert [line[:9] for line in client.say(ZOE)] == ["550-5.1.1", "550-5.1.1", "550 5.1.1"]


@pytest.mark.parametrize("breakage", [kind for kind in Breakage if kind is not Breakage.NONE])
def test_broken_replies_are_no_replies(breakage: Breakage) -> None:
    answer = Client(Manners(breakage=breakage)).ready().say(ALICE)[0]
    if breakage is Breakage.LONG_LINE:
        assert len(answer) > 100_000
    else:
        assert not answer[:3].isdigit()


def test_a_reply_nobody_asked_for_follows_hello() -> None:
    assert Client(Manners(unasked="250 And another thing")).say(HELLO)[-1] == "250 And another thing"


def test_each_reply_takes_its_pause_and_silence_ends_in_421() -> None:
    client = Client(Manners(reply_pause=Pause.SLOW, banner_pause=Pause.TARPIT), slow_s=2, tarpit_s=9)
    assert client.session.greeting(1).pause_s == 11
    client.say(HELLO)
    client.say(MAIL + ALICE)
    assert client.turn.pause_s == 4
    idle = client.session.idle()
    assert (idle.output[0][:9], idle.end) == (b"421 4.4.2", End.CLOSE)
