"""``pytest-carbon baseline list | show | check | prune | rename | copy``: the upkeep of baselines."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_carbon.plugin.settings import of_project

if TYPE_CHECKING:
    from pytest_carbon.baselines import Store
    from pytest_carbon.baselines.upkeep import Collected
    from pytest_carbon.records import Key, Record, Settings

OK, FAULTS = 0, 1

_WHERE = "where the baselines are (default: carbon_baseline of the ini file, or carbon-baselines beside it)"
_PLACE = "a directory, or the URL of a database"
_CLOCKS_DIFFER = timedelta(days=1)
_MOST_NAMES = 50
_LAST_LINES = 15


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def command(
        name: str, help: str, description: str, epilog: str = "", *, place: bool = True
    ) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=help, description=description, epilog=epilog)
        if place:
            parser.add_argument("--baseline", "--carbon-baseline", metavar="PLACE", help=_WHERE)
        return parser

    listing = command(
        "list",
        "what there is, machine by machine, and how small a change it can show",
        "For each machine: how much is stored, how old it is, how much recordings differ, and the smallest change that"
        " a run of everything would find four times in five.",
    )
    listing.set_defaults(run=_list)

    show = command(
        "show", "how a test's energy went", "The history of a test, of all tests of a folder, a module or a class."
    )
    show.add_argument(
        "test", metavar="NODEID", help="a test's id, as pytest has it; a folder's, module's or class's for all of it"
    )
    show.set_defaults(run=_show)

    check = command(
        "check",
        "whether every file can be used; for pre-commit, too",
        "Look through baselines for what a run would stop at: conflict markers, lines cut off, figures that are none,"
        " times in the future, files in the wrong folder.",
        "Exit status: 0; 1 where something is wrong, with FILE:LINE and the remedy.",
    )
    check.add_argument("files", metavar="FILE", nargs="*", type=Path, help="only these (default: all)")
    check.set_defaults(run=_check)

    prune = command(
        "prune",
        "delete the baselines of tests that are gone",
        "Say which tests have a baseline and are no more, and delete those with --yes. For that pytest collects the"
        " whole suite; where it did not, for errors, a -k, a --lf, nothing is deleted. A test whose file is there, and"
        " of which nothing was collected, is kept.",
    )
    prune.add_argument("--yes", action="store_true", help="delete them; without it, nothing is touched")
    prune.add_argument(
        "--collected",
        metavar="FILE",
        type=Path,
        help="what `pytest --collect-only -q` printed in pytest's root dir, from where the suite can be collected;"
        " run this there, too",
    )
    prune.add_argument(
        "arguments", metavar="ARGUMENT", nargs="*", help="after --: arguments for pytest, such as --pyargs PACKAGE"
    )
    prune.set_defaults(run=_prune)

    rename = command(
        "rename",
        "keep the baselines of tests that have a new name",
        "Put what is stored of OLD under NEW, in every machine: of a test, or with module.py:: of all its tests.",
    )
    rename.add_argument("old", metavar="OLD", help="a test's id, or a module's or a class's with :: at its end")
    rename.add_argument("new", metavar="NEW", help="the same of the new name, which must have no baseline")
    rename.set_defaults(run=_rename)

    copy = command(
        "copy",
        "copy baselines between directories and databases",
        "Copy everything that one place has into another. What is there stays, once: copying again adds nothing.",
        place=False,
    )
    copy.add_argument("source", metavar="FROM", help=_PLACE)
    copy.add_argument("target", metavar="TO", help=_PLACE)
    copy.set_defaults(run=_copy)


# --- where they are ------------------------------------------------------------------------------


def _location(given: argparse.Namespace, settings: Settings | None = None) -> Path | str:
    """What the command line or the project names, as a person standing here would."""

    if given.baseline is not None:
        return _place(given.baseline)
    location = (settings or of_project()).baseline
    if isinstance(location, Path) and location.is_relative_to(Path.cwd()):
        return location.relative_to(Path.cwd())
    return location


def _place(text: str) -> Path | str:
    from pytest_carbon.baselines.address import DatabaseUrl, place

    found = place(text, Path.cwd())
    return found if isinstance(found, DatabaseUrl) else Path(text).expanduser()


def _open(location: Path | str, branch: str | None = None) -> Store:
    """The store at a place that must be there; ``branch``: whose records count in a database, else everybody's."""
    from pytest_carbon.baselines import open_store
    from pytest_carbon.baselines.address import DatabaseUrl
    from pytest_carbon.records import UsageProblem

    file = location if isinstance(location, Path) else location.file if isinstance(location, DatabaseUrl) else None
    if file is not None and not file.exists():
        raise UsageProblem(f"there are no baselines in {location}. Name the place that has them with --baseline=PLACE.")
    return open_store(location, branch=branch)


