"""What to count of an operator, found out once for each: its class, formula, and what it reads and writes."""

from __future__ import annotations

from typing import Any

import torch

from pytest_carbon.work.formulas import Formula, formula_of
from pytest_carbon.work.kinds import base_name, does_nothing, kind_of
from pytest_carbon.work.traffic import OVERWRITING, SPECIAL, Special

_IMPLICIT = torch._C.DispatchKey.CompositeImplicitAutograd
_READS = {
    "_local_scalar_dense": "item",
    "equal": "equal",
    "allclose": "allclose",
    "nonzero": "nonzero",
    "masked_select": "masked_select",
    "_unique": "unique",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "unique_dim_consecutive": "unique",
    "repeat_interleave": "repeat_interleave",
    "bincount": "bincount",
    "is_all_true": "item",
    "linalg_lstsq": "lstsq",
}
"""Operators for whose result the host waits, with the name of the read."""
_BY_RESULT = frozenset({"elementwise", "fill", "random", "copy", "cast"})
"""Classes that are filed under the dtype that they write, not the one that they read first."""
_FLOPS = frozenset({"gemm", "convolution", "attention", "rnn", "linalg", "fft"})
_OURS = frozenset({"aten", "prims", "prim", "profiler", "c10d_functional", "_c10d_functional", "higher_order"})
"""Namespaces of torch itself; operators of all others need a formula."""


class Plan:
    """How one operator is counted."""

    __slots__ = (
        "aliases", "by_result", "composite", "dtype", "formula", "fresh", "kind", "name", "nothing", "outs", "own",
        "read", "special", "unknown", "unread", "writes",
    )  # fmt: skip

    def __init__(self, func: Any) -> None:
        self.name: str = base_name(func)
        self.nothing = does_nothing(func)
        self.read: str | None = _READS.get(self.name) or _READS.get(self.name.lstrip("_"))
        self.composite: Any = _composite(func)
        self.own = func.namespace in _OURS
        self.formula: Formula | None = formula_of(func, self.name)
        kind = kind_of(func) if self.own or func.namespace in ("quantized", "_quantized", "mkldnn", "onednn") else None
        if kind is None and func.namespace == "aten" and self.name.lstrip("_").startswith(("linalg", "cholesky")):
            kind = "linalg"
        self.unknown: str | None = None
        if self.formula is None and not self.nothing and (kind is None or kind in _FLOPS):
            self.unknown = f"{func.namespace}::{self.name}"
        if self.name == "to_mkldnn":  # then TorchScript runs operators of its own, which no dispatcher sees
            self.unknown = "operators on mkldnn tensors"
        self.kind: str = kind or ("gemm" if self.formula is not None else "other")
        self.dtype: str | None = "int8" if func.namespace in ("quantized", "_quantized") else None
        self.by_result = self.kind in _BY_RESULT
        self.special: Special | None = SPECIAL.get(self.name)
        arguments = func._schema.arguments
        written = [a for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        positional = [a.name for a in arguments if not a.kwarg_only]
        self.writes: tuple[int, ...] = tuple(positional.index(a.name) for a in written if not a.kwarg_only)
        self.outs: tuple[str, ...] = tuple(a.name for a in written if a.kwarg_only)
        self.unread: int = self.writes[0] if self.writes and self.name in OVERWRITING else -1
        self.aliases = any(r.alias_info is not None for r in func._schema.returns)
        self.fresh = any(r.alias_info is None for r in func._schema.returns)


def _composite(func: Any) -> Any:
    """Return the key by which an operator is taken apart, where it is made of others on every device."""
    try:
        name = func.name()
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        if has(name, "CompositeImplicitAutograd") and not (has(name, "CPU") or has(name, "CUDA")):
            return _IMPLICIT
    except RuntimeError:
        pass  # an operator of TorchScript: no dispatch
    return None
