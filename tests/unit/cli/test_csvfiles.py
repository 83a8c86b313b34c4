"""Files of strangers in, files for spreadsheets out."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.cli import csvfiles
from ops.cli.csvfiles import defused, open_csv, own_columns, sha256_of, write_csv
from ops.cli.errors import UserError


def wrote(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "in.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("first", list("=+-@\t\r\n＝＋－＠"))
def test_what_begins_a_formula_gets_an_apostrophe(first: str) -> None:
    assert defused(f"{first}SUM(A1)") == f"'{first}SUM(A1)"
    assert defused(first) == f"'{first}"


@pytest.mark.parametrize("cell", ["", "plain", "-5", "+4930123", "-1.5e3", "1,000.00", "a=b", "'=quoted"])
def test_what_is_no_formula_stays(cell: str) -> None:
    assert defused(cell) == cell


@pytest.mark.parametrize("cell", ["-1+1", "+1+cmd|' /C calc'!A0", "-2+3", "=1", "+1 2"])
def test_a_number_with_more_behind_it_is_no_number(cell: str) -> None:
    assert defused(cell) == f"'{cell}"


@given(st.text())
def test_no_cell_begins_a_formula(cell: str) -> None:
    shown = defused(cell)
    assert shown.endswith(cell)
    if shown[:1] in set("=+-@\t\r"):
        assert shown.strip("+-").replace(".", "").replace(",", "")[:1].isdigit()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_by_the_column(tmp_path: Path, delimiter: str) -> None:
    path = wrote(tmp_path, f"id{delimiter}email\n1{delimiter}a@b.test\n")
    source = open_csv(path, "email")
    assert (source.delimiter, source.column) == (delimiter, 1)
    assert list(source.addresses()) == ["a@b.test"]


def test_a_given_delimiter_is_the_only_one_tried(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no column 'email'; its columns are 'id;email'"):
        open_csv(wrote(tmp_path, "id;email\n"), "email", delimiter=",")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    path = wrote(tmp_path, f"{mark}email\njörg@b.test\n".encode(encoding))
    source = open_csv(path, "email")
    assert list(source.addresses()) == ["jörg@b.test"]
    assert source.has_bom is (encoding != "utf-8")


def test_a_column_is_found_but_for_case_and_spaces_and_exactly_first(tmp_path: Path) -> None:
    assert open_csv(wrote(tmp_path, " E-Mail ,x\n"), "e-mail").column == 0
    assert open_csv(wrote(tmp_path, "EMAIL,email\n"), "email").column == 1


@pytest.mark.parametrize("header", ["email,email", "Email,EMAIL"])
def test_a_column_that_stands_twice_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(UserError, match="stands 2 times"):
        open_csv(wrote(tmp_path, header + "\n"), "email")


def test_the_columns_are_listed_escaped_and_not_without_end(tmp_path: Path) -> None:
    header = ["\x1b[2J", *(f"c{number}" for number in range(29))]
    with pytest.raises(UserError) as refused:
        open_csv(wrote(tmp_path, ",".join(header) + "\n"), "email")
    assert "'\\\\x1b[2J', 'c0'" in refused.value.message
    assert refused.value.message.endswith("'c18' and 10 more")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match="is empty"):
        open_csv(wrote(tmp_path, content), "email")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, sentence in ((tmp_path, "is no file"), (tmp_path / "none", "No such file")):
        with pytest.raises(UserError, match=sentence):
            open_csv(path, "email")
        with pytest.raises(UserError, match="can't be read"):
            sha256_of(path)


def test_a_binary_file_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"in.csv, line 1: this is not utf-8 text: name the right --encoding"):
        open_csv(wrote(tmp_path, b"\x7fELF\x02\x01\xff\xfe\x80"), "email")
    source = open_csv(wrote(tmp_path, b"email\n" + b"a@b.test\n" * 5000 + b"\xff\xff\n"), "email")
    with pytest.raises(UserError, match="line 5002: this is not utf-8 text"):
        list(source.addresses())


def test_another_encoding_is_used_when_named(tmp_path: Path) -> None:
    source = open_csv(wrote(tmp_path, "email,name\na@b.test,J\xf6rg\n".encode("cp1252")), "email", encoding="cp1252")
    assert list(source.rows()) == [["a@b.test", "Jörg"]]
    assert source.has_bom


def test_a_quote_that_is_never_closed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvfiles, "MAX_CELL", 100)
    source = open_csv(wrote(tmp_path, 'email\n"' + "x\n" * 200), "email")
    with pytest.raises(UserError, match="is a quote never closed"):
        list(source.addresses())


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    path = wrote(tmp_path, "email\na@b.test\n")
    source = open_csv(path, "email")
    path.unlink()
    with pytest.raises(UserError, match="can't be read"):
        list(source.addresses())


def test_odd_rows_have_an_address_each_and_blank_lines_none(tmp_path: Path) -> None:
    rows = ["1, a@b.test ", "", "2", "3,", '4,"quoted ""q"", with\nline end"', "5,nul\0byte", f"6,{'x' * 2000}"]
    source = open_csv(wrote(tmp_path, "id,email\r\n" + "\r\n".join(rows) + "\r\n"), "email")
    expected = ["a@b.test", "", "", 'quoted "q", with\nline end', "nul\0byte", "x" * 1024]
    assert list(source.addresses()) == expected


def test_our_columns_stand_aside() -> None:
    assert own_columns(["verdict", "role"], ["role", "mailvet_role", "x"]) == ["verdict", "mailvet_mailvet_role"]


def test_the_results_keep_rows_lines_and_delimiter(tmp_path: Path) -> None:
    source = open_csv(
        wrote(tmp_path, "id;email;note\r\n1;=a@b.test;-5\r\n\r\n2;b@b.test\r\n3;c@b.test;x;surplus;=1\r\n"), "email"
    )
    out = tmp_path / "out.csv"
    write_csv(source, out, ["verdict", "note"], [["ok", "=f()"], ["no", ""], ["so", "t"]])
    assert out.read_bytes().decode() == (
        "id;email;note;verdict;mailvet_note\r\n"
        "1;'=a@b.test;-5;ok;'=f()\r\n"
        "\r\n"
        "2;b@b.test;;no;\r\n"
        "3;c@b.test;x;so;t;surplus;'=1\r\n"
    )
    assert out.stat().st_mode & 0o777 == 0o666 & ~csvfiles._umask()


def test_a_byte_order_mark_is_kept_and_given_to_what_was_not_utf8(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    for content, encoding, marked in (
        (b"\xef\xbb\xbfemail\n", None, True),
        (b"email\n", None, False),
        (b"email\n", "cp1252", True),
    ):
        write_csv(open_csv(wrote(tmp_path, content), "email", encoding=encoding), out, ["verdict"], [])
        assert out.read_bytes().startswith(b"\xef\xbb\xbf") is marked
        assert out.read_text("utf-8-sig") == "email,verdict\n"


def test_a_failure_leaves_the_old_results_and_nothing_else(tmp_path: Path) -> None:
    source = open_csv(wrote(tmp_path, "email\na@b.test\n"), "email")
    out = tmp_path / "out.csv"
    out.write_text("old")
    with pytest.raises(RuntimeError):
        write_csv(source, out, ["verdict"], _failing())
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]
    with pytest.raises(UserError, match="can't be written"):
        write_csv(source, tmp_path / "none" / "out.csv", ["verdict"], [["ok"]])


def _failing() -> "list[list[str]]":
    class Broken(list[list[str]]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            raise RuntimeError

    return Broken()


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=3)))
def test_any_cells_come_back_as_they_were_but_for_the_apostrophe(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["email", "x", "y"], *rows])
    source = open_csv(wrote(folder, text.getvalue()), "email")
    write_csv(source, folder / "out.csv", ["verdict"], [["ok"]] * len(rows))
    with (folder / "out.csv").open(newline="") as file:
        back = list(csv.reader(file))[1:]
    padded = [[*map(defused, row), *[""] * (3 - len(row)), "ok"] for row in rows]
    assert back == padded
