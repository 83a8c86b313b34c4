"""What can be set about a world."""

import math
from dataclasses import dataclass

from ops.world.manners import POLITE, Manners, Pause

NETWORK = "127.0.0.0/8"
"""Every server of a world lives in here, and nowhere else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Ports (0 takes a free one), delays in seconds, and the size of the bulk part.

    ``rtt_s`` is the round-trip time to every server: each reply comes so much later, and a new connection costs one
    more (the handshake of TCP, which loopback does not charge for). ``bulk_domains`` domains
    (``d0001.bulk.mailvet.test``, ...) are dealt out among ``bulk_hosts`` hosts with ``bulk_manners``.
    """

    dns: bool = True
    dns_port: int = 0
    dns_ttl_s: int = 300
    smtp_port: int = 0
    rtt_s: float = 0.0
    greylist_s: float = 1.0
    soft_error_s: float = 1.0
    slow_s: float = 0.1
    tarpit_s: float = 60.0
    late_dns_s: float = 15.0
    bulk_domains: int = 0
    bulk_hosts: int = 1
    bulk_manners: Manners = POLITE

    def seconds(self, pause: Pause) -> float:
        """What a named pause means in this world; ``FOREVER`` is infinity."""
        return {
            Pause.NONE: 0.0,
            Pause.BLINK: 0.02,
            Pause.SLOW: self.slow_s,
            Pause.TARPIT: self.tarpit_s,
            Pause.FOREVER: math.inf,
        }[pause]
