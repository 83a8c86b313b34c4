"""What `submit` must not forget: one SQLite file beside the results, true after a crash at any moment.

What was read from Kafka and the offset to read on from are written in one transaction, so nothing is missed and
nothing is counted twice. The rows lie on disk, not in memory, however long the file is.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ops.cli.errors import UserError

_BUSY_S = 1.0
_TABLES = {
    "settings": "name TEXT PRIMARY KEY, value TEXT NOT NULL",
    "requests": "number INTEGER PRIMARY KEY, generation INTEGER NOT NULL, delivered INTEGER NOT NULL",
    "answers": "ordinal INTEGER PRIMARY KEY, cells TEXT NOT NULL",
    "positions": "partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL",
}


@dataclass(slots=True)
class Learned:
    """What one read of the results topic taught; :meth:`State.learn` keeps all of it or nothing."""

    answers: dict[int, Sequence[str]] = field(default_factory=dict)
    """Ordinal of the address in the file to its cells."""
    again: dict[int, int] = field(default_factory=dict)
    """Number of a request that must be sent again to the generation it is sent with."""
    positions: dict[int, int] = field(default_factory=dict)
    """Partition to the offset to read on from."""


@dataclass(frozen=True, slots=True)
class Sent:
    """How far a request got: its generation (0, or one more for each rejection), and whether the broker has it."""

    generation: int
    delivered: bool


class State:
    """The state file of one run. One process at a time has it open.

    Raises:
        UserError: it can't be opened, or is no state file.
    """

    def __init__(self, path: Path, settings: Mapping[str, str] | None = None) -> None:
        """Open the state at `path`; with `settings`, begin a new one there in place of what there was."""
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S)
            # Exclusive: a second `submit` on the same state is refused, and no shared-memory file is left behind.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            with self._transaction():
                if settings is not None:
                    self._create(settings)
                self.settings = dict(self._db.execute("SELECT name, value FROM settings"))
        except sqlite3.DatabaseError as error:
            raise UserError(self._trouble(error)) from None

    def _trouble(self, error: sqlite3.Error) -> str:
        if "locked" in str(error):
            return f"{self.path} is in use: another `mailvet submit` is working on it"
        return f"{self.path} can't be used as the state file of a run: {error}"

    def _create(self, settings: Mapping[str, str]) -> None:
        for name, columns in _TABLES.items():
            self._db.execute(f"DROP TABLE IF EXISTS {name}")
            self._db.execute(f"CREATE TABLE {name} ({columns})")
        self._db.executemany("INSERT INTO settings VALUES (?, ?)", settings.items())

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def remember(self, name: str, value: str) -> None:
        """Keep one more setting of the run."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))
        self.settings[name] = value

    def answered(self) -> int:
        """How many addresses have their answer."""
        (count,) = self._db.execute("SELECT count(*) FROM answers").fetchone()
        return int(count)

    def missing(self, ordinals: range) -> frozenset[int]:
        """Those of `ordinals` (step 1) that have no answer yet."""
        rows = self._db.execute(
            "SELECT ordinal FROM answers WHERE ordinal >= ? AND ordinal < ?", (ordinals.start, ordinals.stop)
        )
        return frozenset(ordinals).difference(ordinal for (ordinal,) in rows)

    def begun(self) -> dict[int, Sent]:
        """The requests that may have been sent (number to how far they got), in order."""
        rows = self._db.execute("SELECT number, generation, delivered FROM requests ORDER BY number")
        return {number: Sent(generation, bool(delivered)) for number, generation, delivered in rows}

    def positions(self) -> dict[int, int]:
        """Partition of the results topic to the offset to read on from; empty before anything was sent."""
        return dict(self._db.execute("SELECT partition, next_offset FROM positions"))

    def begin(self, generations: Mapping[int, int]) -> None:
        """These requests (number to generation) are about to be sent."""
        self._write("INSERT OR REPLACE INTO requests VALUES (?, ?, 0)", generations.items())

    def deliver(self, numbers: Iterable[int]) -> None:
        """The broker has these requests."""
        self._write("UPDATE requests SET delivered = 1 WHERE number = ?", ((number,) for number in numbers))

    def learn(self, learned: Learned) -> None:
        """Keep what was read. The first answer to an address stands; a repeat changes nothing."""
        cells = ((ordinal, json.dumps(row)) for ordinal, row in learned.answers.items())
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", cells)
            self._db.executemany("INSERT OR REPLACE INTO requests VALUES (?, ?, 0)", learned.again.items())
            self._db.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?)", learned.positions.items())

    def _write(self, statement: str, rows: Iterable[tuple[int, ...]]) -> None:
        with self._transaction():
            self._db.executemany(statement, rows)

    def cells(self) -> Iterator[list[str]]:
        """The cells of every answer, in the order of the file."""
        for (cells,) in self._db.execute("SELECT cells FROM answers ORDER BY ordinal"):
            yield json.loads(cells)

    def close(self) -> None:
        """Leave the file for a later run."""
        self._db.close()

    def delete(self) -> None:
        """Remove the file and what SQLite keeps beside it."""
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
