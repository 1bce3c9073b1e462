"""Running the whole product quickly and exactly: a battery that a test draws from, and a trace that plays.

Two meters, both read where the work runs, so that nothing waits for a counter's edges:

- **the battery** (the default): ``from battery import draw``; ``draw(2.0)`` takes 2 J from ``gpu:0``, no more and no
  less, however busy the machine is. ``carbon(draw, 2.0)`` finds 2 J per call. What is *gated* of repeated calls is mean
  power × median time, which a stalled machine moves; of a window, or of a marked test without the fixture, it is
  exactly what was drawn: gate those. ``power_w`` is not the battery's: it depends on the clock.
- **the trace**: a constant 100 W: a call that sleeps 10 ms takes about 1 J. Real time, so leave wide margins (× 3).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Imported before pytester notes what is, and takes away the rest after each run: numpy and pandas cannot be imported a
# second time, and the others would cost most of a run's time.
import psutil  # noqa: F401
import pytest
import reportschema
import scipy.special  # noqa: F401
from worklab import MODEL, WorkRunner

import pytest_carbon.plugin.run  # noqa: F401
from pytest_carbon.host import electricity, patches
from pytest_carbon.measure import contention

patches.note()  # what is patched here, for runs inside tests, is no original
electricity.intensity()  # codecarbon's tables, by pandas, which imports parts of itself when it first reads one

BATTERY = '''
from pytest_carbon import Domain, Gpu, MeterSource, Observation
from pytest_carbon.measure import contention

contention.ROOT = "/no such folder"  # what else runs here is none of the test's business
drawn_j = 1000.0

def draw(joules):
    """Take so much from gpu:0."""
    global drawn_j
    drawn_j += joules
    return joules

class Battery:
    domains = (Domain("gpu:0", "measured", "a battery"),)
    stepped = False
    def read_j(self, domain):
        return drawn_j
    def observe(self, domain):
        return Observation()
    def gpus(self):
        return (Gpu(0, "battery-0", "Battery"),)
    def close(self):
        pass

def pytest_carbon_meters(config):
    return {"battery": MeterSource("battery", Battery)}
'''
MACHINE = "1x-battery-gpu"
"""The machine's id with the battery."""

ALONE = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
INTENSITY = "--carbon-intensity=475"
"""The world average's, given, so that no process imports pandas to look it up."""
QUICK = (
    "--carbon-warmup=0",
    "--carbon-min-time=0.01",
    "--carbon-max-time=1",
    "--carbon-rounds=3",
    "--carbon-precision=50%",
    INTENSITY,
)


