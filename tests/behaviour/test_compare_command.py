"""``pytest-carbon compare BASE HEAD``: what it says, its exit status, and what it refuses to compare."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import pytest
from conftest import CarbonRunner
from console import CAPPED, HOST, carbon, days, measured, record, run, write

from pytest_carbon.baselines import decide
from pytest_carbon.baselines.files import FileStore
from pytest_carbon.records import Counted, Measurement, MeasurementWarning, SessionResult, SessionScore, Verdict
from pytest_carbon.records.work import WorkVerdict
from pytest_carbon.reports.layout import columns
from pytest_carbon.text import NBSP

SUITE = {f"tests/test_models.py::test_{name}": energy_j for name, energy_j in {"a": 1.0, "b": 2.0, "c": 0.5}.items()}
A, B, C = SUITE


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


def base(**changes: object) -> Path:
    return write("base.json", run("s1", SUITE | changes))


LATER = "2026-11-22T10:00:00Z"

# --- two reports ---------------------------------------------------------------------------------


def test_two_reports_of_one_code() -> None:
    """Nothing to fail for: exit status 0."""
    base()
    write("head.json", run("s2", SUITE | {A: 1.01}, created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 0
    assert ran.lines == [
        "BASE  base.json: 2026-11-20 10:00 UTC, main 1a2b3c4, torch 2.13.0, driver",
        "      580.65.06",
        "HEAD  head.json: 2026-11-22 10:00 UTC, main 1a2b3c4, torch 2.13.0, driver",
        "      580.65.06",
        "",
        "====================== 1x-nvidia-h100-80gb-hbm3-700w-gpu =======================",
        "per call                         BASE     HEAD  change  detectable  verdict",
        "tests/test_models.py::test_a  1.00 J   1.01 J    +1.0%        ≥19%  pass",
        "tests/test_models.py::test_b  2.00 J   2.00 J    +0.0%        ≥19%  pass",
        "tests/test_models.py::test_c   500 mJ   500 mJ   +0.0%        ≥19%  pass",
        "",
        "compared 3 of 3: 3 pass",
        "a change fails if it exceeds 5% (or the tolerance in the test's marker) and the",
        "  differences between recordings of unchanged code; an unchanged suite fails in",
        "  1 of 100 comparisons",
    ]


def test_a_regression() -> None:
    """Exit status 1, in capitals, with the gate's own sentence."""
    base()
    write("head.json", run("s2", SUITE | {A: 1.5}, created=LATER, branch="slower", dirty=True))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 1
    assert "HEAD head.json: 2026-11-22 10:00 UTC, slower 1a2b3c4 with uncommitted changes" in ran.text
    assert "test_a 1.00 J 1.50 J +50.0% ≥19% REGRESSION" in ran.text
    assert "compared 3 of 3: 1 regression, 2 pass" in ran.lines
    assert (
        "regression: tests/test_models.py::test_a: 50% more energy per call than the baseline (1.00 J → 1.50 J): each"
        " call draws 50% more power, in the same time; the tolerance is 5%, and the smallest detectable change"
        " here is 19%"
    ) in ran.text


