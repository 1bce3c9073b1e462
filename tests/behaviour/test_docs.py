"""The docs say what is so: their examples run, their tables are complete, their links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from conftest import QUICK, CarbonRunner

import pytest_carbon
from pytest_carbon.baselines.format import GIT_ATTRIBUTES
from pytest_carbon.plugin import options
from pytest_carbon.records import Settings, Status

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(text: str) -> dict[str, list[str]]:
    """The rows of a page's tables whose first cell is code: that, and the other cells."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:3] == "| `"]
    return {re.findall(r"`([^`]+)`", first)[0]: [first, *rest] for first, *rest in cells}


def code(text: str, after: str = "") -> str:
    """The first block of Python after a place."""
    (block,) = re.findall(r"```python\n(.*?)```", text[text.index(after) :], re.DOTALL)[:1]
    return str(block)


def test_the_readmes_first_test_runs(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """With a classifier and a batch, and as much energy as its marker allows."""
    pytester.makeconftest("""
import pytest
from battery import draw

class Logits:
    shape = (8, 2)

@pytest.fixture
def classifier():
    def classify(**batch):
        draw(2.0)
        return Logits()
    return classify

@pytest.fixture
def batch():
    return {"input_ids": [[1, 2]]}
""")
    pytester.makepyfile("import pytest\n\n" + code(page("README.md")))
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}
    assert run.measurement("test_classify")["verdict"]["limit_j_per_call"] == 2.5


def test_the_readmes_table_has_every_option() -> None:
    """With its default, and a star where there is an ini key."""
    shown = {re.split("[ =]", name)[0]: cells for name, cells in rows(page("README.md")).items()}
    every = (options.SWITCH, *options.OPTIONS)
    assert list(shown) == [option.flag for option in every]
    for option in every:
        first, default, _ = shown[option.flag]
        assert first.endswith(" *") == option.ini, option.flag
        value = getattr(Settings(), option.field)
        if value is None or value is False:
            assert default == ("–" if value is None else "off"), option.flag
        else:
            assert option.read(default.strip("`"), Path()) == value, option.flag


def test_every_warning_is_explained() -> None:
    """docs/measuring.md and docs/work.md have each code that the package can give, and no other."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in Path(pytest_carbon.__file__).parent.rglob("*.py"))
    given = set(re.findall(r'Warning\(\s*"([a-z-]+)"', source))
    pages = [page(f"docs/{name}.md").partition("## Warnings")[2] for name in ("measuring", "work")]
    assert {code for explained in pages for code in rows(explained)} == given


def test_every_status_is_explained_in_the_order_of_precedence() -> None:
    """docs/gate.md says what each means."""
    assert list(rows(page("docs/gate.md"))) == list(get_args(Status))


def test_the_schema_of_the_docs_validates_a_report(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As docs/report.md says; and it finds a fault."""
    import jsonschema

    pytester.makepyfile("from battery import draw\n\ndef test_it(carbon):\n    carbon(draw, 2.0)\n")
    run_carbon()
    program = compile(code(page("docs/report.md")), "report.md", "exec")
    exec(program, {})
    text = (pytester.path / "report.json").read_text("utf-8")
    (pytester.path / "report.json").write_text(text.replace('"calls": ', '"calls": -'), "utf-8")
    with pytest.raises(jsonschema.ValidationError):
        exec(program, {})


def test_the_line_for_git_is_the_one_that_works() -> None:
    """Wherever it stands."""
    for name in ("docs/gate.md", "docs/ci.md", ".gitattributes"):
        assert GIT_ATTRIBUTES in page(name)


def test_the_table_of_the_reference_workload_is_of_its_results() -> None:
    """As the benchmark wrote them."""
    from benchmarks.reference import table

    results = json.loads((ROOT / "benchmarks/results/reference.json").read_text("utf-8"))
    shown = page("docs/gate-evidence.md").partition("<!-- table: benchmarks/results/reference.json -->\n")[2]
    assert shown.partition("\n<!-- end of the table -->")[0] == table(results["rows"])
    for cost in results["cost"]:
        assert f"{cost['duration_s']:.1f} s and {cost['energy_j']:.0f} J" in page("docs/gate-evidence.md")


def test_the_table_of_killed_runs_is_of_its_results() -> None:
    """As the benchmark wrote them."""
    results = json.loads((ROOT / "benchmarks/results/abuse.json").read_text("utf-8"))
    assert results["met"]
    row = r"^\| .* \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$"
    shown = re.findall(row, page("docs/baselines.md"), re.MULTILINE)
    columns = ("kills", "old", "new", "some_files", "else")
    assert [tuple(map(int, row)) for row in shown] == [
        tuple(each[column] for column in columns) for each in results["killed"].values()
    ]


def test_the_table_of_the_cache_is_of_its_results() -> None:
    """As the benchmark wrote them."""
    models = json.loads((ROOT / "benchmarks/results/work.json").read_text("utf-8"))["cache"]["models"]
    table = page("docs/work.md").partition("<!-- cache: ")[2].partition("<!-- end -->")[0]
    shown = re.findall(r"^\| (.*\)) \| ([\d.]+)× \| ([\d.]+)× \| ([\d.]+)× \|$", table, re.MULTILINE)
    assert {name: figures for name, *figures in shown} == {
        name: [f"{now / before:.2f}" for before, now in counts.values()] for name, counts in models.items()
    }


