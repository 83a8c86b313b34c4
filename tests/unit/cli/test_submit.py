"""`submit` without Kafka: what a user can do wrong, what is kept, and the loop against clients that tests play."""

import asyncio
import os
import re
import sqlite3
import sys
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError, NotLeaderForPartitionError, TopicAuthorizationFailedError
from rich.console import Console

from ops.cli.errors import Unfinished, UserError
from ops.cli.keyfile import BearerKey
from ops.cli.main import run as run_cli
from ops.cli.progress import Meter, Rate
from ops.cli.submission import Asked, Plan, Submission, Throttle, cells_of
from ops.cli.submitrun import Run
from ops.cli.submitstate import Learned, Sent, State
from schemas.request import MAX_REQUEST_BYTES, Request, request_uid
from schemas.result import Evidence, Flags, Rejection, Result, Summary
from schemas.vocabulary import Depth, Reason, Stage, Verdict
from streams.access.credentials import mint

KEY = mint("acme", "k1", b"0123456789abcdef")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

# What a user can do wrong


class Shell:
    """A folder with a file in it, and the command line."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.file, self.out = folder, folder / "in.csv", folder / "out.csv"
        self.state = folder / "out.csv.state"
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setenv("MAILVET_KEY", KEY)

    def submit(self, *arguments: str, column: str = "email") -> tuple[int, str, str]:
        line = ["mailvet", "submit", str(self.file), "--column", column, "--out", str(self.out), *arguments]
        self._monkeypatch.setattr(sys, "argv", line)
        code = run_cli()
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        assert KEY.split("_")[3] not in out + err
        return code, out, err

    def refused(self, *arguments: str, column: str = "email") -> str:
        code, out, err = self.submit(*arguments, column=column)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        return err


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    shell = Shell(tmp_path, monkeypatch, capsys)
    shell.file.write_text("email\na@b.test\n")
    return shell


def test_a_file_without_rows_needs_no_broker(shell: Shell) -> None:
    shell.file.write_text("id,email\n\n")
    code, out, err = shell.submit()
    assert (code, out, err) == (0, f"{shell.out}: 0 addresses\n", "")
    assert shell.out.read_text().startswith("id,email,verdict,reason,score,")
    assert not shell.state.exists()


def test_the_file_must_be_one_with_the_column(shell: Shell) -> None:
    assert "its columns are 'email'" in shell.refused(column="address")
    shell.file.write_bytes(bytes(range(256)) * 40)
    assert "this is not utf-8 text" in shell.refused()
    shell.file.unlink()
    assert "No such file" in shell.refused()
    shell.file.mkdir()
    assert "is no file" in shell.refused()


def test_a_broken_file_is_found_before_anything_is_kept_or_sent(shell: Shell) -> None:
    shell.file.write_bytes(b"email\n" + b"a@b.test\n" * 9999 + b"\xff\n")
    assert "line 10001: this is not utf-8 text" in shell.refused()
    assert not shell.state.exists()


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("", "no key: set MAILVET_KEY"),
        ("sesame", "does not have the form mv_<tenant>_<key id>_<secret>_<checksum> (from MAILVET_KEY)"),
        (KEY[:-1] + ("a" if KEY[-1] != "a" else "b"), "the checksum of the key is wrong"),
    ],
)
def test_the_key_must_be_one(shell: Shell, monkeypatch: pytest.MonkeyPatch, key: str, sentence: str) -> None:
    monkeypatch.setenv("MAILVET_KEY", key)
    assert sentence in shell.refused()


def test_the_key_may_lie_in_a_file(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAILVET_KEY")
    shell.file.write_text("email\n")
    keys = shell.folder / "key"
    assert f"the key file {keys} can't be read" in shell.refused("--key-file", str(keys))
    keys.write_bytes(b"\xff\xfe")
    assert f"the key file {keys} can't be read" in shell.refused("--key-file", str(keys))
    keys.write_text(f"{KEY}\nsecond line\n")
    assert shell.submit("--key-file", str(keys))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--delimiter", ",,"), "one character, or `tab`"),
        (("--delimiter", '"'), "one character, or `tab`"),
        (("--encoding", "hex"), "'hex' is no text encoding"),
        (("--encoding", "nonsense"), "'nonsense' is no text encoding"),
        (("--encoding", "utf-7"), "save the file as UTF-8"),
        (("--request-size", "1001"), "1<=x<=1000"),
        (("--window", "0"), "1<=x<=1000000"),
        (("--depth", "deep"), "'deep' is not one of 'syntax', 'dns', 'smtp'"),
        (("--bootstrap", "nowhere"), "is not HOST:PORT[,HOST:PORT]"),
        (("--bootstrap", "a:1,b:99999"), "is not HOST:PORT[,HOST:PORT]"),
        (("--resume", "--force"), "choose one"),
        (("--resume",), "no run was begun"),
    ],
)
def test_wrong_arguments_are_one_line(shell: Shell, arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in shell.refused(*arguments)


def test_nothing_is_overwritten_unasked(shell: Shell) -> None:
    shell.file.write_text("email\n")
    shell.out.write_text("old")
    assert "is there already: --force replaces it" in shell.refused()
    assert "the run was finished" in shell.refused("--resume")
    assert shell.submit("--force")[0] == 0
    assert shell.out.read_text() != "old"


def test_the_results_need_a_place_of_their_own(shell: Shell) -> None:
    shell.out = shell.folder / "none" / "out.csv"
    assert "there is no folder" in shell.refused()
    shell.out = shell.file
    assert "it is the file that is read" in shell.refused("--force")
    shell.out = shell.folder / "folder"
    shell.out.mkdir()
    assert "it is a folder" in shell.refused()


def test_a_state_file_is_not_taken_for_another(shell: Shell) -> None:
    shell.state.write_text("something of the user's own, and long enough to be no database at all")
    assert "--resume goes on, --force begins anew" in shell.refused()
    for flag in ("--resume", "--force"):
        assert "can't be used as the state file of a run" in shell.refused(flag)
    assert shell.state.read_text().startswith("something")


def test_two_runs_do_not_share_a_state(shell: Shell) -> None:
    state = State(shell.state, {"run": "r"})
    for flag in ("--resume", "--force"):
        assert "is in use: another `mailvet submit`" in shell.refused(flag)
    state.close()
    assert "can't go on: content of the file, --column" in shell.refused("--resume")


# What is kept


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state", {"run": "r", "total": "4"})
    yield opened
    opened.close()


def test_the_state_outlives_the_process_and_its_crash(state: State, tmp_path: Path) -> None:
    state.begin({0: 0, 1: 0, 2: 3})
    state.deliver([0, 2])
    state.learn(Learned({1: ["risky", "x"], 0: ["deliverable", "y"]}, {1: 1}, {0: 7, 5: 9}))
    crashed = tmp_path / "crashed"
    for suffix in ("", "-wal"):
        (tmp_path / f"crashed{suffix}").write_bytes((tmp_path / f"state{suffix}").read_bytes())
    later = State(crashed)
    assert later.settings == {"run": "r", "total": "4"}
    assert later.begun() == {0: Sent(0, True), 1: Sent(1, False), 2: Sent(3, True)}
    assert later.positions() == {0: 7, 5: 9}
    assert later.answered() == 2
    assert later.missing(range(1, 4)) == {2, 3}
    assert list(later.cells()) == [["deliverable", "y"], ["risky", "x"]]
    later.close()


def test_the_first_answer_stands(state: State) -> None:
    state.learn(Learned({0: ["first"]}))
    state.learn(Learned({0: ["second"]}))
    assert list(state.cells()) == [["first"]]


def test_what_was_read_is_kept_whole_or_not_at_all(state: State) -> None:
    with pytest.raises((sqlite3.Error, TypeError)):
        state.learn(Learned({0: ["answer"]}, positions={0: object()}))  # type: ignore[dict-item]
    assert state.answered() == 0


def test_a_state_is_begun_anew_in_place(state: State) -> None:
    state.learn(Learned({0: ["old"]}, {0: 1}, {0: 1}))
    state.close()
    anew = State(state.path, {"run": "s"})
    assert (anew.settings, anew.answered(), anew.begun(), anew.positions()) == ({"run": "s"}, 0, {}, {})
    anew.close()
    anew.delete()
    assert list(state.path.parent.iterdir()) == []


def test_a_state_that_was_never_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="no such table"):
        State(tmp_path / "empty")


# How it is asked


def plan(total: int = 4, size: int = 2) -> Plan:
    return Plan("run", "acme", BearerKey(KEY), "requests", size, total, Depth.DNS)


def test_request_ids_are_the_same_each_time_and_differ_for_each_range_and_generation() -> None:
    assert plan(5).request_id(2, 0) == "run-4-4"
    assert plan(5).request_id(0, 3) == "run-0-1.3"
    ids = {plan(500).request_id(number, generation) for number in range(250) for generation in range(3)}
    assert len(ids) == 750


class Reader:
    """A consumer that sees these topics."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)

    async def topics(self) -> set[str]:
        return self.names


