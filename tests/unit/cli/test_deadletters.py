"""Dead letters without a broker: which are meant, which may go back, and what of them is shown."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from ops.access.rights import ROLES
from ops.cli import letterbox
from ops.cli.errors import Unfinished
from ops.cli.letterbox import Letterbox, Span
from ops.deadletters import (
    MAX_REPLAYS,
    ORIGINS,
    Filter,
    Letter,
    full_topic,
    marker_of,
    moment,
    redacted,
    refusal,
    replay_of,
    shown,
    shown_headers,
    summary,
)
from schemas.topics import ADMISSIONS_BULK, DEADLETTERS, REQUESTS, RESULTS, TASKS_BULK
from streams.access.credentials import mint
from streams.delivery.dead_letters import HEADER, REPLAY_ORIGIN, REPLAYED, REPLAYS, dead_letter
from streams.records import Incoming, Outgoing, Unusable

AT = datetime(2026, 3, 10, 12, tzinfo=UTC)
NOW_MS = round(AT.timestamp() * 1000)
KEPT = timedelta(days=4)


def letter(
    reason: str = "internal_error",
    *,
    topic: str = TASKS_BULK.name,
    value: bytes = b"value",
    key: bytes | None = b"k",
    headers: Mapping[str, bytes] | None = None,
    age: timedelta = timedelta(hours=1),
) -> Letter:
    """A dead letter as it is read."""
    timestamp_ms = NOW_MS - round(age.total_seconds() * 1000)
    record = Incoming(topic, 2, 9, key, value, headers or {}, timestamp_ms=timestamp_ms)
    return read(dead_letter(record, Unusable(reason, "why"), role="probe", at=AT))


def read(written: Outgoing, partition: int = 3, offset: int = 17) -> Letter:
    return Letter(partition, offset, NOW_MS, written.key, written.value, written.headers)


def why(each: Letter, *, force: bool = False) -> str | None:
    return refusal(each, now_ms=NOW_MS, decisions_kept=KEPT, force=force)


# -- going back ------------------------------------------------------------------------------------------------------


def test_a_replay_is_the_record_with_its_origin() -> None:
    sent = replay_of(letter(headers={"trace": b"t"}))
    assert (sent.topic, sent.key, sent.value) == (TASKS_BULK.name, b"k", b"value")
    assert sent.headers == ((REPLAYS, b"1"), (REPLAY_ORIGIN, f"{TASKS_BULK.name}/2/9".encode()), ("trace", b"t"))


def test_a_replay_that_fails_again_counts_on_and_keeps_the_first_origin() -> None:
    first = replay_of(letter())
    failed = Incoming(first.topic, 2, 500, first.key, first.value, dict(first.headers), timestamp_ms=NOW_MS)
    again = read(dead_letter(failed, Unusable("invalid", "why"), role="probe", at=AT))
    assert again.replays == 1
    assert dict(replay_of(again).headers) == {REPLAYS: b"2", REPLAY_ORIGIN: f"{TASKS_BULK.name}/2/9".encode()}
    assert "--force" in str(why(again))
    assert why(again, force=True) is None


def test_nobody_insists_for_ever() -> None:
    worn = letter(headers={REPLAYS: b"%d" % MAX_REPLAYS})
    assert "mend what it failed of" in str(why(worn, force=True))


@pytest.mark.parametrize("count", [b"", b"-1", b"many", b"1e3", b"99999999999999999999"])
def test_a_count_that_is_none_is_as_many_as_may_be(count: bytes) -> None:
    assert letter(headers={REPLAYS: count}).replays == MAX_REPLAYS


@pytest.mark.parametrize(
    ("each", "sentence"),
    [
        (letter("not_authenticated", topic=REQUESTS.name), "nobody but its client"),
        (letter("invalid", topic=REQUESTS.name, headers={"mailvet-key": b"mv_x"}), "nobody but its client"),
        (letter(topic=ADMISSIONS_BULK.name, headers={"mailvet-key-sha256": b"00"}), "nobody but its client"),
        (letter(value=b"x" * 600_000), "only its beginning was kept"),
        (letter("too_large"), "in smaller requests"),
        (letter(key=b"k" * 5000), "may have been cut"),
        (letter(age=KEPT), "older than decisions are kept"),
        (letter(topic=RESULTS.name), "topic that a role reads"),
        (letter(topic="somebody.elses"), "topic that a role reads"),
        (replace(letter(), value=b"other"), "aren't those that failed"),
        (replace(letter(), headers=((HEADER, b"{}"),)), "isn't one of mailvet's"),
        (replace(letter(), headers=()), "isn't one of mailvet's"),
    ],
)
def test_what_must_not_go_back_is_refused_with_a_sentence(each: Letter, sentence: str) -> None:
    assert sentence in str(why(each, force=True))


def test_what_may_go_back_does() -> None:
    assert why(letter()) is None
    assert why(letter(topic=REQUESTS.name)) is None
    # What stands in a header of a task is no credential that anybody asks for.
    assert why(letter(headers={"x-token": b"secret"})) is None


def test_the_word_of_a_replay_is_no_dead_letter() -> None:
    marked = marker_of(letter(), NOW_MS)
    assert (marked.topic, marked.key, marked.value, [name for name, _ in marked.headers]) == (
        DEADLETTERS.name,
        b"k",
        b"",
        [REPLAYED],
    )
    word = read(marked, offset=18).replayed
    assert word is not None
    assert (word.partition, word.offset, word.topic, word.replays) == (3, 17, TASKS_BULK.name, 1)
    assert read(marked).about is None
    assert letter().replayed is None


# -- which are meant -------------------------------------------------------------------------------------------------


def test_filters_ask_for_what_they_name() -> None:
    each = letter()
    for wanted in (
        Filter(),
        Filter(reasons=("invalid", "internal_error"), roles=("probe",), topics=(TASKS_BULK.name,), key="k"),
        Filter(names=("3-17",), since_ms=NOW_MS, until_ms=NOW_MS + 1),
    ):
        assert each in wanted
    for wanted in (
        Filter(reasons=("invalid",)),
        Filter(roles=("gate",)),
        Filter(topics=(RESULTS.name,)),
        Filter(key="K"),
        Filter(names=("3-18",)),
        Filter(since_ms=NOW_MS + 1),
        Filter(until_ms=NOW_MS),
    ):
        assert each not in wanted
    stranger = replace(each, headers=(), key=None)
    assert stranger in Filter()
    assert stranger not in Filter(reasons=("invalid",))
    assert stranger not in Filter(key="-")


def test_a_key_is_found_as_it_is_listed() -> None:
    assert letter(key=b"\xff\x1b") in Filter(key="\\xff\\x1b")


def test_topics_have_short_names() -> None:
    assert [full_topic(each) for each in ("tasks.bulk", TASKS_BULK.name, "nonsense")] == [
        TASKS_BULK.name,
        TASKS_BULK.name,
        "nonsense",
    ]


def test_moments() -> None:
    assert moment("2h", AT) == NOW_MS - 7_200_000
    assert moment("2026-03-10", AT) == NOW_MS - 12 * 3_600_000
    assert moment("2026-03-10T13:00:00+01:00", AT) == NOW_MS
    for wrong in ("", "yesterday", "1w", "-1h", "2026-13-01"):
        with pytest.raises(ValueError, match=r".*"):
            moment(wrong, AT)


# -- what is shown ---------------------------------------------------------------------------------------------------


@given(st.binary(max_size=60), st.binary(min_size=10, max_size=20), st.binary(max_size=60))
def test_no_key_is_ever_shown(before: bytes, secret: bytes, after: bytes) -> None:
    token = mint("acme", "k1", secret * 2)
    hidden = token.rsplit("_", 2)[1]
    assert hidden not in shown(before + token.encode() + after, 10_000)
    assert hidden not in shown(token[:-12].encode(), 10_000), "a key that was cut off is a key"


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b'{"password": "a\\"b", "x": "y"}', b'{"password": "[redacted]", "x": "y"}'),
        (b'{"api_key":"abc', b'{"api_key":"[redacted]"'),
        (b'{"Client-Secret" : "", "n": 1}', b'{"Client-Secret" : "[redacted]", "n": 1}'),
        (b"Authorization: Bearer abc.def-_~+/=", b"Authorization: Bearer [redacted]"),
        (b"basic dXNlcg==", b"basic [redacted]"),
        (b'{"addresses": ["a@b.test"]}', b'{"addresses": ["a@b.test"]}'),
    ],
)
def test_what_looks_like_a_credential_is_not_shown(raw: bytes, kept: bytes) -> None:
    assert redacted(raw) == kept


@given(st.binary(max_size=300), st.integers(0, 100))
def test_what_is_shown_is_printable_and_bounded(raw: bytes, limit: int) -> None:
    text = shown(raw, limit + 1)
    assert text.isprintable()
    assert len(text) <= limit + 1


def test_headers_are_shown_without_secrets_and_without_ours() -> None:
    headers = (*letter().headers, ("x-token", b"s3cret"), ("\x1b[2J", b"mv_acme_k1_abc"), ("n", b"\x00"))
    found = shown_headers(headers)
    assert found == [("x-token", "[redacted]"), ("\\x1b[2J", "[redacted]"), ("n", "\\x00")]


def test_a_summary_is_there_for_what_nobody_of_ours_wrote() -> None:
    assert summary(replace(letter(), headers=()))["reason"] is None
    assert summary(letter())["first_origin"] == f"{TASKS_BULK.name}/2/9"


# -- reading ---------------------------------------------------------------------------------------------------------


class Broker:
    """A consumer of one partition; gives ``give`` records and then nothing."""

    def __init__(self, give: int, *, silent: bool = False) -> None:
        self._left, self._at, self._silent = give, 0, silent

    def assign(self, *_: object) -> None:
        pass

    seek = pause = assign

    async def getmany(self, place: TopicPartition, **_: object) -> dict[TopicPartition, list[Any]]:
        if self._silent:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if not self._left:
            return {}
        self._left, self._at = self._left - 1, self._at + 1
        message = SimpleNamespace(
            partition=0, offset=self._at - 1, timestamp=NOW_MS, key=None, value=None, headers=[("n", None)]
        )
        return {place: [message]}

    async def position(self, _: TopicPartition) -> int:
        return self._at


@pytest.mark.parametrize(("broker", "sentence"), [(Broker(2), "gave nothing"), (Broker(0, silent=True), "not answer")])
async def test_a_broker_that_falls_silent_is_not_waited_for(
    broker: Broker, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letterbox, "QUIET_S", 0.05)
    with pytest.raises(Unfinished, match=sentence):
        await offsets(broker)


async def test_reading_ends_where_it_should() -> None:
    assert await offsets(Broker(9)) == [0, 1, 2, 3, 4]


async def offsets(broker: Broker) -> list[int]:
    """Of what is read of a span of five records."""
    box = Letterbox(cast(Any, broker), "")
    return [each.offset async for each in box.read(Span("t", {0: 0}, {0: 5}, {0: 9}))]


def test_a_replay_writes_only_what_roles_read() -> None:
    assert set(ORIGINS) == {topic.name for rights in ROLES.values() for topic in rights.reads}
