"""From evidence to verdict: the rules of the vocabulary, each with the evidence that must give it."""

from datetime import UTC, datetime

import pytest

from schemas.result import PastAttempt, Timing
from schemas.vocabulary import RETRYABLE, VERDICTS, Depth, Reason, Stage, Verdict
from streams.checks.classify import Circumstances, classify, meaning, score_of
from streams.checks.evidence import Failure, Prepared, Probe
from streams.checks.reply_rules import parse_reply
from streams.dns.answers import MailHost, MailRoute, RouteKind
from streams.smtp.replies import Reply

NOW = datetime(2024, 5, 1, tzinfo=UTC)
ALICE = Prepared(
    "alice@example.org", "alice@example.org", "alice@example.org", "alice@example.org", "alice", "example.org"
)
INFO = ALICE._replace(input="info@example.org", address="info@example.org", local="info", role=True)
ROUTE = MailRoute("example.org", RouteKind.MX, (MailHost("mx.example.org", 10, ("192.0.2.5",)),), elapsed_ms=7)
RISKY = frozenset({Reason.CATCH_ALL, Reason.ROLE_ACCOUNT, Reason.DISPOSABLE})


def probe(text: str = "", stage: Stage = Stage.RCPT, **fields) -> Probe:
    return Probe(stage, parse_reply(text) if text else None, **fields)


def find(prepared=ALICE, asked=None, route=ROUTE, past=(), **options):
    settings = {"provider": "example", "depth": Depth.SMTP, "risky": RISKY, "now": NOW}
    return classify(prepared, asked, Circumstances(route, **(settings | options)), past)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("250 2.1.5 Ok", "mailbox_accepted"),
        ("550 5.1.1 User unknown", "mailbox_not_found"),
        ("550 5.2.1 Mailbox disabled", "mailbox_disabled"),
        ("552 5.2.2 Over quota", "mailbox_full"),
        ("452 4.2.2 Over quota", "mailbox_full"),
        ("452 4.3.1 Insufficient system storage", "server_temporary"),
        ("450 4.1.1 user unknown", "server_temporary"),
        ("450 4.2.0 Greylisted", "greylisted"),
        ("421 4.7.0 too many connections", "rate_limited"),
        ("550 5.7.1 Client host [192.0.2.1] blocked", "sender_blocked"),
        ("550 5.1.8 Sender address rejected: Domain not found", "sender_blocked"),
        ("554 5.7.1 <alice@example.org>: Relay access denied", "verification_refused"),
        ("503 5.5.1 Error: need MAIL command", "protocol_error"),
    ],
)
def test_the_reply_decides(text, reason):
    finding = find(asked=probe(text))
    assert (finding.reason, finding.reasons, finding.verdict) == (reason, (reason,), VERDICTS[reason])
    assert finding.retryable == (reason in RETRYABLE)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (RouteKind.NULL_MX, "null_mx"),
        (RouteKind.NOT_FOUND, "domain_not_found"),
        (RouteKind.UNROUTABLE, "mx_unroutable"),
        (RouteKind.TEMPORARY, "dns_temporary"),
    ],
)
@pytest.mark.parametrize("depth", [Depth.DNS, Depth.SMTP])
def test_dns_decides_where_there_is_nobody_to_ask(kind, reason, depth):
    finding = find(route=MailRoute("example.org", kind, detail="it said\x07 so", cached=True), depth=depth)
    assert finding.reason == reason
    evidence = finding.evidence
    assert (evidence.stage, evidence.text, evidence.cached, evidence.mx_host) == (Stage.DNS, "it said  so", True, None)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Failure.CONNECT, "connect_failed"),
        (Failure.TIMEOUT, "timeout"),
        (Failure.CLOSED, "protocol_error"),
        (Failure.PROTOCOL, "protocol_error"),
        (Failure.TLS, "connect_failed"),
        (Failure.UTF8_UNSUPPORTED, "utf8_unsupported"),
        (Failure.UNADDRESSABLE, "syntax_invalid"),
        (Failure.INTERNAL, "internal_error"),
        (None, "internal_error"),
    ],
)
def test_a_failure_in_place_of_a_reply(failure, reason):
    finding = find(asked=probe(failure=failure, detail="no answer", mx_host="mx.example.org"))
    assert finding.reason == reason
    assert (finding.evidence.text, finding.evidence.rule, finding.evidence.smtp_code) == ("no answer", None, None)


