"""What a ``carbon_budget`` marker allows: units and limits, which marker counts, and whether it is met (pure)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from pytest_carbon.records import Budget, MeasurementWarning, UsageProblem, is_estimated
from pytest_carbon.records.work import ENGINES, WORK, Work
from pytest_carbon.text import (
    BYTES,
    EMISSIONS,
    ENERGY,
    FLOPS,
    KERNELS,
    WHOLE,
    Units,
    alternatives,
    counted,
    did_you_mean,
    finite_number,
    known_unit,
    parse_amount,
    parse_share,
    with_digits,
)
from pytest_carbon.work.prediction import is_predicted, matches


def _limit(value: object, units: Units, base: str, allowed: str) -> tuple[float, str]:
    """Return a limit in the base unit, and as the user wrote it."""
    limit: float | None
    if isinstance(value, str):
        try:
            limit, number, unit = parse_amount(value, units, base)
        except KeyError as error:
            raise UsageProblem(f"{error.args[0]} is not one of its units: write {allowed}; capitals matter") from None
        except ValueError:
            limit = None
    else:
        limit = finite_number(value)
        number, unit = f"{limit:.15g}" if limit else "", base
    if limit is None or not math.isfinite(limit):
        raise UsageProblem(f"write {allowed}")
    if limit <= 0:
        raise UsageProblem(f"a limit must be above 0: write {allowed}")
    return limit, f"{number} {unit}"


_A_NUMBER_OF_KERNELS = "a whole number of kernels (3000)"


def _whole(limit: float, text: str) -> tuple[float, str]:
    if not limit.is_integer():
        raise UsageProblem(f"there is no part of a kernel: write {_A_NUMBER_OF_KERNELS}, and per= for several calls")
    return limit, text


def _per(value: object) -> float:
    calls = finite_number(value)
    if calls is None or calls <= 0:
        raise UsageProblem("write the number of calls that the limits are for, above 0, such as per=1000")
    return calls


def _tolerance(value: object) -> float | Literal[False]:
    if value is False:
        return False
    try:
        tolerance = parse_share(value)
    except UsageProblem as problem:
        remedy = "; False takes the test out of the baseline gate" if value is True else ""
        raise UsageProblem(f"{problem}{remedy}") from None
    if not 0 <= tolerance <= 1:
        raise UsageProblem("write a share between 0% and 100%, such as '5%'")
    return tolerance


def _word(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageProblem("write a non-empty text")
    return value.strip()


# --- markers ---------------------------------------------------------------------------------------

_MEASURED = {"energy": "energy_j_per_call", "emissions": "emissions_g_per_call"}
_COUNTED = {"flops": "flops_per_call", "bytes": "bytes_per_call", "kernels": "kernels_per_call"}
_LIMITS = _MEASURED | _COUNTED
"""The keywords that set a limit, and their fields in :class:`Budget`."""
_UNITS: Mapping[str, tuple[Units, str]] = {
    "energy": (ENERGY, "J"),
    "emissions": (EMISSIONS, "g"),
    "flops": (FLOPS, "FLOP"),
    "bytes": (BYTES, "B"),
    "kernels": (KERNELS, "kernels"),
}
"""The units of each limit, and the one of a bare number."""

KEYWORDS: Mapping[str, str] = {
    "energy": "the most energy of a call: a number of joules, or a text with a unit, such as `'2.5 J'`, `'2.3 Wh'`",
    "emissions": "the most emissions of a call: a number of grams of CO2e, or a text with a unit, such as `'0.4 mg'`",
    "flops": "the most FLOPs that a call may ask for, such as `'6 GFLOP'`; checked with `--carbon-work`",
    "bytes": "the most bytes that a call may read and write, such as `'2 GB'`; checked with `--carbon-work`",
    "kernels": "the most kernels of a call, a whole number; checked with `--carbon-work`",
    "per": "the number of calls that the limits of this marker are for, such as `per=1000` (default: 1)",
    "tolerance": "a smaller change than this share never fails, such as `'5%'` (default: the options'); `False`: hold"
    " the test to its limits only, without a baseline",
    "name": "the measurement that the marker is for, such as `'decode'` (default: each of the test)",
    "on": "where the limits of this marker hold: a pattern of machines, such as `'nvidia-h100*'`; `'*'`: also where"
    " energy is estimated; `'predicted:a100*'`: predicted energy; `'work-cuda'`: counts of one engine (default: each"
    " machine that measures, each engine that counts)",
}
"""What each keyword of the marker means, in Markdown."""
_READERS: Mapping[str, Callable[[object], Any]] = {
    "energy": lambda value: _limit(
        value, ENERGY, "J", f"a number of joules, or one with {alternatives(ENERGY)} ('2.5 J')"
    ),
    "emissions": lambda value: _limit(
        value, EMISSIONS, "g", f"a number of grams, or one with {alternatives(EMISSIONS)} ('0.4 mg')"
    ),
    "flops": lambda value: _limit(
        value, FLOPS, "FLOP", f"a number of FLOPs, or one with {alternatives(FLOPS)} ('6 GFLOP')"
    ),
    "bytes": lambda value: _limit(value, BYTES, "B", f"a number of bytes, or one with {alternatives(BYTES)} ('2 GB')"),
    "kernels": lambda value: _whole(*_limit(value, KERNELS, "kernels", _A_NUMBER_OF_KERNELS)),
    "per": _per,
    "tolerance": _tolerance,
    "name": _word,
    "on": _word,
}


def parse(*args: object, **kwargs: object) -> Budget:
    """Read one ``carbon_budget`` marker: ``parse(*mark.args, **mark.kwargs)``.

    ``per`` and ``on`` are refused without a limit beside them: an inherited ``per=1000`` would make a limit written
    elsewhere a thousand times stricter. Raises :class:`UsageProblem`; the caller names the test.
    """
    if args:
        raise UsageProblem(
            f"carbon_budget({args[0]!r}): write what it is as a keyword, such as carbon_budget(energy='2.5 J')"
        )
    read: dict[str, Any] = {}
    for keyword, value in kwargs.items():
        where = f"carbon_budget({keyword}={value!r})"
        if keyword not in _READERS:
            raise UsageProblem(f"{where}: the keywords are {', '.join(_READERS)}.{did_you_mean(keyword, _READERS)}")
        if value is None:
            continue
        try:
            read[keyword] = _READERS[keyword](value)
        except UsageProblem as problem:
            raise UsageProblem(f"{where}: {problem}") from None
    for keyword in ("per", "on"):
        if keyword in read and not _LIMITS.keys() & read.keys():
            raise UsageProblem(
                f"carbon_budget({keyword}={kwargs[keyword]!r}): {keyword} speaks of the limits in the same "
                f"marker, and this one has none: write it beside {alternatives(f'{limit}=' for limit in _LIMITS)}"
            )
    if "on" in read:
        _refuse_other_places(read["on"], read)
    per = read.get("per", 1.0)
    limits = {keyword: read[keyword] for keyword in _LIMITS if keyword in read}
    return Budget(
        per=per,
        tolerance=read.get("tolerance"),
        name=read.get("name"),
        on=read.get("on"),
        **{_LIMITS[keyword]: amount / per for keyword, (amount, _) in limits.items()},
        **{f"{keyword}_text": text for keyword, (_, text) in limits.items()},
    )


def _refuse_other_places(on: str, read: Mapping[str, object]) -> None:
    """Refuse a pattern in which no limit of its marker can hold."""
    counts, measured = _COUNTED.keys() & read.keys(), _MEASURED.keys() & read.keys()
    if on.startswith(WORK) and measured:
        raise UsageProblem(
            f"carbon_budget(on={on!r}): work-* names the engines that count work, and {min(measured)} is measured:"
            f" write the limits on counted work in a marker of their own"
        )
    if on.startswith(WORK) and not any(fnmatchcase(WORK + engine, on) for engine in ENGINES):
        raise UsageProblem(
            f"carbon_budget(on={on!r}): no engine has such a name: write one of"
            f" {alternatives(WORK + engine for engine in ENGINES)}"
        )
    if counts and not measured and not on.startswith(WORK) and on != "*":
        raise UsageProblem(
            f"carbon_budget(on={on!r}): {min(counts)} does not depend on the machine: leave out on=, or name an engine"
            f" that counts it, such as on='{WORK}cpu' or on='{WORK}cuda'"
        )


def merge(*levels: Iterable[Budget]) -> tuple[Budget, ...]:
    """List a test's markers for :func:`budget_for`, the most important first.

    ``levels`` come nearest first: the parameters' markers, the function's, its class's, its module's. Within a level
    the given order holds, but a marker that names a measurement or a machine goes before one for all of them: in any
    order, neither switches the other off.
    """
    return tuple(
        budget for level in levels for budget in sorted(level, key=lambda b: (b.name is None, b.on in (None, "*")))
    )


def budget_for(budgets: Iterable[Budget], measurement: str, machine_id: str) -> Budget | None:
    """Return what merged markers say about one measurement on one machine.

    Keyword by keyword the first marker wins. Limits that hold on this machine go before those that are only shown.
    For counted work ``machine_id`` is the name of its folder, ``work-cpu``, and the limits are those on counts.
    """
    mine = [budget for budget in budgets if budget.name in (None, measurement)]
    if not mine:
        return None
    keywords = _COUNTED if machine_id.startswith(WORK) else _MEASURED
    limits = [budget for budget in mine if any(getattr(budget, field) is not None for field in keywords.values())]
    limits = [budget for budget in limits if holds(budget, machine_id)] or limits
    first = limits[0] if limits else mine[0]
    of_limits: dict[str, Any] = {}
    for keyword, field in keywords.items():
        setter = next((budget for budget in limits if getattr(budget, field) is not None), first)
        of_limits[field] = getattr(setter, field)
        of_limits[f"{keyword}_text"] = _rescaled(getattr(setter, f"{keyword}_text"), first.per / setter.per)
    return Budget(
        per=first.per,
        tolerance=next((b.tolerance for b in mine if b.tolerance is not None), None),
        name=measurement,
        on=first.on,
        **of_limits,
    )


def _rescaled(text: str | None, factor: float) -> str | None:
    """Write a limit for another number of calls: merged limits have one ``per``."""
    if text is None or factor == 1:
        return text
    number, unit = text.split(" ")
    return f"{float(number) * factor:.6g} {unit}"


def unmeasured(names: Iterable[str], measured: Sequence[str]) -> str | None:
    """Say so where a test's own marker names a measurement that the test did not make."""
    for name in names:
        if name not in measured:
            made = ", ".join(map(repr, measured)) or "none"
            return (
                f"carbon_budget(name={name!r}) is for a measurement that this test did not make; "
                f"it made {made}.{did_you_mean(name, measured)}"
            )
    return None


