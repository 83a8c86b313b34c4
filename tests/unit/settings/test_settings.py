"""Settings from the environment: what commas mean, what is refused, and the page that lists them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.vocabulary import Reason
from streams.settings import Settings, document

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_is_up_to_date() -> None:
    assert document() == PAGE.read_text(), "run python -m streams.settings > docs/settings.md"


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_lists_and_pairs_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "a:1,b:2")
    monkeypatch.setenv("MAILVET_RETRY_DELAYS_S", "1, 2,3")
    monkeypatch.setenv("MAILVET_RISKY_FLAGS", "catch_all")
    monkeypatch.setenv("MAILVET_PROVIDER_SHARDS", "google=4, yahoo=2")
    settings = Settings()
    assert settings.bootstrap_servers == "a:1,b:2"
    assert settings.retry_delays_s == (1.0, 2.0, 3.0)
    assert settings.risky_flags == (Reason.CATCH_ALL,)
    assert settings.provider_shards == {"google": 4, "yahoo": 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [("SESSIONS_PER_PROVIDER", "0"), ("CONNECT_TIMEOUT_S", "-1"), ("RETRY_DELAYS_S", "1,2"), ("NAMESPACE", "a b")],
)
def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MAILVET_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_a_secret_is_never_shown() -> None:
    settings = Settings.model_validate({"dev_key": "mv_hidden"})
    assert "hidden" not in repr(settings)
    assert "hidden" not in document()
