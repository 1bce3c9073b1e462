"""The JSON report: its keys, what it never holds, reading it back, accepting from it."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import reportschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_carbon.baselines import open_store
from pytest_carbon.host.stdlib import os
from pytest_carbon.plugin import record
from pytest_carbon.records import (
    INFORMS,
    BaselineError,
    CarbonIntensity,
    Domain,
    DomainEnergy,
    Factors,
    Gpu,
    Kind,
    Machine,
    Measurement,
    MeasurementWarning,
    Round,
    Served,
    SessionResult,
    SessionScore,
    Spread,
    Status,
    SuiteVerdict,
    TaskInfo,
    TestResult,
    Unmeasured,
    UsageProblem,
    Verdict,
)
from pytest_carbon.reports import jsonfile

HOST = Machine(
    "1x-nvidia-h100-80gb-hbm3-700w-gpu",
    (Gpu(0, "GPU-1234", "NVIDIA H100 80GB HBM3", 700.0, 85_899_345_920),),
    cpu="Intel Xeon Platinum 8480C",
    cpu_count=224,
    driver="580.65.06",
    torch="2.13.0",
    python="3.11.9",
    pytest_carbon="0.1.0",
    boot="b0",
)
CALL = Measurement(
    name="call",
    machine=HOST.id,
    calls=240,
    duration_s_per_call=0.0041,
    energy_j_per_call=1.21,
    energy_j_per_call_error=0.01,
    energy_j_per_call_mean=1.22,
    tail_j=0.8,
    after_work_j=84.8,
    after_work_s=1.8,
    temperature_c=45.0,
    gpus=("GPU-1234",),
    emissions_g_per_call=0.00012,
    gated=("gpu:0",),
    domains=(DomainEnergy(Domain("gpu:0", "measured", "nvml total energy"), 1.21, 295.0, 70.1),),
    rounds=(Round(48, 0.197),),
    sessions=(SessionScore("now", 1.2, 0.004),),
    warnings=(MeasurementWarning("tail", "the tail is 6% of the window"),),
)
SLOWER = Verdict(
    "regression",
    "it takes 8% more",
    baseline_j_per_call=1.12,
    baseline_recordings=5,
    baseline_sessions=9,
    change=0.08,
    detectable_change=0.07,
    duration_change=0.09,
    power_change=-0.01,
    limit_j_per_call=2.5,
)
RUN = SessionResult(
    session="now",
    created="2026-11-22T10:00:00Z",
    duration_s=12.3,
    exit_status=1,
    machine=HOST,
    intensity=CarbonIntensity(369.5, 1.0, "Our World in Data, Ember", 2023),
    suite=SuiteVerdict(12, 11, 0.01, 0.004),
    tests=(
        TestResult("tests/test_m.py::test_x[fp16]", "failed", ((CALL, SLOWER),), "passed", (), "tests/test_m.py", 12),
    ),
    cost_energy_j=360.0,
    commit="c0ffee",
    branch="main",
    dirty=False,
    unmeasured=(Unmeasured("tests/test_m.py::test_x", "decode", "a-gpu", "the test was skipped"),),
    notes=("a note",),
)


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    return str(error.value)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(result: SessionResult) -> dict[str, Any]:
    jsonfile.write(result, Path("report.json"))
    found: dict[str, Any] = json.loads(Path("report.json").read_text(), parse_constant=pytest.fail)
    reportschema.check(found)
    return found


# --- writing -------------------------------------------------------------------------------------


def test_a_report_has_these_keys() -> None:
    """The published format, whole."""
    assert written(RUN) == {
        "format": "pytest-carbon/1",
        "session": "now",
        "created": "2026-11-22T10:00:00Z",
        "duration_s": 12.3,
        "exit_status": 1,
        "commit": "c0ffee",
        "branch": "main",
        "dirty": False,
        "labels": None,
        "against": None,
        "shard": None,
        "project": [],
        "machine": {
            "id": "1x-nvidia-h100-80gb-hbm3-700w-gpu",
            "gpus": [
                {
                    "index": 0,
                    "uuid": "GPU-1234",
                    "name": "NVIDIA H100 80GB HBM3",
                    "power_limit_w": 700.0,
                    "memory_bytes": 85_899_345_920,
                }
            ],
            "cpu": "Intel Xeon Platinum 8480C",
            "cpu_count": 224,
            "driver": "580.65.06",
            "torch": "2.13.0",
            "python": "3.11.9",
            "pytest_carbon": "0.1.0",
            "boot": "b0",
        },
        "carbon": {"intensity_g_per_kwh": 369.5, "pue": 1.0, "source": "Our World in Data, Ember", "year": 2023},
        "cost_of_measuring": {"energy_j": 360.0, "emissions_g": pytest.approx(0.03695)},
        "suite": {
            "gated": 12,
            "compared": 11,
            "median_change": 0.004,
            "false_alarm_rate": 0.01,
            "status": "pass",
            "reason": None,
            "effect": "none",
            "machine_moved": None,
        },
        "other_machines": [],
        "references": [],
        "unmeasured": [
            {"test": "tests/test_m.py::test_x", "name": "decode", "machine": "a-gpu", "why": "the test was skipped"}
        ],
        "incomplete": False,
        "notes": ["a note"],
        "tests": [
            {
                "nodeid": "tests/test_m.py::test_x[fp16]",
                "file": "tests/test_m.py",
                "line": 12,
                "outcome": "failed",
                "functional_outcome": "passed",
                "measurements": [
                    {
                        "name": "call",
                        "machine": "1x-nvidia-h100-80gb-hbm3-700w-gpu",
                        "calls": 240,
                        "duration_s_per_call": 0.0041,
                        "energy_j_per_call": 1.21,
                        "energy_j_per_call_error": 0.01,
                        "energy_j_per_call_mean": 1.22,
                        "tail_j": 0.8,
                        "after_work_j": 84.8,
                        "after_work_s": 1.8,
                        "temperature_c": 45.0,
                        "factors": None,
                        "served": None,
                        "gpus": ["GPU-1234"],
                        "emissions_g_per_call": 0.00012,
                        "gated": ["gpu:0"],
                        "domains": [
                            {
                                "domain": "gpu:0",
                                "kind": "measured",
                                "source": "nvml total energy",
                                "energy_j_per_call": 1.21,
                                "mean_power_w": 295.0,
                                "idle_power_w": 70.1,
                            }
                        ],
                        "rounds": [{"calls": 48, "duration_s": 0.197}],
                        "sessions": [{"session": "now", "energy_j_per_call": 1.2, "duration_s_per_call": 0.004}],
                        "warnings": [{"code": "tail", "text": "the tail is 6% of the window", "disqualifies": False}],
                        "failure": None,
                        "task": None,
                        "emissions_g_per_million_tokens": None,
                        "million_tokens_are": None,
                        "file": "tests/test_m.py",
                        "line": 12,
                        "verdict": {
                            "status": "regression",
                            "baseline_j_per_call": 1.12,
                            "baseline_recordings": 5,
                            "baseline_sessions": 9,
                            "change": 0.08,
                            "duration_change": 0.09,
                            "power_change": -0.01,
                            "detectable_change": 0.07,
                            "limit_j_per_call": 2.5,
                            "tolerance": None,
                            "p_value": None,
                            "first_change": None,
                            "base_sessions": [],
                            "reference_change": None,
                            "machine_moved": False,
                            "suite_moved": False,
                            "blind": False,
                            "effect": "none",
                            "reason": "it takes 8% more",
                        },
                        "work": None,
                    }
                ],
            }
        ],
    }


TASK = TaskInfo(
    name="image-captioning",
    model="microsoft/git-base",
    dataset="coco",
    weights="random",
    data="synthetic",
    dtype="fp16",
    device="cuda",
    batch_size=2,
    size="study",
    tokens_out=40.0,
    images=2.0,
    preparation_s=0.012,
    new_tokens=20,
    steps=50,
    width=640,
    height=480,
)


def test_a_measurement_says_what_task_it_is_of() -> None:
    """All of it; what means nothing for a task is null."""
    tests = (replace(RUN.tests[0], measurements=((replace(CALL, task=TASK), SLOWER),)),)
    report = written(replace(RUN, tests=tests))
    assert report["tests"][0]["measurements"][0]["task"] == {
        "name": "image-captioning",
        "model": "microsoft/git-base",
        "dataset": "coco",
        "weights": "random",
        "data": "synthetic",
        "dtype": "fp16",
        "device": "cuda",
        "batch_size": 2,
        "size": "study",
        "tokens_in": None,
        "tokens_out": 40.0,
        "images": 2.0,
        "seconds_audio": None,
        "preparation_s": 0.012,
        "new_tokens": 20,
        "steps": 50,
        "width": 640,
        "height": 480,
    }
    assert jsonfile.read(Path("report.json")).tests == tests


def test_what_is_unknown_is_null_never_zero() -> None:
    """A measurement that failed has no figures; a run of which nothing is known has none either."""
    failed = Measurement("call", HOST.id, failure="the GPU is lost")
    nothing = SessionResult(
        "now",
        "2026-11-22T10:00:00Z",
        0.1,
        1,
        Machine("a-cpu"),
        CarbonIntensity(475.0, 1.0, "given", None),
        SuiteVerdict(0, 0, 0.01),
        (TestResult("a.py::t", "failed", ((failed, Verdict("error", "the GPU is lost")),)),),
    )
    report = written(nothing)
    found = report["tests"][0]["measurements"][0]
    unknown = (
        *("duration_s_per_call", "energy_j_per_call", "energy_j_per_call_error", "tail_j", "emissions_g_per_call"),
        *("after_work_j", "after_work_s", "temperature_c"),
    )
    assert {key: found[key] for key in unknown} == dict.fromkeys(unknown)
    assert report["cost_of_measuring"] == {"energy_j": None, "emissions_g": None}
    assert report["machine"] == dict.fromkeys(report["machine"]) | {"id": "a-cpu", "gpus": []}
    assert (report["commit"], report["dirty"], report["carbon"]["year"]) == (None, None, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_null(value: float) -> None:
    """One figure that is not finite costs neither the report nor anybody's JSON parser."""
    verdict = replace(SLOWER, detectable_change=value)
    report = written(replace(RUN, tests=(replace(RUN.tests[0], measurements=((CALL, verdict),)),)))
    assert report["tests"][0]["measurements"][0]["verdict"]["detectable_change"] is None


