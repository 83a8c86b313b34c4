"""`mailvet world` in a process of its own."""

import json
import signal
import smtplib
import socket
import subprocess
import sys

import pytest

COMMAND = (sys.executable, "-m", "ops.cli.main", "world")


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen((*COMMAND, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_at_the_end_what_happened(number: signal.Signals) -> None:
    process = start("--json", "--rtt", "1")
    try:
        assert process.stdout
        serving = json.loads(process.stdout.readline())
        assert serving["event"] == "serving"
        sample = serving["samples"][0]
        assert (sample["address"], sample["verdict"], sample["reason"]) == (
            "alice@accepts.test",
            "deliverable",
            "mailbox_accepted",
        )
        with smtplib.SMTP(serving["hosts"]["mx.accepts.test"], serving["smtp_port"], timeout=10) as client:
            assert client.ehlo("me.test")[0] == 250
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    stopped = json.loads(output)
    assert (stopped["event"], stopped["stats"]["connections"]) == ("stopped", 1)
    assert (process.returncode, errors) == (0, "")


def test_without_json_people_get_a_table_and_a_line_to_try() -> None:
    process = start("--bulk-domains", "4", "--bulk-hosts", "2")
    try:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        shown = []
        for line in lines:
            shown.append(line)
            if "Ctrl-C" in line:
                break
    finally:
        process.terminate()
        process.communicate(timeout=20)
    text = "".join(shown)
    assert "zoe.missing@greylists.test" in text
    assert "mailvet check --resolver 127.0.0.1:" in text
    assert "4 domains" in text


def test_hosts_only_leaves_dns_to_others() -> None:
    process = start("--json", "--host-only")
    try:
        assert process.stdout
        assert json.loads(process.stdout.readline())["resolver"] is None
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_a_taken_port_is_one_line_and_exit_code_2() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
        squatter.bind(("127.0.0.1", 0))
        port = squatter.getsockname()[1]
        done = subprocess.run(
            (*COMMAND, "--dns-port", str(port)), capture_output=True, text=True, timeout=30, check=False
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"DNS port {port} at 127.0.0.1 is taken" in done.stderr
