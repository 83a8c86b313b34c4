"""The gate: strangers' bytes in, one decision a request, charged once."""

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from schemas.pipeline import Settlement
from schemas.request import MAX_REQUEST_BYTES, request_uid
from schemas.topics import (
    ADMISSIONS_BULK,
    ADMISSIONS_INTERACTIVE,
    ADMITTED_BULK,
    ADMITTED_INTERACTIVE,
    RESULTS,
    USAGE,
)
from schemas.vocabulary import Depth, Lane
from streams.access.credentials import mint
from streams.access.keys import Allowance, ConfiguredKey, Key, KeyStore
from streams.codec import encode
from streams.records import Incoming, Outgoing, Unusable
from streams.roles.gate import Gate
from streams.roles.keyring import Keyring
from tests.unit.roles.support import KEY, NOW, NOW_MS, Clock, Log, metrics, request_bytes, run, settings, values

DAY_MS = 86_400_000


class World:
    """A gate with its topics."""

    def __init__(self, **changes: Any) -> None:
        self.settings = settings(**changes)
        self.clock = Clock()
        self.ledger: dict[bytes, bytes] = {}
        self.keys: dict[bytes, bytes] = {}
        self.requests = Log("mailvet.requests.v1")
        self.admissions = {topic.name: Log(topic.name) for topic in (ADMISSIONS_INTERACTIVE, ADMISSIONS_BULK)}
        self.settlements = Log("mailvet.settlements.v1")
        self.metrics = metrics()
        self.restart()

    def restart(self) -> None:
        self.gate = self.gate_of(ConfiguredKey(self.settings))

    def gate_of(self, configured: KeyStore) -> Gate:
        self.keyring = Keyring(self.metrics, self.keys, configured, self.settings.decisions_kept)
        return Gate(self.settings, self.metrics, self.keyring, self.ledger, self.clock)

    def send(self, value: bytes, key: str = KEY) -> Incoming:
        """A client's request as admission reads it."""
        [out] = run(self.gate.intake(self.requests.append(value, b"anything", {"mailvet-key": key.encode()})))
        return self.admissions[out.topic].take(out)

    def admit(self, record: Incoming) -> list[Outgoing]:
        return list(run(self.gate.admit(record)))

    def ask(self, *args: Any, **fields: Any) -> list[Outgoing]:
        return self.admit(self.send(request_bytes(*args, **fields)))

    def settle(self, request_id: str = "r1", charged: int = 1, given_back: int = 0) -> Incoming:
        settlement = Settlement(
            request_uid=request_uid("acme", request_id),
            tenant="acme",
            key_id="k1",
            charged=charged,
            charged_day="2026-03-10",
            given_back=given_back,
            finished_at=NOW,
        )
        record = self.settlements.append(encode(settlement), b"acme")
        assert run(self.gate.settle(record)) == ()
        return record

    @property
    def account(self) -> dict[str, Any]:
        return self.account_of("k1")

    def account_of(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.ledger[f"acme:account:{key}".encode()])
        return found


def reason_of(outputs: list[Outgoing]) -> str:
    [rejection] = values(outputs, RESULTS.name)
    assert rejection["kind"] == "rejection"
    assert rejection["verdict"] == "rejected"
    return str(rejection["reason"])


def is_admitted(outputs: list[Outgoing]) -> bool:
    return [output.topic for output in outputs] == [ADMITTED_INTERACTIVE.name]


# -- intake --------------------------------------------------------------------------------------------------


def test_a_request_goes_to_its_tenant_with_the_bytes_that_were_sent() -> None:
    world, value = World(), request_bytes(addresses=["a@example.com", "b\x00\r\n@example.com"]) + b"  \n"
    record = world.send(value)
    assert (record.key, record.value) == (b"acme", value)
    assert record.headers["mailvet-now-ms"] == str(NOW_MS).encode()
    assert record.headers["mailvet-origin"] == b"mailvet.requests.v1/0/0"
    assert record.headers["mailvet-key-sha256"] == hashlib.sha256(KEY.encode()).hexdigest().encode()


