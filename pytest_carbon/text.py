"""Numbers, units and lists as text: the one place where a figure becomes text."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real

from pytest_carbon.records import UsageProblem

NBSP = "\u00a0"
_COMMAND = re.compile(
    r"(?<![\w-])(?:git (?:add|branch|checkout|commit|config|fetch|lfs|log|merge-base|submodule|switch|worktree)"
    r"|pip install|pytest-carbon \w+|pytest (?=-))"
    r"(?: (?!(?:and|brings|list|makes|or|prints|shows)\b)[^\s,;()]*[^\s,;:.()])*"
)
"""What is to be pasted: no line is broken in it."""
UNKNOWN = "–"

_PREFIXES = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}
_LARGEST = {"s": 0, "g": 1, "FLOP": 5, "B": 4}  # nobody says ks; tonnes would be one more unit to learn
_MOST = 3  # the largest prefix of the other units
WHOLE = frozenset({"FLOP", "B", "kernels"})
"""Units of what is counted: there is no half of one."""
_SIGNIFICANT = 3  # of a number that comes without an error
_MOST_SIGNIFICANT = 6  # of one whose error is tiny: more would only widen the column

_NUMBER = r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?|[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_AMOUNT = re.compile(rf"({_NUMBER})\s*([^\W\d_]*)")
_SHARE = re.compile(rf"(?:≥|>=)?\s*({_NUMBER})\s*([%×x]?)")
_ONE_AMOUNT = re.compile(rf"\s*({_NUMBER})\s*([^\W\d_]+)")
Units = Mapping[str, float]
ENERGY: Units = {
    "nJ": 1e-9,
    "µJ": 1e-6,
    "mJ": 1e-3,
    "J": 1.0,
    "kJ": 1e3,
    "MJ": 1e6,
    "GJ": 1e9,
    "nWh": 3.6e-6,
    "µWh": 3.6e-3,
    "mWh": 3.6,
    "Wh": 3.6e3,
    "kWh": 3.6e6,
    "MWh": 3.6e9,
    "GWh": 3.6e12,
}
"""Units of energy, in joules: those that are printed."""
EMISSIONS: Units = {"ng": 1e-9, "µg": 1e-6, "mg": 1e-3, "g": 1.0, "kg": 1e3}
"""Units of emissions, in grams."""
FLOPS: Units = {"FLOP": 1.0, "kFLOP": 1e3, "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15}
"""Units of counted operations; a multiplication and an addition are two."""
BYTES: Units = {
    "B": 1.0,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
    "TiB": 2.0**40,
}
KERNELS: Units = {"kernels": 1.0}
_SECONDS: Units = {
    "ns": 1e-9,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "day": 86400.0,
    "days": 86400.0,
}


# --- figures for people ----------------------------------------------------------------------------


def with_digits(number: float, significant: int = 3) -> str:
    """Write a number with this many significant digits, without an exponent if readable."""
    scientific = f"{number:.{significant - 1}e}"
    exponent = int(scientific.partition("e")[2])
    if not -5 < exponent < 9:
        return scientific
    return f"{float(scientific):,.{max(significant - 1 - exponent, 0)}f}"


# --- values ----------------------------------------------------------------------------------------


def parse_amount(text: str, units: Units, base: str) -> tuple[float, str, str]:
    """Read what :func:`quantity` prints, in the base unit, with the number and the unit as they are written.

    Without a unit it is the base unit. ``u`` stands for ``µ``. Raises ValueError for what is no number, and KeyError,
    with its name, for another unit.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    number, unit = match[1].replace(",", ""), match[2] or base
    return float(number) * units[known_unit(unit, units)], number, unit


def known_unit(unit: str, units: Units) -> str:
    """Return a unit as ``units`` has it: with the micro sign, for ``u`` and for the Greek letter."""
    micro = re.sub("^[uμ]", "µ", unit)
    return micro if micro in units else unit


def parse_duration(text: str) -> float:
    """Read seconds: ``2``, ``0.5``, and what :func:`duration` and :func:`about` print: ``500 ms``, ``1 h 20 min``.

    Raises ValueError for anything else.
    """
    with suppress(ValueError):
        return float(text)
    seconds, at = 0.0, 0
    while match := _ONE_AMOUNT.match(text, at):
        factor = _SECONDS.get(known_unit(match[2], _SECONDS))
        if factor is None:
            break
        seconds, at = seconds + float(match[1].replace(",", "")) * factor, match.end()
    if at == 0 or text[at:].strip():
        raise ValueError(text)
    return seconds


