"""What goes wrong when: a pure function of the seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    ADMITTED_BULK,
    ADMITTED_INTERACTIVE,
    ATTEMPTS,
    REQUESTS,
    SETTLEMENTS,
    TASKS_BULK,
    TASKS_INTERACTIVE,
    TIERS,
)
from streams.installed import ROLES


class Kind(StrEnum):
    """A way to fail."""

    KILL = "SIGKILL"
    TERMINATE = "SIGTERM"
    FREEZE = "SIGSTOP"
    BROKER_KILL = "SIGKILL of broker"
    BROKER_RESTART = "restart of broker"
    DNS = "no DNS"
    SMTP_DOWN = "no mail server listens"
    SMTP_FROZEN = "no mail server answers"
    STALL = "stalled network to broker"
    RESET = "reset network to broker"
    REPEAT = "repeated records of"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when it begins, in seconds after the first request, what it hits, how many seconds it lasts."""

    at_s: float
    kind: Kind
    target: str = ""
    lasts_s: float = 0.0

    @property
    def ends_s(self) -> float:
        """When it heals by itself."""
        return round(self.at_s + self.lasts_s, 1)

    def __str__(self) -> str:
        words = (f"{self.at_s:6.1f} s ", str(self.kind), self.target, f"for {self.lasts_s:.1f} s" * (self.lasts_s > 0))
        return " ".join(word for word in words if word)


OUTAGES: Final = frozenset({Kind.DNS, Kind.SMTP_DOWN, Kind.SMTP_FROZEN})
"""Faults of the world that is asked: what could not be learned while they last is asked again."""

LASTS_S: Final[dict[Kind, tuple[float, float]]] = {
    Kind.KILL: (0.0, 5.0),
    Kind.TERMINATE: (0.0, 3.0),
    Kind.FREEZE: (8.0, 12.0),  # beyond the session timeout
    Kind.BROKER_KILL: (1.0, 8.0),
    Kind.BROKER_RESTART: (0.0, 2.0),
    Kind.DNS: (2.0, 8.0),
    Kind.SMTP_DOWN: (2.0, 8.0),
    Kind.SMTP_FROZEN: (2.0, 8.0),
    Kind.STALL: (3.0, 12.0),
    Kind.RESET: (0.0, 3.0),
    Kind.REPEAT: (0.0, 0.0),
}
"""From and to, in seconds. Outages of DNS and SMTP are over before the last tier asks."""

GAP_S: Final = (1.0, 4.5)
"""Between the beginnings of two faults."""

COPIES: Final = 2
"""Workers of each role."""

REPEATED: Final = tuple(
    topic.name
    for topic in (
        REQUESTS,
        ADMISSIONS_BULK,
        ADMISSIONS_INTERACTIVE,
        ADMITTED_BULK,
        ADMITTED_INTERACTIVE,
        TASKS_BULK,
        TASKS_INTERACTIVE,
        *TIERS,
        ATTEMPTS,
        SETTLEMENTS,
    )
)


def workers(copies: int = COPIES) -> tuple[str, ...]:
    """Their names: ``gate-1``, ``gate-2``, ..."""
    return tuple(f"{role}-{number}" for role in ROLES for number in range(1, copies + 1))


def schedule(seed: int, *, nodes: int, copies: int = COPIES) -> tuple[Fault, ...]:
    """The faults of a seed in the order of time: one of each role is killed, and everything else happens once.

    Faults may overlap, but nothing is hit again before its last fault is over.
    """
    chance = random.Random(seed)
    kinds = [Kind.KILL] * (len(ROLES) - 1) + list(Kind) + [Kind.REPEAT]
    chance.shuffle(kinds)
    killed = chance.sample(ROLES, len(ROLES))
    faults: list[Fault] = []
    at_s = 0.0
    for kind in kinds:
        at_s += chance.uniform(*GAP_S)
        if kind is Kind.KILL:
            role = killed.pop()
            among = [f"{role}-{number}" for number in range(1, copies + 1)]
        else:
            among = list(_targets(kind, nodes, copies))
        target, begins_s = _free(among, faults, at_s, chance)
        faults.append(Fault(round(begins_s, 1), kind, target, round(chance.uniform(*LASTS_S[kind]), 1)))
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _targets(kind: Kind, nodes: int, copies: int) -> Sequence[str]:
    match kind:
        case Kind.TERMINATE | Kind.FREEZE:
            return workers(copies)
        case Kind.BROKER_KILL | Kind.BROKER_RESTART | Kind.STALL:
            return [str(number) for number in range(1, nodes + 1)]
        case Kind.REPEAT:
            return REPEATED
        case Kind.RESET:
            return ["all"]
        case _:
            return ["everybody"]


def _free(among: Sequence[str], faults: Sequence[Fault], at_s: float, chance: random.Random) -> tuple[str, float]:
    """A target that is whole at that time; else the first that is whole again, and when."""
    whole = {name: max((_over_s(fault) for fault in faults if fault.target == name), default=0.0) for name in among}
    free = [name for name in among if whole[name] <= at_s]
    if free:
        return chance.choice(free), at_s
    name = min(among, key=lambda name: whole[name])
    return name, whole[name]


def _over_s(fault: Fault) -> float:
    """A worker or broker that was down needs some seconds until it is back."""
    return fault.ends_s + (0.0 if fault.kind in (Kind.REPEAT, *OUTAGES) else 10.0)
