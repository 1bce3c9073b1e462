"""Text for people: numbers with their errors and units, words fitted to a width; knows nothing of carbon."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_carbon.text import NBSP, Quantity

_HELD = re.compile(r"(?<=\d) (?=[nµumkMG]?(?:J|Wh|W|g|s)\b|min\b|gCO2e|±|\+/-)|(?<=±) (?=\d)|(?<=\+/-) (?=\d)")
"""The spaces at which no line is broken: those inside a number with its error and unit."""

_ASCII = str.maketrans(
    {
        "±": "+/-",
        "·": "-",
        "→": "->",
        "←": "<-",
        "×": "x",
        "…": "...",
        "≥": ">=",
        "≤": "<=",
        "µ": "u",
        "–": "-",
        "—": "-",
        "−": "-",
        "₂": "2",
        "°": "deg ",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
    }
)


# --- words ---------------------------------------------------------------------------------------


def columns(text: str) -> int:
    """How many columns a terminal gives to printable text: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of, text))


def _columns_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _head(text: str, room: int) -> str:
    """The longest beginning that takes at most ``room`` columns."""
    taken = 0
    for i, char in enumerate(text):
        taken += _columns_of(char)
        if taken > room:
            return text[:i]
    return text


def _breakable(piece: str) -> str:
    """A piece of a word up to the last hyphen or slash in it, unless that would leave much of the line empty."""
    at = max(piece.rfind(mark) for mark in "-/") + 1
    return piece[:at] if at > 0.7 * len(piece) else piece


@dataclass(frozen=True, slots=True)
class Page:
    """What text must fit: a width in columns, and whether the terminal shows more than ASCII."""

    width: int
    ascii: bool = False

    def clean(self, text: str) -> str:
        """The same text on one line, with nothing that moves a cursor: control characters are escaped."""
        if self.ascii:
            text = text.translate(_ASCII)
            text = "".join(c if c.isascii() else _escaped(c) for c in text)
        return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)

    def fit(self, text: str, room: int, head: float = 0.5) -> str:
        """``text``, its middle left out where it takes more than ``room`` columns.

        ``head`` is the share of the room that the beginning gets.
        """
        text = self.clean(text)
        if columns(text) <= room:
            return text
        gap = self.clean("…")
        if room <= columns(gap):
            return _head(text, max(0, room))
        room -= columns(gap)
        start = _head(text, round(room * head))
        end = _head(text[::-1], room - columns(start))[::-1]
        return start + gap + end

    def wrap(self, text: str, *, indent: str = "", hang: str = "  ") -> list[str]:
        """Lines of at most ``width`` columns; the first begins with ``indent``, the others with ``hang``."""
        lines: list[str] = []
        line, start = "", indent
        for word in _HELD.sub(NBSP, self.clean(text)).split(" "):
            joined = f"{line} {word}" if line else word
            if columns(start + joined) <= self.width:
                line = joined
                continue
            if line:
                lines.append(start + line)
                start = hang
            while columns(start + word) > self.width:  # a word wider than a line: broken where it must be
                piece = _breakable(_head(word, max(2, self.width - columns(start))))
                lines.append(start + piece)
                word, start = word[len(piece) :], hang
            line = word
        return [text.replace(NBSP, " ") for text in [*lines, start + line]]


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


# --- tables --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One line for ``TerminalWriter.line(text, **markup)``."""

    text: str
    markup: Mapping[str, bool] = field(default_factory=dict)


class Column:
    """Cells of one width under a title: figures to the right, words to the left."""

    def __init__(self, title: str, cells: Sequence[str], *, left: bool = False) -> None:
        self.width = max(map(columns, [title, *cells]))
        self._pad = ljust if left else rjust
        self.title = self._pad(title, self.width)
        self.cells = [self._pad(cell, self.width) for cell in cells]


def joined(*cells: str) -> str:
    return "  ".join(cells).rstrip()


def ljust(text: str, wide: int) -> str:
    return text + " " * (wide - columns(text))


def rjust(text: str, wide: int) -> str:
    return " " * (wide - columns(text)) + text


def aligned(figures: Sequence[Quantity | str], page: Page) -> list[str]:
    """Numbers, errors and units, each in a column of their own; words stand at the right."""
    known = [figure for figure in figures if isinstance(figure, Quantity)]
    value = max((len(figure.value) for figure in known), default=0)
    error = max((len(figure.error or "") for figure in known), default=0)
    unit = max((len(figure.unit) for figure in known), default=0)
    between = page.clean(" ± ") if error else ""
    cells = []
    for figure in figures:
        if isinstance(figure, str):
            cells.append(page.clean(figure))
            continue
        sign = between if figure.error else " " * len(between)
        cells.append(f"{figure.value:>{value}}{sign}{figure.error or '':<{error}} {page.clean(figure.unit):<{unit}}")
    return cells
