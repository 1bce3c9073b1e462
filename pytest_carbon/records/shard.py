"""A shard of a suite: the part that one run of several has run, and the rule by which they are judged together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of a suite a run has run; what all shards of one suite have in common."""

    index: int
    """From 1."""
    count: int
    tests: int
    """Selected in this shard."""
    tests_total: int
    """Selected in all shards together."""
    division: str
    """A digest of the whole selection and of the shard of each test: the same in all shards of a suite."""
    tolerance: float
    max_detectable: float
    gate: Literal["fail", "warn"]
    strict: bool
    failed: bool = False
    """Whether more than the verdicts of the gate fails the run, such as a failed test."""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
