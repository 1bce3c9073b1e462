"""Flags and ini keys → Settings, markers → budgets: precedence, and refusals that name the place and the remedy.

Every run of pytest of everyone who has the plugin installed imports this module and registers the options:
records and units are imported only where something of it is used.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

if TYPE_CHECKING:
    from pytest_carbon.records import Budget, Settings

MARKER = "carbon_budget"


# --- values ----------------------------------------------------------------------------------------
#
# A reader is given the text and the folder that a relative path starts from. The ValueError that it raises
# says what is allowed; the place and the text are put before that.


def _near(text: str, allowed: Iterable[str]) -> str:
    from pytest_carbon.text import did_you_mean

    return did_you_mean(text, allowed)


def read_switch(text: str, base: Path) -> bool:
    if text.lower() in ("true", "1", "yes", "on", "t", "y"):
        return True
    if text.lower() in ("false", "0", "no", "off", "f", "n"):
        return False
    raise ValueError("write true or false")


def read_choice(*allowed: str) -> Callable[[str, Path], str]:
    def read(text: str, base: Path) -> str:
        if text not in allowed:
            raise ValueError(f"write one of {', '.join(allowed)}.{_near(text, allowed)}")
        return text

    return read


def read_share(least: float, most: float, *, above: bool = False) -> Callable[[str, Path], float]:
    def read(text: str, base: Path) -> float:
        from pytest_carbon.records import UsageProblem
        from pytest_carbon.text import parse_share

        try:
            value = parse_share(text)
        except UsageProblem as problem:
            raise ValueError(str(problem)) from None
        if not least <= value <= most or (above and value == least):
            allowed = f"above {least:.0%}, at most {most:.0%}" if above else f"between {least:.0%} and {most:.0%}"
            raise ValueError(f"write a share {allowed}")
        return value

    return read


def read_float(text: str) -> float:
    """A finite number, or NaN, which no comparison lets through."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def read_number(least: float, allowed: str) -> Callable[[str, Path], float]:
    def read(text: str, base: Path) -> float:
        value = read_float(text)
        if not value >= least:
            raise ValueError(f"write {allowed}")
        return value

    return read


def read_seconds(*, above: bool = False) -> Callable[[str, Path], float]:
    def read(text: str, base: Path) -> float:
        milliseconds = text.endswith("ms")
        value = read_float(text.removesuffix("ms").removesuffix("s")) / (1000 if milliseconds else 1)
        if not (value > 0 or (value == 0 and not above)):
            raise ValueError(f"write seconds{', above 0' if above else ''}, such as 2, 0.5 or 500ms")
        return value

    return read


def read_sessions(text: str, base: Path) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < 1:
        raise ValueError("write how many fresh processes are to run the tests, such as 3; 1 is this one")
    return int(text)


def read_confirm(text: str, base: Path) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text):
        raise ValueError("write how many fresh processes are to measure again what is suspect, such as 2; 0 is none")
    return int(text)


def read_against(text: str, base: Path) -> str:
    if text.startswith("-") or re.search(r"\s", text):
        raise ValueError("write a branch, a tag or a commit, such as main, origin/main, v1.2 or HEAD~1")
    return text


def _in_ci() -> bool:
    """Whether this is CI, as every CI says."""
    return os.environ.get("CI", "").strip().lower() not in ("", "0", "false", "no", "off")


def read_rounds(text: str, base: Path) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 2:
        raise ValueError("write a whole number of rounds, at least 2: one round has no spread")
    return int(text)


def read_path(text: str, base: Path) -> Path:
    return base / Path(text).expanduser()


def read_baseline(text: str, base: Path) -> Path | str:
    from pytest_carbon.baselines.address import place

    return place(text, base)


def read_branch(text: str, base: Path) -> str:
    if re.search(r"\s", text):
        raise ValueError("write the name of a branch, as git branch shows it")
    return text


