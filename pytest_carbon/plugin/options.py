"""Flags and ini keys → Settings, markers → budgets: precedence, and refusals that name the place and the remedy.

Every run of pytest of everyone who has the plugin installed imports this module and registers the options:
records and units are imported only where something of it is used.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_carbon.plugin.refusal import refusal
from pytest_carbon.plugin.values import (
    read_against,
    read_baseline,
    read_branch,
    read_choice,
    read_cloud,
    read_confirm,
    read_country,
    read_gpus,
    read_labels,
    read_meter,
    read_number,
    read_path,
    read_queries,
    read_region,
    read_rounds,
    read_seconds,
    read_sessions,
    read_share,
    read_suite,
    read_switch,
)

# --- the table -------------------------------------------------------------------------------------


class Option(NamedTuple):
    """One row of the options' table; the default is that of the field of Settings."""

    flag: str
    field: str
    read: Callable[[str, Path], Any]
    metavar: str | None
    """None: a switch."""
    help: str
    ini: bool = True
    number: bool = False
    """Whether a number is a value: ``carbon_rounds = 7`` in native TOML."""
    several: bool = False
    """Whether the flag may be given several times: its texts are read as one, with commas between them."""

    @property
    def key(self) -> str:
        """The ini key, and the attribute of ``config.option``."""
        return self.flag.lstrip("-").replace("-", "_")


SWITCH = Option(
    "--carbon",
    "enabled",
    read_switch,
    None,
    "measure what model calls cost, and fail tests that go over their budget or cost more than they used to",
)

