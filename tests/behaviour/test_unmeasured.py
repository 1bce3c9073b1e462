"""A measurement that disappears is named, with what became of its test; --carbon-strict fails the run."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import MACHINE, CarbonRunner, slow_but
from console import carbon
from faults import records

from pytest_carbon.records import label

STRICT = "--carbon-strict"
BEFORE = """
import pytest
from battery import draw

def test_it(carbon):
    with carbon.window("decode"):
        draw(2.0)

@pytest.mark.carbon_budget
def test_other():
    draw(1.0)
"""
WITHOUT_IT = "the test passed without it"
AFTER: dict[str, tuple[str, str, str]] = {
    "renamed": ('window("decode")', 'window("decoding")', WITHOUT_IT),
    "never entered": ("    with carbon", "    for _ in ():\n      with carbon", WITHOUT_IT),
    "an early return": ("    with carbon", "    return\n    with carbon", WITHOUT_IT),
    "conditional": ("    with carbon", '    if len("") > 1:\n      with carbon', WITHOUT_IT),
    "without the fixture": ('(carbon):\n    with carbon.window("decode"):\n        ', "():\n    ", WITHOUT_IT),
    "a swallowed error": (
        '    with carbon.window("decode"):\n        draw(2.0)',
        '    try:\n        with carbon.window("decode"):\n            1 / 0\n'
        "    except ZeroDivisionError:\n        pass",
        WITHOUT_IT,
    ),
    "skipped inside": ("    with carbon", '    pytest.skip("no weights")\n    with carbon', "was skipped: no weights"),
    "skipped by a marker": ("def test_it", '@pytest.mark.skip(reason="later")\ndef test_it', "was skipped: later"),
    "fails as expected": (
        "def test_it(carbon):",
        '@pytest.mark.xfail(reason="broken")\ndef test_it(carbon):\n    assert 0',
        "failed as expected: broken",
    ),
    "skipped at run time by a fixture": (
        "def test_it(carbon",
        '@pytest.fixture\ndef gpu():\n    pytest.skip("no GPU")\n\ndef test_it(gpu, carbon',
        "was skipped: no GPU",
    ),
    "the module skips itself": ("import pytest\n", "import pytest\npytest.importorskip('nothing_like_it')\n", "module"),
}


def rewrite(pytester: pytest.Pytester, old: str, new: str) -> None:
    assert old in BEFORE
    (pytester.path / "test_it.py").write_text(BEFORE.replace(old, new), "utf-8")


@pytest.fixture
def recorded(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=BEFORE)
    # so that a run is complete although this module is empty
    pytester.makepyfile(test_more="def test_more(carbon):\n    from battery import draw\n    carbon(draw, 1.0)\n")
    # on a busy machine, no call of this kind is steady
    assert run_carbon("--carbon-record", "--carbon-ignore=unsteady").ret == 0


@pytest.mark.slow_beyond(4)
@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("change", AFTER)
def test_what_a_test_no_longer_measures_is_named(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, change: str
) -> None:
    """Green without --carbon-strict, and red with it, also where a part of the suite runs."""
    old, new, why = AFTER[change]
    rewrite(pytester, old, new)
    run = run_carbon()
    assert run.ret == 0
    (lost, *others) = run.report["unmeasured"]
    assert (lost["test"], lost["name"], lost["machine"]) == ("test_it.py::test_it", "decode", MACHINE)
    assert why in lost["why"]
    assert [each["test"] for each in others] == ["test_it.py::test_other"] * (change == "the module skips itself")
    named = f"no longer measured: test_it.py::test_it · decode ({lost['why']})"
    assert named in run.text
    assert named in " ".join(run.report["notes"])
    assert "give it its old name" in run.text
    strict = run_carbon(STRICT, "-q", "test_it.py")
    status = pytest.ExitCode.NO_TESTS_COLLECTED if others else pytest.ExitCode.TESTS_FAILED
    assert (strict.ret, strict.report["exit_status"]) == (status, status)
    assert f"ERROR: --carbon-strict: {named}" in strict.text


@pytest.mark.usefixtures("recorded")
def test_the_command_that_removes_it(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """As the run prints it, with the place of the baselines."""
    (pytester.path / "carbon-baselines").rename(pytester.path / "the place")
    rewrite(pytester, *AFTER["renamed"][:2])
    run = run_carbon("--carbon-baseline=the place")
    command = "pytest-carbon baseline remove '--baseline=the place' test_it.py::test_it decode"
    assert f"if it is not needed any more, {command}" in run.text
    assert "decode: 1 record in" in carbon(*shlex.split(command)[1:]).text
    assert carbon(*shlex.split(command)[1:], "--yes").lines[-1] == "Deleted 1 record."
    assert run_carbon("--carbon-baseline=the place").report["unmeasured"] == []


@pytest.mark.usefixtures("recorded")
def test_no_meter_is_needed_where_no_test_measures(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A module of tests for a GPU that is left out on a laptop: the run says what it does not know, and goes on."""
    pytester.makeconftest("collect_ignore = ['test_it.py', 'test_more.py']")
    pytester.makepyfile(test_plain="def test_plain():\n    pass\n")
    run = run_carbon(STRICT, "--carbon-meter=replay:/no/such/trace.jsonl")
    assert (run.ret, run.outcomes()) == (0, {"passed": 1})
    assert "no collected test measures, and which machine this is is unknown" in run.text
    assert "/no/such/trace.jsonl" in run.text
    run = run_carbon(STRICT)
    assert (run.ret, run.outcomes()) == (1, {"passed": 1})
    assert "test_it.py::test_it and 2 more have a baseline" in run.text