def read_labels(text: str, base: Path) -> str:
    pairs = dict(re.findall(r"([\w.-]+)=([^=,\n]+)(?:,|$)", text))
    if ",".join(f"{key}={value}" for key, value in pairs.items()) != text:
        raise ValueError("write KEY=VALUE, each key once, no = or comma in a value, such as --carbon-label=pool=a100")
    return ",".join(f"{key}={pairs[key]}" for key in sorted(pairs))


def read_meter(text: str, base: Path) -> str:
    """Names joined by ``+``, which the meters know; ``replay:`` takes all that follows, since a path may
    have a ``+`` in it."""
    before, replay, file = text.partition("replay:")
    names = before.split("+")
    if replay:
        # Before it stands nothing, or a name and a "+".
        names[-1] += replay + (str(read_path(file.strip(), base)) if file.strip() else "")
    if not all(re.fullmatch(r"replay:.+|[^+:]+", name) for name in names):
        raise ValueError("write auto, nvml, rapl, estimate or replay:FILE, or several joined by +")
    if "auto" in names and len(names) > 1:
        raise ValueError("auto chooses by itself: leave it out, or leave the others out")
    return "+".join(names)


def read_gpus(text: str, base: Path) -> str:
    if text in ("used", "visible", "all"):
        return text
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d+|(GPU|MIG)-[\w/-]+", part, re.ASCII) for part in parts):
        raise ValueError(
            "write used, visible, all, or indices and UUIDs with commas between them, such as 0,1."
            + _near(text, ("used", "visible", "all"))
        )
    return ",".join(dict.fromkeys(parts))


def read_country(text: str, base: Path) -> str:
    if not re.fullmatch(r"[A-Za-z]{3}", text):
        raise ValueError("write the three letters of ISO 3166 alpha-3, such as DEU or USA")
    return text.upper()


def read_region(text: str, base: Path) -> str:
    return text


def read_cloud(text: str, base: Path) -> str:
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", text):
        raise ValueError("write provider/region, such as aws/us-west-2")
    return text.lower()


def read_suite(text: str, base: Path) -> str | tuple[str, ...]:
    if text in ("small", "study"):
        return text
    from pytest_carbon.tasks.catalogue import TASKS, models, models_meant

    ids = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    allowed = (
        "write small, study, or models' full hub ids with commas between them, such as gpt2,facebook/bart-large-cnn"
    )
    for id in ids:
        if id in ("small", "study"):
            raise ValueError(
                f"{id} is a suite of its own, and stands alone: {allowed}. A model among others is selected with -m:"
                " --carbon-suite=study -m gpt2"
            )
        if id in TASKS:
            raise ValueError(f"{id!r} is a task: {allowed}. A task is selected with -m: --carbon-suite=study -m {id}")
        if id not in models():
            meant = _near(id, ("small", "study")) or models_meant(id, models()) if id else ""
            raise ValueError(f"{id!r} is none of the suite's {len(models())} models: {allowed}.{meant}")
    return ids


def read_queries(text: str, base: Path) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise ValueError("write a whole number of calls, 1 or more; the study made 1000")
    return int(text)


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
        "append this session to the baselines of what the gate does not fail, and no doubt disqualifies; implies "
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
        "batch (default: 1, which is this process)",
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
        "also fail without a baseline, for a figure in doubt, for a blind pass, and for baselines whose test is gone; "
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


def refusal(*problems: str) -> pytest.UsageError:
    """What ends the run with exit status 4. pytest prints each problem as it is, after ``ERROR: ``: a terminal gets
    lines that are broken between words; a file, or another program, each in one line."""
    if sys.stderr.isatty():
        from pytest_carbon.reports.layout import error_lines

        first, width = "ERROR: ", shutil.get_terminal_size().columns
        problems = tuple("\n".join(error_lines(each, width)).removeprefix(first) for each in problems)
    return pytest.UsageError(*problems)


# --- the command line and the ini file ---------------------------------------------------------------


class _Given(NamedTuple):
    """What the user gave for an option."""

    where: str
    """``--carbon-rounds=1``, ``carbon_rounds = 1 in /project/pytest.ini``."""
    value: Any
    flag: bool


