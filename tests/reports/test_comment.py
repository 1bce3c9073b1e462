"""Runs as Markdown: what changed and why in sight, what passes folded, nothing green that is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from builders import MACHINE, measurement, result, work
from hypothesis import given, settings
from hypothesis import strategies as st
from rendered import HOSTILE, check

from pytest_carbon.host.ci import ci_run
from pytest_carbon.records import (
    REPLAYED,
    Against,
    Counted,
    Domain,
    DomainEnergy,
    Effect,
    Machine,
    MeasurementWarning,
    SessionResult,
    Status,
    SuiteVerdict,
    TestResult,
    Unmeasured,
    Verdict,
)
from pytest_carbon.records.work import WorkStatus, WorkVerdict
from pytest_carbon.reports import comment
from pytest_carbon.reports.findings import all_pass, findings
from pytest_carbon.reports.merge import Runs, merge
from pytest_carbon.text import NBSP

REASON = "31% more energy per call than the baseline; the tolerance is 5%, and the smallest detectable change is 10%"


def measured(nodeid: str, status: Status = "pass", change: float | None = 0.0, **changes: Any) -> TestResult:
    effect: Effect = "fails" if status in ("error", "over-budget", "regression") else "none"
    fields: dict[str, Any] = {
        "baseline_j_per_call": 1.0 if change is not None else None,
        "baseline_recordings": 5,
        "baseline_sessions": 9,
        "change": change,
        "detectable_change": 0.1,
        "effect": effect,
    }
    figures = measurement(1.0 + (change or 0.0), **changes.pop("figures", {}))
    verdict = Verdict(status, changes.pop("reason", REASON), **(fields | changes))
    outcome = "failed" if verdict.effect == "fails" else "passed"
    return TestResult(nodeid, outcome, ((figures, verdict),), "passed")


def counted(nodeid: str, status: WorkStatus = "pass", change: float = 0.0, **changes: Any) -> TestResult:
    effect: Effect = "fails" if status in ("error", "over-budget", "regression", "changed") else "none"
    by_quantity = dict.fromkeys(("flops", "bytes", "kernels", "host_reads"), 0.0) | {"flops": change}
    verdict = WorkVerdict(status, "2.0× the FLOPs: h.*.mlp, 16 calls", by_quantity, effect=effect, **changes)
    return TestResult(
        nodeid, "failed" if effect == "fails" else "passed", (), "passed", (Counted("call", work(), verdict),)
    )


def ran(*tests: TestResult, **changes: Any) -> SessionResult:
    fails = any(test.outcome == "failed" for test in tests)
    return result(*tests, **({"exit_status": int(fails), "commit": "c0ffee1234567", "branch": "main"} | changes))


def written(*runs: SessionResult, **given: Any) -> str:
    places = [(f"{i}.json", replace(run, session=f"s{i}")) for i, run in enumerate(runs)]
    return comment.markdown(merge(places), **({"name": "report"} | given))


def title(*runs: SessionResult) -> str:
    first, second, *_ = written(*runs).splitlines()
    assert first == "<!-- pytest-carbon:report -->"
    return second.removeprefix("### ")


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (ran(measured("t.py::a")), "✅ Carbon: 1 pass"),
        (
            ran(measured("t.py::a", "regression", 0.31), measured("t.py::b", "regression", 1.31), measured("t.py::c")),
            "❌ Carbon: 2 regressions; largest change 2.3×: `t.py::b`",
        ),
        (
            ran(measured("t.py::a", "regression", 0.31), measured("t.py::b", "improvement", -0.9)),
            "❌ Carbon: 1 regression; largest change +31.0%: `t.py::a`",
        ),
        (
            ran(measured("t.py::a", "regression", 0.31, effect="warns")),
            "⚠️ Carbon: 1 regression; largest change +31.0%: `t.py::a`",
        ),
        (
            ran(measured("t.py::a", "regression", 0.31, effect="accepted")),
            "✅ Carbon: 1 accepted; largest change +31.0%: `t.py::a`",
        ),
        (
            ran(measured("t.py::a", "inconclusive", 0.07), measured("t.py::b")),
            "❔ Carbon: 1 inconclusive; largest change +7.0%: `t.py::a`",
        ),
        (ran(measured("t.py::a", "new", None)), "❔ Carbon: 1 new"),
        (ran(measured("t.py::a", "new", None), measured("t.py::b")), "✅ Carbon: 1 new, 1 pass"),
        (ran(measured("t.py::a", blind=True)), "✅ Carbon: 1 pass (blind)"),
        (ran(), "❔ Carbon: nothing was measured"),
        (ran(counted("t.py::a", "regression", 1.0)), "❌ Carbon: 1 regression; largest change 2.0× FLOPs: `t.py::a`"),
        (
            ran(counted("t.py::a", "regression", 1.0), measured("t.py::b")),
            "❌ Carbon: work: 1 regression; largest change 2.0× FLOPs: `t.py::a`",
        ),
        (ran(measured("t.py::a"), exit_status=1), "❌ Carbon: 1 pass; exit status 1"),
        (ran(measured("t.py::a"), exit_status=None, incomplete=True), "❌ Carbon: incomplete; 1 pass"),
        (
            ran(measured("t.py::a"), unmeasured=(Unmeasured("t.py::b", "call", MACHINE.id, "skipped: no GPU"),)),
            "⚠️ Carbon: 1 pass; 1 not measured",
        ),
        (
            ran(
                measured("t.py::a", change=0.07),
                suite=SuiteVerdict(9, 9, 0.01, 0.07, "regression", "the whole suite is 7% up: a", effect="fails"),
                exit_status=1,
            ),
            "❌ Carbon: the whole suite is 7% up; 1 pass; largest change +7.0%: `t.py::a`",
        ),
        (
            ran(measured("t.py::a", "regression", 0.31, figures={"machine": "a-cpu-estimated"})),
            "❌ Carbon: 1 regression; largest change +31.0%, estimated: `t.py::a`",
        ),
    ],
)
def test_the_title_has_the_verdict_and_the_largest_change(run: SessionResult, expected: str) -> None:
    """And is green only where something was compared and nothing is open."""
    assert title(run) == expected


def test_several_runs_are_one() -> None:
    """Shards and machines; a machine has its own table, a test of two reports names them."""
    other = Machine("other-gpu")
    first = ran(measured("t.py::a", "regression", 0.31), measured("t.py::b"))
    second = ran(measured("t.py::a", "regression", 0.4), measured("t.py::c", "new", None))
    third = ran(measured("t.py::a", "regression", 0.2, figures={"machine": other.id}), machine=other)
    text = written(first, second, third)
    page = check(text)
    assert "Carbon: 3 regressions; largest change +40.0%: t.py::a" in page.text
    assert "Energy per call on a-gpu: 2 regressions, 1 new, 1 pass" in page.text
    assert "Energy per call on other-gpu: 1 regression" in page.text
    assert {"t.py::a (0.json)", "t.py::a (1.json)", "t.py::a"} <= set(page.cells)
    assert all(f"pytest-carbon baseline accept {i}.json" in text for i in range(3))
    assert text.index("t.py::a` (`1.json`)") < text.index("t.py::a` (`0.json`)")  # the larger change is first


def test_the_reason_the_cause_and_whether_to_believe_it() -> None:
    """Beside the figures: the gate's sentence, counted work, the baseline, the warnings, what the machine did."""
    warned = MeasurementWarning("warmer", "it started 20 °C warmer than its baseline", informs=True)
    energy = measured("t.py::a", "regression", 0.31, figures={"warnings": (warned,)}, reference_change=0.01)
    of_work = counted(
        "t.py::a", "regression", 1.0, cause="2.0× the FLOPs: h.*.mlp", differences=("transformers 4 → 5",)
    )
    both = replace(energy, counted=of_work.counted)
    text = check(written(ran(both, measured("t.py::b", "regression", 0.2)))).text
    assert f"regression: t.py::a: {REASON}. Counted work: regression: 2.0× the FLOPs: h.*.mlp." in text
    assert "Baseline: 5 recordings (9 sessions); machine: reference workload +1.0%, this call beyond it +29.7%" in text
    assert "Warning (warmer): it started 20 °C warmer than its baseline" in text
    assert "Since the baseline: transformers 4 → 5" in text
    assert f"regression: t.py::b: {REASON}. Baseline: 5 recordings (9 sessions). No warnings" in text