OPTIONS = (
    Option(
        "--carbon-record",
        "record",
        read_switch,
        None,
        "append this session to the baselines of what the gate does not fail, and no warning disqualifies; implies "
        "--carbon",
        ini=False,
    ),
    Option(
        "--carbon-accept",
        "accept",
        read_switch,
        None,
        "the change is intended: start new baselines for the measurements that changed; implies --carbon",
        ini=False,
    ),
    Option(
        "--carbon-gate",
        "gate",
        read_choice("fail", "warn"),
        "fail|warn",
        "warn reports what would fail, and never fails a test (default: fail)",
    ),
    Option(
        "--carbon-baseline",
        "baseline",
        read_baseline,
        "DIR|URL",
        "where the baselines are: a directory, or the URL of a database (default: carbon-baselines)",
    ),
    Option(
        "--carbon-branch",
        "branch",
        read_branch,
        "NAME",
        "in a database, compare with the baselines of this branch (default: main)",
    ),
    Option(
        "--carbon-label",
        "labels",
        read_labels,
        "KEY=VALUE",
        "keep this with what is recorded, such as pool=a100; may be given several times",
        ini=False,
        several=True,
    ),
    Option(
        "--carbon-tolerance",
        "tolerance",
        read_share(0, 1),
        "SHARE",
        "a change smaller than this never fails (default: 5%%)",
        number=True,
    ),
    Option(
        "--carbon-false-alarms",
        "false_alarms",
        read_share(0, 0.5, above=True),
        "SHARE",
        "the chance that an unchanged suite fails, shared among its measurements (default: 1%%)",
        number=True,
    ),
    Option(
        "--carbon-meter",
        "meter",
        read_meter,
        "NAME",
        "auto, nvml, rapl, estimate or replay:FILE (which goes last), or several joined by + (default: auto)",
    ),
    Option(
        "--carbon-gpus",
        "gpus",
        read_gpus,
        "WHICH",
        "used (those where this process holds a context, else the visible ones), visible, all, or indices "
        "and UUIDs such as 0,1 (default: used)",
        number=True,
    ),
    Option(
        "--carbon-domains",
        "domains",
        read_choice("auto", "gpu", "measured", "total"),
        "WHICH",
        "what is summed and gated: gpu, measured, total, or auto: measured GPUs if there are any, else the "
        "measured CPU, else what is estimated (default: auto)",
    ),
    Option(
        "--carbon-country",
        "country",
        read_country,
        "CODE",
        "where the electricity comes from: ISO 3166 alpha-3, such as DEU (default: the world's average)",
    ),
    Option("--carbon-region", "region", read_region, "NAME", "a region of that country, such as california"),
    Option(
        "--carbon-cloud",
        "cloud",
        read_cloud,
        "PROVIDER/REGION",
        "the cloud region that the electricity is for, such as aws/us-west-2",
    ),
    Option(
        "--carbon-intensity",
        "intensity_g_per_kwh",
        read_number(0, "a number of gCO2e per kWh, 0 or more, such as 45"),
        "G_PER_KWH",
        "the intensity of the electricity, given outright, in gCO2e per kWh",
        number=True,
    ),
    Option(
        "--carbon-pue",
        "pue",
        read_number(
            1, "a number of at least 1, such as 1.2: all that the facility takes, over what its computers take"
        ),
        "FACTOR",
        "the facility's overhead, power usage effectiveness (default: 1.0)",
        number=True,
    ),
    Option(
        "--carbon-warmup",
        "warmup_s",
        read_seconds(),
        "SECONDS",
        "warm-up before measuring: two calls at least, and so long after the first (default: 1)",
        number=True,
    ),
    Option("--carbon-rounds", "rounds", read_rounds, "N", "measure at least so many rounds (default: 5)", number=True),
    Option(
        "--carbon-min-time",
        "min_time_s",
        read_seconds(above=True),
        "SECONDS",
        "measure at least so long (default: 1)",
        number=True,
    ),
    Option(
        "--carbon-max-time",
        "max_time_s",
        read_seconds(above=True),
        "SECONDS",
        "measure at most so long; a call under way is finished (default: 10)",
        number=True,
    ),
    Option(
        "--carbon-precision",
        "precision",
        read_share(0, 0.5, above=True),
        "SHARE",
        "stop measuring once the mean is known so well (default: 1%%)",
        number=True,
    ),
    Option(
        "--carbon-sessions",
        "sessions",
        read_sessions,
        "N",
        "run the tests in so many fresh processes, one after another: their mean is compared, and recorded as one "
        "recording (default: 1, which is this process)",
        number=True,
    ),
    Option(
        "--carbon-confirm",
        "confirm",
        read_confirm,
        "N",
        "measure again, in so many fresh processes, what costs more than 1 in 20 unchanged measurements do, and judge "
        "the mean of all (default: 2 where the environment variable CI is set, else 0)",
        number=True,
    ),
    Option(
        "--carbon-against",
        "against",
        read_against,
        "REF",
        "compare the working tree with another revision, here and now, and with no baseline: fresh processes of both "
        "take turns, --carbon-sessions pairs of them (default: 8); implies --carbon",
        ini=False,
    ),
    Option(
        "--carbon-session-timeout",
        "session_timeout_s",
        read_seconds(above=True),
        "SECONDS",
        "end a fresh process that has brought back no test for so long; its test fails (default: no limit)",
        number=True,
    ),
    Option(
        "--carbon-reference",
        "reference",
        read_switch,
        None,
        "measure a fixed workload, too, at the start and at the end: what it takes is the machine's doing, and is "
        "taken out where less than eight measurements are compared",
    ),
    Option(
        "--carbon-strict",
        "strict",
        read_switch,
        None,
        "also fail without a baseline, for a figure with a warning, for a blind pass, and for baselines whose test is "
        "gone; "
        "not for a change that noise explains",
    ),
    Option(
        "--carbon-max-detectable",
        "max_detectable",
        read_share(0, 10, above=True),
        "SHARE",
        "a pass that could not have seen a change of this size is blind: --carbon-strict fails it (default: 30%%)",
        number=True,
    ),
    Option(
        "--carbon-suite",
        "suite",
        read_suite,
        "WHAT",
        "what --pyargs pytest_carbon.suite runs: small (a tiny variant of each task), study (every model, at its "
        "size), or models' full hub ids with commas between them (default: small)",
    ),
    Option(
        "--carbon-queries",
        "queries",
        read_queries,
        "N",
        "that suite makes so many calls of each model, instead of measuring for a time; 1000 in the study",
        number=True,
    ),
    Option(
        "--carbon-json",
        "json",
        read_path,
        "FILE",
        "write the report to this file, as JSON, also when tests fail",
        ini=False,
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Register every flag and ini key but the flag ``--carbon``; for ``pytest_addoption``.

    Raises :class:`pytest.UsageError` where another plugin has one of them.
    """
    for option in OPTIONS:
        _add_flag(parser, option)
    for option in (SWITCH, *OPTIONS):
        if option.ini:
            text = option.help.replace("%%", "%")
            parser.addini(option.key, text, type=_ini_type(option), default=None)


def add_switch(parser: pytest.Parser) -> None:
    """Register ``--carbon`` itself; for a wrapper of ``pytest_load_initial_conftests``, after its ``yield``.

    pytest-codecarbon has a flag of that name too. Plugins load in no particular order, and the second to
    register it ends pytest with a traceback: so this one registers it when all the others have. Since the
    flag takes no value, pytest's earlier looks at the command line do without it.

    Raises :class:`pytest.UsageError` where another plugin has it.
    """
    if pytest.version_tuple < (9,):  # there argparse is told of the options only when it parses
        groups = (*parser._groups, parser._anonymous)
        if any(SWITCH.flag in option.names() for group in groups for option in group.options):
            raise _clash(SWITCH)
    _add_flag(parser, SWITCH)


def _add_flag(parser: pytest.Parser, option: Option) -> None:
    arguments: dict[str, Any] = {"dest": option.key, "default": None, "help": option.help}
    if option.metavar is not None:
        arguments.update(metavar=option.metavar, action="append" if option.several else "store")
    elif option.ini:  # what an ini file switches on, --no-… switches off
        arguments["action"] = argparse.BooleanOptionalAction
    else:
        arguments.update(action="store_const", const=True)
    try:
        parser.getgroup("carbon", "energy and carbon (pytest-carbon)").addoption(option.flag, **arguments)
    except (ValueError, argparse.ArgumentError):
        raise _clash(option) from None


def _clash(option: Option) -> pytest.UsageError:
    return refusal(
        f"{option.flag} is an option of pytest-carbon and of another plugin (pytest-codecarbon has a --carbon, too). "
        "Switch one of the two off, on the command line or in addopts: -p no:codecarbon, or -p no:carbon for this one"
    )


def _ini_type(option: Option) -> Any:
    """The types that a key may have in native TOML, ``[tool.pytest]``; elsewhere everything is a text.

    Before pytest 9.2 a key has one type, and there a number must be written in quotes.
    """
    if pytest.version_tuple < (9, 2):
        return "bool" if option.metavar is None else "string"
    if option.metavar is None:
        return bool | str  # a text that is no boolean is refused here, in our words
    return str | int | float if option.number else str


def refuse_lost_root(config: pytest.Config) -> None:
    """Refuse an existing path that stands apart from its flag and may have moved the root dir.

    pytest looks for its ini file before plugins register their flags. In ``--carbon-json FILE`` it takes a FILE that
    exists for a place of tests. A path inside the current folder does no harm, unless test arguments lead to an ini
    file below that folder. Raises :class:`pytest.UsageError`.
    """
    option, current = config.option, config.invocation_params.dir
    if option.inifilename:
        return
    words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *config.invocation_params.args]
    flags = {option.flag for option in OPTIONS if option.read in (read_path, read_baseline, read_against)}
    for flag, value in itertools.pairwise(words):
        path = Path(os.path.abspath(current / value))
        harmless = path.is_relative_to(current) and (config.inipath is not None or not option.file_or_dir)
        if flag in flags and path.exists() and value not in option.file_or_dir and not harmless:
            raise refusal(
                f"write {flag}={shlex.quote(value)}: with a blank between them, pytest takes the path for a place of"
                f" tests when it looks for its ini file. It found root dir {config.rootpath}, ini file"
                f" {config.inipath or 'none'}"
            )


def remove_old_report(config: pytest.Config) -> None:
    """An earlier run's ``--carbon-json`` goes before this run begins: where it writes none, there is none to mistake.

    Not for a run that only shows something, and nothing but a file: not a pipe.
    """
    option = config.option
    if option.carbon_json and not (option.collectonly or option.help or option.version):
        with contextlib.suppress(OSError):  # what stands in the way is refused where the options are read
            if (report := read_path(option.carbon_json.strip(), config.invocation_params.dir)).is_file():
                report.unlink()
