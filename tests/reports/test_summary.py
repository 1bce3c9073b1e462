"""What the terminal shows, as the user reads it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from _pytest._io.terminalwriter import TerminalWriter
from _pytest._io.wcwidth import wcswidth
from builders import record
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot

from pytest_carbon.gate import sentences
from pytest_carbon.host.ci import ci_run
from pytest_carbon.plugin import stages
from pytest_carbon.records import (
    Against,
    CarbonIntensity,
    Domain,
    DomainEnergy,
    Gpu,
    Machine,
    Measurement,
    MeasurementWarning,
    Record,
    Round,
    SessionResult,
    SessionScore,
    Settings,
    Status,
    SuiteVerdict,
    TestResult,
    Verdict,
)
from pytest_carbon.reports.failure import BaselineSummary, FailureContext, failure, suite_failure
from pytest_carbon.reports.junit import junit_properties
from pytest_carbon.reports.layout import Page
from pytest_carbon.reports.summary import Line, Stored, numbers, progress, summary, waiting
from pytest_carbon.text import cards

H100 = "1x-nvidia-h100-80gb-hbm3-700w-gpu"
CPU = "1x-amd-epyc-9554-cpu-estimated"
WORLD = CarbonIntensity(369.47, 1.0, "world average, Our World in Data", 2023)
MACHINE = Machine(H100, gpus=(Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 700.0),), driver="580.65", torch="2.13.0")
TAIL = MeasurementWarning(
    "tail", "12% of the energy came after the work had ended; longer measurements make that share smaller"
)
TEST = "tests/test_text.py::test_classify[fp16]"


def measured(
    energy_j: float | None,
    error_j: float | None = None,
    *,
    name: str = "call",
    calls: int = 100,
    power_w: float = 296.0,
    warnings: tuple[MeasurementWarning, ...] = (),
    machine: str = H100,
    failure: str | None = None,
) -> Measurement:
    if energy_j is None:
        return Measurement(name, machine, failure=failure or "GPU 0 was lost")
    duration_s = energy_j / power_w
    return Measurement(
        name,
        machine,
        calls=calls,
        duration_s_per_call=duration_s,
        energy_j_per_call=energy_j,
        energy_j_per_call_error=error_j,
        emissions_g_per_call=WORLD.emissions_g(energy_j),
        rounds=(Round(calls, calls * duration_s),),
        sessions=(SessionScore("now", energy_j, duration_s),),
        warnings=warnings,
    )


def verdict(status: Status, change: float | None = None, detectable: float | None = None, **rest: Any) -> Verdict:
    held = {"baseline_recordings": 5, "baseline_sessions": 9} if change is not None else {}
    return Verdict(status, rest.pop("reason", ""), change=change, detectable_change=detectable, **{**held, **rest})


def result_of(nodeid: str, *pairs: tuple[Measurement, Verdict], outcome: str = "passed") -> TestResult:
    return TestResult(nodeid, outcome, pairs)


def run(*tests: TestResult, machine: Machine = MACHINE, **rest: Any) -> SessionResult:
    pairs = [pair for test in tests for pair in test.measurements]
    compared = sum(v.change is not None for _, v in pairs)
    fields = {
        "duration_s": 200.0,
        "intensity": WORLD,
        "suite": SuiteVerdict(compared, compared, 0.01),
        "cost_energy_j": 512.0,
        **rest,
    }
    result = SessionResult(
        session="now", created="2026-11-22T10:00:00Z", exit_status=1, machine=machine, tests=tests, **fields
    )
    return stages.with_effects(result, stages.Recorded())


def report(result: SessionResult, **options: Any) -> list[str]:
    return [line.text for line in lines(result, **options)]


def lines(result: SessionResult, **options: Any) -> list[Line]:
    stored = {field: options.pop(field) for field in ("nearest", "not_run", "elsewhere") if field in options}
    here = Stored(**stored)
    others = options.pop("others", {})
    return summary(
        result, {result.machine.id: here, **others}, **{"width": 80, "quiet": False, "verbose": False, **options}
    )


def joined(result: SessionResult, **options: Any) -> str:
    """The whole report on one line, so that a sentence is found wherever it is broken."""
    return " ".join(text.strip() for text in report(result, **options))


MIXED = (
    result_of(TEST, (measured(1.2131, 0.0041), verdict("pass", 0.008, 0.071))),
    result_of(
        "tests/test_text.py::test_generate[llama-7b-fp16-recording1]",
        (measured(812.1, 3.2, name="prefill", calls=1), verdict("pass", -0.012, 0.072)),
        (measured(0.0124, 0.00011, name="decode", calls=128), verdict("regression", 0.273, 0.074)),
        outcome="failed",
    ),
    result_of("tests/test_text.py::test_summarise", (measured(41.2, 0.2), verdict("over-budget", 0.011, 0.072))),
    result_of(
        "tests/test_image.py::test_diffusion[sdxl-30-steps]",
        (measured(1834.0, 6.0, warnings=(TAIL,)), verdict("inconclusive", 0.082, 0.41)),
    ),
    result_of(
        "tests/test_image.py::test_detect",
        (measured(2.31, 0.02, warnings=(TAIL,)), verdict("improvement", -0.182, 0.07)),
    ),
    result_of("tests/test_image.py::test_caption", (measured(None), verdict("error")), outcome="failed"),
    result_of("tests/test_image.py::TestSegment::test_masks", (measured(5.512, 0.031), verdict("new"))),
    result_of("tests/test_image.py::test_upscale", (measured(3.2e-5, 4e-7), verdict("pass"))),
)


def test_the_table_says_at_80_columns_what_each_measurement_cost_and_how_it_changed() -> None:
    """One row a measurement, in run order, under its module; what fails stands out in capitals."""
    assert report(run(*MIXED, suite=SuiteVerdict(8, 6, 0.01)))[:18] == snapshot(
        [
            "================== carbon: 1x-nvidia-h100-80gb-hbm3-700w-gpu ===================",
            "test                      energy/call  CO2e/1k  change  detectable  status",
            "tests/test_text.py",
            "  test_cl…ify[fp16]  1.213 ± 0.004 J    125 mg   +0.8%       ≥7.1%  pass",
            "  test_generate[llama-7b-fp16-recording1]",
            "    prefill          812.1 ± 3.2   J   83.3 g    -1.2%       ≥7.2%  pass",
            "    decode           12.40 ± 0.11  mJ  1.27 mg  +27.3%       ≥7.4%  REGRESSION",
            "  test_summarise     41.20 ± 0.20  J   4.23 g    +1.1%       ≥7.2%  OVER-BUDGET",
            "tests/test_image.py",
            "  test_diffusion[sdxl-30-steps]",
            "    call             1.834 ± 0.006 kJ   188 g    +8.2%        ≥41%  inconclusive",
            "  test_detect        2.310 ± 0.020 J    237 mg  -18.2%         ≥7%  improvement",
            "  test_caption           not measured        –       –           –  ERROR",
            "  TestSeg…est_masks  5.512 ± 0.031 J    566 mg       –           –  new",
            "  test_upscale        32.0 ± 0.4   µJ  3.28 µg       –           –  pass",
            "",
            "compared 6 of 10:",
            "  - tests/test_image.py::test_caption was not measured",
        ]
    )


def test_the_sentences_under_the_table_say_what_it_cannot() -> None:
    """What was not compared, warnings once per code, the overhead, the grid."""
    notes = ("rapl was not taken: no permission",)
    result = run(*MIXED, suite=SuiteVerdict(8, 6, 0.01), notes=notes, duration_s=830.0)
    assert report(result)[16:] == snapshot(
        [
            "compared 6 of 10:",
            "  - tests/test_image.py::test_caption was not measured",
            "  - tests/test_image.py::TestSegment::test_masks has no baseline (record one",
            "    with --carbon-record)",
            "  - tests/test_image.py::test_upscale is not compared (tolerance=False)",
            "  - 1 with a baseline was not run",
            "warning (tail): test_diffusion[sdxl-30-steps] and test_detect: 12% of the energy",
            "  came after the work had ended; longer measurements make that share smaller",
            "overhead: 512 J (52.5 mg CO2e), 3 min; the calls: 189 kJ (19.4 g CO2e), 11 min",
            "CO2e per 1,000 calls at 369.5 gCO2e/kWh, PUE 1.0: world average, Our World in",
            "  Data, 2023; --carbon-country sets your grid",
            "rapl was not taken: no permission",
        ]
    )


def test_a_wide_terminal_shows_time_and_power_and_whole_ids() -> None:
    """Energy = power × time: with room, all three, and the warnings beside the row they concern."""
    assert report(run(*MIXED[:2], MIXED[3]), width=200)[1:6] == snapshot(
        [
            (
                "test                                                                    energy per call     "
                "time  power  CO2e per 1,000  change  detectable  status        warnings"
            ),
            (
                "tests/test_text.py::test_classify[fp16]                                1.213 ± 0.004 J   4.10 "
                "ms  296 W          125 mg   +0.8%       ≥7.1%  pass"
            ),
            (
                "tests/test_text.py::test_generate[llama-7b-fp16-recording1] · prefill  812.1 ± 3.2   J   2.74 s "
                "  296 W         83.3 g    -1.2%       ≥7.2%  pass"
            ),
            (
                "tests/test_text.py::test_generate[llama-7b-fp16-recording1] · decode   12.40 ± 0.11  mJ  41.9 "
                "µs  296 W         1.27 mg  +27.3%       ≥7.4%  REGRESSION"
            ),
            (
                "tests/test_image.py::test_diffusion[sdxl-30-steps]                     1.834 ± 0.006 kJ  6.20 s "
                "  296 W          188 g    +8.2%        ≥41%  inconclusive  tail"
            ),
        ]
    )


def test_quiet_shows_what_does_not_pass_and_one_sentence() -> None:
    """With -q a person sees the rows to act on; the counts stand for the rest."""
    assert report(run(*MIXED[:3], MIXED[6]), quiet=True) == snapshot(
        [
            "tests/test_text.py",
            "  test_generate[llama-7b-fp16-recording1]",
            "    decode            12.40 ± 0.11  mJ  1.27 mg  +27.3%       ≥7.4%  REGRESSION",
            "  test_summarise      41.20 ± 0.20  J   4.23 g    +1.1%       ≥7.2%  OVER-BUDGET",
            "tests/test_image.py",
            "  TestSegm…est_masks  5.512 ± 0.031 J    566 mg       –           –  new",
            "carbon: compared 4 of 5 (1 over-budget, 1 regression, 1 new, 2 pass):",
            "  tests/test_image.py::TestSegment::test_masks has no baseline (record one with",
            "  --carbon-record)",
        ]
    )


def test_several_of_a_status_are_named_as_such() -> None:
    """As people say it."""
    found: list[Status] = ["pass", "regression", "regression", "error", "error", "improvement", "new", "new"]
    assert numbers(found) == "2 errors, 2 regressions, 1 improvement, 2 new, 1 pass"


def test_quiet_and_all_well_is_one_line() -> None:
    """Nothing to act on, nothing to read."""
    assert report(run(MIXED[0]), quiet=True) == ["carbon: compared 1 of 1 (1 pass)"]


def test_ascii_has_no_sign_that_the_terminal_cannot_show() -> None:
    """Every sign has its spelling, columns stay aligned."""
    texts = report(run(*MIXED[:2]), ascii=True)
    assert all(text.isascii() for text in texts)
    assert texts[1:7] == [
        "test                        energy/call  CO2e/1k  change  detectable  status",
        "tests/test_text.py",
        "  test_c...fy[fp16]  1.213 +/- 0.004 J    125 mg   +0.8%      >=7.1%  pass",
        "  test_generate[llama-7b-fp16-recording1]",
        "    prefill          812.1 +/- 3.2   J   83.3 g    -1.2%      >=7.2%  pass",
        "    decode           12.40 +/- 0.11  mJ  1.27 mg  +27.3%      >=7.4%  REGRESSION",
    ]


NOT_MEASURED = [
    (CPU, "cpu energy", "estimated, not measured"),
    (MACHINE.id, "replayed: nvml total energy", "replayed, not measured"),
    ("1x-simulated-h100-gpu", "nvml total energy", "simulated, not measured"),
]


def known_by(machine: str, source: str) -> Measurement:
    """A measurement whose energy comes from a source."""
    energy = DomainEnergy(Domain("gpu:0", "measured", source), 1.2131, 296.0, 70.0)
    return replace(measured(1.2131, 0.0041, machine=machine), domains=(energy,))


@pytest.mark.parametrize(("machine", "source", "how"), NOT_MEASURED)
def test_what_no_counter_has_read_is_named_in_the_headline(machine: str, source: str, how: str) -> None:
    """Also with -q: nobody may take an estimate for a measurement."""
    result = run(result_of(TEST, (known_by(machine, source), verdict("new"))), machine=Machine(machine))
    assert f"carbon ({how}): {machine}" in report(result)[0]
    assert f"carbon ({how}): compared 0 of 1 (1 new):" in report(result, quiet=True)


def test_an_machine_without_baselines_names_the_nearest_that_has_one() -> None:
    """On a new machine a person wants to know what it differs in from those that are known."""
    result = run(result_of(TEST, (measured(1.2131, 0.0041), verdict("new"))))
    known = [
        ("1x-nvidia-h100-80gb-hbm3-500w-gpu", "same GPU, power limit 500 W → 700 W"),
        ("2x-nvidia-a100", "another GPU"),
    ]
    text = joined(result, nearest=known)
    assert (
        f"compared 0 of 1: - {TEST} has no baseline (record one with --carbon-record) "
        "nearest machine with a baseline: 1x-nvidia-h100-80gb-hbm3-500w-gpu (same GPU, power limit "
        "500 W → 700 W); others: 2x-nvidia-a100 (another GPU) overhead:"
    ) in text


def test_what_the_suite_shares_is_said_first() -> None:
    """The sentence stands before everything else under the table; what fails is among pytest's failures instead."""
    moved = "the whole suite is 7.1% up: the machine, or something all tests use"
    suite = SuiteVerdict(1, 1, 0.01, 0.071, "regression", moved)
    warned = lines(run(MIXED[0], suite=suite, settings=Settings(enabled=True, gate="warn")))
    assert warned[5:7] == [Line(text, {"yellow": True}) for text in Page(80).wrap(f"warning (suite): {moved}")]
    assert any(line.text == "the suite would have failed without --carbon-gate=warn" for line in warned)
    assert moved not in joined(run(MIXED[0], suite=suite))


