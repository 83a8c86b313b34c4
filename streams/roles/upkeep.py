"""Going through a table a piece at a time, to end rows whose time is over.

A row's key begins with the key of the records that change it, up to the first colon: the row belongs to that record's
partition (:func:`record_key`), also where it is ended by the clock and no record is at hand.
"""

from collections.abc import MutableMapping

Table = MutableMapping[bytes, bytes]

STEP = 5000
"""Rows looked at in one call: a few milliseconds."""


def row_key(record_key: str, *parts: str) -> bytes:
    """The key of a row. ``record_key`` holds no colon: a tenant or a request uid."""
    return ":".join((record_key, *parts)).encode()


def record_key(row_key: bytes) -> bytes:
    """The key of the records that a row belongs to, and so its partition."""
    return row_key.partition(b":")[0]


class Round:
    """Goes round a table for ever, ``step`` rows a call. Rows may come and go meanwhile."""

    def __init__(self, table: Table, step: int = STEP) -> None:
        self._table = table
        self._step = step
        self._left: list[bytes] = []

    def next(self) -> list[bytes]:
        """Keys of the next piece; some of them may be gone by now."""
        if not self._left:
            self._left = list(self._table)
        piece = self._left[-self._step :]
        del self._left[-self._step :]
        return piece
