"""ACLs made of the rights: least privilege, names that can't be mistaken for others, and what is ours to change."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ops.access.acls import Access, Grant, compare, declared, group_prefix, user_name
from ops.access.shown import as_json, commands, plan
from ops.cli.topics import command
from schemas.topics import TENANT
from streams.installed import topics_of
from streams.settings import Settings

SETTINGS = Settings.model_validate({"tenant_topics": ("acme", "globex")})
NOBODY = Access(frozenset(), frozenset())
TENANTS = st.from_regex(TENANT, fullmatch=True)
NAMESPACES = st.from_regex(r"[A-Za-z0-9-]{0,12}", fullmatch=True)


def of(user: str, access: Access | None = None) -> set[tuple[str, str, str]]:
    grants = (access or declared(SETTINGS)).grants
    return {(grant.operation, grant.kind, grant.name) for grant in grants if grant.user == user}


def test_a_tenant_writes_requests_and_reads_its_own_results() -> None:
    assert of("mailvet.tenant.acme") == {
        ("WRITE", "TOPIC", "mailvet.requests.v1"),
        ("READ", "TOPIC", "mailvet.results.acme.v1"),
        ("READ", "GROUP", "mailvet.tenant.acme_"),
    }


def test_every_acl_is_literal_but_for_the_groups_of_tenants() -> None:
    prefixed = [grant for grant in declared(SETTINGS).grants if grant.pattern != "LITERAL"]
    assert {(grant.user, grant.kind) for grant in prefixed} == {
        ("mailvet.tenant.acme", "GROUP"),
        ("mailvet.tenant.globex", "GROUP"),
    }
    assert not any("*" in grant.name or grant.operation in ("ALL", "ANY") for grant in declared(SETTINGS).grants)
    assert {grant.kind for grant in declared(SETTINGS).grants} == {"TOPIC", "GROUP"}


def test_a_worker_reads_and_writes_and_changes_nothing_of_the_topics() -> None:
    workers = [grant for grant in declared(SETTINGS).grants if grant.user != "mailvet.operator"]
    assert {grant.operation for grant in workers} == {"READ", "WRITE", "DESCRIBE_CONFIGS"}
    assert not any(grant.operation == "DESCRIBE_CONFIGS" and ".tenant." in grant.user for grant in workers)
    assert ("WRITE", "TOPIC", "mailvet.results.acme.v1") in of("mailvet.gate")
    assert ("READ", "TOPIC", "mailvet-gate-ledger-changelog") in of("mailvet.gate")
    assert ("READ", "GROUP", "mailvet-retry-5m") in of("mailvet.retry")


def test_the_operator_creates_every_topic_and_reads_none_of_the_addresses() -> None:
    rights = of("mailvet.operator")
    created = {name for operation, _, name in rights if operation == "CREATE"}
    assert created == {topic.name for topic in topics_of(SETTINGS)}
    read = {name for operation, _, name in rights if operation == "READ"}
    assert "mailvet.deadletters.v1" in read
    assert not read & {"mailvet.requests.v1", "mailvet.results.v1", "mailvet.results.acme.v1", "mailvet.attempts.v1"}


def test_all_roles_together_are_one_user_with_the_rights_of_all() -> None:
    apart, together = declared(SETTINGS), declared(SETTINGS, together=True)
    roles = {f"mailvet.{role}" for role in ("gate", "route", "probe", "retry", "completion")}
    assert roles <= apart.users
    assert together.users == (apart.users - roles) | {"mailvet.all"}
    assert of("mailvet.all", together) == set().union(*(of(role) for role in roles))


@given(TENANTS, TENANTS)
def test_no_tenants_groups_begin_like_anothers(one: str, other: str) -> None:
    if one != other:
        assert not f"{group_prefix(one, '')}crm".startswith(group_prefix(other, ""))
        assert not "mailvet-gate".startswith(group_prefix(one, ""))


@given(TENANTS, NAMESPACES, NAMESPACES)
def test_a_user_belongs_to_one_installation(tenant: str, mine: str, theirs: str) -> None:
    settings = Settings.model_construct(namespace=mine, tenant_topics=())
    for who in ("gate", "operator", "all", f"tenant.{tenant}"):
        user = user_name(who, theirs)
        found = Access(frozenset({user}), frozenset({Grant(user, "TOPIC", "mailvet.requests.v1", "DELETE")}))
        extra = compare(declared(settings), found, settings).extra
        left_over = mine == theirs and (who == "all" or who.startswith("tenant."))
        assert extra.users == ({user} if left_over else frozenset())
        assert bool(extra.grants) is (mine == theirs)


def test_what_is_as_declared_does_not_differ() -> None:
    access = declared(SETTINGS)
    assert not compare(access, access, SETTINGS)
    assert compare(access, NOBODY, SETTINGS).missing == access


def test_what_of_ours_is_not_declared_is_found_denials_and_hosts_too() -> None:
    access = declared(SETTINGS)
    left = Grant("mailvet.tenant.gone", "TOPIC", "mailvet.results.gone.v1", "READ")
    denied = replace(min(access.grants), permission="DENY")
    narrow = replace(min(access.grants), host="10.0.0.1")
    found = Access(access.users | {"mailvet.tenant.gone"}, access.grants | {left, denied, narrow})
    differs = compare(access, found, SETTINGS)
    assert differs
    assert differs.missing == NOBODY
    assert differs.extra == Access(frozenset({"mailvet.tenant.gone"}), frozenset({left, denied, narrow}))
    assert str(denied).endswith(" (DENY from *)")


@pytest.mark.parametrize(
    ("grant", "reaches"),
    [
        (Grant("etl", "TOPIC", "*", "READ"), True),
        (Grant("etl", "TOPIC", "mailvet.results.acme.v1", "READ"), True),
        (Grant("etl", "TOPIC", "mailvet.", "READ", "PREFIXED"), True),
        (Grant("etl", "TOPIC", "orders", "READ"), False),
        (Grant("etl", "TOPIC", "orders.", "READ", "PREFIXED"), False),
        (Grant("etl", "TOPIC", "*", "READ", permission="DENY"), False),
        (Grant("etl", "GROUP", "*", "READ"), False),
    ],
)
def test_strangers_are_left_alone_and_named_where_they_reach_a_topic_of_ours(grant: Grant, reaches: bool) -> None:
    access = declared(SETTINGS)
    differs = compare(access, Access(access.users | {"etl"}, access.grants | {grant}), SETTINGS)
    assert not differs
    assert differs.others == ((grant,) if reaches else ())


def test_the_plan_the_json_and_the_commands_say_the_same() -> None:
    access = declared(SETTINGS)
    said = json.loads(as_json(access))
    assert said["users"] == sorted(access.users)
    assert len(said["acls"]) == len(access.grants)
    assert {
        "principal": "User:mailvet.tenant.acme",
        "host": "*",
        "operation": "READ",
        "permission_type": "ALLOW",
        "resource_type": "GROUP",
        "resource_name": "mailvet.tenant.acme_",
        "pattern_type": "PREFIXED",
    } in said["acls"]
    assert len(list(plan(access))) == len(access.users) + len(access.grants)
    script = list(commands(access))
    assert script[1].endswith("trap 'rm -f \"$SCRAM\"' EXIT"), "no password is left behind where a command fails"
    assert sum(line.startswith("kafka-acls.sh ") for line in script) == len(access.grants)
    assert sum(line.startswith("kafka-configs.sh ") for line in script) == len(access.users)
    assert any(
        line.endswith(
            "--add --allow-principal User:mailvet.operator --operation AlterConfigs "
            "--topic mailvet.requests.v1 --resource-pattern-type literal"
        )
        for line in script
    )


@pytest.mark.parametrize("form", ["plan", "json", "commands"])
def test_what_is_declared_is_shown_without_a_broker(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILVET_TENANT_TOPICS", "acme")
    shown = CliRunner().invoke(command, ["acls", "show", "--format", form, "--together"])
    assert shown.exit_code == 0
    assert "mailvet.tenant.acme_" in shown.output
    assert "mailvet.all" in shown.output
    assert "mailvet.gate" not in shown.output.replace("mailvet-gate", "")