def test_what_the_benchmark_of_counted_work_found_is_what_the_docs_say() -> None:
    """Each part met its bar, and the page has its figure."""
    results = json.loads((ROOT / "benchmarks/results/work.json").read_text("utf-8"))
    assert [name for name, figures in results.items() if not figures["met"]] == []
    figures = page("docs/work.md").partition("## How well")[2]
    cost, same, start = results["cost"], results["invariance"], results["startup"]
    for said in (
        f"{len(results['faults']['faults'])} of {len(results['faults']['faults'])}",
        f"{results['refactorings']['red']} of {results['refactorings']['runs']:,}",
        f"{cost['operator_cpu_s'] * 1e6:.0f} µs",
        f"{cost['suite_cpu_s']:.0f} s",
        f"{same['counts']} counts",
        f"{same['suite_runs']} runs",
        f"{start['cpu_s'] * 1e3:+.2f} ± {start['cpu_error_s'] * 1e3:.2f} ms",
        " → ".join(results["versions"]["transformers"]),
    ):
        assert said in figures, said


def test_the_flags_that_the_pages_and_workflows_name_exist() -> None:
    """In commands, and in what the action is given."""
    flags = {option.flag for option in (options.SWITCH, *options.OPTIONS)}
    for name in ("docs/ci.md", "docs/work.md", "examples/README.md"):
        assert set(re.findall(r"(?:pytest|\s)\s(--carbon[a-z-]*)", page(name))) <= flags, name
    for path in (*ROOT.glob("examples/ci/*.yml"), *ROOT.glob("templates/*.yml"), ROOT / "action.yml"):
        assert set(re.findall(r"[\s\"`](--carbon[a-z-]*)", path.read_text("utf-8"))) <= flags, path


def test_the_page_on_ci_has_every_file_and_every_input() -> None:
    """In its tables, with the defaults; a workflow is shown nowhere but in its file."""
    import yaml

    shown = page("docs/ci.md")
    for path in (*ROOT.glob("examples/ci/*.yml"), *ROOT.glob("templates/*.yml")):
        assert f"](../{path.relative_to(ROOT)})" in shown, path
    action, described = yaml.safe_load(page("action.yml")), rows(shown)
    assert list(action["inputs"]) == [name for name in described if name in action["inputs"]]
    for name, one in action["inputs"].items():
        default = described[name][1].strip("`")
        assert default == {"arguments": "–", "token": "the job's own"}.get(name, one.get("default")), name
    assert set(action["outputs"]) <= set(re.findall(r"`([a-z-]+)`", shown))
    for block in re.findall(r"```yaml\n(.*?)```", shown, re.DOTALL):
        assert "run:" not in block
        for name in yaml.safe_load(block)[0]["with"]:
            assert name in action["inputs"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """To a file, and to a heading of it where one is named."""
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], target


@pytest.fixture
def counter_file(pytester: pytest.Pytester) -> Iterator[Path]:
    """A counter as hwmon shows it, in microjoules: 100 W, in steps of 10 ms, for as long as the test lasts."""
    path = pytester.path / "energy1_input"
    path.write_text("0\n")
    ended = threading.Event()

    def count() -> None:
        begun_s = time.perf_counter()
        while not ended.wait(0.01):
            fresh = path.with_suffix(".new")
            fresh.write_text(f"{round((time.perf_counter() - begun_s) * 100e6)}\n")
            os.replace(fresh, path)

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    yield path
    ended.set()
    thread.join()


def test_the_meter_of_the_docs_measures(pytester: pytest.Pytester, counter_file: Path) -> None:
    """As written there, but for the path of the counter; and the report's hook adds its line."""
    text = page("docs/extending.md")
    meter = code(text, "<!-- file: hwmon_meter.py -->")
    hook = code(text, "<!-- file: conftest.py -->").replace("/sys/class/hwmon/hwmon3/energy1_input", str(counter_file))
    report = code(text, "## A report of your own")
    pytester.makepyfile(hwmon_meter=meter, test_it="def test_it(carbon):\n    carbon(sum, range(1000))\n")
    pytester.makeconftest(hook + "\n\n" + report)
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "--carbon", "--carbon-meter=board", *QUICK)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*= carbon: *-board =*", "*test_it * ± *", "the dearest call is in test_it.py::test_it"]
    )


def test_the_task_of_the_docs_is_measured_and_reported(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As written there, by its name in ``carbon_task``, with its info in the report."""
    task = code(page("docs/extending.md"), "## A task of your own")
    pytester.makeconftest(task)
    pytester.makepyfile("""
from battery import draw

def translate(text):
    draw(2.0)
    return text

def test_it(carbon, carbon_task):
    carbon(carbon_task("translation", model=translate, texts=["guten Tag"]))
""")
    run = run_carbon()
    assert run.outcomes() == {"passed": 1}
    info = run.measurement("test_it")["task"]
    assert (info["name"], info["model"], info["tokens_in"]) == ("translation", "function", 2.0)


def test_every_block_of_python_can_be_compiled() -> None:
    """Also where a library is missing that it needs, or where it is a part of something."""
    blocks = [
        (path, block)
        for path in PAGES
        for block in re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)
    ]
    assert len(blocks) > 10
    for path, block in blocks:
        compile(f"{block}\ndef decorated(): ...\n", str(path), "exec")