def test_figures_are_not_rounded() -> None:
    """Every digit is there."""
    report = written(replace(RUN, duration_s=0.1 + 0.2, cost_energy_j=1e-300))
    assert report["duration_s"] == 0.30000000000000004
    assert report["cost_of_measuring"]["energy_j"] == 1e-300


def test_there_is_one_test_a_line() -> None:
    """So that a person can search in it, and two reports can be compared."""
    jsonfile.write(replace(RUN, tests=RUN.tests * 3), Path("report.json"))
    lines = Path("report.json").read_text().splitlines()
    assert len(lines) == 5
    assert lines[-1] == "]}"
    assert json.loads(lines[1].rstrip(","))["nodeid"] == "tests/test_m.py::test_x[fp16]"
    assert written(replace(RUN, tests=()))["tests"] == []


def test_its_folder_is_made() -> None:
    """A path in a folder that does not exist yet is no mistake; a link is written through."""
    jsonfile.write(RUN, Path("build/reports/carbon.json"))
    Path("latest.json").symlink_to("build/reports/carbon.json")
    jsonfile.write(replace(RUN, session="later"), Path("latest.json"))
    assert Path("latest.json").is_symlink()
    assert jsonfile.read(Path("build/reports/carbon.json")).session == "later"
    assert [path.name for path in Path("build/reports").iterdir()] == ["carbon.json"]