def test_many_rows_are_folded_to_those_that_a_person_must_see() -> None:
    """300 measurements: the two that matter, and what the others did; all of them with -v."""
    passing = [
        result_of(f"tests/test_m.py::test_{i}", (measured(1.3, 0.01), verdict("pass", i / 1e4, 0.05)))
        for i in range(297)
    ]
    result = run(*passing[:200], MIXED[3], *passing[200:], MIXED[1], MIXED[6])
    assert report(result)[2:11] == [
        "tests/test_image.py",
        "  test_diffusion[sdxl-30-steps]",
        "    call    1.834 ± 0.006 kJ   188 g    +8.2%        ≥41%  inconclusive",
        "tests/test_text.py",
        "  test_generate[llama-7b-fp16-recording1]",
        "    decode  12.40 ± 0.11  mJ  1.27 mg  +27.3%       ≥7.4%  REGRESSION",
        "298 pass (change -1.2% to +3.0%) and 1 is new: listed with -v",
        "",
        "compared 300 of 301:",
    ]
    assert len(report(result, verbose=True)) > 301


def test_measurements_that_were_not_run_are_named_where_they_are_known() -> None:
    """What has a baseline and did not run is part of the count."""
    result = run(MIXED[0], suite=SuiteVerdict(4, 1, 0.01))
    assert "compared 1 of 4: - 3 with a baseline were not run" in joined(result)
    one = joined(result, not_run=[("tests/test_m.py::test_a", "call")])
    assert "compared 1 of 2: - tests/test_m.py::test_a was not run" in one
    three = joined(result, not_run=[("a", "call"), ("b", "call"), ("c", "x")])
    assert "compared 1 of 4: - 3 with a baseline were not run" in three