def _all(store: Store) -> dict[str, dict[Key, list[Record]]]:
    with store.snapshot():
        return {id: store.load(id) for id in store.machines()}


def _now() -> datetime:
    return datetime.now(UTC)


def _iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


# --- list, show, check ---------------------------------------------------------------------------


def _list(given: argparse.Namespace) -> int:
    from pytest_carbon.baselines import upkeep
    from pytest_carbon.commands import ascii_only, width
    from pytest_carbon.reports import baselines as report

    settings = of_project()
    location = _location(given, settings)
    store = _open(location, settings.branch)
    rule = {"tolerance": settings.tolerance, "false_alarms": settings.false_alarms}
    found = [
        upkeep.overview(store.describe(id), stored, **rule)
        for id, stored in _all(store).items()
        if upkeep.tests_of([stored])
    ]
    hint = None if found else store.hint()
    print(
        "\n".join(
            report.overviews(found, str(location), now=_iso(_now()), width=width(), ascii=ascii_only(), hint=hint)
        )
    )
    return OK


def _show(given: argparse.Namespace) -> int:
    from pytest_carbon.baselines import upkeep
    from pytest_carbon.commands import ascii_only, width
    from pytest_carbon.reports import baselines as report

    store = _open(_location(given))
    found = upkeep.histories(_all(store), given.test)
    print("\n".join(report.histories(found, width=width(), ascii=ascii_only())))
    return OK


def _check(given: argparse.Namespace) -> int:
    from pytest_carbon.baselines.files import FileStore
    from pytest_carbon.records import BaselineError, UsageProblem

    location = _location(given)
    store = _open(location)
    if isinstance(store, FileStore):
        assert isinstance(location, Path)
        paths = [_inside(path, location) for path in given.files] or None
        faults = list(store.faults(latest=_iso(_now() + _CLOCKS_DIFFER), paths=paths))
    elif given.files:
        raise UsageProblem(f"{location} is a database, and has no files to check: leave them out.")
    else:
        faults = []
        for id in store.machines():
            try:
                store.load(id)
            except BaselineError as error:
                faults.append(str(error))
    for fault in faults:
        print(fault)
    if not faults:
        what = _number(len(given.files), "file") if given.files else str(location)
        print(f"{what}: nothing wrong")
    return FAULTS if faults else OK


def _inside(path: Path, directory: Path) -> Path:
    """A file's path as the store has it."""
    from pytest_carbon.records import UsageProblem

    try:
        return directory / path.resolve().relative_to(directory.resolve())
    except ValueError:
        raise UsageProblem(
            f"{path} does not lie in {directory}. Name the directory of the baselines with --baseline=DIR."
        ) from None


# --- prune ---------------------------------------------------------------------------------------


def _prune(given: argparse.Namespace) -> int:
    from pytest_carbon.baselines import upkeep
    from pytest_carbon.baselines.comparison import renamed

    location = _location(given)
    store = _open(location)
    if given.yes:
        _refuse_other_branches(location)
    stored = _all(store)
    tests = upkeep.tests_of(stored.values())
    if given.collected is not None:
        collected = upkeep.listed(_text_of(given.collected), Path.cwd())
    else:
        collected = _collect(given.arguments)
    found = upkeep.gone(tests, collected)
    for why, ids in found.kept.items():
        print(f"kept, for {why}: {_names(ids)}")
    if not found.tests:
        print(f"No baseline in {location} is of a test that is gone.")
        return OK
    measuring = collected.tests if collected.measuring is None else collected.measuring
    news = renamed([(test, "") for test in found.tests], [(test, "") for test in sorted(measuring - tests)])
    rename = "pytest-carbon baseline rename"
    if given.baseline is not None:  # else the hint is of another place
        rename += f" {shlex.quote(f'--baseline={location}')}"
    print(f"Gone: {len(found.tests):,} of the {_number(len(tests), 'test')} that have a baseline.")
    for test in found.tests[:_MOST_NAMES]:
        print(f"  {test}: {_records(stored, test)}")
        if (test, "") in news:
            print(f"    renamed? {rename} {shlex.join([test, news[test, ''][0]])}")
    if rest := found.tests[_MOST_NAMES:]:
        print(f"  and {len(rest):,} more")
    if not given.yes:
        print("Nothing was deleted. With --yes, their records are.")
        return OK
    number = store.rename(dict.fromkeys(found.tests))
    print(f"Deleted {_number(number, 'record')}.")
    return OK


