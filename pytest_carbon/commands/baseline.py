"""``pytest-carbon baseline list | show | check | prune | remove | rename | copy``: maintain baselines."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from pytest_carbon.baselines import Store, open_store, refuse_unknown_branch, upkeep, work_upkeep
from pytest_carbon.baselines.address import DatabaseUrl, place
from pytest_carbon.baselines.comparison import renamed
from pytest_carbon.baselines.files import FileStore, fault_of
from pytest_carbon.commands import accept
from pytest_carbon.commands.console import OK, Commands, add_project, ascii_only, prepare, project, width
from pytest_carbon.host.git import git_state
from pytest_carbon.records import Key, Record, Settings, UsageProblem, label
from pytest_carbon.records.work import WORK
from pytest_carbon.reports import baselines as report
from pytest_carbon.reports import work_baselines as work_report
from pytest_carbon.text import counted, listing

FAULTS = 1

_WHERE = "where the baselines are (default: carbon_baseline of the ini file, or carbon-baselines beside it)"
_PLACE = "a directory, or the URL of a database"
_CLOCKS_DIFFER = timedelta(days=1)
_MOST_NAMES = 50
_LAST_LINES = 15


def add(commands: Commands) -> None:
    subcommands = commands.add_parser(
        "baseline",
        help="list, show, check, prune, rename, copy baselines; accept an intended change from a report",
        description="Maintain baselines.",
    ).add_subparsers(metavar="COMMAND", required=True)
    accept.add(subcommands)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], help: str, description: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        parser = subcommands.add_parser(name, help=help, description=description, epilog=epilog)
        parser.set_defaults(run=run)
        add_project(parser)
        if run is not _copy:
            parser.add_argument("--baseline", "--carbon-baseline", metavar="PLACE", help=_WHERE)
        return parser

    command(
        "list",
        _list,
        "list the baselines of each machine, and the smallest change they can detect",
        "List for each machine how much is stored, how old it is, how much recordings differ, and the smallest"
        " detectable change in a run of everything; and for each engine that counts work how much is stored.",
    )
    show = command(
        "show",
        _show,
        "show the history of a test's energy, and its counted work",
        "Show the history and the counted work of a test, or of all tests of a folder, a module or a class.",
    )
    show.add_argument(
        "test", metavar="NODEID", help="the id of a test, as pytest prints it; or of a folder, module or class"
    )
    check = command(
        "check",
        _check,
        "check that every file can be used; also for pre-commit",
        "Check baselines for faults that would stop a run: conflict markers, incomplete lines, invalid figures, times"
        " in the future, files in the wrong folder.",
        "Exit status: 0; 1 if there is a fault, with FILE:LINE and the remedy.",
    )
    check.add_argument("files", metavar="FILE", nargs="*", type=Path, help="check only these (default: all)")
    prune = command(
        "prune",
        _prune,
        "delete the baselines of tests that no longer exist",
        "List the tests that have a baseline and no longer exist; with --yes, delete their baselines. pytest collects"
        " the whole suite for that: if it cannot, because of errors, -k or --lf, nothing is deleted. The baselines of a"
        " file that exists, and in which nothing was collected, are kept.",
    )
    prune.add_argument("--yes", action="store_true", help="delete them; without it, nothing is changed")
    prune.add_argument(
        "--collected",
        metavar="FILE",
        type=Path,
        help="the output of `pytest --collect-only -q`, run in pytest's root dir where the suite can be collected; run"
        " this command there, too",
    )
    prune.add_argument(
        "arguments", metavar="ARGUMENT", nargs="*", help="after --: arguments for pytest, such as --pyargs PACKAGE"
    )
    remove = command(
        "remove",
        _remove,
        "delete the baselines of a test that exists, or of one of its measurements",
        "List the records of a test, or of its measurement NAME, on every machine and of every engine; with --yes,"
        " delete them.",
    )
    remove.add_argument("test", metavar="TEST", help="the id of a test, as pytest prints it")
    remove.add_argument("name", metavar="NAME", nargs="?", help="the name of a measurement (default: all of the test)")
    remove.add_argument("--yes", action="store_true", help="delete them; without it, nothing is changed")
    rename = command(
        "rename",
        _rename,
        "keep the baselines of renamed tests",
        "Move the records of OLD to NEW, on every machine and of every engine: of a test, or with module.py:: of all"
        " its tests.",
    )
    rename.add_argument("old", metavar="OLD", help="the id of a test, or of a module or class with :: at its end")
    rename.add_argument("new", metavar="NEW", help="the new id, in the same form; it must have no baseline")
    copy = command(
        "copy",
        _copy,
        "copy baselines between directories and databases",
        "Copy all baselines from one place to another. Records that are in both are stored once: copying again adds"
        " nothing.",
    )
    copy.add_argument("source", metavar="FROM", help=_PLACE)
    copy.add_argument("target", metavar="TO", help=_PLACE)
    copy.add_argument(
        "--branch",
        metavar="NAME",
        help="the branch of the directory's baselines (default: the one that is checked out), or the branch of the"
        " database whose baselines are copied to a directory (default: carbon_branch of the ini file, or main)",
    )
    for parser in (prune, remove, rename):
        parser.add_argument(
            "--branch",
            metavar="NAME",
            help="in a database: the branch that is checked out, where neither git nor the CI service names it",
        )


def _location(given: argparse.Namespace, settings: Settings | None = None) -> Path | str:
    """Return the place that the command line or the project names."""
    if given.baseline is not None:
        return _place(given.baseline)
    location = (settings or project(given)).baseline
    if isinstance(location, Path) and location.is_relative_to(Path.cwd()):
        return location.relative_to(Path.cwd())
    return location


def _place(text: str) -> Path | str:
    database = place(text, Path.cwd())
    return database if isinstance(database, DatabaseUrl) else Path(text).expanduser()


def _open(location: Path | str, branch: str | None = None) -> Store:
    """Open a store that must exist; in a database ``branch`` counts, or every one."""
    file = location if isinstance(location, Path) else location.file if isinstance(location, DatabaseUrl) else None
    if file is not None and not file.exists():
        raise UsageProblem(f"there are no baselines in {location}. Name their place with --baseline=PLACE.")
    return open_store(location, branch=branch)


def _all(store: Store) -> dict[str, dict[Key, list[Record]]]:
    with store.snapshot():
        return {id: store.load(id) for id in store.machines()}


def _everything(store: Store) -> dict[str, Mapping[Key, Sequence[object]]]:
    """Return the records of each machine and the counts of each engine, by folder."""
    with store.snapshot():
        return {**_all(store), **work_upkeep.by_folder(store)}


def _iso(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _list(given: argparse.Namespace) -> int:
    settings = project(given)
    location = _location(given, settings)
    store = _open(location, settings.branch)
    machines = [
        upkeep.overview(store.describe(id), stored, tolerance=settings.tolerance, false_alarms=settings.false_alarms)
        for id, stored in _all(store).items()
        if upkeep.tests_of([stored])
    ]
    with store.snapshot():
        engines = work_upkeep.overviews(store)
    hint = None if machines or engines else store.hint()
    now = _iso(datetime.now(UTC))
    lines = []
    if machines or not engines:
        lines = report.overviews(machines, str(location), now=now, width=width(), ascii=ascii_only(), hint=hint)
    counts = work_report.overviews(engines, now=now, width=width(), ascii=ascii_only())
    print("\n".join([*lines, *([""] if lines and counts else []), *counts]))
    return OK


def _show(given: argparse.Namespace) -> int:
    store = _open(_location(given))
    with store.snapshot():
        stored, counted_work = _all(store), work_upkeep.by_folder(store)
    known = {key for by_key in stored.values() for key in by_key}
    keys = upkeep.chosen(known | {key for by_key in counted_work.values() for key in by_key}, given.test)
    lines = report.histories(upkeep.histories(stored, keys), width=width(), ascii=ascii_only())
    counts = work_report.counts(work_upkeep.chosen(counted_work, keys), width=width(), ascii=ascii_only())
    print("\n".join([*lines, *([""] if lines and counts else []), *counts]))
    return OK


def _check(given: argparse.Namespace) -> int:
    location = _location(given)
    store = _open(location)
    if isinstance(store, FileStore):
        assert isinstance(location, Path)
        paths = [_inside(path, location) for path in given.files] or None
        faults = list(store.faults(latest=_iso(datetime.now(UTC) + _CLOCKS_DIFFER), paths=paths))
    elif given.files:
        raise UsageProblem(f"{location} is a database, without files: leave out {given.files[0]}.")
    else:
        reads: list[Callable[[], object]] = [partial(store.load, id) for id in store.machines()]
        reads += [partial(store.every_count, engine) for engine in store.engines()]
        faults = [fault for read in reads if (fault := fault_of(read))]
    what = counted(len(given.files), "file") if given.files else str(location)
    print("\n".join(faults or [f"{what}: no faults"]))
    return FAULTS if faults else OK


def _inside(path: Path, directory: Path) -> Path:
    """Return a file's path as the store writes it."""
    if not path.resolve().is_relative_to(directory.resolve()):
        raise UsageProblem(f"{path} is not in {directory}. Name the directory of the baselines with --baseline=DIR.")
    return directory / path.resolve().relative_to(directory.resolve())


