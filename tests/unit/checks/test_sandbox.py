"""Every reason on demand, without any network."""

from datetime import UTC, datetime

import pytest

from schemas.vocabulary import RETRYABLE, VERDICTS, Reason, Verdict
from streams.checks.lists import Lists
from streams.checks.precheck import Precheck
from streams.checks.sandbox import REASONS, SANDBOX_DOMAIN, finding, is_sandbox

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PREPARE = Precheck(Lists(frozenset(), frozenset(), frozenset()))

ADDRESS_REASONS = [reason for reason, verdict in VERDICTS.items() if verdict is not Verdict.REJECTED]


@pytest.mark.parametrize("reason", ADDRESS_REASONS)
def test_each_reason_has_its_address(reason: Reason) -> None:
    prepared = PREPARE(f"{reason.replace('_', '-')}@{SANDBOX_DOMAIN}")
    found = finding(prepared, NOW)
    assert found is not None
    assert (found.verdict, found.reason, found.reasons) == (VERDICTS[reason], reason, (reason,))
    assert (found.domain, found.normalized, found.checked_at) == (SANDBOX_DOMAIN, prepared.normalized, NOW)
    assert "sandbox" in (found.evidence.text or "")
    assert finding(prepared, NOW) == found


@pytest.mark.parametrize("reason", sorted(RETRYABLE))
def test_nothing_is_retried(reason: Reason) -> None:
    found = finding(PREPARE(f"{reason.replace('_', '-')}@{SANDBOX_DOMAIN}"), NOW)
    assert found is not None
    assert (found.retryable, found.attempt, found.next_attempt_at) == (False, 1, None)


def test_flags_agree_with_the_reason() -> None:
    def flag(reason: Reason) -> dict[str, bool]:
        found = finding(PREPARE(f"{reason.replace('_', '-')}@{SANDBOX_DOMAIN}"), NOW)
        assert found is not None
        return found.flags.model_dump(exclude_none=True)

    assert flag(Reason.MAILBOX_FULL) == {"mailbox_full": True}
    assert flag(Reason.MAILBOX_DISABLED) == {"disabled": True}
    assert flag(Reason.CATCH_ALL) == {"catch_all": True}
    assert flag(Reason.ROLE_ACCOUNT) == {"role": True}
    assert flag(Reason.DISPOSABLE) == {"disposable": True}
    assert flag(Reason.TIMEOUT) == {}


@pytest.mark.parametrize("local", ["nobody", "quota-exceeded", "mailbox_full", '"a b"'])
def test_any_other_mailbox_does_not_exist(local: str) -> None:
    found = finding(PREPARE(f"{local}@{SANDBOX_DOMAIN}"), NOW)
    assert found is not None
    assert found.reason is Reason.MAILBOX_NOT_FOUND


def test_case_makes_no_difference() -> None:
    found = finding(PREPARE(f"Mailbox-FULL@{SANDBOX_DOMAIN.upper()}"), NOW)
    assert found is not None
    assert found.reason is Reason.MAILBOX_FULL


@pytest.mark.parametrize("address", ["mailbox-full@example.com", f"mailbox-full@x.{SANDBOX_DOMAIN}", "nonsense"])
def test_other_domains_are_none_of_its_business(address: str) -> None:
    assert not is_sandbox(PREPARE(address))
    assert finding(PREPARE(address), NOW) is None


def test_no_reason_of_a_request_is_answered() -> None:
    assert set(REASONS.values()) == set(ADDRESS_REASONS)
