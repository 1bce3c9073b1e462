"""Records, measurements and results with usual values; each test names only the fields that it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_carbon.baselines import Store
from pytest_carbon.records import (
    CarbonIntensity,
    Gpu,
    Machine,
    Measurement,
    Record,
    SessionResult,
    SessionScore,
    SuiteVerdict,
    TestResult,
)
from pytest_carbon.records.work import ModuleWork, OperatorWork, Work, WorkRecord

MACHINE = Machine("a-gpu", torch="2.13.0", driver="580.65", boot="b0")


HOST = Machine(
    "1x-nvidia-h100-80gb-hbm3-700w-gpu",
    (Gpu(0, "", "NVIDIA H100 80GB HBM3", 700.0),),
    cpu="Intel Xeon Platinum 8480C",
)
"""As a store describes it."""


def record(test: str = "tests/test_m.py::test_x[fp16]", session: str = "s1", day: int = 1, **changes: Any) -> Record:
    """A record of one session in a baseline."""
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


def daily_record(day: int, energy_j: float, **changes: Any) -> Record:
    """A record of a session on a day of its own, in another boot each time."""
    fields: dict[str, Any] = {
        "session": f"day {day}",
        "created": f"2026-10-{day:02}T10:00:00Z",
        "boot": f"boot {day}",
        "energy_j_per_call": energy_j,
        "energy_j_per_call_error": None,
        "duration_s_per_call": 0.1,
        "torch": None,
        "driver": None,
    }
    return record(**(fields | changes))


def measurement(
    energy_j: float = 1.23, duration_s: float = 0.0042, session: str = "now", **changes: Any
) -> Measurement:
    """What one session measured of a call."""
    fields: dict[str, Any] = {
        "name": "call",
        "machine": MACHINE.id,
        "calls": 240,
        "duration_s_per_call": duration_s,
        "energy_j_per_call": energy_j,
        "sessions": (SessionScore(session, energy_j, duration_s),),
    }
    return Measurement(**(fields | changes))


def result(*tests: TestResult, **changes: Any) -> SessionResult:
    """What a run came to."""
    fields: dict[str, Any] = {
        "session": "now",
        "created": "2026-11-22T10:00:00Z",
        "duration_s": 60.0,
        "exit_status": 0,
        "machine": MACHINE,
        "intensity": CarbonIntensity(369.5, 1.0, "given", None),
        "suite": SuiteVerdict(0, 0, 0.01),
        "tests": tests,
    }
    return SessionResult(**(fields | changes))


def work(flops: int = 2_565_811_200, kernels: int = 79, host_reads: int = 0, **changes: Any) -> Work:
    """What was counted of a call: two modules, in one dtype."""
    copies = OperatorWork("copy float32", 0, 6_000_000, kernels - 38)
    fields: dict[str, Any] = {
        "engine": "cpu",
        "flops": flops,
        "bytes": 196_000_000,
        "kernels": kernels,
        "host_reads": host_reads,
        "by_class": (
            copies,
            OperatorWork("gemm float32", flops, 190_000_000, 38),
        ),
        "by_module": (
            ModuleWork("", 1, 512, 4, *copies[1:], host_reads, (copies,)),
            ModuleWork(
                "layer.*.ffn",
                *(6, 3072, 24),
                *(flops, 190_000_000, 38, 0),
                (OperatorWork("gemm float32", flops, 190_000_000, 38),),
            ),
        ),
    }
    return Work(**(fields | changes))


def summed(modules: Sequence[ModuleWork], **changes: Any) -> Work:
    """What these modules did in all; each has the sums of its own operators."""
    sums: dict[str, OperatorWork] = {}
    own = []
    for module in modules:
        flops, of_bytes, kernels = ([one[i] for one in module.by_class] for i in (1, 2, 3))
        own.append(module._replace(flops=sum(flops), bytes=sum(of_bytes), kernels=sum(kernels)))
        for name, *figures in module.by_class:
            before = sums.get(name, OperatorWork(name, 0, 0, 0))
            sums[name] = OperatorWork(name, *(a + b for a, b in zip(before[1:], figures, strict=True)))
    fields: dict[str, Any] = {
        "engine": "cpu",
        **{name: sum(getattr(one, name) for one in own) for name in ("flops", "bytes", "kernels", "host_reads")},
        "by_class": tuple(sorted(sums.values())),
        "by_module": tuple(sorted(own)),
    }
    return Work(**(fields | changes))


def work_record(test: str = "tests/test_m.py::test_x[fp16]", day: int = 1, **changes: Any) -> WorkRecord:
    """The count of one measurement in a baseline."""
    fields: dict[str, Any] = {
        "test": test,
        "name": "call",
        "created": f"2026-11-{day:02d}T10:00:00Z",
        "commit": "c0ffee",
        "branch": "main",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "work": work(),
    }
    return WorkRecord(**(fields | changes))


def everything(store: Store) -> set[Record]:
    """Return all records of the host."""
    return {record for records in store.load(HOST.id).values() for record in records}
