"""A record that is being worked on is never committed past, and this test would notice if it were."""

from dataclasses import replace

import pytest

from schemas.topics import ADMITTED_BULK, RESULTS, Topic
from tests.integration.conftest import Installation, until

SOURCE = replace(ADMITTED_BULK, partitions=2)
OUT = replace(RESULTS, partitions=2)
RECORDS = 20


async def committed_past(installation: Installation, held: int, acks: str) -> bool:
    """Work on twenty records, one of which never ends; whether the group's committed offset passes that one."""
    await installation.create(SOURCE, OUT)
    await installation.write(SOURCE, ((b"k", b"%d" % each) for each in range(RECORDS)), partition=0)
    worker = installation.echo(HOLD=str(held), ACKS=acks)
    await until(lambda: _count(installation, OUT, RECORDS - 1))
    # What is committed on partition 1 from here on is committed together with all that partition 0 would commit.
    # Three times: Faust needs two commits to get past a hole.
    for offset in range(1, 4):
        await installation.write(SOURCE, [(b"k", b"more")], partition=1)
        await until(lambda offset=offset: _committed(installation, partition=1, offset=offset))
    worker.kill()
    offset = await installation.committed("echo", SOURCE, partition=0)
    return offset is not None and offset > held


@pytest.mark.parametrize("held", [0, 7])
async def test_work_in_progress_is_never_committed_past(installation: Installation, held: int) -> None:
    assert not await committed_past(installation, held, acks="ordered")
    if held:
        await until(lambda: _committed(installation, partition=0, offset=held))


@pytest.mark.parametrize("held", [0, 7])
async def test_the_check_catches_acks_out_of_order(installation: Installation, held: int) -> None:
    assert await committed_past(installation, held, acks="unordered")


async def _count(installation: Installation, topic: Topic, count: int) -> bool:
    return len(await installation.read(topic)) >= count


async def _committed(installation: Installation, *, partition: int, offset: int) -> bool:
    return await installation.committed("echo", SOURCE, partition) == offset
