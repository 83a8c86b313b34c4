"""How fast anybody could be: what round trips, sessions and the servers' error limits leave to a client."""

from ops.bench.lists import BenchList
from ops.bench.sink import SOFT_ERRORS

OPENING = 3
"""Round trips of a session before its first write: TCP, banner, EHLO."""

ALONE = 6
"""Round trips of one address alone: MX, A, TCP, banner, EHLO, MAIL with RCPT."""


def limit_rate(rows: BenchList, rtt_s: float, sessions: int) -> float:
    """Addresses a second that ``sessions`` a provider allow a client that costs no CPU.

    One session comes after the other, and asks until its errors are used up, all of it in one write, as if the client
    knew who is missing; the busiest provider's addresses are the last to be done. (Ours overlap while they come and go,
    where the server counts only one of two: decisions 18 and 20.) Without a round-trip time there is no such limit:
    infinity.
    """
    if not rtt_s:
        return float("inf")
    per_session = SOFT_ERRORS / rows.miss_ratio
    busiest = max(_sizes(rows).values())
    seconds_each = rtt_s * (OPENING + 1) / per_session / sessions
    return rows.size / (busiest * seconds_each)


def _sizes(rows: BenchList) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for domain in rows.domains:
        sizes[domain.provider] = sizes.get(domain.provider, 0) + domain.size
    return sizes
