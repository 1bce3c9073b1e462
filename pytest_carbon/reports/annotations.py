"""Annotations of GitHub Actions: commands in the log that mark lines of a pull request (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_carbon.records import SessionResult
from pytest_carbon.reports.failure import headline
from pytest_carbon.reports.findings import findings, suites
from pytest_carbon.reports.markdown import short
from pytest_carbon.reports.merge import Runs
from pytest_carbon.text import count

MOST = 9
"""GitHub shows ten of a step; the last one counts the rest."""
_LONGEST_TITLE = 200
_LONGEST_MESSAGE = 1_000


def commands(result: SessionResult, problems: Sequence[str] = ()) -> list[str]:
    """Write what fails as errors and what only warns as warnings, the gravest first; ``problems`` fail the run."""
    lines = [*_lines(result, problems)]
    shown, rest = lines[:MOST], lines[MOST:]
    errors = sum(line.startswith("::error") for line in rest)
    if rest:
        what = "also fail" if errors == len(rest) else "also fail or warn" if errors else "would also have failed"
        text = f"and {count(len(rest))} more {what}: the log and the summary of this job name them"
        shown.append(_command("error" if errors else "warning", "pytest-carbon", text))
    return shown


def _lines(result: SessionResult, problems: Sequence[str]) -> Iterator[str]:
    of_suites = [(suite.effect, headline(suite), suite.reason or "") for _, _, suite in suites([result])]
    yield from (_command("error", f"carbon: {title}", text) for effect, title, text in of_suites if effect == "fails")
    found = findings(Runs((result,), ("",)))
    for one in found:
        if one.effect == "fails":
            test = one.entry.test
            yield _command("error", f"carbon {one.status}: {one.entry.label}", one.reason, test.file, test.line)
    yield from (_command("error", "pytest-carbon", problem) for problem in problems)
    yield from (_command("warning", f"carbon: {title}", text) for effect, title, text in of_suites if effect == "warns")
    for one in found:
        if one.effect == "warns":
            test = one.entry.test
            yield _command("warning", f"carbon {one.status}: {one.entry.label}", one.reason, test.file, test.line)


def _command(level: str, title: str, message: str, file: str | None = None, line: int | None = None) -> str:
    """Write a command on a line of its own, whatever its texts hold: escaped as GitHub's toolkit does."""
    properties = []
    if file is not None and file.isprintable():
        properties += [f"file={_property(file)}", *([f"line={line}"] if line is not None else [])]
    properties.append(f"title={_property(short(title, _LONGEST_TITLE))}")
    return f"::{level} {','.join(properties)}::{_data(short(message, _LONGEST_MESSAGE))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