def test_our_failures_are_never_a_verdict_on_the_address():
    ours = (Failure.CONNECT, Failure.TIMEOUT, Failure.CLOSED, Failure.PROTOCOL, Failure.TLS, Failure.INTERNAL)
    assert {find(asked=probe(failure=failure)).verdict for failure in ours} == {Verdict.UNKNOWN}


def test_syntax_comes_first():
    broken = Prepared("no\x1b at sign", syntax_error="there is no @\x1b in it")
    finding = find(broken, probe("250 Ok"), depth=Depth.SYNTAX)
    assert (finding.verdict, finding.reason) == ("undeliverable", "syntax_invalid")
    assert (finding.evidence.stage, finding.evidence.text) == (Stage.SYNTAX, "there is no @  in it")
    assert (finding.domain, finding.score, finding.flags.role) == (None, 0, None)


@pytest.mark.parametrize(
    ("depth", "route", "stage"),
    [
        (Depth.SYNTAX, None, "syntax"),
        (Depth.SYNTAX, ROUTE, "syntax"),
        (Depth.DNS, None, "syntax"),
        (Depth.DNS, ROUTE, "dns"),
        (Depth.SMTP, ROUTE, "dns"),
    ],
)
def test_what_was_not_asked_is_unknown(depth, route, stage):
    finding = find(route=route, depth=depth)
    assert (finding.verdict, finding.reason, finding.retryable) == ("unknown", "not_probed", False)
    assert finding.evidence.stage == stage


def test_a_flag_decides_where_nothing_was_probed():
    assert find(INFO, depth=Depth.DNS).reasons == ("role_account", "not_probed")
    assert find(INFO, depth=Depth.DNS, risky=frozenset()).reasons == ("not_probed", "role_account")


def test_a_domain_that_opted_out_is_not_asked():
    finding = find(INFO, opted_out=True)
    assert (finding.reasons, finding.verdict) == (("do_not_probe", "role_account"), "unknown")


@pytest.mark.parametrize("text", ["550 5.1.1 User unknown", "452 4.2.2 full", "451 4.3.0 later"])
def test_hard_evidence_outranks_flags(text):
    finding = find(INFO._replace(disposable=True, suggestion="info@example.com"), probe(text, catch_all=False))
    assert finding.reasons[1:] == ("disposable", "role_account", "typo_suspected")
    assert finding.reason not in RISKY


def test_what_the_server_showed_goes_before_what_lists_believe():
    finding = find(INFO._replace(disposable=True), probe("250 Ok", catch_all=True))
    assert finding.reasons == ("catch_all", "disposable", "role_account", "mailbox_accepted")
    assert finding.verdict == "risky"


def test_which_flag_makes_an_address_risky_is_the_operators():
    accepted = probe("250 Ok", catch_all=True)
    finding = find(INFO, accepted, risky=frozenset({Reason.ROLE_ACCOUNT}))
    assert finding.reasons == ("role_account", "catch_all", "mailbox_accepted")
    finding = find(INFO, accepted, risky=frozenset())
    assert (finding.verdict, finding.reasons) == ("deliverable", ("mailbox_accepted", "catch_all", "role_account"))
    typo = ALICE._replace(suggestion="alice@example.com")
    assert find(typo, probe("250 Ok")).reasons == ("mailbox_accepted", "typo_suspected")
    assert find(typo, probe("250 Ok"), risky=frozenset({Reason.TYPO_SUSPECTED})).verdict == "risky"


def test_a_250_of_a_provider_that_hides_mailboxes_says_nothing():
    finding = find(INFO, probe("250 Ok", catch_all=False), hides_mailboxes=True)
    assert (finding.verdict, finding.reasons) == ("unknown", ("verification_refused", "role_account"))
    assert finding.flags.disabled is None
    assert find(asked=probe("550 5.1.1 no"), hides_mailboxes=True).reason == "mailbox_not_found"