_INHERITED = "carbon_inherited"
"""The attribute of ``config.option`` with the settings of a process that has them from another."""
PAIRS = 8
"""Of ``--carbon-against``, where ``--carbon-sessions`` does not say."""
_PLACE = ("country", "region", "cloud", "intensity_g_per_kwh")


def anything_given(config: pytest.Config) -> bool:
    """Whether the command line or the ini file says anything about carbon: if not, this is a run that has no
    use for :func:`settings`, and need not pay for the records."""
    return any(_raw(config, option) for option in (SWITCH, *OPTIONS))


def idle_flags(config: pytest.Config) -> list[str]:
    """The flags that somebody typed, not in ``addopts``, and that do nothing where ``--carbon`` is not given."""
    typed = [str(argument).partition("=")[0] for argument in config.invocation_params.args]
    if f"--no-{SWITCH.key}" in typed:
        return []
    flags = {option.flag for option in OPTIONS if option.field not in ("suite", "queries")}
    return [
        flag for flag in dict.fromkeys(each.replace("--no-carbon-", "--carbon-") for each in typed) if flag in flags
    ]


def hide_password(config: pytest.Config) -> None:
    """pytest's ``--debug`` has written the command line into its file: take the password of a database out of it."""
    if not config.option.debug:
        return
    from pytest_carbon.baselines.address import DatabaseUrl

    given = [re.search(r"[A-Za-z][A-Za-z0-9+.-]+:/.*", str(each), re.DOTALL) for each in config.invocation_params.args]
    writer = getattr(config.trace.root, "_writer", None)
    if (file := getattr(writer, "__self__", None)) is not None:
        file.flush()
    data = Path(config.option.debug).read_bytes()
    for url in [found[0] for found in given if found]:
        there = repr(url)[1:-1].encode()
        # As long as it was: pytest goes on writing where it is.
        data = data.replace(there, str(DatabaseUrl(url)).encode().ljust(len(there))[: len(there)])
    with open(config.option.debug, "r+b") as debug:
        debug.write(data)


def settings(config: pytest.Config) -> Settings:
    """The options of this run: a flag before an ini key before the default.

    Everything given is read, also without ``--carbon``: a mistake in an ini file is found when it is
    made. Raises :class:`pytest.UsageError` with one text for every problem: its place, what is allowed.
    """
    from pytest_carbon.records import Settings

    if (inherited := getattr(config.option, _INHERITED, None)) is not None:
        return cast("Settings", inherited[0])
    given: dict[str, _Given] = {}
    problems: list[str] = []
    for option in (SWITCH, *OPTIONS):
        if raw := _raw(config, option):
            try:
                given[option.field] = _Given(raw.where, _read(option, raw, config), raw.flag)
            except ValueError as problem:
                problems.append(f"{raw.where}: {problem}")
    _drop_the_inis_place(given)
    problems += _disagreements(given)

    values = {field: found.value for field, found in given.items()}
    defaults = Settings()
    # One end of the time given, and the other left alone: the other gives way.
    values.setdefault("min_time_s", min(defaults.min_time_s, values.get("max_time_s", math.inf)))
    values.setdefault("max_time_s", max(defaults.max_time_s, values["min_time_s"]))
    values.setdefault("baseline", config.rootpath / defaults.baseline)
    values.setdefault("confirm", 2 if _in_ci() else 0)
    if "against" in given:  # what an ini file says of sessions is of those that are compared with baselines
        values.update(confirm=0, reference=False)
        values["sessions"] = given["sessions"].value if "sessions" in given and given["sessions"].flag else PAIRS
    switch = given.get("enabled")
    if not (switch and switch.flag) and (values.get("record") or values.get("accept") or values.get("against")):
        values["enabled"] = True
    if not values.get("enabled"):
        values.update(record=False, accept=False, against=None)
    elif not problems:
        problems += _unwritable(given)
    if problems:
        raise refusal(*problems)
    return Settings(**values)


def fields_given(config: pytest.Config) -> frozenset[str]:
    """The fields of Settings that the command line or the ini file sets."""
    if (inherited := getattr(config.option, _INHERITED, None)) is not None:
        return cast("frozenset[str]", inherited[1])
    return frozenset(option.field for option in (SWITCH, *OPTIONS) if _raw(config, option))


