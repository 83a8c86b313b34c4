"""CSV files of strangers: read as a stream whatever wrote them, and written so that no spreadsheet runs a cell."""

import codecs
import contextlib
import csv
import hashlib
import os
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ops.cli.errors import UserError
from ops.cli.output import printable
from schemas.request import MAX_INPUT_LENGTH

MAX_CELL = 16 * 1024 * 1024
"""Characters of one cell; more is a quote that was never closed."""

DELIMITERS = (",", ";", "\t", "|")
"""Tried in this order, when none is given, until the column is found in the first line."""

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_MAX_NAMED = 20

# OWASP, "CSV Injection": these begin a formula in a spreadsheet; full-width forms are taken for the same signs.
_FORMULA = frozenset("=+-@\t\r\n＝＋－＠")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)*(?:[eE][+-]?\d+)?")


def defused(cell: str) -> str:
    """`cell` as it may be opened in a spreadsheet: what would be run as a formula gets a leading apostrophe.

    A plain number (``-5``, ``+4930123``) is no formula and stays as it is.
    """
    return f"'{cell}" if cell[:1] in _FORMULA and cell and not _NUMBER.fullmatch(cell) else cell


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A CSV file that was looked at: how it is written, and which of its columns holds the addresses."""

    path: Path
    encoding: str
    delimiter: str
    line_end: str
    header: tuple[str, ...]
    column: int
    has_bom: bool

    def rows(self) -> Iterator[list[str]]:
        """Every row after the header, cells as they stand; a blank line is an empty list.

        Raises:
            UserError: the text isn't in the encoding, or a quote is never closed; the line is named.
        """
        rows = _rows(self.path, self.encoding, self.delimiter)
        next(rows, None)
        return rows

    def addresses(self) -> Iterator[str]:
        """The address of every row that isn't blank, in order: what :meth:`address` says of it."""
        return (self.address(row) for row in self.rows() if row)

    def address(self, row: Sequence[str]) -> str:
        """What a row has in the column; empty when the row is too short.

        Longer than an input may be, it is cut: it was no address before and is none after.
        """
        return row[self.column].strip()[:MAX_INPUT_LENGTH] if self.column < len(row) else ""


def open_csv(path: Path, column: str, *, delimiter: str | None = None, encoding: str | None = None) -> CsvFile:
    """Look at a file's first line.

    Args:
        path: the file.
        column: the header of the column that holds the addresses, as it stands there or but for case and spaces.
        delimiter: one character; found by the column's name when None.
        encoding: one of Python's; a byte order mark's or UTF-8 when None.

    Raises:
        UserError: there is no such file, it can't be read, it is empty, or it has no such column.
    """
    bom = _bom(path)
    chosen = encoding or bom or "utf-8"
    if chosen.lower().replace("_", "-") in {"utf-8", "utf8"}:
        chosen = "utf-8-sig"
    headers = {mark: _header(path, chosen, mark) for mark in ((delimiter,) if delimiter else DELIMITERS)}
    for mark, header in headers.items():
        if (index := _find(header, column)) is not None:
            line_end = _line_end(path, chosen)
            return CsvFile(path, chosen, mark, line_end, tuple(header), index, bool(bom) or chosen != "utf-8-sig")
    raise UserError(f"{path} has no column {printable(column)!r}; {_named(max(headers.values(), key=len))}")


def _bom(path: Path) -> str | None:
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file: it is read more than once, so it can't be a folder or a pipe")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    return next((encoding for mark, encoding in _BOMS if start.startswith(mark)), None)


def _header(path: Path, encoding: str, delimiter: str) -> list[str]:
    with contextlib.closing(_rows(path, encoding, delimiter)) as rows:
        header = next(rows, None)
    if not header:
        raise UserError(f"{path} is empty: its first line must name the columns")
    return header


def _find(header: Sequence[str], column: str) -> int | None:
    for same in (str, lambda name: name.strip().casefold()):
        places = [place for place, name in enumerate(header) if same(name) == same(column)]
        if len(places) > 1:
            raise UserError(
                f"the column {printable(column)!r} stands {len(places)} times in the first line: rename one"
            )
        if places:
            return places[0]
    return None


def _named(header: Sequence[str]) -> str:
    names = ", ".join(repr(printable(name, 40)) for name in header[:_MAX_NAMED])
    more = f" and {len(header) - _MAX_NAMED} more" if len(header) > _MAX_NAMED else ""
    return f"its columns are {names}{more}"


def _line_end(path: Path, encoding: str) -> str:
    with path.open(encoding=encoding, newline="") as file:
        return "\r\n" if file.readline(MAX_CELL).endswith("\r\n") else "\n"


def _rows(path: Path, encoding: str, delimiter: str) -> Generator[list[str], None, None]:
    csv.field_size_limit(MAX_CELL)
    try:
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            try:
                yield from reader
            except csv.Error as error:
                raise UserError(f"{path}, line {reader.line_num}: {error} (is a quote never closed?)") from None
            except UnicodeError:
                where = f"{path}, line {_undecodable_line(path, encoding)}"
                name = encoding.removesuffix("-sig")
                raise UserError(f"{where}: this is not {name} text: name the right --encoding") from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None


def _undecodable_line(path: Path, encoding: str) -> int:
    # The decoder fails some lines ahead of the row that is being read: the line is looked for when it is wanted.
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        return next((number for number, line in enumerate(file, 1) if "\N{REPLACEMENT CHARACTER}" in line), 1)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, read as a stream.

    Raises:
        UserError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None


def own_columns(names: Sequence[str], taken: Iterable[str]) -> list[str]:
    """`names`, each with ``mailvet_`` before it as often as a column of that name is already there."""
    seen = set(taken)
    free = []
    for name in names:
        chosen = name
        while chosen in seen:
            chosen = f"mailvet_{chosen}"
        seen.add(chosen)
        free.append(chosen)
    return free


def write_csv(source: CsvFile, out: Path, names: Sequence[str], found: Iterable[Sequence[str]]) -> None:
    """Write `source` with the columns `names` added, `found` giving their cells for each row that isn't blank.

    Every cell is :func:`defused`; short rows are filled up, rows too long keep their surplus cells after ours; blank
    lines stay. UTF-8, with a byte order mark where the source had one or wasn't UTF-8; the source's delimiter and line
    ends. `out` is replaced at the very end, in one step.

    Raises:
        UserError: `out` can't be written.
    """
    try:
        with _replacing(out, bom=source.has_bom) as file:
            writer = csv.writer(file, delimiter=source.delimiter, lineterminator=source.line_end)
            width = len(source.header)
            writer.writerow(map(defused, (*source.header, *own_columns(names, source.header))))
            answers = iter(found)
            for row in source.rows():
                if row:
                    padding = [""] * (width - len(row))
                    writer.writerow(map(defused, (*row[:width], *padding, *next(answers), *row[width:])))
                else:
                    file.write(source.line_end)
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror}") from None


@contextlib.contextmanager
def _replacing(out: Path, *, bom: bool) -> Iterator[TextIO]:
    handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    temporary = Path(name)
    try:
        with open(handle, "w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    # Python can read it only by setting it; mkstemp's 0600 would surprise whoever shares the folder.
    mask = os.umask(0)
    os.umask(mask)
    return mask
