"""The options of a run as one frozen record; standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a run, after precedence and refusals; :mod:`pytest_carbon.plugin.options` explains each."""

    enabled: bool = False
    record: bool = False
    accept: bool = False
    gate: Literal["fail", "warn"] = "fail"
    baseline: Path | str = field(default_factory=lambda: Path("carbon-baselines"))
    """A directory, or the URL of a database."""
    branch: str = "main"
    """In a database: the branch whose baselines count."""
    branch_given: str | None = None
    """The same, if the command line names it: the branch of this checkout, too, where nothing else names that."""
    labels: str | None = None
    """``pool=a,team=nlp``, sorted."""
    tolerance: float = 0.05
    false_alarms: float = 0.01
    meter: str = "auto"
    gpus: str = "used"
    domains: Literal["auto", "gpu", "measured", "total"] = "auto"
    ignore: tuple[str, ...] | None = None
    """Codes of warnings that only inform."""
    country: str | None = None
    region: str | None = None
    cloud: str | None = None
    intensity_g_per_kwh: float | None = None
    pue: float = 1.0
    warmup_s: float = 1.0
    rounds: int = 5
    min_time_s: float = 1.0
    max_time_s: float = 10.0
    precision: float = 0.01
    max_detectable: float = 0.30
    reference: bool = False
    sessions: int = 1
    """Fresh processes; 1: this process. With ``against``: pairs of fresh processes."""
    against: str | None = None
    confirm: int = 0
    session_timeout_s: float | None = None
    engine: str = "local"
    """Where fresh processes run: ``local``, this machine; ``ray``, with or without an address after a colon."""
    gpus_per_worker: int = 1
    """With pytest-xdist or Ray: the GPUs that each worker, or task, is shown."""
    lock_timeout_s: float = 600.0
    """How long to wait for a device that another run measures on."""
    rank_timeout_s: float = 300.0
    """Under torchrun: how long rank 0 waits for another rank at a place that all come to."""
    shard: tuple[int, int] | None = None
    """The index, from 1, and the number of shards."""
    strict: bool = False
    suite: Literal["small", "study"] | tuple[str, ...] = "small"
    queries: int | None = None
    work: bool = False
    work_tolerance: float = 0.01
    """Of FLOPs, bytes and decode steps."""
    kernel_tolerance: float = 0.10
    """Of kernels and host reads."""
    json: Path | None = None
    html: Path | None = None
    summary: Literal["auto", "off"] = "auto"
