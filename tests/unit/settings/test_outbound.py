"""The operator's file of providers and ways out: what it means, and the sentence for what is wrong."""

import re
from pathlib import Path
from typing import Any

import pytest

from streams.core import _policies
from streams.outbound import NOTHING, Outbound, OutboundError, _Proxy, _Way, read_outbound
from streams.settings import Settings
from streams.smtp.identity import Identity
from streams.smtp.policy import ProviderPolicy, StartTLS
from streams.smtp.ways import Proxy, Way

PAGE = Path(__file__).parents[3] / "docs" / "providers.md"
ME = Identity("probe.example.org", "me@example.org")
BASE = {"sessions": 4, "connect_timeout_s": 10.0, "command_timeout_s": 30.0}
SECRETS = {"US_1_PASSWORD": "pass-s3cret", "USER": "user-u", "EMPTY": ""}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def parsed(text: str, **base: Any) -> Outbound:
        file = tmp_path / "smtp.toml"
        file.write_text(text)
        return read_outbound(str(file), ME, {**BASE, **base}, SECRETS)

    return parsed


def test_no_file_says_nothing() -> None:
    assert read_outbound("", ME, BASE) is NOTHING


def test_an_empty_file_says_nothing(read: Any) -> None:
    assert read("") == NOTHING


def test_the_example_of_the_page(read: Any) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = read(example)
    assert found.ways == (
        Way("eu-1", Identity("mail1.example.org", "probe@example.org"), ("192.0.2.10", "2001:db8::10")),
        Way(
            "us-1",
            Identity("mail2.example.org", "me@example.org"),
            proxy=Proxy("proxy.example.org", 1080, "mailvet", "pass-s3cret"),
        ),
    )
    assert found.providers["example.net"] == {
        "error_budget": 5,
        "pipelining": False,
        "starttls": StartTLS.OFFERED,
    }
    book = _policies(Settings(), found)
    assert (book.policy("google").sessions, book.policy("google").domains_per_transaction) == (20, 1)
    assert book.policy("example.net").starttls is StartTLS.OFFERED
    assert "pass-s3cret" not in repr(found)


def test_a_way_may_say_nothing_of_its_own(read: Any) -> None:
    assert read('[[ways]]\nname = "a"\nmail_from = ""\n').ways == (Way("a", Identity("probe.example.org", "")),)


