"""The study as a test suite: what is collected, how it is selected, how long it measures."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from conftest import MACHINE, CarbonRunner
from extras import library
from faults import records

from pytest_carbon.suite.test_study import one_thread
from pytest_carbon.tasks.catalogue import SMALL, TASKS, Modality, cells, models

SUITE = ("--pyargs", "pytest_carbon.suite")
OTHERS_OFF = ("-p", "no:asyncio", "-p", "no:cacheprovider")

FAKE = '''
import pytest
from pytest_carbon.records import TaskInfo
from battery import draw

built = []

class Task:
    batch_size = 1

    def __init__(self, name, model, dataset, size, weights="auto", data="auto"):
        self.what = TaskInfo(name, model, dataset, "random", "synthetic", "fp32", "cuda", 1, size, tokens_in=8.0)
        self.calls = 0
        built.append((name, model, dataset, size, weights, data))

    def __call__(self):
        self.calls += 1
        draw(0.5)
        return ["a label"]

    def info(self):
        return self.what

    def reset(self):
        pass

class Later:
    """Registered after the plugin whose fixture this takes the place of."""

    @pytest.fixture
    def carbon_task(self):
        return Task

def pytest_configure(config):
    config.pluginmanager.register(Later())
'''
"""A task for each that costs nothing to build, in place of the real ones."""


@pytest.fixture
def collect(pytester: pytest.Pytester, run_carbon: CarbonRunner) -> Collect:
    """Collects the suite as a project would that has nothing to do with it, and gives the ids."""
    pytester.makeini("[pytest]\naddopts = --strict-markers --strict-config")
    return Collect(pytester)


class Collect:
    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester

    def __call__(self, *args: str) -> list[str]:
        found = self._pytester.runpytest_inprocess(*OTHERS_OFF, "--collect-only", "-q", *SUITE, *args)
        assert found.ret in (0, pytest.ExitCode.NO_TESTS_COLLECTED), found.stdout.str()
        return [line.partition("[")[2][:-1] for line in found.outlines if line.startswith("test_study.py::test_task[")]


def test_the_small_suite_has_one_test_for_each_task(collect: Collect) -> None:
    """Tiny variants, and their ids say so: a baseline of theirs is none of the real model."""
    ids = collect()
    assert ids == [f"{task}-{dataset}-{model}-small" for task, (dataset, model) in SMALL.items()]
    assert len(ids) == 15
    assert collect("--carbon-suite=small") == ids


def test_the_study_has_a_test_for_each_cell(collect: Collect) -> None:
    """Its 312, and those of the two tasks that AI Energy Score has besides."""
    ids = collect("--carbon-suite=study")
    assert ids == [f"{cell.task}-{cell.dataset}-{cell.model}" for cell in cells()]
    assert len(ids) == len(set(ids)) == 312 + 2


def test_some_models_may_be_asked_for(collect: Collect) -> None:
    """By their full hub ids, at their size, on all their data sets."""
    assert collect("--carbon-suite=gpt2, openai/whisper-large-v3") == [
        "text-generation-bookcorpus-gpt2",
        "text-generation-oscar-gpt2",
        "text-generation-wikitext-gpt2",
        "speech-recognition-librispeech-openai/whisper-large-v3",
    ]


@pytest.mark.parametrize("option", ["--carbon-suite=gpt-2", "-ocarbon_suite=gpt-2"])
def test_a_model_that_is_not_there_stops_the_run_before_it_begins(collect: Collect, option: str) -> None:
    """With exit status 4, and a near match."""
    run = collect._pytester.runpytest_inprocess(*OTHERS_OFF, *SUITE, option)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "'gpt-2' is not one of the suite's 90 models: write small, study, or" in run.stderr.str()
    assert "Did you mean gpt2?" in run.stderr.str()


@pytest.mark.parametrize(
    ("suite", "texts"),
    [
        (
            "small,gpt2",
            (
                "small is a suite of its own and cannot be combined: write small, study, or models' full hub ids with",
                "with commas between them, such as gpt2,facebook/bart-large-cnn. To select a model of it, use -m",
            ),
        ),
        (
            "bert-base",
            (
                "'bert-base' is not one of the suite's 90 models: write small, study, or models' full hub ids",
                "Did you mean bert-base-cased, bert-base-uncased or dslim/bert-base-NER?",
            ),
        ),
        ("bart-large-cnn", ("Did you mean facebook/bart-large-cnn?",)),
        ("studdy", ("Did you mean study?",)),
        ("summarization", ("'summarization' is a task: write small", "use -m: --carbon-suite=study -m summarization")),
        (",", ("--carbon-suite", "write small, study, or models' full hub ids")),
    ],
)
def test_what_suite_takes_is_told(collect: Collect, suite: str, texts: tuple[str, ...]) -> None:
    """With the models that may be meant, their organisation given or not."""
    run = collect._pytester.runpytest_inprocess(*OTHERS_OFF, *SUITE, f"--carbon-suite={suite}")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    for text in texts:
        assert text in " ".join(run.stderr.str().split())


# --- selections with a mistake in them -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "name", "near"),
    [
        ("sumarization", "sumarization", " Did you mean summarization?"),
        ("not sumarization", "sumarization", " Did you mean summarization?"),
        ("text and (gpt2 or bart-large-cnn)", "bart-large-cnn", " Did you mean facebook/bart-large-cnn?"),
        ("question-answering", "question-answering", " Did you mean extractive-question-answering?"),
        ("squadv2 and text", "squadv2", " Did you mean squad_v2?"),
        ("nothing-like-it", "nothing-like-it", ""),
    ],
)
def test_a_name_that_no_test_has_is_refused(collect: Collect, expression: str, name: str, near: str) -> None:
    """It would select nothing, or all, without a word: what there is, and what may be meant."""
    collect._pytester.makeini("[pytest]")
    run = collect._pytester.runpytest_inprocess(*OTHERS_OFF, "--collect-only", "-q", *SUITE, "-m", expression)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    said = " ".join(run.stderr.str().split())
    assert (
        f"-m {expression!r}: no test has a marker {name!r}.{near} Register a marker of your own under markers in "
        "pytest's configuration. The suite's are its tasks (text-classification, ex"
    ) in said
    assert "modalities (audio, image, multimodal, text), data sets (ImageRewardDB, bookcorpus, " in said


def test_nothing_is_promised_where_a_name_is_refused(collect: Collect) -> None:
    """No tests to measure: none will be."""
    run = collect._pytester.runpytest_inprocess(*OTHERS_OFF, "--carbon", *SUITE, "-m", "sumarization")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "to measure" not in run.stdout.str()


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        *[("not slow", 16), ("not large", 16), ("slow", 0), ("mine", 1), ("mine or gpt2", 2)],
        pytest.param(
            *("mine(kind='fast')", 1),
            marks=pytest.mark.skipif(pytest.version_tuple < (8, 3), reason="arguments in -m came with pytest 8.3"),
        ),
    ],
)
def test_a_projects_own_markers_are_left_alone(collect: Collect, expression: str, count: int) -> None:
    """Those that it has registered or that its tests have, and those that select all."""
    pytester = collect._pytester
    pytester.makeini("[pytest]\nmarkers =\n    slow(why): takes long\nfilterwarnings = ignore")
    pytester.makepyfile("import pytest\n\n@pytest.mark.mine(kind='fast')\ndef test_it():\n    pass\n")
    run = pytester.runpytest_inprocess(*OTHERS_OFF, "--collect-only", "-q", "-m", expression, ".", *SUITE)
    assert run.ret in (0, pytest.ExitCode.NO_TESTS_COLLECTED), run.stderr.str()
    assert len([line for line in run.outlines if "::" in line]) == count


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("-k", "sumarization"), "-k 'sumarization' selects none of the 15 tests of --carbon-suite=small;"),
        (("-k", "sumarization"), "modality. Did you mean summarization?"),
        (("-m", "squad_v2"), "-m 'squad_v2' selects none of the 15 tests of --carbon-suite=small;"),
        (("-m", "squad_v2"), "--carbon-suite=study has 314. Ids look like test_task[text-classification-sst2-distilbe"),
        (
            ("-m", "squad", "-k", "gpt2", "--carbon-suite=study"),
            "-m 'squad' -k 'gpt2' selects none of the 314 tests",
        ),
    ],
)
def test_nothing_left_is_explained(collect: Collect, args: tuple[str, ...], said: str) -> None:
    """How ids look, and where there is more."""
    run = collect._pytester.runpytest_inprocess(*OTHERS_OFF, "--collect-only", *SUITE, *args)
    assert run.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert said in " ".join(run.stdout.str().split())


def every_name() -> list[str]:
    return [*TASKS, *models(), *dict.fromkeys(d for task in TASKS.values() for d in task.datasets), *get_args(Modality)]


def test_each_name_selects_what_has_it_and_nothing_else(collect: Collect, pytester: pytest.Pytester) -> None:
    """``-m`` takes tasks, models, data sets and modalities exactly, hyphens, slashes and dots included."""
    pytester.makepyfile(
        marks="""
        from _pytest.mark.expression import Expression
        import json, pathlib

        def pytest_collection_finish(session):
            names = json.loads(pathlib.Path("names.json").read_text())
            found = {}
            for name in names:
                has = Expression.compile(name)
                matches = lambda item: has.evaluate(lambda n, **more: n in {mark.name for mark in item.iter_markers()})
                found[name] = [item.callspec.id for item in session.items if matches(item)]
            pathlib.Path("found.json").write_text(json.dumps(found))
        """
    )
    Path("names.json").write_text(json.dumps(every_name()))
    collect("--carbon-suite=study", "-p", "marks")
    found = json.loads(Path("found.json").read_text())
    for name in every_name():
        expected = [
            f"{cell.task}-{cell.dataset}-{cell.model}"
            for cell in cells()
            if name in (cell.task, cell.dataset, cell.model, TASKS[cell.task].modality)
        ]
        assert found[name] == expected, name
        assert expected, name


@pytest.mark.parametrize(
    ("args", "count"),
    [
        (("-m", "text-classification"), 24),
        (("-m", "facebook/bart-large-cnn"), 3),
        (("-m", "facebook/bart-large-cnn and xsum"), 1),
        (("-m", "google/mobilenet_v1_0.75_192"), 3),
        (("-m", "squad"), 16),
        (("-k", "squad"), 40),  # squad_v2, and models named after it
        (("-m", "summarization"), 24),
        (("-k", "summarization"), 48),  # zero-shot-summarization, too
        (("-m", "audio or multimodal"), 49),
        (("-m", "text and not gpt2", "-k", "generation"), 21),
        (("-k", "facebook/bart-large-cnn and xsum"), 1),
        (("-m", "gpt2 and squad"), 0),
    ],
)
def test_selecting(collect: Collect, args: tuple[str, ...], count: int) -> None:
    """``-m`` by whole names, ``-k`` by parts of them; in expressions, and with strict markers."""
    assert len(collect("--carbon-suite=study", *args)) == count


def test_the_markers_are_told(collect: Collect, pytester: pytest.Pytester) -> None:
    """Each with what it is a name of, and none twice, so that none means two things."""
    pytester.makepyfile(
        told="""
        import json, pathlib

        def pytest_collection_finish(session):
            pathlib.Path("told.json").write_text(json.dumps(session.config.getini("markers")))
        """
    )
    collect("-p", "told")
    told = [line for line in json.loads(Path("told.json").read_text()) if "pytest_carbon.suite" in line]
    assert "text-classification: a task of pytest_carbon.suite" in told
    assert "facebook/bart-large-cnn: a model of pytest_carbon.suite" in told
    assert "squad_v2: a data set of pytest_carbon.suite" in told
    assert "audio: a modality of pytest_carbon.suite" in told
    names = Counter(line.partition(":")[0] for line in told)
    assert names == Counter(every_name())
    assert set(names.values()) == {1}


@pytest.mark.parametrize("carbon", [(), ("--carbon",)], ids=["inert", "--carbon"])
def test_collecting_the_study_imports_nothing_heavy(pytester: pytest.Pytester, carbon: tuple[str, ...]) -> None:
    """Neither torch nor what goes with it: only what a test runs is built."""
    pytester.makepyfile(
        seen="""
        import pathlib, sys

        def pytest_unconfigure(config):
            pathlib.Path("seen.txt").write_text("\\n".join(sys.modules))
        """
    )
    pytester.makeini("[pytest]")
    pytester.syspathinsert()
    args = (*OTHERS_OFF, "-p", "no:hypothesispytest", "-p", "seen", "--collect-only", "-q", "--carbon-suite=study")
    found = pytester.runpytest_subprocess(*args, *carbon, *SUITE)
    assert found.ret == 0
    assert "314 tests collected" in found.stdout.str()
    seen = {name.partition(".")[0] for name in Path("seen.txt").read_text().splitlines()}
    assert "pytest_carbon" in seen
    assert not seen & {"torch", "transformers", "diffusers", "datasets", "tokenizers", "PIL"}
    if not carbon:
        assert not seen & {"numpy", "scipy", "codecarbon", "pandas"}


# --- measuring: tasks that cost nothing to build -----------------------------------------------------


@pytest.fixture
def run_suite(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> CarbonRunner:
    """Runs the suite, quick and on the battery, with tasks that are none."""
    pytester.makeini("[pytest]")
    (pytester.path / "fake.py").write_text(FAKE, "utf-8")
    return run_carbon


def test_every_small_task_is_measured(run_suite: CarbonRunner) -> None:
    """One test each, with its task in the report, and its line in the table."""
    run = run_suite("-p", "fake", *SUITE)
    assert (run.ret, run.outcomes()) == (0, {"passed": 15})
    for test, (task, (dataset, model)) in zip(run.report["tests"], SMALL.items(), strict=True):
        assert test["nodeid"] == f"pytest_carbon.suite.test_study::test_task[{task}-{dataset}-{model}-small]"
        (m,) = test["measurements"]
        found = m["task"]
        assert (found["name"], found["dataset"], found["model"], found["size"]) == (task, dataset, model, "small")
        assert [line for line in run.lines if line.startswith(f"{task} ")]
    assert "small variants of the study's tasks" in run.text


def test_without_carbon_each_is_called_once(run_suite: CarbonRunner) -> None:
    """A check of what can be built, which measures nothing."""
    run = run_suite("-p", "fake", *SUITE, carbon=False)
    assert run.outcomes() == {"passed": 15}
    assert "small variants" not in run.text


def times(run_suite: CarbonRunner, pytester: pytest.Pytester, *args: str) -> dict[str, float]:
    """How the suite has its tests measured, with only these options given."""
    pytester.makepyfile(
        tell="""
        import json, pathlib
        from pytest_carbon.measure.measurer import Measurer

        run = Measurer.run

        def told(self, name, fn, args, kwargs, *, setup=None, protocol, begin):
            p = protocol
            pathlib.Path("told.json").write_text(
                json.dumps([p.warmup_s, p.rounds, p.min_time_s, p.max_time_s, p.queries])
            )
            raise RuntimeError("this is all")

        def pytest_runtest_call(item):
            Measurer.run = told

        def pytest_unconfigure(config):
            Measurer.run = run
        """
    )
    base = (*OTHERS_OFF, "-p", "battery", "-p", "fake", "-p", "tell", "--carbon", "--carbon-meter=battery")
    pytester.runpytest_inprocess(*base, *SUITE, "-m", "gpt2", *args)
    return dict(
        zip(("warmup", "rounds", "least", "most", "queries"), json.loads(Path("told.json").read_text()), strict=True)
    )


SMALL_TIMES = {"warmup": 0.2, "rounds": 5, "least": 0.4, "most": 2.0, "queries": None}
USUAL_TIMES = {"warmup": 1.0, "rounds": 5, "least": 1.0, "most": 10.0, "queries": None}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), SMALL_TIMES),
        (("--carbon-suite=study",), USUAL_TIMES),
        (("--carbon-suite=gpt2",), USUAL_TIMES),
        (("--carbon-warmup=1",), SMALL_TIMES | {"warmup": 1.0}),
        (("--carbon-rounds=9",), SMALL_TIMES | {"rounds": 9}),
        (("--carbon-min-time=3",), SMALL_TIMES | {"least": 3.0, "most": 10.0}),
        (("-o", "carbon_max_time=0.7"), SMALL_TIMES | {"least": 0.7, "most": 0.7}),
        (("--carbon-suite=study", "--carbon-max-time=60"), USUAL_TIMES | {"most": 60.0}),
        (("--carbon-queries=1000",), SMALL_TIMES | {"queries": 1000, "least": 1.0, "most": 10.0}),
        (("--carbon-suite=study", "-o", "carbon_queries=1000"), USUAL_TIMES | {"queries": 1000}),
    ],
)
def test_how_long_is_measured(
    run_suite: CarbonRunner, pytester: pytest.Pytester, args: tuple[str, ...], expected: dict[str, float]
) -> None:
    """Small variants for less long, but as the user says where he says anything: of the time, one end is enough."""
    assert times(run_suite, pytester, *args) == expected


def test_queries_are_how_many_calls_there_are(run_suite: CarbonRunner) -> None:
    """Those of the study, 1,000, or any number: no time cuts them short, and no precision."""
    args = ("-p", "fake", *SUITE, "--carbon-max-time=0.001", "--carbon-min-time=0.001")
    run = run_suite(*args, "--carbon-queries=1003", "-m", "gpt2 or fill-mask")
    assert run.outcomes() == {"passed": 2, "deselected": 13}
    found = [m for test in run.report["tests"] for m in test["measurements"]]
    assert [m["calls"] for m in found] == [1003, 1003]
    assert [[r["calls"] for r in m["rounds"]] for m in found] == [[335, 334, 334]] * 2


def test_baselines_record_gate_and_accept_as_for_any_test(
    run_suite: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the suite's dotted name, wherever it is installed."""
    args = ("-p", "fake", *SUITE, "-m", "gpt2", "--carbon-suite=gpt2")
    assert run_suite("--carbon-record", *args).ret == 0
    assert {r["test"] for r in records(pytester.path)} == {
        f"pytest_carbon.suite.test_study::test_task[text-generation-{dataset}-gpt2]"
        for dataset in TASKS["text-generation"].datasets
    }
    assert (pytester.path / "carbon-baselines" / MACHINE / "pytest_carbon.suite.test_study.jsonl").exists()
    dearer = pytester.path / "fake.py"
    dearer.write_text(dearer.read_text().replace("draw(0.5)", "draw(5.0)"))
    run = run_suite(*args, subprocess=True)
    assert (run.ret, run.outcomes()["failed"]) == (1, 3)
    assert "REGRESSION" in run.text
    assert run_suite("--carbon-accept", *args, subprocess=True).ret == 0
    assert run_suite(*args, subprocess=True).ret == 0


