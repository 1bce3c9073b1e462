"""The reference pages of the site are made from the code, and leave nothing out."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

import pytest_carbon
from pytest_carbon.gate.budget import KEYWORDS, parse
from pytest_carbon.plugin import hookspecs, options
from pytest_carbon.plugin.fixture import Carbon
from pytest_carbon.records import Settings, UsageProblem
from pytest_carbon.records.codes import IGNORABLE, NEVER

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The extension of the site; it needs no Sphinx."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "_ext" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(table: str) -> dict[str, list[str]]:
    """The rows of a table by the code in their first cell."""
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in table.splitlines() if line.startswith("| `")]
    return {first.strip("`").replace(r"\|", "|"): rest for first, *rest in cells}


def test_every_part_is_on_one_page(reference: ModuleType) -> None:
    """And no page asks for a part that does not exist."""
    pages = "\n".join(path.read_text("utf-8") for path in DOCS.rglob("*.md"))
    assert sorted(re.findall(r"^<!-- reference: ([\w-]+) -->$", pages, re.M)) == sorted(reference.PARTS)


def test_every_option_with_its_key_and_its_default(reference: ModuleType) -> None:
    """The default that the help says is the one of the settings."""
    every = (options.SWITCH, *options.OPTIONS)
    shown = re.findall(
        r"^## `(.*)`\n\n(.+)\n\n\*Default: (.*); (?:ini key `(\w+)`|no ini key)\.\*$", reference.option_list(), re.M
    )
    assert [usage for usage, *_ in shown] == [option.usage for option in every]
    for option, (_, _, default, key) in zip(every, shown, strict=True):
        assert key == (option.key if option.ini else "")
        value = getattr(Settings(), option.field)
        with contextlib.suppress(ValueError):  # a sentence, such as: the world's average
            assert option.read(default, Path()) == value or value is None, option.flag


def test_every_keyword_of_the_marker(reference: ModuleType) -> None:
    """Those that a marker may have."""
    with pytest.raises(UsageProblem) as refused:
        parse(nonsense=1)
    assert f"the keywords are {', '.join(KEYWORDS)}." in str(refused.value)
    assert list(rows(reference.marker())) == [f"{keyword}=" for keyword in KEYWORDS]


def test_every_hook_with_its_example(reference: ModuleType) -> None:
    """And every argument of the fixture."""
    names = [name for name in vars(hookspecs) if name.startswith("pytest_carbon_")]
    parts = reference.hooks().split("## ")[1:]
    assert [re.match(r"`(\w+)", part)[1] for part in parts] == names  # type: ignore[index]
    for name, part in zip(names, parts, strict=True):
        example = part.rpartition("```python\n")[2].partition("```")[0]
        assert f"def {name}(config" in example
        compile(example, name, "exec")
    for argument in list(inspect.signature(Carbon.run).parameters)[1:]:
        assert f"{argument}" in reference.fixtures()


def test_every_warning_with_its_remedy(reference: ModuleType) -> None:
    """Each code of the package, and no other."""
    source = "\n".join(path.read_text("utf-8") for path in Path(pytest_carbon.__file__).parent.rglob("*.py"))
    codes = set(re.findall(r'Warning\(\s*"([a-z-]+)"', source))
    page = reference.warnings()
    shown = set(re.findall(r"^## `([a-z-]+)`$", page, re.M))
    assert codes <= shown == set(reference.explained_warnings())
    assert page.count("**What to do**") == len(shown)
    effects = {code: effect for code, (effect, _) in reference.warning_codes().items()}
    assert (effects["tail"], effects["short"], effects["unquiet"]) == ("informs", "disqualifies", "either")


def test_every_warning_can_be_ignored_or_says_why_not(reference: ModuleType) -> None:
    """``--carbon-ignore`` knows each code of the package, and takes none that only informs."""
    effects = {code: effect for code, (effect, _) in reference.warning_codes().items()}
    assert set(effects) == IGNORABLE | NEVER.keys()
    assert not IGNORABLE & NEVER.keys()
    informs = {code for code, effect in effects.items() if effect == "informs"}
    assert informs == {code for code, why in NEVER.items() if why.startswith("it only informs")}


def test_every_exit_status_and_command(reference: ModuleType) -> None:
    """Of this pytest, and of each command that says one in its help."""
    assert [f"{int(code)}" for code in pytest.ExitCode] == list(rows(reference.exit_statuses()))[: len(pytest.ExitCode)]
    helps = reference.helps()
    assert {"pytest-carbon doctor", "pytest-carbon compare", "pytest-carbon baseline accept"} <= set(helps)
    for name, text in helps.items():
        assert text.startswith(f"usage: {name} "), name


def test_every_key_of_a_report(reference: ModuleType) -> None:
    """With its meaning, in the section of the part of the schema that has it."""
    schema = json.loads(reference.SCHEMA.read_text("utf-8"))
    sections = dict(re.findall(r"^### ([^\n]*)\n(.*?)(?=^### |\Z)", reference.report_format(), re.M | re.S))
    assert list(sections) == ["The report", *schema["$defs"]]
    for name, part in {"The report": schema, **schema["$defs"]}.items():
        shown = rows(sections[name])
        described = {
            key: of_key["description"] for key, of_key in part["properties"].items() if "description" in of_key
        }
        assert {key: shown[key][1].replace(r"\|", "|") for key in described} == described
        assert "allOf" in part or part["properties"].keys() <= shown.keys()


def test_a_file_of_counts_has_the_keys_of_the_reference(reference: ModuleType) -> None:
    """As the committed counts of the examples have them."""
    (table,) = re.findall(r"### Counted work.*?(?=^`by_class`)", reference.baseline_format(), re.M | re.S)
    for path in (ROOT / "examples" / "carbon-baselines" / "work-cpu").glob("*.jsonl"):
        for line in path.read_text("utf-8").split("\n\n")[1:]:
            assert list(json.loads(line)) == list(rows(table)), path
