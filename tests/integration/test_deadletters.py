"""`mailvet deadletters` on a real broker: what a worker could not use is found, shown and sent back once."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner, Result

from ops.cli.deadletters import command
from schemas.pipeline import Replayed
from schemas.topics import ATTEMPTS, DEADLETTERS, REQUESTS, TASKS_BULK, Topic
from streams.delivery.dead_letters import REPLAY_ORIGIN, REPLAYED, REPLAYS, dead_letter
from streams.records import Incoming, Outgoing, Unusable
from tests.integration.conftest import Installation

NOW_MS = round(datetime.now(UTC).timestamp() * 1000)
HOSTILE = b'\x1b[2J\xff{"password": "hunter2", "key": "mv_acme_k1_0123456789abcdefgh_abcdefg"}'


def letter(number: int, reason: str = "internal_error", **record: object) -> Outgoing:
    """A dead letter as a role writes it."""
    values = {"key": b"p#%d" % number, "value": b"value %d" % number, "headers": {"trace": b"t"}, **record}
    incoming = Incoming(
        str(values.pop("topic", TASKS_BULK.name)),
        number % TASKS_BULK.partitions,
        number,
        timestamp_ms=NOW_MS,
        **values,  # type: ignore[arg-type]
    )
    return dead_letter(incoming, Unusable(reason, f"failed {number}"), role="probe", at=datetime.now(UTC))


def write(installation: Installation, *letters: Outgoing) -> None:
    asyncio.run(_write(installation, letters))


def read(installation: Installation, topic: Topic) -> list[Any]:
    return asyncio.run(installation.read(topic))


async def _write(installation: Installation, letters: Iterable[Outgoing]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=installation.broker.bootstrap, linger_ms=5) as producer:
        name = DEADLETTERS.named(installation.namespace).name
        sent = [
            await producer.send(name, each.value, key=each.key, partition=number % 8, headers=list(each.headers))
            for number, each in enumerate(letters)
        ]
        await asyncio.gather(*sent)


def run(installation: Installation, *arguments: str, answer: str | None = None) -> Result:
    runner = CliRunner(env={**installation.environment, "MAILVET_KEY": ""})
    return runner.invoke(command, [*arguments], input=answer)


def names(installation: Installation, *arguments: str) -> list[str]:
    listed = run(installation, "list", "--json", *arguments)
    assert listed.exit_code == 0, listed.output
    return sorted(json.loads(line)["id"] for line in listed.output.splitlines())


@pytest.fixture
def box(installation: Installation) -> Installation:
    asyncio.run(installation.create(DEADLETTERS, TASKS_BULK, ATTEMPTS, REQUESTS))
    return installation


def test_none_at_all(box: Installation) -> None:
    assert (run(box, "list")).output == "no dead letters\n"
    assert (run(box, "list", "--json")).output == ""
    replayed = run(box, "replay", "--all")
    assert (replayed.exit_code, replayed.output) == (0, "no dead letters\n")
    shown = run(box, "show", "0-0")
    assert shown.exit_code == 2
    assert "there is no dead letter 0-0" in shown.output


def test_they_are_listed_and_filtered(box: Installation) -> None:
    write(box, letter(0), letter(1, "invalid"), letter(2, topic=ATTEMPTS.name), letter(3, key=None), letter(4))
    assert names(box) == ["0-0", "1-0", "2-0", "3-0", "4-0"]
    assert names(box, "--reason", "invalid") == ["1-0"]
    assert names(box, "--role", "probe", "--role", "gate") == ["0-0", "1-0", "2-0", "3-0", "4-0"]
    assert names(box, "--role", "gate") == []
    assert names(box, "--topic", "attempts") == ["2-0"]
    assert names(box, "--key", "p#4") == ["4-0"]
    assert names(box, "--since", "1h", "--until", "2100-01-01") == ["0-0", "1-0", "2-0", "3-0", "4-0"]
    assert names(box, "--until", "1h") == names(box, "--since", "2100-01-01") == []
    assert len(names(box, "--limit", "2")) == 2
    listed = (run(box, "list")).output.splitlines()
    assert len(listed) == 6
    assert any(f"{ATTEMPTS.name}/2/2, p#2: failed 2" in line for line in listed)


def test_hostile_bytes_are_shown_safely(box: Installation) -> None:
    write(box, letter(0, "not_authenticated", value=HOSTILE, key=b"\x1b]0;x\x07", headers={"x-token": b"s3cret"}))
    shown = (run(box, "show", "0-0")).output
    assert all(line.isprintable() for line in shown.splitlines())
    for secret in ("hunter2", "0123456789abcdefgh", "s3cret"):
        assert secret not in shown
    assert "\\x1b[2J\\xff" in shown
    assert '"key": "[redacted]"' in shown
    assert "its credential was redacted" in shown
    fields = json.loads((run(box, "show", "0-0", "--json", "--bytes", "20")).output)
    assert (len(fields["value"]), fields["reason"]) == (20, "not_authenticated")


def test_a_replay_goes_back_once(box: Installation) -> None:
    write(box, letter(0), letter(1), letter(2, "not_authenticated"), letter(3, value=b"x" * 600_000))
    planned = run(box, "replay", "--all", "--dry-run")
    assert planned.exit_code == 1, planned.output
    assert "2 would be replayed: internal_error, to mailvet.tasks.bulk.v1" in planned.output
    assert "1 can't be replayed: its credential was redacted" in planned.output
    assert "1 can't be replayed: only its beginning was kept" in planned.output
    assert "nothing was replayed" in (run(box, "replay", "--all", answer="n\n")).output
    assert read(box, TASKS_BULK) == []
    replayed = run(box, "replay", "--reason", "internal_error", "0-0", "1-0", "2-0", answer="y\n")
    assert replayed.exit_code == 0, replayed.output
    assert "Replay 2 dead letters? [y/N]: y\nreplayed 2 dead letters\n" in replayed.output
    again = run(box, "replay", "0-0", "1-0", "--yes", "--force")
    assert (again.exit_code, again.output.strip()) == (0, "2 were replayed before")
    records = {record.key: record for record in read(box, TASKS_BULK)}
    assert len(read(box, TASKS_BULK)) == 2
    assert (records[b"p#1"].value, records[b"p#1"].partition) == (b"value 1", 1)
    assert records[b"p#1"].headers == (
        (REPLAYS, b"1"),
        (REPLAY_ORIGIN, b"mailvet.tasks.bulk.v1/1/1"),
        ("trace", b"t"),
    )
    assert names(box, "--pending") == ["2-0", "3-0"]
    [word] = [dict(each.headers) for each in read(box, DEADLETTERS) if each.partition == 0 and each.offset == 1]
    assert Replayed.model_validate_json(word[REPLAYED]).offset == 0
    assert "it was replayed" in (run(box, "show", "0-0")).output
    assert "there is no dead letter" in (run(box, "show", "0-1")).output


def test_what_failed_again_goes_back_only_if_forced_and_not_for_ever(box: Installation) -> None:
    write(box, letter(0))
    assert (run(box, "replay", "0-0", "--yes")).exit_code == 0
    for times in (1, 2, 3):
        [*_, record] = read(box, TASKS_BULK)
        failed = Incoming(
            TASKS_BULK.name, record.partition, record.offset, record.key, record.value, dict(record.headers)
        )
        failed = replace(failed, timestamp_ms=record.timestamp)
        assert failed.headers[REPLAYS] == b"%d" % times
        write(box, dead_letter(failed, Unusable("invalid", "again"), role="probe", at=datetime.now(UTC)))
        refused = run(box, "replay", "--reason", "invalid", "--yes")
        assert refused.exit_code == 1
        assert "it failed again after" in refused.output
        forced = run(box, "replay", "--reason", "invalid", "--yes", "--force")
        assert forced.exit_code == (0 if times < 3 else 1), forced.output
    assert len(read(box, TASKS_BULK)) == 3
    [*_, record] = read(box, TASKS_BULK)
    assert dict(record.headers)[REPLAY_ORIGIN] == b"mailvet.tasks.bulk.v1/0/0"


def test_thousands_are_replayed_and_what_is_already_is_left(box: Installation) -> None:
    write(box, *(letter(number) for number in range(3000)))
    first = run(box, "replay", "--topic", "tasks.bulk", "--yes")
    assert first.output.endswith("replayed 3,000 dead letters\n")
    assert "3,000 were replayed before" in (run(box, "replay", "--all", "--yes")).output
    assert len(read(box, TASKS_BULK)) == 3000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["replay"], "say which"),
        (["replay", "--all", "1-1"], "say which"),
        (["show", "seven"], "names no dead letter"),
        (["list", "--since", "yesterday"], "how long ago"),
        (["list", "--since", "1h", "--until", "2h"], "--since lies after --until"),
        (["list", "--topic", "nonsense"], "is no topic that a role reads"),
    ],
)
def test_a_mistake_is_one_sentence(installation: Installation, arguments: list[str], sentence: str) -> None:
    said = run(installation, *arguments)
    assert said.exit_code == 2
    assert sentence in " ".join(said.output.split())


def test_missing_topics_and_brokers_are_one_sentence(installation: Installation) -> None:
    assert "run `mailvet topics apply`" in (run(installation, "list")).output
    asyncio.run(installation.create(DEADLETTERS))
    write(installation, letter(0))
    assert "has no topic" in run(installation, "replay", "--all", "--yes").output
    nowhere = run(installation, "list", "--bootstrap", "127.0.0.1:1")
    assert nowhere.exit_code == 2
    assert "no Kafka broker answers" in nowhere.output
