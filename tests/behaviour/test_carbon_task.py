"""``carbon_task``: a test gets a task that is ready, the report says what it was, and its model is freed."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CarbonRunner
from extras import library
from test_hooks import example
from worklab import WorkRunner

from pytest_carbon.plugin import hookspecs

# Before pytester notes what is imported: it takes the rest away after each run, and torch cannot be imported twice.
torch = library("torch")
library("transformers")

DRAWING = """
import pytest
from battery import draw

class Result:
    tokens_out = 4

def summarize(text):
    draw(2.0)
    return Result()
"""


@pytest.fixture(scope="module")
def a_model() -> None:
    """What a tiny model needs is imported, too."""
    from pytest_carbon.tasks import build_task

    list(build_task("text-classification", weights="random", data="synthetic", size="small", device="cpu")())


def test_a_task_is_measured(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The report says what a call was, and what went in and came out of it."""
    pytester.makepyfile(f"""{DRAWING}
def test_it(carbon, carbon_task):
    task = carbon_task("summarization", model=summarize, data=["a text", "another"])
    assert carbon(task).tokens_out == 4
    assert carbon["call"].task.name == "summarization"
    assert carbon["call"].task.tokens_out == 4
    carbon.run(summarize, ("no task",), name="plain")
    assert carbon["plain"].task is None
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}, run.text
    found = run.measurement("test_it")
    assert found["energy_j_per_call"] == pytest.approx(2.0)
    assert found["task"] == {
        "name": "summarization",
        "model": "summarize",
        "dataset": None,
        "weights": "own",
        "data": "given",
        "dtype": None,
        "device": None,
        "batch_size": 1,
        "size": None,
        "tokens_in": None,
        "tokens_out": 4.0,
        "images": None,
        "seconds_audio": None,
        "preparation_s": None,
        "new_tokens": None,
        "steps": None,
        "width": None,
        "height": None,
    }
    assert found["million_tokens_are"] == "produced"
    assert found["emissions_g_per_million_tokens"] == pytest.approx(found["emissions_g_per_call"] / 4 * 1e6)
    plain = run.measurement("test_it", "plain")
    assert (plain["task"], plain["million_tokens_are"], plain["emissions_g_per_million_tokens"]) == (None, None, None)


def test_a_task_that_is_called_inside_is_told_too(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Once for each call that is measured: in a lambda, a window, or a marked test without the fixture."""
    pytester.makepyfile(f"""{DRAWING}
@pytest.fixture
def task(carbon_task):
    return carbon_task("summarization", model=summarize, data=["a text", "another"])

def test_lambda(carbon, task):
    carbon(lambda: task())

def test_window(carbon, task):
    task()
    with carbon.window("x", calls=3):
        for _ in range(3):
            task()

@pytest.mark.carbon_budget(energy="9 J")
def test_marked(task):
    task()

@pytest.mark.carbon_budget(energy="9 J")
def test_made_inside(carbon_task):
    carbon_task("summarization", model=summarize, data=["a text"])()
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 4}, run.text
    for test, name in (("lambda", "call"), ("window", "x"), ("marked", "call"), ("made_inside", "call")):
        task = run.measurement(f"test_{test}", name)["task"]
        assert (task["name"], task["tokens_out"]) == ("summarization", 4.0), test


def test_what_is_no_call_of_one_task_has_none(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Two tasks, none, or one that was called more often, or less, than is counted: its figures are not the call's."""
    pytester.makepyfile(f"""{DRAWING}
@pytest.fixture
def task(carbon_task):
    return carbon_task("summarization", model=summarize, data=["a text"])

def test_two(carbon, carbon_task, task):
    other = carbon_task("text-generation", model=summarize, data=["a text"])
    carbon(lambda: (task(), other()))
    with carbon.window("none"):
        summarize("a")
    with carbon.window("one of them"):
        other()

def test_twice(carbon, task):
    carbon(lambda: (task(), task()))
    with carbon.window("tokens", calls=4):
        task()
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 2}, run.text
    found = {(t["nodeid"][-5:], m["name"]): m["task"] for t in run.report["tests"] for m in t["measurements"]}
    assert {key for key, task in found.items() if task} == {("t_two", "one of them")}
    assert found["t_two", "one of them"]["name"] == "text-generation"
    assert len(found) == 5


def test_counts_are_those_of_the_calls_that_are_measured(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The warm-up's are none of them, and what is measured begins with the first input."""
    pytester.makepyfile("""
from battery import draw
from types import SimpleNamespace

given = []

def counting(text):
    draw(1.0)
    given.append(text)
    return SimpleNamespace(tokens_in=len(text), tokens_out=1)

def test_it(carbon, carbon_task):
    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    carbon.run(carbon_task("summarization", model=counting, data=texts), queries=2)
    assert len(given) > 2
    assert given[-2:] == texts[:2]
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}, run.text
    assert run.measurement("test_it")["task"]["tokens_in"] == 1.5


MODEL = """
import weakref
import pytest

kept = model_alive = None

def test_it(carbon, carbon_task):
    global kept, model_alive
    task = carbon_task("text-classification", weights="random", data="synthetic", size="small", device="cpu")
    kept, model_alive = task, weakref.ref(task.model)
    labels = carbon(task)
    assert labels[0] in ("LABEL_0", "LABEL_1")

def test_it_is_gone():
    assert model_alive() is None
    with pytest.raises(RuntimeError, match="this task was freed"):
        kept()
"""


@pytest.mark.usefixtures("a_model")
def test_a_model_of_the_study(run_carbon: CarbonRunner, pytester: pytest.Pytester, trace: Path) -> None:
    """Without network, with as much energy as its calls take; its model is freed when the test ends."""
    pytester.makepyfile(MODEL)
    run = run_carbon(f"--carbon-meter=replay:{trace}")
    assert run.outcomes() == {"passed": 2}, run.text
    found = run.measurement("test_it")
    assert found["energy_j_per_call"] > 0
    task = found["task"]
    assert (task["model"], task["dataset"], task["weights"], task["data"], task["size"]) == (
        *("distilbert-base-uncased-finetuned-sst-2-english", "sst2", "random", "synthetic"),
        "small",
    )
    assert 10 < task["tokens_in"] < 60
    assert 0 < task["preparation_s"] < found["duration_s_per_call"] * 3


@pytest.mark.usefixtures("a_model")
def test_without_the_switch_it_is_called_once(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """And is freed, all the same."""
    pytester.makepyfile(
        MODEL
        + """
def test_once(carbon, carbon_task):
    seen = []
    task = carbon_task("summarization", model=seen.append, data=["a", "b"])
    task()
    carbon(task)
    assert seen == ["a", "a"]
"""
    )
    assert run_carbon(carbon=False).outcomes() == {"passed": 3}


def test_nothing_heavy_is_imported_for_a_callable(pytester: pytest.Pytester) -> None:
    """Neither by asking for the fixture, nor by a task that needs none of it."""
    pytester.makepyfile("""
import sys

def test_it(carbon, carbon_task):
    assert carbon(carbon_task("summarization", model=str.upper, data=["a"])) == "A"
    assert not {"torch", "transformers", "diffusers", "datasets", "numpy", "scipy", "PIL"} & sys.modules.keys()
""")
    result = pytester.runpytest_subprocess("-p", "no:hypothesispytest", "-p", "no:randomly")
    result.assert_outcomes(passed=1)


# --- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize("carbon", [False, True], ids=["without", "with"])
def test_what_cannot_be_is_shown_at_the_tests_line(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, carbon: bool
) -> None:
    """With what there is and what may have been meant, and without the insides of pytest-carbon."""
    pytester.makepyfile(
        test_it="""
def test_it(carbon, carbon_task):
    carbon_task("sumarization")

def test_an_argument(carbon_task):
    carbon_task("summarization", modle="facebook/bart-large-cnn")

def test_a_model(carbon_task):
    carbon_task("summarization", model="facebook/bart-large-cnm")
"""
    )
    run = run_carbon(carbon=carbon)
    assert run.outcomes() == {"failed": 3}
    assert "there is no task 'sumarization'; there are text-classification, extractive-question-answering," in run.text
    assert "speech-recognition. Did you mean summarization?" in run.text
    assert "a task takes no modle=; it takes model, dataset, weights, data, tokenizer, processor, dtype, d" in run.text
    assert "seed. Did you mean model?" in run.text
    assert '> carbon_task("sumarization")' in run.text
    assert "test_it.py:2: UsageProblem" in run.text
    assert "Did you mean facebook/bart-large-cnn?" in run.text
    assert "fixture.py" not in run.text
    assert "building.py" not in run.text


def test_a_missing_library_skips(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it; collecting needs none of it."""
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    pytester.makepyfile(
        test_it="""
def test_it(carbon, carbon_task):
    carbon(carbon_task("fill-mask"))
"""
    )
    run = run_carbon("-rs")
    assert run.outcomes() == {"skipped": 1}
    assert (
        "test_it.py:2: fill-mask needs transformers, which is not installed: pip install 'pytest-carbon[tasks]'"
        in run.text
    )


def test_what_does_not_fit_skips(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is loaded, with the figures."""
    from pytest_carbon.tasks import task

    monkeypatch.setattr(task, "_free_bytes", lambda device: 10**9)
    pytester.makepyfile(
        test_it="""
def test_it(carbon, carbon_task):
    carbon(carbon_task("zero-shot-sentiment", model="google/flan-t5-xxl", weights="random", device="cpu"))
"""
    )
    run = run_carbon("-rs")
    assert run.outcomes() == {"skipped": 1}
    assert "google/flan-t5-xxl needs about 4" in run.text
    assert "GB of memory, and cpu has 1.0 GB free. What helps: dtype='fp16' or 'bf16', a smaller m" in run.text


# --- work that is not what is counted ----------------------------------------------------------------


def test_a_task_on_the_processor_is_not_charged_with_a_gpu(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The figure is warned, with what to do, and is not recorded; that of a callable may be the GPU's."""
    pytester.makepyfile(
        test_it="""
import pytest
from battery import draw
from pytest_carbon import TaskInfo

class Task:
    def __init__(self, device):
        self.device = device
    def __call__(self):
        draw(2.0)
    def reset(self):
        pass
    def info(self):
        return TaskInfo("mine", "Model", None, "own", "given", "fp32", self.device, 1)

@pytest.mark.parametrize("device", ["cpu", "cuda", None])
def test_it(carbon, device):
    carbon(Task(device))
"""
    )
    run = run_carbon("--carbon-record")
    assert run.outcomes() == {"passed": 3}, run.text
    codes = {id: {d["code"] for d in run.measurement(f"test_it[{id}]")["warnings"]} for id in ("cpu", "cuda", "None")}
    assert [id for id, found in codes.items() if "other-device" in found] == ["cpu"]
    (warning,) = [d for d in run.measurement("test_it[cpu]")["warnings"] if d["code"] == "other-device"]
    assert warning["text"] == (
        "the task ran on the processor, but the counted energy is that of gpu:0 (a battery). Run it on the "
        "GPU (device='cuda', with a torch that sees it; a model of your own: model.to('cuda')), or count the processor "
        "(--carbon-domains=total, or --carbon-meter=rapl or estimate)"
    )
    stored = "".join(path.read_text("utf-8") for path in (pytester.path / "carbon-baselines").rglob("*.jsonl"))
    assert "test_it[cuda]" in stored
    assert "test_it[cpu]" not in stored


def test_a_task_on_the_gpu_is_not_charged_with_a_processor(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The reverse: the estimate knows nothing of a GPU's work."""
    pytester.makepyfile(
        test_it="""
import pytest
from pytest_carbon import TaskInfo

class Task:
    def __init__(self, device):
        self.device = device
    def __call__(self):
        return sum(range(20_000))
    def reset(self):
        pass
    def info(self):
        return TaskInfo("mine", "Model", None, "own", "given", "fp32", self.device, 1)

@pytest.mark.parametrize("device", ["cuda", "mps", "cpu", None])
def test_it(carbon, device):
    carbon(Task(device))
"""
    )
    run = run_carbon("--carbon-meter=estimate", "--carbon-min-time=0.1", "--carbon-max-time=1")
    assert run.outcomes() == {"passed": 4}, run.text
    warnings = {t["nodeid"].partition("[")[2][:-1]: t["measurements"][0]["warnings"] for t in run.report["tests"]}
    told = {id: [d["text"] for d in found if d["code"] == "other-device"] for id, found in warnings.items()}
    assert [id for id, texts in told.items() if texts] == ["cuda", "mps"]
    assert told["cuda"][0].startswith(
        "the task ran on the GPU (cuda), but the counted energy is that of cpu:0 (estimated: "
    )
    assert told["cuda"][0].endswith(
        ". Count the GPU (--carbon-meter=auto, --carbon-gpus=used and --carbon-domains=auto"
        " do where it can be read; pytest-carbon doctor says why it cannot), or run the task on the processor"
        " (device='cpu')"
    )


@pytest.mark.usefixtures("a_model")
def test_the_processor_that_is_counted_is_not_warninged(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """By the estimate, which is what the remedy says."""
    pytester.makepyfile("""
def test_it(carbon, carbon_task):
    carbon(carbon_task("text-classification", weights="random", data="synthetic", size="small", device="cpu"))
""")
    run = run_carbon("--carbon-meter=estimate", "--carbon-min-time=0.3", "--carbon-max-time=1")
    assert run.outcomes() == {"passed": 1}, run.text
    assert "other-device" not in {warning["code"] for warning in run.measurement("test_it")["warnings"]}


# --- out of memory ---------------------------------------------------------------------------------

OUT_OF_MEMORY = f"""{DRAWING}
import torch

ERROR = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB of which 14.75 MiB is "
    "free. Process 1 has 79.08 GiB memory in use."
)
calls = 0

def greedy(text):
    global calls
    calls += 1
    if calls > 3:
        raise torch.OutOfMemoryError(ERROR)
    return summarize(text)

@pytest.mark.carbon_budget(energy="1 mJ")
def test_greedy(carbon, carbon_task):
    carbon(carbon_task("summarization", model=greedy, data=["a"]))

def test_next(carbon, carbon_task):
    carbon(carbon_task("summarization", model=summarize, data=["a"]))
"""
RAN_OUT = (
    "out of memory in the middle of a call: 20.00 MiB more were asked for, and 14.75 MiB of 79.10 GiB were free. "
    "What helps: a smaller batch_size=, dtype='fp16' or 'bf16', a smaller model, or a device with more memory"
)


def test_out_of_memory_is_inconclusive(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """That test is skipped with the sentence, the next one runs; nothing of it is recorded."""
    pytester.makepyfile(test_it=OUT_OF_MEMORY)
    run = run_carbon("-rs", "--carbon-record", "--carbon-meter=battery")
    assert run.outcomes() == {"passed": 1, "skipped": 1}, run.text
    assert run.ret == 0
    assert f"test_it.py:28: {RAN_OUT}" in run.text
    found = run.measurement("test_greedy")
    assert (found["verdict"]["status"], found["verdict"]["reason"]) == (
        "inconclusive",
        f"nothing was measured: {RAN_OUT}",
    )
    assert (found["energy_j_per_call"], found["failure"], found["calls"]) == (None, None, 0)
    assert found["warnings"] == [{"code": "out-of-memory", "text": RAN_OUT, "disqualifies": True}]
    assert found["task"]["name"] == "summarization"
    assert run.status("test_next") == "new"
    stored = "".join(path.read_text("utf-8") for path in (pytester.path / "carbon-baselines").rglob("*.jsonl"))
    assert "test_next" in stored
    assert "test_greedy" not in stored


def test_strictly_it_fails(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As whatever is inconclusive does; but not where the gate only warns."""
    pytester.makepyfile(test_it=OUT_OF_MEMORY)
    run = run_carbon("--carbon-strict", "-k", "greedy")
    assert run.outcomes() == {"failed": 1, "deselected": 1}
    assert f"--carbon-strict: {RAN_OUT}" in run.text
    assert run.status("test_greedy") == "inconclusive"
    warned = run_carbon("--carbon-strict", "--carbon-gate=warn")
    assert warned.outcomes() == {"passed": 1, "skipped": 1}


def test_out_of_memory_without_the_switch(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A skip as well: the machine has not the memory, whether it is measured or not."""
    pytester.makepyfile(test_it=OUT_OF_MEMORY.replace("calls > 3", "calls > 0"))
    assert run_carbon(carbon=False).outcomes() == {"passed": 1, "skipped": 1}


def test_out_of_memory_of_other_callables_is_an_error(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is the test's own to handle; and so is any other error of a task."""
    pytester.makepyfile(f"""{OUT_OF_MEMORY}
def test_plain(carbon):
    with pytest.raises(torch.OutOfMemoryError):
        carbon(greedy, "a")

def test_zero(carbon, carbon_task):
    with pytest.raises(ZeroDivisionError):
        carbon(carbon_task("summarization", model=lambda text: 1 / 0, data=["a"]))
""")
    assert run_carbon("-k", "plain or zero").outcomes() == {"passed": 2, "deselected": 2}


# --- a user's own tasks ----------------------------------------------------------------------------


def test_a_registered_task(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The example of the hook's docstring: measured, and in the report."""
    pytester.makeconftest(example(hookspecs.pytest_carbon_tasks))
    pytester.makepyfile("""
import pytest
from battery import draw

class Translator:
    def __call__(self, text):
        draw(len(text))
        return text.upper()

def test_it(carbon, carbon_task):
    task = carbon_task("translation", model=Translator(), texts=["guten Tag"])
    assert carbon(task) == "GUTEN TAG"

def test_unknown(carbon_task):
    carbon_task("translatoin")
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1, "failed": 1}
    found = run.measurement("test_it")
    assert found["energy_j_per_call"] == pytest.approx(9.0)
    assert (found["task"]["name"], found["task"]["model"], found["task"]["tokens_in"]) == (
        *("translation", "Translator"),
        2.0,
    )
    assert "speech-recognition, translation. Did you mean translation?" in run.text


def test_a_task_of_a_folder_is_for_its_tests(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Whatever hooks of other folders register."""
    for folder in "ab":
        (pytester.mkdir(folder) / "conftest.py").write_text(
            f"def pytest_carbon_tasks(config):\n    return {{'mine': lambda: lambda: {folder!r}}}\n", "utf-8"
        )
        (pytester.path / folder / f"test_{folder}.py").write_text(
            f"def test_it(carbon, carbon_task):\n    assert carbon(carbon_task('mine')) == {folder!r}\n", "utf-8"
        )
    assert run_carbon(carbon=False).outcomes() == {"passed": 2}


def test_a_registered_task_is_freed(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Where it has something to free; the last one first, and when the test failed, too."""
    pytester.makeconftest("""
freed = []

class Mine:
    def __init__(self, name):
        self.name = name
    def __call__(self):
        return self.name
    def free(self):
        freed.append(self.name)

def pytest_carbon_tasks(config):
    return {"mine": Mine, "bare": lambda: int}

def pytest_unconfigure():
    print("freed:", *freed)
""")
    pytester.makepyfile("""
def test_it(carbon, carbon_task):
    carbon_task("mine", name="one")
    carbon_task("bare")
    carbon_task("mine", name="two")
    assert False
""")
    run = run_carbon("-s", carbon=False)
    assert run.outcomes() == {"failed": 1}
    assert "freed: two one" in run.text


def test_a_name_of_the_study_is_taken(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A task of that name would be compared with the study's."""
    pytester.makeconftest("def pytest_carbon_tasks(config):\n    return {'summarization': int}\n")
    pytester.makepyfile("def test_it(carbon_task):\n    carbon_task('summarization')\n")
    run = run_carbon(carbon=False)
    assert run.outcomes() == {"failed": 1}
    assert "pytest_carbon_tasks has 'summarization', which the study has, too: give yours another name" in run.text


def test_a_model_that_stops_early_fails_its_test(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """It is less work, and would look like a saving."""
    pytester.makepyfile("""
import types
import torch
from battery import draw

class Hasty(torch.nn.Module):
    config = types.SimpleNamespace(is_encoder_decoder=True)
    generation_config = types.SimpleNamespace(pad_token_id=0)
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
    def forward(self, input_ids):
        return input_ids
    def generate(self, **inputs):
        draw(1.0)
        return torch.tensor([[0, 5, 5, 5, 7, 0]])

class Tokenizer:
    pad_token, pad_token_id, model_max_length = "x", 0, 10
    def __call__(self, first, second, **how):
        return {"input_ids": torch.zeros(len(first), 3, dtype=int)}
    def batch_decode(self, ids, **how):
        return ["x"] * len(ids)

def test_early(carbon, carbon_task):
    carbon(carbon_task("summarization", model=Hasty(), tokenizer=Tokenizer(), data=["a"]))

def test_as_asked(carbon, carbon_task):
    carbon(carbon_task("summarization", model=Hasty(), tokenizer=Tokenizer(), data=["a"], new_tokens=5))

class Ending(Tokenizer):
    eos_token_id = 7

def test_padded(carbon, carbon_task):
    carbon(carbon_task("summarization", model=Hasty(), tokenizer=Ending(), data=["a"], new_tokens=5))
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 2, "passed": 1}
    assert run.measurement("test_padded")["failure"].startswith("summarization: the model stopped after 4 of 5 new tok")
    assert "summarization: the model stopped after 5 of 12 new tokens, so that this call was less work" in run.text
    assert run.measurement("test_as_asked")["task"]["tokens_out"] == 5


def test_a_model_that_stops_early_now_and_then_fails_its_test(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """Padding hides it, however the task is called; what goes before the measured calls is none of them."""
    pytester.makepyfile("""
import torch
from battery import draw

class Hasty(torch.nn.Module):
    calls = 0
    def __init__(self, early):
        super().__init__()
        self.early = early
    def forward(self, input_ids):
        return input_ids
    def generate(self, input_ids, **how):
        draw(1.0)
        new = torch.full((1, 10), 5)
        if self.early(self.calls):
            new[:, 3:] = 7
        self.calls += 1
        return torch.cat([input_ids, new], dim=1)

class Tokenizer:
    pad_token, pad_token_id, eos_token_id, model_max_length = "x", 7, 7, 100
    def __call__(self, first, second, **how):
        return {"input_ids": torch.zeros(len(first), 3, dtype=int)}
    def batch_decode(self, ids, **how):
        return ["x"] * len(ids)

def task(carbon_task, early):
    return carbon_task("text-generation", model=Hasty(early), tokenizer=Tokenizer(), data=["a"])

def test_every_second(carbon, carbon_task):
    carbon.run(task(carbon_task, lambda call: call % 2 == 0), queries=6)

def test_only_before(carbon, carbon_task):
    carbon.run(task(carbon_task, lambda call: call == 0), queries=6)

def test_window(carbon, carbon_task):
    mine = task(carbon_task, lambda call: call == 1)
    with carbon.window("three", calls=3):
        for _ in range(3):
            mine()

def test_one_of_two(carbon, carbon_task):
    mine, other = task(carbon_task, lambda call: False), task(carbon_task, lambda call: call > 0)
    carbon(lambda: (mine(), other()))
""")
    run = run_carbon("--carbon-record")
    assert run.outcomes() == {"failed": 3, "passed": 1}, run.text
    assert run.measurement("test_only_before")["task"]["tokens_out"] == 10
    for test, name in (("test_every_second", "call"), ("test_window", "three"), ("test_one_of_two", "call")):
        found = run.measurement(test, name)
        assert found["failure"].startswith("text-generation: the model stopped after 4 of 10 new tokens, so that"), test
        assert (found["energy_j_per_call"], found["task"]) == (None, None), test
    stored = "".join(path.read_text("utf-8") for path in (pytester.path / "carbon-baselines").rglob("*.jsonl"))
    assert "test_only_before" in stored
    assert "test_every_second" not in stored


def test_a_callable_is_held_to_the_tokens_that_it_was_to_write(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """In every call; one that does not tell is refused, and one that was not asked is taken as it is."""
    pytester.makepyfile(f"""{DRAWING}
from itertools import count

def now_and_then(text, calls=count()):
    draw(2.0)
    return {{"tokens_out": 10 if next(calls) % 2 else 3}}

def test_early(carbon, carbon_task):
    carbon(carbon_task("text-generation", model=now_and_then, data=["a"], new_tokens=10))

def test_silent(carbon, carbon_task):
    carbon(carbon_task("text-generation", model=lambda text: draw(2.0), data=["a"], new_tokens=10))

def test_as_asked(carbon, carbon_task):
    carbon(carbon_task("text-generation", model=summarize, data=["a"], new_tokens=4))

def test_free(carbon, carbon_task):
    carbon.run(carbon_task("text-generation", model=now_and_then, data=["a"]), queries=6)
""")
    run = run_carbon()
    assert run.outcomes() == {"failed": 2, "passed": 2}, run.text
    assert "text-generation: the model stopped after 3 of 10 new tokens, so that this call was less work" in run.text
    assert "text-generation: new_tokens=10 cannot be checked: what test_silent.<locals>.<lambda> returned " in run.text
    found = {test: run.measurement(test)["task"] for test in ("test_as_asked", "test_free")}
    assert [(task["new_tokens"], task["tokens_out"]) for task in found.values()] == [(4, 4.0), (None, 6.5)]


HOLLOW = """
def test_it(carbon, carbon_task):
    carbon(carbon_task("text-classification", weights="hollow", data="synthetic", size="small"))
"""


def test_hollow_weights_are_not_measured(run_carbon: CarbonRunner, pytester: pytest.Pytester, a_model: None) -> None:
    """Nothing is computed with them: the energy of that would be no figure of the model."""
    pytester.makepyfile(HOLLOW)
    run = run_carbon()
    assert run.ret == 1
    assert "hollow weights have no numbers, so that nothing was computed" in " ".join(run.text.split())
    assert run.measurement("test_it")["energy_j_per_call"] is None


def test_hollow_weights_are_counted(run_work: WorkRunner, pytester: pytest.Pytester, a_model: None) -> None:
    """The report says what a call was, and that its weights were hollow."""
    pytester.makepyfile(HOLLOW)
    run = run_work()
    assert run.outcomes() == {"passed": 1}
    measurement = run.measurement("test_it")
    assert measurement["work"]["engine"] == "hollow"
    assert measurement["work"]["warnings"] == []
    assert (measurement["task"]["weights"], measurement["task"]["tokens_in"] > 0) == ("hollow", True)
    assert "small variants of the study's tasks (work counted, not energy measured)" in run.text
