"""``pytest-carbon``: what is done beside a run of the tests: doctor, baseline, compare, record-trace."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_carbon import __version__
from pytest_carbon.commands import ascii_only, baseline, compare, width

if TYPE_CHECKING:
    from pytest_carbon.baselines import Store
    from pytest_carbon.records import SessionResult, Settings

OK, NOTHING_MEASURED, USAGE, UNUSABLE, INTERRUPTED = 0, 1, 2, 4, 130

_METER = (
    "auto, nvml, rapl, estimate or replay:FILE, several joined by + (default: carbon_meter of the ini file, or auto)"
)
_GPUS = "used, visible, all, or indices and UUIDs (default: carbon_gpus of the ini file, or used)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status. What it cannot do is one sentence on standard error, and 4."""
    from pytest_carbon.records import CarbonError

    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except CarbonError as error:
        print(f"pytest-carbon: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("\npytest-carbon: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `pytest-carbon doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:  # standard output on a disk that is full: that is no regression
        print(f"pytest-carbon: cannot write what was found: {error.strerror or error}", file=sys.stderr)
        return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-carbon",
        description="Energy and carbon as a test. Tests are measured by `pytest --carbon`; this is what goes with it.",
        epilog="Exit status: 0; 1 where doctor finds nothing that can be measured, where compare finds a regression,"
        " where baseline check finds a fault; 2 for a command line that cannot be read, or what cannot be compared;"
        " 4 for what a command names and cannot be used.",
    )
    parser.add_argument("--version", action="version", version=f"pytest-carbon {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    doctor = commands.add_parser(
        "doctor",
        help="say what can be measured here, how well, and what to do about what cannot",
        description="Say what can be measured here, how well, and what to do about what cannot. With a load on the"
        " devices this takes about a minute.",
        epilog="Exit status: 0 where at least one counter of the hardware can be read, 1 where energy can only be"
        " estimated or not even that, 4 for options that cannot be used.",
    )
    doctor.add_argument("--meter", "--carbon-meter", metavar="SPEC", help=_METER)
    doctor.add_argument("--gpus", "--carbon-gpus", metavar="WHICH", help=_GPUS)
    doctor.add_argument(
        "--load",
        metavar="WHAT",
        default="auto",
        help="what the devices are loaded with, to see how their counters follow: torch (GPUs), cpu, none, or"
        " MODULE:FUNCTION, which is called with seconds; auto takes what is there (default)",
    )
    doctor.add_argument("--json", metavar="FILE", type=Path, help="write everything to this file, too")
    doctor.add_argument(
        "--save",
        metavar="DIR",
        nargs="?",
        const="",
        help="keep the settling time and the sampling with the baselines (in carbon_baseline of the ini file, or"
        " carbon-baselines), in place of what is kept there",
    )
    doctor.set_defaults(run=run_doctor)

    of_baseline = commands.add_parser(
        "baseline",
        help="list, show, check, prune, rename, copy baselines; accept an intended change from a report",
        description="The upkeep of baselines.",
    ).add_subparsers(metavar="COMMAND", required=True)
    accept = of_baseline.add_parser(
        "accept",
        help="do what --carbon-accept would have done, from the report of a run",
        description="Do what --carbon-accept would have done in the run that wrote a report with --carbon-json: start"
        " new baselines for what the gate found changed, and record the rest. Commit the baselines then.",
        epilog="Exit status: 0, also where there was nothing left to do; 4 for a report or baselines that cannot be"
        " used.",
    )
    accept.add_argument("report", metavar="REPORT.json", type=Path, help="what pytest --carbon --carbon-json wrote")
    accept.add_argument(
        "--baseline",
        "--carbon-baseline",
        metavar="DIR|URL",
        help="where the baselines are (default: carbon_baseline of the ini file, or carbon-baselines beside it)",
    )
    accept.add_argument(
        "--branch",
        metavar="NAME",
        help="in a database: whose baseline it is to be, such as main, when a pull request is merged (default: the"
        " branch it was measured on)",
    )
    accept.set_defaults(run=run_accept)
    baseline.add(of_baseline)

    compare.add(commands)

    trace = commands.add_parser(
        "record-trace",
        help="record what the counters do; --carbon-meter=replay:FILE plays it",
        description="Record what the counters do, as a trace that --carbon-meter=replay:FILE plays: for tests of your"
        " own without the hardware. Run the work meanwhile, in another terminal; Ctrl-C ends the recording.",
    )
    trace.add_argument("file", metavar="FILE", type=Path, help="the trace; one that is there is replaced")
    trace.add_argument("--meter", "--carbon-meter", metavar="SPEC", help=_METER)
    trace.add_argument("--gpus", "--carbon-gpus", metavar="WHICH", help=_GPUS)
    trace.add_argument("--seconds", metavar="S", type=_seconds, default=10.0, help="how long to record (default: 10)")
    trace.set_defaults(run=run_record_trace)
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise ValueError(text)
    return seconds


# --- doctor ------------------------------------------------------------------------------------------


def run_doctor(given: argparse.Namespace) -> int:
    from pytest_carbon import baselines
    from pytest_carbon.baselines.address import place
    from pytest_carbon.measure.examination import calibrations, examine
    from pytest_carbon.records import UsageProblem
    from pytest_carbon.reports import examination as report

    settings = settings_of(given)
    if given.save:
        settings = replace(settings, baseline=place(given.save, Path()))
    store = baselines.open_store(settings.baseline)
    if given.save is not None:
        store.check_writable()
    if given.json is not None and given.json.is_dir():
        raise UsageProblem(f"--json={given.json}: this is a directory; write the path of a file.")
    with progress_of() as progress:
        found = examine(settings, given.load, progress=progress)
    print("\n".join(report.text(found, saved=given.save is not None, width=width(), ascii=ascii_only())))
    if given.json is not None:
        write_text(given.json, report.document(found))
    if given.save is not None:
        kept = calibrations(found)
        for id, calibration in kept.items():
            store.keep_calibration(id, calibration, replace=True)
        if not kept:
            raise UsageProblem(
                f"--save: nothing was kept in {settings.baseline}, for no settling time was found. That takes a counter"
                " that changes in steps and a load that raises its power: above stands which of them is missing."
            )
        print(f"\nKept in {settings.baseline}, in place of what was there, for {', '.join(kept)}.")
    return OK if found.measurable else NOTHING_MEASURED


def write_text(path: Path, text: str) -> None:
    from pytest_carbon.baselines.disk import remedy, write_atomically
    from pytest_carbon.records import UsageProblem

    try:
        write_atomically(path, text)
    except OSError as error:
        helps = remedy(error, "Give a file in a folder that this user may write to")
        raise UsageProblem(f"cannot write {path}: {error.strerror}. {helps}.") from error


@contextlib.contextmanager
def progress_of() -> Iterator[Callable[[str], None]]:
    """Shows on a terminal what is going on, and takes it away again."""
    terminal = sys.stderr.isatty()

    def show(text: str) -> None:
        if terminal:
            sys.stderr.write(f"\r\x1b[K{text}" + " …" * bool(text))
            sys.stderr.flush()

    try:
        yield show
    finally:
        show("")


# --- what the project says ---------------------------------------------------------------------------


def settings_of(given: argparse.Namespace) -> Settings:
    """The settings of a run in this project, with what the command line gives."""
    from pytest_carbon.measure.meters import built_in_sources
    from pytest_carbon.plugin import options

    settings = options.of_project()
    if given.gpus is not None:
        settings = replace(settings, gpus=given.gpus)
    if given.meter is not None:
        return replace(settings, meter=given.meter)
    names = {name.strip() for name in settings.meter.partition("replay:")[0].split("+")}
    if strangers := names - {"", "auto", *built_in_sources()}:
        print(
            f"pytest-carbon: carbon_meter = {settings.meter}: a conftest file or another plugin brings"
            f" {', '.join(sorted(strangers))}, and only pytest loads those: this is what --meter=auto finds.",
            file=sys.stderr,
        )
        settings = replace(settings, meter="auto")
    return settings


# --- baseline accept ---------------------------------------------------------------------------------


def run_accept(given: argparse.Namespace) -> int:
    from pytest_carbon.baselines import open_store, refuse_unknown_branch
    from pytest_carbon.baselines.address import place
    from pytest_carbon.plugin import options
    from pytest_carbon.records import Settings, UsageProblem
    from pytest_carbon.reports import jsonfile

    where: Path | str | None = None if given.baseline is None else place(given.baseline, Path())
    settings = Settings() if isinstance(where, Path) else options.of_project()
    where = settings.baseline if where is None else where
    result = jsonfile.read(given.report)
    if given.baseline is None and isinstance(where, Path) and not where.exists():
        raise UsageProblem(
            f"there are no baselines in {where}, so this is perhaps not the place: nothing was written. Name the"
            " directory that has them with --baseline=DIR, or the one that is to have them: where these are the first,"
            f" --baseline={shlex.quote(os.path.relpath(where))}"
        )
    if given.branch is not None and isinstance(where, Path):
        raise UsageProblem(
            f"--branch={given.branch}: the baselines in {where} are those of the branch that is checked out. Leave it"
            " out, or give the URL of a database with --baseline."
        )
    if given.branch is not None:
        result = replace(result, branch=given.branch)
    else:
        refuse_unknown_branch(where, result.commit, result.branch)
    store = open_store(where, branch=settings.branch, own=result.branch)
    _refuse_another_projects(result, store, where, given.report)
    for sentence in jsonfile.accept(result, store, given.report):
        print(sentence)
    if not isinstance(where, Path) and result.branch not in (None, settings.branch):
        print(f"That is {result.branch}'s alone: --branch={settings.branch} takes it into the baseline of all.")
    return OK


def _refuse_another_projects(result: SessionResult, store: Store, where: Path | str, report: Path) -> None:
    """Raise where neither the baselines nor the project know a single test of a report."""
    from pytest_carbon.records import UsageProblem

    modules = {test.nodeid.partition("::")[0] for test in result.tests if test.measurements}
    with store.snapshot():
        known = {test.partition("::")[0] for id in store.environments() for test, _ in store.keys(id)}
    if not known or not modules or known & modules or not all(module.endswith(".py") for module in modules):
        return
    if not any((root / module).exists() for root in (Path.cwd(), *Path.cwd().parents) for module in modules):
        raise UsageProblem(
            f"{report} is perhaps another project's: of its tests none has a baseline in {where}, and none of their"
            f" files is here ({min(modules)}, for one): nothing was written. Call this in the project's root dir, and"
            " give the report of one of its runs."
        )


# --- record-trace ------------------------------------------------------------------------------------


def run_record_trace(given: argparse.Namespace) -> int:
    from pytest_carbon.measure.examination import record
    from pytest_carbon.measure.meters.replay import write_trace
    from pytest_carbon.records import UsageProblem

    settings = settings_of(given)
    with progress_of() as progress:
        found = record(settings, given.seconds, progress=progress)
    try:
        write_trace(given.file, found.domains, found.edges, found.start_s, found.gpus)
    except OSError as error:
        raise UsageProblem(f"cannot write {given.file}: {error.strerror}.") from error
    names = ", ".join(domain.name for domain in found.domains)
    print(f"Recorded {names}. Play it with --carbon-meter=replay:{shlex.quote(str(given.file))}")
    return OK