TWO = replace(MACHINE, id=H100.replace("1x", "2x"), gpus=(*MACHINE.gpus, Gpu(1, "GPU-2", "NVIDIA H100 80GB HBM3")))


def in_two_machines() -> SessionResult:
    """The first test was measured on one GPU; the others on two, for the first of them opened the second."""
    tests = (
        result_of("t.py::test_one", (measured(1.0, 0.01), verdict("pass", 0.01, 0.07))),
        result_of("t.py::test_two", (measured(2.0, 0.01, machine=TWO.id), verdict("new"))),
        result_of("t.py::test_old", (measured(3.0, 0.01, machine=TWO.id), verdict("regression", 0.5, 0.07))),
    )
    suite = SuiteVerdict(1, 1, 0.01)
    return run(*tests, suite=suite, others=((TWO, replace(suite, reason="the whole suite is 50% up")),))


def test_each_machine_has_its_table_and_its_count() -> None:
    """What is compared in one is not counted in another; a test whose baseline lies in another is said to have it."""
    there = {TWO.id: Stored(elsewhere={("t.py::test_two", "call"): (H100, "same GPU, 1 → 2 GPUs")})}
    text = report(in_two_machines(), others=there, width=100)
    assert [line.strip("= ") for line in text if line.startswith("==")] == [f"carbon: {H100}", f"carbon: {TWO.id}"]
    at = [next(i for i, line in enumerate(text) if line.startswith(t)) for t in ("t.py::test_one", "t.py::test_two")]
    second = text.index(next(line for line in text if TWO.id in line))
    assert at[0] < second < at[1]
    assert "compared 1 of 1" in text[:second]
    said = " ".join(line.strip() for line in text[second:])
    assert "the whole suite is 50% up compared 1 of 2: - t.py::test_two has no baseline (record one" in said
    assert f"t.py::test_two has no baseline here, but in {H100} (same GPU, 1 → 2 GPUs)" in said
    assert "GPUs that a test has opened stay open for the tests after it, and count there: name the" in said
    assert said.count("overhead: ") == 1
    quiet = report(in_two_machines(), others=there, width=100, quiet=True)
    assert f"carbon ({H100}): compared 1 of 1 (1 pass)" in quiet
    assert any(line.startswith(f"carbon ({TWO.id}): compared 1 of 2") for line in quiet)


def test_the_seconds_of_measuring_are_those_of_its_joules() -> None:
    """From the first reading to the last: not those in which pytest looked for tests."""
    result = replace(run(MIXED[0]), duration_s=200.0, metered_s=20.0)
    calls_s = sum(each.duration_s for each in MIXED[0].measurements[0][0].rounds)
    assert f"overhead: 512 J (52.5 mg CO2e), {20 - calls_s:.0f} s; the calls" in joined(result)


def test_what_is_over_budget_and_not_compared_is_accounted_for() -> None:
    """It has a verdict, but none against a baseline."""
    result = run(result_of(TEST, (measured(41.2, 0.2), verdict("over-budget"))))
    assert f"compared 0 of 1: - {TEST} is over budget, and could not be compared" in joined(result)


def test_what_cannot_be_recorded_is_not_advised_to_be() -> None:
    """A test that failed for another reason, and a figure that a warning disqualifies, have a reason instead."""
    throttled = MeasurementWarning("throttled", "the device held its clocks back")
    result = run(
        result_of("t.py::test_new", (measured(1.0), verdict("new"))),
        result_of("t.py::test_broken", (measured(1.0), verdict("new")), outcome="failed"),
        result_of("t.py::test_hot", (measured(1.0, warnings=(throttled,)), verdict("new"))),
    )
    assert (
        "compared 0 of 3: - t.py::test_new has no baseline (record one with --carbon-record) - t.py::test_broken has no"
        " baseline, and none can be recorded: its test did not pass (failed) - t.py::test_hot has no baseline, and none"
        " can be recorded: a figure with a disqualifying warning (throttled) is neither recorded nor accepted "
    ) in joined(result)


def test_what_ran_out_of_memory_was_not_measured() -> None:
    """It is inconclusive, and may well have a baseline."""
    full = replace(measured(None), failure=None, warnings=(MeasurementWarning("out-of-memory", "no room"),))
    result = run(result_of(TEST, (full, verdict("inconclusive", reason="nothing was measured: no room"))))
    assert f"compared 0 of 1: - {TEST} was not measured warning" in joined(result)


def test_recording_does_not_advise_to_record() -> None:
    """With --carbon-record the advice has been taken."""
    result = run(MIXED[6], settings=Settings(enabled=True, record=True))
    assert "compared 0 of 1: - tests/test_image.py::TestSegment::test_masks had no baseline" in joined(result)


def test_the_warning_gate_says_what_it_spared() -> None:
    """--carbon-gate=warn never fails, but never hides either; an error is not spared."""
    result = run(MIXED[1], MIXED[5], settings=Settings(enabled=True, gate="warn"))
    found = lines(result)
    assert (
        "tests/test_text.py::test_generate[llama-7b-fp16-recording1] · decode would have failed without "
        "--carbon-gate=warn"
    ) in joined(result)
    assert next(line for line in found if "REGRESSION" in line.text).markup == {"yellow": True}
    assert next(line for line in found if "ERROR" in line.text).markup == {"red": True, "bold": True}


def test_strict_failures_stand_out_like_the_others() -> None:
    """A new measurement that fails under --carbon-strict is in capitals; a test that failed by itself says so."""
    new, broken = replace(MIXED[6], outcome="failed"), replace(MIXED[0], outcome="failed")
    strict = report(run(new, broken, settings=Settings(enabled=True, strict=True)))
    assert [line.split()[-1] for line in strict[3:6:2]] == ["NEW", "failed"]
    assert strict[5].endswith("  test failed")
    assert report(run(new))[3].endswith("  test failed")
    spared = run(MIXED[6], settings=Settings(enabled=True, strict=True, gate="warn"))
    assert report(spared)[3].endswith("  NEW")


