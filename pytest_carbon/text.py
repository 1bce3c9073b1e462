"""Numbers, units and lists as text: the one place where a figure becomes text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from numbers import Real

from pytest_carbon.records import UsageProblem

AMOUNT = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\W\d_]*)")


# --- figures for people ----------------------------------------------------------------------------


def energy_text(energy_j: float) -> str:
    """Joules as people read them, with three digits: ``1.21 J``, ``12.4 mJ``, ``2.30 kJ``."""
    return _prefixed(energy_j, "J", {"G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9})


def emissions_text(emissions_g: float) -> str:
    """Grams as people read them, with three digits: ``124 µg``, ``1.24 mg``, ``2.30 kg``."""
    return _prefixed(emissions_g, "g", {"k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9})


def _prefixed(amount: float, unit: str, prefixes: Mapping[str, float]) -> str:
    rounded = abs(float(f"{amount:.2e}"))  # 999.6 J is 1.00 kJ
    if rounded == 0:
        return f"0 {unit}"
    prefix = next((p for p, factor in prefixes.items() if factor <= rounded), [*prefixes][-1])
    return f"{with_digits(amount / prefixes[prefix])} {prefix}{unit}"


def with_digits(number: float, significant: int = 3) -> str:
    """A number with so many significant digits, without an exponent where it can be read without."""
    scientific = f"{number:.{significant - 1}e}"
    exponent = int(scientific.partition("e")[2])
    if not -5 < exponent < 9:
        return scientific
    return f"{float(scientific):,.{max(significant - 1 - exponent, 0)}f}"


# --- values ----------------------------------------------------------------------------------------


def parse_share(value: object) -> float:
    """A share: ``"5%"``, ``"0.05"``, ``0.05``. A bare 5 could be 5% or 500%, and is refused.

    Raises :class:`UsageProblem`, which says what is allowed; the caller says where the value stands.
    """
    number, percent = finite_number(value), False
    if isinstance(value, str):
        text = value.strip()
        percent = text.endswith("%")
        match = AMOUNT.fullmatch(text.removesuffix("%").rstrip())
        number = float(match[1]) if match and not match[2] else None
    if number is None:
        raise UsageProblem("not a share: write a percentage such as '5%', or a number such as 0.05")
    if not percent and abs(number) >= 1:
        raise UsageProblem(f"could mean {number:g}% or {100 * number:g}%: write the one you mean, with its %")
    return number / 100 if percent else number


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """``" Did you mean energy?"`` where a word is close to one that is allowed, else nothing."""
    from difflib import get_close_matches

    named = {each.lower(): each for each in allowed}
    close = get_close_matches(word.lower(), named, n=1)
    return f" Did you mean {named[close[0]]}?" if close else ""


def finite_number(value: object) -> float | None:
    """A finite number, numpy's too, as a float; None for anything else, True and False among it."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # an int of more than 308 digits
        return None
    return number if math.isfinite(number) else None


_UNITS = (("GJ", 1e9), ("MJ", 1e6), ("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6), ("nJ", 1e-9))


def percent(share: float) -> str:
    """Without sign; one decimal where it says something."""
    value = abs(share) * 100
    return f"{value:.0f}%" if value >= 99.95 else f"{value:.1f}".removesuffix(".0") + "%"


def signed_percent(share: float) -> str:
    return ("-" if share < 0 else "+") + percent(share)


def comparable_joules(*energies_j: float) -> list[str]:
    """Energies to be compared: in the largest's unit, with three digits of the smallest. Far apart: each by itself."""
    largest, smallest = max(energies_j), min(energies_j)
    if smallest < largest / 10:
        return [text for energy_j in energies_j for text in comparable_joules(energy_j)]
    unit, size = next((u for u in _UNITS if u[1] <= largest * 1.0005), _UNITS[-1])
    decimals = 2 - math.floor(math.log10(smallest) - math.log10(size))
    form = f".{max(decimals, 0)}f" if 1e-10 < largest < 1e13 else ".3g"
    return [f"{energy_j / size:{form}} {unit}" for energy_j in energies_j]
