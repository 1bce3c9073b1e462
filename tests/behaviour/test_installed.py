"""What ``pip install pytest-carbon`` puts there."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, entry_points, metadata, version
from importlib.resources import files
from pathlib import Path

import pytest
from vendored import PAGE, noted

import pytest_carbon
from pytest_carbon.reports import jsonfile

VERSION = version("pytest-carbon")


def test_pytest_finds_it() -> None:
    """Without a line in any conftest: as a plugin called ``carbon``, which ``-p no:carbon`` switches off."""
    (found,) = entry_points(group="pytest11", name="carbon")
    assert found.value == "pytest_carbon.plugin"


def test_it_says_what_it_is() -> None:
    """For the plugin list, type checkers and lawyers."""
    facts = metadata("pytest-carbon")
    assert "Framework :: Pytest" in (facts.get_all("Classifier") or [])
    assert "Typing :: Typed" in (facts.get_all("Classifier") or [])
    assert facts["License-Expression"] == "MIT AND ISC"
    assert facts["Requires-Python"] == ">=3.11"
    assert (Path(pytest_carbon.__file__).parent / "py.typed").exists()


def test_the_reports_schema_is_in_it() -> None:
    """Where the docs say; in the wheel, too, against which these tests run."""
    schema = json.loads(files("pytest_carbon.reports").joinpath("report.schema.json").read_text("utf-8"))
    assert schema["properties"]["format"]["const"] == jsonfile.FORMAT
    installed = distribution("pytest-carbon").files or []
    editable = not any(file.name == "jsonfile.py" for file in installed)
    assert editable or any(file.name == "report.schema.json" for file in installed)


@pytest.mark.slow
def test_the_wheel_has_every_file(tmp_path: Path) -> None:
    """Also those that are not Python: templates, scripts, tables, libraries with their licences; and no test's."""
    package = Path(pytest_carbon.__file__).parent
    if not (package.parent / "pyproject.toml").exists():
        pytest.skip("what is installed here is a wheel: the tests of pages read its files")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=package.parent, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = {*wheel.namelist()}
        about = wheel.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    kept = {str(path.relative_to(package.parent)) for path in package.rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("pytest_carbon/")} == {n for n in kept if "__pycache__" not in n}
    licences = [name.partition(".dist-info/licenses/")[2] for name in names if ".dist-info/licenses/" in name]
    vendored = [str((PAGE / entry["license_file"]).relative_to(package.parent)) for entry in noted(PAGE)]
    assert sorted(licences) == sorted(["LICENSE", *vendored])
    assert {name.partition("/")[0] for name in names} == {"pytest_carbon", f"pytest_carbon-{VERSION}.dist-info"}
    assert "Provides-Extra: report\n" in about
    assert "Requires-Dist: jinja2>=3.1; extra == 'report'" in about


@pytest.mark.usefixtures("all_plugins")
def test_it_can_be_switched_off(pytester: pytest.Pytester) -> None:
    """``-p no:carbon``: neither option nor fixture is left."""
    pytester.makepyfile("def test_it(carbon): pass")
    result = pytester.runpytest_subprocess("-p", "no:carbon")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'carbon' not found"])
    assert pytester.runpytest_subprocess("-p", "no:carbon", "--carbon").ret == pytest.ExitCode.USAGE_ERROR


def test_every_public_name_is_there() -> None:
    """Each is imported when it is first asked for, and a wrong one is an AttributeError."""
    for name in pytest_carbon.__all__:
        assert getattr(pytest_carbon, name) is not None
    with pytest.raises(AttributeError, match="module 'pytest_carbon' has no attribute 'measure_all'"):
        pytest_carbon.measure_all  # noqa: B018


def test_asking_for_a_name_is_cheap(pytester: pytest.Pytester) -> None:
    """The package by itself imports none of its modules."""
    code = "import sys, pytest_carbon; print(*[m for m in sys.modules if m.startswith('pytest_carbon.')])"
    assert pytester.run(sys.executable, "-c", code).outlines == [""]