def _prune(given: argparse.Namespace) -> int:
    location = _location(given)
    store = _open(location)
    if given.yes:
        _refuse_other_branches(location, given, "deleted")
    stored = _everything(store)
    tests = upkeep.tests_of(stored.values())
    file = given.collected
    flags = [f"--config-file={given.config_file}"] if given.config_file else []
    flags += [f"--rootdir={given.rootdir}"] if given.rootdir else []
    collected = _collect([*flags, *given.arguments]) if file is None else upkeep.listed(_text_of(file), Path.cwd())
    gone = upkeep.gone(tests, collected)
    for why, ids in gone.kept.items():
        print(f"kept, because {why}: {listing(list(ids))}")
    if not gone.tests:
        print(f"All tests with a baseline in {location} exist.")
        return OK
    measuring = collected.tests if collected.measuring is None else collected.measuring
    news = renamed([(test, "") for test in gone.tests], [(test, "") for test in sorted(measuring - tests)])
    flags += [f"--baseline={location}"] if given.baseline is not None else []
    rename = shlex.join(["pytest-carbon", "baseline", "rename", *flags])
    print(f"Gone: {len(gone.tests):,} of {counted(len(tests), 'test')} with a baseline.")
    for test in gone.tests[:_MOST_NAMES]:
        print(f"  {test}: {_records(stored, test)}")
        if (test, "") in news:
            print(f"    renamed? {rename} {shlex.join([test, news[test, ''][0]])}")
    if rest := gone.tests[_MOST_NAMES:]:
        print(f"  and {len(rest):,} more")
    if not given.yes:
        print("Nothing was deleted. Add --yes to delete their records.")
        return OK
    prepare(store)
    print(f"Deleted {counted(store.rename(dict.fromkeys(gone.tests)), 'record')}.")
    return OK