def test_the_page_lists_every_field_of_a_way() -> None:
    page = PAGE.read_text()
    assert [name for name in (*_Way.model_fields, *_Proxy.model_fields) if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sessions = ", "this is not TOML"),
        ("[defaults]\n", "defaults: there is no such field; did you mean default?"),
        ("[default]\nsession = 3", "default.session: there is no such field; did you mean sessions?"),
        ("[default]\nzzz = 3", "default.zzz: there is no such field"),
        ('[default]\nsessions = "3"', "default.sessions: input should be a valid integer"),
        ("[default]\nsessions = true", "default.sessions: input should be a valid integer"),
        ("[default]\nstall_s = nan", "default.stall_s: input should be a finite number"),
        ("[default]\nsessions = 0", "default: sessions and rcpt_per_transaction must be 1 or more"),
        ("[default]\nwarm = 5", "default: warm must be 0 to sessions"),
        ("[providers.google]\nstall_s = -1", "providers.google: stall_s must be more than 0 seconds"),
        ('[providers."a.b"]\nmax_uses = -1', 'providers."a.b": max_uses must be 0 or more'),
        ("[providers.google]\nage_jitter = 1.5", "providers.google: age_jitter must be 0 or more, and less than 1"),
        ('[providers.google]\nstarttls = "maybe"', "providers.google.starttls: input should be 'never', 'insisted'"),
        ("[providers.google]\nnoop = 1", "providers.google.noop: there is no such field"),
        ('[providers."google#1"]\nsessions = 1', 'providers."google#1": name the provider; each of its shards gets'),
        ("[[ways]]\n", "ways[1].name: field required"),
        ('[[ways]]\nname = "a b"', "ways[1].name: string should match"),
        ('[[ways]]\nname = "a"\n[[ways]]\nname = "a"', "ways: a pool has at least one way"),
        ('[[ways]]\nname = "a"\nsource = "x"', "ways[1].source: there is no such field; did you mean source_ipv"),
        ('[[ways]]\nname = "a"\nsource_ipv4 = "2001:db8::1"', "ways[1].source_ipv4: input is not a valid IPv4 address"),
        ('[[ways]]\nname = "a"\nhelo = "a b"', "ways[1] (a): not a name for EHLO"),
        ('[[ways]]\nname = "a"\nmail_from = "nobody"', "ways[1] (a).mail_from: "),
        (
            '[[ways]]\nname = "a"\nproxy = {host = "p", prt = 1}',
            "ways[1].proxy.prt: there is no such field; did you mean",
        ),
        ('[[ways]]\nname = "a"\nproxy = {host = "p", port = 0}', "ways[1] (a).proxy: a proxy needs a host, and a port"),
        (
            '[[ways]]\nname = "a"\nsource_ipv4 = "192.0.2.1"\nproxy = {host = "p"}',
            "ways[1] (a): a way has source addresses or a proxy, not both",
        ),
        (
            '[[ways]]\nname = "a"\nproxy = {host = "p", password = "my-s3cret", password_env = "USER"}',
            "ways[1] (a).proxy.password: say it here or name a variable in ways[1] (a).proxy.password_env, not both",
        ),
        (
            '[[ways]]\nname = "a"\nproxy = {host = "p", username_env = "USER", password_env = "EMPTY"}',
            "ways[1] (a).proxy.password_env: the environment variable EMPTY is not set",
        ),
        ('[[ways]]\nname = "a"\nproxy = {host = "p", password = "my-s3cret"}', "wants both a user name and a password"),
        (
            '[[ways]]\nname = "a"\nproxy = {host = "p", password = ["my-s3cret"]}',
            "proxy.password: input should be a val",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_no_secret(read: Any, text: str, sentence: str) -> None:
    with pytest.raises(OutboundError) as refused:
        read(text)
    assert sentence in str(refused.value)
    assert str(refused.value).count("\n") == 0
    assert "smtp.toml: " in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(OutboundError, match=r"can't read .*missing.toml \(MAILVET_SMTP_CONFIG\): No such file"):
        read_outbound(str(tmp_path / "missing.toml"), ME, BASE)
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(OutboundError, match="can't read"):
        read_outbound(str(tmp_path / "latin"), ME, BASE)


def test_what_the_settings_say_counts_where_the_file_is_silent(read: Any) -> None:
    found = read("[default]\nwarm = 6\n", sessions=8)
    book = _policies(Settings(sessions_per_provider=8), found)
    assert (book.policy("x.test").sessions, book.policy("x.test").warm) == (8, 6)
    book = _policies(Settings(sessions_per_provider=8), read("[default]\nsessions = 2\n"))
    assert book.policy("x.test").sessions == 2


def test_sessions_that_are_said_of_a_provider_do_not_grow_by_themselves(read: Any) -> None:
    settings = Settings(sessions_per_provider_max=9)
    book = _policies(settings, read('[providers."a.test"]\nsessions = 2\n[providers."b.test"]\nstall_s = 2.0\n'))
    assert [book.policy(name).sessions_max for name in ("a.test", "b.test", "c.test")] == [0, 9, 9]
    book = _policies(Settings(), read('[providers."a.test"]\nsessions = 2\nsessions_max = 5\n'))
    assert book.policy("a.test").sessions_max == 5


def test_each_shard_has_its_share_of_what_the_file_says(read: Any) -> None:
    found = read(
        "[providers.google]\nsessions = 20\nwarm = 5\nerror_budget = 7\n"
        "connections_per_s = 4.0\nrecipients_per_s = 10\n"
    )
    book = _policies(Settings.model_validate({"provider_shards": {"google": 4, "yahoo": 2}}), found)
    shard = book.policy("google#3")
    assert (shard.sessions, shard.warm) == (5, 1)
    assert (shard.connections_per_s, shard.recipients_per_s) == (1.0, 2.5)
    assert (shard.error_budget, shard.domains_per_transaction) == (7, 1)
    assert book.policy("google").sessions == 20
    assert book.policy("yahoo#1").sessions == 2


def test_every_field_of_a_policy_can_be_said(read: Any) -> None:
    names = ProviderPolicy.__dataclass_fields__
    text = "[default]\n" + "\n".join(f"{name} = {_toml(getattr(ProviderPolicy(), name))}" for name in names)
    assert read(text).default == {name: getattr(ProviderPolicy(), name) for name in names}


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
