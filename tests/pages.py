"""Runs for the page of HTML: one of each verdict, a study's tasks, very many, and names that attack."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from typing import Any

import builders

from pytest_carbon.records import (
    CarbonIntensity,
    Counted,
    Effect,
    Gpu,
    Machine,
    MeasurementWarning,
    Record,
    Status,
    SuiteVerdict,
    TestResult,
    Unmeasured,
    Verdict,
)
from pytest_carbon.records.work import ModuleWork, OperatorWork, WorkStatus, WorkVerdict
from pytest_carbon.reports.merge import Runs
from tests.study import as_in_the_study, passing

H100 = Machine(
    "1x-nvidia-h100-80gb-hbm3-700w-gpu",
    (Gpu(0, "GPU-1f3a9c", "NVIDIA H100 80GB HBM3", 700.0),),
    cpu="Intel Xeon Platinum 8480C",
    driver="580.65.06",
    torch="2.13.0",
)
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "{{7*7}} {% raw %}",
    "@everyone ]]> ::error::boom",
    "new\nline\r\x1b[31m\x00",
    "\u202eright to left שלום مرحبا\u2028\u2029",
    "&amp;&lt;b&gt; <!-- --> &#x3c;",
    "x" * 10_000,
)


def measured(
    test: str,
    status: Status,
    energy_j: float | None = 0.0282,
    was_j: float | None = None,
    *,
    name: str = "call",
    effect: Effect | None = None,
    reason: str | None = None,
    machine: Machine = H100,
    counted: Counted | None = None,
    **changes: Any,
) -> TestResult:
    """A test with one measurement, whose verdict is as asked."""
    duration_s = changes.pop("duration_s", 0.0041)
    change = None if was_j is None or energy_j is None else energy_j / was_j - 1
    figures = {
        "name": name,
        "machine": machine.id,
        "energy_j_per_call_error": None if energy_j is None else 0.006 * energy_j,
        "emissions_g_per_call": None if energy_j is None else energy_j / 3.6e6 * 369.5,
        "warnings": changes.pop("warnings", ()),
        "task": changes.pop("task", None),
    }
    made = builders.measurement(energy_j or 1.0, duration_s, **figures)
    if energy_j is None:
        made = replace(made, energy_j_per_call=None, duration_s_per_call=None, sessions=(), failure=reason)
    fails = status in ("error", "over-budget", "regression")
    fields: dict[str, Any] = {
        "baseline_j_per_call": was_j,
        "baseline_recordings": 5 if was_j else 0,
        "baseline_sessions": 9 if was_j else 0,
        "change": change,
        "detectable_change": 0.061 if was_j else None,
        "duration_change": None if change is None else 0.9 * change,
        "power_change": None if change is None else (1 + change) / (1 + 0.9 * change) - 1,
        "tolerance": 0.05 if was_j else None,
        "effect": effect or ("fails" if fails else "none"),
    }
    verdict = Verdict(status, reason or status, **(fields | changes))
    outcome = "failed" if verdict.effect == "fails" else "passed"
    file = test.partition("::")[0]
    return TestResult(test, outcome, ((made, verdict),), "passed", (counted,) if counted else (), file, 12)


def counts(
    status: WorkStatus = "regression",
    flops: int = 40_500_000_000,
    change: float = 14.8,
    *,
    name: str = "call",
    reason: str | None = None,
) -> Counted:
    """Counted work in which the KV cache is not used."""
    parts = (
        ("transformer.h.*.mlp", 0.67, 900, 600),
        ("transformer.h.*.attn", 0.25, 500, 480),
        ("lm_head", 0.08, 90, 80),
    )
    modules = [
        ModuleWork(name, 16, 8192, 16, 0, 0, 0, 0, (OperatorWork("gemm float32", round(flops * part), mb * 10**6, n),))
        for name, part, mb, n in parts
    ]
    copies = (OperatorWork("copy float32", 0, 10_000_000, 40),)
    modules.append(ModuleWork("", 1, 512, 1, 0, 0, 0, 30, copies))
    work = builders.summed(modules, steps=16, tokens_out=16, reads={"item": 30})
    cause = (
        "15.8× the FLOPs: transformer.h.*.mlp, 16 calls, each over 512 tokens instead of 1; tokens unchanged: the KV"
        " cache is not used"
    )
    grew = (
        ("transformer.h.*.mlp", "15.8× FLOPs, 512 tokens a call instead of 1"),
        ("transformer.h.*.attn", "9.1× FLOPs"),
    )
    moved = {"flops": change, "bytes": change / 5, "kernels": 0.0, "host_reads": 0.0, "steps": 0.0}
    fails = status in ("error", "over-budget", "regression", "changed")
    verdict = WorkVerdict(
        status,
        reason or (f"{cause}." if fails else "as the baseline"),
        moved if status not in ("new", "error") else {},
        cause if fails else None,
        grew if fails else (),
        predictions=("≈ +31% J on 1x-nvidia-h100 (predicted, model error 14%)",) if fails else (),
        effect="fails" if fails else "none",
    )
    return Counted(name, work, verdict)


def history(test: str, energies: list[float], name: str = "call", accepted_at: int | None = None) -> list[Record]:
    """Records of one session a day; from ``accepted_at`` on in a new epoch."""
    return [
        builders.daily_record(
            day + 1,
            energy,
            test=test,
            name=name,
            duration_s_per_call=0.0041 * (1 + 0.01 * ((day * 7) % 5 - 2)),
            epoch="0" if accepted_at is None or day < accepted_at else f"2026-10-{accepted_at + 1:02}T09:00:00Z",
            commit=f"{day:02}c0ffee00",
            torch="2.12.1",
            driver="580.65.06",
        )
        for day, energy in enumerate(energies)
    ]


def mixture() -> Runs:
    """One run with every verdict."""
    generate, cache = "tests/test_text.py::test_generate[gpt2]", "tests/test_text.py::test_cache"
    traced = MeasurementWarning("traced", "a debugger, profiler or coverage ran in the calls")
    warmer = MeasurementWarning("warmer", "it started 18 °C warmer than its baseline (41 → 59 °C)", informs=True)
    tests = [
        measured(
            generate,
            "regression",
            0.0652,
            0.0282,
            duration_s=0.0093,
            warnings=(warmer,),
            reason="2.3× the energy per call of its baseline (28.2 → 65.2 mJ): each call takes 2.1× the time, at about"
            " the same power (+4.1%); the tolerance is 5%, and the smallest detectable change is 6.1%",
            counted=counts(),
        ),
        measured(
            "tests/test_images.py::test_classify[vit-base]",
            "regression",
            1.372,
            1.21,
            reason="13% more energy per call than its baseline (1.21 → 1.37 J): each call draws 12% more power, in"
            " about the same time; the tolerance is 5%, and the smallest detectable change is 6.1%",
            duration_change=0.008,
            power_change=0.124,
            counted=counts("pass", change=0.0),
        ),
        measured(
            "tests/test_images.py::test_budget",
            "over-budget",
            3.1,
            3.05,
            limit_j_per_call=2.5,
            reason="over budget: 3.1 J per call, and its marker allows 2.5 J",
        ),
        measured("tests/test_audio.py::test_whisper", "error", None, reason="the energy counter of gpu:0 went back"),
        measured(
            "tests/test_text.py::test_embed",
            "inconclusive",
            0.081,
            0.075,
            warnings=(traced,),
            reason="8% more energy per call than its baseline, but a debugger, profiler or coverage ran in the calls",
        ),
        measured(
            "tests/test_text.py::test_rerank",
            "improvement",
            0.42,
            0.61,
            reason="31% less energy per call than its baseline (610 → 420 mJ): each call takes 30% less time",
        ),
        measured(
            cache,
            "pass",
            0.31,
            0.31,
            blind=True,
            detectable_change=0.44,
            reason="as much energy per call as its baseline (310 mJ); the smallest detectable change is 44%",
        ),
        measured(
            "tests/test_text.py::test_accepted",
            "regression",
            0.9,
            0.7,
            effect="accepted",
            reason="29% more energy per call than its baseline (700 → 900 mJ)",
        ),
        measured(
            "tests/test_text.py::test_first", "new", 0.052, reason="no baseline yet: record one with --carbon-record"
        ),
        measured(
            "tests/test_text.py::test_both",
            "pass",
            0.2,
            0.199,
            name="prefill",
            reason="as much energy per call as its baseline (200 mJ)",
        ),
        TestResult(
            "tests/test_work.py::test_counted_only[llama]",
            "failed",
            (),
            "passed",
            (counts(),),
            "tests/test_work.py",
            40,
        ),
        TestResult(
            "tests/test_work.py::test_counted_same",
            "passed",
            (),
            "passed",
            (counts("pass", change=0.0),),
            "tests/test_work.py",
            52,
        ),
    ]
    for i in range(24):
        now, test = 0.05 * 1.3**i, f"tests/test_layers.py::test_layer[{i}-{['fp32', 'bf16'][i % 2]}]"
        reason = f"0.{i % 7}% more energy per call than its baseline; the smallest detectable change is 6.1%"
        tests.append(measured(test, "pass", now, now / (1 + 0.003 * (i % 7 - 3)), reason=reason))
    run = builders.result(
        *tests,
        machine=H100,
        exit_status=1,
        intensity=CarbonIntensity(369.5, 1.0, "codecarbon, world average", 2023),
        suite=SuiteVerdict(34, 33, 0.01, median_change=0.004),
        commit="3f2c1e9a7b5d4c80",
        branch="faster-tokenizer",
        dirty=True,
        cost_energy_j=512.0,
        duration_s=184.0,
        unmeasured=(Unmeasured("tests/test_text.py::test_gone", "call", H100.id, "its test passed without it"),),
    )
    records = {
        (generate, "call"): history(
            generate, [0.021, 0.0212, 0.0209, 0.0211, 0.0281, 0.0283, 0.0282, 0.0284, 0.0280], accepted_at=4
        ),
        (cache, "call"): history(cache, [0.31, 0.36, 0.27, 0.33]),
    }
    return Runs((run,), ("carbon.json",), {H100.id: records})


def many(count: int, *, failing: bool = False, histories: bool = False) -> Runs:
    """A large suite, in which 1 of 200 fails, or every one."""
    tests, records = [], {}
    for i in range(count):
        test = f"tests/part_{i % 97}/test_module_{i % 31}.py::test_case_{i}[batch{i % 8}-{['fp32', 'bf16'][i % 2]}]"
        was = 0.001 * 1.0009**i
        now = was * (1 + 0.013 * ((i * 7919) % 101 - 50) / 50)
        bad = failing or i % 200 == 0
        now = now * (1.2 + i % 13 / 10) if bad else now
        change = f"{100 * (now / was - 1):+.1f}% energy per call ({1000 * was:.3g} → {1000 * now:.3g} mJ)"
        reason = f"{change}; the smallest detectable change is 6.1%"
        tests.append(
            measured(test, "regression" if bad else "pass", now, was, reason=reason, duration_s=0.002 + i * 1e-6)
        )
        if histories:
            records[test, "call"] = history(test, [was * (1 + 0.01 * ((day * i) % 5 - 2)) for day in range(20)])
    suite = SuiteVerdict(count, count, 0.01, median_change=0.001)
    run = builders.result(*tests, machine=H100, exit_status=1, suite=suite, cost_energy_j=5120.0)
    return Runs((run,), ("carbon.json",), {H100.id: records})


def hostile() -> Runs:
    """Names, reasons, commits, machines, modules and warnings that attack a page."""
    tests = []
    for number, name in enumerate(HOSTILE):
        test = f"tests/test_{name}.py::test_{name}[{name}]"
        warning = MeasurementWarning("traced", name)
        tests.append(
            measured(test, "regression", 2.0, 1.0, reason=f"{name} is why", warnings=(warning,), name=name[:700])
        )
        module = ModuleWork(name, 1, 1, 1, 0, 0, 0, 0, (OperatorWork(f"{name} float32", 100, 100, 1),))
        verdict = WorkVerdict("regression", name, {"flops": 1.0}, name, ((name, name),), (name,), (name,), "fails")
        work = builders.summed([module], unknown_ops=(name,))
        tests.append(TestResult(f"{test}-{number}", "failed", (), "passed", (Counted("call", work, verdict),), name, 1))
    machine = replace(H100, gpus=(Gpu(0, HOSTILE[0], HOSTILE[1], 700.0),), torch=HOSTILE[2], driver=HOSTILE[3])
    run = builders.result(
        *tests, machine=machine, exit_status=1, commit=HOSTILE[1], branch=HOSTILE[5], notes=HOSTILE,
        unmeasured=tuple(Unmeasured(name, name, machine.id, name) for name in HOSTILE),
        suite=SuiteVerdict(3, 3, 0.01, 0.1, "regression", f"{HOSTILE[0]}: {HOSTILE[1]}", None, "fails"),
    )  # fmt: skip
    return Runs((run,), (f"{HOSTILE[0]}.json",), {machine.id: {}})


def study() -> Runs:
    """Some of the study's tasks, with its own figures, on a GPU."""
    few = ("text-classification", "image-classification", "text-generation", "image-captioning", "image-generation")
    tests = passing(*as_in_the_study(few))
    run = builders.result(*tests, machine=H100, intensity=CarbonIntensity(400.0, 1.0, "given", None))
    return Runs((run,), ("carbon.json",))