def test_the_key_itself_goes_no_further_than_intake() -> None:
    world = World()
    record = world.send(request_bytes())
    everything = [
        record.value,
        *record.headers.values(),
        *(o.value for o in world.admit(record)),
        *world.ledger.values(),
    ]
    secret = KEY.split("_")[3].encode()
    assert not any(secret in part for part in everything)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b" " * (MAX_REQUEST_BYTES + 1), "too_large"),
        (b'{"request_id":"r","addresses":["\xff@x"]}', "not_utf8"),
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"a":' * 100_000, "not_json"),
        (b'{"request_id":"r","addresses":["\\ud800@x"]}', "not_json"),
        (b'{"request_id":"r","addresses":["a"],"schema_version":2,"new":1}', "unknown_version"),
        (b'{"request_id":"r","addresses":["a"],"schema_version":"1"}', "invalid"),
        (b'{"request_id":"r","addresses":["a"],"schema_version":true}', "invalid"),
        (b"null", "invalid"),
        (b"[]", "invalid"),
        (b'{"addresses":["a"]}', "invalid"),
        (b'{"request_id":"r","addresses":[]}', "invalid"),
        (b'{"request_id":"r","addresses":"a@x"}', "invalid"),
        (b'{"request_id":"r","addresses":[1]}', "invalid"),
        (b'{"request_id":7,"addresses":["a"]}', "invalid"),
        (b'{"request_id":"","addresses":["a"]}', "invalid"),
        (b'{"request_id":"a\\u0000b","addresses":["a"]}', "invalid"),
        (b'{"request_id":"r","addresses":["a"],"dept":"dns"}', "invalid"),
        (b'{"request_id":"r","addresses":["a"],"depth":"deep"}', "invalid"),
        (b'{"request_id":"r","addresses":["a"],"options":{"retry":"no"}}', "invalid"),
        (b'{"request_id":"r","addresses":["a"],"verdict_by":"2030-01-01T00:00:00"}', "invalid"),
        (b'{"request_id":"r","addresses":["a"],"verdict_by":1900000000}', "invalid"),
        (b'{"request_id":"r","addresses":["a"],"x":' + b"9" * 900_000 + b"}", "not_json"),
        (b'{"request_id":"r","addresses":[' + b"1," * 400_000 + b"1]}", "invalid"),
        (b'{"request_id":"r","addresses":[' + b'"a",' * 1000 + b'"a"]}', "invalid"),
        (b'{"request_id":"r","cancel":true,' + b",".join(b'"x%d":0' % each for each in range(200)) + b"}", "invalid"),
    ],
)
def test_what_is_no_request_is_a_dead_letter(value: bytes, reason: str) -> None:
    world = World()
    with pytest.raises(Unusable) as refused:
        world.send(value)
    assert refused.value.reason == reason
    assert len(refused.value.detail) < 200


def test_a_record_without_a_version_is_of_the_first() -> None:
    assert is_admitted(World().ask())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Mailvet-Key": KEY.encode()},
        {"mailvet-key": KEY.encode(), "MAILVET-KEY": KEY.encode()},
        {"mailvet-key": b""},
        {"mailvet-key": b"\xff\xfe"},
        {"mailvet-key": KEY.encode()[:-1]},
        {"mailvet-key": ("Bearer " + KEY).encode()},
    ],
)
def test_a_request_without_exactly_one_good_key_is_a_dead_letter(headers: dict[str, bytes]) -> None:
    world = World()
    with pytest.raises(Unusable, match="not_authenticated"):
        run(world.gate.intake(world.requests.append(request_bytes(), headers=headers)))


def test_a_repeated_key_header_is_refused() -> None:
    world = World()
    record = world.requests.append(request_bytes(), headers={"mailvet-key": KEY.encode()})
    with pytest.raises(Unusable, match="more than once"):
        run(world.gate.intake(replace(record, repeated=frozenset({"mailvet-key"}))))