# --- whether it is met -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """What a measurement's budget says about it."""

    limit_j_per_call: float | None = None
    """The energy limit, whether it is enforced here or only shown."""
    over: str | None = None
    """By how much an enforced limit is exceeded, and what to do; None where all are met."""
    warning: MeasurementWarning | None = None
    """The error reaches across an enforced limit (``near-limit``)."""
    shown: str | None = None
    """What a limit that does not hold on this machine would say, and why it does not hold."""


def holds(budget: Budget, machine_id: str) -> bool:
    """Tell whether limits hold on a machine: a measured one, or one in ``on``.

    ``on`` matches the id with or without its leading count (``1x-``), in any case. Limits on counted work hold for each
    engine, unless ``on`` names engines. No pattern for a machine, ``*`` included, means a prediction:
    ``on="predicted:h100*"`` does.
    """
    if machine_id.startswith(WORK):
        return budget.on is None or not budget.on.startswith(WORK) or fnmatchcase(machine_id, budget.on)
    if is_predicted(machine_id):
        return budget.on is not None and matches(machine_id, budget.on)
    if budget.on is None:
        return not is_estimated(machine_id)
    id, pattern = machine_id.lower(), budget.on.lower()
    return fnmatchcase(id, pattern) or fnmatchcase(re.sub(r"^\d+x-", "", id), pattern)


