"""The settings of a run, from flags, the ini file and the environment; refusals of what contradicts."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

from pytest_carbon.host.ci import in_ci
from pytest_carbon.host.stdlib import os
from pytest_carbon.plugin import values as readers
from pytest_carbon.plugin.options import OPTIONS, SWITCH, Option
from pytest_carbon.plugin.refusal import refusal

if TYPE_CHECKING:
    from pytest_carbon.records import Settings


class _Given(NamedTuple):
    where: str
    """``--carbon-rounds=1``, ``carbon_rounds = 1 in /project/pytest.ini``."""
    value: Any
    flag: bool


_INHERITED = "carbon_inherited"
"""The attribute of ``config.option`` with the settings of a process that got them from its parent."""
PAIRS = 8
"""Pairs of sessions of ``--carbon-against``, unless ``--carbon-sessions`` is given."""
_PLACE = ("country", "region", "cloud", "intensity_g_per_kwh")


def idle(config: pytest.Config, settings: Settings) -> str | None:
    """Say which of the typed flags have no effect in this run."""
    typed = [str(argument).partition("=")[0] for argument in config.invocation_params.args]
    if f"--no-{SWITCH.key}" in typed and not settings.work:
        return None
    used = ["suite", *(["energy", "both"] if settings.enabled else []), *(["work", "both"] if settings.work else [])]
    kinds = {o.flag: o.of for o in OPTIONS if o.of not in used and o.field != "work"}
    flags = [flag for flag in dict.fromkeys(t.replace("--no-carbon-", "--carbon-") for t in typed) if flag in kinds]
    if not flags:
        return None
    from pytest_carbon.text import listing

    without = "with --carbon-work alone" if settings.work else "without --carbon"
    if all(kinds[flag] == "work" for flag in flags):
        without = "without --carbon-work"
    return f"{listing(flags, len(flags))} {'has' if len(flags) == 1 else 'have'} no effect {without}"


def read_settings(config: pytest.Config) -> Settings:
    """Read the options; flags win over ini keys. Raise UsageError with all problems."""
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
    # Flags about the place replace the ini file's whole place; only a region alone stays in the ini file's country.
    flags = {field for field in _PLACE if field in given and given[field].flag}
    for field in _PLACE if flags else ():
        if field not in flags and not (field == "country" and flags == {"region"}):
            given.pop(field, None)
    problems += _disagreements(given)

    values = {field: one.value for field, one in given.items()}
    defaults = Settings()
    # A given end of the time moves the default of the other end.
    values.setdefault("min_time_s", min(defaults.min_time_s, values.get("max_time_s", math.inf)))
    values.setdefault("max_time_s", max(defaults.max_time_s, values["min_time_s"]))
    values.setdefault("baseline", config.rootpath / defaults.baseline)
    values.setdefault("confirm", 2 if in_ci(os.environ) else 0)
    if "against" in given:  # the ini file's sessions are for comparing with baselines
        values.update(confirm=0, reference=False, work=False, engine="local")
        values["sessions"] = given["sessions"].value if "sessions" in given and given["sessions"].flag else PAIRS
    if any(str(word).startswith("--carbon-branch") for word in config.invocation_params.args):  # not in addopts
        values["branch_given"] = values.get("branch")
    switch = given.get("enabled")
    implied = values.get("against") or (not values.get("work") and (values.get("record") or values.get("accept")))
    if not (switch and switch.flag) and implied:
        values["enabled"] = True
    if not values.get("enabled"):
        values["against"] = None
    if not values.get("enabled") and not values.get("work"):
        values.update(record=False, accept=False)
    if not problems:
        problems += _unwritable(config, given, enabled=bool(values.get("enabled") or values.get("work")))
    if problems:
        raise refusal(*problems)
    return Settings(**values)


def fields_given(config: pytest.Config) -> frozenset[str]:
    """List the fields of Settings that the command line or the ini file sets."""
    if (inherited := getattr(config.option, _INHERITED, None)) is not None:
        return cast("frozenset[str]", inherited[1])
    return frozenset(option.field for option in (SWITCH, *OPTIONS) if _raw(config, option))


def inherit(config: pytest.Config, settings: Settings, given: frozenset[str]) -> None:
    """Give a fresh process its parent's settings, and which of them the user gave."""
    setattr(config.option, _INHERITED, (settings, given))


def _raw(config: pytest.Config, option: Option) -> _Given | None:
    """Return the text from the command line, else from a non-empty ini key."""
    value = getattr(config.option, option.key, None)
    if isinstance(value, bool):
        return _Given(option.flag, value, True)
    if isinstance(value, list):
        return _Given(" ".join(f"{option.flag}={shlex.quote(text)}" for text in value), ",".join(value), True)
    if value is not None:
        return _Given(f"{option.flag}={shlex.quote(_without_password(option, value))}", value, True)
    if not option.ini:
        return None
    overridden = any(o.partition("=")[0].strip() == option.key for o in config.option.override_ini or ())
    try:
        value = config.getini(option.key)
    except (pytest.UsageError, TypeError, ValueError) as error:  # pytest refuses a value of another type
        return _Given(f"-o {option.key}" if overridden else f"{option.key} in {config.inipath}", error, False)
    if value is None or value == "":
        return None
    shown = _without_password(option, value)
    where = f"-o {option.key}={shown}" if overridden else f"{option.key} = {shown} in {config.inipath}"
    return _Given(where, value, False)


