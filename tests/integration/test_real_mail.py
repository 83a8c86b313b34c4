"""The whole core on real servers: Postfix, Exim and postgrey as Debian ships them, at their default limits."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from ops.bench.contest import RunningSink, running_sink
from ops.bench.lists import LISTS, exists, host_address, mail_domain
from ops.bench.sink import SinkConfig
from ops.mta.exim import Exim
from ops.mta.postfix import Postfix
from ops.mta.postgrey import Postgrey
from ops.mta.server import MailServer
from schemas.result import Finding
from schemas.vocabulary import Depth, Reason
from streams.core import Core, open_core
from streams.settings import Settings

SESSION = re.compile(r"postfix/smtpd\[\d+\]: disconnect from \S+ (.*)$", re.MULTILINE)
COMMANDS = re.compile(r"commands=(?:(\d+)/)?(\d+)$")
RIGHT = {True: Reason.MAILBOX_ACCEPTED, False: Reason.MAILBOX_NOT_FOUND}


@pytest.fixture(scope="module")
def names() -> Iterator[RunningSink]:
    """DNS for the lists: ``*.h7.bench.test`` goes to the host of provider 7, wherever that listens."""
    with running_sink(SinkConfig(hosts=0)) as sink:
        yield sink


def settings(names: RunningSink, server: MailServer, **options: Any) -> Settings:
    return Settings(
        resolvers=(names.resolver,),
        smtp_port=server.port,
        allowed_networks=("127.0.0.0/8",),
        helo="probe.test",
        mail_from="postmaster@probe.test",
        **options,
    )


def hosts(count: int) -> list[str]:
    return [host_address(provider) for provider in range(count)]


async def verify(core: Core, addresses: Iterable[str], *, retry_delays_s: tuple[float, ...] = ()) -> dict[str, Finding]:
    verifier = core.verifier(retry_delays_s=retry_delays_s)
    return {text: finding async for _, text, finding in verifier.verify(addresses, Depth.SMTP, window=2000)}


def wrong(found: Mapping[str, Finding]) -> list[tuple[str, Reason, object]]:
    return [
        (address, finding.reason, finding.evidence)
        for address, finding in found.items()
        if finding.reason is not RIGHT[exists(address)]
    ]


async def ended_sessions(server: Postfix) -> list[str]:
    """What Postfix says of each session when all have ended, in the words of its log."""
    async with asyncio.timeout(20):
        while True:
            log = server.log()
            if len(ended := SESSION.findall(log)) == log.count("]: connect from "):
                return ended
            await asyncio.sleep(0.1)


def refusals(session: str) -> int:
    """Commands that Postfix refused in a session: its own count of errors."""
    good, total = COMMANDS.search(session).groups()  # type: ignore[union-attr]
    return int(total) - int(good or total)


@pytest.mark.parametrize("name", ["A", "B"])
async def test_postfix_delays_no_reply_by_its_soft_error_limit(start_mta, names: RunningSink, name: str) -> None:
    """It delays each reply from the eleventh error of a session on: so its own counts prove that it delayed none."""
    rows = LISTS[name]
    server = start_mta(lambda: Postfix(hosts(rows.providers)))
    async with open_core(settings(names, server)) as core:
        found = await verify(core, rows.one_pass(0))
        counters = core.pool.snapshot().counters
    assert not wrong(found)
    assert len(found) == rows.size
    assert counters["broken"] == 0
    sessions = await ended_sessions(server)
    assert sum(map(refusals, sessions)) >= rows.size * rows.miss_ratio
    assert max(map(refusals, sessions)) <= 10
    assert "too many errors" not in server.log()
    assert "concurrency limit" not in server.log()


@pytest.mark.parametrize(
    ("make", "limit", "complaint"),
    [
        (Postfix, {"smtpd_client_connection_count_limit": "2"}, "Connection concurrency limit exceeded"),
        (Exim, {"smtp_accept_max_per_host": "2"}, "too many connections from that IP address"),
    ],
)
async def test_a_server_that_takes_fewer_connections_than_we_would_have_answers_for_everybody(
    start_mta, names: RunningSink, make: type[MailServer], limit: Mapping[str, str], complaint: str
) -> None:
    """That one more was too many is no word about those who wait."""
    server = start_mta(lambda: make(hosts(1), settings=limit))
    people = [f"{local}{n}@{mail_domain('few', 0)}" for n in range(150) for local in ("user", "gone")]
    async with open_core(settings(names, server, sessions_per_provider=8)) as core:
        found = await verify(core, people)
    assert not wrong(found)
    assert len(found) == len(people)
    assert complaint in server.log()


async def test_exim_ends_no_session(start_mta, names: RunningSink) -> None:
    """Forty domains on one host: transactions, domains and refusals of many sessions."""
    # One daemon stands for all hosts of a list: its own limit of connections would count them together.
    server = start_mta(lambda: Exim(hosts(20), settings={"smtp_accept_max": "0"}))
    people = [
        f"{local}{n}@{mail_domain(f'd{domain}', domain % 20)}"
        for domain in range(40)
        for n in range(10)
        for local in ("user", "gone")
    ]
    async with open_core(settings(names, server)) as core:
        found = await verify(core, people)
        counters = core.pool.snapshot().counters
    assert not wrong(found)
    assert counters["broken"] == 0
    log = server.log()
    assert log.count("rejected RCPT") >= len(people) / 2
    for complaint in ("nonmail", "synchronization error", "too many", "unexpected disconnection"):
        assert complaint not in log


async def test_postgrey_is_answered_by_asking_again_from_the_same_source(start_mta, names: RunningSink) -> None:
    grey = start_mta(lambda: Postgrey(1))
    server = start_mta(lambda: Postfix(hosts(1), settings={"smtpd_recipient_restrictions": grey.restriction}))
    people = [f"{local}{n}@{mail_domain('grey', 0)}" for n in range(3) for local in ("user", "gone")]
    async with open_core(settings(names, server)) as core:
        found = await verify(core, people, retry_delays_s=(2.5, 2.5))
    assert not wrong(found)
    assert {finding.attempt for finding in found.values()} == {2}
    assert {past.reason for finding in found.values() for past in finding.attempts} == {Reason.GREYLISTED}
    assert "action=pass, reason=triplet found" in grey.log()


async def test_postfix_restarted_in_mid_batch_costs_nobody_a_verdict(start_mta, names: RunningSink) -> None:
    """Whoever was asked meanwhile has a reason that speaks of us, and the next attempt brings the verdict."""
    server = start_mta(lambda: Postfix(hosts(5)))
    rows = LISTS["B"]
    found: dict[str, Finding] = {}
    async with open_core(settings(names, server)) as core:
        verifier = core.verifier(retry_delays_s=(1.0, 6.0, 12.0))
        async for _, address, finding in verifier.verify(rows.one_pass(1), Depth.SMTP, window=1000):
            found[address] = finding
            if len(found) == 200:
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
        counters = core.pool.snapshot().counters
        assert counters["broken"] + counters["dials_failed"] > 0, "sessions were cut, or could not be had"
    assert not wrong(found)
    assert len(found) == rows.size
    past = Counter(past.reason for finding in found.values() for past in finding.attempts)
    assert set(past) <= {Reason.CONNECT_FAILED, Reason.TIMEOUT, Reason.PROTOCOL_ERROR}
