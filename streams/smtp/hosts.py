"""Where a session goes: a name for the records, an address that is dialled."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Host:
    """One address of one MX host. ``address`` was checked by the caller and is the one that is dialled."""

    name: str
    address: str
    port: int = 25
