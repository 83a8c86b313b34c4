"""The broker's side of access: its ACLs and SCRAM users, asked and changed.

aiokafka speaks of ACLs, though its admin client has no call for them; :mod:`ops.access.wire` adds the users. librdkafka
has both and can't be used: it ends the process where the broker says "not authorized"
(docs/decisions/0010-acls-without-librdkafka.md).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from enum import IntEnum
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError, for_code
from aiokafka.protocol.admin import DescribeAclsRequest
from aiokafka.protocol.api import Request

from ops.access.acls import Access, Grant
from ops.access.wire import SCRAM_SHA_512, AclParts, AlterUser, CreateAcls, Credential, DeleteAcls, DescribeUsers
from ops.cli.errors import UserError
from ops.cli.kafka import CLOSE_S, CONNECT_S, reach, unreachable

REQUEST_S: Final = 30.0
"""How long one change may take."""

SETTLE_S: Final = 10.0
"""How long a change that the broker has confirmed may take to be seen."""

BATCH: Final = 1000
"""ACLs of one request; a controller takes 10,000 changes at once."""

_PRINCIPAL: Final = "User:"
_SECURITY_DISABLED: Final = 54
_PAUSE_S: Final = 0.05

# The protocol's numbers, as in Java's AclOperation, AclPermissionType, ResourceType and PatternType.
Operation = IntEnum(
    "Operation",
    "ANY ALL READ WRITE CREATE DELETE ALTER DESCRIBE CLUSTER_ACTION DESCRIBE_CONFIGS ALTER_CONFIGS IDEMPOTENT_WRITE "
    "CREATE_TOKENS DESCRIBE_TOKENS TWO_PHASE_COMMIT",
)
Permission = IntEnum("Permission", "ANY DENY ALLOW")
Kind = IntEnum("Kind", "ANY TOPIC GROUP CLUSTER TRANSACTIONAL_ID DELEGATION_TOKEN USER")
Pattern = IntEnum("Pattern", "ANY MATCH LITERAL PREFIXED")


class Cluster:
    """Made by :func:`connected`."""

    def __init__(self, client: AIOKafkaClient, who: str) -> None:
        self._client = client
        self._who = who

    async def access(self) -> Access:
        """All users with a SCRAM-SHA-512 password, and all ACLs.

        Raises:
            UserError: the broker refused to tell.
        """
        anything = (Kind.ANY, None, Pattern.ANY, None, None, Operation.ANY, Permission.ANY)
        found = await self._ask(DescribeAclsRequest(*anything))
        self._check(found["error_code"], found["error_message"])
        known = await self._ask(DescribeUsers())
        self._check(known["error_code"], known["error_message"])
        return Access(
            frozenset(each["user"] for each in known["results"] if _has_password(each)),
            frozenset(_grant(resource, acl) for resource in found["resources"] for acl in resource["acls"]),
        )

    async def allow(self, grants: Iterable[Grant]) -> None:
        """Create these ACLs; one that is there is no error. Raises ``UserError``."""
        for batch in _batches(grants):
            for each in (await self._ask(CreateAcls(batch)))["creation_responses"]:
                self._check(each["error_code"], each["error_message"])

    async def revoke(self, grants: Iterable[Grant]) -> None:
        """Delete exactly these ACLs. Raises ``UserError``."""
        for batch in _batches(grants):
            for each in (await self._ask(DeleteAcls(batch)))["filter_responses"]:
                self._check(each["error_code"], each["error_message"])

    async def set_password(self, user: str, password: str) -> None:
        """Create the user, or give it another password: connections that are open stay. Raises ``UserError``."""
        await self._alter(AlterUser(user, Credential.of(password)))

    async def remove_user(self, user: str) -> None:
        """Take the user's password away. Raises ``UserError``."""
        await self._alter(AlterUser(user, None))

    async def wait_for(self, wanted: Access) -> None:
        """Return when the broker shows what is wanted: it confirms a change before it acts by it.

        Raises:
            UserError: it didn't within `SETTLE_S`.
        """
        for _ in range(int(SETTLE_S / _PAUSE_S)):
            found = await self.access()
            if wanted.users <= found.users and wanted.grants <= found.grants:
                return
            await asyncio.sleep(_PAUSE_S)
        raise UserError(
            "the broker confirmed the changes and doesn't show them: `mailvet topics acls diff` looks again"
        )

    async def _alter(self, change: AlterUser) -> None:
        for each in (await self._ask(change))["results"]:
            self._check(each["error_code"], each["error_message"])

    async def _ask(self, request: Request) -> dict[str, Any]:
        node = self._client.get_random_node()
        answer = await asyncio.wait_for(self._client.send(node, request), REQUEST_S)
        said: dict[str, Any] = answer.to_object()
        return said

    def _check(self, code: int, message: str | None) -> None:
        if code == ClusterAuthorizationFailedError.errno:
            raise UserError(
                f"{self._who} may not see or change who may do what: be the cluster's administrator (docs/access.md)"
            )
        if code == _SECURITY_DISABLED:
            raise UserError("the broker has no authorizer, so it knows no ACLs: set authorizer.class.name")
        if code:
            error: Any = for_code(code)
            raise UserError(f"the broker refused: {message or error.description or error.__name__}")


