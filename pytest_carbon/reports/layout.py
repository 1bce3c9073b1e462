"""Text for people: numbers with their errors and units, words fitted to a width; knows nothing of carbon."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_carbon.text import NBSP, Quantity

_HELD = re.compile(r"(?<=\d) (?=[nµumkMG]?(?:J|Wh|W|g|s)\b|min\b|gCO2e|±|\+/-)|(?<=±) (?=\d)|(?<=\+/-) (?=\d)")
"""The spaces at which no line is broken: those inside a number with its error and unit."""

_ASCII: Mapping[int, str] = {
    **{ord(sign): letter for sign, letter in zip("·–—−×µ₂‘’“”", "----xu2''\"\"", strict=True)},
    **str.maketrans({"±": "+/-", "→": "->", "←": "<-", "…": "...", "≥": ">=", "≤": "<=", "≈": "~", "°": "deg "}),
}

FAILING: Mapping[str, bool] = {"red": True, "bold": True}
WARNING: Mapping[str, bool] = {"yellow": True}
GOOD: Mapping[str, bool] = {"green": True}
HEADER: Mapping[str, bool] = {"bold": True}
PLAIN: Mapping[str, bool] = {}


# --- words ---------------------------------------------------------------------------------------


def columns(text: str) -> int:
    """Count a printable text's columns: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_columns_of, text))


def _columns_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _head(text: str, room: int) -> str:
    """Return the longest beginning that takes at most ``room`` columns."""
    taken = 0
    for i, char in enumerate(text):
        taken += _columns_of(char)
        if taken > room:
            return text[:i]
    return text


def _breakable(piece: str) -> str:
    """Cut after the last hyphen or slash, unless that leaves much of the line empty."""
    at = max(piece.rfind(mark) for mark in "-/") + 1
    return piece[:at] if at > 0.7 * len(piece) else piece


@dataclass(frozen=True, slots=True)
class Page:
    """What text must fit: a width in columns, and whether the terminal shows more than ASCII."""

    width: int
    ascii: bool = False

    def clean(self, text: str) -> str:
        """Escape control characters: nothing may break the line or move the cursor."""
        if self.ascii:
            text = text.translate(_ASCII)
            text = "".join(c if c.isascii() else _escaped(c) for c in text)
        return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)

    def fit(self, text: str, room: int, head: float = 0.5) -> str:
        """Leave out the middle of ``text`` beyond ``room`` columns; ``head`` of them begin it."""
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
        """Break into lines of ``width`` columns; ``indent`` the first, ``hang`` the others."""
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

    def labelled(self, label: str, text: str, width: int = 12) -> list[str]:
        """Put a text beside a label of ``width`` columns."""
        return self.wrap(text, indent=f"  {label:<{width}}", hang=" " * (width + 2))

    def title(self, text: str, bar: str = "=") -> str:
        """Put a text in the middle of a line of bars."""
        text = self.fit(text, self.width - 4)
        bars = self.width - columns(text) - 2
        return f"{bar * (bars // 2)} {text} {bar * (bars - bars // 2)}"

    def sentences(self, texts: Iterable[str | None], markup: Mapping[str, bool] | None = None) -> list[Line]:
        """Begin a line with each text that is not None."""
        return [Line(line, markup or {}) for text in texts if text for line in self.wrap(text)]


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
        blanks = [" " * (self.width - columns(cell)) for cell in (title, *cells)]
        pairs = zip((title, *cells), blanks, strict=True)
        self.title, *self.cells = [cell + blank if left else blank + cell for cell, blank in pairs]


@dataclass(frozen=True, slots=True)
class Name:
    """How a table calls a row: by ``whole`` where that fits, else by ``name`` under a line for its group."""

    name: str
    group: str = ""
    part: str = ""
    """What stands in place of the name where that has a line of its own above."""
    whole: str | None = None
    """None: the row always stands under its group."""
    below: bool = False
    """Whether the name has a line of its own above, however short it is."""

    @property
    def long(self) -> str:
        return self.name if self.whole is None else self.whole


@dataclass(slots=True)
class Table:
    """Rows of figures behind their names. What a page has no room for gives way: columns, then the ends of names."""

    title: str
    names: Sequence[Name]
    figures: list[Column]
    optional: Sequence[Column] = ()
    """The columns that a narrow page does without, the first of them first."""
    least: int = 14
    """Columns of a page that names keep, where a column of figures can give way."""

    def room(self, page: Page) -> int:
        """Return the columns left for names."""
        return page.width - sum(column.width + 2 for column in self.figures)

    def whole(self, page: Page) -> bool:
        """Tell whether all names fit without their groups' lines."""
        return all(columns(page.clean(name.long)) <= self.room(page) for name in self.names)

    def fits(self, page: Page) -> bool:
        """Tell whether all names fit under their groups' lines."""
        return all(columns(page.clean(_under(name, name.below))) <= self.room(page) for name in self.names)

    def fitted(self, page: Page) -> Table:
        """Drop the columns for which there is no room."""
        widest = max((columns(page.clean(name.long)) for name in self.names), default=0)
        for column in self.optional:
            if self.room(page) < min(self.least, widest) and len(self.figures) > 1:
                self.figures = [figure for figure in self.figures if figure is not column]
        return self

    def lines(
        self, page: Page, markup: Sequence[Mapping[str, bool]] = (), *, header: Mapping[str, bool] | None = None
    ) -> list[Line]:
        """Return the lines; a name that would be cut to another's gets a line of its own."""
        grouped = not self.whole(page) or any(name.whole is None and name.group for name in self.names)
        room = max(1, self.room(page))
        long = [_under(name) if grouped else name.long for name in self.names]
        short = [page.fit(name, room) for name in long]
        alike = Counter(zip([name.group for name in self.names], short, strict=True))
        below = [
            (grouped and (name.below or _cuts_parameters(name.name, cell, page)))
            or (alike[name.group, cell] > 1 and cell != page.clean(text))
            for name, cell, text in zip(self.names, short, long, strict=True)
        ]
        cells = [
            page.fit(f"    {name.part}" if name.part else "", room) if under else cell
            for name, cell, under in zip(self.names, short, below, strict=True)
        ]
        first = Column(page.fit(self.title, room), cells, left=True)
        lines = [] if header is None else [Line(joined(first.title, *(c.title for c in self.figures)), header)]
        group = above = ""
        for i, name in enumerate(self.names):
            if grouped and name.group != group:
                group, above = name.group, ""
                lines.append(Line(page.fit(group, page.width, head=1.0 if name.whole is None else 0.5)))
            if below[i] and name.name != above:
                above = name.name
                whole = page.fit(name.name, 2 * (page.width - 4))
                lines += [Line(text) for text in page.wrap(whole, indent="  ", hang="    ")]
            text = joined(first.cells[i], *(column.cells[i] for column in self.figures))
            lines.append(Line(text, markup[i] if markup else {}))
        return lines


def _under(name: Name, below: bool = False) -> str:
    """Return the name as it stands under its group."""
    return f"    {name.part}" if below else f"  {name.name}" if name.group else name.name


def _cuts_parameters(name: str, short: str, page: Page) -> bool:
    """Tell whether a name lost a part of its parameters: ``test_task[…nglish-small]``."""
    _, bracket, parameters = name.partition("[")
    return bool(bracket) and not short.endswith(page.clean(bracket + parameters))


def joined(*cells: str) -> str:
    return "  ".join(cells).rstrip()


def aligned(figures: Sequence[Quantity | str], page: Page) -> list[str]:
    """Align numbers, errors and units in their own columns; words to the right."""
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