def test_what_passes_is_folded_and_what_changed_is_not() -> None:
    """New ones fold, too: they are many in a first run."""
    tests = [measured("t.py::bad", "regression", 0.31), measured("t.py::same"), measured("t.py::new", "new", None)]
    text = written(
        ran(*tests, measured("t.py::gain", "improvement", -0.3), measured("t.py::eh", "inconclusive", 0.1))
    ).replace(NBSP, " ")
    before, _, after = text.partition("<details>")
    assert "<summary>1 pass</summary>" in after
    assert "<summary>1 new: no baseline to compare with</summary>" in after
    assert [name for name in ("bad", "gain", "eh", "same", "new") if f"`t.py::{name}`" in before] == [
        "bad",
        "gain",
        "eh",
    ]
    assert "| ❌ | **+31.0%** | `t.py::bad` | 1.00 J | 1.31 J | ≥10% | regression |" in before
    assert "| 💚 | -30.0% | `t.py::gain` | 1.000 J | 0.700 J | ≥10% | improvement |" in before


def test_what_is_not_green_is_named() -> None:
    """Incomplete runs, lost tests, a suite that moved, failures of the tests themselves, what only warns."""
    broken = replace(measured("t.py::own"), outcome="failed", functional_outcome="failed")
    suite = SuiteVerdict(9, 9, 0.01, machine_moved="the machine itself is 40% up (reference workload)")
    run = ran(
        broken,
        measured("t.py::w", "regression", 0.2, effect="warns"),
        measured("t.py::blind", blind=True),
        suite=suite,
        unmeasured=(Unmeasured("t.py::gone", "call", MACHINE.id, "skipped: no GPU"),),
        notes=("not recorded: t.py::x: another process used the GPU",),
        exit_status=None,
        incomplete=True,
    )
    text = check(written(run)).text
    assert "incomplete: the run was ended before it had measured and judged everything" in text
    assert "failed by itself, whatever the energy: t.py::own" in text
    assert "a-gpu: the machine itself is 40% up (reference workload)" in text
    assert "not measured: t.py::gone on a-gpu: skipped: no GPU" in text
    assert "would have failed without --carbon-gate=warn: t.py::w" in text
    assert "1 of the passes are blind" not in text
    assert "1 of the passes is blind, because the smallest detectable change is too large: t.py::blind" in text
    assert "not recorded: t.py::x: another process used the GPU" in text
    assert "baseline accept" not in text  # an incomplete report cannot be accepted


