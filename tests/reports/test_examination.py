"""What the doctor shows: the page as it stands, each piece of advice, and the JSON."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest

from pytest_carbon.measure.counters import Counter
from pytest_carbon.measure.examination import Examination, Neighbours, Noise, NvidiaGpu
from pytest_carbon.records import CarbonIntensity, Gpu, Machine
from pytest_carbon.reports.examination import advice, conclusion, document, text

H100 = Gpu(0, "GPU-1f3a0000", "NVIDIA H100 80GB HBM3", 700.0, 80 << 30)
T4 = Gpu(1, "GPU-7e511a00", "Tesla T4", 70.0)


def gpu(**changes: Any) -> Counter:
    """A counter of which everything is known."""
    c = Counter("gpu:0", "measured", "nvml total energy", "nvml", gated=True, stepped=True)
    c.read_s, c.edges, c.period_s, c.bracket_s, c.bracket_90_s = 12.3e-6, 1458, 0.1, 112e-6, 161e-6
    c.idle_power_w, c.idle_wander_w, c.busy_power_w, c.settled_power_w = 70.03, 0.31, 300.2, 70.1
    c.levels, c.after_work_j, c.after_work_s = ((113.2, 0.0, 1.912), (70.1, 1.912, 3.1)), 82.4, 1.912
    c.frozen_under_load, c.sampled_share = False, 1.0
    c.idle_disagreement, c.busy_disagreement = 0.002, -0.001
    c.settle_s, c.time_constant_s, c.time_constant_error_s = 0.328, 0.0499, 0.0008
    c.latency_s, c.latency_error_s = 0.0101, 0.0007
    c.part_time_sampling, c.window_s, c.window_error, c.window_spread = False, 0.02, 0.0016, 0.0041
    c.window_over_loop, c.shortest_window_s = 0.9998, 0.0033
    for name, value in changes.items():
        setattr(c, name, value)
    return c


def estimate() -> Counter:
    c = Counter("cpu:0", "estimated", "estimated: 4 W a thread × CPU seconds", "estimate", gated=False, stepped=False)
    c.read_s = 6e-4
    return c


EXAMINED = Examination(
    created="2026-11-22T10:00:00Z",
    counters=(gpu(), estimate()),
    not_taken=(
        ("rapl", "/sys/class/powercap/intel-rapl:0/energy_uj may not be read. Since Linux 5.10 only root may read it."),
        ("windows", "not asked for."),
    ),
    machine=Machine(
        "1x-nvidia-h100-80gb-hbm3-700w-gpu", (H100,), "Intel Xeon Platinum 8480C", 224, "580.159.04", "2.13.0", "3.11.2"
    ),
    nvidia=(NvidiaGpu(H100, examined=True, other_processes=0), NvidiaGpu(T4, examined=False)),
    load="matrix products with torch 2.13.0 on 1 GPU",
    loaded=True,
    watcher_share=0.021,
    cores=16,
    neighbours=Neighbours(load_average=0.31, seconds=34.0, other_cores=0.12, waiting=0.002),
    intensity=CarbonIntensity(475.0, 1.2, "world average, IEA", 2018),
)

BUSY = Neighbours(
    load_average=7.0, seconds=10.0, other_cores=1.8, waiting=0.7, warning="other processes kept the processor busy"
)

PAGE = """\
Energy can be measured here: gpu:0.

Meters
  nvml            taken: gpu:0
  estimate        taken: cpu:0
  rapl            not taken: /sys/class/powercap/intel-rapl:0/energy_uj may not
                  be read. Since Linux 5.10 only root may read it.
  windows         not asked for.

gpu:0, measured: NVIDIA H100 80GB HBM3, power limit 700 W
  device          GPU-1f3a0000; no other process uses it
  source          nvml total energy
  read            takes 12.3 µs
  changes         every 100 ms
  edges           each change is seen within 112 µs (median), 161 µs (90%), over
                  1,458 changes
  idle            70.0 W, wandering by 310 mW
  loaded          300 W
  after work      113 W for 1.91 s, then 70.1 W: 82.4 J after each burst, part
                  of no figure
  instant power   the counter differs from the summed instant power by +0.2%
                  idle, -0.1% loaded
  fast fall       time constant 49.9 ± 0.8 ms; over 328 ms after the end of work
  latency         10.1 ± 0.7 ms: the delay until the counter shows energy
  sampling        the counter looks at all of each period
  short windows   20 of 20.0 ms with the same work spread by 0.4%; each is known
                  to 0.2%, and their mean is 1.00 times what a loop takes
  precision       a single window of this work is known to 1% from 3.30 ms on

cpu:0, estimated: read where the work runs, exactly; no counter to wait for
  cpu:0           estimated: 4 W a thread × CPU seconds
  read            takes 600 µs