def results_topic(state: State, reader: Reader, named: str = "") -> str:
    job: Any = SimpleNamespace(results_topic=named, namespace="eu")
    return asyncio.run(Run(job, plan(), state)._results_topic(reader))


def test_results_are_read_from_the_tenants_own_topic_where_there_is_one_and_a_run_stays_with_it(tmp_path: Path) -> None:
    shared, own = "eu.mailvet.results.v1", "eu.mailvet.results.acme.v1"
    state = State(tmp_path / "state", {"tenant of the key": "acme"})
    assert results_topic(state, Reader(shared, "eu.mailvet.results.globex.v1")) == shared
    # It was created while the run was interrupted: the offsets that were kept are the other topic's.
    assert results_topic(state, Reader(shared, own)) == shared
    state.close()
    again = State(tmp_path / "state")
    assert again.settings["results topic"] == shared
    again.close()
    anew = State(tmp_path / "state", {"tenant of the key": "acme"})
    assert results_topic(anew, Reader(), named="chosen") == "chosen"
    assert results_topic(anew, Reader(shared, own)) == own
    anew.close()


def test_the_key_is_not_shown_with_the_plan() -> None:
    assert KEY not in repr(plan())


def test_a_throttle_doubles_with_each_time_in_a_row_and_forgets_when_served() -> None:
    throttle = Throttle(lambda: 0.5)
    now = 100.0
    pauses = []
    for _ in range(9):
        throttle.rejected(now, None)
        throttle.rejected(now, None)  # those sent before the pause count as one
        pauses.append(throttle.until - now)
        now = throttle.until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    throttle.served()
    throttle.rejected(now, None)
    assert throttle.until - now == 1


