"""Markdown that stays text, whatever it holds, and that is cut at whole rows."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rendered import HOSTILE, Rendered, check

from pytest_carbon.reports import markdown
from pytest_carbon.reports.layout import Page

ANYTHING = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=12), max_size=8).map("".join)


def clean(text: str) -> str:
    return Page(80).clean(text)


@given(ANYTHING)
@example("a|b")
@example("`|`|``")
@example("x\\|y\\")
@example(" ")
def test_code_is_shown_as_it_is(text: str) -> None:
    """In a table and in a sentence: each character, and nothing of it live."""
    cell = markdown.code(text, 10_000)
    page = check(f"| a | b |\n|---|---|\n| {cell} | x |\n")
    assert page.cells[2].strip() == (clean(text).strip() or "–")
    assert page.cells[3] == "x"
    assert check(f"- {cell}\n").text.strip() == (clean(text).strip() or "–")


@given(ANYTHING)
@example("- - -")
@example("1. one")
@example("Fixes #12 of @octocat, see (https://x.org).")
def test_a_sentence_is_shown_as_it_is(text: str) -> None:
    """White space aside."""
    for markup in (f"- {markdown.plain(text)}\n", f"{markdown.plain(text)}\n", f"**x**: {markdown.plain(text)}\n"):
        assert check(markup).text.split() == (["x:"] if markup.startswith("**") else []) + clean(text).split()


def test_a_flag_or_an_id_in_a_sentence_is_code() -> None:
    """Its punctuation is not."""
    text = "record it (--carbon-record); see tests/t.py::test_a, of 2026-11-22, 5% at most"
    expected = "record it (`--carbon-record`); see `tests/t.py::test_a`, of 2026-11-22, 5% at most"
    assert markdown.plain(text) == expected


def test_a_long_name_keeps_its_ends() -> None:
    """Also one whose characters take no columns."""
    assert markdown.code("a" + "x" * 10_000 + "z", 9) == "`axxx…xxxz`"
    assert len(markdown.code("\u0301" * 10_000)) < 250


@given(st.lists(ANYTHING, max_size=4))
def test_commands_stay_in_their_block(lines: list[str]) -> None:
    """Whatever they hold."""
    page = check(f"{markdown.fenced(lines)}\n\nafter\n")
    assert page.text.splitlines()[-1] == "after"
    assert page.tags[:2] == ["pre", "code"]


@pytest.mark.parametrize("name", ["report", "gpu-nightly", "a.b_c"])
def test_a_name_is_in_the_first_line(name: str) -> None:
    """By which the comment is found again."""
    assert markdown.render(markdown.checked_name(name), ["x"]).splitlines()[0] == f"<!-- pytest-carbon:{name} -->"


@pytest.mark.parametrize("name", ["", "a b", "-->", "ä", "x\n", "a" * 101, "a/b"])
def test_other_names_are_refused(name: str) -> None:
    """They could end the comment of HTML."""
    with pytest.raises(ValueError, match=r"^write at most 100 of A-Z"):
        markdown.checked_name(name)


@pytest.mark.parametrize("url", ["https://x.org", "http://localhost:8000/a?b=1&copy;=2#t.py::test", "https://x/(a)[b]"])
def test_a_link_goes_where_it_should(url: str) -> None:
    """And to no other place."""
    page = Rendered(markdown.link("report", markdown.web_address(url)))
    assert [link.replace("%5B", "[").replace("%5D", "]") for link in page.links] == [url]


@pytest.mark.parametrize(
    "url",
    [
        *("", "x.org", "javascript:alert(1)", "https://", "https:///x", "ftp://x", "https://x y", "https://x>"),
        *("https://ä", "https://x\n", "https://[::1", "https://x:99999", "https://x/" + "a" * 2000, "//x.org"),
        "data:text/html,x",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    """What is no page of the web."""
    with pytest.raises(ValueError, match=r"^write the address of a page"):
        markdown.web_address(url)


COLUMNS: dict[str, markdown.Align] = {"": "middle", "a": "left", "b": "right"}
ROWS = st.lists(st.integers(1, 80).map(lambda n: ["", "x" * n, "1"]), max_size=60)


@given(st.lists(ROWS, max_size=6), st.integers(300, 4000), st.booleans())
def test_what_is_too_long_is_cut_at_a_row(tables: list[list[list[str]]], most: int, wide: bool) -> None:
    """It stays within the length, no table or fold is left open, and all rows are shown or counted."""
    blocks: list[markdown.Block] = ["### ü title"]
    for rows in tables:
        table = markdown.table(COLUMNS, rows)
        blocks.append(markdown.folded("ü", "", table) if len(rows) % 2 else table)

    def size(text: str) -> int:
        return len(text.encode()) if wide else len(text)

    text = markdown.render("x", blocks, most=most, size=size)
    assert size(text) <= most
    page = check(text)
    assert page.tags.count("details") == text.count("</details>")
    shown = sum(cell == "1" for cell in page.cells)
    if "for which there is no room" not in text:
        counted = sum(int(cell.split()[1]) for cell in page.cells if cell.startswith("and "))
        assert shown + counted == sum(map(len, tables))


def test_what_matters_more_gets_room_first() -> None:
    """A fold gives way to a table, and a table to the sentences about it."""
    rows = [["", "x" * 50, "1"]] * 100
    table = markdown.table(COLUMNS, rows)
    blocks = [markdown.folded("passes", "", table), table, markdown.bullets(["because " + "y" * 50] * 10)]
    text = markdown.render("x", blocks, most=4_000)
    assert text.count("because") == 10
    folded, shown = (part.count("x" * 50) for part in text.split("</details>"))
    assert folded == 0
    assert 30 < shown < 100
