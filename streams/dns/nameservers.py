"""Which name servers to ask: those of the operator, else the system's."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")

_BRACKETED = re.compile(r"\[([^\]]+)\](?::(\d{1,5}))?\Z")
_PLAIN = re.compile(r"([^:]+)(?::(\d{1,5}))?\Z")


@dataclass(frozen=True, slots=True)
class NameServer:
    """A name server's address; it is never a name, since nothing could resolve that."""

    host: str
    port: int = 53

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_name_server(text: str) -> NameServer:
    """``192.0.2.1``, ``192.0.2.1:5353``, ``2001:db8::1`` or ``[2001:db8::1]:5353``; else a ValueError that says so."""
    bracketed = _BRACKETED.match(text)
    host, port = bracketed.groups() if bracketed else (text, None)
    if not bracketed and (plain := _PLAIN.match(text)):
        host, port = plain.groups()
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(f"name server {text!r}: give an IP address, with :PORT where it is not 53") from None
    number = int(port or 53)
    if not 0 < number <= 65535:
        raise ValueError(f"name server {text!r}: a port is 1 to 65535")
    return NameServer(str(address), number)


def system_name_servers(lines: Iterable[str]) -> tuple[NameServer, ...]:
    """The ``nameserver`` lines of a resolv.conf(5); the local host's server where there is none, as the manual says."""
    words = [line.split() for line in lines]
    found = [parse_name_server(each[1]) for each in words if len(each) > 1 and each[0] == "nameserver"]
    return tuple(found) or (NameServer("127.0.0.1"),)


def name_servers(given: Sequence[str], resolv_conf: Path = RESOLV_CONF) -> tuple[NameServer, ...]:
    """Those given, in their order; with none given those of ``resolv_conf``."""
    if given:
        return tuple(parse_name_server(text) for text in given)
    try:
        lines = resolv_conf.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return system_name_servers(lines)
