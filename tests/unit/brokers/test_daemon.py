"""A process that does not serve is told apart from one that ended; both errors say where the log lies."""

import sys
from pathlib import Path

import pytest

from ops.brokers.base import BrokerError
from ops.brokers.daemon import Daemon


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_process_that_ends_is_named_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "b.log"
    daemon = Daemon(python("print('no memory'); raise SystemExit(3)"), log=log, ready=lambda: False)
    with pytest.raises(BrokerError, match="ended with status 3: no memory") as raised:
        daemon.start()
    assert str(log) in str(raised.value)
    assert not daemon.running


def test_a_process_that_never_serves_is_killed(tmp_path: Path) -> None:
    daemon = Daemon(python("input()"), log=tmp_path / "b.log", ready=lambda: False, start_timeout=0)
    with pytest.raises(BrokerError, match="did not serve within 0 s"):
        daemon.start()
    assert not daemon.running


def test_an_interrupted_start_leaves_no_process(tmp_path: Path) -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    daemon = Daemon(python("import time; time.sleep(60)"), log=tmp_path / "b.log", ready=interrupted)
    with pytest.raises(KeyboardInterrupt):
        daemon.start()
    assert not daemon.running


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "b.log"
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    daemon = Daemon(python(program), log=log, ready=lambda: b"deaf" in log.read_bytes())
    daemon.start()
    daemon.stop(timeout=0)
    assert not daemon.running


def test_what_never_ran_can_be_stopped_and_killed(tmp_path: Path) -> None:
    daemon = Daemon(python(""), log=tmp_path / "b.log", ready=lambda: True)
    daemon.stop()
    daemon.kill()
    assert not daemon.running
