"""What happened in a world: counters that tests and benchmarks assert on, and what clients did wrong."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_VIOLATIONS = 1000
"""So many are kept in full; beyond it they are only counted."""


class ViolationKind(StrEnum):
    """What a client must not do (RFC 5321, RFC 2920 for pipelining, RFC 3207 for STARTTLS, RFC 6531 for UTF-8)."""

    BEFORE_BANNER = "before_banner"
    PIPELINING_NOT_OFFERED = "pipelining_not_offered"
    NOT_LAST_IN_GROUP = "not_last_in_group"
    AFTER_STARTTLS = "after_starttls"
    AFTER_QUIT = "after_quit"
    BARE_LINE_END = "bare_line_end"
    CONTROL_CHARACTER = "control_character"
    NOT_UTF8 = "not_utf8"
    LINE_TOO_LONG = "line_too_long"
    OUT_OF_SEQUENCE = "out_of_sequence"
    SYNTAX = "syntax"
    UNKNOWN_COMMAND = "unknown_command"
    UTF8_NOT_ANNOUNCED = "utf8_not_announced"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing a client did wrong, where, and the line it did it with."""

    host: str
    kind: ViolationKind
    detail: str


@dataclass(slots=True)
class HostStats:
    """One SMTP host's counters. ``reads`` counts pieces of data that arrived, which is at most the client's writes."""

    connections: int = 0
    open: int = 0
    open_max: int = 0
    reads: int = 0
    writes: int = 0
    recipients: int = 0
    refused: int = 0
    tls: int = 0
    messages: int = 0
    commands: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class DnsStats:
    """The DNS server's counters; ``names`` counts queries by (name, type)."""

    queries: int = 0
    udp: int = 0
    tcp: int = 0
    malformed: int = 0
    names: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(slots=True)
class WorldStats:
    """Everything counted in a world; ``open`` and ``open_max`` are connections to all SMTP hosts together."""

    dns: DnsStats = field(default_factory=DnsStats)
    hosts: dict[str, HostStats] = field(default_factory=dict)
    open: int = 0
    open_max: int = 0
    violations: list[Violation] = field(default_factory=list)
    violation_counts: Counter[ViolationKind] = field(default_factory=Counter)

    def host(self, name: str) -> HostStats:
        """One host's counters; they exist from the first asking on."""
        return self.hosts.setdefault(name, HostStats())

    def total(self, counter: str) -> int:
        """One of :class:`HostStats`'s numbers, over all hosts."""
        return sum(getattr(host, counter) for host in self.hosts.values())

    @property
    def commands(self) -> Counter[str]:
        """How often each command was sent, over all hosts."""
        return sum((host.commands for host in self.hosts.values()), Counter())

    def opened(self, host: HostStats) -> None:
        """A client connected."""
        host.connections += 1
        host.open += 1
        host.open_max = max(host.open_max, host.open)
        self.open += 1
        self.open_max = max(self.open_max, self.open)

    def closed(self, host: HostStats) -> None:
        """A connection is gone."""
        host.open -= 1
        self.open -= 1

    def violated(self, host: str, kind: ViolationKind, detail: str) -> None:
        """A client did something wrong."""
        self.violation_counts[kind] += 1
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(host, kind, detail[:200]))

    def summary(self) -> dict[str, Any]:
        """The totals, ready for JSON."""
        counters = ("connections", "reads", "writes", "recipients", "refused", "tls", "messages")
        return {
            **{name: self.total(name) for name in counters},
            "open_max": self.open_max,
            "commands": dict(self.commands),
            "dns_queries": self.dns.queries,
            "dns_tcp": self.dns.tcp,
            "violations": {str(kind): count for kind, count in self.violation_counts.items()},
        }
