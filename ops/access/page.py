"""The table of docs/access.md, made of the rights: ``python -m ops.access.page`` writes it there; a test compares."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ops.access.acls import OPERATOR, group_prefix, user_name
from ops.access.rights import OPERATOR_READS, OPERATOR_TABLES, OPERATOR_WRITES, ROLES, groups, written
from schemas.topics import PREFIX, REQUESTS, Topic, own_results
from streams.settings import Settings

PAGE: Final = Path(__file__).parents[2] / "docs" / "access.md"
BEGIN, END = "<!-- python -m ops.access.page -->\n", "<!-- end -->\n"
TENANT: Final = "TENANT"
"""Stands for any tenant."""


def table() -> str:
    """Who reads and writes what, as Markdown."""
    heading = ("| user | reads | writes | consumer groups | besides |", "|---|---|---|---|---|")
    return "\n".join([*heading, *_rows(), ""])


def _rows() -> Iterator[str]:
    settings = Settings.model_construct(namespace="", tenant_topics=(TENANT,))
    for role, rights in ROLES.items():
        logs = ", ".join(f"`{table.changelog().name}`" for table in rights.tables)
        besides = f"reads and writes {logs}" if logs else ""
        named = ", ".join(f"`{group}`" for group in groups(rights, settings))
        yield _row(role, (*rights.reads, *rights.lists), written(rights, settings), named, besides)
    logs = ", ".join(f"`{table.changelog().name}`" for table in OPERATOR_TABLES)
    besides = f"reads {logs}; creates and alters every topic; sees how far each role's groups are"
    yield _row(OPERATOR, OPERATOR_READS, OPERATOR_WRITES, "", besides)
    prefix = f"those that begin with `{group_prefix(TENANT, '')}`"
    yield _row(f"tenant.{TENANT}", (own_results(TENANT),), (REQUESTS,), prefix, "")


def _row(who: str, reads: Iterable[Topic], writes: Iterable[Topic], groups: str, besides: str) -> str:
    cells = (f"`{user_name(who, '')}`", _names(reads), _names(writes), groups, besides)
    return f"| {' | '.join(cells)} |"


def _names(topics: Iterable[Topic]) -> str:
    return ", ".join(f"`{topic.name.removeprefix(PREFIX)}`" for topic in topics)


def with_table(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
