"""Baselines of counted work: what is kept, what fails, what ``--carbon-accept`` replaces."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from rendered import check
from worklab import WorkRunner, statuses, work_of

CALLS = """
import pytest
from model import Model, model, x

def test_call(carbon):
    carbon(model, x, {times})

def test_window(carbon):
    with carbon.window("decode", calls=2):
        model(x)
        model(x)
"""


@pytest.fixture
def recorded(run_work: WorkRunner, pytester: pytest.Pytester) -> WorkRunner:
    """A suite of two tests, with a baseline."""
    pytester.makepyfile(test_it=CALLS.format(times=1))
    run = run_work("--carbon-record")
    assert run.outcomes() == {"passed": 2}
    assert "recorded 2 counts of work in carbon-baselines/work-cpu" in run.text
    return run_work


def change(pytester: pytest.Pytester, **changes: object) -> None:
    """Write the suite again."""
    pytester.makepyfile(test_it=CALLS.format(**{"times": 1, **changes}))


def test_a_second_run_passes_and_changes_no_file(recorded: WorkRunner) -> None:
    """Counts are the same, to the last one; recording again has nothing to add."""
    file = recorded.baselines / "work-cpu/test_it.py.jsonl"
    before = file.read_bytes()
    header, *lines = map(json.loads, filter(None, before.decode().splitlines()))
    assert header == {"format": "pytest-carbon-work/1", "engine": "cpu"}
    assert [line["name"] for line in lines] == ["call", "decode"]
    run = recorded("--carbon-record")
    assert statuses(run) == {"test_call": "pass", "test_window decode": "pass"}
    assert set(work_of(run, "test_call")["change"].values()) == {0.0}
    assert "nothing to record: each count has a baseline, and no work has changed" in run.text
    assert "compared 2 of 2" in run.lines
    assert file.read_bytes() == before


def test_more_work_fails_until_it_is_accepted(recorded: WorkRunner, pytester: pytest.Pytester) -> None:
    """Recording does not accept it."""
    change(pytester, times=2)
    run = recorded("--carbon-record")
    assert run.ret == 1
    assert run.outcomes() == {"failed": 1, "passed": 1}
    work = work_of(run, "test_call")
    assert (work["status"], work["effect"]) == ("regression", "fails")
    assert work["change"]["flops"] == pytest.approx(1.0, rel=0.05)
    assert run.test("test_call")["functional_outcome"] == "passed"
    assert "not recorded: test_it.py::test_call: it is a regression; accept it if it is intended" in run.text
    assert "pytest --carbon-work --carbon-accept test_it.py::test_call" in run.text

    run = recorded("--carbon-accept")
    assert run.outcomes() == {"passed": 2}
    assert work_of(run, "test_call")["effect"] == "accepted"
    assert "recorded 1 count of work, 1 of them accepted as changed in carbon-baselines/work-cpu" in run.text
    assert statuses(recorded()) == {"test_call": "pass", "test_window decode": "pass"}

    change(pytester)
    assert statuses(recorded("--carbon-record"))["test_call"] == "improvement"
    assert statuses(recorded("--carbon-accept"))["test_call"] == "improvement"
    assert statuses(recorded())["test_call"] == "pass"


def test_warn_reports_and_never_fails(recorded: WorkRunner, pytester: pytest.Pytester) -> None:
    """``--carbon-gate=warn``."""
    change(pytester, times=2)
    run = recorded("--carbon-gate=warn")
    assert run.ret == 0
    assert work_of(run, "test_call")["effect"] == "warns"
    assert "REGRESSION" in run.text
    assert "test_it.py::test_call would have failed without --carbon-gate=warn" in run.text


def test_tolerances_are_options(recorded: WorkRunner, pytester: pytest.Pytester) -> None:
    """Of FLOPs and bytes, and of kernels; a marker's own wins."""
    change(pytester, times=2)
    assert statuses(recorded("--carbon-work-tolerance=100%"))["test_call"] == "regression"  # its kernels
    both = ("--carbon-work-tolerance=100%", "--carbon-kernel-tolerance=100%")
    assert statuses(recorded(*both))["test_call"] == "pass"
    pytester.makeini("[pytest]\ncarbon_work_tolerance = 100%\ncarbon_kernel_tolerance = 100%\n")
    assert statuses(recorded())["test_call"] == "pass"
    marked = CALLS.format(times=2).replace("def test_call", "@pytest.mark.carbon_budget(tolerance='2%')\ndef test_call")
    pytester.makepyfile(test_it=marked)
    assert statuses(recorded())["test_call"] == "regression"


