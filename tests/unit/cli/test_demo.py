"""The demo's judgement and its table; the demo itself runs in tests/integration/test_demo.py."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ops.cli import demo
from ops.cli.demo import Judged, Place
from ops.cli.errors import Unfinished
from ops.health import is_ready
from ops.world import Sample, World
from schemas.request import request_uid
from schemas.result import Evidence, Rejection, Result
from schemas.vocabulary import VERDICTS, Reason, Stage
from streams.settings import Settings

SAMPLE = Sample("alice@full.test", "full", Reason.MAILBOX_FULL, Reason.MAILBOX_FULL)
UID = request_uid("demo", "demo-40")


def said(reason: Reason, text: str | None = "[red]words[/red]\x1b[2J", index: int = 2) -> Result:
    return Result(
        request_uid=UID,
        request_id="demo-40",
        key_id="k1",
        index=index,
        total=3,
        input="alice@full.test",
        verdict=VERDICTS[reason],
        reason=reason,
        reasons=(reason,),
        score=1,
        evidence=Evidence(stage=Stage.RCPT, smtp_code=552, text=text),
        checked_at=datetime(2026, 1, 2, tzinfo=UTC),
    )


@pytest.fixture
def place() -> Place:
    world = cast(World, SimpleNamespace(resolver="127.0.0.1:5353", smtp_port=2525, network="127.0.0.0/8"))
    return Place("127.0.0.1:9092", "ns", world, 9999, "the-key", own_broker=True)


def test_a_verdict_is_right_only_with_its_reason() -> None:
    assert Judged(SAMPLE, said(Reason.MAILBOX_FULL)).right
    assert not Judged(SAMPLE, said(Reason.CATCH_ALL)).right
    assert not Judged(SAMPLE, None).right
    another_verdict = said(Reason.MAILBOX_FULL).model_copy(update={"verdict": VERDICTS[Reason.TIMEOUT]})
    assert not Judged(SAMPLE, another_verdict).right


def test_the_table_shows_hostile_words_as_they_are_and_marks_what_is_wrong(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = [Judged(SAMPLE, said(Reason.MAILBOX_FULL)), Judged(SAMPLE, said(Reason.TIMEOUT)), Judged(SAMPLE, None)]
    demo._print_table(judged, 2.0, place)
    out = capsys.readouterr().out
    assert "552 [red]words[/red]\\x1b[2J" in out
    assert out.count("✓") == 1
    assert out.count("✗") == 2
    assert "timeout (expected risky: mailbox_full)" in out
    assert "none in time" in out
    assert "1 of 3 verdicts as expected in 2.0 s (2 addresses/s); metrics were at http://127.0.0.1:9999/metrics" in out


def test_json_has_a_line_an_address_and_one_for_the_whole(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    demo._print_json([Judged(SAMPLE, said(Reason.MAILBOX_FULL)), Judged(SAMPLE, None)], 1.0, place)
    first, second, whole = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["verdict"], first["reason"], first["smtp_code"], first["right"]) == (
        "risky",
        "mailbox_full",
        552,
        True,
    )
    assert (second["verdict"], second["expected_reason"], second["right"]) == (None, "mailbox_full", False)
    assert (whole["event"], whole["right"], whole["total"]) == ("done", 1, 2)


def test_words_are_the_code_and_the_text_where_there_are_any() -> None:
    assert Judged(SAMPLE, None).words() == ""
    assert Judged(SAMPLE, said(Reason.MAILBOX_FULL, text=None)).words() == "552"


def test_results_find_their_places_and_the_first_one_stands() -> None:
    answers: dict[int, Result] = {}
    values = [b"\xff", said(Reason.TIMEOUT, index=1), said(Reason.MAILBOX_FULL, index=1)]
    stranger = said(Reason.TIMEOUT).model_copy(update={"request_uid": request_uid("other", "demo-40")})
    for value in [*values, stranger]:
        demo._take(value if isinstance(value, bytes) else value.model_dump_json().encode(), {UID: 40}, answers)
    assert {place: result.reason for place, result in answers.items()} == {41: Reason.TIMEOUT}


def test_a_rejection_ends_the_demo() -> None:
    rejection = Rejection(
        request_uid=UID,
        request_id="demo-40",
        key_id="k1",
        reason=Reason.KEY_EXPIRED,
        reasons=(Reason.KEY_EXPIRED,),
        message="too old",
        checked_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    with pytest.raises(Unfinished, match="key_expired: too old"):
        demo._take(rejection.model_dump_json().encode(), {UID: 40}, {})


def test_the_worker_gets_settings_that_it_knows_and_none_of_the_users(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILVET_MAIL_FROM", "somebody@example.com")
    environment = place.environment()
    assert environment["PATH"] == os.environ["PATH"]
    monkeypatch.setattr(os, "environ", environment)
    settings = Settings()
    assert settings.mail_from == ""
    assert (settings.bootstrap_servers, settings.namespace, settings.smtp_port) == ("127.0.0.1:9092", "ns", 2525)
    assert (settings.resolvers, settings.allowed_networks) == (("127.0.0.1:5353",), ("127.0.0.0/8",))
    assert settings.dev_key.get_secret_value() == "the-key"
    known = {f"MAILVET_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in environment if name.startswith("MAILVET_")} <= known


def test_the_key_is_shown_to_its_user_alone(place: Place) -> None:
    assert "the-key" not in repr(place)
    with demo._key_file(place.key) as path:
        assert path.read_text() == "the-key\n"
        assert path.stat().st_mode & 0o777 == 0o600
        line = demo._how_to_talk(place, path)
        assert f"--bootstrap 127.0.0.1:9092 --namespace ns --key-file {path}" in line
        assert "the-key" not in line
    assert not Path(path).exists()


def test_nobody_who_answers_is_not_ready() -> None:
    assert not is_ready(1)
