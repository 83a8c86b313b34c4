"""The personalities of the world: one row each, with what a right verifier says of its sample addresses.

All names are under ``.test`` (RFC 2606). The servers' words are our own, in the manner of servers that are met in the
wild: Postfix, Exim, greylisting daemons, large providers.
"""

from types import MappingProxyType

from ops.world.manners import DEFAULT_EXTENSIONS, Breakage, Manners, Pause, Tls
from ops.world.personality import DnsFault, Expect, HostRow, Mailboxes, Personality, Records, Sample
from schemas.vocabulary import Reason as R

YES = Expect("alice", R.MAILBOX_ACCEPTED)
NO = Expect("zoe.missing", R.MAILBOX_NOT_FOUND)
NO_PIPELINING = tuple(word for word in DEFAULT_EXTENSIONS if word != "PIPELINING")
HOSTED_DOMAINS = tuple(f"customer{number:02}.test" for number in range(1, 25))


def _always(reason: R) -> tuple[Expect, ...]:
    """The host says so whoever is asked for, and however often."""
    return (Expect("alice", reason), Expect("zoe.missing", reason))


def _replies(**replies: str) -> Mailboxes:
    return Mailboxes(replies=MappingProxyType(replies))


MAILBOXES = (
    Personality(name="accepts", does="accepts known mailboxes, refuses unknown ones (550 5.1.1)", expect=(YES, NO)),
    Personality(
        name="catchall",
        does="accepts every mailbox of its domain",
        mailboxes=Mailboxes(unknown=None),
        expect=_always(R.CATCH_ALL),
    ),
    Personality(
        name="everyone",
        does="says 250 to every recipient of any domain; from outside that is a catch-all",
        manners=Manners(not_served=None),
        mailboxes=Mailboxes(unknown=None),
        expect=_always(R.CATCH_ALL),
    ),
    Personality(
        name="full",
        does="has full mailboxes (552 5.2.2 and 452 4.2.2)",
        mailboxes=_replies(
            brim="552 5.2.2 <{rcpt}>: the mailbox is over its quota",
            brimming="452 4.2.2 <{rcpt}>: the mailbox is over its quota, try again later",
        ),
        expect=(Expect("brim", R.MAILBOX_FULL), Expect("brimming", R.MAILBOX_FULL), YES, NO),
    ),
    Personality(
        name="disabled",
        does="has a mailbox that was switched off (550 5.2.1)",
        mailboxes=_replies(gone="550 5.2.1 <{rcpt}>: this mailbox is disabled and takes no mail"),
        expect=(Expect("gone", R.MAILBOX_DISABLED), YES, NO),
    ),
    Personality(
        name="greylists",
        does="greylists by client, sender and recipient (450 4.2.0), then tells the truth",
        manners=Manners(greylist="450 4.2.0 <{rcpt}>: Recipient address rejected: greylisted, come back in {wait} s"),
        expect=(
            Expect("alice", R.GREYLISTED, R.MAILBOX_ACCEPTED),
            Expect("zoe.missing", R.GREYLISTED, R.MAILBOX_NOT_FOUND),
        ),
    ),
    Personality(
        name="greylists451",
        does="greylists with other words (451 4.7.1)",
        manners=Manners(greylist="451 4.7.1 Greylisting in action, please come back later"),
        expect=(Expect("alice", R.GREYLISTED, R.MAILBOX_ACCEPTED),),
    ),
)