def _with_unit(number: str, unit: str) -> str:
    return counted(int(number), "kernel") if unit == "kernels" and number.isdigit() else f"{number} {unit}"


class _Limit(NamedTuple):
    """A limit and what was measured, in the unit that the user wrote."""

    keyword: str
    text: str
    limit: float
    amount: float
    error: float | None
    per: float

    @property
    def calls(self) -> str:
        return "per call" if self.per == 1 else f"per {self.per:,.15g} calls"

    @property
    def unit(self) -> str:
        return self.text.rpartition(" ")[2]

    @property
    def budget(self) -> str:
        return _with_unit(*self.text.split(" "))

    @property
    def over(self) -> str | None:
        if self.amount <= self.limit:
            return None
        whole = [f"{self.amount:,.0f}"] if self.unit in WHOLE else []
        digits = (*whole, *(with_digits(self.amount, n) for n in range(3, 18)))
        amount = next((d for d in digits if float(d.replace(",", "")) > self.limit), f"{self.amount!r}")
        ratio = self.amount / self.limit
        if ratio >= 1.995:
            excess = f"{ratio:,.{0 if ratio >= 9.95 else 1}f}× "
        else:
            excess = "less than 0.01% over " if ratio < 1.0001 else f"{with_digits(100 * (ratio - 1), 2)}% over "
        return f"{_with_unit(amount, self.unit)} {self.calls}, {excess}the budget of {self.budget}"

    @property
    def within(self) -> str:
        amount = f"{self.amount:,.0f}" if self.unit in WHOLE else with_digits(self.amount)
        return f"{_with_unit(amount, self.unit)} {self.calls}, within the budget of {self.budget}"

    @property
    def near(self) -> str | None:
        if not self.error or not self.amount - self.error < self.limit < self.amount + self.error:
            return None
        return (
            f"the budget of {self.budget} {self.calls} lies within the error of what was measured, "
            f"{with_digits(self.amount)} ± {with_digits(self.error, 2)} {self.unit}: measure longer "
            f"(--carbon-max-time), or leave more room"
        )