def _remove(given: argparse.Namespace) -> int:
    location = _location(given)
    store = _open(location)
    if given.yes:
        _refuse_other_branches(location, given, "deleted")
    stored = _everything(store)
    keys = {key for by_key in stored.values() for key in by_key}
    test, one = given.test, given.name
    if one is None and test not in upkeep.tests_of(stored.values()):
        test, one = next(iter(upkeep.labelled(keys, test)), (test, None))
    names = sorted(name for of_test, name in keys if of_test == test)
    if not names:
        raise UsageProblem(f"no test {test!r} has a baseline.{upkeep.nearest(test, stored.values())}")
    if one not in (None, *names):
        raise UsageProblem(f"{test} has no baseline of {one!r}; it has baselines of: {listing(names)}.")
    for name in names if one is None else [one]:
        numbers = {id: len(by_key.get((test, name), ())) for id, by_key in stored.items()}
        print(f"{label((test, name))}: {_where(numbers)}")
    if not given.yes:
        print("Nothing was deleted. Add --yes to delete their records.")
        return OK
    prepare(store)
    print(f"Deleted {counted(store.rename({test: None}, name=one), 'record')}.")
    return OK


def _refuse_other_branches(location: Path | str, given: argparse.Namespace, done: str) -> None:
    """Refuse on any branch but the main one: a database has the tests of other branches, too."""
    main, here = project(given).branch, _branch(location, given)
    if not isinstance(location, Path) and here != main:
        raise UsageProblem(
            f"{location} has the baselines of every branch, and tests that are gone on {here} may still exist on"
            f" {main}: nothing was {done}. Run this on {main} after {here} is merged."
        )


