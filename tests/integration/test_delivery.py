"""Delivery under Faust on a real broker: crashes, stops, rebalances, dead letters, tables, and Faust's own limits."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from ops.brokers.base import Broker
from schemas.pipeline import DeadLetter
from schemas.topics import ADMITTED_BULK, DEADLETTERS, REQUESTS, RESULTS, Topic
from streams.delivery.dead_letters import HEADER, MAX_VALUE_BYTES
from streams.tables import EPOCH
from tests.integration.conftest import WORKER, Installation, terminate, until
from tests.integration.echo_worker import COUNTS

SOURCE = replace(ADMITTED_BULK, partitions=2)
FOREIGN = replace(REQUESTS, partitions=2)
OUT = replace(RESULTS, partitions=2)
DEAD = replace(DEADLETTERS, partitions=2)


@pytest.fixture
async def topics(installation: Installation) -> Installation:
    await installation.create(SOURCE, FOREIGN, OUT, DEAD, COUNTS.changelog())
    return installation


def numbered(count: int, start: int = 0) -> list[tuple[bytes, bytes]]:
    """Records that can be told apart, over both partitions."""
    return [(b"k%d" % (each % 50), b"%d" % each) for each in range(start, start + count)]


async def came_out(installation: Installation) -> Counter[int]:
    return Counter(int(record.value) for record in await installation.read(OUT))


async def all_committed(installation: Installation, topic: Topic = SOURCE) -> bool:
    records = await installation.read(topic)
    ends = Counter(record.partition for record in records)
    found = [await installation.committed("echo", topic, each) or 0 for each in range(topic.partitions)]
    return found == [ends[each] for each in range(topic.partitions)]


async def test_kill_9_loses_nothing(topics: Installation) -> None:
    await topics.write(SOURCE, numbered(1500))
    for wanted in (100, 500, 900):
        worker = topics.echo(SECONDS="0.05")
        await until(lambda wanted=wanted: _at_least(topics, wanted))
        worker.kill()
    worker = topics.echo()
    await until(lambda: all_committed(topics))
    assert set(await came_out(topics)) == set(range(1500))
    assert terminate(worker) == (0, "")


async def test_a_stop_loses_nothing_and_repeats_nothing(topics: Installation) -> None:
    worker = topics.echo(SECONDS="0.3")
    writing = asyncio.create_task(topics.write(SOURCE, numbered(2000)))
    await until(lambda: _at_least(topics, 1))
    assert await asyncio.to_thread(terminate, worker) == (0, "")
    await writing
    assert 0 < len(await came_out(topics)) < 2000
    topics.echo()
    await until(lambda: all_committed(topics))
    assert await came_out(topics) == Counter(range(2000))


async def test_a_stop_does_not_wait_for_ever(topics: Installation) -> None:
    await topics.write(SOURCE, numbered(10), partition=0)
    worker = topics.echo(HOLD="3", MAILVET_DRAIN_S="1")
    await until(lambda: _at_least(topics, 9))
    assert terminate(worker, within=15) == (0, "")
    assert await topics.committed("echo", SOURCE) == 3


async def test_workers_that_come_and_go_lose_nothing(topics: Installation) -> None:
    first = topics.echo(SECONDS="0.05")
    writing = asyncio.create_task(topics.write(SOURCE, numbered(3000)))
    await until(lambda: _at_least(topics, 100))
    second = topics.echo(SECONDS="0.05")
    await writing
    await until(lambda: _at_least(topics, 1000))
    assert await asyncio.to_thread(terminate, first) == (0, "")
    await until(lambda: all_committed(topics))
    assert set(await came_out(topics)) == set(range(3000))
    assert terminate(second) == (0, "")


async def test_a_rebalance_does_not_wait_for_the_slowest_record(topics: Installation) -> None:
    await topics.write(SOURCE, numbered(10), partition=0)
    first = topics.echo(HOLD="3", MAILVET_REBALANCE_GRACE_S="0.5")
    await until(lambda: _at_least(topics, 9))
    # The second worker is ready only when the first has let go.
    second = await asyncio.wait_for(asyncio.to_thread(topics.echo, HOLD="3"), 30)
    assert await topics.committed("echo", SOURCE) == 3
    first.kill()
    second.kill()


async def test_a_broker_that_restarts_is_waited_for(topics: Installation, killable_broker: Broker) -> None:
    worker = topics.echo(SECONDS="0.02")
    await topics.write(SOURCE, numbered(500))
    await until(lambda: _at_least(topics, 50))
    killable_broker.kill()
    killable_broker.restart()
    await topics.write(SOURCE, numbered(500, start=500))
    await until(lambda: all_committed(topics))
    assert set(await came_out(topics)) == set(range(1000))
    assert terminate(worker)[0] == 0


async def test_what_cannot_be_used_is_a_dead_letter_and_the_stream_goes_on(topics: Installation) -> None:
    huge = b"bad" + b"x" * (10 * 1024 * 1024)
    worker = topics.echo(SOURCE="requests")
    records = [(None, b"bad 1"), (b"k", None), (b"k", huge), (b"key" * 3000, b"bad 2"), (b"k", b"7")]
    await topics.write(FOREIGN, records)
    await until(lambda: all_committed(topics, FOREIGN))
    found = {record.value[:5]: record for record in await topics.read(DEAD)}
    assert found.keys() == {b"bad 1", b"bad 2", huge[:5]}
    assert found[b"bad 1"].key is None
    about = DeadLetter.model_validate_json(dict(found[huge[:5]].headers)[HEADER])
    assert (about.reason, about.role, about.size) == ("invalid", "echo", len(huge))
    assert found[huge[:5]].value == huge[:MAX_VALUE_BYTES]
    assert sorted(record.value for record in await topics.read(OUT)) == [b"", b"7"]
    assert terminate(worker) == (0, "")


async def test_strangers_transactions_leave_gaps_that_do_not_stop_the_commits(topics: Installation) -> None:
    worker = topics.echo(SOURCE="requests")
    async with AIOKafkaProducer(
        bootstrap_servers=topics.broker.bootstrap, transactional_id=topics.namespace
    ) as producer:
        for each in range(5):
            async with producer.transaction():
                await producer.send(FOREIGN.named(topics.namespace).name, b"%d" % each, partition=0)
    # Records stand at 0, 2, 4, ...; the transactions' own marks between them.
    await until(lambda: _committed(topics, FOREIGN, 9))
    assert await came_out(topics) == Counter(range(5))
    assert terminate(worker) == (0, "")


async def test_a_table_is_never_behind_what_was_committed(topics: Installation) -> None:
    await topics.write(SOURCE, [(b"a", b"x"), (b"b", b"x")] * 300)
    for wanted in (50, 250):
        worker = topics.echo(TABLE="1", SECONDS="0.05")
        await until(lambda wanted=wanted: _at_least(topics, wanted))
        worker.kill()
    topics.echo(TABLE="1")
    await until(lambda: all_committed(topics))
    counted: dict[bytes, set[int]] = {b"a": set(), b"b": set()}
    for record in await topics.read(OUT):
        counted[record.key].add(int(record.value))
    # A lost row would count too few, a row that came before its record's end too many.
    assert {key: max(counts) for key, counts in counted.items()} == {b"a": 300, b"b": 300}


async def test_a_change_that_comes_after_its_worker_has_lost_the_partition_is_left_out(topics: Installation) -> None:
    """As of a worker that was stopped, or whose network was, with the change on its way."""
    counted = 0
    for _ in range(2):
        worker = topics.echo(TABLE="1")
        await topics.write(SOURCE, [(b"a", b"x")] * 5)
        counted += 5
        await until(lambda: all_committed(topics))
        worker.kill()
    [late, *_] = [record for record in await topics.read(COUNTS.changelog()) if record.key == b"a"]
    await _again(topics, late)
    worker = topics.echo(TABLE="1")
    await topics.write(SOURCE, [(b"a", b"x")] * 5)
    await until(lambda: all_committed(topics))
    assert max(int(record.value) for record in await topics.read(OUT)) == counted + 5
    assert terminate(worker) == (0, "")


async def test_rows_of_partitions_that_went_elsewhere_are_forgotten(topics: Installation) -> None:
    keys = [b"k%d" % each for each in range(20)]
    first = topics.echo(TABLE="1")
    await topics.write(SOURCE, [(key, b"x") for key in keys])
    await until(lambda: _at_least(topics, 20))
    second = topics.echo(TABLE="1")
    await topics.write(SOURCE, [(key, b"x") for key in keys])
    await until(lambda: _at_least(topics, 40))
    assert await asyncio.to_thread(terminate, second) == (0, "")
    await topics.write(SOURCE, [(key, b"x") for key in keys])
    await until(lambda: all_committed(topics))
    last = {record.key: int(record.value) for record in sorted(await topics.read(OUT), key=lambda each: each.offset)}
    assert last == dict.fromkeys(keys, 3)
    assert terminate(first) == (0, "")


async def test_who_stands_by_takes_over_with_the_rows_as_they_stood(topics: Installation) -> None:
    """Killed in the middle of changes, twice, with one that comes too late."""
    keys = [b"k%d" % each for each in range(20)]
    workers = [topics.echo(TABLE="1", MAILVET_STANDBY_REPLICAS="1") for _ in range(2)]
    late = []
    for written in (11, 22):
        await topics.write(SOURCE, [(key, b"x") for key in keys] * 10)
        await until(lambda least=20 * written - 150: _at_least(topics, least))
        workers.pop(0).kill()
        await topics.write(SOURCE, [(key, b"x") for key in keys])
        await until(lambda: all_committed(topics))
        # On a busy machine the one that was killed may have lost its partitions before.
        for change in (await _of_former_owners(topics))[:1]:
            late.append(change)
            await _again(topics, change)
        workers.append(topics.echo(TABLE="1", MAILVET_STANDBY_REPLICAS="1"))
    await topics.write(SOURCE, [(key, b"x") for key in keys])
    await until(lambda: all_committed(topics))
    counted: dict[bytes, int] = dict.fromkeys(keys, 0)
    for record in await topics.read(OUT):
        counted[record.key] = max(counted[record.key], int(record.value))
    assert counted == dict.fromkeys(keys, 23)
    assert late
    for worker in workers:
        assert await asyncio.to_thread(terminate, worker) == (0, "")


async def _of_former_owners(topics: Installation) -> list[Any]:
    """Changes of workers that have lost the partition to another, which has changed rows of it since."""
    found = await topics.read(COUNTS.changelog())
    newest = {record.partition: int(dict(record.headers)[EPOCH]) for record in found}
    return [record for record in found if int(dict(record.headers)[EPOCH]) < newest[record.partition]]


async def _again(topics: Installation, late: Any) -> None:
    """A change reaches its changelog a second time."""
    async with AIOKafkaProducer(bootstrap_servers=topics.broker.bootstrap) as producer:
        name = COUNTS.changelog().named(topics.namespace).name
        await producer.send_and_wait(
            name, late.value, key=late.key, partition=late.partition, headers=list(late.headers)
        )


async def test_a_worker_that_no_longer_reads_stops_with_a_reason(topics: Installation) -> None:
    worker = topics.echo(DEAF="1", MAILVET_STALL_S="5")
    await topics.write(SOURCE, numbered(1), partition=0)
    await until(lambda: _committed(topics, SOURCE, 1))
    await asyncio.sleep(10)  # Twice as long as it takes: nothing to read is no standstill.
    assert worker.poll() is None
    await topics.write(SOURCE, numbered(3, start=1), partition=0)
    _, said = await asyncio.to_thread(worker.communicate, timeout=60)
    assert worker.returncode == 1
    where = f"{SOURCE.named(topics.namespace).name}[0]"
    assert said.splitlines()[-1] == f"failed: nothing of {where} was read for 5 s, where offset 1 waits"


async def test_what_cannot_be_delivered_stops_the_worker_with_a_reason(installation: Installation) -> None:
    await installation.create(SOURCE)  # and nowhere to write to
    worker = installation.echo(MAILVET_DELIVERY_TIMEOUT_S="2")
    await installation.write(SOURCE, numbered(1))
    _, said = await asyncio.to_thread(worker.communicate, timeout=60)
    assert worker.returncode == 1
    assert said.splitlines()[-1] == "failed: the broker did not confirm a record for mailvet.results.v1 within 2 s"
    assert {await installation.committed("echo", SOURCE, each) for each in range(2)} == {None}


async def test_a_dead_letter_that_cannot_be_written_stops_the_worker_with_a_reason(installation: Installation) -> None:
    # As an operator may have made it: it takes less than a dead letter has.
    small = replace(DEAD, max_message_bytes=1000)
    await installation.create(SOURCE, OUT, small)
    await installation.write(SOURCE, [(b"k", b"1"), (b"k", b"bad" + b"x" * 2000), (b"k", b"2")], partition=0)
    for _ in range(2):  # However often it is started.
        worker = installation.spawn(str(WORKER))
        _, said = await asyncio.to_thread(worker.communicate, timeout=60)
        assert worker.returncode == 1
        assert said.splitlines()[-1] == (
            "failed: a record is larger than mailvet.deadletters.v1 takes (max.message.bytes)"
        )
        assert await installation.committed("echo", SOURCE) in {None, 1}
    await installation.alter(small, {"max.message.bytes": str(DEAD.max_message_bytes)})
    worker = installation.echo()
    await until(lambda: _committed(installation, SOURCE, 3))
    assert [len(record.value) for record in await installation.read(DEAD)] == [2003]
    assert terminate(worker) == (0, "")


async def test_dead_letters_whose_topic_is_gone_stop_the_worker_with_a_reason(installation: Installation) -> None:
    await installation.create(SOURCE, OUT)
    worker = installation.echo(MAILVET_DELIVERY_TIMEOUT_S="2")
    await installation.write(SOURCE, [(b"k", b"bad")], partition=0)
    _, said = await asyncio.to_thread(worker.communicate, timeout=60)
    assert worker.returncode == 1
    assert said.splitlines()[-1] == "failed: the broker did not confirm a record for mailvet.deadletters.v1 within 2 s"
    assert await installation.committed("echo", SOURCE) is None


async def _at_least(installation: Installation, count: int) -> bool:
    return len(await installation.read(OUT)) >= count


async def _committed(installation: Installation, topic: Topic, offset: int) -> bool:
    return await installation.committed("echo", topic) == offset
