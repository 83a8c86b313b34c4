"""Who guesses names is told from who cleans a list, in bounded rows, whatever is read again."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.pipeline import Seen
from streams.access import abuse
from streams.access.abuse import KEPT, WHOLE, Bounds, Watch

BOUNDS = Bounds(unknown=500, part=0.8, window_ms=7 * 86_400_000)
DOMAIN = "victim.example"


def names(count: int, seed: int = 0) -> list[str]:
    """Names that no counting makes."""
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=12)) for _ in range(count)]


def asked(row: Watch | None, unknown: list[str], found: list[str], at_ms: int = 0, domain: str = DOMAIN) -> Watch:
    """Requests of a hundred, as completion tells of them."""
    mixed = [(name, True) for name in unknown] + [(name, False) for name in found]
    random.Random(1).shuffle(mixed)
    for first in range(0, max(len(mixed), 1), 100):
        piece = mixed[first : first + 100]
        seen = abuse.seen_in(
            domain,
            unknown=[name for name, gone in piece if gone],
            found=[name for name, gone in piece if not gone],
        )
        row = abuse.watched(row, seen, at_ms, BOUNDS)
    assert row is not None
    return row


def alarm(row: Watch, domain: str = DOMAIN) -> str | None:
    found = abuse.judged(row, "settlements-0-1", domain, BOUNDS)
    return None if found is None else found.why


@pytest.mark.parametrize("seed", range(5))
def test_a_tenant_that_guesses_names_is_noticed(seed: int) -> None:
    why = alarm(asked(None, names(1000, seed), names(50, seed + 100)))
    assert why is not None
    assert why.startswith("about ")
    assert f"mailboxes of {DOMAIN} were asked for that do not exist" in why
    assert "only counting" not in why


@pytest.mark.parametrize(("unknown", "found"), [(20_000, 80_000), (3_000, 2_000), (250, 0), (0, 0), (0, 5000)])
def test_a_tenant_that_cleans_a_list_is_not_however_large_or_old_the_list(unknown: int, found: int) -> None:
    assert alarm(asked(None, names(unknown), names(found, 7))) is None


def test_a_list_that_is_cleaned_every_day_counts_once() -> None:
    row = None
    for day in range(6):
        row = asked(row, names(300), [], at_ms=day * 86_400_000)
    assert row is not None
    assert abuse.distinct(row.seen.unknown) < 450
    assert alarm(row) is None


@pytest.mark.parametrize(
    "guesses",
    [
        [f"info{number}" for number in range(200)],
        [f"a{first}{second}" for first in "abcdefgh" for second in "abcdefghijklmnopqrstuvwxyz"],
    ],
)
def test_names_that_only_counting_makes_are_noticed_earlier(guesses: list[str]) -> None:
    why = alarm(asked(None, guesses, []))
    assert why is not None
    assert "of them names that only counting makes" in why


def test_numbered_people_that_exist_are_no_family() -> None:
    """A university's list: numbers for names, most of which are students'."""
    students = [f"s{number:06}" for number in range(3000)]
    assert alarm(asked(None, students[:900], students[900:])) is None


def test_families() -> None:
    assert abuse.families([f"john{number}" for number in range(9)]) == set()
    assert len(abuse.families([*(f"john{number}" for number in range(10)), "mary1"])) == 10
    assert len(abuse.families(f"ab{letter}" for letter in "abcdefghij")) == 10
    assert abuse.families(["ab", "abc", "abcd"] * 10) == set()


def test_after_an_alarm_twice_as_much_has_to_come_together() -> None:
    row = asked(None, names(800), [])
    found = abuse.judged(row, "settlements-0-1", DOMAIN, BOUNDS)
    assert found is not None
    assert found.level == 1
    again = row.model_copy(update={"level": found.level})
    assert alarm(again) is None
    assert alarm(asked(again, names(2000, 3), [])) is not None


@pytest.mark.parametrize(("load", "level"), [(0, 0), (499, 0), (500, 1), (999, 1), (1000, 2), (2000, 3), (500_000, 10)])
def test_levels_double(load: int, level: int) -> None:
    assert abuse._level(load, 500) == level


def test_a_new_window_begins_at_nothing_and_keeps_the_last_alarm() -> None:
    row = asked(None, names(1000), [])
    found = abuse.judged(row, "settlements-0-1", DOMAIN, BOUNDS)
    row = row.model_copy(update={"alarm": found, "level": 3})
    assert abuse.watched(row, Seen(), BOUNDS.window_ms - 1, BOUNDS) == row
    fresh = abuse.watched(row, Seen(unknown=(1,)), BOUNDS.window_ms, BOUNDS)
    assert fresh == Watch(since_ms=BOUNDS.window_ms, seen=Seen(unknown=(1,)), alarm=found)


def test_all_domains_together_have_a_limit_ten_times_as_high() -> None:
    few = asked(None, names(3000), [], domain="a.example")
    many = asked(None, names(9000), [], domain="a.example")
    assert (alarm(few, WHOLE) is None, alarm(many, WHOLE) is None) == (True, False)
    assert "all domains together" in (alarm(many, WHOLE) or "")


def test_the_sentence_fits_the_audit_trail() -> None:
    domain = ".".join(["a" * 60] * 4)
    assert len(alarm(asked(None, [f"x{number}" for number in range(2000)], [], domain=domain), domain) or "") <= 256


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=100), max_size=5))
def test_sketches_merge_in_any_order_and_twice_changes_nothing(parts: list[list[int]]) -> None:
    sketches = [abuse.merged((), part) for part in parts]
    forward: abuse.Sketch = ()
    for sketch in [*sketches, *sketches]:
        forward = abuse.merged(forward, sketch)
    backward: abuse.Sketch = ()
    for sketch in reversed(sketches):
        backward = abuse.merged(backward, sketch)
    assert forward == backward == abuse.merged((), [number for part in parts for number in part])
    assert len(forward) <= KEPT


def test_how_many_are_distinct_is_exact_below_what_is_kept_and_near_above() -> None:
    for count in (0, 1, KEPT - 1):
        assert abuse.distinct(abuse.merged((), (abuse.hash_of(name, DOMAIN) for name in names(count)))) == count
    errors = []
    for seed in range(60):
        sketch: abuse.Sketch = abuse.merged((), (abuse.hash_of(name, DOMAIN) for name in names(2000, seed)))
        errors.append(abuse.distinct(sketch) / 2000 - 1)
    assert abs(sum(errors) / len(errors)) < 0.06
    assert (sum(error**2 for error in errors) / len(errors)) ** 0.5 < 0.2


def test_mailboxes_are_told_apart_without_case_and_by_domain() -> None:
    assert abuse.hash_of("A", "x.example") == abuse.hash_of("a", "x.example") != abuse.hash_of("a", "y.example")


@pytest.mark.parametrize(
    ("allowed", "domain", "is_allowed"),
    [
        (("acme.example",), "acme.example", True),
        (("acme.example",), "mail.acme.example", True),
        (("acme.example",), "xacme.example", False),
        (("*",), "any.example", True),
        ((), "acme.example", False),
    ],
)
def test_what_the_operator_allows(allowed: tuple[str, ...], domain: str, is_allowed: bool) -> None:
    assert abuse.is_allowed(domain, allowed) is is_allowed
