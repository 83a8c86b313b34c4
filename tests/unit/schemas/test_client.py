"""The client without a Kafka library: the records that it makes, and what it makes of those that it reads."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import BaseModel, ValidationError

from schemas import bearer, signing
from schemas.client import BearerKey, Client, Pending, SigningKey, Unnamed, read_credential, read_output
from schemas.dedupe import Dedupe
from schemas.request import Cancel, Request, request_uid
from schemas.result import Cancellation, CancelOutcome, Rejection, Result, Summary
from schemas.signing import Malformed
from schemas.topics import own_results
from schemas.vocabulary import Depth, Reason
from tests.unit.schemas.samples import SAMPLES

TOKEN = bearer.mint("acme", "k1", b"0123456789abcdef")
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
PEM = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def client(**options: Any) -> Client:
    return Client(BearerKey(TOKEN), **options)


def said(name: str, pending: Pending, **changes: Any) -> bytes:
    """A record of the results topic about this request."""
    record = SAMPLES[name].model_copy(update={"request_uid": pending.request_uid, **changes})
    assert isinstance(record, BaseModel)
    return record.model_dump_json().encode()


# -- out --------------------------------------------------------------------------------------------------------------


def test_a_request_is_written_as_it_was_asked_and_nothing_more() -> None:
    pending, record = client().ask(["a@x.example"], request_id="r1", depth=Depth.DNS)
    assert json.loads(record.value) == {"request_id": "r1", "addresses": ["a@x.example"], "depth": "dns"}
    assert (record.topic, record.key) == ("mailvet.requests.v1", b"r1")
    assert record.headers == [("mailvet-key", TOKEN.encode())]
    assert pending.request_uid == request_uid("acme", "r1")
    assert TOKEN not in repr(record)


def test_ids_are_made_where_none_is_given() -> None:
    asking = client()
    assert asking.ask(["a@x.example"])[1].key != asking.ask(["a@x.example"])[1].key


def test_what_is_no_request_opens_nothing() -> None:
    asking = client()
    with pytest.raises(ValidationError):
        asking.ask([])
    assert (len(asking.pending), asking.in_flight) == (0, 0)


def test_a_signed_record_sent_again_has_the_same_bytes_and_a_signature_of_its_time() -> None:
    now = [1.0]
    key = SigningKey("acme_k1", PRIVATE, "eu", clock=lambda: now[0])
    asking = Client(key, namespace="n")
    pending, first = asking.ask(["a@x.example"], request_id="r1")
    now[0] = 2.0
    again, cancel = asking.record(pending), asking.cancel("r1")
    assert again.value == first.value
    assert Cancel.model_validate_json(cancel.value, strict=True).request_id == "r1"
    assert json.loads(cancel.value)["cancel"] is True
    for record, at_ms in ((first, 1000), (again, 2000), (cancel, 2000)):
        claim = signing.read(dict(record.headers))
        assert (record.topic, claim.key_id, claim.signed_at_ms) == ("n.mailvet.requests.v1", "acme_k1", at_ms)
        message = signing.message(
            audience="eu", topic=record.topic, key_id="acme_k1", signed_at_ms=at_ms, request_id="r1", value=record.value
        )
        assert signing.verify(PRIVATE.public_key().public_bytes_raw(), claim.signature, message)


def test_results_are_looked_for_in_the_tenant_s_own_topic_where_there_is_one() -> None:
    asking = client(namespace="n")
    assert asking.results_topic == "n.mailvet.results.v1"
    assert asking.find_results({"n.mailvet.results.acme.v1", "n.mailvet.results.v1"}) == "n.mailvet.results.acme.v1"
    assert asking.find_results({"n.mailvet.results.v1"}) == asking.results_topic == "n.mailvet.results.v1"
    assert client(own_topic=True).results_topic == "mailvet.results.acme.v1"
    with pytest.raises(ValueError, match="tenant"):
        own_results("a_b")


# -- in ---------------------------------------------------------------------------------------------------------------


def test_answers_come_to_their_request_and_repeats_are_dropped() -> None:
    asking = client()
    pending, _ = asking.ask(["a@x.example", "b@x.example"])
    other, _ = asking.ask(["c@x.example"])
    assert asking.in_flight == 3
    assert asking.take(said("result", pending, index=0)) is pending
    assert asking.take(said("result", pending, index=0)) is None
    assert (pending.missing, pending.done, asking.in_flight) == (1, False, 2)
    assert asking.take(said("summary", pending)) is pending
    assert not pending.done, "its last result was read later"
    assert asking.take(said("summary", pending)) is None
    assert asking.take(said("result", pending, index=1)) is pending
    assert (pending.done, list(asking.pending)) == (True, [other])
    assert asking.take(said("result", pending, index=1)) is None


def test_what_is_not_ours_or_not_understood_is_passed_over() -> None:
    asking = client()
    pending, _ = asking.ask(["a@x.example"])
    stranger = Pending(pending.request, "0" * 64)
    assert asking.take(said("result", stranger)) is None
    newer = b'{"kind":"later","request_uid":"' + pending.request_uid.encode() + b'"}'
    assert [asking.take(value) for value in (None, b"", b"{}", newer)] == [None] * 4
    asking.forget(pending)
    asking.forget(pending)
    assert asking.take(said("result", pending)) is None


def test_a_rejection_says_when_to_ask_again_under_another_id() -> None:
    asking = client()
    pending, _ = asking.ask(["a@x.example"], request_id="r1", depth=Depth.DNS)
    assert pending.retry_after_s is None
    assert asking.take(said("rejection", pending, retry_after_ms=250)) is pending
    assert (pending.done, pending.retry_after_s) == (True, 0.25)
    again, record = asking.ask_again(pending)
    assert again.request.request_id != "r1"
    assert json.loads(record.value).items() >= {"addresses": ["a@x.example"], "depth": "dns"}.items()


@pytest.mark.parametrize(
    ("reason", "hint_ms", "after_s"),
    [
        (Reason.IN_FLIGHT_EXCEEDED, None, 0.0),
        (Reason.QUOTA_EXCEEDED, 5000, 5.0),
        (Reason.SCOPE_DENIED, None, None),
    ],
)
def test_what_no_time_mends_is_not_asked_again(reason: Reason, hint_ms: int | None, after_s: float | None) -> None:
    asking = client()
    pending, _ = asking.ask(["a@x.example"])
    asking.take(said("rejection", pending, reason=reason, retry_after_ms=hint_ms))
    assert pending.retry_after_s == after_s


def test_the_answer_to_a_cancel_is_the_latest_one() -> None:
    asking = client()
    pending, _ = asking.ask(["a@x.example"])
    assert asking.take(said("cancellation", pending, outcome=CancelOutcome.UNKNOWN_REQUEST)) is pending
    assert asking.take(said("cancellation", pending, outcome=CancelOutcome.ACCEPTED)) is pending
    assert pending.cancellation is not None
    assert (pending.cancellation.outcome, pending.done) == ("accepted", False)


def test_every_kind_of_record_is_read() -> None:
    kinds = {"result": Result, "rejection": Rejection, "summary": Summary, "cancellation": Cancellation}
    for name, kind in kinds.items():
        assert isinstance(read_output(SAMPLES[name].model_dump_json().encode()), kind)


def test_answers_to_cancels_always_pass_the_helper_of_consumers() -> None:
    answer = SAMPLES["cancellation"]
    assert isinstance(answer, Cancellation)
    assert list(Dedupe().fresh([answer, answer])) == [answer, answer]


def test_a_request_and_its_end_are_not_taken_for_one_another() -> None:
    with pytest.raises(ValidationError):
        Request.model_validate_json(client().cancel("r1").value, strict=True)
    with pytest.raises(ValidationError):
        Cancel.model_validate_json(client().ask(["a@x.example"])[1].value, strict=True)


# -- credentials ------------------------------------------------------------------------------------------------------


def test_credentials_are_read_from_what_the_operator_handed_over() -> None:
    key = read_credential(f"{TOKEN}\n")
    assert (key, key.tenant) == (BearerKey(TOKEN), "acme")
    signed = read_credential(f"mailvet-key-id: acme_k1\n{PEM}", audience="eu")
    assert isinstance(signed, SigningKey)
    assert (signed.tenant, signed.key_id, signed.audience) == ("acme", "acme_k1", "eu")
    assert read_credential(f"mailvet-key-id: acme_k1\n{PEM}", "acme_k2").headers("t", "r", b"")[0][1] == b"acme_k2"


@pytest.mark.parametrize("text", ["", "\n", "mv_acme_k1_0123456789abcdef_aaaaaaa", TOKEN[:-1], PEM.replace("M", "N")])
def test_what_is_no_credential_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(Malformed) as refused:
        read_credential(text, "acme_k1")
    assert not text.strip() or text not in str(refused.value)


def test_a_private_key_of_nobody_is_refused() -> None:
    with pytest.raises(Unnamed, match="key id"):
        read_credential(PEM)
    with pytest.raises(Malformed, match="form"):
        read_credential(PEM, "acme")
    with pytest.raises(Malformed):
        Client(BearerKey("nonsense"))