def test_the_estimated_is_called_so() -> None:
    """In the title and above its table."""
    text = written(ran(measured("t.py::a", "regression", 0.31, figures={"machine": "a-cpu-estimated"})))
    assert "**Energy per call on `a-cpu-estimated` (estimated, not measured)**: 1 regression" in text


def test_so_is_what_no_counter_of_a_device_has_read() -> None:
    """A trace that is played, a simulated GPU."""
    played = DomainEnergy(Domain("gpu:0", "measured", f"{REPLAYED}nvml total energy"), 1.0, 300.0, 70.0)
    for figures, how in (
        ({"domains": (played,)}, "replayed"),
        ({"machine": "1x-simulated-gpu"}, "simulated"),
    ):
        text = written(ran(measured("t.py::a", "regression", 0.31, figures=figures)))
        assert f" ({how}, not measured)**: 1 regression" in text
        assert f"largest change +31.0%, {how.partition(' ')[0]}: `t.py::a`" in text


def test_side_by_side_nothing_can_be_accepted() -> None:
    """Two revisions have no baseline."""
    against = Against("main", "1a2b3c4", "main (1a2b3c4)", 8, 1, (True,) * 8, False, 7)
    text = check(written(ran(measured("t.py::a", "regression", 0.31), against=against))).text
    assert "compared with main (1a2b3c4), side by side: 7 of 8 pairs of sessions" in text
    assert "baseline accept" not in text


