"""The core and every fault: each address has a reason that speaks of us, and the same core recovers by itself."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator

import pytest

from ops.bench.contest import RunningSink, running_sink
from ops.bench.lists import host_address, mail_domain
from ops.bench.sink import SinkConfig
from ops.world import World
from schemas.result import Finding
from schemas.vocabulary import Depth, Reason, Verdict
from streams.core import Core, open_core
from streams.settings import Settings
from tests.contract.smtp.faults import FAULTS, Fault, heal, honest
from tests.contract.smtp.smtp_scripts import MailServer

DOMAIN = mail_domain("faults", 0)
PEOPLE = {f"{local}{n}@{DOMAIN}": local == "user" for n in range(10) for local in ("user", "gone")}
QUICK = {"helo": "probe.test", "connect_timeout_s": 0.4, "command_timeout_s": 0.4, "dns_timeout_s": 0.4}


@pytest.fixture(scope="module")
def names() -> Iterator[RunningSink]:
    """DNS alone."""
    with running_sink(SinkConfig(hosts=0)) as sink:
        yield sink


@pytest.fixture
async def server() -> AsyncIterator[MailServer]:
    serving = MailServer(address=host_address(0), respond=honest)
    await serving.start()
    yield serving
    await serving.stop()


def settings(resolver: str, smtp_port: int) -> Settings:
    return Settings(resolvers=(resolver,), smtp_port=smtp_port, allowed_networks=("127.0.0.0/8",), **QUICK)  # type: ignore[arg-type]


async def verify(core: Core, addresses: object = PEOPLE) -> dict[str, Finding]:
    return {text: found async for _, text, found in core.verifier().verify(addresses, Depth.SMTP)}  # type: ignore[arg-type]


def right(found: dict[str, Finding]) -> bool:
    truth = {True: Reason.MAILBOX_ACCEPTED, False: Reason.MAILBOX_NOT_FOUND}
    return {address: finding.reason for address, finding in found.items()} == {
        address: truth[exists] for address, exists in PEOPLE.items()
    }


async def recovered(core: Core) -> None:
    """Breakers and brakes let go in their own time; the deadline only ends a broken test."""
    async with asyncio.timeout(60):
        while not right(await verify(core)):  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    assert core.pool.snapshot().waiters == 0


def speaks_of_us(found: dict[str, Finding], *reasons: Reason) -> None:
    assert found.keys() == PEOPLE.keys()
    assert {finding.verdict for finding in found.values()} == {Verdict.UNKNOWN}
    assert {finding.reason for finding in found.values()} <= set(reasons)
    assert all(finding.retryable for finding in found.values())


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_each_address_has_an_honest_reason(names: RunningSink, server: MailServer, fault: Fault) -> None:
    fault.apply(server)
    async with open_core(settings(names.resolver, server.port)) as core:
        found = await verify(core)
        if fault.reason is None:
            assert right(found)
        else:
            speaks_of_us(found, fault.reason)
        heal(server)
        await recovered(core)


async def test_a_server_that_is_down(names: RunningSink, server: MailServer) -> None:
    async with open_core(settings(names.resolver, server.port)) as core:
        assert right(await verify(core))
        await server.stop()
        speaks_of_us(await verify(core), Reason.CONNECT_FAILED, Reason.PROTOCOL_ERROR)
        await server.start()
        await recovered(core)


async def test_dns_that_answers_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.dns.resolver.FAILURE_TTL", (0.1, 0.1))
    address = "alice@accepts.test"
    async with World() as world, open_core(settings(world.resolver, world.smtp_port)) as core:
        world.set_rtt(1.0)
        found = await verify(core, [address])
        assert (found[address].reason, found[address].retryable) == (Reason.DNS_TEMPORARY, True)
        world.set_rtt(0.0)
        async with asyncio.timeout(20):
            # What comes too late is nobody's answer.
            while found[address].reason is not Reason.MAILBOX_ACCEPTED:
                await asyncio.sleep(0.1)
                found = await verify(core, [address])


async def test_no_file_descriptors_left(names: RunningSink, server: MailServer) -> None:
    async with open_core(settings(names.resolver, server.port)) as core:
        await verify(core, [f"user@{mail_domain('before', 0)}"])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        # The session that rests is not enough for twenty addresses; no second one can be opened.
        await core.resolver.route(DOMAIN)
        server.writers[-1].transport.abort()
        await asyncio.sleep(0.05)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        try:
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass
            found = await verify(core)
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        speaks_of_us(found, Reason.CONNECT_FAILED)
        assert right(await verify(core)), "nobody is left alone for what this machine lacked"
