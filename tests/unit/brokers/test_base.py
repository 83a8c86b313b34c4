"""Ports and folders."""

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