def inherit(config: pytest.Config, settings: Settings, given: frozenset[str]) -> None:
    """Have a process take its settings, and which of them the user gave, from the one that started it."""
    setattr(config.option, _INHERITED, (settings, given))


def refuse_lost_root(config: pytest.Config) -> None:
    """Refuse a path that stands apart from its flag where pytest took it for tests, and so found another root dir.

    pytest looks for its ini file before any plugin has told it of its flags: to that look ``--carbon-json FILE`` is
    a flag that it does not know and, once the file is there, the place of tests. Raises :class:`pytest.UsageError`.
    """
    words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *config.invocation_params.args]
    paths = {option.flag for option in OPTIONS if option.read in (read_path, read_baseline, read_against)}
    apart = [
        (flag, value)
        for flag, value in itertools.pairwise(words)
        if flag in paths and os.path.exists(config.invocation_params.dir / value)
    ]
    if not apart or (intended := _root_without(config)) == (config.rootpath, config.inipath):
        return
    flag, value = apart[0]
    raise refusal(
        f"write {flag}={shlex.quote(value)}: with a blank between them pytest took the path for the place of tests, and"
        f" its root dir is {config.rootpath} (ini file: {config.inipath or 'none'}) instead of {intended[0]}"
        f" (ini file: {intended[1] or 'none'})"
    )


def _root_without(config: pytest.Config) -> tuple[Path, Path | None]:
    """The root dir and the ini file that pytest would have found by the arguments that do name tests."""
    import inspect

    from _pytest.config.findpaths import determine_setup  # nothing public tells

    option = config.option
    given = {
        "inifile": option.inifilename,
        "override_ini": option.override_ini,
        "args": option.file_or_dir,
        "rootdir_cmd_arg": option.rootdir or None,
        "invocation_dir": config.invocation_params.dir,
    }
    known = inspect.signature(determine_setup).parameters  # pytest 8 has no override_ini there
    root, ini, *_ = determine_setup(**{name: value for name, value in given.items() if name in known})
    return root, ini


def remove_old_report(config: pytest.Config) -> None:
    """An earlier run's ``--carbon-json`` goes before this run begins: where it writes none, there is none to mistake.

    Not for a run that only shows something, and nothing but a file: not a pipe.
    """
    option = config.option
    if option.carbon_json and not (option.collectonly or option.help or option.version):
        with contextlib.suppress(OSError):  # what stands in the way is refused where the options are read
            if (report := read_path(option.carbon_json.strip(), config.invocation_params.dir)).is_file():
                report.unlink()


def of_project() -> Settings:
    """The settings of a run without flags in the current folder, for commands outside of pytest.

    Nothing of the project is run: neither its conftest files nor ``addopts``, whose carbon flags do not count here.
    Raises :class:`~pytest_carbon.records.UsageProblem`, also for an ini file that pytest cannot read: why has been
    printed then.
    """
    from pytest_carbon.records import UsageProblem

    found: list[Settings | pytest.UsageError] = []

    class Stop:
        """Takes pytest's place once it has read the ini file."""

        @pytest.hookimpl(tryfirst=True)
        def pytest_cmdline_main(self, config: pytest.Config) -> int:
            try:
                found.append(settings(config))
            except pytest.UsageError as error:
                found.append(error)
            return 0

    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "PYTEST_PLUGINS": ""}
    before = {name: os.environ.get(name) for name in alone}
    os.environ.update(alone)
    try:
        nothing = ("-o", "addopts=", "-o", "required_plugins=", "--noconftest", "--assert=plain")
        pytest.main([*nothing, "-p", "pytest_carbon.plugin"], plugins=[Stop()])
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
    if not found:
        raise UsageProblem("pytest cannot read its ini file, as it says above")
    if isinstance(found[0], pytest.UsageError):
        raise UsageProblem("\n".join(map(str, found[0].args)))
    return found[0]


