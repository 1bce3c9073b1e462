"""What the stores of baselines are tested with."""

from __future__ import annotations

from typing import Any

from pytest_carbon.records import Record


def record(test: str = "tests/test_m.py::test_x[fp16]", session: str = "s1", day: int = 1, **changes: Any) -> Record:
    """A record that one session made; ``changes``: its fields that are others."""
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
