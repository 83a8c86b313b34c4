"""What DNS says of where a domain's mail goes (RFC 5321 section 5.1, RFC 7505)."""

from enum import StrEnum
from typing import NamedTuple


class RouteKind(StrEnum):
    """The five answers, and the one that is none."""

    MX = "mx"
    IMPLICIT_MX = "implicit_mx"
    NULL_MX = "null_mx"
    NOT_FOUND = "not_found"
    UNROUTABLE = "unroutable"
    TEMPORARY = "temporary"


class MailHost(NamedTuple):
    """One exchanger with its addresses; those that may not be dialled are left out."""

    name: str
    preference: int
    addresses: tuple[str, ...]


class MailRoute(NamedTuple):
    """Where mail for a domain goes; ``hosts`` in order of preference, for ``mx`` and ``implicit_mx`` only.

    ``not_found``: NXDOMAIN, or neither MX nor address records. ``unroutable``: exchangers are named, but none has an
    address that may be dialled. ``temporary``: SERVFAIL, timeout, refused: nothing was learned.
    """

    domain: str
    kind: RouteKind
    hosts: tuple[MailHost, ...] = ()
    detail: str = ""
    cached: bool = False
    elapsed_ms: int = 0

    @property
    def has_hosts(self) -> bool:
        """True where there is somebody to ask."""
        return bool(self.hosts)