def test_nothing_measured_is_said() -> None:
    """A run under --carbon in which nothing was measured must not look like one that passed."""
    assert joined(run(suite=SuiteVerdict(0, 0, 0.01))).endswith(
        "nothing was measured: no test that ran uses the carbon fixture or has a carbon_budget marker"
    )
    assert "compared 0 of 12: - 12 with a baseline were not run" in joined(run(suite=SuiteVerdict(12, 0, 0.01)))


def test_warnings_of_one_code_stand_once_with_all_whom_they_concern() -> None:
    """Where their figures differ the first one's sentence stands for them."""
    tests = [
        result_of(
            f"tests/test_m.py::test_{n}",
            (measured(1.0, warnings=(MeasurementWarning("tail", f"{n}% came later."),)), verdict("new")),
        )
        for n in range(7, 13)
    ]
    assert "warning (tail): test_7: 7% came later. Also test_8, test_9, test_10 and 2 more" in report(run(*tests))


def test_blind_passes_are_counted_and_the_blindest_speaks_for_all() -> None:
    """Whoever follows its advice helps the others, too. With -q they are counted as well, and not listed."""
    tests = [
        result_of(f"tests/test_m.py::test_{n}", (measured(1.0), verdict("pass", 0.01, n / 100, blind=n > 30)))
        for n in (30, 31, 45, 40)
    ]
    sentence = sentences.weak(tests[2].measurements[0][1])
    told = f"3 of 4 passes are blind: test_45: {sentence}. Also test_40 and test_31"
    assert f"{told} overhead:" in joined(run(*tests))
    assert sum(line.endswith("  pass (blind)") for line in report(run(*tests))) == 3
    quiet = report(run(*tests), quiet=True)
    assert " ".join(" ".join(quiet).split()).endswith(told)
    assert not any("pass (blind)" in line for line in quiet)
    (one,) = [result_of(TEST, (measured(1.0), verdict("pass", 0.01, 0.4, blind=True)))]
    assert "1 of 1 pass is blind: test_classify[fp16]: the smallest detectable change here is 40%" in joined(run(one))


def test_a_blind_pass_is_one_by_the_settings() -> None:
    """The sentence is that of the threshold that the user gave."""
    blind = result_of(TEST, (measured(1.0), verdict("pass", 0.01, 0.12, blind=True)))
    settings = replace(Settings(), max_detectable=0.1)
    assert "is blind: " in joined(run(blind, settings=settings))
    assert "the smallest detectable change here is 12%" in joined(run(blind, settings=settings))


@pytest.mark.parametrize(
    ("status", "changes", "shown"),
    [
        ("pass", {"blind": True}, "BLIND"),
        ("pass", {}, "WITH A WARNING"),
        ("improvement", {}, "WITH A WARNING"),
        ("inconclusive", {}, "INCONCLUSIVE"),
    ],
)
def test_what_strict_fails_stands_out(status: Status, changes: dict[str, Any], shown: str) -> None:
    """And its report says why it fails, and what to do."""
    warnings = () if changes else (MeasurementWarning("throttled", "the device held its clocks back"),)
    found = verdict(status, 0.01, 0.4, reason="because", **changes)
    test = result_of(TEST, (measured(1.0, warnings=warnings), found), outcome="failed")
    row = next(line for line in lines(run(test, settings=replace(Settings(), strict=True))) if shown in line.text)
    assert row.markup == {"red": True, "bold": True}
    text = failure(TEST, measured(1.0, warnings=warnings), found, CONTEXT)
    says = {
        "BLIND": "a change smaller than 40% may stay undetected;\n--carbon-max-detectable allows 30%\n",
        "WITH A WARNING": "the device held its clocks back\n",
        "INCONCLUSIVE": "because\n",
    }
    assert text.startswith(f"carbon {shown.lower()}: {says[shown]}")
    if changes:
        assert "  strict      --carbon-strict fails a blind pass" in text
        assert "pytest --carbon-against=a1b2c3d4e5" in text
    else:
        assert "--carbon-strict fails a figure with a disqualifying warning, whatever its change" in " ".join(
            text.split()
        )
        assert "A figure with a disqualifying warning is neither recorded nor accepted" in " ".join(text.split())


def test_the_cost_of_measuring_may_be_unknown() -> None:
    """Unknown is said, never 0 J."""
    text = joined(run(MIXED[0], cost_energy_j=None))
    assert "overhead: energy unknown, 3 min" in text


@pytest.mark.parametrize("quiet", [False, True])
def test_a_failed_measurement_is_never_0_joules(quiet: bool) -> None:
    """Its figures are absent everywhere."""
    result = run(MIXED[5])
    shown = "\n".join(report(result, quiet=quiet, width=200))
    assert "not measured" in shown
    assert "ERROR" in shown
    assert "0 J" not in shown
    lost, error = MIXED[5].measurements[0]
    assert "0 J" not in failure(TEST, lost, error, CONTEXT)
    assert not [value for _, value in junit_properties(lost, error) if value in ("0", "0.0")]


def test_ids_that_would_break_the_table_are_escaped() -> None:
    """Newlines, wide characters and 300 characters break no line, and no cursor moves."""
    texts = report(
        run(
            result_of(
                "tests/test_ü.py::test_日本語の長い名前のテスト[モデル-大きい]",
                (measured(1.2131, 0.0041), verdict("new")),
            ),
            result_of("tests/test_ü.py::test_x[a\nb\x1b[2J]", (measured(1.2131, 0.0041), verdict("new"))),
            result_of(f"tests/test_ü.py::test_x[{'y' * 300}]", (measured(1.2131, 0.0041), verdict("new"))),
        )
    )
    assert texts[2:9] == [
        "tests/test_ü.py",
        "  test_日本語の長い名前のテスト[モデル-大きい]",
        "    call               1.213 ± 0.004 J   125 mg       –           –  new",
        "  test_x[a\\nb\\x1b[2J]  1.213 ± 0.004 J   125 mg       –           –  new",
        f"  test_x[{'y' * 69}…y",
        f"    {'y' * 73}]",
        "    call               1.213 ± 0.004 J   125 mg       –           –  new",
    ]


def test_shortened_ids_stay_apart() -> None:
    """Parameters that have no room beside the figures take lines of their own: nothing is left out of them."""
    tests = [
        result_of(f"tests/test_m.py::test_text[{n}-{half}-precision]", (measured(1.0, 0.01), verdict("new")))
        for n, half in (("a-large", "half"), ("a-small", "half"), ("a-small", "double"))
    ]
    assert report(run(*tests))[2:9] == [
        "tests/test_m.py",
        "  test_text[a-large-half-precision]",
        "    call  1.000 ± 0.010 J   103 mg       –           –  new",
        "  test_text[a-small-half-precision]",
        "    call  1.000 ± 0.010 J   103 mg       –           –  new",
        "  test_text[a-small-double-precision]",
        "    call  1.000 ± 0.010 J   103 mg       –           –  new",
    ]


# --- a failed test -----------------------------------------------------------------------------------

CONTEXT = FailureContext(
    result=run(commit="e4f5a6b7c8d9", dirty=True),
    machine=MACHINE,
    suite=SuiteVerdict(5, 5, 0.01),
    tolerance=0.05,
    baseline=BaselineSummary(
        f"carbon-baselines/{H100}/tests/test_text.jsonl",
        first=record(created="2026-10-02T10:00:00Z"),
        last=record(created="2026-11-20T10:00:00Z", commit="a1b2c3d4e5f6", torch="2.11.0", driver="580.65"),
        machine=MACHINE,
    ),
)


def in_context(**changes: Any) -> FailureContext:
    of_run = {name: changes.pop(name) for name in ("against", "commit", "dirty") if name in changes}
    return replace(CONTEXT, result=replace(CONTEXT.result, **of_run), **changes)