def test_a_throttle_heeds_the_hint_and_jitters() -> None:
    throttle = Throttle(lambda: 0.0)
    throttle.rejected(100.0, 5000)
    assert throttle.until == 105.0
    throttle.rejected(101.0, 9000)
    assert throttle.until == 110.0
    throttle = Throttle(lambda: 0.0)
    throttle.rejected(0.0, 1)
    assert throttle.until == 0.75


def test_cells_say_what_is_known_and_nothing_else() -> None:
    said = result(request(0), 0).model_copy(
        update={
            "flags": Flags(catch_all=True, role=False),
            "evidence": Evidence(stage=Stage.RCPT, smtp_code=550, enhanced_code="5.1.1", text="no\x1b[31m" + "x" * 600),
            "suggestion": "a@gmail.com",
        }
    )
    cells = cells_of(said)
    assert cells[:11] == (
        *("deliverable", "mailbox_accepted", "100", "a@gmail.com", "true", "false", "", "", "", "550", "5.1.1"),
    )
    assert cells[11].startswith("no\\x1b[31mxxx")
    assert len(cells[11]) == 512
    assert cells[12:] == ("", "2026-01-02T03:04:05+00:00")


# The loop


class Clients:
    """Producer and consumer in one: what is written is answered by `script`, one call a record."""

    def __init__(self, script: Callable[[Request], list[Any]]) -> None:
        self.sent: list[Request] = []
        self.log: deque[bytes] = deque()
        self.failures: deque[Exception] = deque()
        self.offset = 0
        self._script = script

    async def send_and_wait(self, topic: str, value: bytes, key: bytes, headers: list[tuple[str, bytes]]) -> None:
        assert (topic, headers) == ("requests", [("mailvet-key", KEY.encode())])
        assert len(value) < MAX_REQUEST_BYTES
        request = Request.model_validate_json(value)
        assert key.decode() == request.request_id
        failure = self.failures.popleft() if self.failures else None
        if not isinstance(failure, NotLeaderForPartitionError | TopicAuthorizationFailedError):
            self.sent.append(request)
            self.log.extend(
                each if isinstance(each, bytes) else each.model_dump_json().encode() for each in self._script(request)
            )
        if failure:
            raise failure

    async def getmany(self, timeout_ms: int, max_records: int) -> dict[Any, list[Any]]:
        await asyncio.sleep(0)
        records = []
        while self.log and len(records) < max_records:
            records.append(SimpleNamespace(value=self.log.popleft(), offset=self.offset))
            self.offset += 1
        return {TopicPartition("results", 0): records} if records else {}


