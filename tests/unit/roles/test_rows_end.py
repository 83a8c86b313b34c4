"""The life of every row (docs/tables.md), over the gate and completion together: each is ended, and none too soon."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from schemas.pipeline import Admitted, Attempt, Ticket
from schemas.topics import ATTEMPTS, RESULTS, SETTLEMENTS
from schemas.vocabulary import Reason
from streams.access.decisions import Account
from streams.access.keys import ConfiguredKey
from streams.codec import decode, encode
from streams.installed import TABLES
from streams.records import Incoming, Outgoing
from streams.roles.completion import Completion
from streams.roles.gate import Gate
from streams.roles.keyring import Keyring
from streams.roles.progress import Progress
from tests.unit.roles.support import KEY, NOW_MS, Clock, Log, metrics, request_bytes, run, settings, values
from tests.unit.roles.test_completion import entry

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
KEPT_MS = 4 * DAY_MS
VERDICT_MS = 3 * HOUR_MS
PAGE = Path(__file__).parents[3] / "docs" / "tables.md"


@dataclass
class Fate:
    """What becomes of one request."""

    addresses: int = 2
    learned: Sequence[tuple[int, bool]] = ()
    """Attempts: which address, and whether that was final."""
    admitted_is_read: bool = True
    late: bool = False
    """The admitted record is read after the attempts."""
    settlements: int = 1
    """How often the settlement is read; 0 is one that was lost."""
    again: int = 0
    """How often everything is read again afterwards."""


@dataclass
class World:
    """The two roles that have tables, and the topics between them, on a clock that a test turns."""

    clock: Clock = field(default_factory=Clock)
    ledger: dict[bytes, bytes] = field(default_factory=dict)
    requests: dict[bytes, bytes] = field(default_factory=dict)
    progress: dict[bytes, bytes] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = settings(dev_daily_quota=1000)
        keyring = Keyring(metrics(), {}, ConfiguredKey(config), config.decisions_kept)
        self.gate = Gate(config, metrics(), keyring, self.ledger, self.clock)
        self.completion = Completion(config, metrics(), requests=self.requests, progress=self.progress)
        self.logs = {name: Log(name) for name in ("mailvet.requests.v1", ATTEMPTS.name, SETTLEMENTS.name)}

    def live(self, number: int, fate: Fate) -> None:
        """One request from its client to wherever its fate leads it."""
        addresses = [f"a{index}@x.example" for index in range(fate.addresses)]
        sent = self.append("mailvet.requests.v1", request_bytes(f"r{number}", addresses), {"mailvet-key": KEY.encode()})
        [claimed] = run(self.gate.intake(sent))
        admission = self.append(claimed.topic, claimed.value, dict(claimed.headers), claimed.key)
        for _ in range(1 + fate.again):
            for out in run(self.gate.admit(admission)):
                if out.topic != RESULTS.name:
                    self.run(self.append(out.topic, out.value), fate)

    def run(self, record: Incoming, fate: Fate) -> None:
        ticket = decode(Admitted, record.value).ticket
        attempts = [self.attempt(ticket, index % ticket.total, final) for index, final in fate.learned]
        for _ in range(1 + fate.again):
            if fate.admitted_is_read and not fate.late:
                run(self.completion.admitted(record))
            for attempt in attempts:
                self.decide(attempt, fate.settlements)
            if fate.admitted_is_read:
                run(self.completion.admitted(record))

    def attempt(self, ticket: Ticket, index: int, final: bool) -> Incoming:
        said = entry(Reason.MAILBOX_ACCEPTED if final else Reason.GREYLISTED, index, final=final)
        return self.append(ATTEMPTS.name, encode(Attempt(ticket=ticket, origin="probe", entries=(said,))))

    def decide(self, attempt: Incoming, settlements: int = 1) -> None:
        for out in run(self.completion.attempt(attempt)):
            self.results += values([out], RESULTS.name)
            for _ in range(settlements if out.topic == SETTLEMENTS.name else 0):
                run(self.gate.settle(self.append(SETTLEMENTS.name, out.value, {}, out.key)))

    def sweep(self) -> None:
        outputs: list[Outgoing] = self.completion.sweep(self.clock())
        for out in outputs:
            self.decide(self.append(out.topic, out.value))

    def expire(self) -> None:
        for _ in range(2):  # What is found on one round is gone on the next.
            list(self.gate.report(self.clock()))
            self.gate.expire(self.clock())
            self.completion.expire(self.clock())

    def append(self, topic: str, value: bytes, headers: Any = (), key: bytes | None = None) -> Incoming:
        return self.logs.setdefault(topic, Log(topic)).append(value, key, headers, self.clock())

    def is_finished(self, row: bytes) -> bool:
        return decode(Progress, self.progress[row]).finished_by is not None

    def rows(self, kind: bytes) -> list[bytes]:
        return [key for key in self.ledger if key.split(b":")[1] == kind]


FATES = st.builds(
    Fate,
    addresses=st.integers(1, 3),
    learned=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=5),
    admitted_is_read=st.booleans(),
    late=st.booleans(),
    settlements=st.integers(0, 2),
    again=st.integers(0, 1),
)


@given(st.lists(FATES, min_size=1, max_size=5), st.integers(0, HOUR_MS))
@hypothesis_settings(deadline=None, max_examples=50)
def test_when_all_is_settled_and_time_has_passed_tables_are_empty(fates: list[Fate], gap_ms: int) -> None:
    world = World()
    for number, fate in enumerate(fates):
        world.live(number, fate)
        world.clock.now_ms += gap_ms
    last_ms = world.clock() - gap_ms
    world.clock.now_ms = last_ms + VERDICT_MS + 1000
    world.sweep()
    assert not world.requests, "what was asked is kept until it's answered, and no longer"
    finished = [row for row in world.progress if row.count(b":") == 1 and world.is_finished(row)]
    assert not [row for row in world.progress if any(row.startswith(each + b":") for each in finished)], "findings"
    answered = {row.split(b":")[0] for row in world.progress}
    # Whoever reads an old record again finds what was decided: nothing ends before that is over.
    world.clock.now_ms = NOW_MS + VERDICT_MS + KEPT_MS
    world.expire()
    assert len(world.rows(b"decision")) == len(fates)
    assert {row.split(b":")[0] for row in world.progress} == answered
    world.clock.now_ms = last_ms + VERDICT_MS + KEPT_MS + 2000
    world.expire()
    assert (world.requests, world.progress, world.rows(b"decision")) == ({}, {}, [])
    accounts = [decode(Account, world.ledger[key]) for key in world.rows(b"account")]
    assert all(account.month_used for account in accounts), "only what its month still counts stays"
    world.clock.now_ms = last_ms + 32 * DAY_MS
    world.expire()
    assert world.ledger == {}


@given(FATES)
@hypothesis_settings(deadline=None, max_examples=50)
def test_every_address_of_what_was_read_is_answered_once(fate: Fate) -> None:
    world = World()
    world.live(0, fate)
    world.clock.now_ms += VERDICT_MS + 1000
    world.sweep()
    world.clock.now_ms += 61_000
    world.sweep()
    told = {(each["kind"], each.get("index")): each for each in world.results}
    if fate.admitted_is_read:
        assert {index for kind, index in told if kind == "result"} == set(range(fate.addresses))
        assert ("summary", None) in told
    assert all(told[each["kind"], each.get("index")] == each for each in world.results), "repeats are the same"


def test_the_page_names_every_table() -> None:
    named = set(re.findall(r"^\| `(\w+)` \((\w+)\)", PAGE.read_text(), re.MULTILINE))
    assert named == {(table.name, table.role) for table in TABLES}