NAMES = (
    Personality(
        name="nullmx",
        does="publishes a null MX (RFC 7505)",
        hosts=(),
        zone={"nullmx.test": Records(mx=(".",))},
        expect=(Expect("alice", R.NULL_MX),),
    ),
    Personality(
        name="implicit",
        does="has no MX, but an A record where a server listens (RFC 5321 section 5.1)",
        zone={"implicit.test": Records(a=("mx.implicit.test",))},
        expect=(YES, NO),
    ),
    Personality(
        name="nosuchdomain",
        does="does not exist (NXDOMAIN)",
        hosts=(),
        zone={"nosuchdomain.test": None},
        expect=(Expect("alice", R.DOMAIN_NOT_FOUND),),
    ),
    Personality(
        name="nomail",
        does="exists, with neither MX nor address",
        hosts=(),
        zone={"nomail.test": Records(txt="nothing to do with mail")},
        expect=(Expect("alice", R.DOMAIN_NOT_FOUND),),
    ),
    Personality(
        name="servfail",
        does="DNS answers SERVFAIL",
        hosts=(),
        zone={"servfail.test": Records(fault=DnsFault.SERVFAIL)},
        expect=(Expect("alice", R.DNS_TEMPORARY),),
    ),
    Personality(
        name="dnsrefused",
        does="DNS answers REFUSED",
        hosts=(),
        zone={"dnsrefused.test": Records(fault=DnsFault.REFUSED)},
        expect=(Expect("alice", R.DNS_TEMPORARY),),
    ),
    Personality(
        name="dnssilent",
        does="DNS never answers",
        hosts=(),
        zone={"dnssilent.test": Records(fault=DnsFault.SILENT)},
        expect=(Expect("alice", R.DNS_TEMPORARY),),
    ),
    Personality(
        name="dnslate",
        does="DNS answers long after anybody waits",
        zone={"dnslate.test": Records(mx=("mx.dnslate.test",), fault=DnsFault.LATE)},
        expect=(Expect("alice", R.DNS_TEMPORARY),),
    ),
    Personality(
        name="mxservfail",
        does="names an MX whose address DNS can't tell (SERVFAIL)",
        hosts=(),
        zone={
            "mxservfail.test": Records(mx=("mx.mxservfail.test",)),
            "mx.mxservfail.test": Records(fault=DnsFault.SERVFAIL),
        },
        expect=(Expect("alice", R.DNS_TEMPORARY),),
    ),
    Personality(
        name="mxmissing",
        does="names an MX that does not exist",
        hosts=(),
        zone={"mxmissing.test": Records(mx=("mx.nowhere.mxmissing.test",))},
        expect=(Expect("alice", R.MX_UNROUTABLE),),
    ),
    Personality(
        name="mxprivate",
        does="names an MX with a private address (10.0.0.1)",
        hosts=(),
        zone={
            "mxprivate.test": Records(mx=("mx.mxprivate.test",)),
            "mx.mxprivate.test": Records(a=("10.0.0.1",)),
        },
        expect=(Expect("alice", R.MX_UNROUTABLE),),
    ),
    Personality(
        name="mxlinklocal",
        does="names an MX with link-local and unspecified addresses (169.254.169.254, 0.0.0.0, fe80::1)",
        hosts=(),
        zone={
            "mxlinklocal.test": Records(mx=("mx.mxlinklocal.test",)),
            "mx.mxlinklocal.test": Records(a=("169.254.169.254", "0.0.0.0"), aaaa=("fe80::1",)),  # noqa: S104
        },
        expect=(Expect("alice", R.MX_UNROUTABLE),),
    ),
    Personality(
        name="alias",
        does="is a CNAME of a mail domain (RFC 5321 section 5.1)",
        zone={"alias.test": Records(cname="target.alias.test"), "target.alias.test": Records(mx=("mx.alias.test",))},
        expect=(YES, NO),
    ),
    Personality(
        name="manymx",
        does="names so many MX that the answer needs TCP; only the first one lives",
        zone={
            "manymx.test": Records(
                mx=("mx.manymx.test", *(f"backup-{n:02}.with-a-rather-long-name.manymx.test" for n in range(60)))
            )
        },
        expect=(YES, NO),
    ),
    Personality(
        name="bücher",
        does="is an internationalised domain (xn--bcher-kva.test)",
        domains=("xn--bcher-kva.test",),
        hosts=(HostRow(name="mx.xn--bcher-kva.test"),),
        expect=(
            Expect("alice", R.MAILBOX_ACCEPTED, domain="bücher.test"),
            Expect("zoe.missing", R.MAILBOX_NOT_FOUND, domain="xn--bcher-kva.test"),
        ),
    ),
)

HOSTS = (
    Personality(
        name="failover",
        does="its first MX is dead, its second alive",
        hosts=(HostRow(name="mx1.failover.test", listens=False), HostRow(name="mx2.failover.test")),
        expect=(YES, NO),
    ),
    Personality(
        name="twoaddresses",
        does="its MX has two addresses, and nobody is at the first one",
        hosts=(HostRow(name="down.twoaddresses.test", listens=False), HostRow(name="up.twoaddresses.test")),
        zone={
            "twoaddresses.test": Records(mx=("mx.twoaddresses.test",)),
            "mx.twoaddresses.test": Records(a=("down.twoaddresses.test", "up.twoaddresses.test")),
        },
        expect=(YES, NO),
    ),
    Personality(
        name="busyfirst",
        does="its first MX is out of service (421), its second answers",
        hosts=(
            HostRow(name="mx1.busyfirst.test", manners=Manners(banner="421 4.3.2 {host} is out of service, try later")),
            HostRow(name="mx2.busyfirst.test"),
        ),
        expect=(YES, NO),
    ),
    Personality(
        name="dead",
        does="nobody listens at its only MX",
        hosts=(HostRow(name="mx.dead.test", listens=False),),
        expect=(Expect("alice", R.CONNECT_FAILED),),
    ),
    Personality(
        name="hosting",
        does="a hosting provider: 24 domains share one MX host",
        domains=HOSTED_DOMAINS,
        expect=tuple(
            Expect(row.local, row.reason, domain=domain) for domain in HOSTED_DOMAINS[:3] for row in (YES, NO)
        ),
    ),
    Personality(
        name="onedomain",
        does="takes recipients of one domain a transaction (451 4.3.0), like a large provider",
        manners=Manners(one_domain=True),
        domains=("one.onedomain.test", "two.onedomain.test"),
        expect=(YES, NO),
    ),
)

