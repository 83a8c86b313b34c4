"""Whom to ask."""

from pathlib import Path

import pytest

from streams.dns.nameservers import NameServer, name_servers, parse_name_server


@pytest.mark.parametrize(
    ("text", "server", "shown"),
    [
        ("192.0.2.1", NameServer("192.0.2.1", 53), "192.0.2.1:53"),
        ("127.0.0.1:5353", NameServer("127.0.0.1", 5353), "127.0.0.1:5353"),
        ("2001:db8::1", NameServer("2001:db8::1", 53), "[2001:db8::1]:53"),
        ("[2001:db8::1]:5353", NameServer("2001:db8::1", 5353), "[2001:db8::1]:5353"),
        ("[2001:db8::1]", NameServer("2001:db8::1", 53), "[2001:db8::1]:53"),
    ],
)
def test_addresses_with_and_without_a_port(text: str, server: NameServer, shown: str) -> None:
    assert parse_name_server(text) == server
    assert str(server) == shown


@pytest.mark.parametrize(
    "text", ["", "dns.example", "192.0.2.1:0", "192.0.2.1:70000", "192.0.2.1:x", "[192.0.2", ":53"]
)
def test_anything_else_is_named_in_the_error(text: str) -> None:
    with pytest.raises(ValueError, match="name server") as refused:
        parse_name_server(text)
    assert repr(text) in str(refused.value)


def test_those_given_come_before_the_system() -> None:
    assert name_servers(["192.0.2.1", "192.0.2.2:54"]) == (NameServer("192.0.2.1"), NameServer("192.0.2.2", 54))


def test_the_system_says_who_answers(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "search example.test\nnameserver 192.0.2.1\n# nameserver 192.0.2.9\nnameserver\nnameserver 2001:db8::1\n"
    )
    assert name_servers([], file) == (NameServer("192.0.2.1"), NameServer("2001:db8::1"))


def test_a_system_that_says_nothing_means_its_own_server(tmp_path: Path) -> None:
    assert name_servers([], tmp_path / "missing") == (NameServer("127.0.0.1"),)
    (tmp_path / "empty").write_text("options edns0\n")
    assert name_servers([], tmp_path / "empty") == (NameServer("127.0.0.1"),)