@pytest.mark.usefixtures("recorded")
def test_a_marker_that_was_removed(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Its test measures nothing any more; nor does any other in the last part."""
    rewrite(pytester, "@pytest.mark.carbon_budget\n", "")
    run = run_carbon(STRICT)
    assert (run.ret, run.outcomes()) == (1, {"passed": 3})
    assert "no longer measured: test_it.py::test_other (the test passed without it)" in run.text
    run = run_carbon(STRICT, "test_it.py::test_other")
    assert (run.ret, run.outcomes()) == (1, {"passed": 1})
    assert "no longer measured: test_it.py::test_other" in run.text
    run = run_carbon(STRICT, "test_it.py::test_other", "--carbon-sessions=2", subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"passed": 1})


@pytest.mark.usefixtures("recorded")
def test_it_is_named_where_tests_run_in_fresh_processes(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Of a test that measures, of one that does not any more, and of one that is skipped."""
    source = BEFORE.replace('"decode"', '"decoding"').replace("@pytest.mark.carbon_budget\n", "")
    pytester.makepyfile(
        test_it=source, test_more="import pytest\n\ndef test_more(carbon):\n    pytest.skip('not here')\n"
    )
    run = run_carbon(STRICT, "--carbon-gate=warn", "--carbon-sessions=2", subprocess=True)
    assert run.ret == 0
    assert [(lost["test"], lost["why"]) for lost in run.report["unmeasured"]] == [
        ("test_it.py::test_it", WITHOUT_IT),
        ("test_it.py::test_other", WITHOUT_IT),
        ("test_more.py::test_more", "the test was skipped: not here"),
    ]


@pytest.mark.usefixtures("recorded")
def test_what_says_so_itself_is_not_named(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A failed test, one that was not selected, and one that measures as before."""
    rewrite(pytester, "    with carbon", "    assert not 1\n    with carbon")
    run = run_carbon()
    assert (run.ret, run.outcomes()["failed"], run.report["unmeasured"]) == (1, 1, [])
    run = run_carbon("-k", "test_other")
    assert (run.ret, run.report["unmeasured"]) == (0, [])


@pytest.mark.usefixtures("recorded")
def test_a_test_that_no_longer_exists(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Also the last one of its module, and one whose parameter has another id: --carbon-strict fails the run."""
    pytester.makepyfile(test_it="def it():\n    pass\n")
    run = run_carbon(STRICT)
    assert run.ret == 1
    assert "ERROR: --carbon-strict: test_it.py::test_it and 1 more have a baseline in" in run.text
    parameter = "@pytest.mark.parametrize('n', [{}])\ndef test_n(carbon, n):\n    carbon(draw, 1.0)\n"
    head = "import pytest\nfrom battery import draw\n\n"
    pytester.makepyfile(test_more=head + parameter.format(1))
    run_carbon("--carbon-record", "test_more.py")
    pytester.makepyfile(test_more=head + parameter.format(2))
    (pytester.path / "test_it.py").write_text(BEFORE, "utf-8")
    assert "--carbon-strict: test_more.py::test_more and 1 more have a baseline" in run_carbon(STRICT).text


@pytest.mark.slow
@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("arguments", [(), ("--carbon-sessions=2",)], ids=["here", "fresh processes"])
def test_no_test_measures_any_more(
    run_carbon: CarbonRunner, pytester: pytest.Pytester, arguments: tuple[str, ...]
) -> None:
    """All were renamed at once, or their files: the run says so, too, and --carbon-strict fails it."""
    for name in ("test_it.py", "test_more.py"):
        (pytester.path / name).unlink()
    pytester.makepyfile(test_plain="def test_plain():\n    pass\n")
    run = run_carbon(*arguments, subprocess=True)
    assert (run.ret, "3 with a baseline were not run" in run.text) == (0, True)
    run = run_carbon(STRICT, *arguments, subprocess=True)
    assert (run.ret, run.outcomes()) == (1, {"passed": 1})
    assert "ERROR: --carbon-strict: test_it.py::test_it and 2 more have a baseline in" in run.text
    for selected in (("test_plain.py",), ("--ignore=test_more.py",)):
        assert run_carbon(STRICT, *selected, subprocess=True).ret == 0


@pytest.mark.usefixtures("recorded")
def test_a_module_that_is_no_longer_collected(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """A conftest ignores it: strictly that is a test that is gone. --ignore selects, as -k does."""
    pytester.makeconftest("collect_ignore = ['test_it.py']\n")
    run = run_carbon(STRICT)
    assert run.ret == 1
    assert "ERROR: --carbon-strict: test_it.py::test_it and 1 more have a baseline in" in run.text
    (pytester.path / "conftest.py").unlink()
    assert "--carbon-strict: test_it" not in run_carbon(STRICT, "--ignore=test_it.py").text


@pytest.mark.slow
@pytest.mark.parametrize("mode", slow_but("importlib", ["importlib", "prepend"]))
def test_tests_outside_the_root_dir(run_carbon: CarbonRunner, pytester: pytest.Pytester, mode: str) -> None:
    """Their ids are dotted names: a module that skips itself, and one that is gone, are told all the same."""
    for folder in ("conf", "checks"):
        (pytester.path / folder).mkdir()
    (pytester.path / "conf" / "pytest.ini").write_text(f"[pytest]\naddopts = --import-mode={mode}\n", "utf-8")
    (pytester.path / "checks" / "test_it.py").write_text(BEFORE, "utf-8")
    (pytester.path / "checks" / "test_plain.py").write_text("def test_plain():\n    pass\n", "utf-8")
    arguments = ("-c", "conf/pytest.ini")
    assert run_carbon("--carbon-record", *arguments, "checks", subprocess=True).ret == 0
    skipping = f"import pytest\npytest.skip('no GPU', allow_module_level=True)\n{BEFORE}"
    (pytester.path / "checks" / "test_it.py").write_text(skipping, "utf-8")
    run = run_carbon(STRICT, *arguments, "checks", subprocess=True)
    assert (run.ret, {lost["why"] for lost in run.report["unmeasured"]}) == (1, {"its module was skipped: no GPU"})
    (pytester.path / "checks" / "test_it.py").unlink()
    for places in (["checks"], ["."], []) if mode == "importlib" else (["."], []):
        run = run_carbon(STRICT, *arguments, *places, subprocess=True)
        assert run.ret == 1
        assert "test_it::test_it and 1 more have a baseline in" in run.text
    assert run_carbon(STRICT, *arguments, "checks/test_plain.py", subprocess=True).ret == 0


@pytest.mark.usefixtures("recorded")
def test_what_is_not_needed_any_more_is_removed(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """By the command that the message names; first it says what it would delete."""
    rewrite(pytester, 'window("decode")', 'window("decoding")')
    run_carbon("--carbon-record")
    command = ("baseline", "remove", "test_it.py::test_it", "decode")
    shown = carbon(*command)
    assert (shown.ret, "test_it.py::test_it · decode: 1 record in" in shown.text) == (0, True)
    assert "Nothing was deleted. Add --yes" in shown.text
    assert run_carbon().report["unmeasured"]
    assert carbon(*command, "--yes").lines[-1] == "Deleted 1 record."
    assert [r["name"] for r in records(Path()) if r["test"] == "test_it.py::test_it"] == ["decoding"]
    assert not run_carbon().report["unmeasured"]
    again = carbon(*command)
    assert again.ret == 4
    assert "has no baseline of 'decode'; it has baselines of: decoding" in " ".join(again.err.split())
    assert "no test 'test_it.py::test_ti' has a baseline. Did you mean" in " ".join(
        carbon("baseline", "remove", "test_it.py::test_ti").err.split()
    )


def git(*arguments: str) -> Any:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    return subprocess.run(["git", *arguments], check=True, capture_output=True, env=os.environ | who)


BESIDE = {
    "renamed": ('window("decode")', 'window("decoding")', ("test_it.py::test_it", "decode")),
    "a marker that was removed": ("@pytest.mark.carbon_budget\n", "", ("test_it.py::test_other", "call")),
    "a fixture that was removed": (
        '(carbon):\n    with carbon.window("decode"):\n        ',
        "():\n    ",
        ("test_it.py::test_it", "decode"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", BESIDE)
def test_beside_another_revision(run_carbon: CarbonRunner, pytester: pytest.Pytester, change: str) -> None:
    """What it measures and the working tree does not is no longer measured, too."""
    old, new, key = BESIDE[change]
    pytester.makepyfile(test_it=BEFORE)
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "before")
    rewrite(pytester, old, new)
    against = ("--carbon-against=HEAD", "--carbon-sessions=2")
    run = run_carbon(*against, subprocess=True)
    assert run.ret == 0
    assert [(lost["test"], lost["name"]) for lost in run.report["unmeasured"]] == [key]
    assert f"no longer measured: {label(key)} (HEAD" in run.text
    assert run_carbon(*against, STRICT, subprocess=True).ret == 1