@given(st.binary(max_size=400), st.binary(max_size=80))
@hypothesis_settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_dead_letter_or_go_on(value: bytes, key: bytes) -> None:
    world = World()
    with pytest.raises(Unusable):
        run(world.gate.intake(world.requests.append(value, headers={"mailvet-key": key})))


# -- admission -----------------------------------------------------------------------------------------------


def test_an_admitted_request_carries_all_that_later_roles_need() -> None:
    world = World()
    [out] = world.ask(addresses=["a@x", "b@x"], depth="dns", options={"retry": False})
    [admitted] = values([out], ADMITTED_INTERACTIVE.name)
    uid = request_uid("acme", "r1")
    assert out.key == uid.encode()
    assert admitted["addresses"] == ["a@x", "b@x"]
    assert admitted["ticket"] == {
        "request_uid": uid,
        "request_id": "r1",
        "tenant": "acme",
        "key_id": "k1",
        "total": 2,
        "depth": "dns",
        "lane": "interactive",
        "options": {"catch_all_probe": True, "retry": False},
        "charged": 2,
        "charged_day": "2026-03-10",
        "quota": {"limit": 1_000_000, "remaining": 999_998, "resets_at": "2026-03-11T00:00:00Z"},
        "admitted_at": "2026-03-10T12:00:00Z",
        "verdict_by": "2026-03-10T15:00:00Z",
    }


def test_a_record_read_again_decides_the_same_bytes_and_charges_once() -> None:
    world = World()
    record = world.send(request_bytes(addresses=["a@x", "b@x"]))
    first = world.admit(record)
    world.ask("r2")
    world.restart()
    assert world.admit(record) == first
    assert world.account["day_used"] == 3


def test_a_clients_repeat_costs_nothing_and_brings_nothing_new() -> None:
    world = World()
    assert is_admitted(world.ask())
    assert world.ask() == []
    assert world.account["day_used"] == 1


def test_a_clients_repeat_of_a_rejected_request_is_rejected_alike() -> None:
    world = World(dev_daily_quota=1)
    first = world.ask(addresses=["a@x", "b@x"])
    assert reason_of(first) == "quota_exceeded"
    assert world.ask(addresses=["a@x", "b@x"]) == first


def test_the_same_id_with_another_body_is_a_conflict_and_leaves_the_first_alone() -> None:
    world = World()
    record = world.send(request_bytes())
    first = world.admit(record)
    other = world.send(request_bytes(addresses=["b@example.com"]))
    conflict = world.admit(other)
    assert reason_of(conflict) == "request_id_conflict"
    assert world.admit(other) == conflict
    assert world.admit(record) == first
    assert world.account["day_used"] == 1


def test_a_key_that_is_not_known_or_has_another_secret_is_a_dead_letter() -> None:
    world = World()
    for key in (
        mint("acme", "k1", b"another secret.."),
        mint("acme", "k2", b"0123456789abcdef"),
        mint("b", "k1", b"x" * 16),
    ):
        with pytest.raises(Unusable, match="not_authenticated"):
            world.admit(world.send(request_bytes(), key))
    assert world.ledger == {}


@pytest.mark.parametrize("now", [{}, {"mailvet-now-ms": b"soon"}])
def test_an_admission_without_its_time_is_a_dead_letter(now: dict[str, bytes]) -> None:
    world = World()
    record = world.send(request_bytes())
    headers = {name: value for name, value in record.headers.items() if name != "mailvet-now-ms"} | now
    with pytest.raises(Unusable, match="mailvet-now-ms"):
        world.admit(replace(record, headers=headers))


@pytest.mark.parametrize("name", ["mailvet-key-id", "mailvet-key-sha256"])
def test_an_admission_without_its_key_is_a_dead_letter(name: str) -> None:
    world = World()
    record = world.send(request_bytes())
    with pytest.raises(Unusable, match="not_authenticated"):
        world.admit(replace(record, headers={k: v for k, v in record.headers.items() if k != name}))


