"""`pytest-carbon record-trace`: write what the counters show to a file."""

from __future__ import annotations

import argparse
import shlex

from pytest_carbon.commands.console import progress_of, settings_of
from pytest_carbon.commands.exit import OK

# --- record-trace ------------------------------------------------------------------------------------


def run_record_trace(given: argparse.Namespace) -> int:
    from pytest_carbon.measure.meters.replay import write_trace
    from pytest_carbon.measure.trace import record
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