class Clock:
    """Each look takes a tenth of a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def request(number: int, generation: int = 0) -> Request:
    made = plan()
    addresses = tuple(f"{ordinal}@a.test" for ordinal in made.ordinals(number))
    return Request(request_id=made.request_id(number, generation), addresses=addresses)


def result(request: Request, index: int, tenant: str = "acme") -> Result:
    return Result(
        request_uid=request_uid(tenant, request.request_id),
        request_id=request.request_id,
        key_id="k1",
        index=index,
        total=len(request.addresses),
        input=request.addresses[0],
        verdict=Verdict.DELIVERABLE,
        reason=Reason.MAILBOX_ACCEPTED,
        reasons=(Reason.MAILBOX_ACCEPTED,),
        score=100,
        evidence=Evidence(stage=Stage.RCPT),
        checked_at=NOW,
    )


def rejection(request: Request, reason: Reason) -> Rejection:
    return Rejection(
        request_uid=request_uid("acme", request.request_id),
        request_id=request.request_id,
        key_id="k1",
        reason=reason,
        reasons=(reason,),
        message="no",
        checked_at=NOW,
    )


def summary(request: Request) -> Summary:
    return Summary(
        request_uid=request_uid("acme", request.request_id),
        request_id=request.request_id,
        key_id="k1",
        total=2,
        verdicts={},
        reasons={},
        charged=2,
        given_back=0,
        admitted_at=NOW,
        finished_at=NOW,
    )


def served(request: Request) -> list[Any]:
    return [result(request, index) for index in range(len(request.addresses))]


def asked(number: int, **more: Any) -> Asked:
    return Asked(number, request(number).addresses, set(plan().ordinals(number)), **more)


class Notes(Meter):
    """Keeps what is said of waiting."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(4, 0, console=Console(quiet=True), clock=clock)
        self.notes: dict[str, None] = {}

    def show(self, done: int, in_flight: int, note: str = "") -> None:
        super().show(done, in_flight, note)
        self.notes[re.sub(r"[\d.:]+", "N", note)] = None


def submission(
    state: State,
    clients: Clients,
    *,
    begun: tuple[Asked, ...] = (),
    fresh: tuple[int, ...] = (0, 1),
    window: int = 100,
    meter: Meter | None = None,
) -> Submission:
    clock = Clock()
    return Submission(
        plan(),
        state,
        clients,
        clients,
        begun=begun,
        fresh=map(asked, fresh),
        window=window,
        timeout=900.0,
        meter=meter or Notes(clock),
        clock=clock,
    )


async def test_all_is_asked_once_and_kept(state: State) -> None:
    clients = Clients(served)
    await submission(state, clients).run()
    assert [each.request_id for each in clients.sent] == ["run-0-1", "run-2-3"]
    assert {each.depth for each in clients.sent} == {Depth.DNS}
    assert state.answered() == 4
    assert state.begun() == {0: Sent(0, True), 1: Sent(0, True)}
    assert state.positions() == {0: 4}


async def test_what_is_not_for_us_and_repeats_change_nothing(state: State) -> None:
    def script(request: Request) -> list[Any]:
        stranger = result(request, 0, tenant="other")
        odd = result(request, 7)
        return [b"\xff", b"{}", stranger, odd, *served(request), *served(request), summary(request)]

    await submission(state, Clients(script), window=1).run()
    assert state.answered() == 4


