"""The two pools side by side: so many threads on the synchronous one, so many tasks on the asynchronous one."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ops.bench.contest import ContestError, RunningSink
from ops.bench.lists import EXISTS, host_address, mail_domain
from streams.smtp._async.pool import AsyncSMTPPool
from streams.smtp._sync.pool import SMTPPool
from streams.smtp.exchange import Answers
from streams.smtp.hosts import Host
from streams.smtp.identity import Identity
from streams.smtp.lifecycle import Snapshot
from streams.smtp.policy import PolicyBook, ProviderPolicy

AT_ONCE = 10
LEASE_S = 30.0
JOIN_S = 120.0


@dataclass(frozen=True, slots=True)
class PoolRates:
    """Recipients a second through each pool with the same number of sessions, and sessions that were left open."""

    workers: int
    asynchronous: float
    synchronous: float
    leaked: int


def compare(sink: RunningSink, recipients: int, workers: int = 32) -> PoolRates:
    """Ask for as many existing recipients through both pools, with a session for each worker.

    :raises ContestError: a thread never came back, or an answer was missing.
    """
    policies = PolicyBook(default=ProviderPolicy(sessions=workers))
    asynchronous, left_async = asyncio.run(_asynchronous(sink, recipients, workers, policies))
    synchronous, left_sync = _synchronous(sink, recipients, workers, policies)
    return PoolRates(workers, asynchronous, synchronous, left_async + left_sync)


def _jobs(recipients: int) -> deque[list[str]]:
    name = mail_domain("pools", 0)
    return deque([f"{EXISTS}{first + i}@{name}" for i in range(AT_ONCE)] for first in range(0, recipients, AT_ONCE))


def _hosts(sink: RunningSink) -> tuple[Host, ...]:
    return (Host("mx.pools.test", host_address(0), sink.smtp_port),)


async def _asynchronous(sink: RunningSink, recipients: int, workers: int, policies: PolicyBook) -> tuple[float, int]:
    jobs, hosts = _jobs(recipients), _hosts(sink)
    pool = AsyncSMTPPool(identity=Identity("bench.test", ""), policies=policies)

    async def work() -> None:
        while jobs:
            chunk = jobs.popleft()
            async with pool.lease("pools", hosts, timeout=LEASE_S) as connection:
                _check(await connection.ask(chunk))

    begun = time.monotonic()
    await asyncio.gather(*(work() for _ in range(workers)))
    rate = recipients / (time.monotonic() - begun)
    await pool.close()
    return rate, _open(pool.snapshot)


def _synchronous(sink: RunningSink, recipients: int, workers: int, policies: PolicyBook) -> tuple[float, int]:
    jobs, hosts = _jobs(recipients), _hosts(sink)
    pool = SMTPPool(identity=Identity("bench.test", ""), policies=policies)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                try:
                    chunk = jobs.popleft()
                except IndexError:
                    return
                with pool.lease("pools", hosts, timeout=LEASE_S) as connection:
                    _check(connection.ask(chunk))
        except Exception as error:  # noqa: BLE001  told below, by the thread that waits
            failed.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_S)
    rate = recipients / (time.monotonic() - begun)
    if failed or any(thread.is_alive() for thread in threads):
        raise ContestError(f"the synchronous pool: {failed[0] if failed else 'a thread never came back'}")
    pool.close()
    return rate, _open(pool.snapshot)


def _check(answers: Answers) -> None:
    if not all(reply is not None and reply.positive for reply in answers.replies):
        raise ContestError(f"the sink did not accept everybody: {answers}")


def _open(snapshot: Callable[[], Snapshot]) -> int:
    return len(snapshot().connections)
