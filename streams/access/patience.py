"""How many refusals a key is answered.

Each is a record on its tenant's topic and a row of ours, and asking costs a client nothing. So whoever asks on and on,
above all with a key that was revoked because it leaked, is answered for a while and then like one who does not
authenticate.
"""

from streams.access import rate
from streams.access.keys import Key
from streams.access.rate import Rate

SERVED = Rate(100.0, 2000)
"""Of a key that is served; its own rate where that is more."""

NOT_SERVED = Rate(1.0, 1000)
"""Of a key that is revoked, disabled, expired or of a suspended tenant: its clients have to know, and to stop."""

_MOST_KEYS = 10_000


class Patience:
    """In memory: whoever takes a partition over begins anew. That bounds a flood and is nobody's account."""

    def __init__(self) -> None:
        self._tats: dict[tuple[str, str], float] = {}

    def take(self, key: Key, now_ms: int, *, served: bool) -> bool:
        """Whether one more refusal, at ``now_ms`` (milliseconds since 1970), is answered."""
        name = (key.tenant, key.key_id)
        if name not in self._tats and len(self._tats) >= _MOST_KEYS:
            self._tats.clear()
        taken = rate.take(_bound(key, served=served), self._tats.get(name, 0.0), now_ms)
        self._tats[name] = taken.tat_ms
        return taken.retry_after_ms is None


def _bound(key: Key, *, served: bool) -> Rate:
    if not served:
        return NOT_SERVED
    own = key.own.rate
    return own if own is not None and own.per_second > SERVED.per_second else SERVED