def _raw(config: pytest.Config, option: Option) -> _Given | None:
    """What stands on the command line, or else in the ini file, unread. An empty ini key is not given."""
    value = getattr(config.option, option.key, None)
    if isinstance(value, bool):
        return _Given(option.flag, value, True)
    if isinstance(value, list):
        return _Given(" ".join(f"{option.flag}={shlex.quote(each)}" for each in value), ",".join(value), True)
    if value is not None:
        return _Given(f"{option.flag}={shlex.quote(_without_password(option, value))}", value, True)
    if not option.ini:
        return None
    overridden = any(o.partition("=")[0].strip() == option.key for o in config.option.override_ini or ())
    try:
        value = config.getini(option.key)
    except (pytest.UsageError, TypeError, ValueError) as error:
        # pytest says that this is no value of the key's type.
        return _Given(f"-o {option.key}" if overridden else f"{option.key} in {config.inipath}", error, False)
    if value is None or value == "":
        return None
    shown = _without_password(option, value)
    where = f"-o {option.key}={shown}" if overridden else f"{option.key} = {shown} in {config.inipath}"
    return _Given(where, value, False)


def _without_password(option: Option, value: Any) -> Any:
    """A value as texts may show it."""
    if option.read is not read_baseline or not isinstance(value, str):
        return value
    from pytest_carbon.baselines.address import DatabaseUrl, is_url

    return DatabaseUrl(value.strip()) if is_url(value.strip()) else value


def _read(option: Option, raw: _Given, config: pytest.Config) -> Any:
    """The value of the option's field. Raises ValueError with what is allowed."""
    if isinstance(raw.value, Exception):
        error = str(raw.value).removeprefix(f"{config.inipath}: ")
        raise ValueError(f"{error}; write {'true or false' if option.metavar is None else 'one text, in quotes'}")
    if isinstance(raw.value, list):
        raise ValueError("write one text, not a list")
    text = str(raw.value).lower() if isinstance(raw.value, bool) else str(raw.value).strip()
    if not text:
        raise ValueError("this is empty; give it a value, or leave it out")
    return option.read(text, config.invocation_params.dir if raw.flag else config.rootpath)


def _drop_the_inis_place(given: dict[str, _Given]) -> None:
    """Flags that say where the electricity comes from replace what the ini file says about it as a whole:
    its region is in its country, not in theirs. Only a region by itself stays in the ini file's country."""
    flags = {field for field in _PLACE if field in given and given[field].flag}
    for field in _PLACE:
        if flags and field not in flags and not (field == "country" and flags == {"region"}):
            given.pop(field, None)


def _disagreements(given: dict[str, _Given]) -> Iterable[str]:
    place = [given[field].where for field in _PLACE[:3] if field in given]
    if (outright := given.get("intensity_g_per_kwh")) and place:
        yield f"{outright.where}: with the intensity given outright there is no use for {place[0]}; leave one out"
    if (cloud := given.get("cloud")) and len(place) > 1:
        yield f"{cloud.where}: a cloud region says where it is, so there is no use for {place[0]}; leave one out"
    elif (region := given.get("region")) and "country" not in given:
        yield f"{region.where}: a region needs its country; add --carbon-country, such as USA or CAN"
    baseline = given.get("baseline")
    if (branch := given.get("branch")) and branch.flag and not (baseline and isinstance(baseline.value, str)):
        yield (
            f"{branch.where}: a directory's baselines are those of the branch that is checked out, so there is nothing"
            " to choose; leave it out, or give the URL of a database with --carbon-baseline"
        )
    if against := given.get("against"):
        for field, why in (
            ("record", "a comparison of two revisions records no baseline"),
            ("accept", "a comparison of two revisions has no baseline that a change could be accepted into"),
            ("confirm", "each side is measured in fresh processes already, --carbon-sessions of them"),
            ("reference", "both sides are measured on the same machine in turns, and its drifts are taken out"),
        ):
            if (other := given.get(field)) and other.flag and other.value is not False:
                yield f"{against.where}: {why}; leave {other.where} out"
        if (pairs := given.get("sessions")) and pairs.flag and pairs.value < 2:
            yield (
                f"{pairs.where}: with --carbon-against this is the number of pairs, and one pair does not tell what"
                " pairs differ by; give 2 at least, and 8 or more to see small changes"
            )
    least, most = given.get("min_time_s"), given.get("max_time_s")
    if least and most and least.value > most.value:
        yield f"{least.where}: this is longer than {most.where}; lower the one or raise the other"


