"""`pytest-carbon doctor`: examine this machine and its baselines."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from pytest_carbon.commands import ascii_only, width
from pytest_carbon.commands.console import progress_of, settings_of, write_text
from pytest_carbon.commands.exit import NOTHING_MEASURED, OK

# --- doctor ------------------------------------------------------------------------------------------


def run_doctor(given: argparse.Namespace) -> int:
    from pytest_carbon import baselines, gate
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
        found = examine(settings, given.load, detectable=gate.detectable, progress=progress)
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
