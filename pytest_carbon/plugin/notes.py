"""The end of a run: sentences about its limits, names and baselines, and what the terminal shows."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest

from pytest_carbon.baselines.view import Stored
from pytest_carbon.plugin import actions, failures, markers, outputs, stages
from pytest_carbon.plugin.progress import ascii_only, width
from pytest_carbon.plugin.waiting import Test
from pytest_carbon.records import Key, SessionResult, TestResult, label
from pytest_carbon.records.work import WORK
from pytest_carbon.reports import summary
from pytest_carbon.reports.layout import Line, Page
from pytest_carbon.text import error_lines, listing
from pytest_carbon.work.prediction import is_predicted


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


def unchecked(tests: Sequence[Test], limits: Collection[str], flag: str) -> Iterator[str]:
    """Say which tests' markers have limits that this run does not check; ``limits``: their keywords."""
    keywords: dict[str, None] = {}
    names = []
    for test in tests:
        budgets = [b for b in test.budgets if not is_predicted(b.on or "")]
        given = [limit for limit in limits if any(getattr(b, f"{limit}_text", None) for b in budgets)]
        if given:
            names.append(test.key)
            keywords |= dict.fromkeys(given)
    if names:
        yield (
            f"not checked: {' and '.join(f'{keyword}=' for keyword in keywords)} in the carbon_budget markers of"
            f" {listing(names)}: run with {flag}"
        )


def unmatched(tests: Sequence[Test], results: Iterable[TestResult]) -> Iterator[str]:
    """Say which markers have limits for engines with which nothing was counted in this run."""
    works = [one.work for result in results for one in result.counted if one.work is not None]
    engines = sorted({WORK + work.engine for work in works})
    by_pattern: dict[str, list[str]] = {}
    for test in tests:
        patterns = {budget.on for budget in test.budgets if budget.on is not None and budget.on.startswith(WORK)}
        for pattern in sorted(patterns):
            if engines and not any(fnmatchcase(engine, pattern) for engine in engines):
                by_pattern.setdefault(pattern, []).append(test.key)
    for pattern, names in by_pattern.items():
        yield (
            f"not checked: the limits on={pattern!r} in the carbon_budget markers of {listing(names)}: this run counted"
            f" with {listing(engines)} only"
        )


def finish(
    session: pytest.Session,
    exitstatus: int,
    result: SessionResult,
    problems: list[str],
    duration_s: float,
    stored: Stored | None = None,
) -> SessionResult:
    """Give a run its exit status, write its files, and let others add to its notes; ``stored``: its baselines."""
    if exitstatus == 0 and (problems or stages.fails(result)):  # a test may end the run with status 0
        session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
    lines = (*result.notes, *problems)
    failed = bool(problems) or exitstatus > 1 or session.testsfailed > stages.failed_by_gate(result)
    shard = result.shard and replace(result.shard, failed=failed)
    result = replace(result, exit_status=int(exitstatus), duration_s=duration_s, notes=lines, shard=shard)
    report = result.settings.json and failures.from_here(session.config, result.settings.json)
    for trouble in outputs.write(result, stored or Stored(None, ()), report or ""):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR  # an exception would suppress the summary
        problems.append(trouble)
    try:
        result = replace(result, notes=(*result.notes, *_of_others(session.config, result)))
    except pytest.exit.Exception:  # from a signal's handler
        raise
    except Exception as error:  # another's code: a server that does not answer
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
        place = traceback.extract_tb(error.__traceback__)[-1]
        problems.append(
            f"the hook pytest_carbon_report failed with {type(error).__name__}: {error} ({place.filename}, line"
            f" {place.lineno}); the verdicts stand. Correct the hook, or run without its plugin"
        )
    actions.conclude(session.config, result, problems)
    return result


def _of_others(config: pytest.Config, result: SessionResult) -> Iterator[str]:
    """Give the result to whoever has the hook; yield the lines that they return."""
    for lines in config.hook.pytest_carbon_report(config=config, result=result):
        yield from [lines] if isinstance(lines, str) else lines or ()


def write_summary(
    terminal: Any,
    result: SessionResult,
    stored: Stored,
    recorded: stages.Recorded,
    problems: Sequence[str],
    more: Sequence[Line] = (),
) -> None:
    """Write the end of a run: tables, ``more`` of them, notes, and in red what changed its exit status."""
    config, quiet = terminal.config, terminal.verbosity < 0
    shown = recorded.sentences if quiet else tuple(note for note in result.notes if note not in problems)
    machines = [result.machine, *(machine for machine, _ in result.others)]
    page = Page(width(config), ascii_only(config))
    lines = summary.summary(
        replace(result, notes=()),
        {machine.id: failures.seen_from(result, stored, machine) for machine in machines},
        width=width(config),
        quiet=quiet,
        verbose=terminal.verbosity > 0,
        ascii=ascii_only(config),
    )
    write(terminal, [*lines, *more, *page.sentences(shown)], problems)


def write(terminal: Any, lines: Sequence[Line], problems: Sequence[str]) -> None:
    """Write lines, and in red what changed the run's exit status."""
    for line in lines:
        terminal.write_line(line.text, **line.markup)
    for problem in problems:
        text = f"ERROR: {problem}"  # in one line, as pytest's own, but in a terminal
        for row in error_lines(problem, width(terminal.config)) if terminal.isatty else [text]:
            terminal.write_line(row, red=True, bold=True)
