"""The gate with keys of both kinds: who is let in, who is told no, and what strangers can't do."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas import signing
from schemas.keys import (
    Change,
    Create,
    Credential,
    Disable,
    Enable,
    Kind,
    Limit,
    Policy,
    Reinstate,
    Revoke,
    Rotate,
    Scopes,
    Suspend,
)
from schemas.topics import RESULTS
from schemas.vocabulary import Depth
from streams.access.credentials import digest, mint
from streams.access.keys import ConfiguredKey
from streams.codec import encode
from streams.records import Incoming, Outgoing, Unusable
from tests.unit.access.commands import give
from tests.unit.roles.support import KEY, NOW_MS, Log, request_bytes, run, values
from tests.unit.roles.test_gate import World, is_admitted, reason_of

PRIVATE = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"2" * 32)
TOPIC = "mailvet.requests.v1"
MINUTE_MS = 60_000


def public(private: Ed25519PrivateKey) -> Credential:
    return Credential(kind=Kind.SIGNATURE, proof=private.public_key().public_bytes_raw().hex())


def bearer(token: str) -> Credential:
    return Credential(kind=Kind.BEARER, proof=digest(token))


class Keys(World):
    """A gate with a tenant that signs (key ``s``) and has a bearer key (``b``)."""

    TOKEN = mint("acme", "b", b"fedcba9876543210")

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.commands = Log("mailvet.key-commands.v1")
        self.command(Create, key="s", credential=public(PRIVATE))
        self.command(Create, key="b", credential=bearer(self.TOKEN))

    def command(self, verb: Any, **fields: Any) -> None:
        now = self.clock.now_ms
        command = give(verb, **{"key": "s", **fields} if "key" in verb.model_fields else fields)
        # The windows of commands are tested elsewhere.
        record = self.commands.append(encode(command), b"acme", at_ms=NOW_MS)
        assert run(self.keyring.command(record))
        self.clock.now_ms = now

    def sign(self, over: bytes, request_id: str = "r1", private: Any = PRIVATE, **signed: Any) -> dict[str, bytes]:
        fields = {
            "audience": "mailvet",
            "topic": TOPIC,
            "key_id": "acme_s",
            "signed_at_ms": self.clock.now_ms,
            "request_id": request_id,
            "value": over,
            **signed,
        }
        return dict(signing.sign(private, **fields))

    def write(self, value: bytes, headers: dict[str, bytes], **fields: Any) -> Incoming:
        """A stranger's record as admission reads it."""
        record = replace(self.requests.append(value, b"anything", headers), **fields)
        [out] = run(self.gate.intake(record))
        return self.admissions[out.topic].take(out)

    def signed(self, request_id: str = "r1", private: Any = PRIVATE, **signed: Any) -> list[Outgoing]:
        value = request_bytes(request_id)
        return self.admit(self.write(value, self.sign(value, request_id, private, **signed)))

    def with_token(self, request_id: str = "r1", token: str = TOKEN, **fields: Any) -> list[Outgoing]:
        return self.admit(self.write(request_bytes(request_id, **fields), {"mailvet-key": token.encode()}))


# -- who is let in -------------------------------------------------------------------------------------------


def test_both_kinds_of_key_are_let_in_and_the_configured_one_too() -> None:
    world = Keys()
    assert is_admitted(world.signed("r1"))
    assert is_admitted(world.with_token("r2"))
    assert is_admitted(world.ask("r3"))
    counted = world.metrics.authentications
    assert [counted.labels(kind, "accepted")._value.get() for kind in ("signature", "bearer")] == [1, 2]


def test_with_a_namespace_the_topics_whole_name_is_signed() -> None:
    world = Keys(namespace="eu", audience="mail eu")
    assert is_admitted(world.signed(audience="mail eu", topic="eu.mailvet.requests.v1"))
    with pytest.raises(Unusable, match="not_authenticated"):
        world.signed("r2", audience="mail eu")


def test_bearer_keys_can_be_switched_off() -> None:
    world = Keys(bearer_keys=False)
    assert is_admitted(world.signed())
    with pytest.raises(Unusable, match="switched off"):
        world.with_token("r2")


def test_nothing_secret_goes_further_than_intake() -> None:
    world = Keys()
    value = request_bytes()
    record = world.write(value, {"mailvet-key": world.TOKEN.encode()})
    rows = [*world.ledger.values(), *world.keys.values()]
    everything = [record.value, *record.headers.values(), *(out.value for out in world.admit(record)), *rows]
    assert not any(world.TOKEN.split("_")[3].encode() in part for part in everything)


