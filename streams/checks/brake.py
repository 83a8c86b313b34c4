"""When servers speak of nothing but us, asking them stops for a while: a block grows with each address asked in spite
of it, and what could be learned is learned already."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas.vocabulary import Reason
from streams.checks.evidence import Probe
from streams.checks.reply_text import without_addresses

ABOUT_US = frozenset({Reason.SENDER_BLOCKED, Reason.RATE_LIMITED})
"""Reasons at RCPT that will be those of the next recipient too."""

IN_A_ROW = 10
"""Replies about us, or sessions that ended before any answer, without a word about a mailbox between them."""

DOMAINS = 3
"""So many must have met them before the whole provider is held back: one domain may have rules of its own."""

_Key = tuple[str, str | None]


@dataclass(slots=True)
class _Row:
    """What has come in a row from a domain, or (without one) from a provider."""

    count: int = 0
    domains: set[str] = field(default_factory=set)
    until: float = 0.0
    probe: Probe | None = None


class Brake:
    """Remembers, for a domain and for its provider, what came in a row; at most ``size`` of them."""

    def __init__(
        self, *, pause_s: float = 30.0, size: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pause_s = pause_s
        self._size = size
        self._clock = clock
        self._rows: OrderedDict[_Key, _Row] = OrderedDict()

    @property
    def idle(self) -> bool:
        """Nothing has come of late that was about us: nobody is held."""
        return not self._rows

    def useful(self, provider: str, domain: str) -> None:
        """A mailbox was spoken of: the row begins anew."""
        if self._rows:
            self._rows.pop((provider, domain), None)
            self._rows.pop((provider, None), None)

    def useless(self, provider: str, domain: str, probe: Probe) -> None:
        """``probe`` is about us. Whoever is held back by it is shown no address that it names."""
        for key in ((provider, domain), (provider, None)):
            row = self._rows.setdefault(key, _Row())
            row.count += 1
            if len(row.domains) < DOMAINS:
                row.domains.add(domain)
            if row.count >= IN_A_ROW and (key[1] is not None or len(row.domains) >= DOMAINS):
                row.until = self._clock() + self._pause_s
                reply = probe.reply and without_addresses(probe.reply)
                row.probe = probe._replace(reply=reply, catch_all=None, catch_all_reply=None, cached=True)
        while len(self._rows) > self._size:
            self._rows.popitem(last=False)

    def held(self, provider: str, domain: str) -> Probe | None:
        """What an address of the domain would hear, where nobody is to be asked; None where it may be asked."""
        if not self._rows:
            return None
        for key in ((provider, domain), (provider, None)):
            row = self._rows.get(key)
            if row is not None and row.until > self._clock():
                return row.probe
        return None
