"""The seam to the network: one question to one set of name servers, one answer; no failure is an exception."""

from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol


class RecordType(IntEnum):
    """The types that mail routing asks for, by their numbers on the wire (RFC 1035, RFC 3596)."""

    A = 1
    MX = 15
    AAAA = 28


class Status(StrEnum):
    """What became of a question. ``ok`` has records; ``nodata``: the name exists without records of this type."""

    OK = "ok"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    SERVFAIL = "servfail"
    REFUSED = "refused"
    TIMEOUT = "timeout"

    @property
    def temporary(self) -> bool:
        """Nothing was learned of the name: a failure of servers or of the way to them."""
        return self in _TEMPORARY


_TEMPORARY = (Status.SERVFAIL, Status.REFUSED, Status.TIMEOUT)


class Exchange(NamedTuple):
    """One MX record; ``host`` is lower case without the final dot, and empty for the root (RFC 7505)."""

    preference: int
    host: str


class Answer(NamedTuple):
    """An answer. ``ttl`` in seconds: of the records, or of the denial (RFC 2308); null where none was said.

    ``canonical`` is the name at the end of the CNAME chain, the asked name itself where there is no chain.
    """

    status: Status
    canonical: str = ""
    exchanges: tuple[Exchange, ...] = ()
    addresses: tuple[str, ...] = ()
    ttl: int | None = None
    detail: str = ""


class Transport(Protocol):
    """Asks name servers. ``name`` is ASCII without a final dot; a name that DNS cannot hold is ``nxdomain``."""

    async def query(self, name: str, rdtype: RecordType) -> Answer:
        """Ask, wait no longer than the transport's own deadline, and answer whatever happens."""
        ...

    async def aclose(self) -> None:
        """Close the sockets; questions in flight end as ``timeout``."""
        ...
