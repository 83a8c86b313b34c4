"""The table of rights agrees with the roles, and docs/access.md with the table."""

import pytest

from ops.access.page import PAGE, with_table
from ops.access.rights import OPERATOR_READS, OPERATOR_WRITES, ROLES, groups, of_roles, topics_needed, written
from schemas.topics import CANCELS, DEADLETTERS, OPT_OUTS, REQUESTS, RESULTS, TIERS, TOPICS, Topic
from streams import installed
from streams.installed import TABLES
from streams.roles.completion import Completion
from streams.roles.gate import Gate
from streams.roles.keyring import Keyring
from streams.roles.probe import Probing
from streams.roles.route import Route
from streams.settings import Settings
from tests.unit.roles.support import Clock, FakeProber, FakeResolver, metrics, settings

NOT_USED: object = None


def subscribed(role: str) -> tuple[Topic, ...]:
    """What the role asks to be fed."""
    plain, measured, clock = settings(), metrics(), Clock()
    asks = {"precheck": NOT_USED, "resolver": FakeResolver(), "clock": clock, "opted_out": NOT_USED}
    roles = {
        "gate": lambda: Gate(plain, measured, Keyring(measured, {}, NOT_USED, plain.decisions_kept), {}, clock),
        "route": lambda: Route(plain, measured, **asks),
        "probe": lambda: Probing(plain, measured, prober=FakeProber(), **asks),
        "completion": lambda: Completion(plain, measured, requests={}, progress={}),
    }
    if role == "retry":
        return TIERS
    return tuple(subscription.topic for subscription in roles[role]().subscriptions())


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_read_what_it_subscribes_to_and_nothing_else(role: str) -> None:
    assert {topic.name for topic in ROLES[role].reads} == {topic.name for topic in subscribed(role)}
    # Whoever works on addresses leaves those of requests that were cancelled, and those of domains that opted out.
    assert ROLES[role].follows == ((CANCELS, OPT_OUTS) if role in ("route", "probe") else ())


def test_every_role_and_no_other_has_rights() -> None:
    assert tuple(ROLES) == installed.ROLES


def test_a_role_has_the_groups_of_its_apps() -> None:
    for role in ("route", "probe"):
        lanes = [topic.name.split(".")[2] for topic in subscribed(role)]
        assert ROLES[role].apps == tuple(f"{role}-{lane}" for lane in lanes)
    assert groups(ROLES["retry"], Settings.model_construct(namespace="eu")) == (
        "eu.mailvet-retry-5m",
        "eu.mailvet-retry-15m",
        "eu.mailvet-retry-60m",
    )


def test_every_table_is_its_roles_and_every_topic_somebodys() -> None:
    everything = of_roles(ROLES)
    assert [table.name for table in everything.tables] == [table.name for table in TABLES]
    assert all(table.role == role for role, rights in ROLES.items() for table in rights.tables)
    touched = {topic.name for topic in (*everything.reads, *everything.writes, *OPERATOR_READS, *OPERATOR_WRITES)}
    assert touched == {topic.name for topic in TOPICS}


def test_only_the_gate_reads_strangers_and_everybody_may_write_a_dead_letter() -> None:
    assert [role for role, rights in ROLES.items() if REQUESTS in rights.reads] == ["gate"]
    assert all(DEADLETTERS in rights.writes for rights in ROLES.values())


def test_whoever_writes_results_writes_the_tenants_own_too() -> None:
    plain = Settings.model_validate({"tenant_topics": "acme", "namespace": "eu"})
    for role, rights in ROLES.items():
        names = [topic.name for topic in written(rights, plain)]
        assert ("mailvet.results.acme.v1" in names) is (RESULTS in rights.writes) is (role in ("gate", "completion"))
    needed = [topic.name for topic in topics_needed(["completion"], plain)]
    assert needed == [
        "eu.mailvet.admitted.interactive.v1",
        "eu.mailvet.admitted.bulk.v1",
        "eu.mailvet.attempts.v1",
        "eu.mailvet.cancels.v1",
        "eu.mailvet.results.v1",
        "eu.mailvet.settlements.v1",
        "eu.mailvet.deadletters.v1",
        "eu.mailvet.results.acme.v1",
        "eu.mailvet-completion-requests-changelog",
        "eu.mailvet-completion-progress-changelog",
    ]


def test_the_page_is_up_to_date() -> None:
    assert with_table(PAGE.read_text()) == PAGE.read_text(), "run python -m ops.access.page"