def test_the_rate_is_refused_with_a_hint() -> None:
    world = World(dev_rate_per_s=1, dev_rate_burst=2)
    assert is_admitted(world.ask("r1"))
    assert is_admitted(world.ask("r2"))
    refused = world.ask("r3")
    assert reason_of(refused) == "rate_exceeded"
    assert values(refused, RESULTS.name)[0]["retry_after_ms"] == 1000
    world.clock.now_ms += 1000
    assert is_admitted(world.ask("r4"))


def test_the_quota_of_a_day_ends_and_begins_anew() -> None:
    world = World(dev_daily_quota=3)
    assert is_admitted(world.ask("r1", ["a@x", "b@x"]))
    refused = world.ask("r2", ["a@x", "b@x"])
    assert reason_of(refused) == "quota_exceeded"
    assert values(refused, RESULTS.name)[0]["retry_after_ms"] == DAY_MS // 2
    assert is_admitted(world.ask("r3", ["a@x"]))
    world.clock.now_ms += DAY_MS // 2
    assert is_admitted(world.ask("r4", ["a@x", "b@x"]))


def test_time_never_runs_backwards_for_a_key() -> None:
    world = World(dev_daily_quota=1)
    world.clock.now_ms += DAY_MS
    assert is_admitted(world.ask("r1"))
    world.clock.now_ms -= DAY_MS
    assert reason_of(world.ask("r2")) == "quota_exceeded"
    assert world.account["now_ms"] == NOW_MS + DAY_MS


def test_addresses_in_flight_are_capped_until_they_are_settled() -> None:
    world = World(dev_in_flight=3)
    assert is_admitted(world.ask("r1", ["a@x", "b@x"]))
    refused = world.ask("r2", ["a@x", "b@x"])
    assert reason_of(refused) == "in_flight_exceeded"
    assert values(refused, RESULTS.name)[0]["retry_after_ms"] > 0
    world.settle("r1", 2)
    assert is_admitted(world.ask("r3", ["a@x", "b@x"]))


def test_a_settlement_that_never_comes_blocks_nobody_after_verdict_by() -> None:
    world = World(dev_in_flight=2)
    assert is_admitted(world.ask("r1", ["a@x", "b@x"]))
    world.clock.now_ms += 3 * 3_600_000 - 1
    assert reason_of(world.ask("r2")) == "in_flight_exceeded"
    world.clock.now_ms += 1
    assert is_admitted(world.ask("r3"))


def test_more_than_a_key_may_ever_have_in_flight_is_too_large() -> None:
    assert reason_of(World(dev_in_flight=1).ask(addresses=["a@x", "b@x"])) == "too_large"


@pytest.mark.parametrize(
    ("scope", "fields", "reason"),
    [
        ({"depths": frozenset({Depth.DNS})}, {}, "scope_denied"),
        ({"lanes": frozenset({Lane.BULK})}, {"lane": "interactive"}, "scope_denied"),
        ({"options": frozenset({"retry"})}, {}, "scope_denied"),
        ({"own": Allowance(max_addresses=1)}, {"addresses": ["a@x", "b@x"]}, "too_large"),
        ({"shared": Allowance(max_addresses=1)}, {"addresses": ["a@x", "b@x"]}, "too_large"),
    ],
)
def test_a_key_may_not_do_what_it_was_not_given(scope: dict[str, Any], fields: dict[str, Any], reason: str) -> None:
    world = World()
    known = ConfiguredKey(world.settings).find("acme", "k1")
    assert known is not None

    class Store:
        def find(self, tenant: str, key_id: str) -> Key:
            return replace(known, **scope)

    world.gate = world.gate_of(Store())
    assert reason_of(world.ask(**fields)) == reason
    assert world.account["day_used"] == 0