def test_when_a_key_was_used_is_known() -> None:
    world = Keys()
    world.signed()
    assert world.keys[b"acme:used:s"] == str(NOW_MS).encode()


# -- who is told no ------------------------------------------------------------------------------------------

STANDING = [
    ([(Revoke, {})], "key_revoked"),
    ([(Disable, {})], "key_disabled"),
    ([(Suspend, {"why": "harvesting"})], "suspended"),
    ([(Change, {"expires_at": "2026-03-10T12:00:00Z"})], "key_expired"),
    ([(Change, {"not_before": "2026-03-10T12:00:01Z"})], "key_disabled"),
    ([(Rotate, {"credential": public(OTHER), "grace_s": 0})], "key_expired"),
    ([(Change, {"scopes": Scopes(depths=frozenset({Depth.DNS}))})], "scope_denied"),
    ([(Change, {"policy": Policy(rate_per_s=0.001, burst=1)})], None),
    ([(Limit, {"limits": Policy(daily=1)})], None),
    ([(Rotate, {"credential": public(OTHER), "grace_s": 3600})], None),
    ([(Disable, {}), (Enable, {})], None),
    ([(Suspend, {"why": "harvesting"}), (Reinstate, {})], None),
]


@pytest.mark.parametrize(("commands", "reason"), STANDING)
def test_what_authenticates_and_is_refused_gets_one_rejection(commands: list[Any], reason: str | None) -> None:
    world = Keys()
    for verb, fields in commands:
        world.command(verb, **fields)
    value = request_bytes()
    record = world.write(value, world.sign(value))
    first = world.admit(record)
    assert (None if is_admitted(first) else reason_of(first)) == reason
    world.restart()
    assert world.admit(record) == first
    assert world.admissions[record.topic].records == [record]


def test_the_limits_of_a_tenant_hold_for_its_keys_together() -> None:
    world = Keys()
    world.command(Limit, limits=Policy(daily=2))
    assert is_admitted(world.signed("r1"))
    [admitted] = world.with_token("r2")
    assert values([admitted], admitted.topic)[0]["ticket"]["quota"]["remaining"] == 0
    assert reason_of(world.signed("r3")) == "quota_exceeded"


def test_a_request_that_waited_for_us_is_judged_by_when_it_arrived() -> None:
    world = Keys()
    value = request_bytes()
    headers = world.sign(value)
    world.command(Rotate, credential=public(OTHER), grace_s=60)
    world.clock.now_ms += 3_600_000
    arrived: dict[str, Any] = {"timestamp_ms": NOW_MS + 59_999, "broker_time": True}
    assert is_admitted(world.admit(world.write(value, headers, **arrived)))
    value, arrived["timestamp_ms"] = request_bytes("r2"), NOW_MS + 60_000
    late = world.write(value, world.sign(value, "r2", signed_at_ms=NOW_MS + 60_000), **arrived)
    assert reason_of(world.admit(late)) == "key_expired"


def test_a_time_that_the_client_wrote_is_not_believed() -> None:
    world = Keys()
    value = request_bytes()
    headers = world.sign(value)
    world.clock.now_ms += 10 * MINUTE_MS
    with pytest.raises(Unusable, match="signed 600 s before"):
        world.write(value, headers, timestamp_ms=NOW_MS, broker_time=False)


def test_a_refused_key_does_not_take_an_id_from_one_that_is_served() -> None:
    world = Keys()
    world.command(Revoke)
    assert reason_of(world.signed("r1")) == "key_revoked"
    assert is_admitted(world.with_token("r1", addresses=["b@example.com"]))
    with pytest.raises(Unusable, match="key_revoked, and the request_id is another request's"):
        world.signed("r1")


def test_the_same_request_is_served_once_its_key_is() -> None:
    world = Keys()
    world.command(Disable)
    value = request_bytes()
    refused = world.write(value, world.sign(value))
    first = world.admit(refused)
    assert world.signed() == first, "still disabled: the same answer"
    world.command(Enable)
    assert world.admit(refused) == first, "read again, it is what was decided on it"
    assert is_admitted(world.signed())
    assert world.admit(refused) == []
    assert world.signed() == []
    assert world.account_of("s")["day_used"] == 1


