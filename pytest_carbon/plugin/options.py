"""The table of options, and their registration; every run of pytest imports it, so it imports little."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from pytest_carbon.host.stdlib import os
from pytest_carbon.plugin import values

_OWN_TABLE = r"(?m)^\[(tool[.:])?pytest[-_]carbon(\.[^\]]*)?\]"


class Option(NamedTuple):
    """One row of the options' table; the default is that of the field of Settings."""

    usage: str
    """The flag, and its value's name in ``--help``; without one it is a switch."""
    read: values.Reader
    help: str
    name: str = ""
    """The field of Settings, where it differs from the flag."""
    ini: bool = True
    several: bool = False
    """Whether it may be repeated; the texts are joined with commas."""
    of: Literal["energy", "work", "both", "suite"] = "energy"
    """Where it has an effect: with ``--carbon``, with ``--carbon-work``, with either, or with neither, too."""

    @property
    def flag(self) -> str:
        return self.usage.partition(" ")[0]

    @property
    def metavar(self) -> str | None:
        return self.usage.partition(" ")[2] or None

    @property
    def field(self) -> str:
        seconds = "_s" if self.metavar == "SECONDS" else ""
        return self.name or self.key.removeprefix("carbon_") + seconds

    @property
    def key(self) -> str:
        """Return the ini key, which is also the attribute of ``config.option``."""
        return self.flag.lstrip("-").replace("-", "_")


SWITCH = Option(
    "--carbon",
    values.switch,
    "measure model calls; fail tests that exceed a budget or cost more than before",
    "enabled",
)