def test_a_directory_is_refused() -> None:
    """It says what to give instead."""
    Path("reports").mkdir()
    with pytest.raises(UsageProblem) as error:
        jsonfile.write(RUN, Path("reports"))
    assert message(error) == "cannot write reports: this is a directory; write the path of a file."


def test_a_place_that_cannot_be_written_is_said() -> None:
    """It says which, why, and what to do."""
    Path("file").write_text("")
    with pytest.raises(UsageProblem) as error:
        jsonfile.write(RUN, Path("file/report.json"))
    assert message(error) == ("cannot write file/report.json: Not a directory; write the path of another file.")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
def test_a_full_disk_wants_room_there() -> None:
    """And no other folder: the right to write is there."""
    with pytest.raises(UsageProblem) as error:
        jsonfile.write(RUN, Path("/dev/full"))
    assert message(error) == "cannot write /dev/full: No space left on device. Make room there."


def test_an_interrupted_report_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a report never stands in its place, and nothing is left behind."""
    written(RUN)

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jsonfile.write(replace(RUN, session="later"), Path("report.json"))
    assert jsonfile.read(Path("report.json")).session == "now"
    assert [path.name for path in Path().iterdir()] == ["report.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to() -> None:
    """``/dev/stdout``, or a pipe that somebody reads, is not replaced by a file."""
    os.mkfifo("pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_text()), daemon=True)
    reader.start()
    jsonfile.write(RUN, Path("pipe"))
    reader.join(timeout=10)
    assert json.loads(read[0])["session"] == "now"
    assert Path("pipe").is_fifo()


# --- reading -------------------------------------------------------------------------------------


def test_a_report_is_read_as_it_was_written() -> None:
    """Everything but the settings comes back."""
    written(RUN)
    assert jsonfile.read(Path("report.json")) == RUN


texts = st.text(max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**12)
times = st.just("2026-11-22T10:00:00Z")
maybe_text, maybe_number, maybe_count = st.none() | texts, st.none() | numbers, st.none() | counts


def some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=3).map(tuple)


domain_energies = st.builds(
    DomainEnergy, st.builds(Domain, texts, st.sampled_from(get_args(Kind)), texts), numbers, numbers, maybe_number
)
factors = st.builds(Factors, numbers, numbers, texts, numbers)
spreads = st.builds(Spread, st.floats(0, 1e6), st.floats(0, 1e6))
amounts = st.floats(0, 1e12)
served = st.builds(
    Served,
    *(st.integers(1, 10**6), counts, amounts, amounts, amounts, spreads, *[st.none() | amounts] * 4),
    *[st.none() | spreads] * 2,
)
measurements = st.builds(
    Measurement,
    *(texts, texts, counts, maybe_number, st.none() | st.floats(1e-12, 1e12), *[maybe_number] * 6),
    *(some(texts), maybe_number, some(texts), some(domain_energies)),
    some(st.builds(Round, counts, numbers)),
    some(st.builds(SessionScore, texts, numbers, numbers)),
    some(
        st.builds(MeasurementWarning, texts, texts, st.booleans())
        | st.builds(MeasurementWarning, st.sampled_from(sorted(INFORMS)), texts)
    ),
    maybe_text,
    st.none()
    | st.builds(
        TaskInfo,
        *(texts, texts, maybe_text, st.sampled_from(["hub", "random", "own"])),
        *(st.sampled_from(["hub", "synthetic", "given"]), maybe_text, maybe_text, counts),
        *(st.sampled_from(["study", "small", None]), *[maybe_number] * 5),
    ),
    factors=st.none() | factors,
    served=st.none() | served,
)
verdicts = st.builds(
    Verdict,
    *(st.sampled_from(get_args(Status)), texts, maybe_number, counts, counts, *[maybe_number] * 5),
    tolerance=st.none() | st.just(False) | st.floats(0, 10),
    blind=st.booleans(),
)
files = st.lists(st.text(min_size=1).filter(lambda part: part != ".."), min_size=1, max_size=3).map("/".join)
tests = st.builds(
    TestResult,
    *(texts, st.just("failed"), some(st.tuples(measurements, verdicts)), st.none() | st.just("passed")),
    file=st.none() | files.filter(lambda file: file[0] != "/" and ".." not in file.split("/")),
    line=st.none() | st.integers(1, 10**6),
)
gpus = st.builds(Gpu, counts, texts, texts, maybe_number, maybe_count)
machines = st.builds(Machine, texts, some(gpus), maybe_text, maybe_count, *[maybe_text] * 5)
moves = st.sampled_from(["pass", "regression", "improvement"])
effects = st.sampled_from(["none", "warns", "fails", "accepted"])
suites = st.builds(SuiteVerdict, counts, counts, numbers, maybe_number, moves, maybe_text, effect=effects)
runs = st.builds(
    SessionResult,
    session=texts,
    created=times,
    duration_s=numbers,
    exit_status=counts,
    machine=machines,
    intensity=st.builds(CarbonIntensity, st.floats(0, 2000), st.floats(1, 3), texts, maybe_count),
    suite=suites,
    others=some(st.tuples(machines, suites)),
    tests=some(tests),
    cost_energy_j=maybe_number,
    commit=maybe_text,
    branch=maybe_text,
    dirty=st.none() | st.booleans(),
    settings=st.just(RUN.settings),
    notes=some(texts),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(runs)
def test_every_run_comes_back(tmp_path: Path, result: SessionResult) -> None:
    """Whatever texts and figures it holds, bit for bit; a parser that knows no NaN reads it, too."""
    path = tmp_path / "report.json"
    jsonfile.write(result, path)
    reportschema.check(json.loads(path.read_text(), parse_constant=pytest.fail))
    assert jsonfile.read(path) == result


AS_WRITTEN = "Give the file that pytest --carbon --carbon-json wrote, as it wrote it."
OTHER_VERSION = "Another version of pytest-carbon wrote it: use that version, or write the file again with this one."


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "", f"the file is empty. {AS_WRITTEN}"),
        (lambda text: text[:-320], f"the file ends in the middle of a report, in line 2. {AS_WRITTEN}"),
        (lambda text: text[:9], f"the file ends in the middle of a report, in line 1. {AS_WRITTEN}"),
        (lambda text: "hello", f"not JSON (Expecting value, column 1). {AS_WRITTEN}"),
        (lambda text: text + "{}", f"more than one JSON value (line 4, column 1). {AS_WRITTEN}"),
        (
            lambda text: '{"format": "pytest-carbon/1", "x": ' + "[" * 100_000 + "}",
            f"not JSON of a report (nested too deeply). {AS_WRITTEN}",
        ),
        (
            lambda text: "[" * 100_000,
            f"not a report: it begins with '{'[' * 40}', and names no format. {AS_WRITTEN}",
        ),
        (lambda text: "[]", f"it must be an object, as a report is, not []. {AS_WRITTEN}"),
        (lambda text: "7", f"it must be an object, as a report is, not 7. {AS_WRITTEN}"),
        (lambda text: "{}", f"it names no format, and must name 'pytest-carbon/1'. {AS_WRITTEN}"),
        (lambda text: '{"format": "pytest-carbon/1"}', f"this report has no session. {OTHER_VERSION}"),
        (
            lambda text: text.replace("pytest-carbon/1", "pytest-carbon-baseline/1"),
            f"the format is 'pytest-carbon-baseline/1', not 'pytest-carbon/1'. {AS_WRITTEN}",
        ),
        (
            lambda text: text.replace("pytest-carbon/1", "pytest-carbon/2"),
            f"written in the format 'pytest-carbon/2', and this version reads 'pytest-carbon/1'. {OTHER_VERSION}",
        ),
        (lambda text: text.replace("295.0", "NaN"), f"line 2: NaN is not a finite number. {AS_WRITTEN}"),
        (
            lambda text: text.replace('"energy_j_per_call": 1.21', '"energy_j_per_call": -1.21', 1),
            f"tests[0].measurements[0].energy_j_per_call must be above 0, or null, not -1.21. {AS_WRITTEN}",
        ),
        (
            lambda text: text.replace("295.0", "1e999"),
            f"tests[0].measurements[0].domains[0].mean_power_w must be a number, not Infinity. {AS_WRITTEN}",
        ),
        (
            lambda text: text.replace('"regression"', '"great"'),
            "tests[0].measurements[0].verdict.status must be one of error, over-budget, regression, inconclusive, "
            f'improvement, new, pass, not "great". {AS_WRITTEN}',
        ),
        (
            lambda text: text.replace('"measured"', '["measured"]'),
            'tests[0].measurements[0].domains[0].kind must be one of measured, estimated, not ["measured"]. '
            + AS_WRITTEN,
        ),
        (
            lambda text: text.replace('"dirty": false', '"dirty": 0'),
            f"dirty must be true or false or null, not 0. {AS_WRITTEN}",
        ),
        (
            lambda text: text.replace('"disqualifies": false', '"disqualifies": null'),
            f"tests[0].measurements[0].warnings[0].disqualifies must be true or false, not null. {AS_WRITTEN}",
        ),
        (
            lambda text: text.replace('"disqualifies": false', '"disqualifies": true'),
            f'a warning "tail" never disqualifies a figure, and here it does. {AS_WRITTEN}',
        ),
        (
            lambda text: text.replace('"gpus": ["GPU-1234"]', '"gpus": "GPU-1234"'),
            f'tests[0].measurements[0].gpus must be a list, not "GPU-1234". {AS_WRITTEN}',
        ),
        (
            lambda text: text.replace('"temperature_c": 45.0', '"temperature_c": "45"'),
            f'tests[0].measurements[0].temperature_c must be a number or null, not "45". {AS_WRITTEN}',
        ),
        (
            lambda text: text.replace('"blind": false', '"blind": null'),
            f"tests[0].measurements[0].verdict.blind must be true or false, not null. {AS_WRITTEN}",
        ),
        *(
            (
                lambda text, wrong=wrong: text.replace('"tolerance": null', f'"tolerance": {wrong}'),
                f"tests[0].measurements[0].verdict.tolerance must be a share, false or null, not {wrong}. {AS_WRITTEN}",
            )
            for wrong in ("true", "-0.1", '"5%"')
        ),
        (
            lambda text: text.replace('"task": null', '"task": {"name": "x"}'),
            f"this report has no tests[0].measurements[0].task.model. {OTHER_VERSION}",
        ),
        (
            lambda text: text.replace('"calls": 240', '"calls": -1'),
            f"tests[0].measurements[0].calls must be a count, not -1. {AS_WRITTEN}",
        ),
        *(
            (
                lambda text, wrong=wrong: text.replace('"file": "tests/test_m.py"', f'"file": {wrong}'),
                f"tests[0].file must be a path below the top of the repository, or null, not {wrong}. {AS_WRITTEN}",
            )
            for wrong in ('"/etc/passwd"', '"../x.py"', '"a/../../x.py"', '""', "7")
        ),
        *(
            (
                lambda text, wrong=wrong: text.replace('"line": 12', f'"line": {wrong}'),
                f"tests[0].line must be a line from 1, or null, not {wrong}. {AS_WRITTEN}",
            )
            for wrong in ("0", "-1", "1.5", "true", '"12"')
        ),
        (
            lambda text: text.replace("10:00:00Z", "10:00"),
            f"created must be a UTC time such as '2026-11-22T10:00:00Z', not \"2026-11-22T10:00\". {AS_WRITTEN}",
        ),
        (
            lambda text: text.replace('"rounds": [', '"rounds": ["48", '),
            f'tests[0].measurements[0].rounds[0] must be an object, not "48". {AS_WRITTEN}',
        ),
        (
            lambda text: text.replace('"notes": ["a note"]', '"notes": [1]'),
            f"notes[0] must be a text, not 1. {AS_WRITTEN}",
        ),
        (
            lambda text: text.replace('"session": "now", "created"', f'"session": [{"7, " * 50}7], "created"'),
            f"session must be a text, not [{'7, ' * 18}7,.... {AS_WRITTEN}",
        ),
    ],
)
def test_what_is_no_report_is_refused(change: Any, says: str) -> None:
    """The place, the value, what is allowed, and what to give instead."""
    written(RUN)
    text = Path("report.json").read_text()
    Path("report.json").write_text(change(text))
    assert Path("report.json").read_text() != text
    with pytest.raises(UsageProblem) as error:
        jsonfile.read(Path("report.json"))
    assert message(error) == f"report.json: {says}"


def test_a_report_that_is_not_there_is_said() -> None:
    """As is one that is not text."""
    with pytest.raises(UsageProblem) as error:
        jsonfile.read(Path("nowhere.json"))
    assert message(error) == f"nowhere.json: cannot be read (No such file or directory). {AS_WRITTEN}"
    Path("image.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(UsageProblem) as error:
        jsonfile.read(Path("image.png"))
    assert message(error) == f"image.png: not UTF-8 text, so not a report. {AS_WRITTEN}"


# --- accepting -----------------------------------------------------------------------------------


def accepted(result: SessionResult) -> list[str]:
    jsonfile.write(result, Path("report.json"))
    return record.accept(jsonfile.read(Path("report.json")), open_store("carbon-baselines"), Path("report.json"))


def a_test(name: str, status: Status, **changes: Any) -> TestResult:
    verdict = replace(SLOWER, status=status)
    outcome = "failed" if verdict.failed else "passed"
    return TestResult(f"tests/test_m.py::{name}", outcome, ((replace(CALL, **changes), verdict),), "passed")


def test_each_machine_of_a_report_is_stored_as_what_it_is() -> None:
    """A second GPU that a test opened is among the GPUs of that test's baseline only."""
    two = replace(HOST, id="2x-nvidia-h100-80gb-hbm3-700w-gpu", gpus=(*HOST.gpus, Gpu(1, "GPU-5678", "NVIDIA H100")))
    tests = (a_test("one", "pass"), a_test("two", "pass", machine=two.id))
    accepted(replace(RUN, tests=tests, others=((two, SuiteVerdict(1, 1, 0.01)),)))
    (header,) = [p.read_text().splitlines()[0] for p in Path("carbon-baselines", two.id).rglob("*.jsonl")]
    assert '{"name": "NVIDIA H100", "power_limit_w": null}' in header


