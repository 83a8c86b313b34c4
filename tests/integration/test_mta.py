"""The real servers are what they are taken for: default limits that hold for us, restarts, and no orphans."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import pytest

from ops.mta.exim import Exim
from ops.mta.postfix import Postfix
from ops.mta.server import MailServer

KINDS = pytest.mark.parametrize("kind", [Postfix, Exim])


class Dialogue:
    """A client that minds no limits."""

    def __init__(self, server: MailServer) -> None:
        self.socket = socket.create_connection((server.addresses[0], server.port), timeout=20)
        self._lines = self.socket.makefile("rb")
        self.banner = self._reply()

    def say(self, *commands: str) -> list[str]:
        """All of them in one write; the replies' last lines, up to the end of the connection."""
        self.socket.sendall("".join(f"{command}\r\n" for command in commands).encode())
        return [reply for _ in commands if (reply := self._reply())]

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

    def _reply(self) -> str:
        while (line := self._lines.readline().decode()) and line[3:4] == "-":
            pass
        return line.rstrip()


def listening(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


@KINDS
def test_it_knows_its_mailboxes_and_comes_back_on_its_port(start_mta, kind: type[MailServer]) -> None:
    server = start_mta(kind)
    for _ in range(2):
        with closing(Dialogue(server)) as client:
            client.say("EHLO probe.test")
            said = client.say("MAIL FROM:<>", "RCPT TO:<user1@a.test>", "RCPT TO:<x@a.test>", "RCPT TO:<user1@a.org>")
        assert [reply[:3] for reply in said[:3]] == ["250", "250", "550"]
        assert said[3][:3] in ("554", "550"), "no relay"
        server.stop()
        assert not listening(server.addresses[0], server.port)
        server.start()
    server.close()
    assert not server.folder.exists()


def test_postfix_counts_the_connections_of_loopback_and_of_each_address_alone(start_mta) -> None:
    server = start_mta(lambda: Postfix(("127.89.1.1", "127.89.1.2")))
    with ExitStack() as open_ones:
        clients = [open_ones.enter_context(closing(Dialogue(server))) for _ in range(51)]
        assert [client.banner[:3] for client in clients] == ["220"] * 50 + ["421"]
        with socket.create_connection((server.addresses[1], server.port), timeout=20) as other:
            assert other.recv(3) == b"220"


def test_postfix_hangs_up_at_the_twentieth_error(start_mta) -> None:
    server = start_mta(lambda: Postfix(settings={"smtpd_error_sleep_time": "0s"}))
    with closing(Dialogue(server)) as client:
        client.say("EHLO probe.test", "MAIL FROM:<>")
        said = client.say(*(f"RCPT TO:<nobody{n}@a.test>" for n in range(25)))
    assert [reply[:3] for reply in said] == ["550"] * 20 + ["421"]


def test_exim_hangs_up_at_too_many_resets(start_mta) -> None:
    server = start_mta(Exim)
    with closing(Dialogue(server)) as client:
        client.say("EHLO probe.test")
        said = client.say(*(["RSET"] * 15))
    assert len(said) < 15
    assert said[-1].startswith("554")
    assert "too many nonmail commands" in server.log()


@KINDS
def test_no_server_outlives_whoever_started_it(start_mta, kind: type[MailServer]) -> None:
    start_mta(kind).close()  # it is to be had
    script = (
        f"import time\nfrom {kind.__module__} import {kind.__name__} as Kind\n"
        "with Kind() as server:\n    print(server.folder, server.port, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder, port = process.stdout.readline().split()
        os.kill(process.pid, signal.SIGKILL)
    address = "127.89.1.1" if kind is Postfix else "127.89.2.1"
    deadline = time.monotonic() + 20
    while listening(address, int(port)):
        assert time.monotonic() < deadline, "it serves on"
        time.sleep(0.05)
    subprocess.run(["rm", "-r", folder], check=True)