_PUE = "a number of at least 1, such as 1.2: energy of the facility divided by the energy of its computers"
OPTIONS = (
    Option(
        "--carbon-record",
        values.switch,
        "append this session to the baselines, except measurements that the gate fails or a warning disqualifies; "
        "implies --carbon unless --carbon-work is given",
        ini=False,
        of="both",
    ),
    Option(
        "--carbon-accept",
        values.switch,
        "the change is intended: begin new baselines for the measurements that changed; implies --carbon unless "
        "--carbon-work is given",
        ini=False,
        of="both",
    ),
    Option(
        "--carbon-gate fail|warn",
        values.choice("fail", "warn"),
        "warn: only report what would fail (default: fail)",
        of="both",
    ),
    Option(
        "--carbon-baseline DIR|URL",
        values.baseline,
        "the directory of the baselines, or the URL of a database (default: carbon-baselines)",
        of="both",
    ),
    Option(
        "--carbon-branch NAME",
        values.matching(r"\S+", "the name of a branch, as git branch shows it"),
        "in a database: the branch whose baselines count (default: main); on the command line also the branch of this "
        "checkout, where neither git nor the CI service names it",
        of="both",
    ),
    Option(
        "--carbon-label KEY=VALUE",
        values.labels,
        "store this label with each recorded session, such as pool=a100; may be given several times",
        name="labels",
        ini=False,
        several=True,
    ),
    Option("--carbon-tolerance SHARE", values.share(0, 1), "a smaller change never fails (default: 5%)"),
    Option(
        "--carbon-false-alarms SHARE",
        values.share(0, 0.5, above=True),
        "the probability that an unchanged suite fails, shared among its measurements (default: 1%)",
    ),
    Option(
        "--carbon-meter NAME",
        values.meter,
        "auto, nvml, rapl, amd, apple, windows, estimate or replay:FILE; several joined by + (default: auto)",
    ),
    Option(
        "--carbon-gpus WHICH",
        values.gpus,
        "used (the GPUs that this process uses, else the visible ones), visible, all, or indices and UUIDs such as "
        "0,1 (default: used)",
    ),
    Option(
        "--carbon-domains WHICH",
        values.choice("auto", "gpu", "measured", "total"),
        "the domains that are summed and gated: gpu, measured, total, or auto: measured GPUs if there are any, else "
        "the measured CPU, else the estimate (default: auto)",
    ),
    Option(
        "--carbon-ignore CODES",
        values.codes,
        "codes of warnings that only inform, and disqualify no figure, such as shared-gpu or mig,mps; the report says "
        "that they were ignored (default: none)",
        several=True,
    ),
    Option(
        "--carbon-country CODE",
        values.matching(r"[A-Za-z]{3}", "the three letters of ISO 3166 alpha-3, such as DEU or USA", str.upper),
        "the country of the electricity: ISO 3166 alpha-3, such as DEU (default: the world's average)",
    ),
    Option(
        "--carbon-region NAME",
        values.matching(".+", "the name of a region"),
        "a region of that country, such as california",
    ),
    Option(
        "--carbon-cloud PROVIDER/REGION",
        values.matching(r"[^/\s]+/[^/\s]+", "provider/region, such as aws/us-west-2", str.lower),
        "instead of both: a cloud region, such as aws/us-west-2",
    ),
    Option(
        "--carbon-intensity G_PER_KWH",
        values.number(0, "a number of gCO2e per kWh, 0 or more, such as 45", "gCO2e/kWh"),
        "instead of all three: the intensity of the electricity in gCO2e per kWh",
        name="intensity_g_per_kwh",
    ),
    Option("--carbon-pue FACTOR", values.number(1, _PUE), "the facility's power usage effectiveness (default: 1.0)"),
    Option(
        "--carbon-warmup SECONDS", values.seconds(), "warm-up after the first call; at least two calls (default: 1)"
    ),
    Option(
        "--carbon-rounds N",
        values.count(2, "a whole number of rounds, at least 2: one round has no spread"),
        "minimum number of rounds, 2 or more (default: 5)",
    ),
    Option("--carbon-min-time SECONDS", values.seconds(above=True), "minimum time of measured calls (default: 1)"),
    Option(
        "--carbon-max-time SECONDS",
        values.seconds(above=True),
        "maximum time of measured calls; a call that has started is finished (default: 10)",
    ),
    Option(
        "--carbon-precision SHARE",
        values.share(0, 0.5, above=True),
        "stop between the two when the mean is known to this precision (default: 1%)",
    ),
    Option(
        "--carbon-sessions N",
        values.count(1, "the number of fresh processes that run the tests, such as 3; 1 means this process", digits=4),
        "run the tests in N fresh processes, one after another; their mean is compared, and recorded as one recording "
        "(default: 1, this process)",
    ),
    Option(
        "--carbon-confirm N",
        values.count(
            0, "the number of fresh processes that measure a suspect again, such as 2; 0 means none", digits=4
        ),
        "measure a suspect again in N fresh processes before it fails; the mean of all counts (default: 2 if the "
        "environment variable CI is set, else 0)",
    ),
    Option(
        "--carbon-against REF",
        values.against,
        "compare the working tree with another revision, side by side, without a baseline, in --carbon-sessions pairs "
        "of fresh processes (8 pairs by default); implies --carbon",
        ini=False,
    ),
    Option(
        "--carbon-engine ENGINE",
        values.engine,
        "where the tests run: local (this machine), or ray[:ADDRESS], tasks on the GPUs of a Ray cluster, in fresh "
        "processes (default: local; needs pytest-carbon[ray])",
    ),
    Option(
        "--carbon-session-timeout SECONDS",
        values.seconds(above=True),
        "terminate a fresh process that completes no test for this long; its test fails (default: no limit)",
    ),
    Option(
        "--carbon-gpus-per-worker N",
        values.count(1, "the number of GPUs that each worker is shown, such as 2", digits=4),
        "with pytest-xdist (-n) or --carbon-engine=ray: the number of GPUs that each worker, or task, is shown, and "
        "measures on (default: 1)",
    ),
    Option(
        "--carbon-lock-timeout SECONDS",
        values.seconds(above=True),
        "how long a test waits for a GPU, or the processor, on which another run measures; then it fails, and names "
        "that run's process (default: 10min)",
    ),
    Option(
        "--carbon-rank-timeout SECONDS",
        values.seconds(above=True),
        "under torchrun: end the run where a rank does not come to the same place of a test within this (default: 300)",
    ),
    Option(
        "--carbon-shard INDEX/COUNT",
        values.shard,
        "divide the selected tests into COUNT shards of about equal measuring time, and run one of them, such as 3/8; "
        "pytest-carbon report merges the reports of all, and judges them as one suite",
        ini=False,
        of="both",
    ),
    Option(
        "--carbon-reference",
        values.switch,
        "also measure a reference workload at the start and at the end: its change is attributed to the machine and "
        "subtracted when fewer than eight measurements are compared",
    ),
    Option(
        "--carbon-strict",
        values.switch,
        "also fail a measurement without a baseline or with a disqualifying warning, a blind pass, and a baseline "
        "whose test no longer exists or no longer measures; not a change that noise explains",
        of="both",
    ),
    Option(
        "--carbon-max-detectable SHARE",
        values.share(0, 10, above=True),
        "a pass whose smallest detectable change is larger is blind: --carbon-strict fails it (default: 30%)",
    ),
    Option(
        "--carbon-suite WHAT",
        values.suite,
        "the models of --pyargs pytest_carbon.suite: small (a tiny variant of each task), study (every model at its "
        "size), or full hub ids with commas between them (default: small)",
        of="suite",
    ),
    Option(
        "--carbon-queries N",
        values.count(1, "a whole number of calls, 1 or more; the study made 1000"),
        "number of calls of each of its models, instead of a measuring time; 1000 in the study",
        of="suite",
    ),
    Option(
        "--carbon-work",
        values.switch,
        "count the work of the calls (FLOPs, bytes, kernels, host reads), and fail tests whose calls ask for more than "
        "before; without --carbon nothing is measured",
        of="work",
    ),
    Option(
        "--carbon-work-tolerance SHARE",
        values.share(0, 1),
        "a smaller change of the FLOPs, bytes or decode steps never fails (default: 1%)",
        of="work",
    ),
    Option(
        "--carbon-kernel-tolerance SHARE",
        values.share(0, 1),
        "a smaller change of the number of kernels or host reads never fails (default: 10%)",
        of="work",
    ),
    Option(
        "--carbon-json FILE",
        values.path,
        "write the report to this file, also when tests fail",
        ini=False,
        of="both",
    ),
    Option(
        "--carbon-html FILE",
        values.path,
        "write the report to this file as a page for a browser, also when tests fail (needs pytest-carbon[report])",
        ini=False,
        of="both",
    ),
    Option(
        "--carbon-summary auto|off",
        values.choice("auto", "off"),
        "auto: in GitHub Actions, append what is no pass to the summary of the step, and annotate the lines of what "
        "fails; off: neither (default: auto)",
        of="both",
    ),
)