def test_strict_fails_what_has_no_baseline(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """And recording it is no failure."""
    change(pytester)
    run = run_work("--carbon-strict")
    assert run.outcomes() == {"failed": 2}
    assert "pytest --carbon-work --carbon-record test_it.py::test_call" in run.text
    assert run_work("--carbon-strict", "--carbon-record").outcomes() == {"passed": 2}
    assert run_work("--carbon-strict").outcomes() == {"passed": 2}


def test_what_is_no_longer_counted_is_named(recorded: WorkRunner, pytester: pytest.Pytester) -> None:
    """It passed without it, was skipped, or is gone; ``--carbon-strict`` fails the run."""
    pytester.makepyfile(
        test_it="""
import pytest
from model import model, x

def test_call(carbon):
    carbon.run(model, (x,), name="renamed")

@pytest.mark.skip(reason="later")
def test_window(carbon):
    pass
"""
    )
    run = recorded()
    assert run.ret == 0
    assert {one["why"] for one in run.report["unmeasured"]} == {
        "the test passed without it",
        "the test was skipped: later",
    }
    assert {one["machine"] for one in run.report["unmeasured"]} == {"work-cpu"}
    assert "no longer counted: test_it.py::test_call (the test passed without it)" in run.text
    run = recorded("--carbon-strict", "--carbon-record")
    assert run.ret == 1
    assert "ERROR: --carbon-strict: no longer counted" in run.text
    pytester.makepyfile(test_it="def test_other(): pass")
    assert recorded().ret == 0
    run = recorded("--carbon-strict")
    assert run.ret == 1
    assert "no such test was collected" in run.text


def test_a_part_of_the_suite_is_compared(recorded: WorkRunner) -> None:
    """What was not selected is counted in one line."""
    run = recorded("-k", "test_call")
    assert run.ret == 0
    assert "compared 1 of 2:" in run.lines
    assert "test_it.py::test_window · decode was not run" in run.text


def test_another_engines_baseline_is_named(recorded: WorkRunner) -> None:
    """It is not compared with."""
    folder = recorded.baselines / "work-cpu"
    other = folder.with_name("work-cuda")
    shutil.move(folder, other)
    for file in other.glob("*.jsonl"):
        file.write_text(file.read_text("utf-8").replace('"engine": "cpu"', '"engine": "cuda"'), "utf-8")
    run = recorded()
    assert set(statuses(run).values()) == {"new"}
    assert "have no baseline of engine cpu, but of cuda: counts of two engines are not compared" in run.text


def test_another_version_of_torch_is_named(recorded: WorkRunner) -> None:
    """Beside the verdict."""
    for file in recorded.baselines.rglob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line]
        for line in lines[1:]:
            line["versions"]["torch"] = "2.4.0"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    run = recorded()
    assert set(statuses(run).values()) == {"pass"}
    assert "torch 2.4.0 → " in run.text
    assert "torch 2.4.0 → " in work_of(run, "test_call")["differences"][0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<<<<<<< HEAD\n", "line 1"),
        ('{"format": "pytest-carbon-work/9", "engine": "cpu"}\n', "pytest-carbon-work/9"),
        ("", "the file is empty"),
    ],
)
def test_a_baseline_that_cannot_be_trusted_stops_the_run(
    recorded: WorkRunner, pytester: pytest.Pytester, content: str, said: str
) -> None:
    """Before anything is counted; exit status 4."""
    file = recorded.baselines / "work-cpu/test_it.py.jsonl"
    file.write_text(content, "utf-8")
    run = recorded("--carbon-record")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert said in run.errors
    assert file.read_text("utf-8") == content


def test_a_report_is_accepted_elsewhere(recorded: WorkRunner, pytester: pytest.Pytester) -> None:
    """``pytest-carbon baseline accept`` does what ``--carbon-accept`` does; a second time adds nothing."""
    change(pytester, times=2)
    run = recorded()
    assert run.ret == 1
    accept = ("-m", "pytest_carbon", "baseline", "accept", "report.json")
    done = pytester.run(sys.executable, *accept)
    assert done.ret == 0
    said = " ".join(done.stdout.str().split())
    assert "test_it.py::test_call (call): regression of the work accepted (2.0× FLOPs)." in said
    assert "work: 1 accepted as a change, 1 stored already, of 2 counts of session" in said
    again = pytester.run(sys.executable, *accept)
    assert "work: 2 stored already, of 2 counts" in " ".join(again.stdout.str().split())
    assert set(statuses(recorded()).values()) == {"pass"}