def check(
    budget: Budget,
    *,
    energy_j_per_call: float | None,
    error_j: float | None,
    emissions_g_per_call: float | None,
    machine_id: str,
) -> Finding:
    """Hold one measurement to its budget; the point estimate decides.

    ``error_j`` is the half-width of the energy's 95% interval; emissions have the same relative error. What was not
    measured (None) is held to nothing: that measurement fails by itself.
    """
    limits = []
    for keyword, amount in (("energy", energy_j_per_call), ("emissions", emissions_g_per_call)):
        error = error_j and energy_j_per_call and amount and abs(error_j) * amount / energy_j_per_call
        limits += _limits(budget, keyword, amount, error)
    if limits and not holds(budget, machine_id):
        shown = "; ".join(limit.over or limit.within for limit in limits)
        why = (
            f"on={budget.on!r} does not match this machine, {machine_id}"
            if budget.on
            else "energy is only estimated here (on='*' would enforce it)"
        )
        return Finding(budget.energy_j_per_call, shown=f"{shown}: shown, not enforced, since {why}")
    near = [limit.near for limit in limits if limit.near]
    return Finding(
        budget.energy_j_per_call,
        over=_over(limits, "make the call cheaper"),
        warning=MeasurementWarning("near-limit", "; ".join(near)) if near else None,
    )


def check_work(budget: Budget, work: Work) -> Finding:
    """Hold what was counted of one measurement to its budget; counts are exact."""
    amounts = (("flops", work.flops), ("bytes", work.bytes), ("kernels", work.kernels))
    limits = [limit for keyword, amount in amounts for limit in _limits(budget, keyword, amount)]
    engine = WORK + work.engine
    if limits and not holds(budget, engine):
        shown = "; ".join(limit.over or limit.within for limit in limits)
        return Finding(shown=f"{shown}: shown, not enforced, since on={budget.on!r} does not match {engine}")
    return Finding(over=_over(limits, "make the call do less"))


def _limits(budget: Budget, keyword: str, amount: float | None, error: float | None = None) -> list[_Limit]:
    """Return the limit of a keyword beside what was measured; nothing where either is unknown."""
    limit = getattr(budget, _LIMITS[keyword])
    if limit is None or amount is None:
        return []
    units, base = _UNITS[keyword]
    text = getattr(budget, f"{keyword}_text") or f"{limit * budget.per:.6g} {base}"
    scale = budget.per / units[known_unit(text.rpartition(" ")[2], units)]
    return [_Limit(keyword, text, limit * scale, amount * scale, error and error * scale, budget.per)]


def _over(limits: Sequence[_Limit], remedy: str) -> str | None:
    """Say which limits are exceeded, and what to do; None where all are met."""
    over = [limit for limit in limits if limit.over]
    if not over:
        return None
    keywords = " and ".join(f"{limit.keyword}=" for limit in over)
    return f"{'; '.join(str(limit.over) for limit in over)}: {remedy}, or raise {keywords} in its carbon_budget marker"
