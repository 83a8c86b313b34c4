"""What is declared, as an operator reads it, as JSON, or as the commands of Kafka's own scripts."""

import json
import shlex
from collections.abc import Iterator

from ops.access.acls import Access, Grant

ADMIN = '--bootstrap-server "$KAFKA_BOOTSTRAP_SERVERS" --command-config admin.properties'


def plan(access: Access) -> Iterator[str]:
    """A paragraph a user."""
    for user in sorted(access.users):
        yield user
        for grant in sorted(grant for grant in access.grants if grant.user == user):
            start = "names that begin with " if grant.pattern == "PREFIXED" else ""
            yield f"  {grant.operation:<13} {grant.kind.lower():<5} {start}{grant.name}"


def as_json(access: Access) -> str:
    """One object: the users, and the ACLs in Kafka's words."""
    acls = [
        {
            "principal": f"User:{grant.user}",
            "host": grant.host,
            "operation": grant.operation,
            "permission_type": grant.permission,
            "resource_type": grant.kind,
            "resource_name": grant.name,
            "pattern_type": grant.pattern,
        }
        for grant in sorted(access.grants)
    ]
    return json.dumps({"users": sorted(access.users), "acls": acls}, indent=2)


def commands(access: Access) -> Iterator[str]:
    """A shell script; each password is read from the file of its user in ``$PASSWORDS``."""
    yield "set -eu"
    yield "umask 077; SCRAM=$(mktemp); trap 'rm -f \"$SCRAM\"' EXIT"
    for user in sorted(access.users):
        # By a file: what stands on a command line, every process of the machine can read.
        yield f"""printf 'SCRAM-SHA-512=password=%s\\n' "$(head -n1 "$PASSWORDS"/{shlex.quote(user)})" > "$SCRAM\""""
        entity = f"--entity-type users --entity-name {shlex.quote(user)}"
        yield f'kafka-configs.sh {ADMIN} --alter {entity} --add-config-file "$SCRAM"'
    for grant in sorted(access.grants):
        yield f"kafka-acls.sh {ADMIN} --add {_options(grant)}"


def _options(grant: Grant) -> str:
    what = f"--{grant.kind.lower()} {shlex.quote(grant.name)} --resource-pattern-type {grant.pattern.lower()}"
    operation = "".join(word.capitalize() for word in grant.operation.split("_"))
    return f"--allow-principal {shlex.quote(f'User:{grant.user}')} --operation {operation} {what}"