REGRESSION = verdict(
    "regression",
    0.273,
    0.078,
    reason="27.3% more energy per call than the baseline (0.953 J → 1.213 J): each call takes 25.1% longer, at "
    "about the same power (+1.8%); the tolerance is 5%, and the smallest detectable change here is 7.8%",
    baseline_j_per_call=0.953,
    duration_change=0.251,
    power_change=0.0176,
)


def test_a_regression_says_what_moved_since_when_and_how_to_accept_it() -> None:
    """The whole report of the product's main case, at 80 columns."""
    assert failure(TEST, measured(1.2131, 0.0041), REGRESSION, CONTEXT).splitlines() == snapshot(
        [
            "carbon regression: +27.3% energy, 0.953 → 1.213 J",
            "",
            "  per call      baseline              now  change",
            "  energy         0.953 J  1.213 ± 0.004 J  +27.3%",
            "  time           3.28 ms          4.10 ms  +25.1%  ← this changed",
            "  power            291 W            296 W   +1.8%",
            "",
            "Can I believe it?",
            "  gate        smallest detectable change 7.8%, tolerance 5%",
            "  baseline    5 recordings (9 sessions) from 2026-10-02 to 2026-11-20",
            "  in  carbon-baselines/1x-nvidia-h100-80gb-hbm3-700w-gpu/tests/test_text.jsonl",
            "  since then  torch 2.11.0 → 2.13.0, commit a1b2c3d → e4f5a6b (dirty)",
            "  warnings    none",
            "  carbon      125 mg CO2e per 1,000 calls at 369.5 gCO2e/kWh, PUE 1.0",
            "",
            "If this is intended, accept it:",
            "    pytest --carbon-accept 'tests/test_text.py::test_classify[fp16]'",
            "",
            "or on any other machine, from this run's report (--carbon-json):",
            "    pytest-carbon baseline accept REPORT.json",
            "",
            "If it is not, look for what takes longer: more work per call (tokens, steps,",
            "inputs), or slower code. To compare with the baseline's commit:",
            "    pytest --carbon --carbon-against=a1b2c3d4e5 'tests/test_text.py::test_classify[fp16]'",
        ]
    )


def test_a_blind_failure_says_what_could_not_have_been_seen() -> None:
    """It is not the change that fails: nobody knows whether there is one."""
    blind = verdict(
        "pass",
        0.012,
        0.41,
        reason="1.2% more energy per call than the baseline (1.199 J → 1.213 J); …",
        baseline_j_per_call=1.199,
        duration_change=0.001,
        power_change=0.011,
        blind=True,
    )
    assert failure(TEST, measured(1.2131, 0.0041), blind, CONTEXT).splitlines() == snapshot(
        [
            "carbon blind: a change smaller than 41% may stay undetected;",
            "--carbon-max-detectable allows 30%",
            "",
            "  per call      baseline              now  change",
            "  energy         1.199 J  1.213 ± 0.004 J   +1.2%",
            "  time           4.09 ms          4.10 ms   +0.1%",
            "  power            293 W            296 W   +1.1%",
            "",
            "Can I believe it?",
            "  gate        smallest detectable change 41%, tolerance 5%",
            "  baseline    5 recordings (9 sessions) from 2026-10-02 to 2026-11-20",
            "  in  carbon-baselines/1x-nvidia-h100-80gb-hbm3-700w-gpu/tests/test_text.jsonl",
            "  since then  torch 2.11.0 → 2.13.0, commit a1b2c3d → e4f5a6b (dirty)",
            "  strict      --carbon-strict fails a blind pass",
            "  warnings    none",
            "  carbon      125 mg CO2e per 1,000 calls at 369.5 gCO2e/kWh, PUE 1.0",
            "",
            "Record it on other days, too, or compare two revisions side by side:",
            "    pytest --carbon-record 'tests/test_text.py::test_classify[fp16]'",
            "    pytest --carbon-against=a1b2c3d4e5 'tests/test_text.py::test_classify[fp16]'",
        ]
    )


def test_a_suite_that_moved_says_what_to_look_at() -> None:
    """The changes of all, whether to believe it, and what to do."""
    moved = [
        (measured(1.2131 * by, 0.0041), replace(REGRESSION, status="pass", change=0.07 * by, suite_moved=True))
        for by in (0.9, 1.0, 1.1)
    ]
    suite = SuiteVerdict(
        12, 9, 0.01, 0.07, "regression", "the whole suite is 7% up: the machine, or something all tests use"
    )
    assert suite_failure(suite, moved, replace(CONTEXT, arguments=("tests",))).splitlines() == snapshot(
        [
            "carbon regression: the whole suite is 7% up: the machine, or something all tests",
            "use",
            "",
            "3 of 9 measurements changed by more than their tolerance. The suite fails once,",
            "for all of them.",
            "",
            "Can I believe it?",
            "  energy      median +7.0%, from +6.3% to +7.7%",
            "  time        median +25.1%",
            "  power       median +1.8%",
            "  gate        smallest detectable change of one test 7.8% (median); an unchanged",
            "              suite fails in 1% of its runs",
            "  machine     not measured: --carbon-reference would tell it from the code",
            "  baseline    5 recordings (9 sessions) from 2026-10-02 to 2026-11-20",
            "  in  carbon-baselines/1x-nvidia-h100-80gb-hbm3-700w-gpu/tests/test_text.jsonl",
            "  since then  torch 2.11.0 → 2.13.0, commit a1b2c3d → e4f5a6b (dirty)",
            "  warnings    none",
            "",
            "If this is intended, accept it:",
            "    pytest --carbon-accept tests",
            "",
            "or on any other machine, from this run's report (--carbon-json):",
            "    pytest-carbon baseline accept REPORT.json",
            "",
            "If it is not, look at what all tests share: a library, an option, a fixture, the",
            "machine, its driver. To compare with the baseline's commit:",
            "    pytest --carbon --carbon-against=a1b2c3d4e5 tests",
        ]
    )
    against = Against("main", "a1b2c3d", "main (a1b2c3d)", 8, 1, (True,) * 8, dirty=True)
    side_by_side = in_context(against=against, baseline=None, arguments=("--carbon-against=main", "tests"))
    assert suite_failure(suite, moved, side_by_side).splitlines()[3:] == snapshot(
        [
            "3 of 9 measurements changed by more than their tolerance. The suite fails once,",
            "for all of them.",
            "",
            "Can I believe it?",
            "  energy      median +7.0%, from +6.3% to +7.7%",
            "  time        median +25.1%",
            "  power       median +1.8%",
            "  gate        smallest detectable change of one test 7.8% (median); an unchanged",
            "              suite fails in 1% of its runs",
            "  compared    the working tree, with uncommitted changes, with main (a1b2c3d), 9",
            "              pairs of sessions, side by side",
            "  warnings    none",
            "",
            "Look at what all tests share: a library, an option, a fixture. To measure again",
            "in more pairs:",
            "    pytest --carbon-sessions=16 --carbon-against=main tests",
        ]
    )


def shown(found: Measurement) -> list[str]:
    """The rows between the sentence and the baseline of a regression's report."""
    text = failure(TEST, found, REGRESSION, replace(CONTEXT, width=120)).splitlines()
    return [" ".join(line.split()) for line in text if line.startswith(("  energy", "  power"))]


