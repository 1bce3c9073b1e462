"""Predict joules from counted work: by a fit of a machine's own measurements, or by published coefficients.

Both are one linear model, ``E = call + kernels + bytes + FLOPs by dtype``, with no negative coefficient. It adds where
a roofline takes the maximum of computing, moving and launching. A GPU overlaps these in part, so both err. But a
maximum needs each kernel by itself instead of sums, and cannot be fitted to a dozen measurements. A sum can, and its
leave-one-out error says how far it is to be trusted. Standard library only; a fit imports scipy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import NamedTuple

from pytest_carbon.records.work import Work
from pytest_carbon.text import change, share

PREDICTED = "predicted:"
"""How the name of a model begins where the id of a measuring machine stands: ``predicted:h100-sxm5-80gb``."""
LEAST_POINTS = 8
"""Measurements of a machine below which nothing is fitted."""
STUDY_GPU = "a100-sxm4-80gb"
"""The GPU of *Power Hungry Processing*."""

_CALL, _KERNEL, _BYTE, _FLOP = "call", "kernel", "byte", "flop "
_DTYPES: Mapping[str, str] = {"float16": "half", "bfloat16": "half", "complex64": "float32", "complex128": "float64"}
"""A dtype → the class whose coefficient it has. Others stand for themselves."""


def terms(work: Work) -> dict[str, float]:
    """Return what a call is charged for: itself, its kernels, its bytes, its FLOPs by class of dtype.

    A convolution in float32 is charged as ``tf32``: torch lets cuDNN compute it so unless it is told not to.
    """
    counts = {_CALL: 1.0, _KERNEL: float(work.kernels), _BYTE: float(work.bytes)}
    for part in work.by_class:
        if part.flops:
            kind, _, dtype = part.operators.rpartition(" ")
            dtype = "tf32" if kind.startswith("conv") and dtype == "float32" else _DTYPES.get(dtype, dtype)
            counts[_FLOP + dtype] = counts.get(_FLOP + dtype, 0.0) + part.flops
    return counts


@dataclass(frozen=True, slots=True)
class Model:
    """What a device's joules are predicted by. A prediction is no measurement: it enters no baseline."""

    name: str
    """The id of the machine that it was fitted on, or the name of a GPU: ``h100-sxm5-80gb``."""
    joules_per: Mapping[str, float]
    """By term, for one of it."""
    error: float
    """Relative: how far predictions are off in the mean. Of a fit: those of measurements left out of it."""
    points: int | None = None
    """How many measurements it was fitted to; None: published coefficients."""
    sources: tuple[str, ...] = field(default=())

    @property
    def fitted(self) -> bool:
        return self.points is not None

    @property
    def label(self) -> str:
        """Its name where a measuring machine's id may stand, too."""
        return PREDICTED + self.name

    def missing(self, work: Work) -> tuple[str, ...]:
        """List the terms of a call that it has no coefficient for."""
        return tuple(term for term in terms(work) if term not in self.joules_per and term != _CALL)

    def joules(self, work: Work) -> float | None:
        """Predict the energy of one call; None where a term has no coefficient."""
        if self.missing(work):
            return None
        return math.fsum(self.joules_per.get(term, 0.0) * count for term, count in terms(work).items())

    def change(self, before: Work, now: Work) -> float | None:
        """Predict the relative change of the energy."""
        then_j, now_j = self.joules(before), self.joules(now)
        return None if not then_j or now_j is None else now_j / then_j - 1.0

    def sentence(self, before: Work, now: Work) -> str | None:
        """Say what a change of the work means for the energy: ``≈ +31% J on 1x-… (predicted, model error 14%)``."""
        relative = self.change(before, now)
        if relative is None:
            return None
        whole = f"{100 * relative:+.0f}%" if -0.995 < relative < 0.995 else change(relative)
        return f"≈ {whole} J on {self.name} (predicted, model error {share(round(self.error, 2))})"


def matches(label: str, pattern: str) -> bool:
    """Tell whether ``predicted:h100*`` means a model: with or without its count (``1x-``) and maker, in any case."""
    if not is_predicted(pattern):
        return False
    wanted, name = (text.lower().removeprefix(PREDICTED) for text in (pattern, label))
    bare = re.sub(r"^\d+x-", "", name)
    return any(fnmatchcase(known, wanted) for known in (name, bare, bare.removeprefix("nvidia-")))


def is_predicted(name: str) -> bool:
    """Tell whether a machine's id, or a pattern for one, means a prediction."""
    return name.lower().startswith(PREDICTED)


# --- a machine's own measurements ------------------------------------------------------------------


class Point(NamedTuple):
    """A call whose work was counted and whose energy was measured."""

    work: Work
    joules: float


def fit(machine: str, points: Iterable[Point]) -> Model | None:
    """Fit a machine's coefficients, none below 0, to its measurements; None for fewer than eight.

    Relative errors are made least: else the dearest call would decide alone.
    """
    known = [point for point in points if point.joules > 0 and math.isfinite(point.joules)]
    if len(known) < LEAST_POINTS:
        return None
    off = [abs(_fitted(known[:i] + known[i + 1 :], left.work) / left.joules - 1.0) for i, left in enumerate(known)]
    source = f"fitted to {len(known)} measurements of this machine"
    return Model(machine, _coefficients(known), math.fsum(off) / len(off), len(known), (source,))


def _fitted(points: Sequence[Point], work: Work) -> float:
    """Predict a call by other calls; what none of them has is free."""
    coefficients = _coefficients(points)
    return math.fsum(coefficients.get(term, 0.0) * count for term, count in terms(work).items())


def _coefficients(points: Sequence[Point]) -> dict[str, float]:
    import numpy as np
    from scipy.optimize import nnls

    charged = [terms(point.work) for point in points]
    names = sorted({name for counts in charged for name, count in counts.items() if count})
    shares = np.array(
        [[counts.get(name, 0.0) / p.joules for name in names] for counts, p in zip(charged, points, strict=True)]
    )
    scale = shares.max(axis=0)
    solution, _ = nnls(shares / scale, np.ones(len(points)))
    return {name: float(value) for name, value in zip(names, solution / scale, strict=True)}


# --- published coefficients ------------------------------------------------------------------------


@cache
def published() -> Mapping[str, Model]:
    """Return the GPUs that coefficients are published for, by name; the file has the source of each."""
    import csv  # here: every run reads its markers, few predict
    from importlib.resources import files

    rows: dict[str, list[dict[str, str]]] = {}
    with files("pytest_carbon.work").joinpath("coefficients.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["gpu"], []).append(row)
    models = {}
    for gpu, lines in rows.items():
        values = {line["term"]: float(line["value"]) for line in lines}
        error = values.pop("error")
        models[gpu] = Model(gpu, values, error, sources=tuple(line["source"] for line in lines))
    return models


def chosen(pattern: str, fits: Iterable[Model] = ()) -> tuple[Model, ...]:
    """Return the models that ``on="predicted:…"`` means: a machine's fit goes before what is published."""
    fitted = tuple(model for model in fits if matches(model.label, pattern))
    return fitted or tuple(model for model in published().values() if matches(model.label, pattern))
