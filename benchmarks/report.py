"""What each benchmark writes: its figures, and how, when and on what they were made."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def made_by(benchmark: str, argv: Sequence[str] | None = None) -> str:
    """What runs it, with arguments; None: those of this process."""
    return " ".join([f"python -m benchmarks.{benchmark}", *(sys.argv[1:] if argv is None else argv)])


def what_made(run: str) -> dict[str, Any]:
    """The command ``run`` that makes figures, when and beside what other work."""
    return {
        "command": run,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "load_average": [round(each, 1) for each in os.getloadavg()],
        "python": platform.python_version(),
    }


def write_results(file: Path, benchmark: str, run: str, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON, behind the command ``run`` that makes them."""
    head = {"benchmark": benchmark, **what_made(run), "numpy": version("numpy"), "scipy": version("scipy")}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**head, **figures}, indent=1) + "\n", encoding="utf-8")