def test_one_measurement_has_one_figure() -> None:
    """The judged one, in the report, the table and JUnit; its change is that of the figures."""
    found = replace(measured(1.2131, 0.0041), energy_j_per_call_mean=1.3412)
    assert shown(found)[0] == "energy 0.953 J 1.213 ± 0.004 J +27.3%"
    assert any("  1.213 ± 0.004 J" in line for line in report(run(result_of(TEST, (found, REGRESSION)))))
    junit = dict(junit_properties(found, REGRESSION))
    now, then, by = (float(junit[f"carbon.{what}"]) for what in ("energy_j_per_call", "baseline_j_per_call", "change"))
    assert now / then - 1 == pytest.approx(by, abs=1e-3)


def test_a_change_from_twice_on_is_a_factor() -> None:
    """What is not: a percentage; the reason of the gate is not repeated."""
    text = failure(TEST, measured(2.1919, 0.0041), replace(REGRESSION, change=1.3), CONTEXT)
    assert text.startswith("carbon regression: 2.3× the energy, 0.953 → 2.192 J\n")


def test_whether_the_suite_or_the_machine_moved_is_said() -> None:
    """So that a person can believe the report."""
    context = replace(CONTEXT, suite=SuiteVerdict(9, 9, 0.01, 0.004), width=120)
    again = f"{REGRESSION.reason}. It was measured again: at first +30%"
    changed = replace(REGRESSION, reference_change=0.012, reason=again)
    text = failure(TEST, measured(1.2131, 0.0041), changed, context)
    assert "  suite       not the whole suite: its median change is +0.4%" in text
    assert "  machine     the reference workload changed by +1.2%; beyond that, this call by +25.8%" in text
    assert "  note        It was measured again: at first +30%" in text
    suite = SuiteVerdict(9, 9, 0.01, 0.07, "regression", "the whole suite is 7% up: the machine", effect="fails")
    moved = failure(TEST, measured(1.2131, 0.0041), REGRESSION, replace(context, suite=suite))
    assert "  suite       the whole suite is 7% up" in moved


def test_in_ci_the_artefact_is_downloaded_first() -> None:
    """The report's folder was the runner's; where no command is known, the page of the run is."""
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "42"}
    environ |= {"GITHUB_SERVER_URL": "https://github.example", "GITHUB_REPOSITORY": "owner/project"}
    context = replace(CONTEXT, ci_run=ci_run(environ), report="out/carbon.json")
    text = failure(TEST, measured(1.2131, 0.0041), REGRESSION, context)
    assert "an artefact of GitHub Actions (https://github.example/owner/project/actions/runs/42):" in " ".join(
        text.split()
    )
    assert (
        "    gh run download 42 --name=carbon --dir=carbon-run\n"
        "    pytest-carbon baseline accept carbon-run/carbon.json\n" in text
    )
    context = replace(context, ci_run=ci_run({"CIRCLECI": "true", "CIRCLE_BUILD_URL": "https://circle.example/7"}))
    text = failure(TEST, measured(1.2131, 0.0041), REGRESSION, context)
    assert "an artefact of CircleCI (https://circle.example/7):" in " ".join(text.split())
    assert "    pytest-carbon baseline accept carbon.json\n" in text
    context = replace(context, ci_run=ci_run({"CIRCLECI": "true"}))
    text = failure(TEST, measured(1.2131, 0.0041), REGRESSION, context)
    assert "this run's report (--carbon-json), an artefact of CircleCI:" in " ".join(text.split())
    text = failure(TEST, measured(1.2131, 0.0041), REGRESSION, replace(CONTEXT, ci_run=ci_run(environ), report=None))
    assert "artefact" not in text, "none has a report that was not written"
    assert "    pytest-carbon baseline accept REPORT.json\n" in text


def test_without_a_country_one_line_names_the_option() -> None:
    """And with one, none does."""
    assert joined(run(MIXED[0])).count("--carbon-country") == 1
    assert "--carbon-country" not in joined(run(MIXED[0], settings=Settings(country="FRA")))


@pytest.mark.parametrize(
    ("energy_j", "error_j", "cells"),
    [
        (1.213104, 0.0000021, "0.95300 J 1.21310 ± 0.00001 J"),
        (1.2131, 0.0112, "0.953 J 1.213 ± 0.011 J"),
        (1.2131, 0.0412, "0.95 J 1.21 ± 0.04 J"),
        (953.0, 1.2, "953 mJ 953.0 ± 1.2 J"),
    ],
)
def test_an_error_is_rounded_as_in_the_table(energy_j: float, error_j: float, cells: str) -> None:
    """One figure has one rounding; the baseline's has its decimals, unless they are ten times apart."""
    found = measured(energy_j, error_j)
    assert shown(found)[0] == f"energy {cells} +27.3%"
    own = cells.partition("J ")[2]
    assert any(f"  {own}  " in line for line in report(run(result_of(TEST, (found, REGRESSION)))))


def test_an_exceeded_budget_offers_no_acceptance() -> None:
    """--carbon-accept changes baselines, not what a marker allows."""
    over = verdict("over-budget", reason="41.2 J per call, 3% over the budget of 40 J: make the call cheaper")
    assert failure(TEST, measured(41.2, 0.2), over, replace(CONTEXT, baseline=None)).splitlines() == snapshot(
        [
            "carbon over-budget: 41.2 J per call, 3% over the budget of 40 J: make the call",
            "cheaper",
            "",
            "  now         41.20 ± 0.20 J per call (139 ms at 296 W)",
            "  carbon      4.23 g CO2e per 1,000 calls at 369.5 gCO2e/kWh, PUE 1.0",
            "",
            "--carbon-accept does not lift a budget.",
        ]
    )


def test_an_error_says_why_nothing_was_measured_and_what_to_do() -> None:
    """No figures, not even the baseline's; the reason is not said twice."""
    lost = measured(None, failure="GPU 0 was lost after round 3 of 5")
    text = failure(TEST, lost, verdict("error", reason="GPU 0 was lost after round 3 of 5"), CONTEXT)
    assert text.splitlines() == snapshot(
        [
            "carbon error: GPU 0 was lost after round 3 of 5",
            "",
            "Without its energy the test cannot pass, and nothing is recorded. To see what",
            "can be measured here:",
            "    pytest-carbon doctor",
        ]
    )
    other = failure(TEST, lost, verdict("error", reason="not measured"), CONTEXT)
    assert other.startswith("carbon error: not measured: GPU 0 was lost after round 3 of 5\n")


def test_a_new_measurement_that_strict_fails_says_how_to_record_it() -> None:
    """Or, with a warning, to measure it again: with a warning nothing is recorded."""
    new = verdict("new", reason="no baseline here yet")
    context = replace(CONTEXT, baseline=None, nearest="1x-nvidia-h100-500w-gpu: same GPU, power limit 500 W → 700 W")
    assert failure(TEST, measured(5.512, 0.031, name="decode"), new, context).splitlines() == snapshot(
        [
            "carbon new in decode: no baseline here yet",
            "",
            "  now         5.512 ± 0.031 J per call (18.6 ms at 296 W)",
            "  nearest     1x-nvidia-h100-500w-gpu: same GPU, power limit 500 W → 700 W",
            "  carbon      566 mg CO2e per 1,000 calls at 369.5 gCO2e/kWh, PUE 1.0",
            "",
            "Record a baseline, and commit it:",
            "    pytest --carbon-record 'tests/test_text.py::test_classify[fp16]'",
        ]
    )
    informed = failure(TEST, measured(5.512, 0.031, warnings=(TAIL,)), new, context)
    assert "  warning     12% of the energy came after the work had ended; longer" in informed
    assert informed.endswith("    pytest --carbon-record 'tests/test_text.py::test_classify[fp16]'")
    warned = failure(TEST, measured(5.512, 0.031, warnings=(MeasurementWarning("short", "too short"),)), new, context)
    assert warned.endswith(
        "A figure with a disqualifying warning is neither recorded nor accepted. Measure\n"
        "again without its cause:\n"
        "    pytest --carbon 'tests/test_text.py::test_classify[fp16]'"
    )