WORDS_ABOUT_US = (
    Personality(
        name="blocksbanner",
        does="blocks us by policy in its banner (554 5.7.1)",
        manners=Manners(banner="554 5.7.1 {host}: connections from [{client}] are refused by local policy"),
        expect=_always(R.SENDER_BLOCKED),
    ),
    Personality(
        name="noservice",
        does="refuses the connection in its banner (554)",
        manners=Manners(banner="554 {host} accepts no mail from [{client}]: bad reputation"),
        expect=_always(R.SENDER_BLOCKED),
    ),
    Personality(
        name="blocksmail",
        does="blocks us by policy at MAIL (550 5.7.1)",
        manners=Manners(at_mail="550 5.7.1 Mail from [{client}] is blocked, the address is on our block list"),
        expect=_always(R.SENDER_BLOCKED),
    ),
    Personality(
        name="blocksrcpt",
        does="blocks us by policy at RCPT (554 5.7.1)",
        manners=Manners(at_rcpt="554 5.7.1 Service unavailable; Client host [{client}] blocked using a block list"),
        expect=_always(R.SENDER_BLOCKED),
    ),
    Personality(
        name="refusessender",
        does="refuses our sender address at RCPT (550 5.1.8)",
        manners=Manners(at_rcpt="550 5.1.8 <{sender}>: Sender address rejected: its domain was not found"),
        expect=_always(R.SENDER_BLOCKED),
    ),
    Personality(
        name="wantsptr",
        does="refuses clients without a matching reverse DNS (550 5.7.25)",
        manners=Manners(at_rcpt="550 5.7.25 Client host rejected: [{client}] has no reverse DNS that matches"),
        expect=_always(R.SENDER_BLOCKED),
    ),
    Personality(
        name="relaydenied",
        does="no longer serves the domain (554 5.7.1 relay access denied)",
        manners=Manners(at_rcpt="554 5.7.1 <{rcpt}>: Relay access denied"),
        expect=_always(R.VERIFICATION_REFUSED),
    ),
    Personality(
        name="ratelimits",
        does="says that we ask too much (450 4.7.1), whenever we ask",
        manners=Manners(at_rcpt="450 4.7.1 Error: too many recipients from [{client}], slow down"),
        expect=_always(R.RATE_LIMITED),
    ),
    Personality(
        name="toomany",
        does="has too many connections from us (421 4.7.0 in the banner)",
        manners=Manners(banner="421 4.7.0 {host} Error: too many connections from [{client}]"),
        expect=_always(R.RATE_LIMITED),
    ),
    Personality(
        name="outofservice",
        does="is out of service (421 4.3.2 in the banner)",
        manners=Manners(banner="421 4.3.2 {host} Service not available, closing the channel"),
        expect=_always(R.SERVER_TEMPORARY),
    ),
    Personality(
        name="diskfull",
        does="has no room on its disk (452 4.3.1)",
        manners=Manners(at_rcpt="452 4.3.1 Insufficient system storage"),
        expect=_always(R.SERVER_TEMPORARY),
    ),
)

