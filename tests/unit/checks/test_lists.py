"""What names alone tell."""

from pathlib import Path

import pytest

from streams.checks.lists import ListFileError, Lists, entries, suffixes
from streams.settings import Settings


@pytest.fixture(scope="module")
def packaged() -> Lists:
    return Lists.load()


def lists(tmp_path: Path, allow: str = "", deny: str = "") -> Lists:
    (tmp_path / "allow").write_text(allow, encoding="utf-8")
    (tmp_path / "deny").write_text(deny, encoding="utf-8")
    return Lists.load(str(tmp_path / "allow"), str(tmp_path / "deny"))


def test_disposable_domains_and_those_below_them(packaged: Lists) -> None:
    for domain in ("mailinator.com", "any.mailinator.com", "a.b.mailinator.com", "yopmail.com"):
        assert packaged.is_disposable(domain), domain
    for domain in ("gmail.com", "example.com", "xmailinator.example", "com"):
        assert not packaged.is_disposable(domain), domain


def test_free_providers_but_not_what_lies_below_them(packaged: Lists) -> None:
    for domain in ("gmail.com", "proton.me", "tuta.io", "web.de"):
        assert packaged.is_free(domain), domain
    for domain in ("example.com", "team.gmail.com", "yaho.com"):
        assert not packaged.is_free(domain), domain


@pytest.mark.parametrize("local", ["info", "Postmaster", "no-reply", "sales+eu", "abuse", "kontakt", "kernel-request"])
def test_roles(packaged: Lists, local: str) -> None:
    assert packaged.is_role(local)


@pytest.mark.parametrize("local", ["joe", "informatics", "request", "in.fo", "+info", ""])
def test_people(packaged: Lists, local: str) -> None:
    assert not packaged.is_role(local)


def test_the_rfc_2142_names_are_roles(packaged: Lists) -> None:
    names = "info marketing sales support abuse noc security postmaster hostmaster usenet news webmaster www uucp ftp"
    assert {*names.split()} <= packaged.roles


def test_the_operator_denies(tmp_path: Path) -> None:
    denying = lists(tmp_path, deny="# ours\n bad.example  # why\n\n@worse.example\n*.Worst.example.\nbücher.example\n")
    for domain in ("bad.example", "x.bad.example", "worse.example", "a.worst.example", "xn--bcher-kva.example"):
        assert denying.is_disposable(domain), domain
    assert not denying.is_disposable("example.com")


def test_the_operator_allows(tmp_path: Path) -> None:
    allowing = lists(tmp_path, allow="mailinator.com\ngmail.com\n")
    assert not allowing.is_disposable("mailinator.com")
    assert not allowing.is_disposable("x.mailinator.com")
    assert not allowing.is_free("gmail.com")
    assert allowing.is_free("yahoo.com")
    assert allowing.is_allowed("x.gmail.com")
    assert not allowing.is_allowed("example.com")


def test_the_nearest_entry_decides(tmp_path: Path) -> None:
    both = lists(tmp_path, allow="good.bad.example", deny="bad.example\nevil.good.bad.example")
    assert [both.is_disposable(f"{name}bad.example") for name in ("", "good.", "x.good.", "evil.good.")] == [
        True,
        False,
        False,
        True,
    ]
    assert not both.is_allowed("evil.good.bad.example")


def test_one_domain_in_both_lists_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ListFileError, match=r"same\.example stands in both"):
        lists(tmp_path, allow="same.example", deny="same.example")


@pytest.mark.parametrize(
    "line", ["no dots", "localhost", "joe@example.com", "a..b", "under_score.example", "a/b.example", "\u2028x.y z"]
)
def test_a_line_that_is_no_domain_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ListFileError, match="is not a domain"):
        lists(tmp_path, deny=line)


def test_a_missing_or_unreadable_file_is_a_clear_error(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.txt")
    with pytest.raises(ListFileError, match=r"missing\.txt: No such file"):
        Lists.from_settings(Settings(allow_list=missing))
    (tmp_path / "latin").write_bytes(b"b\xfccher.example\n")
    with pytest.raises(ListFileError, match="not UTF-8"):
        Lists.load(deny_list=str(tmp_path / "latin"))


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfbad.example\r\n")
    assert Lists.load(deny_list=str(tmp_path / "bom")).denied == {"bad.example"}


def test_without_files_the_packaged_lists_stand_alone(packaged: Lists) -> None:
    assert Lists.from_settings(Settings(allow_list="", deny_list="")) == packaged
    assert not packaged.allowed | packaged.denied


def test_every_entry_is_lower_case_ascii(packaged: Lists) -> None:
    for name in packaged.disposable | packaged.free:
        assert name.isascii(), name
        assert name == name.lower().strip(), name
        assert "!" not in name


def test_helpers() -> None:
    assert list(entries("a # x\n#\n\n b\n")) == ["a", "b"]
    assert list(suffixes("a.b.c")) == ["a.b.c", "b.c"]
    assert list(suffixes("c")) == []
