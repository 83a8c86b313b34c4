"""The rights as Kafka's ACLs and the users that have them: what is declared, and what differs from it. Pure.

Every ACL names its topic or group literally; only a tenant's consumer groups are a prefix, which ends in "_" and so is
never the beginning of another tenant's. READ and WRITE bring DESCRIBE with them, and WRITE to a topic is all that an
idempotent producer needs (KIP-679).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ops.access.rights import (
    OPERATOR_READS,
    OPERATOR_TABLES,
    OPERATOR_WRITES,
    ROLES,
    Rights,
    groups,
    of_roles,
    written,
)
from schemas.topics import PREFIX, REQUESTS, TENANT, Topic, own_results, physical_name
from streams.installed import topics_of
from streams.settings import Settings

OPERATOR = "operator"
TOGETHER = "all"
"""The user of ``mailvet worker all``."""


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """One ACL, in Kafka's own words."""

    user: str
    kind: str
    name: str
    operation: str
    pattern: str = "LITERAL"
    permission: str = "ALLOW"
    host: str = "*"

    def __str__(self) -> str:
        start = "names that begin with " if self.pattern == "PREFIXED" else ""
        odd = f" ({self.permission} from {self.host})" if (self.permission, self.host) != ("ALLOW", "*") else ""
        return f"{self.user}: {self.operation} on {self.kind.lower()} {start}{self.name}{odd}"


@dataclass(frozen=True, slots=True)
class Access:
    """Users and their ACLs, as declared or as the broker has them."""

    users: frozenset[str]
    grants: frozenset[Grant]

    def __bool__(self) -> bool:
        return bool(self.users or self.grants)


@dataclass(frozen=True, slots=True)
class Difference:
    """What is missing, what of ours is there and not declared, and what others may do with topics of ours."""

    missing: Access
    extra: Access
    others: tuple[Grant, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra)


def user_name(who: str, namespace: str) -> str:
    """The SCRAM user of a role, of the operators, or of ``tenant.<tenant>``."""
    return physical_name(PREFIX + who, namespace)


def group_prefix(tenant: str, namespace: str) -> str:
    """With what the names of a tenant's consumer groups begin."""
    return f"{user_name(f'tenant.{tenant}', namespace)}_"


def declared(settings: Settings, *, together: bool = False) -> Access:
    """Everybody of this installation; ``together``: one user for all roles instead of one for each."""
    workers = {TOGETHER: of_roles(ROLES)} if together else ROLES
    grants = [grant for name, rights in workers.items() for grant in _worker(name, rights, settings)]
    grants += _operator(settings)
    grants += [grant for tenant in settings.tenant_topics for grant in _tenant(tenant, settings)]
    return Access(frozenset(grant.user for grant in grants), frozenset(grants))


def _worker(name: str, rights: Rights, settings: Settings) -> Iterator[Grant]:
    user = user_name(name, settings.namespace)
    yield from _on_topics(user, "READ", _named(rights.seen, settings))
    yield from _on_topics(user, "WRITE", _named(written(rights, settings), settings))
    # A worker sees at its start how long its topics keep records.
    yield from _on_topics(user, "DESCRIBE_CONFIGS", _named((*rights.seen, *written(rights, settings)), settings))
    for table in rights.tables:
        for operation in ("READ", "WRITE"):
            yield from _on_topics(user, operation, [table.changelog(settings.namespace)])
    for group in groups(rights, settings):
        yield Grant(user, "GROUP", group, "READ")


def _operator(settings: Settings) -> Iterator[Grant]:
    user = user_name(OPERATOR, settings.namespace)
    for operation in ("CREATE", "ALTER", "ALTER_CONFIGS"):
        yield from _on_topics(user, operation, topics_of(settings))
    yield from _on_topics(user, "READ", _named(OPERATOR_READS, settings))
    yield from _on_topics(user, "READ", [table.changelog(settings.namespace) for table in OPERATOR_TABLES])
    yield from _on_topics(user, "WRITE", _named(OPERATOR_WRITES, settings))
    for group in groups(of_roles(ROLES), settings):
        yield Grant(user, "GROUP", group, "DESCRIBE")


def _tenant(tenant: str, settings: Settings) -> Iterator[Grant]:
    user = user_name(f"tenant.{tenant}", settings.namespace)
    yield from _on_topics(user, "WRITE", _named((REQUESTS,), settings))
    yield from _on_topics(user, "READ", _named((own_results(tenant),), settings))
    yield Grant(user, "GROUP", group_prefix(tenant, settings.namespace), "READ", "PREFIXED")


def _on_topics(user: str, operation: str, topics: Iterable[Topic]) -> Iterator[Grant]:
    return (Grant(user, "TOPIC", topic.name, operation) for topic in topics)


def _named(topics: Iterable[Topic], settings: Settings) -> Iterator[Topic]:
    return (topic.named(settings.namespace) for topic in topics)


def compare(wanted: Access, found: Access, settings: Settings) -> Difference:
    """What differs. Users and ACLs of strangers are never ours to change, whatever they may do."""
    ours = Access(
        frozenset(user for user in found.users if _is_ours(user, settings.namespace)),
        frozenset(grant for grant in found.grants if _is_ours(grant.user, settings.namespace)),
    )
    names = {topic.name for topic in topics_of(settings)}
    others = (grant for grant in found.grants - ours.grants if _reaches(grant, names))
    return Difference(
        missing=Access(wanted.users - found.users, wanted.grants - found.grants),
        extra=Access(ours.users - wanted.users, ours.grants - wanted.grants),
        others=tuple(sorted(others)),
    )


def _is_ours(user: str, namespace: str) -> bool:
    fixed = {user_name(who, namespace) for who in (*ROLES, TOGETHER, OPERATOR)}
    tenants = re.escape(user_name("tenant.", namespace)) + TENANT.pattern
    return user in fixed or re.fullmatch(tenants, user, re.ASCII) is not None


def _reaches(grant: Grant, topics: Iterable[str]) -> bool:
    if grant.kind != "TOPIC" or grant.permission != "ALLOW":
        return False
    if grant.pattern == "PREFIXED":
        return any(topic.startswith(grant.name) for topic in topics)
    return grant.name == "*" or grant.name in topics
