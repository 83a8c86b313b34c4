"""Ports and folders."""

import os
import socket
from pathlib import Path

import pytest

from ops.brokers import base


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(base.random, "sample", lambda *_: [port])
        with pytest.raises(base.BrokerError, match="no free port"):
            base.free_port()
    assert base.free_port() == port


def test_no_port_is_given_twice_before_anybody_listens_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PORTS", range(12_000, 12_300))
    given = [base.free_port() for _ in range(100)]
    assert len(set(given)) == 100


def test_the_cache_is_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILVET_CACHE", str(tmp_path / "a" / "b"))
    assert base.cache_dir() == tmp_path / "a" / "b"
    assert base.cache_dir().is_dir()


def test_in_a_checkout_the_cache_lies_beside_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAILVET_CACHE", raising=False)
    assert base.cache_dir() == Path(__file__).resolve().parents[3] / ".kafka"


def test_an_installed_package_uses_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAILVET_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(base, "__file__", str(tmp_path / "site-packages" / "ops" / "brokers" / "base.py"))
    assert base.cache_dir() == tmp_path / ".cache" / "mailvet"


def test_only_the_newest_logs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILVET_CACHE", str(tmp_path))
    for age in range(base.KEPT_LOGS + 5):
        log = base.log_file(f"broker-{age}")
        log.touch()
        os.utime(log, (1_000_000 - age, 1_000_000 - age))
    fresh = base.log_file("fresh")
    fresh.touch()
    kept = {log.name for log in fresh.parent.iterdir()}
    assert len(kept) == base.KEPT_LOGS
    assert {"fresh.log", "broker-0.log"} <= kept


def test_a_log_that_another_run_removes_meanwhile_is_no_error(tmp_path: Path) -> None:
    assert base._modified(tmp_path / "gone.log") == 0.0
