"""Makes the synchronous pool of the asynchronous one: ``python -m ops.unasync [--check]``.

The twin differs by the words below and nothing else; what can't be said in words (sockets, timers, locks) stands in
``link.py``, ``dial.py`` and ``waiting.py``, which each side has of its own.
"""

import re
import subprocess
import sys
from pathlib import Path

SMTP = Path(__file__).parent.parent / "streams" / "smtp"
FILES = ("connection.py", "pool.py")
HEADER = "# Made of _async/{name} by ops/unasync.py: edit that one.\n\n"

WORDS = (
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\bAsync(Iterator|Link|SMTPConnection|SMTPPool)\b", r"\1"),
    (r"\b_async\b", "_sync"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\bdial_aiosmtplib\b", "dial_smtplib"),
)


def unasync(source: str, name: str) -> str:
    """The synchronous text of an asynchronous module, as the formatter would have it."""
    for pattern, replacement in WORDS:
        source = re.sub(pattern, replacement, source)
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(SMTP / "_sync" / name), "-"]
        source = subprocess.run(arguments, input=source, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return HEADER.format(name=name) + source


def main(check: bool) -> int:
    """Write the twins, or with ``check`` only compare; the exit code."""
    stale = 0
    for name in FILES:
        twin = SMTP / "_sync" / name
        text = unasync((SMTP / "_async" / name).read_text(), name)
        if twin.exists() and twin.read_text() == text:
            continue
        stale += 1
        print(f"streams/smtp/_sync/{name} {'is stale: run python -m ops.unasync' if check else 'written'}")
        if not check:
            twin.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