def test_an_improvement_is_none() -> None:
    """Exit status 0: the other way round it would be 1."""
    base()
    write("head.json", run("s2", SUITE | {A: 0.5}, created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 0
    assert "compared 3 of 3: 1 improvement, 2 pass" in ran.lines
    assert carbon("compare", "head.json", "base.json").ret == 1


def test_what_head_could_not_measure_is_no_pass() -> None:
    """Exit status 1, as in the run itself; where BASE could not, it is not compared."""
    base()
    write("head.json", run("s2", SUITE | {A: None}, created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 1
    assert "compared 2 of 3: 1 error, 2 pass" in ran.lines
    assert "error: tests/test_models.py::test_a: GPU 0 is lost" in ran.lines
    assert "tests/test_models.py::test_a 1.00 J not measured – – ERROR" in ran.text
    ran = carbon("compare", "head.json", "base.json")
    assert ran.ret == 0
    assert "compared 2 of 3: 2 pass" in ran.lines
    assert "not measured in BASE: tests/test_models.py::test_a" in ran.lines


def test_what_is_on_one_side_only_is_listed() -> None:
    """With what it is perhaps called on the other; it changes nothing of the exit status."""
    base()
    head = {key: energy_j for key, energy_j in SUITE.items() if key not in (B, C)}
    head |= {
        "tests/test_moved.py::test_c": 0.5,
        "tests/test_models.py::test_bb": 9.0,
        "tests/test_new.py::test_it": 1.0,
    }
    write("head.json", run("s2", head, created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 0
    assert "compared 1 of 6: 1 pass" in ran.lines
    assert (
        "only in BASE: tests/test_models.py::test_b (now tests/test_models.py::test_bb?) and"
        " tests/test_models.py::test_c (now tests/test_moved.py::test_c?)"
    ) in ran.text
    assert (
        "only in HEAD: tests/test_moved.py::test_c, tests/test_models.py::test_bb and tests/test_new.py::test_it"
    ) in ran.text


def test_the_tolerance_is_the_command_lines_the_ini_files_and_above_all_the_markers() -> None:
    """As in the run: a test's marker wins, and tolerance=False takes it out."""
    energies = {f"t.py::test_{i}": 1.0 for i in range(3)}
    store = FileStore(Path("perf"))
    for day in range(1, 21):
        noise = 1 + (day % 3 - 1) * 0.002
        record(
            store, run(f"d{day}", {k: v * noise for k, v in energies.items()}, created=f"2026-10-{day:02}T10:00:00Z")
        )
    head = dict.fromkeys(energies, 1.07)
    tolerance = {"t.py::test_1": 0.2, "t.py::test_2": False}
    write("head.json", run("s2", head, created=LATER, tolerance=tolerance))
    assert "compared 3 of 3: 1 regression, 2 pass" in carbon("compare", "perf", "head.json").lines
    ran = carbon("compare", "perf", "head.json", "--tolerance", "8%")
    assert ran.ret == 0
    assert "compared 3 of 3: 3 pass" in ran.lines
    assert "a change fails if it exceeds 8%" in ran.text
    Path("pytest.ini").write_text("[pytest]\ncarbon_tolerance = 9%\n")
    assert carbon("compare", "perf", "head.json").ret == 0
    assert carbon("compare", "perf", "head.json", "--tolerance", "2%").ret == 1
    few = carbon("compare", "perf", "head.json", "--tolerance", "2%", "--false-alarms", "0.1%")
    assert "an unchanged suite fails in 1 of 1000 comparisons" in few.text


@pytest.mark.parametrize("wrong", ["5", "much", "-1%", "200%"])
def test_a_share_that_is_none_is_refused(wrong: str) -> None:
    """Before anything is read."""
    ran = carbon("compare", "base.json", "head.json", f"--tolerance={wrong}")
    assert ran.ret == 2
    assert "--tolerance" in ran.err


def test_a_pass_is_blind_where_the_gate_calls_it_blind() -> None:
    """By carbon_max_detectable of the ini file, as in a run; in every form of the report."""
    base()
    write("head.json", run("s2", SUITE, created=LATER))
    assert "blind" not in carbon("compare", "base.json", "head.json").out
    Path("pytest.ini").write_text("[pytest]\ncarbon_max_detectable = 10%\n")
    ran = carbon("compare", "base.json", "head.json")
    assert (ran.ret, ran.text.count("pass (blind)")) == (0, 3)
    assert f"3 of 3 passes are blind: {A}: the smallest detectable change here is" in ran.text
    assert "3 of 3 passes are blind" in carbon("compare", "base.json", "head.json", "--format=markdown").out
    (part,) = json.loads(carbon("compare", "base.json", "head.json", "--format=json").out)["machines"]
    assert [row["blind"] for row in part["measurements"]] == [True] * 3


def test_warnings_of_either_side_leave_a_change_open() -> None:
    """BASE's can explain a change as well as HEAD's, be it a gain or a regression."""
    busy = MeasurementWarning("throttled", "the GPU held its clocks back: thermal.")
    base(
        **{A: replace(measured("s1", 2.0), warnings=(busy,)), B: 2.0, C: replace(measured("s1", 0.5), warnings=(busy,))}
    )
    write("head.json", run("s2", {A: 1.0, B: 2.0, C: 1.0}, created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert "compared 3 of 3: 2 inconclusive, 1 pass" in ran.lines
    assert "inconclusive: tests/test_models.py::test_a: 50% less energy per call" in ran.text
    assert ran.text.count("in BASE, the GPU held its clocks back: thermal") == 2


def test_a_coarse_figure_on_either_side_decides_nothing() -> None:
    """Its own error is larger than the tolerance."""
    base(**{A: replace(measured("s1", 1.0), energy_j_per_call_error=0.2)})
    write("head.json", run("s2", SUITE, created=LATER))
    for pair in (("base.json", "head.json"), ("head.json", "base.json")):
        ran = carbon("compare", *pair)
        assert ran.ret == 0
        assert "compared 3 of 3: 1 inconclusive, 2 pass" in ran.lines
        assert "its own error of ±20% is larger than the tolerance of 5%" in ran.text


def test_the_sessions_of_a_report_are_one_recording() -> None:
    """Their mean is compared."""
    base()
    scores = (SessionScore("s2", 1.4, 0.004), SessionScore("s3", 1.0, 0.004))
    write("head.json", run("s2", SUITE | {A: replace(measured("s2", 1.2), sessions=scores)}, created=LATER))
    ran = carbon("compare", "base.json", "head.json", "--format=json")
    found = json.loads(ran.out)["machines"][0]["measurements"][0]
    assert found["change"] == pytest.approx((1.4 * 1.0) ** 0.5 - 1)
    assert found["head_j_per_call"] == pytest.approx((1.4 * 1.0) ** 0.5)


def test_what_the_whole_suite_shares_is_said_once() -> None:
    """With eight measurements or more, as in the gate."""
    suite = {f"tests/test_m.py::test_{i}": 1.0 for i in range(9)}
    write("base.json", run("s1", suite))
    write("head.json", run("s2", dict.fromkeys(suite, 1.4), created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 1
    assert "the whole suite is 40% up: the machine, or something all tests use compared 9 of 9" in ran.text


# --- a reference workload --------------------------------------------------------------------------

KERNEL = "reference matmul-1"


def beside(result: SessionResult, energy_j: float | None, name: str = KERNEL, **changes: Any) -> SessionResult:
    """A run with what its reference workload took; None: it could not be measured."""
    found = replace(measured(result.session, energy_j), name=name, **changes)
    return replace(result, references=((found, Verdict("pass", "because")),))


def test_a_machine_that_moved_is_not_blamed_on_the_code() -> None:
    """Where both reports have a reference workload it is taken out, as in a run, and what it took is said."""
    write("base.json", beside(run("s1", SUITE), 0.5))
    write("head.json", beside(run("s2", {A: 1.4, B: 2.8, C: 1.0}, created=LATER), 0.7))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 1
    assert ran.lines[6:11] == [
        "per call     BASE     HEAD  change  beyond  detectable  verdict",
        "tests/test_models.py",
        "  test_a   1.00 J   1.40 J  +40.0%   +0.0%        ≥20%  inconclusive",
        "  test_b   2.00 J   2.80 J  +40.0%   +0.0%        ≥20%  inconclusive",
        "  test_c  0.500 J  1.000 J    2.0×  +42.9%        ≥20%  REGRESSION",
    ]
    assert (
        "the machine itself is 40% up (reference workload): heat, clocks, a driver, a neighbour; each test is judged by"
        " what lies beyond that compared 3 of 3: 1 regression, 2 inconclusive reference workload: 500 mJ in BASE, 700"
        " mJ in HEAD (+40.0%); beyond: what each changed beyond that inconclusive: tests/test_models.py::test_a: 40%"
        " more energy per call than the baseline (1.00 J → 1.40 J), and the reference workload is 40% up as well: the"
        " machine, not the code; beside it this takes as much"
    ) in ran.text
    assert "the reference workload is 40% up, and beside it this takes 42.9% more" in ran.text
    write("head.json", run("s2", {A: 1.4, B: 2.8, C: 1.0}, created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert "compared 3 of 3: 3 regressions" in ran.lines
    assert (
        "reference workload: only BASE has one (--carbon-reference), so it cannot tell the machine from the code"
    ) in ran.text


def test_a_small_change_of_the_machine_is_said() -> None:
    """+7% between two reports is within what recordings can differ by; that the machine took as much more stands
    there."""
    write("base.json", beside(run("s1", {A: 1.0}), 0.5))
    write("head.json", beside(run("s2", {A: 1.07}, created=LATER), 0.535))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 0
    assert "test_a 1.00 J 1.07 J +7.0% +0.0% ≥17% inconclusive" in ran.text
    assert ", while the reference workload is at +7.0%; recordings on this machine can differ by as much" in ran.text
    assert "reference workload: 500 mJ in BASE, 535 mJ in HEAD (+7.0%); beyond: what each" in ran.text


def test_the_reference_workload_in_json_and_markdown() -> None:
    """By machine, and what of each change it explains."""
    write("base.json", beside(run("s1", SUITE), 0.5))
    write("head.json", beside(run("s2", {A: 1.4, B: 2.8, C: 0.7}, created=LATER), 0.7))
    ran = carbon("compare", "base.json", "head.json", "--format=json")
    (part,) = json.loads(ran.out)["machines"]
    assert part["machine_moved"].startswith("the machine itself is 40% up")
    assert part["reference"] == {
        "name": KERNEL,
        "base_j_per_call": pytest.approx(0.5),
        "head_j_per_call": pytest.approx(0.7),
        "change": pytest.approx(0.4),
        "detectable_change": pytest.approx(0.17, abs=0.05),
        "why_not": None,
        "warnings": [],
    }
    assert [m["reference_change"] for m in part["measurements"]] == [pytest.approx(0.4)] * 3
    text = carbon("compare", "base.json", "head.json", "--format=markdown").out.replace(NBSP, " ")
    assert "\n\n**the machine itself is 40% up (reference workload): heat, clocks" in text
    assert "| | per call | BASE | HEAD | change | beyond | detectable |\n|:-:|---|--:|--:|--:|--:|--:|\n" in text
    assert f"| ❔ | `{A}` | 1.00 J | 1.40 J | +40.0% | +0.0% | ≥20% |" in text
    assert "\n- reference workload: 500 mJ in BASE, 700 mJ in HEAD (+40.0%); beyond: what each changed" in text
    base()
    write("none.json", run("s3", SUITE, created=LATER))
    (part,) = json.loads(carbon("compare", "base.json", "none.json", "--format=json").out)["machines"]
    assert (part["machine_moved"], part["reference"]) == (None, None)


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (None, (0.7,), "only HEAD has one (--carbon-reference)"),
        ((0.5, "reference matmul-1"), (0.7, "reference matmul-2"), "it is reference matmul-1 in BASE and reference"),
        ((0.5,), (None,), "it could not be measured in HEAD (GPU 0 is lost)"),
        ((None,), (0.7,), "it could not be measured in BASE (GPU 0 is lost)"),
    ],
    ids=["one alone", "another version", "not in HEAD", "not in BASE"],
)
def test_a_reference_workload_that_says_nothing(before: Any, after: Any, why: str) -> None:
    """It is said why; the code is judged as without it."""
    write("base.json", run("s1", SUITE) if before is None else beside(run("s1", SUITE), *before))
    write("head.json", beside(run("s2", SUITE | {A: 1.4}, created=LATER), *after))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 1
    assert "compared 3 of 3: 1 regression, 2 pass" in ran.lines
    assert f"reference workload: {why}" in ran.text
    assert "so it cannot tell the machine from the code" in ran.text
    assert "change detectable" in ran.text
    found = json.loads(carbon("compare", "base.json", "head.json", "--format=json").out)["machines"][0]
    assert found["reference"]["why_not"].startswith(why)
    assert f"reference workload: {why.split(' (')[0]}" in carbon(
        "compare", "base.json", "head.json", "--format=markdown"
    ).out.replace("\\", "")


def test_a_machine_that_moved_during_a_run_is_with_warning() -> None:
    """Of either side."""
    moved = MeasurementWarning("machine-moved", "the machine moved by 9% during this run")
    write("base.json", beside(run("s1", SUITE), 0.5, warnings=(moved,)))
    write("head.json", beside(run("s2", SUITE, created=LATER), 0.5))
    for pair in (("base.json", "head.json"), ("head.json", "base.json")):
        name = "BASE" if pair[0] == "base.json" else "HEAD"
        ran = carbon("compare", *pair)
        assert f"warning: reference workload: in {name}, the machine moved by 9% during this run" in ran.lines


def test_baselines_have_the_reference_workload_of_their_sessions() -> None:
    """As BASE, and as HEAD, where their newest epoch is one recording."""
    energies = [1.0, 1.01, 0.99, 1.005, 0.995]
    for place, by in (("cold", 1.0), ("warm", 1.08)):
        record(FileStore(Path(place)), *(beside(day, 0.5 * by) for day in days([by * each for each in energies])))
    write("head.json", beside(run("s9", {X: 1.08}, created=LATER), 0.54))
    for head in ("head.json", "warm"):
        ran = carbon("compare", "cold", head)
        assert ran.ret == 0
        assert "the machine itself is 8% up (reference workload)" in ran.text
        assert "compared 1 of 1: 1 inconclusive" in ran.lines
        assert "reference workload: 500 mJ in BASE, 540 mJ in HEAD (+8.0%)" in ran.text
    assert carbon("compare", "cold", "warm", "--format=markdown").ret == 0


def test_of_a_whole_suite_the_reference_workload_says_which_it_was() -> None:
    """The machine, or something all tests use."""
    suite = {f"tests/test_m.py::test_{i}": 1.0 for i in range(9)}
    write("base.json", beside(run("s1", suite), 0.5))
    write("head.json", beside(run("s2", dict.fromkeys(suite, 1.4), created=LATER), 0.7))
    ran = carbon("compare", "base.json", "head.json")
    assert "the whole suite is 40% up: the machine, for the reference workload is 40% up as well" in ran.text
    assert "beyond" not in ran.text.partition("compared 9")[0]
    write("head.json", beside(run("s2", dict.fromkeys(suite, 1.4), created=LATER), 0.5))
    ran = carbon("compare", "base.json", "head.json")
    assert "something all tests use, for the reference workload is not (+0.0%)" in ran.text


# --- baselines -----------------------------------------------------------------------------------


@pytest.fixture
def perf() -> FileStore:
    """Five days of one test, in a directory that is called perf."""
    store = FileStore(Path("perf"))
    record(store, *days([1.0, 1.01, 0.99, 1.005, 0.995]))
    return store


X = "tests/test_m.py::test_x"
Y = "tests/test_m.py::test_y"


@pytest.mark.parametrize(
    "place",
    ["perf", f"perf/{HOST.id}", f"perf/{HOST.id}/tests/test_m.py.jsonl", "../{here}/perf"],
    ids=["directory", "machine", "file", "from elsewhere"],
)
def test_a_report_with_baselines(perf: FileStore, place: str) -> None:
    """A directory, a machine's folder in it, a file; and the verdict of the run itself."""
    write("head.json", run("s2", {X: 1.2}, created=LATER))
    ran = carbon("compare", place.format(here=Path.cwd().name), "head.json")
    assert ran.ret == 1
    assert "5 sessions of 2026-11-01 to 2026-11-05, torch 2.13.0" in ran.text
    assert "20% more energy per call than the baseline (1.000 J → 1.200 J)" in ran.text


def test_baselines_with_a_report(perf: FileStore) -> None:
    """HEAD is the newest epoch, one recording of which each day counts the same."""
    write("base.json", run("s2", {X: 0.7}))
    found = json.loads(carbon("compare", "base.json", "perf", "--format", "json").out)
    (row,) = found["machines"][0]["measurements"]
    assert row["head_j_per_call"] == pytest.approx((1.0 * 1.01 * 0.99 * 1.005 * 0.995) ** 0.2)
    assert (row["status"], row["base_recordings"]) == ("regression", 1)


def test_baselines_with_baselines(perf: FileStore) -> None:
    """Of the newest epochs; with themselves nothing changed."""
    assert carbon("compare", "perf", "perf").ret == 0
    other = FileStore(Path("other"))
    record(other, *days([1.0, 1.01, 0.99, 1.005, 0.995]))
    (accepted,) = [r._replace(epoch=LATER) for r in records_of(run("s9", {X: 1.5}, created=LATER))]
    other.append(HOST, [accepted])
    ran = carbon("compare", "perf", "other")
    assert ran.ret == 1
    assert "+50.0%" in ran.out


def records_of(result):  # type: ignore[no-untyped-def]

    return [r for t in result.tests for m, _ in t.measurements for r in decide.records_of(result, t, m)]


def test_a_report_that_is_recorded_already_is_not_its_own_baseline(perf: FileStore) -> None:
    """Its session is left out; where there is no other, there is nothing to compare with."""
    result = run("s2", {X: 1.2}, created=LATER)
    write("head.json", result)
    record(perf, result)
    assert "20% more energy per call" in carbon("compare", "perf", "head.json").text
    record(FileStore(Path("own")), result)
    ran = carbon("compare", "own", "head.json")
    assert ran.ret == 2
    assert ran.err == (
        "pytest-carbon: own and head.json cannot be compared: both are of the same session, the only one in BASE since"
        " the last accepted change. Give reports of two runs, or a baseline that has other sessions, too.\n"
    )


def test_an_accepted_change_is_no_regression_of_its_own_report(perf: FileStore) -> None:
    """After an accept HEAD is not held to what was before; what was not accepted is compared as ever."""
    record(perf, *days([1.0, 1.01, 0.99, 1.005, 0.995], test=Y))
    result = run("s2", {X: 1.5, Y: 1.0}, created=LATER)
    (test, other) = result.tests
    ((measurement, _),) = test.measurements
    regression = replace(test, measurements=((measurement, Verdict("regression", "50% more")),))
    write("head.json", replace(result, tests=(regression, other)))
    assert carbon("compare", "perf", "head.json").ret == 1
    assert "1 accepted as a change, 1 recorded" in carbon("baseline", "accept", "head.json", "--baseline=perf").text
    ran = carbon("compare", "perf", "head.json")
    assert ran.ret == 0
    assert "compared 1 of 2: 1 pass" in ran.lines
    assert f"HEAD's own session is the baseline: {X}" in ran.text


def test_compare_accept_and_show_write_one_figure_alike() -> None:
    """In one unit, with three digits of the smaller."""
    record(FileStore(Path("perf")), *days([0.00987] * 3))
    result = run("s2", {X: 0.0234}, created=LATER)
    (test,) = result.tests
    ((measurement, _),) = test.measurements
    verdict = Verdict("regression", "137% more", baseline_j_per_call=0.00987, change=1.3708)
    write("head.json", replace(result, tests=(replace(test, measurements=((measurement, verdict),)),)))
    compared = carbon("compare", "perf", "head.json").text
    assert "test_x 9.87 mJ 23.40 mJ 2.4×" in compared
    assert "(9.87 mJ → 23.40 mJ)" in compared
    assert "9.87 mJ → 23.40 mJ per call" in carbon("baseline", "accept", "head.json", "--baseline=perf").text
    shown = carbon("baseline", "show", X, "--baseline=perf").text
    assert "9.87 mJ to 23.40 mJ per call" in shown
    assert shown.count("23.40 mJ") == 2


# --- what cannot be compared ---------------------------------------------------------------------


def test_other_machines() -> None:
    """Exit status 2, and what differs."""
    base()
    write("head.json", run("s2", SUITE, created=LATER, machine=CAPPED))
    ran = carbon("compare", "base.json", "head.json")
    assert (ran.ret, ran.out) == (2, "")
    assert ran.err == (
        "pytest-carbon: base.json and head.json cannot be compared: they are of different machines."
        f" HEAD has 3 ({A}, {B} and 1 more) in 1x-nvidia-h100-80gb-hbm3-500w-gpu, and the nearest machine of BASE is"
        " 1x-nvidia-h100-80gb-hbm3-700w-gpu (same GPU, power limit 700 W → 500 W). Give two sides of one machine.\n"
    )


def test_other_gated_domains() -> None:
    """They make another machine: a GPU's joules are not those of a GPU and its host."""
    base()
    both = replace(HOST, id="1x-nvidia-h100-80gb-hbm3-700w-intel-xeon-8c-gpu-cpu", cpu="Intel Xeon")
    write("head.json", run("s2", SUITE, created=LATER, machine=both))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 2
    assert "(same GPU, gpu counted in BASE, gpu + cpu in HEAD)" in ran.err


def test_one_machine_of_two_is_compared() -> None:
    """The other is named beside it."""
    base()
    capped = measured("s2", 1.0, CAPPED)
    write("head.json", run("s2", SUITE | {"tests/test_models.py::test_d": capped}, created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 0
    assert "compared 3 of 3: 3 pass" in ran.lines
    assert (
        "not compared: HEAD has 1 (tests/test_models.py::test_d) in 1x-nvidia-h100-80gb-hbm3-500w-gpu, and the nearest"
        " machine of BASE is 1x-nvidia-h100-80gb-hbm3-700w-gpu (same GPU, power limit 700 W → 500 W)"
    ) in ran.text


def test_another_project() -> None:
    """No test in common: exit status 2, with what each has."""
    base()
    write("head.json", run("s2", {"spec/check.py::it_works": 1.0}, created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 2
    assert ran.err == (
        f"pytest-carbon: base.json and head.json have no measurement in common: BASE has 3 ({A}, {B} and 1 more), and"
        " HEAD has 1 (spec/check.py::it_works). Give two sides of the same project, with the same tests.\n"
    )


def test_everything_was_renamed(perf: FileStore) -> None:
    """No test in common, and a hint at what to do."""
    write("head.json", run("s2", {"tests/test_models.py::test_x": 1.0}, created=LATER))
    ran = carbon("compare", "perf", "head.json")
    assert ran.ret == 2
    assert ran.err.endswith(
        "If tests/test_m.py::test_x is now tests/test_models.py::test_x, measure BASE again with the new names"
        " (pytest-carbon baseline rename OLD NEW).\n"
    )


def test_the_same_report_twice() -> None:
    """A run cannot be compared with itself."""
    base()
    ran = carbon("compare", "base.json", "base.json")
    assert ran.ret == 2
    assert "both are of the same session" in ran.err


def test_nothing_that_was_measured() -> None:
    """What both have failed, or nothing ran."""
    base(**{A: None, B: None, C: None})
    write("head.json", run("s2", SUITE, created=LATER))
    write("empty.json", run("s3", {}, created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 2
    assert "no measurement of both succeeded (tests/test_models.py::test_a, " in ran.err
    for pair in (("head.json", "empty.json"), ("empty.json", "head.json")):
        ran = carbon("compare", *pair)
        assert ran.ret == 2
        assert "nothing was measured in empty.json" in ran.err


def test_files_that_cannot_be_read(perf: FileStore) -> None:
    """Exit status 4, the file and the remedy."""
    Path("cut.json").write_text(base().read_text().rpartition('"verdict"')[0])
    Path("none").mkdir()
    stored = Path(f"perf/{HOST.id}/tests/test_m.py.jsonl")
    stored.write_text(stored.read_text() + "<<<<<<< HEAD\n")
    for place, says in {
        "gone.json": "gone.json: cannot be read (No such file or directory)",
        "nowhere": "nowhere: there is no such file or directory. Give a report of --carbon-json, a directory of",
        "cut.json": "cut.json: the file ends in the middle of a report",
        "none": "none: there are no baselines in it",
        "perf": f"{stored}, line 7: a merge conflict was left here",
        str(stored): f"{stored}, line 7: a merge conflict was left here",
    }.items():
        for pair in ((place, "base.json"), ("base.json", place)):
            ran = carbon("compare", *pair)
            assert (ran.ret, ran.out) == (4, "")
            assert ran.err.startswith(f"pytest-carbon: {says}"), ran.err


# --- what else differs ---------------------------------------------------------------------------


def test_another_version_another_meter_a_clock_that_ran_backwards() -> None:
    """Comparable, and said."""
    base()
    newer = replace(HOST, pytest_carbon="0.3.0")
    head = {key: measured("s2", energy_j, source="a trace") for key, energy_j in SUITE.items()}
    write("head.json", run("s2", head, created="2026-11-19T10:00:00Z", machine=newer))
    ran = carbon("compare", "base.json", "head.json")
    assert ran.ret == 0
    assert (
        "BASE was measured by pytest-carbon 0.1.0, HEAD by 0.3.0: if the two measure differently, the change includes"
        " that"
    ) in ran.text
    assert "gpu:0 was counted by a counter in BASE, by a trace in HEAD: two meters may differ" in ran.text
    assert (
        "HEAD is from 2026-11-19T10:00:00Z, and BASE has later figures, from 2026-11-20T10:00:00Z: are the two swapped,"
        " or was a clock wrong?"
    ) in ran.text


# --- formats -------------------------------------------------------------------------------------


def test_json() -> None:
    """Everything, in SI units; what is unknown is null."""
    base()
    write("head.json", run("s2", {A: 1.5, B: None}, created=LATER))
    ran = carbon("compare", "base.json", "head.json", "--format=json")
    assert ran.ret == 1
    found = json.loads(ran.out, parse_constant=pytest.fail)
    assert found["format"] == "pytest-carbon-comparison/1"
    assert (found["exit_status"], found["tolerance"], found["false_alarm_rate"]) == (1, 0.05, 0.01)
    assert found["base"] == {
        "place": "base.json",
        "kind": "report",
        "session": "s1",
        "created": "2026-11-20T10:00:00Z",
        "commit": "1a2b3c4d5e6f",
        "branch": "main",
        "dirty": False,
        "pytest_carbon": "0.1.0",
    }
    (part,) = found["machines"]
    first, second = part["measurements"]
    assert (first["test"], first["name"], first["status"]) == (A, "call", "regression")
    assert (first["base_j_per_call"], first["head_j_per_call"]) == (pytest.approx(1.0), pytest.approx(1.5))
    assert first["change"] == pytest.approx(0.5)
    assert (second["status"], second["head_j_per_call"], second["change"]) == ("error", None, None)
    assert part["only_in_base"] == [{"test": C, "name": "call"}]


def test_markdown() -> None:
    """A comment on a pull request: what changed in sight, what passes folded, ids that cannot break it."""
    odd = "tests/test_m.py::test_x[a|b*`c`<d>]"
    cell = "`tests/test_m.py::test_x[a`&#124;``b*`c`<d>]``"
    write("base.json", run("s1", SUITE | {odd: 1.0}))
    write("head.json", run("s2", SUITE | {A: 1.5, odd: 2.0}, created=LATER))
    ran = carbon("compare", "base.json", "head.json", "--format=markdown")
    assert ran.ret == 1
    lines = ran.out.replace(NBSP, " ").splitlines()
    assert lines[0] == "<!-- pytest-carbon:report -->"
    assert lines[1] == f"### ❌ Energy per call: 2 regressions, 2 pass; largest change 2.0×: {cell}"
    assert "| | per call | BASE | HEAD | change | detectable |" in lines
    assert f"| ❌ | `{A}` | 1.00 J | 1.50 J | **+50.0%** | ≥20% |" in lines
    assert f"| ❌ | {cell} | 1.00 J | 2.00 J | **2.0×** | ≥20% |" in lines
    assert "<details><summary>2 pass</summary>" in lines
    assert f"| | `{B}` | 2.00 J | 2.00 J | +0.0% | ≥20% |" in lines
    assert any(line.startswith(f"- regression: `{A}`: 50% more energy per call than the baseline") for line in lines)
    write("same.json", run("s3", SUITE | {odd: 1.0}, created=LATER))
    same = carbon("compare", "base.json", "same.json", "--format=markdown")
    assert same.lines[1] == "### Energy per call: no regression: 4 pass"
    assert "❌" not in same.out


def test_markdown_has_the_page_and_the_command(tmp_path: Path) -> None:
    """The command that accepts is there for what can be accepted: a report's changes, into the baselines of BASE."""
    page = "--report-url=https://x.org/carbon.html"
    record(FileStore(tmp_path / "kept"), run("s1", SUITE))
    base()
    write("head.json", run("s2", SUITE | {A: 1.5}, created=LATER))
    for before, place in (("base.json", ""), ("kept", " --baseline=kept"), (f"kept/{HOST.id}", "")):
        lines = carbon("compare", before, "head.json", "--format=markdown", page).lines
        assert lines[1].startswith("### ❌ Energy per call: ")
        assert lines[3] == "[Open the whole report](<https://x.org/carbon.html>)"
        assert lines[-3:] == ["```sh", f"pytest-carbon baseline accept head.json{place}", "```"]
    write("same.json", run("s3", SUITE, created=LATER))
    assert "accept" not in carbon("compare", "base.json", "same.json", "--format=markdown").out
    assert carbon("compare", "base.json", "head.json", "--report-url=x").ret == 2


def test_work_that_passes_hides_no_energy_that_cannot_be_compared() -> None:
    """The work of both can be compared, and their energies cannot: exit status 2; 1 if there is more work, too."""
    same, more = (
        Counted("call", builders.work(flops=flops), WorkVerdict("new", "stored")) for flops in (2_000_000, 4_000_000)
    )

    def with_count(result: SessionResult, counted: Counted) -> SessionResult:
        return replace(result, tests=tuple(replace(test, counted=(counted,)) for test in result.tests))

    write("base.json", with_count(run("s1", SUITE), same))
    for head, counted, status in (("lost", same, 2), ("other", same, 2), ("lost", more, 1)):
        joules: Any = dict.fromkeys(SUITE) if head == "lost" else SUITE
        machine = CAPPED if head == "other" else HOST
        write("head.json", with_count(run("s2", joules, machine=machine, created=LATER), counted))
        ran = carbon("compare", "base.json", "head.json")
        assert (ran.ret, "cannot be compared" in ran.text, "work counted" in ran.text) == (status, True, True)
        document = json.loads(carbon("compare", "base.json", "head.json", "--format=json").out)
        assert document["exit_status"] == status


def test_a_long_table_shows_what_matters() -> None:
    """What passes is counted, and listed with -v; ids that are too long stand under their module."""
    long = {f"tests/a/long/path/test_m.py::test_of_a_name_that_goes_on[{i:03}]": 1.0 + i / 1000 for i in range(60)}
    write("base.json", run("s1", long))
    write("head.json", run("s2", long | {next(iter(long)): 3.0}, created=LATER))
    ran = carbon("compare", "base.json", "head.json")
    assert len(ran.lines) < 25
    assert "59 pass (change +0.0% to +0.0%), 59 of them blind: listed with -v" in ran.lines
    everything = carbon("compare", "base.json", "head.json", "-v")
    assert len(everything.lines) > 70
    assert "tests/a/long/path/test_m.py" in everything.lines
    assert max(map(columns, everything.lines)) <= 80


def test_real_reports(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As `pytest --carbon --carbon-json` writes them: a change of the code is found."""
    pytester.makepyfile(
        test_it="import os\nimport pytest\nfrom battery import draw\n\n@pytest.mark.carbon_budget\n"
        "def test_it():\n    draw(float(os.environ['JOULES']))\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pytester.path)
        for name, joules in (("base", "2"), ("same", "2.02"), ("dear", "4")):
            patch.setenv("JOULES", joules)
            assert run_carbon().ret == 0
            Path("report.json").rename(f"{name}.json")
        assert carbon("compare", "base.json", "same.json").ret == 0
        ran = carbon("compare", "base.json", "dear.json")
    assert ran.ret == 1
    assert "2.0× the energy per call of the baseline (2.00 J → 4.00 J)" in ran.text


def test_no_name_of_a_measurement_is_lost() -> None:
    """Several of one test are several rows."""
    both = [replace(measured("s1", energy_j), name=name) for name, energy_j in (("prefill", 1.0), ("decode", 2.0))]
    result = run("s1", {A: 1.0})
    verdict = result.tests[0].measurements[0][1]

    def with_both(session: str, found: list[Measurement]):  # type: ignore[no-untyped-def]
        scored = [replace(m, sessions=(replace(m.sessions[0], session=session),)) for m in found]
        test = replace(result.tests[0], measurements=tuple((m, verdict) for m in scored))
        return replace(result, session=session, tests=(test,))

    write("base.json", with_both("s1", both))
    write("head.json", with_both("s2", both))
    ran = carbon("compare", "base.json", "head.json")
    assert "compared 2 of 2: 2 pass" in ran.lines
    assert [name for line in ran.lines for name in line.split()[:1] if name in ("prefill", "decode")] == [
        "prefill",
        "decode",
    ]