DIALOGUES = (
    Personality(
        name="tlsoffered",
        does="offers STARTTLS, and does without",
        manners=Manners(tls=Tls.OFFERED),
        expect=(YES, NO),
    ),
    Personality(
        name="tlsrequired",
        does="insists on STARTTLS (530 5.7.0 before it), with a self-signed certificate",
        manners=Manners(tls=Tls.REQUIRED),
        expect=(YES, NO),
    ),
    Personality(
        name="tlshangs",
        does="insists on STARTTLS, and then leaves the handshake hanging",
        manners=Manners(tls=Tls.REQUIRED, tls_hangs=True),
        expect=(Expect("alice", R.TIMEOUT),),
    ),
    Personality(
        name="nopipelining",
        does="offers no PIPELINING, and hangs up on who does it nevertheless (503)",
        manners=Manners(
            extensions=NO_PIPELINING, punishes_early_talk=True, banner_pause=Pause.BLINK, reply_pause=Pause.BLINK
        ),
        expect=(YES, NO),
    ),
    Personality(
        name="heloonly",
        does="knows no EHLO (502), only HELO",
        manners=Manners(esmtp=False, extensions=()),
        expect=(YES, NO),
    ),
    Personality(
        name="onercpt",
        does="takes one recipient a transaction (452 4.5.3 from the second on)",
        manners=Manners(max_recipients=1),
        expect=(YES, Expect("bob", R.MAILBOX_ACCEPTED), NO),
    ),
    Personality(
        name="nonmail",
        does="counts commands that send no mail, like Exim, speaks no enhanced codes (554 at the 12th RSET)",
        manners=Manners(
            extensions=("SIZE 52428800", "8BITMIME", "PIPELINING"),
            mail_ok="250 OK",
            rcpt_ok="250 Accepted",
            soft_errors=0,
            hard_errors=0,
            junk_commands=0,
            nonmail_commands=10,
        ),
        mailboxes=Mailboxes(unknown="550 No such user here"),
        expect=(YES, NO),
    ),
    Personality(
        name="crowded",
        does="takes two connections at a time (421 4.7.0 for the third)",
        manners=Manners(max_connections=2),
        expect=(YES, NO),
    ),
    Personality(
        name="impatient",
        does="closes a connection that idles (421 4.4.2)",
        manners=Manners(idle_limit=Pause.SLOW),
        expect=(YES, NO),
    ),
    Personality(
        name="slow", does="thinks before every reply", manners=Manners(reply_pause=Pause.SLOW), expect=(YES, NO)
    ),
    Personality(
        name="utf8",
        does="speaks SMTPUTF8 (RFC 6531)",
        manners=Manners(extensions=(*DEFAULT_EXTENSIONS, "SMTPUTF8")),
        mailboxes=Mailboxes(known=frozenset({"alice", "jörg", "postmaster"})),
        expect=(Expect("jörg", R.MAILBOX_ACCEPTED), Expect("jürgen", R.MAILBOX_NOT_FOUND), YES),
    ),
    Personality(
        name="asciionly",
        does="speaks no SMTPUTF8",
        expect=(Expect("jörg", R.UTF8_UNSUPPORTED), YES),
    ),
    Personality(name="multiline", does="answers in several lines", manners=Manners(multiline=True), expect=(YES, NO)),
    Personality(
        name="pieces",
        does="sends every reply in pieces of one byte",
        manners=Manners(one_byte_pieces=True),
        expect=(YES, NO),
    ),
)

FAILURES = (
    Personality(
        name="nobanner",
        does="takes the connection and never says a word",
        manners=Manners(banner_pause=Pause.FOREVER),
        expect=_always(R.TIMEOUT),
    ),
    Personality(
        name="slowbanner",
        does="says its banner long after anybody waits",
        manners=Manners(banner_pause=Pause.TARPIT),
        expect=_always(R.TIMEOUT),
    ),
    Personality(
        name="tarpit",
        does="says each reply long after anybody waits",
        manners=Manners(reply_pause=Pause.TARPIT),
        expect=_always(R.TIMEOUT),
    ),
    Personality(
        name="dropsmail",
        does="drops the connection at MAIL",
        manners=Manners(hangs_up_at="MAIL"),
        expect=_always(R.PROTOCOL_ERROR),
    ),
    Personality(
        name="dropsrcpt",
        does="drops the connection at RCPT",
        manners=Manners(hangs_up_at="RCPT"),
        expect=_always(R.PROTOCOL_ERROR),
    ),
    Personality(
        name="dropslater",
        does="answers three RCPT of a connection and drops it at the fourth",
        manners=Manners(hangs_up_at="RCPT", hangs_up_after=3),
        expect=(YES, NO),
    ),
    Personality(
        name="garbage",
        does="answers RCPT with a line that is no reply",
        manners=Manners(breakage=Breakage.GARBAGE),
        expect=_always(R.PROTOCOL_ERROR),
    ),
    Personality(
        name="nocode",
        does="leaves out the code in its reply to RCPT",
        manners=Manners(breakage=Breakage.NO_CODE),
        expect=_always(R.PROTOCOL_ERROR),
    ),
    Personality(
        name="longline",
        does="answers RCPT with a line of 100 KB",
        manners=Manners(breakage=Breakage.LONG_LINE),
        expect=_always(R.PROTOCOL_ERROR),
    ),
    Personality(
        name="unasked",
        does="says 250 once more than it was asked, right behind its reply to EHLO",
        manners=Manners(unasked="250 2.0.0 And another thing"),
        expect=_always(R.PROTOCOL_ERROR),
    ),
)

CATALOGUE = (*MAILBOXES, *NAMES, *HOSTS, *WORDS_ABOUT_US, *DIALOGUES, *FAILURES)
"""Every personality that a world serves by default."""


def samples(catalogue: tuple[Personality, ...]) -> tuple[Sample, ...]:
    """The sample addresses of a catalogue with the right verdicts."""
    return tuple(sample for personality in catalogue for sample in personality.samples())


EXPECTED = samples(CATALOGUE)
"""What a right verifier says of the default world."""
