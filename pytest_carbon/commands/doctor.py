"""``pytest-carbon doctor``: examine what this machine can measure."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pytest_carbon.baselines import open_store
from pytest_carbon.baselines.address import place
from pytest_carbon.commands.console import (
    NOTHING_MEASURED,
    OK,
    Commands,
    add_meters,
    add_project,
    ascii_only,
    prepare,
    progress_of,
    refuse_obstacle,
    settings_of,
    width,
)
from pytest_carbon.host import output
from pytest_carbon.records import Machine, UsageProblem


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="show what can be measured on this machine, how well, and how to measure more",
        description="Show what can be measured on this machine, how well, and how to measure more. With a load on the"
        " devices this takes about a minute.",
        epilog="Exit status: 0 if at least one hardware counter can be read; 1 if energy can only be estimated, or not"
        " even that; 4 for options that cannot be used.",
    )
    add_meters(parser)
    add_project(parser)
    parser.add_argument(
        "--load",
        metavar="WHAT",
        default="auto",
        help="the load on the devices while their counters are read: torch (GPUs), cpu, none, or MODULE:FUNCTION, which"
        " is called with seconds; auto takes torch where there is a GPU, else cpu (default)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write everything to this file")
    parser.add_argument(
        "--save",
        metavar="DIR",
        nargs="?",
        const="",
        help="store the settling time and the sampling with the baselines (in carbon_baseline of the ini file, or"
        " carbon-baselines), and replace what is stored there",
    )
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace) -> int:
    from pytest_carbon import gate
    from pytest_carbon.measure.examination import calibrations, examine
    from pytest_carbon.reports import examination as report

    settings = settings_of(given)
    if given.save:
        settings = replace(settings, baseline=place(given.save, Path()))
    store = open_store(settings.baseline)
    if given.save is not None:
        prepare(store)
    if given.json is not None:
        refuse_obstacle("--json=", given.json, report.FORMAT)

    def begin(machines: Sequence[str]) -> None:
        for id in machines if given.save is not None else ():
            store.rehearse(Machine(id))

    with progress_of() as progress:
        examination = examine(settings, given.load, detectable=gate.detectable, progress=progress, begin=begin)
    print("\n".join(report.text(examination, saved=given.save is not None, width=width(), ascii=ascii_only())))
    if given.json is not None:
        output.write(given.json, report.document(examination), report.FORMAT)
    if given.save is not None:
        kept = calibrations(examination)
        for id, calibration in kept.items():
            store.keep_calibration(id, calibration, replace=True)
        if not kept:
            raise UsageProblem(
                f"--save: nothing was stored in {settings.baseline}, because no settling time was measured. That needs"
                " a counter that changes in steps, and a load that raises its power: the page above says which of them"
                " is missing."
            )
        print(f"\nStored in {settings.baseline}, in place of older values, for {', '.join(kept)}.")
    return OK if examination.measurable else NOTHING_MEASURED