@pytest.mark.parametrize("catch_all", [True, False, None])
def test_a_catch_all_probe_that_failed_is_null(catch_all):
    assert find(asked=probe("250 Ok", catch_all=catch_all)).flags.catch_all is catch_all
    assert find(depth=Depth.DNS).flags.catch_all is None


@pytest.mark.parametrize(
    ("text", "catch_all", "full", "disabled"),
    [
        ("250 Ok", False, False, False),
        ("250 Ok", None, None, None),
        ("250 Ok", True, None, None),
        ("552 5.2.2 full", None, True, None),
        ("550 5.2.1 disabled", None, None, True),
        ("450 4.2.0 later", False, None, None),
    ],
)
def test_flags_say_only_what_was_learned(text, catch_all, full, disabled):
    flags = find(asked=probe(text, catch_all=catch_all)).flags
    assert (flags.mailbox_full, flags.disabled) == (full, disabled)


def test_flags_of_the_lists_are_passed_on():
    flags = find(ALICE._replace(free=True, alias=True, smtputf8=True)).flags
    assert (flags.free, flags.alias, flags.smtputf8, flags.role, flags.disposable) == (True, True, True, False, False)


def test_the_evidence_says_how_it_was_found():
    asked = probe(
        "550-5.1.1 No\x1b[31m such\n550 5.1.1 user " + "x" * 600,
        mx_host="mx.example.org",
        mx_address="192.0.2.5",
        catch_all=False,
        catch_all_reply=Reply(550, ("5.1.1 nor this\x07",)),
        cached=True,
    )
    evidence = find(asked=asked).evidence
    assert (evidence.mx_host, evidence.mx_address, evidence.provider) == ("mx.example.org", "192.0.2.5", "example")
    assert (evidence.stage, evidence.smtp_code, evidence.enhanced_code) == (Stage.RCPT, 550, "5.1.1")
    assert (evidence.rule, evidence.catch_all_probe, evidence.cached) == ("recipient-code", "550 5.1.1 nor this", True)
    assert evidence.text.startswith("5.1.1 No [31m such 5.1.1 user x")
    assert len(evidence.text.encode()) == 512


def test_the_provider_that_was_asked_is_the_one_named():
    assert find(asked=probe("250 Ok", provider="backup")).evidence.provider == "backup"


def test_times_attempts_and_names_are_passed_on():
    earlier = PastAttempt(attempt=1, reason=Reason.GREYLISTED, at=NOW)
    finding = find(asked=probe("250 Ok", queued_ms=3, smtp_ms=5), attempt=2, past=[earlier])
    assert finding.timing == Timing(queued_ms=3, dns_ms=7, smtp_ms=5)
    assert (finding.attempt, finding.attempts, finding.checked_at) == (2, (earlier,), NOW)
    assert (finding.normalized, finding.ascii_address, finding.domain) == (
        ALICE.normalized,
        ALICE.address,
        "example.org",
    )
    assert find(route=None).timing == Timing()


def test_the_meaning_of_a_probe_has_the_servers_hint():
    assert meaning(probe("450 4.2.0 Greylisted, try again in 5 minutes")).retry_after_s == 300
    assert meaning(probe(failure=Failure.TIMEOUT)) is None


@pytest.mark.parametrize(
    ("reasons", "score"),
    [
        (("mailbox_accepted",), 100),
        (("mailbox_accepted", "role_account"), 80),
        (("role_account", "mailbox_accepted"), 80),
        (("catch_all", "mailbox_accepted"), 60),
        (("catch_all", "disposable", "role_account", "mailbox_accepted"), 1),
        (("mailbox_full",), 25),
        (("timeout",), 40),
        (("timeout", "role_account"), 20),
        (("mailbox_not_found", "role_account"), 0),
    ],
)
def test_the_score(reasons, score):
    assert score_of(tuple(map(Reason, reasons))) == score