def test_accepting_a_report_does_what_the_flag_does() -> None:
    """The change begins an epoch, what passed is recorded, the rest is named with its reason."""
    assert accepted(
        replace(
            RUN,
            tests=(
                a_test("slower", "regression"),
                a_test("fine", "pass"),
                a_test("same", "pass"),
                a_test("dear", "over-budget"),
                a_test("unsure", "new", warnings=(MeasurementWarning("unquiet", "it was not quiet"),)),
            ),
        )
    ) == [
        "tests/test_m.py::slower (call): regression accepted, 1.12 J → 1.21 J per call (+8.0%).",
        "tests/test_m.py::dear (call): not recorded: it is over its budget, which no flag lifts; "
        "change the budget or the code.",
        "tests/test_m.py::unsure (call): not recorded: a figure with a disqualifying warning (unquiet) is "
        "neither recorded nor accepted.",
        "1x-nvidia-h100-80gb-hbm3-700w-gpu: 1 accepted as a change, 2 recorded, of 5 measurements of session now.",
    ]
    stored = open_store("carbon-baselines").load(HOST.id)
    (record,) = stored["tests/test_m.py::slower", "call"]
    assert (record.epoch, record.energy_j_per_call, record.boot, record.commit, record.branch) == (
        "2026-11-22T10:00:00Z",
        1.2,
        "b0",
        "c0ffee",
        "main",
    )
    assert (record.torch, record.driver, record.session) == ("2.13.0", "580.65.06", "now")
    assert (record.temperature_c, record.gpus) == (45.0, ("GPU-1234",))
    assert sorted(key[0] for key in stored) == [f"tests/test_m.py::{name}" for name in ("fine", "same", "slower")]