def test_the_command_that_accepts() -> None:
    """From the artefact of a run in CI; none where a warning disqualifies; a budget says what to do."""
    bad, run = ran(measured("t.py::a", "regression", 0.31)), ci_run({"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "123"})
    assert (
        "gh run download 123 --name=0 --dir=carbon-run\npytest-carbon baseline accept carbon-run/0.json --baseline=here"
        in (written(bad, ci_run=run, place=["--baseline=here"]))
    )
    assert "pytest-carbon baseline accept REPORT.json" in comment.markdown(Runs((bad,), ("",)), name="x")
    none = comment.markdown(Runs((bad,), ("",)), name="x", ci_run=run)
    assert "gh run download" not in none, "no artefact has what was not written"
    assert "This run wrote no report: give it `--carbon-json=FILE`." in none
    shared = {"warnings": (MeasurementWarning("shared-gpu", "another process"),)}
    assert "baseline accept" not in written(ran(measured("t.py::a", "regression", 0.31, figures=shared)))
    over = written(ran(measured("t.py::a", "over-budget", 0.0)))
    assert "baseline accept" not in over
    assert "Accepting does not lift a budget: change its marker." in over
    assert "baseline accept 0.json" in written(ran(counted("t.py::a", "changed", 0.5)))


def test_a_link_to_the_page() -> None:
    """Where its address is given."""
    check(written(ran(measured("t.py::a")), url="https://x.org/a"), link="https://x.org/a")


@pytest.mark.parametrize("reason", [REASON, "why " * 3_000])
def test_5000_failures_stay_within_githubs_length(reason: str) -> None:
    """Cut at a row, with the count of the rest; the first have their reasons, all are in the title."""
    text = written(
        ran(*(measured(f"tests/test_m.py::test[{i:04}]", "regression", 0.3, reason=reason) for i in range(5000)))
    )
    assert 64_700 < len(text) <= 65_000
    page = check(text)
    assert "5,000 regressions" in page.text
    assert f"and {5_000 - page.cells.count('regression'):,} more" in page.cells
    assert "and 4,980 more" in page.text
    assert "pytest-carbon baseline accept 0.json" in text


def test_many_machines_stay_within_it() -> None:
    """Even where each has a table."""
    runs = [ran(measured("t.py::a", "regression", 0.3), machine=Machine(f"machine-{i}")) for i in range(300)]
    runs = [
        replace(run, tests=(measured("t.py::a", "regression", 0.3, figures={"machine": run.machine.id}),))
        for run in runs
    ]
    text = written(*runs)
    assert len(text) <= 65_000
    assert "and 250 more machines and engines" in check(text).text


@pytest.mark.parametrize(("energy_j", "shown"), [(1e-9, "1.000 nJ"), (1e12, "1000 GJ")])
def test_figures_that_are_tiny_or_huge(energy_j: float, shown: str) -> None:
    """They are shown, and so is one without a baseline, a change or a duration."""
    figures = {"energy_j_per_call": energy_j, "duration_s_per_call": None, "energy_j_per_call_error": None}
    odd = measured("t.py::a", "regression", 0.3, baseline_j_per_call=energy_j / 1.3, figures=figures)
    nothing = measured("t.py::b", "error", None, detectable_change=None, figures=dict.fromkeys(figures))
    page = check(written(ran(odd, nothing)))
    assert shown in page.cells
    assert "not measured" in page.cells


ANYTHING = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=12), max_size=4).map("".join)
VERDICTS = st.builds(
    Verdict,
    st.sampled_from(get_args(Status)),
    ANYTHING,
    st.none() | st.floats(1e-9, 1e12),
    change=st.none() | st.floats(-1, 1e6),
    detectable_change=st.none() | st.floats(0, 1e6),
    blind=st.booleans(),
    effect=st.sampled_from(get_args(Effect)),
)
WARNINGS = st.lists(st.builds(MeasurementWarning, ANYTHING, ANYTHING), max_size=2).map(tuple)
MEASURED = st.builds(
    lambda name, machine, energy_j, warnings, failure: replace(
        measurement(warnings=warnings), name=name, machine=machine, energy_j_per_call=energy_j, failure=failure
    ),
    ANYTHING,
    ANYTHING,
    st.none() | st.floats(1e-9, 1e12),
    WARNINGS,
    st.none() | ANYTHING,
)
COUNTED = st.builds(
    Counted,
    ANYTHING,
    st.none() | st.just(work()),
    st.builds(
        WorkVerdict,
        st.sampled_from(get_args(WorkStatus)),
        ANYTHING,
        st.dictionaries(st.sampled_from(["flops", "bytes"]), st.floats(-1, 1e6)),
        st.none() | ANYTHING,
        st.lists(st.tuples(ANYTHING, ANYTHING), max_size=2).map(tuple),
        st.lists(ANYTHING, max_size=2).map(tuple),
        st.lists(ANYTHING, max_size=1).map(tuple),
        st.sampled_from(get_args(Effect)),
    ),
    WARNINGS,
)
TESTS = st.builds(
    TestResult,
    ANYTHING,
    st.sampled_from(["passed", "failed", "xfailed"]),
    st.lists(st.tuples(MEASURED, VERDICTS), max_size=2).map(tuple),
    st.none() | st.just("failed"),
    st.lists(COUNTED, max_size=2).map(tuple),
)
RUNS = st.builds(
    lambda tests, machine, why, notes, commit, branch, reason: ran(
        *tests,
        machine=Machine(machine, torch=why),
        unmeasured=(Unmeasured(why, "call", machine, why),),
        suite=SuiteVerdict(1, 1, 0.01, 0.1, "regression", reason, reason, "fails"),
        notes=tuple(notes),
        commit=commit,
        branch=branch,
        dirty=True,
    ),
    st.lists(TESTS, max_size=3),
    ANYTHING,
    ANYTHING,
    st.lists(ANYTHING, max_size=3),
    ANYTHING,
    ANYTHING,
    ANYTHING,
)