# -- what strangers can't do ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "signed",
    [
        {"private": OTHER},
        {"audience": "elsewhere"},
        {"topic": "mailvet.requests.v2"},
        {"request_id": "r2"},
        {"value": request_bytes("r1", ["victim@example.com"])},
        {"key_id": "acme_b"},
        {"key_id": "acme_nobody"},
        {"key_id": "victim_s"},
        {"key_id": "acme_k1"},
    ],
)
def test_a_forged_signature_is_a_dead_letter_and_changes_nothing(signed: dict[str, Any]) -> None:
    world = Keys()
    before = dict(world.ledger), dict(world.keys)
    value = request_bytes()
    with pytest.raises(Unusable, match="not_authenticated"):
        world.admit(world.write(value, world.sign(value, **signed)))
    assert (world.ledger, world.keys) == before
    assert world.metrics.authentications.labels("signature", "refused")._value.get() == 1


@pytest.mark.parametrize("off_ms", [10 * MINUTE_MS, -10 * MINUTE_MS, 5 * MINUTE_MS + 1, -5 * MINUTE_MS - 1])
def test_a_clock_that_is_far_off_is_refused_with_a_sentence(off_ms: int) -> None:
    with pytest.raises(Unusable, match="is the client's clock right"):
        Keys().signed(signed_at_ms=NOW_MS + off_ms)


@pytest.mark.parametrize("off_ms", [5 * MINUTE_MS, -5 * MINUTE_MS, 0])
def test_a_clock_that_is_a_little_off_is_fine(off_ms: int) -> None:
    assert is_admitted(Keys().signed(signed_at_ms=NOW_MS + off_ms))


def test_a_replay_in_the_window_costs_nothing_and_one_out_of_it_is_a_dead_letter() -> None:
    world = Keys()
    value = request_bytes()
    headers = world.sign(value)
    assert is_admitted(world.admit(world.write(value, headers)))
    assert world.admit(world.write(value, headers)) == []
    world.clock.now_ms += 5 * MINUTE_MS + 1
    with pytest.raises(Unusable, match="not_authenticated"):
        world.write(value, headers)
    assert world.account_of("s")["day_used"] == 1


def test_a_replay_onto_another_key_of_the_tenant_is_no_proof() -> None:
    world = Keys()
    value = request_bytes()
    headers = world.sign(value) | {signing.KEY_ID_HEADER: b"acme_b"}
    with pytest.raises(Unusable, match="not_authenticated"):
        world.admit(world.write(value, headers))


def test_a_digest_that_a_stranger_sends_is_not_handed_on() -> None:
    world = Keys()
    value = request_bytes()
    forged = {"mailvet-key-id": b"b", "mailvet-key-sha256": digest(world.TOKEN).encode()}
    with pytest.raises(Unusable, match="not_authenticated"):
        world.write(value, forged)
    mixed = {"mailvet-key": KEY.encode(), "mailvet-key-sha256": digest(world.TOKEN).encode(), "mailvet-now-ms": b"0"}
    record = world.write(value, mixed)
    assert record.headers["mailvet-key-sha256"] == digest(KEY).encode()
    assert record.headers["mailvet-now-ms"] == str(NOW_MS).encode()


def test_the_request_ids_of_another_tenant_are_not_mine() -> None:
    world = Keys()
    victim = mint("victim", "k", b"0123456789abcdef")
    record = world.commands.append(
        encode(give(Create, tenant="victim", key="k", credential=bearer(victim))), b"victim", at_ms=NOW_MS
    )
    run(world.keyring.command(record))
    [mine] = world.signed("r1")
    [theirs] = world.with_token("r1", victim)
    assert mine.key != theirs.key
    rejected = [out for out in (mine, theirs) if out.topic == RESULTS.name]
    assert not rejected


def test_what_intake_never_wrote_is_a_dead_letter() -> None:
    world = Keys()
    value = request_bytes()
    record = world.write(value, world.sign(value))
    for name, broken in (("mailvet-signature", b"x"), ("mailvet-signed-at", b"x"), ("mailvet-key-id", b"\xff")):
        with pytest.raises(Unusable, match="not_authenticated"):
            world.admit(replace(record, headers={**record.headers, name: broken}))
    with pytest.raises(Unusable, match="mailvet-arrived-ms"):
        world.admit(replace(record, headers={**record.headers, "mailvet-arrived-ms": b"x"}))


def test_a_rotation_in_mid_stream_refuses_nobody() -> None:
    world = Keys()
    for number in range(30):
        if number == 10:
            world.command(Rotate, credential=public(OTHER), grace_s=60)
        private = OTHER if number > 20 else PRIVATE
        assert is_admitted(world.signed(f"r{number}", private))
        world.clock.now_ms += 1000


def test_the_dev_key_of_the_configuration_needs_no_command() -> None:
    world = World()
    assert world.keyring._configured is not None
    assert isinstance(world.keyring._configured, ConfiguredKey)
    assert is_admitted(world.ask())
    assert timedelta(0) < world.settings.decisions_kept