@pytest.mark.parametrize(
    ("fields", "lane"),
    [
        ({"addresses": ["a@x"] * 10}, "interactive"),
        ({"addresses": ["a@x"] * 11}, "bulk"),
        ({"addresses": ["a@x"], "lane": "bulk"}, "bulk"),
        ({"addresses": ["a@x"] * 11, "lane": "interactive"}, "interactive"),
    ],
)
def test_small_requests_have_a_lane_of_their_own(fields: dict[str, Any], lane: str) -> None:
    world = World()
    record = world.send(request_bytes(**fields))
    [out] = world.admit(record)
    assert record.topic == {"interactive": ADMISSIONS_INTERACTIVE.name, "bulk": ADMISSIONS_BULK.name}[lane]
    assert out.topic == {"interactive": ADMITTED_INTERACTIVE.name, "bulk": ADMITTED_BULK.name}[lane]
    assert values([out], out.topic)[0]["ticket"]["lane"] == lane


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (timedelta(minutes=5), "2026-03-10T12:05:00Z"),
        (timedelta(minutes=-5), "2026-03-10T12:00:01Z"),
        (timedelta(days=300), "2026-03-11T12:00:00Z"),
    ],
)
def test_verdict_by_is_the_clients_within_bounds(asked: timedelta, granted: str) -> None:
    [admitted] = values(World().ask(verdict_by=(NOW + asked).isoformat()), ADMITTED_INTERACTIVE.name)
    assert admitted["ticket"]["verdict_by"] == granted


@pytest.mark.parametrize("fields", [{}, {"verdict_by": (NOW + timedelta(milliseconds=10)).isoformat()}])
def test_whoever_decides_a_record_names_the_same_request_downstream(fields: dict[str, Any]) -> None:
    """A worker that was paused has decided it; the next, which does not know that, decides others before."""
    world = World()
    record = world.send(request_bytes("r1", **fields))
    [paused] = values(world.admit(record), ADMITTED_INTERACTIVE.name)
    world.ledger.clear()
    world.restart()
    world.clock.now_ms += 1500
    world.ask("r2")
    [admitted] = values(world.admit(record), ADMITTED_INTERACTIVE.name)
    assert admitted["ticket"]["admitted_at"] != paused["ticket"]["admitted_at"], "decided anew"
    assert admitted["ticket"]["verdict_by"] == paused["ticket"]["verdict_by"]


# -- settlement ----------------------------------------------------------------------------------------------


def test_what_a_request_did_not_cost_is_given_back_once() -> None:
    world = World()
    world.ask("r1", ["a@x", "b@x", "c@x"])
    record = world.settle("r1", 3, 2)
    run(world.gate.settle(record))
    world.restart()
    run(world.gate.settle(record))
    assert world.account["day_used"] == 1
    assert world.account["in_flight"] == {}


def test_no_more_is_given_back_than_was_charged() -> None:
    world = World()
    world.ask("r1", ["a@x"])
    world.ask("r2", ["a@x", "b@x"])
    world.settle("r1", 1, 100)
    assert world.account["day_used"] == 2


def test_a_settlement_of_nothing_that_was_charged_changes_nothing() -> None:
    world = World(dev_daily_quota=1)
    world.ask("r1", ["a@x", "b@x"])
    before = dict(world.ledger)
    world.settle("r1", 2, 2)
    world.settle("unheard-of", 2, 2)
    assert world.ledger == before


# -- the ledger ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_crash_between_the_rows_of_a_decision_charges_once(lost: int) -> None:
    """The changelog is cut off after any row: the record, read again, decides and charges the same."""
    world = World()
    world.ask("r0")
    record = world.send(request_bytes("r1", ["a@x", "b@x"]))
    journal = Journal(world.ledger)
    world.ledger = journal
    world.restart()
    first = world.admit(record)
    world.ledger = journal.cut(lost)
    world.restart()
    assert world.admit(record) == first
    assert world.account["day_used"] == 3


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_crash_between_the_rows_of_a_settlement_gives_back_once(lost: int) -> None:
    world = World()
    world.ask("r1", ["a@x", "b@x"])
    journal = Journal(world.ledger)
    world.ledger = journal
    world.restart()
    record = world.settle("r1", 2, 1)
    world.ledger = journal.cut(lost)
    world.restart()
    run(world.gate.settle(record))
    assert world.account["day_used"] == 1