def _refuse_other_branches(location: Path | str) -> None:
    """A test that is gone on this branch is there on others, whose records a database has, too."""
    from pytest_carbon.host.git import git_state
    from pytest_carbon.records import UsageProblem

    main, here = of_project().branch, git_state(Path.cwd()).branch
    if not isinstance(location, Path) and here not in (None, main):
        raise UsageProblem(
            f"--yes: {location} has the baselines of every branch, and on {main} the tests that are gone from {here}"
            f" may still be there: nothing was deleted. Do it on {main}, when {here} is merged."
        )


def _names(ids: Sequence[str]) -> str:
    from pytest_carbon.text import listing

    return listing(list(ids))


def _records(stored: Mapping[str, Mapping[Key, Sequence[Record]]], test: str) -> str:
    held = {id: sum(len(records) for key, records in by_key.items() if key[0] == test) for id, by_key in stored.items()}
    held = {id: number for id, number in held.items() if number}
    where = next(iter(held)) if len(held) == 1 else _number(len(held), "machine")
    return f"{_number(sum(held.values()), 'record')} in {where}"


def _text_of(path: Path) -> str:
    from pytest_carbon.records import UsageProblem

    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(
            f"--collected={path}: cannot be read ({getattr(error, 'strerror', None) or error})."
        ) from None


def _collect(arguments: Sequence[str]) -> Collected:
    """Let pytest collect the suite, in a process of its own. Raises where that is not all of it."""
    from pytest_carbon.baselines.upkeep import Collected
    from pytest_carbon.records import UsageProblem

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "collected.json")
        done = subprocess.run(
            [sys.executable, "-m", "pytest_carbon.plugin.collection", str(file), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    problem = None
    if done.returncode != 0 or "tests" not in content or content["errors"]:
        problem = f"pytest ended with exit status {done.returncode}"
    elif content["part"]:
        problem = f"{content['part'][0]} selects a part of it"
    elif content["deselected"]:
        problem = (
            f"{_number(content['deselected'], 'test')} {'was' if content['deselected'] == 1 else 'were'} deselected"
        )
    if problem is not None:
        output = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        told = "\n  ".join(["", *output[-_LAST_LINES:]]) if done.returncode else ""
        raise UsageProblem(
            f"the suite could not be collected as a whole, so no test is known to be gone: {problem}. Give pytest what"
            f" it needs after --, or a collection from elsewhere with --collected=FILE.{told}"
        )
    return Collected(
        root=Path(content["root"]),
        tests=frozenset(content["tests"]),
        modules=frozenset(content["modules"]) | {test.partition("::")[0] for test in content["tests"]},
        skipped=frozenset(content["skipped"]),
        places=tuple(map(Path, content["places"])),
        measuring=frozenset(content["measuring"]),
    )


# --- rename, copy --------------------------------------------------------------------------------


def _rename(given: argparse.Namespace) -> int:
    from pytest_carbon.baselines import upkeep

    location = _location(given)
    store = _open(location)
    tests = upkeep.renames(upkeep.tests_of(_all(store).values()), given.old, given.new)
    number = store.rename(tests)
    for old, new in list(tests.items())[:_MOST_NAMES]:
        print(f"{old} -> {new}")
    print(f"Renamed {_number(len(tests), 'test')}, {_number(number, 'record')}.")
    if not isinstance(location, Path):
        print("Branches that know the old names have no baseline of them until the new ones are merged.")
    return OK


def _copy(given: argparse.Namespace) -> int:
    from pytest_carbon.baselines import open_store, upkeep
    from pytest_carbon.records import UsageProblem

    source, target = _place(given.source), _place(given.target)
    # A database keeps branches apart; a directory is one branch's, and git's to merge.
    branch = None if isinstance(source, Path) == isinstance(target, Path) else of_project().branch
    relabelled = branch if isinstance(source, Path) else None
    done = upkeep.copy(_open(source, branch), open_store(target, branch=branch), branch=relabelled)
    if not done:
        raise UsageProblem(f"there are no baselines in {source}: nothing was copied.")
    for each in done:
        already = f", {each.already:,} {'was' if each.already == 1 else 'were'} there already" if each.already else ""
        print(f"{each.machine}: {_number(each.records, 'record')} copied{already}")
    return OK