def test_what_the_reason_says_is_not_said_again() -> None:
    """Neither a warning nor the suite's sentence."""
    moved = "the whole suite is 7% up: the machine, or something all tests use"
    reason = f"{moved}; this one takes 9% more; the smallest detectable change here is 8%. In warning: {TAIL.text}"
    found = replace(REGRESSION, reason=reason)
    context = replace(CONTEXT, suite=SuiteVerdict(9, 9, 0.01, 0.07, "regression", moved), width=500)
    for changed in (found, replace(found, reason="more"), replace(found, status="inconclusive")):
        text = failure(TEST, measured(1.2131, 0.0041, warnings=(TAIL,)), changed, context)
        assert [text.count(said) for said in (moved, TAIL.text)] == [1, 1]


def test_power_can_be_what_moved_or_both_or_neither() -> None:
    """The arrow points at what is nearly all of the change, and at nothing where both or nothing moved."""

    def arrow(time: float, power: float, change: float = 0.273) -> str:
        found = replace(REGRESSION, duration_change=time, power_change=power, change=change)
        text = failure(TEST, measured(1.2131, 0.0041), found, CONTEXT)
        return "".join(line.split()[0] for line in text.splitlines() if "←" in line)

    assert [arrow(0.01, 0.26), arrow(0.251, 0.018), arrow(0.13, 0.127)] == ["power", "time", ""]
    assert arrow(0.001, 0.02, change=0.021) == ""


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"commit": "a1b2c3d4e5f6", "dirty": True}, "torch 2.11.0 → 2.13.0, uncommitted changes on a1b2c3d"),
        ({"commit": "a1b2c3d4e5f6", "dirty": False}, "torch 2.11.0 → 2.13.0"),
        (
            {"machine": replace(MACHINE, torch="2.11.0"), "commit": None},
            "same torch, driver and power limit",
        ),
        (
            {"machine": replace(MACHINE, driver="590.1", gpus=(Gpu(0, "u", "n", 500.0),)), "commit": None},
            "torch 2.11.0 → 2.13.0, driver 580.65 → 590.1, power limit 700 W → 500 W",
        ),
        ({"machine": Machine(H100), "commit": None}, None),
    ],
)
def test_what_differs_since_the_baseline_is_listed(changed: dict[str, Any], says: str | None) -> None:
    """Torch, driver, power limit, commit; what is unknown on either side is left out."""
    text = failure(TEST, measured(1.2131, 0.0041), REGRESSION, in_context(width=200, **changed))
    found = [line.removeprefix("  since then  ") for line in text.splitlines() if line.startswith("  since then")]
    assert found == ([says] if says else [])


def test_the_summary_of_a_baseline_is_of_the_records_that_count() -> None:
    """Only the newest epoch's; its newest session's torch, driver and commit."""

    def of_epoch(day: int, epoch: str) -> Record:
        return record(day=day, session=f"s{day}", epoch=epoch)

    accepted = "2026-11-05T00:00:00Z"
    records = [of_epoch(9, accepted), of_epoch(1, "0"), of_epoch(6, accepted)]
    assert BaselineSummary.of(records, "b.jsonl", MACHINE) == BaselineSummary(
        "b.jsonl", records[2], records[0], MACHINE
    )
    assert BaselineSummary.of([], "b.jsonl") == BaselineSummary("b.jsonl")


def test_cards_that_begin_alike_are_told_apart() -> None:
    """As short as can be."""
    now, then = ("GPU-1f3a4b5c-0000", "GPU-a"), ("GPU-1f3a4b9c-0000", "GPU-b", "GPU-c")
    assert cards(now, then) == ("GPU-1f3a4b5c… and GPU-a", "GPU-1f3a4b9c…, GPU-b and 1 more")
    assert cards(now[:1], ("GPU-9d8e7f60-1111",)) == ("GPU-1f3a…", "GPU-9d8e…")


def test_what_comes_after_the_work_is_told_once() -> None:
    """It is the machine's, and no figure has it."""
    one = replace(measured(1.2131, 0.0041), after_work_j=84.8, after_work_s=1.83)
    text = joined(run(result_of("t.py::a", (one, verdict("pass"))), result_of("t.py::b", (one, verdict("pass")))))
    said = "after a burst of work this machine takes 84.8 J more for 1.8 s before it settles; no figure includes it"
    assert text.count(said) == 1
    unknown_s = replace(one, after_work_s=None)
    assert "takes 84.8 J more before it settles" in joined(run(result_of("t.py::a", (unknown_s, verdict("pass")))))
    for nothing in (None, 0.0):
        found = replace(one, after_work_j=nothing)
        assert "after a burst" not in joined(run(result_of("t.py::a", (found, verdict("pass")))))


@pytest.mark.parametrize("nodeid", [TEST, "a b.py::test_x[it's]", "t.py::test_日本[ü]", "t.py::test[$HOME`id`]"])
def test_commands_can_be_pasted_into_a_shell(nodeid: str) -> None:
    """Whatever an id holds, the shell hands pytest that id, from one line."""
    text = failure(nodeid, measured(1.2131, 0.0041), REGRESSION, replace(CONTEXT, report="out/my report.json"))
    (accept,) = [line for line in text.splitlines() if "--carbon-accept" in line]
    (artefact,) = [line for line in text.splitlines() if "baseline accept" in line]
    words = subprocess.run(
        ["bash", "-c", accept.replace("pytest --carbon-accept", "printf %s", 1)], capture_output=True, check=True
    )
    assert os.fsdecode(words.stdout) == nodeid
    assert shlex.split(artefact) == ["pytest-carbon", "baseline", "accept", "out/my report.json"]


def test_arguments_stand_for_the_id_in_commands() -> None:
    """From another folder the id alone would select nothing, and without its flags a run would compare elsewhere."""
    arguments = ("--carbon-meter=rapl", "--carbon-baseline=my baselines", "../tests/test_text.py::test_x")
    lines = failure(
        TEST, measured(1.2131, 0.0041), REGRESSION, replace(CONTEXT, arguments=arguments, report="c.json")
    ).splitlines()
    assert (
        "    pytest --carbon-accept --carbon-meter=rapl '--carbon-baseline=my baselines' ../tests/test_text.py::test_x"
        in lines
    )
    assert "    pytest-carbon baseline accept c.json '--carbon-baseline=my baselines'" in lines


@pytest.mark.parametrize(("machine", "source", "how"), NOT_MEASURED)
def test_an_estimate_fails_as_an_estimate(machine: str, source: str, how: str) -> None:
    """Every report says so."""
    text = failure(TEST, known_by(machine, source), REGRESSION, CONTEXT)
    assert " ".join(text.split()).startswith(f"carbon regression ({how}): +27.3% energy, ")
    suite = SuiteVerdict(9, 9, 0.01, 0.07, "regression", "the whole suite is 7% up: …")
    text = suite_failure(suite, [(known_by(machine, source), REGRESSION)], CONTEXT)
    assert " ".join(text.split()).startswith(f"carbon regression ({how}): the whole suite is 7% up: …")