def parse_count(text: str) -> int:
    """Read a whole number as :func:`count` prints it: ``1,000``. Raises ValueError for anything else."""
    if not re.fullmatch(r"[0-9]+|[0-9]{1,3}(,[0-9]{3})+", text):
        raise ValueError(text)
    return int(text.replace(",", ""))


def parse_share(value: object) -> float:
    """Read a share: ``"5%"``, ``"0.05"``, ``0.05``; a bare 5 could be 5% or 500%.

    As tables print it, too: ``≥14%``; a change of ``2.3×`` is 130%. Raises :class:`UsageProblem`, which says what is
    allowed; the caller says where the value stands.
    """
    number, percent = finite_number(value), False
    if isinstance(value, str):
        match = _SHARE.fullmatch(value.strip())
        number = float(match[1].replace(",", "")) if match else None
        percent = match is not None and match[2] == "%"
        if number is not None and match is not None and match[2] in ("×", "x"):
            return number - 1
    if number is None:
        raise UsageProblem("not a share: write a percentage such as '5%', or a number such as 0.05")
    if not percent and abs(number) >= 1:
        raise UsageProblem(f"could mean {number:g}% or {100 * number:g}%: write the one you mean, with its %")
    return number / 100 if percent else number


def closest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that is close to a word; None if none is."""
    from difflib import get_close_matches

    named = {name.lower(): name for name in allowed}
    close = get_close_matches(word.lower(), named, n=1)
    return named[close[0]] if close else None


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean energy?"``, or nothing if no allowed word is close."""
    near = closest(word, allowed)
    return f" Did you mean {near}?" if near else ""


