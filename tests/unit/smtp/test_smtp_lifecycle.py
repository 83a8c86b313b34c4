"""States and events."""

import pytest

from schemas.vocabulary import Stage
from streams.smtp.errors import ConnectFailed, DialAttempt, DialFailure
from streams.smtp.hosts import Host
from streams.smtp.lifecycle import COUNTERS, TRANSITIONS, Event, Life, Recorder, diagram


def recorder(events: list[Event]) -> Recorder:
    return Recorder(lambda: 7.0, events.append)


@pytest.mark.parametrize("before", [None, *Life])
@pytest.mark.parametrize("after", Life)
def test_only_what_the_table_allows(before, after):
    allowed = after is Life.DIALLING if before is None else after in TRANSITIONS[before]
    events: list[Event] = []
    if allowed:
        assert recorder(events).move("p", None, before, after, "why") is after
        assert events == [Event(7.0, "p", None, before, after, "why")]
    else:
        with pytest.raises(RuntimeError, match="can't become"):
            recorder(events).move("p", None, before, after, "why")


def test_every_state_ends():
    for life in Life:
        seen, todo = set(), [life]
        while todo:
            now = todo.pop()
            seen.add(now)
            todo += set(TRANSITIONS[now]) - seen
        assert Life.CLOSED in seen


def test_counters_begin_at_zero_and_have_a_description():
    assert recorder([]).counters == dict.fromkeys(COUNTERS, 0)
    assert all(COUNTERS.values())


def test_the_diagram_has_every_transition():
    text = diagram()
    assert text.count("-->") == sum(map(len, TRANSITIONS.values())) + 2


def test_an_attempt_tells_its_story():
    attempt = DialAttempt(Host("mx", "192.0.2.1"), Stage.CONNECT, failure=DialFailure.CONNECT)
    assert str(ConnectFailed((attempt,))) == "mx [192.0.2.1]:25 at connect: connect"