# --- elsewhere ---------------------------------------------------------------------------------------


def test_junit_properties_are_unrounded_and_leave_out_what_is_unknown() -> None:
    """SI numbers as JSON has them; a named measurement has its name in the property's."""
    found = dict(junit_properties(measured(1.2131, 0.0041, name="decode", warnings=(TAIL,)), REGRESSION))
    assert found["carbon.decode.energy_j_per_call"] == "1.2131"
    assert found["carbon.decode.status"] == "regression"
    assert found["carbon.decode.warnings"] == "tail"
    assert "carbon.decode.limit_j_per_call" not in found
    assert dict(junit_properties(measured(None), verdict("error", reason="GPU 0 was lost"))) == {
        "carbon.status": "error",
        "carbon.effect": "none",
        "carbon.reason": "GPU 0 was lost",
        "carbon.machine": H100,
    }


def test_progress_gives_way_to_the_width() -> None:
    """The id is shortened first, then the earliest steps go."""
    steps = ["quiet 0.8 s", "round 3/5", "4.2 s"]
    assert [progress("tests/test_m.py::test_x[a::b]", "call", steps, width=w) for w in (80, 50, 34, 15)] == [
        "carbon: test_x[a::b] · call: quiet 0.8 s · round 3/5 · 4.2 s",
        "carbon: test_x[a::b] · call: round 3/5 · 4.2 s",
        "carbon: test_x[a::b] · call: 4.2 s",
        "carbon: 4.2 s",
    ]
    assert progress("m.py::test_classification", "call", steps, width=64) == (
        "carbon: test_cla…ication · call: quiet 0.8 s · round 3/5 · 4.2 s"
    )


def test_waiting_counts_the_results_that_are_held_back() -> None:
    """A verdict needs the whole session."""
    assert waiting(1, width=80) == "carbon: 1 result waits for the last measurement"
    assert waiting(1200, width=80) == "carbon: 1,200 results wait for the last measurement"


# --- properties --------------------------------------------------------------------------------------

figures = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
positive = st.floats(min_value=1e-9, max_value=1e9)
words = st.text(min_size=1, max_size=60)
statuses = st.sampled_from(["error", "over-budget", "regression", "inconclusive", "improvement", "new", "pass"])
warnings = st.builds(MeasurementWarning, code=st.text(min_size=1, max_size=12), text=words)
measurements = st.builds(
    Measurement,
    name=st.one_of(st.just("call"), words),
    machine=st.sampled_from([H100, CPU]),
    calls=st.integers(0, 10**6),
    duration_s_per_call=st.one_of(st.none(), positive),
    energy_j_per_call=figures,
    energy_j_per_call_error=st.one_of(st.none(), positive),
    emissions_g_per_call=figures,
    sessions=st.lists(st.builds(SessionScore, st.just("s"), positive, positive), max_size=2).map(tuple),
    warnings=st.lists(warnings, max_size=2).map(tuple),
    after_work_j=figures,
    after_work_s=st.one_of(st.none(), positive),
    temperature_c=figures,
    gpus=st.lists(words, max_size=3).map(tuple),
)
verdicts = st.builds(
    Verdict,
    status=statuses,
    reason=words,
    baseline_j_per_call=st.one_of(st.none(), positive),
    baseline_recordings=st.integers(0, 20),
    baseline_sessions=st.integers(0, 200),
    change=st.one_of(st.none(), st.floats(min_value=-0.999, max_value=1e12)),
    detectable_change=st.one_of(st.none(), st.floats(min_value=0, max_value=1e300)),
    duration_change=st.one_of(st.none(), st.floats(min_value=-1, max_value=1e6)),
    power_change=st.one_of(st.none(), st.floats(min_value=-1, max_value=1e6)),
)
nodeids = st.one_of(st.text(min_size=1, max_size=300), st.builds("{}.py::{}".format, words, words))
tests = st.builds(
    TestResult,
    nodeid=nodeids,
    outcome=st.sampled_from(["passed", "failed", "skipped"]),
    measurements=st.lists(st.tuples(measurements, verdicts), max_size=3).map(tuple),
)
contexts = st.builds(
    FailureContext,
    result=st.builds(run, commit=st.one_of(st.none(), words), dirty=st.sampled_from([None, True, False])),
    machine=st.just(MACHINE),
    tolerance=st.one_of(st.just(False), st.floats(0, 1)),
    baseline=st.one_of(
        st.none(),
        st.builds(
            BaselineSummary,
            location=words,
            first=st.builds(record, created=words),
            last=st.builds(record, created=words, torch=words, commit=st.one_of(st.none(), words)),
        ),
    ),
    suite=st.builds(SuiteVerdict, st.just(9), st.just(9), st.just(0.01), reason=st.one_of(st.none(), words)),
    nearest=st.one_of(st.none(), words),
    report=st.one_of(st.none(), words),
    ci_run=st.sampled_from([None, ci_run({"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "42"}), ci_run({"DRONE": "1"})]),
    width=st.integers(30, 200),
    ascii=st.booleans(),
)


@given(
    found=st.lists(tests, max_size=6),
    width=st.integers(30, 250),
    quiet=st.booleans(),
    verbose=st.booleans(),
    ascii=st.booleans(),
    settings=st.builds(Settings, gate=st.sampled_from(["fail", "warn"]), strict=st.booleans(), record=st.booleans()),
    nearest=st.lists(st.tuples(words, words), max_size=3),
    cost=figures,
)
def test_no_line_of_the_summary_is_wider_than_the_terminal(
    found: list[TestResult],
    width: int,
    quiet: bool,
    verbose: bool,
    ascii: bool,
    settings: Settings,
    nearest: list[tuple[str, str]],
    cost: float | None,
) -> None:
    """For any records, as an independent measure of width has it; and pytest's writer takes every line."""
    result = run(*found, settings=settings, cost_energy_j=cost, notes=("a note " * 30,))
    shown = lines(result, width=width, quiet=quiet, verbose=verbose, ascii=ascii, nearest=nearest)
    writer = TerminalWriter()
    for line in shown:
        assert 0 <= wcswidth(line.text) <= width, line.text
        assert line.text.isascii() or not ascii
        writer.markup(line.text, **line.markup)


def copyable(text: str) -> Iterator[str]:
    """The lines that stay whole: commands, and where the baseline lies."""
    return (line for line in text.split("\n") if line.startswith(("    pytest", "    gh run", "  in ")))


@given(test=nodeids, measurement=measurements, found=verdicts, context=contexts)
def test_no_line_of_a_failure_is_wider_than_the_terminal(
    test: str, measurement: Measurement, found: Verdict, context: FailureContext
) -> None:
    """But for commands and paths, which must stay copyable; nothing in it moves the cursor."""
    text = failure(test, measurement, found, context)
    whole = set(copyable(text))
    for line in text.split("\n"):
        assert wcswidth(line) >= 0
        assert wcswidth(line) <= context.width or line in whole, line
        assert line.isascii() or not context.ascii


@given(
    test=nodeids,
    name=words,
    steps=st.lists(words, min_size=1, max_size=4),
    width=st.integers(1, 120),
    ascii=st.booleans(),
)
def test_no_progress_line_is_wider_than_its_room(
    test: str, name: str, steps: list[str], width: int, ascii: bool
) -> None:
    """It is written behind what stands on the line already, so there may be little room."""
    assert 0 <= wcswidth(progress(test, name, steps, width=width, ascii=ascii)) <= width
    assert 0 <= wcswidth(waiting(len(steps), width=width, ascii=ascii)) <= width