def nothing() -> Runs:
    """A run that measured nothing."""
    return Runs((builders.result(machine=H100),), ("carbon.json",))


def two_machines() -> Runs:
    """Two runs of one test with two measurements, on a machine each."""
    test, a100 = "tests/test_both.py::test_it", replace(H100, id="1x-nvidia-a100")
    runs = []
    for machine in (H100, a100):
        prefill = measured(test, "pass", 1.0, 1.0, name="prefill", machine=machine)
        decode = measured(test, "regression", 1.4, 1.0, name="decode", machine=machine)
        both = replace(decode, measurements=(*prefill.measurements, *decode.measurements))
        runs.append(builders.result(both, machine=machine, session=machine.id, exit_status=1))
    return Runs(tuple(runs), ("h100.json", "a100.json"))


def counted_only() -> Runs:
    """A run without a GPU: work was counted, and nothing measured."""
    statuses: tuple[WorkStatus, ...] = ("pass", "new", "regression", "pass", "pass")
    tests = [
        TestResult(
            f"tests/test_work.py::test_{status}[{number}]",
            "failed" if status == "regression" else "passed",
            (),
            "passed",
            (counts(status, flops=10**number * 37, change=14.8 if status == "regression" else 0.0),),
        )
        for number, status in enumerate(statuses, start=8)
    ]
    run = builders.result(*tests, machine=H100, intensity=None, exit_status=1)
    return Runs((run,), ("work.json",))


def unpack(packed: str) -> list[Any]:
    """Read the data inside a page, as its script does: each line deflated JSON, in base64."""
    return [json.loads(zlib.decompress(base64.b64decode(line))) for line in packed.split("\n")]
