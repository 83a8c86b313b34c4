"""A server's reply (RFC 5321 section 4.2) as a value."""

import re
from dataclasses import dataclass

_ENHANCED = re.compile(r"^([245]\.\d{1,3}\.\d{1,3})(?=\s|$|[^\d.])")


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: its code and the text of each of its lines, without code, separator and line end."""

    code: int
    lines: tuple[str, ...] = ("",)

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code (RFC 3463) that the first line which has one begins with, such as ``5.1.1``."""
        for line in self.lines:
            if match := _ENHANCED.match(line):
                return match[1]
        return None

    @property
    def text(self) -> str:
        """All lines in one, the enhanced code left in its place."""
        return " ".join(line for line in self.lines if line)

    @property
    def positive(self) -> bool:
        """2xx or 3xx: the command was accepted."""
        return 200 <= self.code < 400

    @property
    def transient(self) -> bool:
        """4xx: not now."""
        return 400 <= self.code < 500

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()