A run here
  machine         1x-nvidia-h100-80gb-hbm3-700w-gpu
  gated           gpu:0
  processor       Intel Xeon Platinum 8480C, 224 threads, 16 for this process
  driver          580.159.04
  torch           2.13.0
  left out        GPU 1 (Tesla T4, GPU-7e511a00), by CUDA_VISIBLE_DEVICES or
                  --carbon-gpus
  watcher         2.1% of one core
  test load       matrix products with torch 2.13.0 on 1 GPU
  machine load    load average 0.3; other processes used 0.1 of 16 cores over
                  34.0 s; this one waited 0.2% of its time for one
  electricity     475 gCO2e/kWh; PUE 1.2: world average, IEA, 2018

What to do, and to know
  - `pytest-carbon doctor --save` keeps the settling time, the power after work
    and the sampling with the baselines, so that no run looks for them."""


def test_the_page() -> None:
    """Of a GPU of which everything is known, at 80 columns."""
    assert "\n".join(text(EXAMINED)) == PAGE


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_the_page_fits(width: int) -> None:
    """Also a narrow terminal, and one that knows no more than ASCII."""
    lines = text(EXAMINED, width=width, ascii=True)
    assert max(map(len, lines)) <= width
    assert "\n".join(lines).isascii()


def test_noise_and_what_can_be_seen_beside_it() -> None:
    """Where the processor is gated; and on a machine whose load is not known."""
    noise = Noise("sha256-1", 10, 1.0, 0.083, 0.61, 0.34)
    unknown = Neighbours(load_average=None, seconds=10.0, other_cores=None, waiting=None)
    page = "\n".join(text(replace(EXAMINED, noise=noise, neighbours=unknown), width=200))
    assert "  machine load    unknown\n" in page
    assert "  noise           10 stretches of 1.00 s with the same work (sha256-1) spread by 8.3%\n" in page
    assert (
        "  detectable      smallest detectable change 61% after one recording of one test, 34% after recordings on"
        " five days" in page
    )


def test_what_has_been_saved_need_not_be_told_of() -> None:
    """Nor what there is nothing of."""
    assert not any("--save" in line for line in text(EXAMINED, saved=True))
    unknown = replace(EXAMINED, counters=(gpu(settle_s=None, window_s=None),), loaded=False, load="")
    assert not any("`pytest-carbon doctor --save` keeps" in line for line in text(unknown))


def page(c: Counter) -> list[str]:
    return text(replace(EXAMINED, counters=(c,)), width=200)


def test_what_is_unknown_is_not_shown() -> None:
    """No zeros, no dashes, no "None" in their place."""
    bare = Counter("gpu:0", "measured", "nvml total energy", "nvml", gated=True, stepped=True)
    lines = page(bare)
    start = lines.index("gpu:0, measured: NVIDIA H100 80GB HBM3, power limit 700 W")
    assert lines[start + 1 : lines.index("", start)] == [
        "  device          GPU-1f3a0000; no other process uses it",
        "  source          nvml total energy",
    ]
    assert "None" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"time_constant_s": 1e-4, "time_constant_error_s": 2e-4, "settle_s": 0.1},
            "  fast fall       none to be seen; over 100 ms after the end of work",
        ),
        (
            {"time_constant_s": None},
            "  fast fall       over 328 ms after the end of work",
        ),
        (
            {"latency_s": 2e-4, "latency_error_s": 1e-4, "window_over_loop": 1.0},
            "  latency         200 ± 100 µs: the delay until the counter shows energy",
        ),
        (
            {"latency_s": 1e-4, "latency_error_s": 2e-4},
            "  latency         below 300 µs: the delay until the counter shows energy",
        ),
        (
            {"part_time_sampling": True, "sampled_share": 0.251},
            "  sampling        the counter looks at a part (about 25%) of each period",
        ),
        (
            {"part_time_sampling": None, "sampled_share": None},
            "  sampling        unknown: the counter may look at all of each period, or at a part",
        ),
        (
            {"window_spread": 0.51, "window_over_loop": 0.94},
            "  short windows   20 of 20.0 ms with the same work spread by 51%; each is known to 0.2%, and their mean is"
            " 0.94 times what a loop takes",
        ),
        (
            {"levels": ((70.1, 0.0, 3.1),), "after_work_j": 0.0},
            "  after work      70.1 W, without a step",
        ),
        (
            {"levels": ((93.0, 0.0, 1.7), (62.0, 1.7, 2.55), (36.0, 2.55, 4.0)), "after_work_j": 119.0},
            "  after work      93.0 W for 1.70 s, 62.0 W for 850 ms, then 36.0 W: 119 J after each burst, part of no"
            " figure",
        ),
        (
            {"failure": "GPU 0 is lost; reboot.", "read_s": None},
            "  failed          GPU 0 is lost; reboot.",
        ),
    ],
)
def test_figures_are_said_as_what_they_are(changes: dict[str, Any], line: str) -> None:
    """What cannot be told from nothing is said to be below that; a failure is where the figures would be."""
    assert line in page(gpu(**changes))


def test_a_part_time_counter_has_no_shortest_window() -> None:
    """It is not known to 1% from anywhere on."""
    for looks in (True, None):
        assert not any("precision" in line for line in page(gpu(part_time_sampling=looks)))


def test_domains_that_are_read_exactly_share_a_section() -> None:
    """By whether they are measured."""
    dram = replace(estimate(), domain="dram:0", source="20 W", read_s=7e-4)
    measured = Counter("gpu:0", "measured", "a trace", "replay", gated=True, stepped=False)
    lines = text(replace(EXAMINED, counters=(measured, estimate(), dram), load="there is none."), width=100)
    assert "gpu:0, measured: read where the work runs, exactly; no counter to wait for" in lines
    start = lines.index("cpu:0 and dram:0, estimated: read where the work runs, exactly; no counter to wait for")
    assert lines[start + 1 : start + 4] == [
        "  cpu:0           estimated: 4 W a thread × CPU seconds",
        "  dram:0          20 W",
        "  read            takes 700 µs",
    ]


@pytest.mark.parametrize(
    ("counters", "sentence"),
    [
        ((gpu(), estimate()), "Energy can be measured here: gpu:0."),
        (
            (estimate(),),
            "Energy can only be estimated here (cpu:0, from CPU seconds), not measured.",
        ),
        (
            (gpu(failure="lost"), estimate()),
            "Energy can only be estimated here (cpu:0, from CPU seconds), not measured.",
        ),
        ((gpu(failure="lost"),), "Energy can neither be measured nor estimated here."),
        ((), "Energy can neither be measured nor estimated here."),
    ],
)
def test_the_conclusion_comes_first(counters: tuple[Counter, ...], sentence: str) -> None:
    """What can be read counts, not what should be readable."""
    found = replace(EXAMINED, counters=counters)
    assert conclusion(found) == sentence
    assert found.measurable == sentence.startswith("Energy can be measured")


def test_nothing_at_all_says_why() -> None:
    """Each meter on a line of its own, as far as the lines go."""
    found = Examination("2026-11-22T10:00:00Z", failure="--carbon-meter=nvml: nvml cannot be opened: no driver.")
    assert "  none            --carbon-meter=nvml: nvml cannot be opened: no driver." in text(found)


# --- advice ------------------------------------------------------------------------------------------

ON_CI = (
    "This is GitHub Actions: run `pytest --carbon --carbon-json=carbon.json` in one job at a time, and keep the file: "
    "`pytest-carbon baseline accept carbon.json` accepts an intended change from it, anywhere."
)


def test_nothing_to_do_is_nothing_said() -> None:
    """A machine that is in order."""
    assert advice(EXAMINED) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"idle_wander_w": 7.0},
            "gpu:0: the idle power wanders by 10%: something runs there, or it cools down from something. Stop that, or"
            " wait, and ask again.",
        ),
        (
            {"bracket_90_s": 0.0012},
            "gpu:0: changes are seen late, probably because the watcher waits for a processor: leave a core free for"
            " it, and lift the container's CPU limit. Until then single windows have larger errors.",
        ),
        (
            {"read_s": 0.003},
            "gpu:0: a read takes 3.00 ms, and no change can be timed better than that.",
        ),
        (
            {"idle_disagreement": -0.3},
            "gpu:0: idle, the counter says 30% less than the summed instant power, and one of the two is wrong. Take"
            " absolute figures with care, and compare with another driver; a comparison with baselines of the same"
            " driver still holds.",
        ),
        (
            {"part_time_sampling": True},
            "gpu:0: the counter looks at a part of the time only, so a single short window may be far off. Keep that"
            " with `--save`: runs then start 50 calls or more at different phases of the counter's period.",
        ),
        (
            {"part_time_sampling": None},
            "gpu:0: it is unknown whether the counter looks at all of each period, so the errors of runs allow"
            " for a part. Give a steadier load, with --load=MODULE:FUNCTION.",
        ),
        (
            {"frozen_under_load": True, "settle_s": None, "window_s": None},
            "gpu:0: the counter stands still while the device works, so it misses what the work takes. Measure with"
            " another driver, or another meter (--carbon-meter).",
        ),
        (
            {"settle_s": None},
            "gpu:0: the load raised the power by less than 10%, so latency, fast fall, power after work and part-time"
            " sampling stay unknown. Give a load that works it harder, with --load=MODULE:FUNCTION.",
        ),
        (
            {"window_s": None},
            "gpu:0: the counter changes too seldom for short windows, so latency and part-time sampling stay unknown.",
        ),
        (
            {"latency_s": None},
            "gpu:0: the latency is unknown: the times of changes are not known well enough, or the load does not end"
            " at once.",
        ),
    ],
)
def test_advice_on_a_counter(changes: dict[str, Any], sentence: str) -> None:
    """What is out of order, and what to do about it."""
    assert advice(replace(EXAMINED, counters=(gpu(**changes), estimate()))) == [sentence]


def test_the_same_advice_on_two_counters_is_given_once() -> None:
    """With both of their names."""
    late = [gpu(bracket_90_s=0.0012), gpu(bracket_90_s=0.0015, domain="gpu:1")]
    (sentence,) = advice(replace(EXAMINED, counters=tuple(late)))
    assert sentence.startswith("gpu:0 and gpu:1: changes are seen late")


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        (
            {"nvidia": (NvidiaGpu(H100, examined=True, other_processes=2),)},
            ["gpu:0: other processes use this GPU, and no energy is counted by process: measure on a GPU of your own."],
        ),
        (
            {"loaded": False, "load": "torch is not installed."},
            [
                "Nothing was loaded, so latency, fast fall, power after work and part-time sampling stay unknown: torch"
                " is not installed. A run finds these by itself, but for the latency, from its first warm-up."
            ],
        ),
        (
            {"noise": Noise("sha256-1", 10, 1.0, 0.083, 0.61, 0.34)},
            [
                "The smallest detectable change here is 61% after one recording, and 34% after recordings on five days."
                " To find smaller ones, compare two revisions side by side: `pytest --carbon-against=REF`."
            ],
        ),
        ({"noise": Noise("sha256-1", 10, 1.0, 0.003, 0.14, 0.07)}, []),
        ({"neighbours": BUSY}, []),
        (
            {"neighbours": BUSY, "counters": (gpu(domain="cpu:0", meter="rapl"),)},
            ["A measurement now would have a warning (shared-cpu): other processes kept the processor busy."],
        ),
        ({"cores": 1}, ["This process has one core for the work and the watcher together: give it two."]),
        ({"notes": ("GPU 1 does not answer",)}, ["GPU 1 does not answer."]),
        (
            {"stopped": "the watcher was killed"},
            [
                "The examination ended early: the watcher was killed. What it did not reach is unknown: run it again,"
                " or leave that out."
            ],
        ),
        (
            {"stopped": "GPU 0 is lost", "counters": (gpu(failure="GPU 0 is lost"), gpu(domain="gpu:1"))},
            [
                "The examination ended when gpu:0 failed. What it did not reach is unknown: run it again, or leave"
                " that out."
            ],
        ),
        ({"ci": "GitHub Actions"}, [ON_CI]),
        (
            {"ci": "a GitHub-hosted runner", "counters": (estimate(),)},
            [
                "An estimate is CPU time × watts from a table: it follows what the processor does and sees no GPU. It"
                ' is compared with estimates only, and held to a budget only where that says on="*".',
                "To measure, run on Linux with an NVIDIA GPU (Volta or newer), or on a machine of your own whose"
                " processor shows its counters; the reasons above say what is in the way here.",
                "This is a GitHub-hosted runner: run plain `pytest` here, where budgets and baselines are inert, and"
                " `pytest --carbon` on the one runner that has a GPU.",
            ],
        ),
    ],
)
def test_advice_on_the_machine(changes: dict[str, Any], sentences: list[str]) -> None:
    """Beyond single counters."""
    assert advice(replace(EXAMINED, **changes)) == sentences


# --- JSON ------------------------------------------------------------------------------------------


def test_the_json_has_everything() -> None:
    """SI units, every field, what is unknown as null, and no NaN."""
    broken = gpu(busy_disagreement=math.nan, time_constant_s=None, settled_power_w=math.inf)
    content = json.loads(document(replace(EXAMINED, counters=(broken, estimate()))), parse_constant=pytest.fail)
    assert content["format"] == "pytest-carbon-doctor/1"
    assert content["measurable"] is True
    counter = content["counters"][0]
    assert set(counter) == {field.name for field in fields(Counter)}
    assert counter["period_s"] == 0.1
    assert (counter["busy_disagreement"], counter["time_constant_s"], counter["settled_power_w"]) == (None, None, None)
    assert content["counters"][1]["idle_power_w"] is None
    assert content["not_taken"][1] == {"meter": "windows", "why": "not asked for."}
    assert content["machine"]["id"] == "1x-nvidia-h100-80gb-hbm3-700w-gpu"
    assert content["nvidia"][0]["gpu"]["power_limit_w"] == 700.0
    assert content["intensity"] == {"g_per_kwh": 475.0, "pue": 1.2, "source": "world average, IEA", "year": 2018}
    assert content["advice"] == []
