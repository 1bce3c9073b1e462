"""``pytest-carbon``: what is done beside a run of the tests: doctor, baseline, compare, record-trace."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_carbon import __version__
from pytest_carbon.commands import baseline, compare
from pytest_carbon.commands.accept import run_accept
from pytest_carbon.commands.doctor import run_doctor
from pytest_carbon.commands.exit import INTERRUPTED, OK, UNUSABLE
from pytest_carbon.commands.trace import run_record_trace

if TYPE_CHECKING:
    pass

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