def add_options(parser: pytest.Parser) -> None:
    """Register all ini keys, and all flags but ``--carbon``; refuse another plugin's."""
    for option in OPTIONS:
        _add_flag(parser, option)
    for option in (SWITCH, *OPTIONS):
        if option.ini:
            # Before pytest 9.2 a key has one type, so native TOML needs numbers in quotes. The text beside bool is for
            # values.switch to refuse.
            kind: Any = "bool" if option.metavar is None else "string"
            if pytest.version_tuple >= (9, 2):
                kind = bool | str if option.metavar is None else str | int | float
            parser.addini(option.key, option.help, type=kind, default=None)


def refuse_unknown_flags(parser: pytest.Parser, arguments: Sequence[str]) -> None:
    """Refuse a flag that nobody has and that is close to one of ours: pytest does not say which was meant."""
    ours = {option.flag for option in (SWITCH, *OPTIONS)}
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    strange = [flag for flag in flags if looks_ours(flag) and flag.replace("--no-", "--") not in ours]
    if not strange:
        return
    from pytest_carbon.text import closest

    unknown = {word.partition("=")[0] for word in parser.parse_known_and_unknown_args(list(arguments))[1]}
    for flag in strange:
        if flag in unknown and (near := closest(flag, ours)):
            raise _refusal(f"{flag} is not an option of pytest-carbon. Did you mean {near}?")


def _refusal(problem: str) -> pytest.UsageError:
    from pytest_carbon.plugin.refusal import refusal  # few runs need it

    return refusal(problem)


def looks_ours(name: str) -> bool:
    """Tell whether a flag, a key or a marker begins as ours do, or as a slip of the pen in one does."""
    bare = name.lower().removeprefix("--").removeprefix("no-")
    return bare.startswith(("carbon", "cabron", "carbo-", "carbo_"))


def anything_given(config: pytest.Config) -> bool:
    """Tell whether a flag or an ini key of ours is given; a run without any needs no settings."""
    keys = {option.key for option in (SWITCH, *OPTIONS)}
    flags = (getattr(config.option, key, None) for key in keys)
    return any(flag is not None for flag in flags) or not keys.isdisjoint(_written_keys(config))


def may_measure(config: pytest.Config, arguments: Iterable[str]) -> bool:
    """Return whether a run may measure, before its options can be read."""
    flags = {str(argument).partition("=")[0] for argument in arguments}
    if flags & {SWITCH.flag, "--carbon-work", "--carbon-record", "--carbon-accept", "--carbon-against", SWITCH.key}:
        return True
    try:
        return bool(config.getini(SWITCH.key))
    except (pytest.UsageError, TypeError, ValueError):  # refused when it is read
        return False


def _written_keys(config: pytest.Config) -> list[str]:
    """List the ini keys in the file and after ``-o``."""
    file: Mapping[str, object] = config._inicfg if hasattr(config, "_inicfg") else config.inicfg
    overridden = [text.partition("=")[0].strip() for text in config.option.override_ini or ()]
    return [*dict.fromkeys(map(str, [*file, *overridden]))]


