"""Text for people: numbers with their errors and units, words fitted to a width; knows nothing of carbon."""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

NBSP = "\u00a0"
_HELD = re.compile(r"(?<=\d) (?=[nµumkMG]?(?:J|Wh|W|g|s)\b|min\b|gCO2e|±|\+/-)|(?<=±) (?=\d)|(?<=\+/-) (?=\d)")
"""The spaces at which no line is broken: those inside a number with its error and unit."""
_COMMAND = re.compile(
    r"(?<![\w-])(?:git (?:add|branch|checkout|commit|config|fetch|lfs|log|merge-base|submodule|switch|worktree)"
    r"|pip install|pytest-carbon \w+|pytest (?=-))"
    r"(?: (?!(?:and|brings|list|makes|or|prints|shows)\b)[^\s,;()]*[^\s,;:.()])*"
)
"""What is to be pasted: no line is broken in it."""
UNKNOWN = "–"

_PREFIXES = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G"}
_LARGEST = {"s": 0, "g": 1}  # nobody says ks; tonnes would be one more unit to learn
_SIGNIFICANT = 3  # of a number that comes without an error
_MOST_SIGNIFICANT = 6  # of one whose error is tiny: more would only widen the column

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


# --- numbers -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it is printed: ``1.213``, ``0.004`` (or None), ``J``."""

    value: str
    error: str | None
    unit: str

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error}"
        return f"{self.value}{error} {self.unit}"


def quantities(
    values: Iterable[float], unit: str, error: float | None = None, *, most: int = _MOST_SIGNIFICANT
) -> list[Quantity]:
    """Finite values in one unit with one number of decimals, so that they can be compared at a glance.

    The prefix is that of the largest. ``error`` is the error of the last value and decides how many digits
    are worth showing: two of the error where its leading digits are below 355, else one (the Particle Data
    Group's rule), ``most`` significant ones of the largest value at most. Without it, three of the largest.
    """
    values = list(values)
    if not all(map(math.isfinite, values)):
        return [Quantity(f"{value:g}", None, unit) for value in values]
    if error is not None and not (math.isfinite(error) and error > 0):
        error = None
    largest = max(map(abs, [*values, error or 0.0]))
    top = _LARGEST.get(unit, max(_PREFIXES))
    power = math.floor(math.log10(largest) / 3) if largest else 0
    power = min(top, max(min(_PREFIXES), power))
    decimals = _decimals(largest / 1000.0**power, error and error / 1000.0**power, most)
    if power < top and round(largest / 1000.0**power, decimals) >= 1000:
        power += 1
        decimals = _decimals(1.0, error and error / 1000.0**power, most)
    scale, unit = 1000.0**power, _PREFIXES[power] + unit
    if largest and not 1e-4 < largest / scale < 1e7:  # beyond what the prefixes reach
        texts = [f"{value / scale:.1e}" for value in values]
        error_text = None if error is None else f"{max(error, largest / 100) / scale:.1e}"
    else:
        texts = [_number(value / scale, decimals) for value in values]
        # Never rounded away: an error of nothing would say that the figure is exact.
        error_text = None if error is None else _number(max(error / scale, 10.0**-decimals), decimals)
    return [Quantity(text, None, unit) for text in texts[:-1]] + [Quantity(texts[-1], error_text, unit)]


def quantity(value: float, unit: str, error: float | None = None) -> Quantity:
    """One finite value, with its error where it has one: ``1.213 ± 0.004 J``."""
    return quantities([value], unit, error)[0]


def _decimals(value: float, error: float | None, most: int) -> int:
    if error:
        exponent = math.floor(math.log10(error))
        leading = error / 10.0 ** max(exponent, -300)  # below, a power is 0
        wanted = (1 if leading < 3.55 else 0) - exponent
    elif value:
        wanted = max(0, _SIGNIFICANT - 1 - math.floor(math.log10(value)))
    else:
        return 0
    return min(wanted, most - 1 - math.floor(math.log10(value)))


def _number(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{max(0, decimals)}f}"


def change(relative: float | None) -> str:
    """0.008 → ``+0.8%``; beyond tenfold ``×12``."""
    if relative is None or not math.isfinite(relative):
        return UNKNOWN
    if relative >= 10:
        return f"×{1 + relative:.0f}" if relative < 1e5 else f"×{1 + relative:.0e}"
    return f"{round(100 * relative, 1) + 0.0:+.1f}%" if abs(relative) < 0.9995 else f"{100 * relative:+.0f}%"


def share(relative: float | None) -> str:
    """0.041 → ``4.1%``; from 10% on without a decimal."""
    if relative is None or not math.isfinite(relative):
        return UNKNOWN
    if relative >= 10:
        return change(relative)
    return f"{100 * relative:.1f}%" if relative < 0.0995 else f"{100 * relative:.0f}%"


def duration(seconds: float) -> str:
    """``3.4 s``, ``12 s``, ``4 min``, ``2.5 h``: how long a run took, to two digits or so."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7170 else f"{seconds / 3600:.1f} h"


def about(seconds: float) -> str:
    """``40 s``, ``12 min``, ``1 h 20 min``, ``3 days``: how long something will take, which nobody knows exactly."""
    if seconds < 55:
        return f"{max(1, round(seconds / 10)) * 10} s"
    if seconds < 59.5 * 60:
        return f"{max(1, round(seconds / 60))} min"
    hours, minutes = divmod(round(seconds / 600) * 10, 60)
    if hours < 10:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{seconds / 3600:.0f} h" if hours < 48 else f"{seconds / 86400:.0f} days"


def count(n: int) -> str:
    """12345 → ``12,345``."""
    return f"{n:,}"


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


def listing(names: Sequence[str], most: int = 3) -> str:
    """``a``, ``a and b``, ``a, b, c and 9 more``."""
    shown, rest = list(names[:most]), len(names) - most
    if rest > 0:
        shown.append(f"{rest} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def cards(now: Sequence[str], then: Sequence[str]) -> tuple[str, str]:
    """The UUIDs of two sets of cards, as short as tells one from another: ``GPU-1f3a…``."""
    every = {*now, *then}
    length = next((n for n in (8, 12, 17) if len({uuid[:n] for uuid in every}) == len(every)), None)
    short = {uuid: uuid if length is None or len(uuid) <= length + 1 else f"{uuid[:length]}…" for uuid in every}
    return listing([short[uuid] for uuid in now], 2), listing([short[uuid] for uuid in then], 2)


def error_lines(text: str, width: int, first: str = "ERROR: ") -> list[str]:
    """What a terminal is told of an error: lines broken between words, but not in a command, however long that is."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        held = _COMMAND.sub(lambda command: command[0].replace(" ", NBSP), paragraph)
        room = first if not lines else "  "
        found = textwrap.wrap(
            room + held, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        lines += [line.replace(NBSP, " ") for line in found]
    return lines


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
