"""What the stores of baselines are tested with."""

from __future__ import annotations

from typing import Any

from pytest_carbon.baselines import Store
from pytest_carbon.records import Gpu, Machine, Record

HOST = Machine(
    "1x-nvidia-h100-80gb-hbm3-700w-gpu",
    (Gpu(0, "", "NVIDIA H100 80GB HBM3", 700.0),),
    cpu="Intel Xeon Platinum 8480C",
)
"""As a store describes it."""


def record(test: str = "tests/test_m.py::test_x[fp16]", session: str = "s1", day: int = 1, **changes: Any) -> Record:
    """Make a record of one session; ``changes``: other values of its fields."""
    fields: dict[str, Any] = {
        "test": test,
        "name": "call",
        "epoch": "0",
        "session": session,
        "created": f"2026-11-{day:02d}T10:00:00Z",
        "boot": "b0",
        "commit": "c0ffee",
        "branch": "main",
        "energy_j_per_call": 1.21,
        "energy_j_per_call_error": 0.01,
        "duration_s_per_call": 0.0041,
        "torch": "2.13.0",
        "driver": "580.65.06",
    }
    return Record(**(fields | changes))


def everything(store: Store) -> set[Record]:
    """Return all records of the host."""
    return {record for records in store.load(HOST.id).values() for record in records}