def test_a_report_whose_figures_do_not_add_up_is_not_accepted(recorded: WorkRunner, pytester: pytest.Pytester) -> None:
    """Somebody lowered a total, and not the modules' figures."""
    change(pytester, times=2)
    run = recorded()
    flops = work_of(run, "test_call")["flops"]
    report = pytester.path / "report.json"
    report.write_text(report.read_text("utf-8").replace(f'"flops": {flops}', '"flops": 5', 1), "utf-8")
    done = pytester.run(sys.executable, "-m", "pytest_carbon", "baseline", "accept", "report.json")
    assert done.ret == 4
    said = " ".join(done.stderr.str().split())
    assert (
        f"report.json: tests[0].measurements[0].work.flops must be the sum of those in by_module, {flops}, not 5."
        in said
    )


def test_work_that_left_torch_is_no_improvement_without_a_word(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """However short it took: the verdict, and the end of the run, say what is not counted."""
    pytest.importorskip("numpy")
    code = "import torch\n\ndef test_it(carbon):\n    carbon({call}, torch.eye(8))\n"
    file = pytester.makepyfile(test_it=code.format(call="lambda x: torch.from_numpy(x.numpy()) @ x + 1"))
    run_work("--carbon-record")
    in_numpy = "lambda x: torch.from_numpy((lambda a: sum(a @ a for _ in range(50)))(x.numpy())) + 1"
    file.write_text(code.format(call=in_numpy), "utf-8")
    run = run_work(subprocess=True)
    work = work_of(run, "test_it")
    assert (work["status"], work["flops"]) == ("improvement", 0)
    assert work["reason"].endswith("; not counted: what runs outside torch")
    assert "warning (beside-torch): test_it.py::test_it: the call passed values between" in " ".join(run.text.split())


def test_an_interrupted_run_records_nothing(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """And says so; the report so far is there."""
    pytester.makepyfile(test_it=CALLS.format(times=1) + "\ndef test_stop():\n    raise KeyboardInterrupt\n")
    run = run_work("--carbon-record", subprocess=True)
    assert run.ret == pytest.ExitCode.INTERRUPTED
    assert "nothing was recorded: the run was interrupted" in run.text
    assert not run_work.baselines.exists()


def test_a_killed_run_leaves_the_report_so_far(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """Marked as incomplete; nothing of it can be accepted."""
    pytester.makepyfile(test_it=CALLS.format(times=1) + "\ndef test_stop(carbon):\n    __import__('os')._exit(3)\n")
    run = run_work("--carbon-record", subprocess=True)
    assert run.ret == 3
    assert run.report["incomplete"] is True
    assert statuses(run) == {"test_call": "new", "test_window decode": "new"}
    done = pytester.run(sys.executable, "-m", "pytest_carbon", "baseline", "accept", "report.json")
    assert done.ret == pytest.ExitCode.USAGE_ERROR


def test_a_failing_test_is_not_recorded(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    """Its count stands in the report."""
    pytester.makepyfile(test_it=CALLS.format(times=1).replace("x, 1)", "x, 1)\n    assert False"))
    run = run_work("--carbon-record")
    assert run.outcomes() == {"failed": 1, "passed": 1}
    assert "not recorded: test_it.py::test_call: its test did not pass (failed)" in run.text
    assert "recorded 1 count of work" in run.text


def test_two_reports_are_compared(recorded: WorkRunner, pytester: pytest.Pytester) -> None:
    """Also with baselines, an engine's folder, and a file of it; exit status 1 for a regression."""
    recorded()
    shutil.copy(pytester.path / "report.json", pytester.path / "base.json")
    change(pytester, times=2)
    recorded()
    file = "carbon-baselines/work-cpu/test_it.py.jsonl"
    compare = (sys.executable, "-m", "pytest_carbon", "compare")
    for base in ("base.json", "carbon-baselines", "carbon-baselines/work-cpu", file):
        done = pytester.run(*compare, base, "report.json")
        said = " ".join(done.stdout.str().split())
        assert done.ret == 1, base
        assert "work counted, engine cpu" in said
        assert "2.0× FLOPs REGRESSION" in said
        assert "compared 2: 1 regression, 1 pass" in said
        assert "test_it.py::test_call: regression: 2.0× the FLOPs" in said
    assert pytester.run(*compare, "report.json", "report.json").ret == 0
    work = json.loads(pytester.run(*compare, "base.json", "report.json", "--format=json").stdout.str())["work"]
    assert [one["status"] for one in work["measurements"]] == ["regression", "pass"]
    assert work["measurements"][0]["head"]["flops"] > work["measurements"][0]["base"]["flops"]
    markdown = pytester.run(*compare, "base.json", "report.json", "--format=markdown")
    assert (
        "### ❌ Work per call: compared 2: 1 regression, 1 pass; largest change 2.0× FLOPs: " in markdown.stdout.str()
    )
    check(markdown.stdout.str())