@pytest.mark.parametrize("failure", [KafkaTimeoutError(), NotLeaderForPartitionError()])
async def test_a_send_that_failed_is_repeated_under_the_same_id(
    state: State, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.cli.submission._BROKER_PAUSE_S", 0)
    # After a timeout the broker may have had the request nevertheless: it answers once, whoever sends it again.
    seen: set[str] = set()

    def once(request: Request) -> list[Any]:
        new = request.request_id not in seen
        seen.add(request.request_id)
        return served(request) if new else []

    clients = Clients(once)
    clients.failures.append(failure)
    notes = Notes(Clock())
    await submission(state, clients, window=2, meter=notes).run()
    assert list(notes.notes)[:2] == ["the broker does not answer, trying again", ""]
    assert state.answered() == 4
    assert {each.request_id for each in clients.sent} == {"run-0-1", "run-2-3"}


async def test_a_broker_that_refuses_ends_the_run(state: State) -> None:
    clients = Clients(served)
    clients.failures.append(TopicAuthorizationFailedError())
    with pytest.raises(TopicAuthorizationFailedError):
        await submission(state, clients).run()
    assert state.begun() == {0: Sent(0, False), 1: Sent(0, False)}


@pytest.mark.parametrize("reason", [Reason.RATE_EXCEEDED, Reason.IN_FLIGHT_EXCEEDED])
async def test_not_now_is_asked_again_under_another_id(state: State, reason: Reason) -> None:
    def script(request: Request) -> list[Any]:
        return served(request) if request.request_id.endswith(".2") else [rejection(request, reason)] * 2

    clients, notes = Clients(script), Notes(Clock())
    await submission(state, clients, fresh=(0,), meter=notes).run()
    assert list(notes.notes) == ["the key's limit is reached, sending again in N s", ""]
    assert [each.request_id for each in clients.sent] == ["run-0-1", "run-0-1.1", "run-0-1.2"]
    assert state.begun() == {0: Sent(2, True)}


async def test_another_rejection_ends_the_run_and_the_next_one_asks_under_another_id(state: State) -> None:
    refusing = Clients(lambda request: [rejection(request, Reason.QUOTA_EXCEEDED)])
    with pytest.raises(Unfinished, match="the request was rejected: quota_exceeded: no"):
        await submission(state, refusing, fresh=(0,)).run()
    assert state.begun() == {0: Sent(1, False)}
    clients = Clients(served)
    await submission(state, clients, begun=(asked(0, generation=1, earlier=True),), fresh=(1,)).run()
    assert [each.request_id for each in clients.sent] == ["run-0-1.1", "run-2-3"]
    assert state.answered() == 4


async def test_what_was_delivered_is_only_waited_for_and_what_may_have_been_is_sent_again(state: State) -> None:
    clients = Clients(served)
    clients.log.extend(each.model_dump_json().encode() for each in served(request(0)))
    begun = (asked(0, delivered=True, earlier=True), asked(1, earlier=True))
    await submission(state, clients, begun=begun, fresh=(), window=1).run()
    assert [each.request_id for each in clients.sent] == ["run-2-3"]
    assert state.answered() == 4


async def test_a_rejection_of_an_earlier_day_is_not_believed_today(state: State) -> None:
    clients = Clients(served)
    clients.log.append(rejection(request(0), Reason.QUOTA_EXCEEDED).model_dump_json().encode())
    await submission(state, clients, begun=(asked(0, delivered=True, earlier=True),), fresh=()).run()
    assert [each.request_id for each in clients.sent] == ["run-0-1.1"]


async def test_without_any_answer_the_run_gives_up(state: State) -> None:
    notes = Notes(Clock())
    with pytest.raises(Unfinished, match="no answer came for 0:15:00: is a worker running"):
        await submission(state, Clients(lambda request: []), meter=notes).run()
    assert list(notes.notes) == ["", "no answer for N s", "no answer for N"]


# How far it is


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    now = 0.0
    rate = Rate(1000, lambda: now)
    assert (rate.per_second, rate.left(5)) == (0.0, None)
    for done in range(1100, 3100, 100):
        now += 5.0
        rate.note(done)
    assert rate.per_second == 20.0
    assert rate.left(100) == 5.0


def shown(console: Console, clock: Clock) -> None:
    with Meter(2000, 0, console=console, clock=clock) as meter:
        for done in (500, 1000, 1500):
            clock.now += 5.0
            meter.show(done, 20, "a [bold]note[/bold]" if done == 1500 else "")


def test_elsewhere_than_on_a_terminal_a_plain_line_comes_now_and_then(tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as file:
        shown(Console(file=file), Clock())
    lines = (tmp_path / "err").read_text().splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"1,000 of 2,000 addresses, \d+/s, \d+\.\d s left, 20 in flight", lines[0])


def test_on_a_terminal_there_is_a_bar(tmp_path: Path) -> None:
    with (tmp_path / "err").open("w") as file:
        shown(Console(file=file, force_terminal=True, width=200), Clock())
    text = (tmp_path / "err").read_text()
    assert "1,500 of 2,000 addresses" in text
    assert "a [bold]note[/bold]" in text
    assert os.linesep in text
