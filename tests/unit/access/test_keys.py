"""The one key of the configuration."""

import pytest

from schemas.keys import Kind
from streams.access.credentials import digest, mint
from streams.access.keys import Allowance, ConfiguredKey, Proof
from streams.access.quota import Limits
from streams.access.rate import Rate
from streams.settings import Settings

KEY = mint("acme", "k1", b"0123456789abcdef")


def test_the_configured_key_has_the_configured_limits() -> None:
    settings = Settings(dev_key=KEY, dev_daily_quota=7, dev_in_flight=5, dev_rate_per_s=3, dev_rate_burst=2)
    key = ConfiguredKey(settings).find("acme", "k1")
    assert key is not None
    assert key.known(Kind.BEARER) == (Proof(Kind.BEARER, digest(KEY)),)
    assert key.known(Kind.SIGNATURE) == ()
    assert (key.own, key.shared) == (Allowance(Rate(3, 2), Limits(daily=7, in_flight=5)), Allowance())


@pytest.mark.parametrize("name", [("acme", "k2"), ("other", "k1"), ("", "")])
def test_any_other_name_is_no_key(name: tuple[str, str]) -> None:
    assert ConfiguredKey(Settings(dev_key=KEY)).find(*name) is None


def test_without_a_key_nobody_is_admitted() -> None:
    assert ConfiguredKey(Settings(dev_key="")).find("acme", "k1") is None


def test_a_mistyped_key_is_a_mistake_of_the_configuration_and_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="MAILVET_DEV_KEY: the checksum") as refused:
        ConfiguredKey(Settings(dev_key=KEY[:-1] + "x"))
    assert KEY[:-1] not in str(refused.value)
