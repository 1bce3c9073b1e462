"""The nouns of counted work: what a call asks of a device, and the verdict on it; standard library only.

Counts are exact and for one call, or for one call of a window: ``flops`` counts a multiplication and an addition as
two; ``bytes`` are read and written by the kernels, unfused; ``kernels`` are the operators that do something (a view is
none).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

WorkStatus = Literal["error", "over-budget", "regression", "changed", "inconclusive", "improvement", "new", "pass"]
"""``changed``: some counts rise and some fall; it fails until it is accepted."""
WORK = "work-"
"""How the folder of counted baselines begins; the engine follows: ``work-cpu``, ``work-hollow``, ``work-cuda``."""

ENGINES = ("cpu", "hollow", "cuda", "mps", "xpu")
"""All that may follow: as the call ran, on real tensors of a device or on hollow ones."""


class OperatorWork(NamedTuple):
    """What the operators of one class took in one dtype."""

    operators: str
    """Class and dtype: ``gemm float32``, ``attention bfloat16``, ``copy float16``, ``sort int64``."""
    flops: int
    bytes: int
    kernels: int


class ModuleWork(NamedTuple):
    """What a module's own code did, without the modules inside it; forward and backward together."""

    module: str
    """Its name from the root, layers' numbers folded: ``transformer.layer.*.ffn``; "" is the root, or no module."""
    calls: int
    """Of its forward."""
    rows: int
    """Over all calls, the sum of the first tensor's size without its last dimension: tokens, or items of a batch."""
    batch: int
    """Over all calls, the sum of the first tensor's first dimension."""
    flops: int
    bytes: int
    kernels: int
    host_reads: int = 0
    by_class: tuple[OperatorWork, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What a call asks of a device."""

    engine: str
    """As the call ran: ``cpu``, ``hollow``, or the accelerator's: ``cuda``, ``mps``."""
    flops: int
    bytes: int
    kernels: int
    host_reads: int
    """How many times the host waits for a value of the device: ``item``, ``tolist``, ``cpu``, ``bool``."""
    steps: int | None = None
    """Decode steps of ``generate()``; None where nothing was generated."""
    tokens_in: int | None = None
    """Of all prompts together, as ``generate()`` got them; padding counts."""
    tokens_out: int | None = None
    by_class: tuple[OperatorWork, ...] = ()
    """Sorted by class."""
    by_module: tuple[ModuleWork, ...] = ()
    """Sorted by name. Its sums are the totals."""
    reads: Mapping[str, int] = field(default_factory=dict)
    """The host reads by kind: ``{"item": 30}``."""
    unknown_ops: tuple[str, ...] = ()
    """Operators without a formula that may do arithmetic: their FLOPs are missing."""


@dataclass(frozen=True, slots=True)
class WorkVerdict:
    """What was decided on a count, against what, and why, in a sentence."""

    status: WorkStatus
    reason: str
    """Its first words name the cause where one is known."""
    change: Mapping[str, float] = field(default_factory=dict)
    """Relative, by quantity: ``{"flops": 0.0, "bytes": 0.31, "kernels": 0.0}``."""
    cause: str | None = None
    """``15.8× the FLOPs: h.*.mlp, 16 calls, each over 512 tokens instead of 1: the KV cache is not used``."""
    modules: tuple[tuple[str, str], ...] = ()
    """The modules that changed, the largest first, each with a phrase: for the table with ``-v``."""
    differences: tuple[str, ...] = ()
    """Versions that differ from the baseline's: ``transformers 4.57.1 → 5.23.0``."""
    predictions: tuple[str, ...] = ()
    """What it may mean for the energy: ``≈ +31% J on 1x-h100… (predicted, model error 14%)``. No measurement."""
    effect: Literal["none", "warns", "fails", "accepted"] = "none"
    """Decided once, after recording."""

    @property
    def failed(self) -> bool:
        """Whether this fails a test while ``--carbon-gate`` is ``fail`` (an error always does)."""
        return self.status in ("error", "over-budget", "regression", "changed")


class WorkRecord(NamedTuple):
    """The count of one measurement, as a baseline stores it: one a measurement, and no history."""

    test: str
    name: str
    created: str
    """ISO 8601, UTC."""
    commit: str | None
    branch: str | None
    versions: Mapping[str, str]
    """Of what decides what is asked: ``{"torch": "2.13.0", "transformers": "5.23.0"}``."""
    work: Work

    @property
    def key(self) -> tuple[str, str]:
        return (self.test, self.name)