@contextlib.asynccontextmanager
async def connected(bootstrap: str) -> AsyncIterator[Cluster]:
    """A cluster to ask and to change.

    Args:
        bootstrap: ``HOST:PORT[,HOST:PORT]``.

    Raises:
        UserError: no broker answered within `CONNECT_S`, none let us in, or it went away.
    """
    options = reach(bootstrap)
    client = AIOKafkaClient(**options, request_timeout_ms=int(REQUEST_S * 1000))
    try:
        try:
            await asyncio.wait_for(client.bootstrap(), CONNECT_S)
        except (KafkaError, OSError, TimeoutError):
            raise await unreachable(bootstrap) from None
        try:
            yield Cluster(client, options.get("sasl_plain_username") or "whoever is not named (KAFKA_SASL_USERNAME)")
        except (KafkaError, OSError, TimeoutError) as error:
            raise UserError(f"the broker at {bootstrap} did not do it: {error!r}") from None
    finally:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            await asyncio.wait_for(client.close(), CLOSE_S)


def _has_password(user: dict[str, Any]) -> bool:
    return any(each["mechanism"] == SCRAM_SHA_512 for each in user["credentials"])


def _grant(resource: dict[str, Any], acl: dict[str, Any]) -> Grant:
    return Grant(
        user=acl["principal"].removeprefix(_PRINCIPAL),
        kind=_named(Kind, resource["resource_type"]),
        name=resource["resource_name"],
        operation=_named(Operation, acl["operation"]),
        pattern=_named(Pattern, resource["resource_pattern_type"]),
        permission=_named(Permission, acl["permission_type"]),
        host=acl["host"],
    )


def _named(numbers: type[IntEnum], number: int) -> str:
    """The name of a number; a newer broker's is shown as it stands."""
    try:
        return numbers(number).name
    except ValueError:
        return str(number)


def _number(numbers: type[IntEnum], name: str) -> int:
    return int(name) if name.isdigit() else numbers[name].value


def _batches(grants: Iterable[Grant]) -> Iterator[list[AclParts]]:
    parts = [_parts(grant) for grant in sorted(grants)]
    return (parts[first : first + BATCH] for first in range(0, len(parts), BATCH))


def _parts(grant: Grant) -> AclParts:
    return (
        _number(Kind, grant.kind),
        grant.name,
        _number(Pattern, grant.pattern),
        _PRINCIPAL + grant.user,
        grant.host,
        _number(Operation, grant.operation),
        _number(Permission, grant.permission),
    )
