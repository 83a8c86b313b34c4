"""Our own contestant in several processes."""

import asyncio

import pytest

from ops.bench import engine
from ops.bench.engine import EngineConfig, run, shares


def test_a_share_that_fails_before_it_is_ready_ends_all_of_them(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    addresses = ["user@a.test", "user@b.test", "user@c.test", "user@d.test"]
    failing, waiting = shares(addresses, 2)
    assert failing
    assert waiting

    async def verify(config, share, ready) -> None:
        await asyncio.sleep(0)
        if share == failing:
            raise ValueError("no name server")
        ready()

    monkeypatch.setattr(engine, "verify", verify)
    assert run(EngineConfig("127.0.0.1:1", 1, 10, processes=2), addresses) == 1
    assert "no name server" in capfd.readouterr().err