class Journal(dict[bytes, bytes]):
    """A table that remembers what it was before each change."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        super().__init__(rows)
        self.before: list[dict[bytes, bytes]] = []

    def __setitem__(self, key: bytes, row: bytes) -> None:
        self.before.append(dict(self))
        super().__setitem__(key, row)

    def cut(self, lost: int) -> dict[bytes, bytes]:
        """The table without its last changes."""
        return dict(self.before[-lost]) if lost else dict(self)


def test_rows_end_when_nobody_can_ask_for_them() -> None:
    world = World()
    world.ask("r1")
    assert world.gate.expire(NOW_MS + 3 * DAY_MS) == 0
    assert world.gate.expire(NOW_MS + 3 * 3_600_000 + 4 * DAY_MS) == 0
    assert world.gate.expire(NOW_MS + 3 * 3_600_000 + 4 * DAY_MS + 1) == 1
    assert list(world.ledger) == [b"acme:account", b"acme:account:k1", b"acme:usage:k1:2026-03-10"]
    assert [output.topic for output in world.gate.report(NOW_MS)] == [USAGE.name], "else the row would stay"
    assert world.gate.expire(NOW_MS + 8 * DAY_MS) == 1
    assert list(world.ledger) == [b"acme:account", b"acme:account:k1"]
    assert world.gate.expire(NOW_MS + 20 * DAY_MS) == 0, "the month goes on"
    assert world.gate.expire(NOW_MS + 30 * DAY_MS) == 2
    assert world.ledger == {}
    assert world.gate.expire(NOW_MS + 30 * DAY_MS) == 0


def test_rows_that_are_gone_meanwhile_are_passed_over() -> None:
    world = World()
    for number in range(3):
        world.ask(f"r{number}")
    world.gate._round._step = 2
    world.gate.expire(NOW_MS)
    world.ledger.clear()
    assert world.gate.expire(NOW_MS + 90 * DAY_MS) == 0


def test_admissions_are_counted() -> None:
    world = World(dev_daily_quota=1)
    world.ask("r1")
    world.ask("r2")
    counted = {d: world.metrics.requests.labels(d)._value.get() for d in ("admitted", "quota_exceeded")}
    assert counted == {"admitted": 1, "quota_exceeded": 1}


def test_the_gate_reads_both_lanes() -> None:
    topics = [subscription.topic.name for subscription in World().gate.subscriptions()]
    assert topics == [
        "mailvet.requests.v1",
        "mailvet.admissions.interactive.v1",
        "mailvet.admissions.bulk.v1",
        "mailvet.settlements.v1",
        "mailvet.key-commands.v1",
    ]


# -- a tenant's own topic --------------------------------------------------------------------------------------


def reason_in(output: Outgoing) -> str:
    return str(orjson.loads(output.value)["reason"])


@pytest.mark.parametrize(("tenants", "own"), [((), False), (("globex",), False), (("globex", "acme"), True)])
def test_where_answers_go_is_decided_here_and_never_both(tenants: tuple[str, ...], own: bool) -> None:
    world = World(tenant_topics=tenants, dev_in_flight=1)
    [admitted] = world.ask("r1")
    assert orjson.loads(admitted.value)["ticket"].get("own_topic", False) is own
    [repeated] = world.ask("r1", addresses=["a@x", "b@x"])
    [refused] = world.ask("r2", addresses=["a@x", "b@x"])
    assert [reason_in(each) for each in (repeated, refused)] == ["request_id_conflict", "too_large"]
    expected = "mailvet.results.acme.v1" if own else RESULTS.name
    assert {repeated.topic, refused.topic} == {expected}