def slow_but(quick: str, names: Iterable[str]) -> list[Any]:
    """Parameters of a test whose variants take long: all but one are marked slow."""
    return [name if name == quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@dataclass(frozen=True)
class Run:
    """A finished run of pytest inside a test."""

    result: pytest.RunResult
    report: Any
    """The JSON report as Python has it; None where none was written."""

    @property
    def ret(self) -> int:
        return int(self.result.ret)

    @property
    def lines(self) -> list[str]:
        return self.result.outlines

    @property
    def errors(self) -> str:
        """Standard error, each stretch of white space as one blank."""
        return " ".join(self.result.stderr.str().split())

    @property
    def text(self) -> str:
        """Standard output, each stretch of white space as one blank: sentences, wherever they were wrapped."""
        return " ".join(self.result.stdout.str().split())

    def outcomes(self) -> dict[str, int]:
        return self.result.parseoutcomes()

    def test(self, name: str) -> Any:
        """The report's entry for the test whose id ends so."""
        (found,) = [t for t in self.report["tests"] if t["nodeid"].endswith(name)]
        return found

    def measurement(self, test: str, name: str = "call") -> Any:
        (found,) = [m for m in self.test(test)["measurements"] if m["name"] == name]
        return found

    def status(self, test: str, name: str = "call") -> str:
        """The status of a measurement's verdict."""
        return str(self.measurement(test, name)["verdict"]["status"])


class CarbonRunner:
    """See :func:`run_carbon`."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester

    def __call__(
        self,
        *args: str | os.PathLike[str],
        carbon: bool = True,
        subprocess: bool = False,
        report: bool = True,
        intensity: bool = True,
    ) -> Run:
        file = self._pytester.path / "report.json"
        file.unlink(missing_ok=True)
        options = ["-p", "battery"]
        if ALONE not in os.environ:
            options += ["-o", "asyncio_default_fixture_loop_scope=function"]  # or pytest-asyncio warns
            options += ["-p", "no:randomly"]  # it shuffles
        if carbon:
            options += ["--carbon", "--carbon-meter=battery", *QUICK]
            if not intensity:
                options.remove(INTENSITY)
            options += [f"--carbon-json={file}"] if report else []
        run = self._pytester.runpytest_subprocess if subprocess else self._pytester.runpytest_inprocess
        result = run(*options, *args)
        return Run(result, reportschema.read(file) if file.exists() else None)


@pytest.fixture
def all_plugins() -> None:
    """For a test that needs other installed plugins: pytest loads all of them, as it does for a user."""


REWRITE = """
import importlib, os, pkgutil, sys, pytest

class Load:
    @staticmethod
    def pytest_cmdline_main(config):
        import pytest_carbon.plugin as plugin
        for module in pkgutil.walk_packages(plugin.__path__, plugin.__name__ + "."):
            importlib.import_module(module.name)
        return 0

sys.exit(pytest.main(["-p", "pytest_carbon.plugin", "-c", os.devnull], plugins=[Load]))
"""


@pytest.fixture(scope="session")
def rewritten() -> None:
    """Keep the plugin's modules as pytest rewrites them, as runs of an installed plugin do.

    The runs of tests write no bytecode (see ``run_carbon``), so each of their processes would rewrite thirty modules.
    """
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", REWRITE], env={**environ, ALONE: "1"}, check=True)


@pytest.fixture(autouse=True)
def plugin_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, rewritten: None) -> None:
    """Load no installed plugin but this one: the others take most of a process's start-up. See ``all_plugins``."""
    for variable in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):  # no run inside a test writes to the job's
        monkeypatch.delenv(variable, raising=False)
    if "all_plugins" not in request.fixturenames:
        monkeypatch.setenv(ALONE, "1")
        monkeypatch.setenv("PYTEST_PLUGINS", "pytest_carbon.plugin")


@pytest.fixture
def run_carbon(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> CarbonRunner:
    """Runs ``pytest --carbon`` in pytester's folder: quick, on the battery, with a JSON report.

    ``run_carbon("--carbon-record", "-k", "x")``: what is given here comes later, and wins. ``carbon=False`` leaves all
    of it out but the battery; ``subprocess=True`` takes a new process (a second more); ``report=False`` writes none;
    ``intensity=False`` does not give the grid's intensity: codecarbon's tables are read, a second for each process.
    """
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    # A test rewrites a file within the second, in as many bytes: to Python, what it compiled of it is still good.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(contention, "ROOT", contention.ROOT)  # put back what the battery sets
    (pytester.path / "battery.py").write_text(BATTERY, "utf-8")
    pytester.syspathinsert()
    return CarbonRunner(pytester)


@pytest.fixture
def trace(pytester: pytest.Pytester) -> Path:
    """A trace of constant 100 W on ``gpu:0``: ``run_carbon(f"--carbon-meter=replay:{trace}")``."""
    path = pytester.path / "trace.jsonl"
    header = {
        "format": "pytest-carbon-trace/1",
        "stepped": False,
        "domains": [{"domain": "gpu:0", "kind": "measured", "source": "a trace"}],
    }
    step = {"t_s": 1.0, "domain": "gpu:0", "energy_j": 100.0}
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, step)), "utf-8")
    return path


@pytest.fixture(scope="module")
def counting(one_thread: None) -> None:
    """All that counting imports: torch cannot be imported a second time, and pytester forgets what a run imports."""

    import pytest_carbon.plugin.counting
    import pytest_carbon.work.session  # noqa: F401


@pytest.fixture
def run_work(counting: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> WorkRunner:
    """Runs ``pytest --carbon-work`` in pytester's folder, beside a module ``model``."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (pytester.path / "model.py").write_text(MODEL, "utf-8")
    pytester.syspathinsert()
    return WorkRunner(pytester)