@settings(max_examples=60)
@given(st.lists(st.tuples(ANYTHING, RUNS), max_size=2), st.integers(3_000, 8_000))
def test_whatever_it_holds_is_text(runs: list[tuple[str, SessionResult]], most: int) -> None:
    """Nothing but our own tags, no mention, no reference, no link; it never outgrows the length."""
    reports = [(place, replace(run, session=str(i))) for i, (place, run) in enumerate(runs)]
    text = comment.markdown(merge(reports), name="report", most=most)
    assert len(text) <= most
    check(text)
    assert text.count("<!-- pytest-carbon:report -->") == 1


def test_ten_thousand_characters_are_cut() -> None:
    """Of an id, of a machine, of a reason, of a note."""
    long = "x" * 10_000
    text = written(ran(measured(f"t.py::{long}", "regression", 0.3, reason=long), notes=(long,), branch=long))
    assert len(text) < 6_000
    check(text)


@pytest.mark.parametrize(
    ("run", "passes"),
    [
        (ran(measured("t.py::a")), True),
        (ran(measured("t.py::a"), counted("t.py::b")), True),
        (ran(measured("t.py::a", blind=True)), True),
        (ran(), False),
        (ran(measured("t.py::a", "new", None)), False),
        (ran(measured("t.py::a", "inconclusive", 0.1)), False),
        (ran(measured("t.py::a", "improvement", -0.1)), False),
        (ran(measured("t.py::a", "regression", 0.3, effect="accepted")), False),
        (ran(counted("t.py::a", "changed", 0.3)), False),
        (ran(measured("t.py::a"), exit_status=1), False),
        (ran(measured("t.py::a"), exit_status=None, incomplete=True), False),
        (ran(measured("t.py::a"), unmeasured=(Unmeasured("t.py::b", "call", "a-gpu", "why"),)), False),
        (ran(measured("t.py::a"), suite=SuiteVerdict(9, 9, 0.01, -0.1, "improvement", "down")), False),
        (ran(measured("t.py::a"), suite=SuiteVerdict(9, 9, 0.01, machine_moved="the machine is up")), False),
    ],
)
def test_only_passes_are_all_passes(run: SessionResult, passes: bool) -> None:
    """The summary of a step is written where something is not a pass."""
    runs = Runs((run,), ("",))
    assert all_pass(runs, findings(runs)) == passes