def _unwritable(given: dict[str, _Given]) -> Iterable[str]:
    """What would otherwise be found out only when everything has been measured."""
    baseline, json = given.get("baseline"), given.get("json")
    if baseline and isinstance(baseline.value, Path) and os.path.isfile(baseline.value):
        yield f"{baseline.where}: this is a file; write a directory (it need not exist yet), or a database URL"
    if json and os.path.isdir(json.value):
        yield f"{json.where}: this is a directory; write the path of a file"
    elif json and (os.path.isfile(json.value) or not os.path.exists(json.value)):  # not so a pipe, a device
        folder = next(folder for folder in json.value.absolute().parents if os.path.exists(folder))
        may = os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
        if not (os.path.isdir(folder) and may):
            yield f"{json.where}: {folder} is no folder that this user may write to; write the path of a file in one"


# --- markers ---------------------------------------------------------------------------------------


def budgets_of(item: pytest.Item) -> tuple[Budget, ...]:
    """The budgets of a test, those of its parameters, function, classes and module merged.

    For :func:`~pytest_carbon.gate.budget.budget_for`; empty where the test has no marker. Raises
    :class:`pytest.UsageError` with the test, the value, and what is allowed.
    """
    levels = _levels(item)
    if not any(levels):
        return ()
    from pytest_carbon.gate.budget import merge, parse
    from pytest_carbon.records import UsageProblem

    try:
        return merge(*([parse(*mark.args, **mark.kwargs) for mark in level] for level in levels))
    except UsageProblem as problem:
        raise refusal(f"{item.nodeid}: {problem}") from None


def own_names(item: pytest.Item) -> list[str]:
    """The measurements that the markers of the test itself name, not those of its class or module, which
    may be meant for other tests; for :func:`~pytest_carbon.gate.budget.unmeasured`."""
    parameters, function, *_ = _levels(item)
    return [mark.kwargs["name"] for mark in (*parameters, *function) if mark.kwargs.get("name")]


def shared_names(item: pytest.Item) -> list[pytest.Mark]:
    """The markers with a name that a test shares with others: its class's, its module's."""
    _, _, *shared = _levels(item)
    return [mark for level in shared for mark in level if mark.kwargs.get("name")]


def _levels(item: pytest.Item) -> list[list[pytest.Mark]]:
    """A test's markers, one list a level, nearest first: its parameters', its own, its class's, its module's.

    ``iter_markers`` has a parameter's after the function's, and a base class's before the derived one's.
    """
    callspec = getattr(item, "callspec", None)
    parameters, function = _split(_mine(item.own_markers), callspec.marks if callspec else [])
    levels = [parameters, function]
    for node in reversed(item.listchain()[:-1]):
        marks = _mine(node.own_markers)
        for cls in node.obj.__mro__ if isinstance(node, pytest.Class) else ():
            written = cls.__dict__.get("pytestmark", [])
            of_class, marks = _split(marks, written if isinstance(written, list) else [written])
            levels.append(of_class)
        levels.append(marks)
    return levels


def _mine(marks: Iterable[pytest.Mark]) -> list[pytest.Mark]:
    return [mark for mark in marks if mark.name == MARKER]


def _split(
    marks: list[pytest.Mark], some: Iterable[pytest.Mark | pytest.MarkDecorator]
) -> tuple[list[pytest.Mark], list[pytest.Mark]]:
    """The marks that are among ``some``, and the others. Equal ones may be written twice: identity counts."""
    ids = {id(getattr(mark, "mark", mark)) for mark in some}
    return [mark for mark in marks if id(mark) in ids], [mark for mark in marks if id(mark) not in ids]
