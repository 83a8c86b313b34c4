"""A mail world of its own on loopback: a DNS server and SMTP hosts whose personalities are data.

Demo, tests and benchmarks share it; any verifier can be tried on it. Start at :class:`ops.world.world.World`; what
it serves, and what a right verifier must say of it, stands in :mod:`ops.world.catalogue`.
"""

from ops.world.catalogue import CATALOGUE, EXPECTED
from ops.world.config import WorldConfig
from ops.world.personality import Personality, Sample
from ops.world.world import PortTakenError, World

__all__ = ["CATALOGUE", "EXPECTED", "Personality", "PortTakenError", "Sample", "World", "WorldConfig"]