def test_accepting_a_report_again_adds_nothing() -> None:
    """And says so."""
    report = replace(RUN, tests=(a_test("slower", "improvement"), a_test("fine", "pass")))
    accepted(report)
    before = {path: path.read_bytes() for path in Path("carbon-baselines").rglob("*.jsonl")}
    assert accepted(report) == [
        "1x-nvidia-h100-80gb-hbm3-700w-gpu: 2 stored already, of 2 measurements of session now."
    ]
    assert {path: path.read_bytes() for path in Path("carbon-baselines").rglob("*.jsonl")} == before


def test_each_measurement_goes_into_its_machine() -> None:
    """A run may have measured in two: by the GPU's counter, and estimated."""
    report = replace(RUN, tests=(a_test("a", "pass"), a_test("b", "pass", machine="a-cpu-estimated")))
    assert accepted(report) == [
        "1x-nvidia-h100-80gb-hbm3-700w-gpu: 1 recorded, of 1 measurement of session now.",
        "a-cpu-estimated: 1 recorded, of 1 measurement of session now.",
    ]
    assert open_store("carbon-baselines").machines() == [HOST.id, "a-cpu-estimated"]


def test_a_report_without_measurements_says_so() -> None:
    """Nothing is written for it."""
    assert accepted(replace(RUN, tests=())) == ["Nothing was measured in session now."]
    assert accepted(replace(RUN, tests=(a_test("a", "error"),))) == [
        "tests/test_m.py::a (call): not recorded: it was not measured.",
        "1x-nvidia-h100-80gb-hbm3-700w-gpu: nothing recorded, of 1 measurement of session now.",
    ]
    assert not Path("carbon-baselines").exists()


