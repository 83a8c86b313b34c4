"""What a row of the catalogue is made of: domains, mailboxes, hosts, DNS records, and the verdicts they deserve."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from ops.world.manners import POLITE, Manners
from schemas.vocabulary import RETRYABLE, VERDICTS, Reason, Verdict

PEOPLE = frozenset({"alice", "bob", "carol", "postmaster"})
UNKNOWN_MAILBOX = "550 5.1.1 <{rcpt}>: no such user here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailboxes:
    """Who has a mailbox: ``known`` locals and every local of ``prefix`` and a number (so that load needs no table).

    ``replies`` holds what is said of particular locals instead; ``unknown`` what is said of all others, and without
    it they are accepted too.
    """

    known: frozenset[str] = PEOPLE
    prefix: str = "user"
    replies: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unknown: str | None = UNKNOWN_MAILBOX

    def refusal(self, local: str) -> str | None:
        """The reply to a recipient that is not accepted; None for one that is. Locals compare in lower case."""
        local = local.lower()
        if local in self.replies:
            return self.replies[local]
        if local in self.known or self._is_numbered(local):
            return None
        return self.unknown

    def _is_numbered(self, local: str) -> bool:
        """A number and nothing else: one random recipient of a million begins with the word."""
        number = local.removeprefix(self.prefix)
        return number != local and (not number or number.isdecimal())


ORDINARY = Mailboxes()


class DnsFault(StrEnum):
    """How a name's DNS fails."""

    SERVFAIL = "servfail"
    REFUSED = "refused"
    SILENT = "silent"
    LATE = "late"


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What DNS says of one name. ``mx`` is in order of preference (``.`` is the null MX of RFC 7505).

    ``a`` holds addresses, or the names of hosts of the world, whose addresses stand for them.
    """

    mx: tuple[str, ...] = ()
    a: tuple[str, ...] = ()
    aaaa: tuple[str, ...] = ()
    cname: str | None = None
    txt: str | None = None
    fault: DnsFault | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    """One SMTP host; one that does not listen has an address where nobody is."""

    name: str
    manners: Manners = POLITE
    listens: bool = True


@dataclass(frozen=True, slots=True)
class Expect:
    """What a right verifier says of a mailbox at the first ask, and ``finally`` after its retries."""

    local: str
    reason: Reason
    finally_: Reason | None = None
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """An address of the world and the only right verdict on it.

    ``first_reason`` is what one ask learns; ``reason`` what stands in the end, after retries that wait long enough.
    """

    address: str
    personality: str
    first_reason: Reason
    reason: Reason

    @property
    def verdict(self) -> Verdict:
        """The verdict in the end."""
        return VERDICTS[self.reason]

    @property
    def first_verdict(self) -> Verdict:
        """The verdict of the first ask."""
        return VERDICTS[self.first_reason]

    @property
    def retryable(self) -> bool:
        """Whether the first ask says "later"."""
        return self.first_reason in RETRYABLE

    @property
    def eventually(self) -> bool:
        """Whether it takes a retry to learn the verdict."""
        return self.first_reason is not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Personality:
    """A row of the catalogue. By default: the domain ``<name>.test`` with one host, ``mx.<name>.test``.

    Each personality has a registrable domain of its own, so that each is a mail provider of its own. ``zone`` replaces
    the records of single names; a name mapped to None does not exist.
    """

    name: str
    does: str
    manners: Manners = POLITE
    mailboxes: Mailboxes = ORDINARY
    domains: tuple[str, ...] = ()
    hosts: tuple[HostRow, ...] | None = None
    zone: Mapping[str, Records | None] = field(default_factory=lambda: MappingProxyType({}))
    expect: tuple[Expect, ...] = ()

    @property
    def all_domains(self) -> tuple[str, ...]:
        """The mail domains, as DNS spells them (A-labels)."""
        return self.domains or (f"{self.name}.test",)

    @property
    def all_hosts(self) -> tuple[HostRow, ...]:
        """The hosts, the preferred one first."""
        return (HostRow(name=f"mx.{self.name}.test", manners=self.manners),) if self.hosts is None else self.hosts

    def records(self) -> Iterator[tuple[str, Records]]:
        """Every name of this personality with what DNS says of it."""
        names: dict[str, Records | None] = {host.name: Records(a=(host.name,)) for host in self.all_hosts}
        exchangers = tuple(host.name for host in self.all_hosts)
        names |= {domain: Records(mx=exchangers) for domain in self.all_domains}
        names |= self.zone
        yield from ((name, records) for name, records in names.items() if records is not None)

    def samples(self) -> Iterator[Sample]:
        """The addresses that a verifier is judged on."""
        for row in self.expect:
            address = f"{row.local}@{row.domain or self.all_domains[0]}"
            yield Sample(address, self.name, row.reason, row.finally_ or row.reason)
