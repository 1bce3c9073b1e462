"""Options, pytest.ini and the machine → the settings of a run, and what contradicts what."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

from pytest_carbon.plugin.options import OPTIONS, SWITCH, Option
from pytest_carbon.plugin.refusal import refusal
from pytest_carbon.plugin.values import read_baseline

if TYPE_CHECKING:
    from pytest_carbon.records import Settings


def _in_ci() -> bool:
    """Whether this is CI, as every CI says."""
    return os.environ.get("CI", "").strip().lower() not in ("", "0", "false", "no", "off")


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


def read_settings(config: pytest.Config) -> Settings:
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
                found.append(read_settings(config))
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
