"""What is remembered of domains that accept every recipient, so that each is asked once."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from streams.dns.cache import DOMAINS
from streams.smtp.replies import Reply

LETTERS = b"abcdefghijklmnopqrstuvwxyz"
_TO_LETTER = bytes(LETTERS[n % len(LETTERS)] for n in range(256))
_TO_SIGN = bytes((LETTERS + b"0123456789")[n % 36] for n in range(256))


def impossible_local(random: Callable[[int], bytes]) -> str:
    """A local part that no mailbox has: 20 characters, about 103 bits, a letter first. ``random`` is as os.urandom."""
    drawn = random(20)
    return (drawn[:1].translate(_TO_LETTER) + drawn[1:].translate(_TO_SIGN)).decode("ascii")


@dataclass(frozen=True, slots=True)
class CatchAll:
    """Whether a domain takes a recipient that can't exist; ``accepts`` is None where it would not say."""

    accepts: bool | None
    reply: Reply | None = None


class CatchAllMemory:
    """Domain to :class:`CatchAll`, for a while. An answer is kept ``ttl_s``, the lack of one ``unknown_ttl_s``.

    The latter is shorter than any greylist waits: whoever is accepted when asked again must not be told that nothing
    is known of the domain because of what it said the first time.
    """

    def __init__(
        self,
        *,
        ttl_s: float = 3600.0,
        unknown_ttl_s: float = 10.0,
        size: int = DOMAINS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._unknown_ttl_s = unknown_ttl_s
        self._size = size
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, CatchAll]] = OrderedDict()

    def get(self, domain: str) -> CatchAll | None:
        """What is known of a domain, or None where it has to be asked."""
        entry = self._known.get(domain)
        if entry is None or entry[0] <= self._clock():
            return None
        return entry[1]

    def learn(self, domain: str, catch_all: CatchAll) -> None:
        """Remember an answer; the oldest ones go when the memory is full."""
        ttl = self._unknown_ttl_s if catch_all.accepts is None else self._ttl_s
        self._known[domain] = (self._clock() + ttl, catch_all)
        self._known.move_to_end(domain)
        if len(self._known) > self._size:
            self._known.popitem(last=False)
