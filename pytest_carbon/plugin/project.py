"""The settings of a project for a command: the same ini file, root dir and place of baselines as in a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon.host.git import top_of
from pytest_carbon.host.stdlib import os
from pytest_carbon.plugin.options import OPTIONS
from pytest_carbon.plugin.settings import read_settings
from pytest_carbon.records import Settings, UsageProblem

_ROOT = ("--rootdir", "--config-file", "-c")
_INI = ("--override-ini", "-o")
_FLAGS = frozenset(option.flag for option in OPTIONS if option.metavar and option.ini)


def of_project(config_file: str | None = None, rootdir: str | None = None) -> Settings:
    """Read a project's settings from the current folder, without running its code.

    What ``addopts`` and ``PYTEST_ADDOPTS`` say about them counts, as it does in a run; nothing else in them does.
    """
    given = [*_ours(shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), _ROOT)]
    given += [f"--config-file={config_file}"] if config_file else []
    given += [f"--rootdir={rootdir}"] if rootdir else []
    settings, inipath = _read(given)
    if more := [*_ours(_addopts_of(inipath))]:
        settings, _ = _read([*more, *given])
    if isinstance(settings, pytest.UsageError):
        raise UsageProblem("\n".join(map(str, settings.args)))
    return settings


def _read(arguments: Sequence[str]) -> tuple[Settings | pytest.UsageError, Path | None]:
    results: list[tuple[Settings | pytest.UsageError, Path | None]] = []

    class Stop:
        @pytest.hookimpl(tryfirst=True)
        def pytest_cmdline_main(self, config: pytest.Config) -> int:
            try:
                results.append((read_settings(config), config.inipath))
            except pytest.UsageError as error:
                results.append((error, config.inipath))
            return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.setenv("PYTEST_ADDOPTS", "")
        patch.setenv("PYTEST_PLUGINS", "")
        nothing = ("-o", "addopts=", "-o", "required_plugins=", "--noconftest", "--assert=plain")
        pytest.main([*nothing, "-p", "pytest_carbon.plugin", *arguments], plugins=[Stop()])
    if not results:
        raise UsageProblem("pytest cannot read its ini file; see its message above")
    return results[0]


def _addopts_of(inipath: Path | None) -> list[str]:
    """Return the ``addopts`` of an ini file, which pytest shows only together with what overrides them."""
    from _pytest.config.findpaths import load_config_dict_from_file

    found: Any = (load_config_dict_from_file(inipath) or {}) if inipath else {}
    value = found.get("addopts", "")
    value = getattr(value, "value", value)
    return shlex.split(value) if isinstance(value, str) else [str(word) for word in value]


def _ours(words: Sequence[str], others: Sequence[str] = ()) -> Iterator[str]:
    """Yield the options that say where the baselines are and how they are judged, each as one word."""
    rest = iter(words)
    for word in rest:
        flag, _, value = word.partition("=")
        if word[:2] in ("-c", "-o") and len(word) > 2:
            flag, value = word[:2], word[2:]
        if flag in (*_FLAGS, *others, *_INI):
            value = value or next(rest, "")
            if flag not in _INI:
                yield f"--config-file={value}" if flag == "-c" else f"{flag}={value}"
            elif value.startswith("carbon"):
                yield f"--override-ini={value}"


def flags_of(config: pytest.Config, *, command: bool, here: Path | None = None) -> list[str]:
    """List the options with which pytest finds the ini file and root dir of a run again, called where it was.

    ``command``: with which a command does, which has no tests as arguments to find them from. ``here``: where they are
    called, if not where the run was.
    """
    here, root, ini = here or config.invocation_params.dir, config.rootpath, config.inipath
    flags = []
    if config.option.inifilename or (command and ini is not None and not here.is_relative_to(ini.parent)):
        flags.append(f"--config-file={os.path.relpath(ini or config.option.inifilename, here)}")
    if config.option.rootdir or (command and ini is None and here != root):
        flags.append(f"--rootdir={os.path.relpath(root, here)}")
    return flags


def from_top(config: pytest.Config, baseline: Path | str) -> tuple[str, ...]:
    """List the options with which commands find a run's project and baselines from the top of the repository."""
    top = top_of(config.rootpath)
    flags = flags_of(config, command=True, here=top)
    if config.option.carbon_baseline is not None:
        place = os.path.relpath(baseline, top) if isinstance(baseline, Path) else baseline
        flags.append(f"--carbon-baseline={place}")
    return tuple(flags)


def maintenance(config: pytest.Config, baseline: Path | str, command: str, *words: str) -> str:
    """Write a command of ``pytest-carbon baseline`` for the baselines of a run, to be called where that was."""
    given = config.option.carbon_baseline
    place = given if isinstance(baseline, Path) else baseline  # as given it may have a password
    flags = [*flags_of(config, command=True), *([] if given is None else [f"--baseline={place}"])]
    return shlex.join(["pytest-carbon", "baseline", command, *flags, *words])
