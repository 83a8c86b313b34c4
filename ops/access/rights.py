"""What each role reads and writes, and who else comes to the broker: the one table behind ACLs and docs/access.md.

A role that is given another topic is given it here too: tests compare with what roles subscribe to, and on the real
broker with what they write.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    ADMITTED_BULK,
    ADMITTED_INTERACTIVE,
    ATTEMPTS,
    CANCELS,
    DEADLETTERS,
    OPT_OUTS,
    PREFIX,
    REQUESTS,
    RESULTS,
    RETRIES_5M,
    RETRIES_15M,
    RETRIES_60M,
    SETTLEMENTS,
    TASKS_BULK,
    TASKS_INTERACTIVE,
    TIERS,
    TOPICS,
    USAGE,
    Topic,
    own_results,
)
from streams.installed import TABLES, TableDeclaration, app_id
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Rights:
    """Of one role. Whoever writes :data:`RESULTS` writes the tenants' own results topics too."""

    reads: tuple[Topic, ...]
    writes: tuple[Topic, ...]
    apps: tuple[str, ...]
    """Each is a consumer group (:func:`streams.installed.app_id`)."""
    tables: tuple[TableDeclaration, ...] = ()
    """Their changelogs are read and written."""
    follows: tuple[Topic, ...] = ()
    """Read by every process, without a group; what can't be used there is another role's to write down."""

    @property
    def seen(self) -> tuple[Topic, ...]:
        """All that is read but tables."""
        return _once(*self.reads, *self.follows)

    def __or__(self, other: "Rights") -> "Rights":
        return Rights(
            _once(*self.reads, *other.reads),
            _once(*self.writes, *other.writes),
            (*self.apps, *other.apps),
            (*self.tables, *other.tables),
            _once(*self.follows, *other.follows),
        )


def _once(*topics: Topic) -> tuple[Topic, ...]:
    return tuple({topic.name: topic for topic in topics}.values())


def _if_declared(*names: str) -> tuple[Topic, ...]:
    """Those of these topics that this version has."""
    return tuple(topic for topic in TOPICS if topic.name.removeprefix(PREFIX) in names)


def _tables(role: str) -> tuple[TableDeclaration, ...]:
    return tuple(table for table in TABLES if table.role == role)


KEY_COMMANDS: Final = _if_declared("key-commands.v1")
KEY_EVENTS: Final = _if_declared("key-events.v1")
ADMISSIONS: Final = (ADMISSIONS_INTERACTIVE, ADMISSIONS_BULK)
ADMITTED: Final = (ADMITTED_INTERACTIVE, ADMITTED_BULK)
TASKS: Final = (TASKS_INTERACTIVE, TASKS_BULK)
RETRIES: Final = (RETRIES_5M, RETRIES_15M, RETRIES_60M)

ROLES: Final[Mapping[str, Rights]] = {
    "gate": Rights(
        reads=(REQUESTS, *ADMISSIONS, SETTLEMENTS, *KEY_COMMANDS),
        # It gives one command itself: a tenant that looks like a harvester is suspended.
        writes=(*ADMISSIONS, *ADMITTED, CANCELS, RESULTS, DEADLETTERS, *KEY_COMMANDS, *KEY_EVENTS, USAGE),
        apps=("gate",),
        tables=_tables("gate"),
    ),
    # Who would ask mail servers, or hand addresses to those who do, knows the do-not-probe list.
    "route": Rights(
        reads=ADMITTED,
        follows=(CANCELS, OPT_OUTS),
        writes=(*TASKS, ATTEMPTS, DEADLETTERS),
        apps=("route-interactive", "route-bulk"),
    ),
    # A provider that has changed meanwhile gets the task handed on.
    "probe": Rights(
        reads=TASKS,
        follows=(CANCELS, OPT_OUTS),
        writes=(*TASKS, *RETRIES, ATTEMPTS, DEADLETTERS),
        apps=("probe-interactive", "probe-bulk"),
    ),
    "retry": Rights(
        reads=RETRIES,
        writes=(*TASKS, DEADLETTERS),
        apps=tuple(f"retry-{tier.name.split('.')[2]}" for tier in TIERS),
    ),
    # Answers that are overdue go through the log too.
    "completion": Rights(
        reads=(*ADMITTED, ATTEMPTS, CANCELS),
        writes=(ATTEMPTS, RESULTS, SETTLEMENTS, DEADLETTERS),
        apps=("completion",),
        tables=_tables("completion"),
    ),
}

OPERATOR_READS: Final = (DEADLETTERS, *KEY_EVENTS, USAGE, OPT_OUTS)

OPERATOR_TABLES: Final = tuple(table for table in TABLES if table.name in ("keys", "ledger", "progress"))
"""Their changelogs are read: by `mailvet keys list` and `show` (public keys and digests, no address), and by `mailvet
request` (accounts and decisions, and what is known of addresses that wait to be asked again)."""

OPERATOR_WRITES: Final = _once(
    *(topic for rights in ROLES.values() for topic in rights.reads), DEADLETTERS, *KEY_COMMANDS, OPT_OUTS
)
"""A dead letter goes back to the topic that it was read from, and beside it stands that it did."""


def of_roles(roles: Iterable[str]) -> Rights:
    """What a process with these roles may do."""
    rights = Rights((), (), ())
    for role in roles:
        rights |= ROLES[role]
    return rights


def written(rights: Rights, settings: Settings) -> tuple[Topic, ...]:
    """The topics that are written, the tenants' own among them."""
    own = map(own_results, settings.tenant_topics) if RESULTS in rights.writes else ()
    return _once(*rights.writes, *own)


def topics_needed(roles: Iterable[str], settings: Settings) -> tuple[Topic, ...]:
    """The topics of a process with these roles, under their names on the broker, changelogs included."""
    rights = of_roles(roles)
    named = (topic.named(settings.namespace) for topic in (*rights.seen, *written(rights, settings)))
    return _once(*named, *(table.changelog(settings.namespace) for table in rights.tables))


def groups(rights: Rights, settings: Settings) -> tuple[str, ...]:
    """The consumer groups, under their names on the broker."""
    return tuple(app_id(app, settings.namespace) for app in rights.apps)
