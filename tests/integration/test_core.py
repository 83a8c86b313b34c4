"""The core against every personality of the world: sockets, no Kafka."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from ops.world import World, WorldConfig
from schemas.result import Finding
from schemas.vocabulary import Depth
from streams.core import Core, open_core
from streams.settings import Settings

QUICK = {
    "helo": "probe.mailvet.test",
    "mail_from": "probe@mailvet.test",
    "connect_timeout_s": 1.0,
    "command_timeout_s": 2.0,
    "dns_timeout_s": 2.5,
    "dialogue_deadline_s": 20.0,
}


def settings(world: World, **options: object) -> Settings:
    return Settings(
        resolvers=(world.resolver,), smtp_port=world.smtp_port, allowed_networks=(world.network,), **(QUICK | options)
    )  # type: ignore[arg-type]


async def verify(
    core: Core, addresses: Iterable[str], *, retry_delays_s: tuple[float, ...] = (), window: int = 1000
) -> dict[str, Finding]:
    verifier = core.verifier(retry_delays_s=retry_delays_s)
    return {text: finding async for _, text, finding in verifier.verify(addresses, Depth.SMTP, window=window)}


async def test_the_first_ask_says_what_each_personality_must_give() -> None:
    async with World() as world, open_core(settings(world)) as core:
        found = await verify(core, [sample.address for sample in world.samples()])
        wrong = [
            (sample.address, sample.first_reason, found[sample.address].reason, found[sample.address].evidence)
            for sample in world.samples()
            if found[sample.address].reason is not sample.first_reason
        ]
        assert not wrong
        assert world.stats.violations == []


async def test_asking_again_later_ends_in_the_right_verdict() -> None:
    async with World() as world, open_core(settings(world)) as core:
        samples = [sample for sample in world.samples() if sample.first_reason is not sample.reason]
        found = await verify(core, [sample.address for sample in samples], retry_delays_s=(1.5, 1.5))
        assert {sample.address: found[sample.address].reason for sample in samples} == {
            sample.address: sample.reason for sample in samples
        }
        assert {finding.attempt for finding in found.values()} == {2}
        assert all(len(finding.attempts) == 1 for finding in found.values())


WAYS = """
[default]
sessions = 3

[[ways]]
name = "one"
helo = "one.mailvet.test"
source_ipv4 = "127.0.0.31"

[[ways]]
name = "two"
source_ipv4 = "127.0.0.32"

[[ways]]
name = "down"
proxy = { host = "127.0.0.1", port = 1, username = "user-u", password_env = "PROXY_PASSWORD" }
"""


async def test_several_ways_find_the_same_and_greylisting_is_waited_out_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXY_PASSWORD", "pass-s3cret")
    (tmp_path / "smtp.toml").write_text(WAYS)
    async with World() as world, open_core(settings(world, smtp_config=str(tmp_path / "smtp.toml"))) as core:
        samples = list(world.samples())
        found = await verify(core, [sample.address for sample in samples], retry_delays_s=(1.5, 1.5))
        assert {sample.address: found[sample.address].reason for sample in samples} == {
            sample.address: sample.reason for sample in samples
        }
        assert world.stats.violations == []
        answered = {finding.evidence.way for finding in found.values() if finding.evidence.smtp_code}
        assert answered == {"one", "two"}, "the third never reached anybody"
        assert "s3cret" not in repr(core.pool.snapshot()) + "".join(
            finding.model_dump_json() for finding in found.values()
        )


async def test_thousands_share_few_sessions_and_every_one_is_right() -> None:
    async with World(WorldConfig(bulk_domains=100, bulk_hosts=5)) as world, open_core(settings(world)) as core:
        samples = list(world.bulk_addresses(2000))
        found = await verify(core, [sample.address for sample in samples])
        assert {address: finding.reason for address, finding in found.items()} == {
            sample.address: sample.reason for sample in samples
        }
        assert world.stats.violations == []
        assert core.pool.snapshot().waiters == 0
