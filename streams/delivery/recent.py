"""What a role met in the last minutes: the share of dead letters, and how old what it read was."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from streams.metrics import Labels, Metrics

PIECE_S: Final = 30.0
PIECES: Final = 10
"""Five minutes, forgotten half a minute at a time."""

MIN_DEAD: Final = 10
"""Fewer dead letters are no share of anything: the counter tells of each."""


@dataclass(slots=True)
class _Piece:
    number: int
    begun: int = 0
    dead: int = 0
    age_s: float = 0.0


class Recent:
    """The records of the last five minutes, of one topic, in bounded memory. ``clock``: seconds that never go back.

    ``limit``: the share of dead letters that is too much.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._pieces: deque[_Piece] = deque(maxlen=PIECES)

    def begun(self, age_s: float, count: int = 1) -> None:
        """So many records were read; the oldest was appended so many seconds ago."""
        piece = self._piece()
        piece.begun += count
        piece.age_s = max(piece.age_s, age_s)

    def died(self) -> None:
        """One became a dead letter."""
        self._piece().dead += 1

    @property
    def share(self) -> float:
        """Of the records read, the part that became dead letters: 0 to 1."""
        begun, dead = self._sum()
        return min(1.0, dead / begun) if begun else 0.0

    @property
    def too_many(self) -> bool:
        """The share is above the limit, and there is more than a handful of them."""
        return self._sum()[1] >= MIN_DEAD and self.share > self._limit

    @property
    def oldest_s(self) -> float:
        """The age of the oldest record when it was read."""
        return max((piece.age_s for piece in self._live()), default=0.0)

    def show(self, metrics: Metrics, labels: Labels) -> None:
        """Let Prometheus ask. ``labels``: role and topic."""
        metrics.dead_letter_share.read(lambda: {labels: self.share})
        metrics.dead_letters_over_limit.read(lambda: {labels: float(self.too_many)})
        metrics.read_age_seconds.read(lambda: {labels: self.oldest_s})

    def _sum(self) -> tuple[int, int]:
        live = self._live()
        return sum(piece.begun for piece in live), sum(piece.dead for piece in live)

    def _live(self) -> list[_Piece]:
        first = self._number() - PIECES
        return [piece for piece in self._pieces if piece.number > first]

    def _piece(self) -> _Piece:
        number = self._number()
        if not self._pieces or self._pieces[-1].number != number:
            self._pieces.append(_Piece(number))
        return self._pieces[-1]

    def _number(self) -> int:
        return int(self._clock() / PIECE_S)
