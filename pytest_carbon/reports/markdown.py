"""Markdown for GitHub and GitLab: text that stays text, tables cut at whole rows, a length that is kept (pure).

Ids, paths and messages may hold anything. In a code span neither service sees Markdown, HTML, a mention, a link or a
reference to an issue, so what could be one of them is written as code; a backslash stops Markdown only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from pytest_carbon.reports.layout import Page
from pytest_carbon.text import NBSP, count

FORMAT = "pytest-carbon-markdown/1"
NAME = "report"
"""In the marker, unless another is given."""
LONGEST = 65_000
"""GitHub takes comments of 65,536 characters."""
_LONGEST_NAME = 200
_LONGEST_TEXT = 1_000
_LONGEST_URL = 2_000

_RISKY = re.compile(
    r"[`@#<>&$~|*_\[\]{}\\^=]"  # Markdown, HTML, mentions, references, mathematics
    r"|://|(?i:www\.)|::"  # links; ids of tests read better as code
    r"|[!%]\d|\b[A-Z][A-Z0-9]*-\d|(?i:\bgh-\d)"  # merge requests, milestones, issues of trackers
    r"|(?<![0-9a-zA-Z])[0-9a-f]{7,40}(?![0-9a-zA-Z])"  # commits
    r"|:[\w+-]+:|(?<![\w-])--?[a-zA-Z]"  # emoji; flags
)
_BEGINS_BLOCK = re.compile(r"[-+]+|\d+[.)]")
"""A first word that would begin a list, or be a line across the page."""
_AROUND = re.compile(r"""([("“‘']*)(.*?)([.,:;)"”’'!?]*)""", re.DOTALL)
"""What stands before, in and after the code span of a word."""


# --- text that stays text --------------------------------------------------------------------------


def short(text: str, most: int) -> str:
    """Escape what does not print, and leave out the middle beyond ``most`` characters."""
    text = Page(80).clean(text)
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"


def code(text: str, most: int = _LONGEST_NAME) -> str:
    """Write text as code, also in a table, where a bar would end the cell."""
    text = short(text, most)
    return "&#124;".join(map(_span, text.split("|"))) if text.strip() else "–"


def _span(text: str) -> str:
    if not text:
        return ""
    runs = re.findall("`+", text)
    fence = "`" * (1 + max(map(len, runs), default=0))
    pad = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def plain(text: str, most: int = _LONGEST_TEXT) -> str:
    """Write a sentence; words that could be more than text are code."""
    words = short(text, most).split()
    if words and _BEGINS_BLOCK.fullmatch(words[0]):
        words[0] = code(words[0])
        return " ".join([words[0], *map(_word, words[1:])])
    return " ".join(map(_word, words))


def _word(word: str) -> str:
    if _RISKY.search(word) is None:
        return word
    match = _AROUND.fullmatch(word)
    before, within, after = match.groups() if match else ("", word, "")
    return f"{before}{code(within)}{after}"


def fenced(lines: Iterable[str]) -> str:
    """Write commands to be copied."""
    text = "\n".join(map(Page(80).clean, lines))
    fence = "`" * max(3, *(1 + len(run) for run in re.findall("`+", text)), 0)
    return f"{fence}sh\n{text}\n{fence}"


def link(title: str, url: str) -> str:
    """Link to a checked URL (:func:`web_address`)."""
    return f"[{title}](<{url.replace('&', '&amp;')}>)"


def marker(name: str) -> str:
    """Return the first line of what is ours: a comment on a pull request is found again by it."""
    return f"<!-- pytest-carbon:{name} -->"


def checked_name(text: str) -> str:
    """Return a name for :func:`marker`; raise ValueError for another."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", text):
        raise ValueError("write at most 100 of A-Z, a-z, 0-9, dots, hyphens and underscores, such as gpu-nightly")
    return text


def web_address(text: str) -> str:
    """Return a URL that may be linked to; raise ValueError for another."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known or not re.fullmatch(r"[!-~]+", text) or re.search(r"[<>\"`\\^{|}]", text) or len(text) > _LONGEST_URL:
        raise ValueError("write the address of a page, with http:// or https://, its blanks and other letters escaped")
    return text


# --- blocks ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rows:
    """Lines that can be cut: the first stay, and a line counts the rest."""

    rows: Sequence[str]
    rest: Callable[[str], str]
    """Makes the line that says how many more there are."""
    head: str = ""
    tail: str = ""
    rank: int = 0
    """Where not all fit, the lowest get room first."""
    most: int | None = None
    """More are not shown, even where there is room."""

    def text(self, shown: int) -> str:
        """Write the first ``shown`` rows and count the rest."""
        left = len(self.rows) - shown
        lines = [*self.rows[:shown], *([self.rest(f"and {count(left)} more")] if left else [])]
        return self.head + "\n".join(lines) + self.tail


Block = str | Rows
Align = Literal["left", "middle", "right"]


def table(columns: Mapping[str, Align], rows: Iterable[Sequence[str]], *, rank: int = 1) -> Rows:
    """Make a table of columns: a sign in the middle, words to the left, figures to the right and never broken."""
    kinds = [*columns.values()]
    name = kinds.index("left")
    head = f"{_cells([*columns])}\n|{'|'.join(map(_RULES.__getitem__, kinds))}|\n"

    def cells(row: Sequence[str]) -> str:
        held = (cell.replace(" ", NBSP) if kind == "right" else cell for cell, kind in zip(row, kinds, strict=True))
        return _cells([*held])

    return Rows(
        [cells(row) for row in rows],
        lambda more: _cells([more if i == name else "" for i in range(len(kinds))]),
        head,
        rank=rank,
    )


_RULES: Mapping[Align, str] = {"left": "---", "middle": ":-:", "right": "--:"}


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"| {text} " if text else "| " for text in texts) + "|"


def bullets(lines: Iterable[str], *, title: str = "", rank: int = 0, most: int = 20) -> Rows:
    """Make a list, under a title where it follows another list: Markdown would make one of them."""
    head = f"{title}\n\n" if title else ""
    return Rows([f"- {line}" for line in lines], lambda more: f"- {more}", head, rank=rank, most=most)


def folded(summary: str, heading: str, rows: Rows) -> Rows:
    """Fold rows away under a summary, which is plain text; ``heading`` stands above them."""
    above = f"{heading}\n\n" if heading else ""
    head = f"<details><summary>{summary}</summary>\n\n{above}{rows.head}"
    return Rows(rows.rows, rows.rest, head, f"{rows.tail}\n\n</details>", rows.rank + 1, rows.most)


def render(name: str, blocks: Iterable[Block], *, most: int = LONGEST, size: Callable[[str], int] = len) -> str:
    """Write blocks with blank lines between them, no longer than ``most``: tables and lists are cut, or left out."""
    start, held = marker(name), [block for block in blocks if isinstance(block, str) or block.rows]
    note, dropped = "", 0

    def written(shown: Sequence[int]) -> str:
        texts = [block if isinstance(block, str) else block.text(n) for block, n in zip(held, shown, strict=True)]
        return "\n\n".join(filter(None, [*texts, note]))

    while held and size(f"{start}\n{written([0] * len(held))}\n") > most:
        last = held.pop()
        dropped += 1 if isinstance(last, str) else len(last.rows)
        note = f"and {count(dropped)} more lines, for which there is no room here"
    shown = [0] * len(held)
    room = most - size(f"{start}\n{written(shown)}\n")
    order = sorted((block.rank, i) for i, block in enumerate(held) if not isinstance(block, str))
    for _, i in order:
        block = held[i]
        assert isinstance(block, Rows)
        room += size(block.text(0))
        fits = min(len(block.rows), len(block.rows) if block.most is None else block.most)
        taken = size(block.text(fits))
        if taken > room:
            sizes = [size(row) + 1 for row in block.rows[:fits]]
            # The line that counts the rest may become shorter, never longer.
            total = size(block.text(0)) + sum(sizes)
            while fits and total > room:
                fits -= 1
                total -= sizes[fits]
            taken = size(block.text(fits))
        shown[i] = fits
        room -= taken
    return f"{start}\n{written(shown)}\n"
