"""The end of a run: sentences about its limits, names and baselines, and what the terminal shows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon.baselines.view import Stored
from pytest_carbon.plugin import failures, markers
from pytest_carbon.plugin.progress import ascii_only, width
from pytest_carbon.plugin.stages import Recorded
from pytest_carbon.plugin.waiting import Test
from pytest_carbon.records import Key, SessionResult, label
from pytest_carbon.reports import summary
from pytest_carbon.text import error_lines, listing


def limits(shown: Sequence[str], *, verbose: bool) -> list[str]:
    """Shorten the list of limits that are not enforced here, unless the run is verbose."""
    if len(shown) <= 3 or verbose:
        return list(shown)
    return [*shown[:2], f"{len(shown) - 2} more limits are shown only, not enforced; -v lists them"]


def partial(tests: Sequence[Test]) -> Iterator[str]:
    """Say which names a test measured in some of its sessions only."""
    names = []
    for test in tests:
        sessions = {name: len(measurements) for name, measurements in (test.measured or {}).items()}
        most = max(sessions.values(), default=0)
        names += [f"{label((test.key, name))} ({n} of {most})" for name, n in sessions.items() if n < most]
    if names:
        yield f"measured in some of the sessions only, and judged by those: {listing(names, 10)}"


def left_out(tests: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Say which tests passed in one process but did not finish in another."""
    for how, reasons in tests.items():
        names = listing([f"{key}{f' ({why})' if why else ''}" for key, why in reasons.items()])
        yield f"passed in one process and {how} in another, so the verdict is on the first: {names}"


def unmet(tests: Sequence[Test], measured: Collection[Key]) -> Iterator[str]:
    """Say which names of a class's or module's marker no test measured, though all passed."""
    sharing: dict[int, tuple[pytest.Mark, list[Test]]] = {}
    for test in tests:
        for mark in markers.shared_names(test.item):
            sharing.setdefault(id(mark), (mark, []))[1].append(test)
    for mark, under in sharing.values():
        name = mark.kwargs["name"]
        if all(t.outcome == "passed" for t in under) and not any((t.key, name) in measured for t in under):
            more = f" and {len(under) - 1} more" if under[1:] else ""
            yield (
                f"carbon_budget(name={name!r}) of the class or module of {under[0].key}{more} has no effect:"
                f" none of them measured {name!r}"
            )


def gone(config: pytest.Config, collected: Collection[str], stored: Stored, places: Mapping[str, str]) -> Iterator[str]:
    """Say which baselines have no test any more.

    Their module was collected without it, or no longer exists. ``places`` names where each machine's baselines are.
    """
    modules = {test.partition("::")[0] for test in collected}
    root, folder = config.rootpath, config.invocation_params.dir
    asked = [(folder / arg).resolve() for arg in config.args]
    for id, place in places.items():
        tests = []
        for test in sorted({test for test, _ in stored.keys(id)} - set(collected)):
            module = test.partition("::")[0]
            if module in modules or _is_gone(module, (root / module).resolve(), asked):
                tests.append(test)
        if tests:
            names = f"{tests[0]} and {len(tests) - 1} more have" if tests[1:] else f"{tests[0]} has"
            yield (
                f"--carbon-strict: {names} a baseline in {place}, and no such test was collected: if it was renamed,"
                " pytest-carbon baseline rename OLD NEW; if it was removed, pytest-carbon baseline prune"
            )


def _is_gone(module: str, path: Path, asked: Sequence[Path]) -> bool:
    return module.endswith(".py") and not path.exists() and any(path.is_relative_to(folder) for folder in asked)


def write_summary(
    terminal: Any, result: SessionResult, stored: Stored, recorded: Recorded, problems: Sequence[str]
) -> None:
    """Write the end of a run: tables, notes, and in red what changed its exit status."""
    config, quiet = terminal.config, terminal.verbosity < 0
    shown = recorded.sentences if quiet else tuple(note for note in result.notes if note not in problems)
    machines = [result.machine, *(machine for machine, _ in result.others)]
    lines = summary.summary(
        replace(result, notes=shown),
        {machine.id: failures.seen_from(result, stored, machine) for machine in machines},
        width=width(config),
        quiet=quiet,
        verbose=terminal.verbosity > 0,
        ascii=ascii_only(config),
    )
    for line in lines:
        terminal.write_line(line.text, **line.markup)
    for problem in problems:
        text = f"ERROR: {problem}"  # in one line, as pytest's own, but in a terminal
        for row in error_lines(problem, width(config)) if terminal.isatty else [text]:
            terminal.write_line(row, red=True, bold=True)