def test_uncommitted_changes_are_said() -> None:
    """The commit that the baseline will name is then not all of what was measured."""
    assert accepted(replace(RUN, tests=(a_test("a", "pass"),), dirty=True))[-1] == (
        "The report was made with uncommitted changes: commit c0ffee is not all of what was measured."
    )


@pytest.mark.parametrize("nodeid", ["../x.py::t", "/etc/x.py::t", "a/../../b.py::t"])
@pytest.mark.parametrize("status", ["pass", "error"])
def test_a_report_with_an_id_that_leads_out_is_refused(nodeid: str, status: Status) -> None:
    """As a whole: who wrote one such id is not to be trusted with the others."""
    odd = replace(a_test("odd", status), nodeid=nodeid)
    with pytest.raises(UsageProblem) as error:
        accepted(replace(RUN, tests=(a_test("fine", "pass"), odd)))
    assert message(error) == (
        f"report.json: the id of the test {nodeid!r} leads out of the baselines' directory, so nothing of this report "
        "was accepted. Give a report of tests inside the root dir."
    )
    assert not Path("carbon-baselines").exists()


def test_a_report_of_an_machine_that_is_no_folder_is_refused() -> None:
    """Neither does a machine's id lead out."""
    with pytest.raises(BaselineError) as error:
        accepted(replace(RUN, tests=(a_test("a", "pass", machine="../../elsewhere"),)))
    assert message(error).startswith(
        "'../../elsewhere' cannot be the id of a machine: it names a folder in carbon-baselines"
    )
    assert not Path("carbon-baselines").exists()


def test_a_broken_baseline_stops_accepting() -> None:
    """Nothing is written, not even into other files."""
    accepted(replace(RUN, tests=(a_test("a", "pass"),)))
    path = Path("carbon-baselines") / HOST.id / "tests" / "test_m.py.jsonl"
    path.write_text("")
    other = replace(a_test("b", "pass"), nodeid="tests/b.py::b")
    with pytest.raises(BaselineError) as error:
        accepted(replace(RUN, session="later", tests=(a_test("a", "pass"), other)))
    assert message(error).startswith(f"{path}, line 1: the file is empty. ")
    assert path.read_text() == ""
    assert len(list(Path("carbon-baselines").rglob("*.jsonl"))) == 1