def test_a_project_may_give_the_suites_tests_budgets(run_suite: CarbonRunner, pytester: pytest.Pytester) -> None:
    """In its own conftest file: a marker added to those that it means."""
    pytester.makeconftest(
        """
        import pytest

        def pytest_collection_modifyitems(items):
            for item in items:
                if item.get_closest_marker("fill-mask"):
                    item.add_marker(pytest.mark.carbon_budget(energy="0.4 J"))
        """
    )
    run = run_suite("-p", "fake", *SUITE, "-m", "fill-mask or gpt2")
    assert run.status("fill-mask-bookcorpus-bert-base-uncased-small]") == "over-budget"
    assert run.status("text-generation-wikitext-gpt2-small]") == "new"


@pytest.mark.slow
def test_quiet_leaves_the_table(run_suite: CarbonRunner) -> None:
    """And takes away its sentences."""
    run = run_suite("-p", "fake", "-q", *SUITE)
    assert [line for line in run.lines if line.startswith("speech-recognition ")]
    assert "phone charges" not in run.text


@pytest.mark.slow
def test_nothing_is_wider_than_the_terminal(run_suite: CarbonRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns: tables, sentences, and the gate's table below."""
    monkeypatch.setenv("COLUMNS", "80")
    run = run_suite("-p", "fake", *SUITE)
    begin = run.lines.index(next(line for line in run.lines if "small variants of the study's tasks" in line))
    assert max(map(len, run.lines[begin:])) <= 80


class Torch:
    """What the suite asks of it, and no more."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def get_num_threads(self) -> int:
        return self.threads

    def set_num_threads(self, threads: int) -> None:
        self.threads = threads


def test_tiny_calls_run_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the process has as many as before when they are over, however they ended."""
    torch = Torch(8)
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    during = []

    def fails() -> None:
        with one_thread():
            during.append(torch.threads)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (during, torch.threads) == ([1], 8)
    monkeypatch.delitem(sys.modules, "torch")
    with one_thread():
        pass


# --- measuring: the real ones ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_small_suite_runs(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real models, tiny: each of the 15 makes its result, and says what went in and out of a call."""
    for name in ("torch", "transformers", "diffusers"):
        library(name)
    pytester.makeini("[pytest]")
    pytester.syspathinsert()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = run_carbon(f"--carbon-meter=replay:{trace}", *SUITE, subprocess=True)
    assert run.outcomes() == {"passed": 15}
    for test in run.report["tests"]:
        (m,) = test["measurements"]
        task = m["task"]
        assert (task["weights"], task["data"], task["size"], task["batch_size"]) == ("random", "synthetic", "small", 1)
        counted = {"token": "tokens_in", "image": "images", "second of audio": "seconds_audio"}
        assert task[counted[TASKS[task["name"]].unit]] > 0
        if TASKS[task["name"]].kind == "generate":
            assert task["tokens_out"] >= 1
    assert "replayed, not measured" in run.text
