"""The life of a key: every command in every state, rotation and its way back, and that revoked is the end."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from schemas.keys import (
    MAX_ALLOWED,
    MAX_POLICIES,
    Allow,
    Change,
    Create,
    Define,
    Disable,
    Disallow,
    Enable,
    KeyRecord,
    Kind,
    Limit,
    Outcome,
    Policy,
    Refused,
    Reinstate,
    Revoke,
    Rollback,
    Rotate,
    Scopes,
    Status,
    Suspend,
    TenantRecord,
)
from schemas.vocabulary import Depth
from streams.access import keylife
from streams.access.keylife import MAX_ENDED, MAX_LIVE, TRANSITIONS, WINDOW, Applied, is_live
from tests.unit.access.commands import NOON, credential, give

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOBODY = TenantRecord(tenant="acme")
SMALL = TenantRecord(tenant="acme", policies={"small": Policy(daily=5)})


class Life:
    """Commands one after the other on one key."""

    def __init__(self, tenant: TenantRecord = NOBODY) -> None:
        self.tenant = tenant
        self.key: KeyRecord | None = None

    def do(self, verb: Any, at: datetime = NOON, **fields: Any) -> Applied:
        applied = keylife.apply(give(verb, at, **fields), self.tenant, self.key, at)
        self.tenant, self.key = applied.tenant, applied.key
        return applied

    def rotate(self, mark: str, at: datetime = NOON, grace: timedelta = HOUR, **fields: Any) -> Applied:
        return self.do(Rotate, at, credential=credential(mark), grace_s=int(grace.total_seconds()), **fields)

    def good(self, at: datetime) -> list[str]:
        """The marks of the credentials that are good then."""
        assert self.key is not None
        return [v.credential.proof[0] for v in self.key.versions if v.starts_at <= at and is_live(v, at)]

    def known(self) -> list[str]:
        assert self.key is not None
        return [v.credential.proof[0] for v in self.key.versions]


def alive(tenant: TenantRecord = NOBODY, **fields: Any) -> Life:
    life = Life(tenant)
    assert life.do(Create, **fields).outcome is Outcome.APPLIED
    return life


def test_a_new_key_is_active_with_one_credential() -> None:
    life = alive(expires_at=NOON + DAY)
    assert life.key is not None
    assert (life.key.status, life.key.revision, life.key.minted, life.good(NOON)) == (Status.ACTIVE, 1, 1, ["a"])
    assert (life.key.created_at, life.key.expires_at, life.key.rotated_at) == (NOON, NOON + DAY, None)
    assert life.tenant.commanded_at == NOON


VERBS = {
    "rotate": (Rotate, {"credential": credential("b"), "grace_s": 60}),
    "rollback": (Rollback, {}),
    "change": (Change, {"policy": Policy(daily=1)}),
    "disable": (Disable, {}),
    "enable": (Enable, {}),
    "revoke": (Revoke, {}),
    "create": (Create, {"credential": credential("c")}),
}


@pytest.mark.parametrize("state", Status)
@pytest.mark.parametrize("verb", VERBS)
def test_every_command_in_every_state(state: Status, verb: str) -> None:
    life = alive()
    life.rotate("9")
    if state is not Status.ACTIVE:
        life.do({Status.DISABLED: Disable, Status.REVOKED: Revoke}[state])
    before = life.key
    applied = life.do(VERBS[verb][0], **VERBS[verb][1])
    after = TRANSITIONS.get((state, verb))
    assert life.key is not None
    if after is None:
        assert (applied.outcome, life.key) == (Outcome.REFUSED, before)
        assert applied.refused is (Refused.KEY_EXISTS if verb == "create" else Refused.KEY_REVOKED)
    else:
        assert life.key.status is after
        assert applied.outcome is (Outcome.UNCHANGED if life.key == before else Outcome.APPLIED)


def test_every_state_and_command_is_in_the_table_but_those_of_the_dead() -> None:
    missing = {(status, verb) for status in Status for verb in VERBS if verb != "create"} - TRANSITIONS.keys()
    assert missing == {(Status.REVOKED, verb) for verb in VERBS if verb not in ("create", "revoke")}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "create"])
def test_nothing_is_done_to_a_key_that_is_not_there(verb: str) -> None:
    life = Life()
    assert life.do(VERBS[verb][0], **VERBS[verb][1]).refused is Refused.UNKNOWN_KEY
    assert life.key is None


def test_what_changes_nothing_is_said_to() -> None:
    life = alive()
    for verb in (Enable, Create):
        assert life.do(verb).outcome is Outcome.UNCHANGED
    life.do(Revoke)
    again = life.do(Revoke, NOON + DAY)
    assert again.outcome is Outcome.UNCHANGED
    assert life.key is not None
    assert (life.key.revision, life.key.changed_at) == (2, NOON)


def test_a_name_is_used_once() -> None:
    life = alive()
    assert life.do(Create, credential=credential("b")).refused is Refused.KEY_EXISTS
    life.do(Revoke)
    assert life.do(Create).refused is Refused.KEY_EXISTS


# -- rotation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grace", [timedelta(0), HOUR, DAY, 7 * DAY])
def test_both_credentials_are_good_during_the_grace_and_never_none(grace: timedelta) -> None:
    life = alive()
    life.rotate("b", grace=grace)
    if grace:
        assert life.good(NOON) == ["a", "b"]
        assert life.good(NOON + grace - timedelta(milliseconds=1)) == ["a", "b"]
    assert life.good(NOON + grace) == ["b"]
    assert life.known() == ["a", "b"], "whoever holds the old one can be told so"


def test_a_scheduled_rotation_begins_at_its_time() -> None:
    life = alive()
    life.rotate("b", starts_at=NOON + DAY)
    assert life.good(NOON) == ["a"]
    assert life.good(NOON + DAY) == ["a", "b"]
    assert life.good(NOON + DAY + HOUR) == ["b"]


def test_a_start_that_is_over_is_now() -> None:
    life = alive()
    life.rotate("b", starts_at=NOON - DAY, grace=timedelta(0))
    assert life.good(NOON) == ["b"]


def test_a_rotation_takes_the_place_of_one_that_is_scheduled() -> None:
    life = alive()
    life.rotate("b", starts_at=NOON + DAY, grace=timedelta(0))
    life.rotate("c", starts_at=NOON + 2 * DAY, grace=timedelta(0))
    assert life.good(NOON + DAY) == ["a"]
    assert life.good(NOON + 2 * DAY) == ["c"]
    life.rotate("d", NOON + HOUR, grace=timedelta(0))
    assert life.good(NOON + HOUR) == life.good(NOON + 3 * DAY) == ["d"]


def test_a_leak_ends_every_grace() -> None:
    life = alive()
    life.rotate("b", grace=7 * DAY)
    life.rotate("c", grace=7 * DAY)
    assert life.good(NOON) == ["a", "b", "c"]
    life.rotate("d", grace=timedelta(0))
    assert life.good(NOON) == ["d"]


def test_only_so_many_credentials_are_good_at_a_time() -> None:
    life = alive()
    for mark in "bcd":
        life.rotate(mark, grace=DAY)
    assert len(life.good(NOON)) == MAX_LIVE
    assert life.rotate("e", grace=DAY).refused is Refused.TOO_MANY_VERSIONS
    assert life.rotate("e", grace=timedelta(0)).outcome is Outcome.APPLIED


def test_old_versions_are_forgotten_and_numbers_go_on() -> None:
    life = alive()
    for mark in "bcdef012":
        life.rotate(mark, grace=timedelta(0))
    assert len(life.known()) == MAX_ENDED + 1
    assert life.key is not None
    assert (life.key.minted, life.key.versions[-1].number) == (9, 9)


def test_the_same_credential_again_changes_nothing_and_an_earlier_one_is_refused() -> None:
    life = alive()
    life.rotate("b")
    assert life.rotate("b").outcome is Outcome.UNCHANGED
    assert life.rotate("a").refused is Refused.CREDENTIAL_USED


def test_a_bearer_key_can_become_one_that_signs() -> None:
    life = alive()
    life.do(Rotate, credential=credential("b", Kind.SIGNATURE), grace_s=60)
    assert life.key is not None
    assert [v.credential.kind for v in life.key.versions] == [Kind.BEARER, Kind.SIGNATURE]


def test_a_rotation_is_rolled_back_within_its_grace() -> None:
    life = alive()
    life.rotate("b")
    later = NOON + HOUR - timedelta(milliseconds=1)
    assert life.do(Rollback, later).outcome is Outcome.APPLIED
    assert life.good(later) == life.good(NOON + 400 * DAY) == ["a"]
    assert life.do(Rollback, later).refused is Refused.NOTHING_TO_ROLL_BACK
    assert life.rotate("c", later).outcome is Outcome.APPLIED
    assert life.good(later) == ["a", "c"]


def test_after_the_grace_there_is_no_way_back() -> None:
    life = alive()
    life.rotate("b")
    assert life.do(Rollback, NOON + HOUR).refused is Refused.NOTHING_TO_ROLL_BACK


def test_a_scheduled_rotation_is_called_off() -> None:
    life = alive()
    life.rotate("b", starts_at=NOON + DAY, grace=timedelta(0))
    life.do(Rollback)
    assert life.good(NOON + 2 * DAY) == ["a"]
    assert life.known() == ["a"]


# -- what else can be changed ---------------------------------------------------------------------------------


def test_policies_go_by_name_or_are_written_out() -> None:
    life = alive(SMALL, policy="small")
    assert life.do(Change, policy="large").refused is Refused.UNKNOWN_POLICY
    assert life.do(Change, policy=Policy(daily=7)).outcome is Outcome.APPLIED
    assert Life().do(Create, policy="small").refused is Refused.UNKNOWN_POLICY


def test_a_change_leaves_alone_what_it_does_not_name() -> None:
    life = alive(SMALL, policy="small", expires_at=NOON + DAY, not_before=NOON + HOUR)
    life.do(Change, scopes=Scopes(depths=frozenset({Depth.DNS})))
    assert life.key is not None
    assert (life.key.policy, life.key.expires_at, life.key.not_before) == ("small", NOON + DAY, NOON + HOUR)
    life.do(Change, expires_at="never", not_before="now")
    assert (life.key.scopes.depths, life.key.expires_at, life.key.not_before) == ({Depth.DNS}, None, None)
    life.do(Change, expires_at=NOON + DAY, not_before=NOON)
    assert (life.key.expires_at, life.key.not_before) == (NOON + DAY, NOON)


def test_a_key_does_not_expire_before_it_begins() -> None:
    assert Life().do(Create, expires_at=NOON).refused is Refused.BAD_TIMES
    assert Life().do(Create, expires_at=NOON + HOUR, not_before=NOON + HOUR).refused is Refused.BAD_TIMES
    life = alive(not_before=NOON + HOUR)
    assert life.do(Change, expires_at=NOON + HOUR).refused is Refused.BAD_TIMES
    assert alive().do(Change, expires_at=NOON - HOUR).outcome is Outcome.APPLIED, "that ends a key at once"


def test_a_time_that_no_calendar_has_is_refused_and_answered() -> None:
    last = datetime(9999, 12, 31, 23, tzinfo=UTC)
    beyond = last.replace(tzinfo=timezone(-12 * HOUR))
    assert alive().rotate("b", starts_at=last, grace=timedelta(0)).outcome is Outcome.APPLIED
    for life, said in (
        (alive(), alive().rotate("b", starts_at=last)),
        (Life(), Life().do(Create, not_before=beyond)),
        (alive(), alive().do(Change, expires_at=beyond)),
    ):
        assert (said.refused, said.key) == (Refused.BAD_TIMES, life.key)


def test_a_tenants_limits_policies_and_suspension() -> None:
    life = Life()
    for verb, fields in (
        (Limit, {"limits": Policy(daily=9)}),
        (Define, {"name": "small", "policy": Policy(daily=5)}),
        (Suspend, {"why": "harvesting"}),
    ):
        assert life.do(verb, **fields).outcome is Outcome.APPLIED
        assert life.do(verb, **fields).outcome is Outcome.UNCHANGED
    assert (life.tenant.limits.daily, life.tenant.policies["small"].daily) == (9, 5)
    assert (life.tenant.suspended, life.tenant.revision) == ("harvesting", 3)
    life.do(Reinstate)
    assert life.tenant.suspended is None


@pytest.mark.parametrize("apart", [WINDOW, -WINDOW])
def test_a_command_that_is_old_or_from_the_future_is_refused(apart: timedelta) -> None:
    for extra, outcome in ((timedelta(0), Outcome.APPLIED), (apart / 900, Outcome.REFUSED)):
        applied = keylife.apply(give(Create, NOON + apart + extra), NOBODY, None, NOON)
        assert applied.outcome is outcome
        assert applied.refused is (Refused.STALE if outcome is Outcome.REFUSED else None)


def test_the_answer_says_who_what_when_and_why() -> None:
    command = give(Revoke, NOON, why="leaked")
    event = keylife.event_of(command, keylife.apply(command, NOBODY, None, NOON + HOUR / 10), NOON + HOUR / 10)
    assert (event.actor, event.verb, event.tenant, event.key, event.why) == ("ann", "revoke", "acme", "k1", "leaked")
    assert (event.issued_at, event.at, event.refused) == (NOON, NOON + HOUR / 10, Refused.UNKNOWN_KEY)
    assert event.message
    suspended = give(Suspend, why="harvesting")
    assert keylife.event_of(suspended, keylife.apply(suspended, NOBODY, None, NOON), NOON).key is None


def test_the_diagram_is_drawn_from_the_table() -> None:
    lines = keylife.diagram().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert "    [*] --> active: create" in lines
    assert "    revoked --> [*]" in lines


STEPS = st.sampled_from([Rotate, Rollback, Disable, Enable, Change, Revoke, Create])


@given(st.lists(st.tuples(STEPS, st.integers(0, 90), st.integers(0, 90), st.integers(0, 60)), max_size=40))
@hypothesis_settings(deadline=None)
def test_whatever_is_commanded_a_living_key_has_a_good_credential_and_a_dead_one_stays_dead(steps: Any) -> None:
    life, at, dead = Life(), NOON, False
    for number, (verb, minutes, grace, ahead) in enumerate(steps):
        at += timedelta(minutes=minutes)
        fields: dict[str, Any] = {}
        if verb in (Rotate, Create):
            fields["credential"] = credential(f"{number:02x}")
        if verb is Rotate:
            fields |= {"grace_s": grace * 60, "starts_at": at + timedelta(minutes=ahead)}
        if verb is Change:
            fields["policy"] = Policy(daily=number + 1)
        before = life.key
        applied = life.do(verb, at, **fields)
        if life.key is None:
            continue
        if dead:
            assert life.key == before
        dead = life.key.status is Status.REVOKED
        assert life.good(at), "there is always one"
        assert all(life.good(at + timedelta(minutes=later)) for later in range(0, 200, 7))
        assert sum(v.ends_at is None for v in life.key.versions) == 1
        assert sum(is_live(v, at) for v in life.key.versions) <= MAX_LIVE
        assert len({v.number for v in life.key.versions}) == len(life.key.versions)
        if applied.outcome is Outcome.APPLIED:
            assert life.key.revision == (before.revision + 1 if before else 1)


def test_domains_are_allowed_once_and_taken_back() -> None:
    life = Life()
    assert life.do(Allow, domain="b.example").outcome is Outcome.APPLIED
    assert life.do(Allow, domain="b.example").outcome is Outcome.UNCHANGED
    life.do(Allow, domain="*")
    assert life.tenant.allowed == ("*", "b.example")
    assert life.do(Disallow, domain="c.example").outcome is Outcome.UNCHANGED
    assert life.do(Disallow, domain="*").outcome is Outcome.APPLIED
    assert life.tenant.allowed == ("b.example",)


def test_no_more_domains_are_allowed_than_a_row_should_hold() -> None:
    full = tuple(sorted(f"d{number}.example" for number in range(MAX_ALLOWED)))
    life = Life(TenantRecord(tenant="acme", allowed=full))
    assert life.do(Allow, domain="d1.example").outcome is Outcome.UNCHANGED
    assert life.do(Allow, domain="one.example").refused is Refused.TOO_MANY_DOMAINS
    assert life.tenant.allowed == full


def test_no_more_policies_are_defined_than_a_row_should_hold() -> None:
    full = {f"p{number}": Policy() for number in range(MAX_POLICIES)}
    life = Life(TenantRecord(tenant="acme", policies=full))
    assert life.do(Define, name="p1", policy=Policy(daily=5)).outcome is Outcome.APPLIED
    assert life.do(Define, name="one", policy=Policy()).refused is Refused.TOO_MANY_POLICIES
    assert life.tenant.policies == {**full, "p1": Policy(daily=5)}