def finite_number(value: object) -> float | None:
    """Return a finite number, numpy's too, as a float; None for anything else, also bools."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # an int of more than 308 digits
        return None
    return number if math.isfinite(number) else None


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
    values: Iterable[float],
    unit: str,
    error: float | None = None,
    *,
    most: int = _MOST_SIGNIFICANT,
    of_smallest: bool = False,
) -> list[Quantity]:
    """Write finite values in one unit with one number of decimals, to compare them.

    Prefix and digits are those of the largest, three digits of it, or ``of_smallest``. With the ``error`` of the last
    value they are that one's, as if it were alone: two digits of the error where its leading digits are below 355, else
    one (the Particle Data Group's rule), ``most`` significant ones of the value at most.
    """
    values = list(values)
    if not all(map(math.isfinite, values)):
        return [Quantity(f"{value:g}", None, unit) for value in values]
    if error is not None and not (math.isfinite(error) and error > 0):
        error = None
    largest = max(map(abs, values if error is None else [values[-1], error]))
    top, whole = _LARGEST.get(unit, _MOST), unit in WHOLE
    power = math.floor(math.log10(largest) / 3) if largest else 0
    power = min(top, max(0 if whole else min(_PREFIXES), power))
    sized = min(map(abs, values)) if of_smallest else largest
    decimals = 0 if whole and not power else _decimals(sized / 1000.0**power, error and error / 1000.0**power, most)
    if power < top and round(largest / 1000.0**power, decimals) >= 1000:
        power += 1
        decimals = _decimals(sized / 1000.0**power if of_smallest else 1.0, error and error / 1000.0**power, most)
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
    """Round one finite value, with its error where it has one: ``1.213 ± 0.004 J``."""
    return quantities([value], unit, error)[0]


def known(value: float | None, unit: str, error: float | None = None, *, unknown: str = UNKNOWN) -> Quantity | str:
    """Round a value if it is known, else return what stands for it."""
    return unknown if value is None else quantity(value, unit, error)


def then_and_now(then: float, now: float, unit: str, error: float | None = None) -> tuple[Quantity, Quantity]:
    """Round two values to be compared; ``error`` is that of ``now``.

    ``now`` looks as everywhere (:func:`quantity`). ``then`` has its unit and its decimals, or its own where one of them
    is ten times the other.
    """
    if min(abs(then), abs(now)) < max(abs(then), abs(now)) / 10:
        return quantity(then, unit), quantity(now, unit, error)
    before, after = quantities([then, now], unit, error)
    return before, after


def _decimals(value: float, error: float | None, most: int) -> int:
    if error:
        exponent = math.floor(math.log10(error))
        leading = error / 10.0 ** max(exponent, -300)  # below, a power is 0
        wanted = (1 if leading < 3.55 else 0) - exponent
    elif value:
        # 999.9999999999999, from exp(log(1000)), has the digits of 1000.
        wanted = max(0, _SIGNIFICANT - 1 - math.floor(math.log10(value) + 1e-9))
    else:
        return 0
    return min(wanted, most - 1 - math.floor(math.log10(value)))


def _number(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{max(0, decimals)}f}"


def comparable(values: Sequence[float], unit: str = "J") -> list[Quantity]:
    """Write values in the largest's unit, with three digits of the smallest; far apart, each by itself."""
    if min(values) < max(values) / 10:
        return [quantity(value, unit) for value in values]
    return quantities(values, unit, of_smallest=True)


def change(relative: float | None) -> str:
    """Write 0.008 as ``+0.8%``, and from twice as much on a factor, ``2.3×``."""
    if relative is None or not math.isfinite(relative):
        return UNKNOWN
    if relative < 0.9995:
        return f"{round(100 * relative, 1) + 0.0:+.1f}%" if relative > -0.9995 else "-100%"
    factor = 1 + relative
    return f"{factor:.{0 if factor >= 9.95 else 1}f}×" if factor < 1e5 else f"{factor:.0e}×"


def share(relative: float | None) -> str:
    """Write 0.041 as ``4.1%``, 0.04 as ``4%``, 1.4 as ``140%``."""
    if relative is None or not math.isfinite(relative):
        return UNKNOWN
    return f"{100 * relative:.0f}%" if relative >= 0.9995 else f"{100 * relative:.1f}".removesuffix(".0") + "%"


def size(relative: float | None) -> str:
    """Write a change without its sign: ``4.1%``; from twice as much on a factor, ``2.3×``."""
    return change(relative) if relative is not None and relative >= 0.9995 else share(relative and abs(relative))


def detectable_size(relative: float | None) -> str:
    """Write a smallest detectable change: 0.041 as ``4.1%``, 0.412 as ``41%``."""
    return size(round(relative, 2) if relative is not None and 0.0995 <= relative < 0.995 else relative)


def at_least(relative: float | None) -> str:
    """Write a smallest detectable change in a table: ``≥4.1%``."""
    known = detectable_size(relative)
    return known if known == UNKNOWN else f"≥{known}"


def duration(seconds: float) -> str:
    """Write how long a run took: ``3.4 s``, ``12 s``, ``4 min``, ``2.5 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7170 else f"{seconds / 3600:.1f} h"


def about(seconds: float) -> str:
    """Write how long something will take: ``40 s``, ``12 min``, ``1 h 20 min``, ``3 days``."""
    if seconds < 55:
        return f"{max(1, round(seconds / 10)) * 10} s"
    if seconds < 59.5 * 60:
        return f"{max(1, round(seconds / 60))} min"
    hours, minutes = divmod(round(seconds / 600) * 10, 60)
    if hours < 10:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{seconds / 3600:.0f} h" if hours < 48 else f"{seconds / 86400:.0f} days"


def count(n: int) -> str:
    """Write 12345 as ``12,345``."""
    return f"{n:,}"


def counted(n: int, noun: str) -> str:
    """Write ``1 session``, ``2 sessions``, ``3 passes``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count(n)} {noun if n == 1 else plural}"


def listing(names: Sequence[str], most: int = 3) -> str:
    """Write ``a``, ``a and b``, ``a, b, c and 9 more``."""
    shown, rest = list(names[:most]), len(names) - most
    if rest > 0:
        shown.append(f"{rest} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def alternatives(names: Iterable[str]) -> str:
    """``a, b or c``."""
    *others, last = names
    return f"{', '.join(others)} or {last}"


def cards(now: Sequence[str], then: Sequence[str]) -> tuple[str, str]:
    """Shorten the UUIDs of two sets of cards, still distinct: ``GPU-1f3a…``."""
    every = {*now, *then}
    length = next((n for n in (8, 12, 17) if len({uuid[:n] for uuid in every}) == len(every)), None)
    short = {uuid: uuid if length is None or len(uuid) <= length + 1 else f"{uuid[:length]}…" for uuid in every}
    return listing([short[uuid] for uuid in now], 2), listing([short[uuid] for uuid in then], 2)


def error_lines(text: str, width: int) -> list[str]:
    """Break an error's text between words for a terminal, but never in a command."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        held = _COMMAND.sub(lambda command: command[0].replace(" ", NBSP), paragraph)
        room = "  " if lines else "ERROR: "
        wrapped = textwrap.wrap(
            room + held, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        lines += [line.replace(NBSP, " ") for line in wrapped]
    return lines
