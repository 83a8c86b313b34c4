"""One mail transaction (RFC 5321 section 3.3): whether MAIL and each RCPT is accepted, and why not."""

from collections.abc import Mapping
from dataclasses import dataclass

from ops.world.config import WorldConfig
from ops.world.grammar import Path, domain_key
from ops.world.greylist import Greylist
from ops.world.manners import Manners, Tls
from ops.world.personality import Mailboxes
from ops.world.stats import HostStats, ViolationKind, WorldStats

MAIL_PARAMETERS = frozenset({"SIZE", "BODY", "SMTPUTF8"})


@dataclass(frozen=True, slots=True)
class Site:
    """What the sessions of one host share: its name, manners, domains (A-labels), greylist and counters."""

    name: str
    manners: Manners
    domains: Mapping[str, Mailboxes]
    greylist: Greylist
    config: WorldConfig
    stats: WorldStats
    counters: HostStats

    def violated(self, kind: ViolationKind, detail: str) -> None:
        """The client did something wrong."""
        self.stats.violated(self.name, kind, detail)

    def mailboxes(self, domain: str) -> Mailboxes | None:
        """The mailboxes of a domain (A-labels); None where the host does not serve it."""
        if domain == "" or (domain not in self.domains and self.manners.not_served is None):
            return next(iter(self.domains.values()))
        return self.domains.get(domain)


@dataclass(slots=True)
class Transaction:
    """What is known of the transaction so far; RSET and EHLO begin a new one."""

    site: Site
    client: str
    sender: str | None = None
    tried: bool = False
    utf8: bool = False
    recipients: int = 0
    domain: str = ""

    def mail(self, path: Path, offered: frozenset[str], *, secure: bool) -> str | None:
        """Take the sender, or say why not."""
        manners = self.site.manners
        if manners.tls is Tls.REQUIRED and not secure:
            return "530 5.7.0 Must issue a STARTTLS command first"
        words = {word.partition("=")[0].upper() for word in path.parameters}
        if not words <= MAIL_PARAMETERS or ("SMTPUTF8" in words and "SMTPUTF8" not in offered):
            self.site.violated(ViolationKind.SYNTAX, " ".join(path.parameters))
            return "555 5.5.4 Error: unsupported parameter of MAIL"
        if not path.ascii and "SMTPUTF8" not in words:
            return self._utf8_unannounced(path)
        if manners.at_mail is None:
            self.sender = path.address
            self.utf8 = "SMTPUTF8" in words
        return manners.at_mail

    def rcpt(self, path: Path, now: float) -> str | None:
        """Take a recipient, or say why not."""
        domain = domain_key(path.domain)
        refusal = self._refusal(path, domain, now)
        if refusal is None:
            self.recipients += 1
            self.domain = domain
        return refusal

    def _refusal(self, path: Path, domain: str, now: float) -> str | None:
        """In the order in which a server finds it out."""
        manners = self.site.manners
        if self.recipients >= manners.max_recipients:
            return "452 4.5.3 Error: too many recipients"
        if not path.ascii and not self.utf8:
            return self._utf8_unannounced(path)
        if manners.at_rcpt is not None:
            return manners.at_rcpt
        mailboxes = self.site.mailboxes(domain)
        if mailboxes is None:
            return manners.not_served
        if manners.one_domain and self.domain not in ("", domain):
            return "451 4.3.0 Several domains in one transaction are not supported, try again later"
        return self._greylisted(path.address, now) or mailboxes.refusal(path.local)

    def _greylisted(self, recipient: str, now: float) -> str | None:
        if self.site.manners.greylist is None:
            return None
        wait = self.site.greylist.wait(self.client, self.sender or "", recipient, now)
        return self.site.manners.greylist.replace("{wait}", str(wait)) if wait else None

    def _utf8_unannounced(self, path: Path) -> str:
        self.site.violated(ViolationKind.UTF8_NOT_ANNOUNCED, path.address)
        return "553 5.6.7 Error: the address needs SMTPUTF8"
