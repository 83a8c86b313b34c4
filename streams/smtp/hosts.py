"""Where a session goes: a name for the records, an address that is dialled."""

from typing import NamedTuple


class Host(NamedTuple):
    """One address of one MX host. ``address`` was checked by the caller and is the one that is dialled."""

    name: str
    address: str
    port: int = 25
