"""Every fault that a server, a network or this machine can have: an honest word for each address, and recovery."""

import asyncio
import gc
import os
import resource

import pytest

from streams.smtp.errors import ConnectFailed
from streams.smtp.lifecycle import Life
from streams.smtp.replies import MAX_KEPT
from tests.contract.smtp.faults import FAULTS, Fault, heal, honest

PEOPLE = ["user1@x.test", "gone2@x.test", "user3@x.test"]
TRUTH = [250, 550, 250]
QUICK = {"connect_timeout_s": 0.3, "command_timeout_s": 0.3, "stall_s": 0.3, "breaker_base_s": 0.1}


@pytest.fixture(autouse=True)
def no_collector():
    """What is closed, we have closed: the garbage collector hides a socket that was forgotten."""
    gc.disable()
    yield
    gc.enable()


async def ask(pool, server) -> list[int | str]:
    """A code for each recipient, or why there is none."""
    try:
        async with pool.lease("p", [server.host], timeout=10) as connection:
            answers = await connection.ask(PEOPLE)
    except ConnectFailed as failed:
        return [str(failed)] * len(PEOPLE)
    return [reply.code if reply else str(answers.ended or answers.detail) for reply in answers.replies]


async def recovered(pool, server, until) -> None:
    """The pool serves again without anybody's help, and has nothing left over."""
    async with asyncio.timeout(10):
        while await ask(pool, server) != TRUTH:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    # The pool may look after the host at the same time.
    await until(lambda: set(pool.snapshot().states) == {Life.IDLE})
    view = pool.snapshot()
    assert view.waiters == 0
    assert view.providers["p"].hosts_left_alone == 0
    assert await pool.drain(5)
    await until(lambda: server.gone == server.connections)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("used", [False, True], ids=["new session", "used session"])
async def test_a_fault_is_told_and_got_over(make_pool, serve, until, fault: Fault, used: bool):
    server = await serve(respond=honest)
    pool = make_pool(**QUICK)
    if used:
        assert await ask(pool, server) == TRUTH
    fault.apply(server)
    said = [await ask(pool, server) for _ in range(4)]
    for answers in said:
        assert all(answers), "a reply, or why there is none"
        # A session that the fault does not reach serves on.
        assert answers == TRUTH or 550 not in answers, "our failure is no verdict"
    if fault.reason is None:
        assert said == [TRUTH] * 4
    heal(server)
    await recovered(pool, server, until)


async def test_a_server_that_restarts(make_pool, serve, until):
    server = await serve(respond=honest)
    pool = make_pool(**QUICK)
    assert await ask(pool, server) == TRUTH
    await server.stop()
    for _ in range(4):
        assert not {250, 550} & set(await ask(pool, server))
    await server.start()
    await recovered(pool, server, until)


async def test_no_file_descriptors_left(make_pool, serve, until):
    server = await serve(respond=honest)
    pool = make_pool(breaker_failures=1, **QUICK)
    await ask(pool, server)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with pool.lease("p", [server.host], timeout=10) as held:
        # Every descriptor up to the highest is in use, or will be: none can be opened beyond it.
        taken = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        try:
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass
            for _ in range(3):
                with pytest.raises(ConnectFailed, match="Too many open files") as failed:
                    async with pool.lease("p", [server.host], timeout=5):
                        pass
                assert failed.value.attempts[0].local
            # What is open serves on.
            assert [reply.code for reply in (await held.ask(PEOPLE)).replies] == TRUTH
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await recovered(pool, server, until)


async def test_a_long_refusal_is_not_kept_whole(make_pool, serve):
    server = await serve(banner=b"554-%s\r\n" % (b"x" * 400) * 20 + b"554 go away\r\n")
    pool = make_pool(**QUICK)
    with pytest.raises(ConnectFailed) as failed:
        async with pool.lease("p", [server.host], timeout=10):
            pass
    [attempt] = failed.value.attempts
    assert attempt.reply.code == 554
    assert MAX_KEPT - 400 < sum(map(len, attempt.reply.lines)) <= MAX_KEPT