def refuse_unknown_keys(config: pytest.Config) -> None:
    """Refuse ini keys and tables that look like ours and that nothing reads, with or without ``--carbon``."""
    ours = {option.key: option for option in (SWITCH, *OPTIONS)}
    for key in _written_keys(config):
        if not looks_ours(key) or (key in ours and ours[key].ini):
            continue
        with contextlib.suppress(ValueError, KeyError):
            config.getini(key)  # another plugin's
            continue
        where = f"{key} in {config.inipath}"
        if key in ours:
            raise _refusal(f"{where}: this has no ini key; give {ours[key].flag} on the command line, or in addopts")
        from pytest_carbon.text import closest

        near = closest(key.replace("-", "_"), [name for name, option in ours.items() if option.ini])
        raise _refusal(f"{where}: pytest-carbon has no such key.{f' Did you mean {near}?' if near else ''}")
    for path in {config.rootpath / "pyproject.toml", config.inipath or config.rootpath / "pyproject.toml"}:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = path.read_text("utf-8")
            if "carbon" in text and (table := re.search(_OWN_TABLE, text)) is not None:
                raise _refusal(
                    f"{table[0]} in {path}: pytest-carbon has no table of its own. Write its keys beside pytest's, such"
                    " as carbon_tolerance in [tool.pytest.ini_options], or in [pytest] of an ini file"
                )


def add_switch(parser: pytest.Parser) -> None:
    """Register ``--carbon`` after all other plugins, to refuse theirs without a traceback."""
    if pytest.version_tuple < (9,):  # argparse gets the options only when it parses
        groups = (*parser._groups, parser._anonymous)
        if any(SWITCH.flag in option.names() for group in groups for option in group.options):
            raise _clash(SWITCH)
    _add_flag(parser, SWITCH)


def _add_flag(parser: pytest.Parser, option: Option) -> None:
    arguments: dict[str, Any] = {"dest": option.key, "default": None, "help": option.help.replace("%", "%%")}
    if option.metavar is not None:
        arguments.update(metavar=option.metavar, action="append" if option.several else "store")
    elif option.ini:  # --no-… overrides the ini file
        arguments["action"] = argparse.BooleanOptionalAction
    else:
        arguments.update(action="store_const", const=True)
    try:
        parser.getgroup("carbon", "energy and carbon (pytest-carbon)").addoption(option.flag, **arguments)
    except (ValueError, argparse.ArgumentError):
        raise _clash(option) from None


def _clash(option: Option) -> pytest.UsageError:
    return _refusal(
        f"{option.flag} is an option of pytest-carbon and of another plugin (pytest-codecarbon has a --carbon, too). "
        "Disable one of the two, on the command line or in addopts: -p no:codecarbon, or -p no:carbon for this one"
    )


def refuse_lost_root(config: pytest.Config) -> None:
    """Refuse a path that is apart from its flag and may have moved the root dir.

    pytest looks for its ini file before plugins register their flags, so it takes such a path for a place of tests. A
    path inside the current folder does no harm, unless test arguments lead to an ini file below that folder.
    """
    import shlex

    option, current = config.option, config.invocation_params.dir
    if option.inifilename:
        return
    words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *config.invocation_params.args]
    flags = {option.flag for option in OPTIONS if option.read in (values.path, values.baseline, values.against)}
    tests = getattr(option, "file_or_dir", [])  # not there with --help
    for flag, value in itertools.pairwise(words):
        path = Path(os.path.abspath(current / value))
        harmless = path.is_relative_to(current) and (config.inipath is not None or not tests)
        if flag in flags and path.exists() and value not in tests and not harmless:
            raise _refusal(
                f"write {flag}={shlex.quote(value)}: with a blank between them, pytest takes the path for a place of"
                f" tests when it looks for its ini file. It found root dir {config.rootpath}, ini file"
                f" {config.inipath or 'none'}"
            )


def without_tests(config: pytest.Config) -> str | None:
    """Return the flag with which pytest runs no test; None if none is given."""
    flags = ("help", "version", "markers", "fixtures", "fixtures-per-test", "collect-only", "setup-plan", "setup-only")
    names = {"fixtures": "showfixtures", "fixtures-per-test": "show_fixtures_per_test"}
    given = (f for f in flags if getattr(config.option, names.get(f, f.replace("-", "")), None))
    return next((f"--{flag}" for flag in given), None)
