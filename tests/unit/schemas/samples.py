"""One sample of every record, every field filled: the golden files are written from here, once a version.

``python -m tests.unit.schemas.samples`` writes them. A change of an existing file is a change of the contract.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from schemas.keys import (
    Credential,
    KeyEvent,
    KeyRecord,
    Kind,
    Outcome,
    Policy,
    Refused,
    Rotate,
    Scopes,
    Status,
    TenantRecord,
    Version,
)
from schemas.optouts import OptOut, OptOutChange
from schemas.pipeline import (
    Admitted,
    Attempt,
    AttemptEntry,
    CancelOrder,
    DeadLetter,
    Position,
    Replayed,
    Seen,
    Settlement,
    Task,
    TaskItem,
    Ticket,
)
from schemas.request import Cancel, Options, Request, request_uid
from schemas.result import (
    Cancellation,
    CancelOutcome,
    Evidence,
    Finding,
    Flags,
    PastAttempt,
    Quota,
    Rejection,
    Result,
    Summary,
    Timing,
)
from schemas.usage import Usage
from schemas.vocabulary import Depth, Lane, Reason, Stage, Verdict

GOLDEN = Path(__file__).parent / "golden"

AT = datetime(2026, 3, 10, 12, 0, 0, 250_000, tzinfo=UTC)
UID = request_uid("acme", "r1")
QUOTA = Quota(limit=1000, remaining=998, resets_at=datetime(2026, 3, 11, tzinfo=UTC))
TICKET = Ticket(
    request_uid=UID,
    request_id="r1",
    tenant="acme",
    key_id="k1",
    total=2,
    depth=Depth.SMTP,
    lane=Lane.INTERACTIVE,
    options=Options(catch_all_probe=True, retry=False),
    charged=2,
    charged_day="2026-03-10",
    quota=QUOTA,
    admitted_at=AT,
    verdict_by=datetime(2026, 3, 10, 15, tzinfo=UTC),
)
PAST = PastAttempt(
    attempt=1, reason=Reason.GREYLISTED, smtp_code=450, enhanced_code="4.7.1", text="4.7.1 Greylisted", at=AT
)
FINDING = Finding(
    normalized="jürgen@bücher.example",
    ascii_address=None,
    domain="xn--bcher-kva.example",
    suggestion=None,
    verdict=Verdict.RISKY,
    reason=Reason.CATCH_ALL,
    reasons=(Reason.CATCH_ALL, Reason.MAILBOX_ACCEPTED),
    score=60,
    flags=Flags(catch_all=True, role=False, free=False, disposable=False, alias=False, smtputf8=True),
    retryable=False,
    attempt=2,
    evidence=Evidence(
        stage=Stage.RCPT,
        mx_host="mx.example.net",
        mx_address="192.0.2.1",
        provider="example.net",
        smtp_code=250,
        enhanced_code="2.1.5",
        text="2.1.5 Ok",
        rule="accepted",
        catch_all_probe="250 2.1.5 Ok",
    ),
    attempts=(PAST,),
    timing=Timing(queued_ms=1, dns_ms=2, smtp_ms=3),
    checked_at=AT,
)
POSITIONS = (Position(index=0, input="Jürgen@Bücher.example"), Position(index=1, input="jürgen@bücher.example"))

SIGNATURE = Credential(kind=Kind.SIGNATURE, proof="ab" * 32)
KEY = KeyRecord(
    tenant="acme",
    key="k1",
    status=Status.REVOKED,
    revision=3,
    policy=Policy(rate_per_s=2.5, burst=3, daily=4, monthly=5, in_flight=6, max_addresses=7),
    scopes=Scopes(depths=frozenset({Depth.DNS, Depth.SYNTAX}), lanes=frozenset(Lane), options=frozenset({"retry"})),
    not_before=AT,
    expires_at=datetime(2027, 3, 10, tzinfo=UTC),
    versions=(
        Version(
            number=1,
            credential=Credential(kind=Kind.BEARER, proof="cd" * 32),
            created_at=AT,
            starts_at=AT,
            ends_at=AT,
        ),
        Version(number=2, credential=SIGNATURE, created_at=AT, starts_at=AT),
    ),
    minted=2,
    created_at=AT,
    rotated_at=AT,
    changed_at=AT,
)
TENANT = TenantRecord(
    tenant="acme",
    revision=2,
    limits=Policy(daily=100),
    policies={"small": Policy(rate_per_s=1)},
    suspended="harvesting",
    commanded_at=AT,
    allowed=("example.com",),
)

SAMPLES: dict[str, BaseModel] = {
    "request": Request(
        request_id="r1",
        addresses=("Jürgen@Bücher.example", "a\u0000b@example.com"),
        depth=Depth.DNS,
        lane=Lane.BULK,
        verdict_by=AT,
        options=Options(catch_all_probe=False, retry=False),
    ),
    "admitted": Admitted(ticket=TICKET, addresses=tuple(position.input for position in POSITIONS)),
    "task": Task(
        ticket=TICKET,
        provider="example.net",
        shard=1,
        items=(TaskItem(positions=POSITIONS, address="jürgen@xn--bcher-kva.example", past=(PAST,)),),
        attempt=2,
        hops=1,
        created_at=AT,
    ),
    "attempt": Attempt(
        ticket=TICKET, origin="probe", entries=(AttemptEntry(positions=POSITIONS, final=True, finding=FINDING),)
    ),
    "result": Result(
        **dict(FINDING), request_uid=UID, request_id="r1", key_id="k1", index=0, total=2, input=POSITIONS[0].input
    ),
    "rejection": Rejection(
        request_uid=UID,
        request_id="r1",
        key_id="k1",
        total=2,
        reason=Reason.RATE_EXCEEDED,
        reasons=(Reason.RATE_EXCEEDED,),
        message="more requests a second than this key may send",
        retry_after_ms=250,
        checked_at=AT,
    ),
    "summary": Summary(
        request_uid=UID,
        request_id="r1",
        key_id="k1",
        total=2,
        verdicts={Verdict.RISKY: 2},
        reasons={Reason.CATCH_ALL: 2},
        charged=2,
        given_back=1,
        quota=QUOTA,
        admitted_at=AT,
        finished_at=AT,
    ),
    "cancellation": Cancellation(
        request_uid=UID,
        request_id="r1",
        key_id="k1",
        outcome=CancelOutcome.REFUSED,
        reason=Reason.KEY_REVOKED,
        message="this key is revoked, for good: ask for another one",
        at=AT,
    ),
    "cancel": Cancel(request_id="r1"),
    "cancel_order": CancelOrder(request_uid=UID, verdict_by=AT, by="k1"),
    "settlement": Settlement(
        request_uid=UID,
        tenant="acme",
        key_id="k1",
        charged=2,
        charged_day="2026-03-10",
        given_back=1,
        finished_at=AT,
        verdicts={Verdict.DELIVERABLE: 1, Verdict.UNKNOWN: 1},
        seen={"example.com": Seen(unknown=(1, 2), found=(3,), counted=())},
    ),
    "usage": Usage(
        tenant="acme",
        key="k1",
        day="2026-03-10",
        revision=3,
        requests=1,
        addresses=2,
        refused={Reason.RATE_EXCEEDED: 1},
        settled=1,
        verdicts={Verdict.DELIVERABLE: 1, Verdict.UNKNOWN: 1},
        given_back=1,
        seconds=0.25,
        latency=(0, 1, *(0,) * 12),
    ),
    "opt_out": OptOut(
        domain="example.org",
        changes=(OptOutChange(listed=True, actor="ops", why="asked by mail", at=AT),),
    ),
    "key_command": Rotate(
        command_id="0" * 32,
        tenant="acme",
        key="k1",
        issued_at=AT,
        actor="ann@example.com",
        why="yearly",
        credential=SIGNATURE,
        grace_s=86_400,
        starts_at=AT,
    ),
    "key_event": KeyEvent(
        command_id="0" * 32,
        verb="rotate",
        tenant="acme",
        key="k1",
        actor="ann@example.com",
        why="yearly",
        issued_at=AT,
        at=AT,
        outcome=Outcome.REFUSED,
        refused=Refused.KEY_REVOKED,
        message="the key is revoked, which is for good: create another one",
        key_record=KEY,
        tenant_record=TENANT,
    ),
    "key_record": KEY,
    "tenant_record": TENANT,
    "dead_letter": DeadLetter(
        reason="invalid",
        detail="addresses: too_short",
        topic="mailvet.requests.v1",
        partition=3,
        offset=7,
        timestamp_ms=1_773_144_000_250,
        role="gate",
        size=42,
        sha256="0" * 64,
        at=AT,
    ),
    "replayed": Replayed(partition=3, offset=17, topic="mailvet.attempts.v1", replays=1, at=AT),
}

if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, record in SAMPLES.items():
        (GOLDEN / f"{name}.json").write_text(record.model_dump_json(), encoding="utf-8")