def _branch(location: Path | str, given: argparse.Namespace) -> str | None:
    """Return the branch that is checked out, or the given one where that is unknown; refuse a database without."""
    git = git_state(Path.cwd(), main=project(given).branch)
    refuse_unknown_branch(location, git.branch or given.branch, git.why_unknown, "--branch")
    return git.branch or given.branch


def _records(stored: Mapping[str, Mapping[Key, Sequence[object]]], test: str) -> str:
    numbers = {id: sum(len(rows) for key, rows in by_key.items() if key[0] == test) for id, by_key in stored.items()}
    return _where(numbers)


def _where(numbers: Mapping[str, int]) -> str:
    """Say how many records there are, and on which machine or of which engine."""
    ids = [id for id, number in numbers.items() if number]
    machines = [id for id in ids if not id.startswith(WORK)]
    engines = [id for id in ids if id.startswith(WORK)]
    where = listing([*(machines if len(machines) < 2 else [counted(len(machines), "machine")]), *engines])
    return f"{counted(sum(numbers.values()), 'record')} in {where}"


def _text_of(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageProblem(f"--collected={path}: cannot be read ({why}). Give a text file, or - for input.") from None


def _collect(arguments: Sequence[str]) -> upkeep.Collected:
    """Let pytest collect the whole suite in another process. Raises where it does not."""
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
        problem = f"{content['part'][0]} selects a part of the suite"
    elif content["deselected"]:
        problem = f"deselected {counted(content['deselected'], 'test')}"
    if problem is not None:
        output = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        last = "\n  ".join(["", *output[-_LAST_LINES:]]) if done.returncode else ""
        raise UsageProblem(
            f"pytest did not collect the whole suite: {problem}. Nothing was deleted. Write pytest's arguments after"
            f" --, or give a collection from another machine with --collected=FILE.{last}"
        )
    return upkeep.Collected(
        root=Path(content["root"]),
        tests=frozenset(content["tests"]),
        modules=frozenset(content["modules"]) | {test.partition("::")[0] for test in content["tests"]},
        skipped=frozenset(content["skipped"]),
        places=tuple(map(Path, content["places"])),
        measuring=frozenset(content["measuring"]),
        empty=frozenset(content["empty"]),
        packages={name: [*map(Path, folders)] for name, folders in content["packages"].items()},
    )


def _rename(given: argparse.Namespace) -> int:
    location = _location(given)
    store = _open(location)
    _refuse_other_branches(location, given, "renamed")
    tests = upkeep.renames(upkeep.tests_of(_everything(store).values()), given.old, given.new)
    prepare(store)
    number = store.rename(tests)
    for old, new in list(tests.items())[:_MOST_NAMES]:
        print(f"{old} -> {new}")
    print(f"Renamed {counted(len(tests), 'test')}, {counted(number, 'record')}.")
    if not isinstance(location, Path):
        print("Branches with the old names have no baseline for them until they merge the new names.")
    return OK


def _copy(given: argparse.Namespace) -> int:
    source, target = _place(given.source), _place(given.target)
    if isinstance(source, Path) and isinstance(target, Path):
        one, other = sorted([source.resolve(), target.resolve()])
        if one != other and other.is_relative_to(one):
            raise UsageProblem(
                f"{other} is in {one}: baselines in baselines could not be read. Copy to a place beside it."
            )
    # A database separates branches; a directory belongs to one branch, and git merges it.
    if given.branch is not None and isinstance(source, Path) == isinstance(target, Path):
        raise UsageProblem(f"--branch={given.branch}: between two places of one kind branches stay as they are.")
    if isinstance(source, Path) and not isinstance(target, Path):
        branch = given.branch or _branch(target, given)
        origin, store = _open(source), open_store(target, branch=project(given).branch)
    else:
        branch = None
        crossing = not isinstance(source, Path) and isinstance(target, Path)
        origin = _open(source, (given.branch or project(given).branch) if crossing else None)
        store = open_store(target)
    prepare(store)
    copied = upkeep.copy(origin, store, branch=branch)
    if not copied:
        raise UsageProblem(f"there are no baselines in {source}: nothing was copied.")
    for machine in copied:
        why = "already stored or older" if machine.machine.startswith(WORK) else "already stored"
        already = f", {machine.already:,} {why}" if machine.already else ""
        print(f"{machine.machine}: {counted(machine.records, 'record')} copied{already}")
    return OK