def _without_password(option: Option, value: Any) -> Any:
    if option.read is not readers.baseline or not isinstance(value, str):
        return value
    from pytest_carbon.baselines.address import DatabaseUrl, is_url

    return DatabaseUrl(value.strip()) if is_url(value.strip()) else value


def _read(option: Option, raw: _Given, config: pytest.Config) -> Any:
    if isinstance(raw.value, Exception):
        error = str(raw.value).removeprefix(f"{config.inipath}: ")
        raise ValueError(f"{error}; write {'true or false' if option.metavar is None else 'one text, in quotes'}")
    if isinstance(raw.value, list):
        raise ValueError("write one text, not a list")
    text = str(raw.value).lower() if isinstance(raw.value, bool) else str(raw.value).strip()
    if not text:
        raise ValueError("this is empty; give it a value, or leave it out")
    return option.read(text, config.invocation_params.dir if raw.flag else config.rootpath)


def _disagreements(given: dict[str, _Given]) -> Iterable[str]:
    place = [given[field].where for field in _PLACE[:3] if field in given]
    if (outright := given.get("intensity_g_per_kwh")) and place:
        yield f"{outright.where}: a given intensity leaves {place[0]} without effect; leave one out"
    if (cloud := given.get("cloud")) and len(place) > 1:
        yield f"{cloud.where}: a cloud region includes its place, so {place[0]} has no effect; leave one out"
    elif (region := given.get("region")) and "country" not in given:
        yield f"{region.where}: a region needs its country; add --carbon-country, such as USA or CAN"
    baseline = given.get("baseline")
    if (branch := given.get("branch")) and branch.flag and not (baseline and isinstance(baseline.value, str)):
        yield (
            f"{branch.where}: a directory holds the baselines of the branch that is checked out; leave it out, or give"
            " the URL of a database with --carbon-baseline"
        )
    if against := given.get("against"):
        for field, why in (
            ("record", "a comparison of two revisions records no baseline"),
            ("accept", "a comparison of two revisions has no baseline to accept a change into"),
            ("confirm", "each side is already measured in fresh processes, --carbon-sessions of them"),
            ("reference", "both sides are measured in turns on one machine, so its drift is already subtracted"),
            ("work", "counted work is compared with baselines, not with another revision"),
            ("shard", "the two revisions are judged in one run, and shards of it cannot be merged"),
            ("engine", "the two revisions are compared in turns on one machine"),
        ):
            if (other := given.get(field)) and other.flag and other.value not in (False, "local"):
                yield f"{against.where}: {why}; leave {other.where} out"
        if (pairs := given.get("sessions")) and pairs.flag and pairs.value < 2:
            yield (
                f"{pairs.where}: with --carbon-against this is the number of pairs, and one pair shows no spread;"
                " give 2 or more, and 8 or more to find small changes"
            )
    least, most = given.get("min_time_s"), given.get("max_time_s")
    if least and most and least.value > most.value:
        yield f"{least.where}: this is longer than {most.where}; lower the one or raise the other"


def _texts(options: Any) -> Iterator[tuple[str, str]]:
    """Yield what may be a path: the texts of all options, also by kind, as pytest-cov has its reports."""
    for name, value in vars(options).items():
        for text in value.values() if isinstance(value, dict) else (value,):
            if isinstance(text, str) and text:
                yield name, text


def _unwritable(config: pytest.Config, given: dict[str, _Given], *, enabled: bool) -> Iterable[str]:
    """Refuse before measuring what could not be written after it."""
    baseline = given.get("baseline")
    if enabled and baseline and isinstance(baseline.value, Path) and os.path.isfile(baseline.value):
        yield f"{baseline.where}: this is a file; write a directory (it need not exist yet), or a database URL"
    if any(option.read is readers.path and option.field in given for option in OPTIONS):
        from pytest_carbon.host import output
        from pytest_carbon.plugin.outputs import FILES

        folder = config.invocation_params.dir
        places = [(name, os.path.realpath(folder / text)) for name, text in _texts(config.option)]
        for file in FILES:
            if (wanted := given.get(file.field)) is None:
                continue
            check = output.obstacle if enabled else output.not_ours
            if why := (file.lacks() if enabled else None) or check(wanted.value, file.format):
                yield f"{wanted.where}: {why}"
            place = os.path.realpath(wanted.value)
            places = [(name, other) for name, other in places if name != file.key]  # two of ours are refused once
            for name in dict.fromkeys(name for name, other in places if other == place):
                yield f"{wanted.where}: another option, {name}, names this file, too; give each a file of its own"
