"""The options beside other plugins' and in pytest's own output: clashes, refusals, help."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.usefixtures("all_plugins")  # with PYTEST_PLUGINS, -p no:carbon would leave it there

OURS = """
import pytest
from pytest_carbon.plugin import options

def pytest_addoption(parser):
    options.add_options(parser)

@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser):
    yield
    options.add_switch(parser)

def pytest_configure(config):
    if options.anything_given(config):
        from pytest_carbon.plugin import settings

        settings.read_settings(config)
"""
"""The least plugin that has the options: the whole one would hide which of its parts is tested."""


BOTH = """
carbon carbon-gate carbon-baseline carbon-tolerance carbon-false-alarms carbon-meter carbon-gpus carbon-domains
carbon-country carbon-region carbon-cloud carbon-intensity carbon-pue carbon-warmup carbon-rounds carbon-min-time
carbon-max-time carbon-precision carbon-strict
"""
SMALL = [
    "pytest_carbon",
    "pytest_carbon.host",
    "pytest_carbon.host.stdlib",
    "pytest_carbon.plugin",
    *(f"pytest_carbon.plugin.{name}" for name in ("options", "values")),
]
"""What everybody pays for who has the plugin installed: together 2 ms."""
FLAGS_ONLY = "carbon-record carbon-accept carbon-json carbon-html"


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    pytester.makepyfile(ours=OURS)
    pytester.syspathinsert()
    return pytester.runpytest_subprocess("-p", "no:carbon", *args)


def errors(result: pytest.RunResult) -> list[str]:
    return [line for line in result.errlines if line.startswith("ERROR: ")]


_CLASH = (
    "ERROR: --carbon is an option of pytest-carbon and of another plugin (pytest-codecarbon has a --carbon, too). "
    "Disable one of the two, on the command line or in addopts: -p no:codecarbon, or -p no:carbon for this one"
)
OTHER = """
def pytest_addoption(parser):
    parser.getgroup("Carbon").addoption("--carbon", action="store_true", help="generate carbon information")
"""


@pytest.mark.parametrize("order", [("ours", "other"), ("other", "ours")], ids=" before ".join)
def test_another_plugin_with_the_same_flag_is_told(pytester: pytest.Pytester, order: tuple[str, str]) -> None:
    """Whichever of them loads first: a sentence with the remedy, not a traceback."""
    pytester.makepyfile(other=OTHER)
    result = run(pytester, "-p", order[0], "-p", order[1])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert errors(result) == [_CLASH]


def test_a_conftest_with_the_same_flag_is_told(pytester: pytest.Pytester) -> None:
    """A suite's own ``--carbon`` ends in the same sentence."""
    pytester.makeconftest(OTHER)
    result = run(pytester, "-p", "ours")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert errors(result) == [_CLASH]


def test_help_lists_every_option_and_key(pytester: pytest.Pytester) -> None:
    """``pytest --help`` is where they are looked up."""
    result = run(pytester, "-p", "ours", "--help")
    assert result.ret == 0
    shown = result.stdout.str()
    for name in BOTH.split():
        assert f"  --{name}" in shown
        assert f"\n  {name.replace('-', '_')} (" in shown
    for name in FLAGS_ONLY.split():
        assert f"  --{name}" in shown
        assert f"\n  {name.replace('-', '_')} (" not in shown


def test_all_problems_are_told_at_once(pytester: pytest.Pytester) -> None:
    """Nobody likes to find them one run after the other; also without ``--carbon``; the exit status is 4."""
    pytester.makeini("[pytest]\ncarbon_rounds = 1")
    pytester.makepyfile("def test_it(): pass")
    result = run(pytester, "-p", "ours", "--carbon-gate=never")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert errors(result) == [
        "ERROR: --carbon-gate=never: write one of fail, warn.",
        f"ERROR: carbon_rounds = 1 in {pytester.path / 'tox.ini'}: "
        "write a whole number of rounds, at least 2: one round has no spread",
    ]


def test_who_does_not_use_it_pays_for_the_options_alone(pytester: pytest.Pytester) -> None:
    """Installed and not switched on, the options import nothing that pytest has not imported."""
    pytester.makeconftest("""
        import sys

        def pytest_sessionstart():
            print("loaded:", *sorted(name for name in sys.modules if name.startswith("pytest_carbon")))
    """)
    result = run(pytester, "-p", "ours", "-s")
    result.stdout.fnmatch_lines([f"loaded: {' '.join(SMALL)}"])
    code = "import sys, pytest; before = set(sys.modules); "
    code += "import pytest_carbon.plugin.options; print(*set(sys.modules) - before)"
    assert sorted(pytester.run(sys.executable, "-c", code).outlines[0].split()) == SMALL


@pytest.mark.skipif(sys.platform == "win32", reason="takes a terminal")
def test_a_refusal_in_a_terminal(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is broken between words; elsewhere, as in the log of a CI, each problem is one line."""
    import os
    import pty
    import subprocess

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    pytester.makepyfile(ours=OURS)
    command = [sys.executable, "-m", "pytest", "-p", "no:carbon", "-p", "ours", "--carbon-sessions=0"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(pytester.path), *sys.path])}
    told = (
        "ERROR: --carbon-sessions=0: write the number of fresh processes that run the tests, such as 3; 1 means this"
        " process"
    )
    piped = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert told in piped.stderr.splitlines()
    parent, child = pty.openpty()
    try:
        process = subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, stderr=child, check=False)
        shown = os.read(parent, 10_000).decode().splitlines()
    finally:
        os.close(parent)
        os.close(child)
    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    start = next(i for i, line in enumerate(shown) if line.startswith("ERROR: "))
    assert max(map(len, shown[start:])) <= 60
    assert " ".join(" ".join(shown[start:]).split()) == told
