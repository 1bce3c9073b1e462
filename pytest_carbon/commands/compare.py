"""``pytest-carbon compare BASE HEAD``: two reports, or baselines, side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from pytest_carbon.commands import compare_sides
from pytest_carbon.plugin.settings import of_project

UNCHANGED, REGRESSION, INCOMPARABLE = 0, 1, 2

_PLACE = "a report of --carbon-json, a directory of baselines, one machine's folder or file in it, or a database"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare two reports, or baselines",
        description="Compare what two runs measured, or a run with baselines, by the rule of the gate: HEAD with BASE.",
        epilog="Exit status: 0; 1 where something of HEAD is a regression, or could not be measured; 2 where the two"
        " cannot be compared: other machines, other tests, a file that cannot be read. Budgets are not looked at.",
    )
    parser.add_argument(
        "base", metavar="BASE", help=f"the baseline: {_PLACE}, of which the records of carbon_branch count"
    )
    parser.add_argument("head", metavar="HEAD", help="what is judged: the same")
    parser.add_argument(
        "--format",
        choices=("text", "json", "markdown"),
        default="text",
        help="text (default); markdown, for a comment on a pull request; json",
    )
    parser.add_argument(
        "--tolerance",
        "--carbon-tolerance",
        metavar="SHARE",
        type=_share(0, 1),
        help="a change smaller than this is no regression; a marker's own wins (default: carbon_tolerance of the ini"
        " file, or 5%%)",
    )
    parser.add_argument(
        "--false-alarms",
        "--carbon-false-alarms",
        metavar="SHARE",
        type=_share(1e-6, 0.5),
        help="the chance that an unchanged suite has a regression (default: carbon_false_alarms of the ini file, or"
        " 1%%)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="list what passes, too, however much it is")
    parser.set_defaults(run=_run)


def _share(least: float, most: float) -> Callable[[str], float]:
    def share(text: str) -> float:
        from pytest_carbon.records import UsageProblem
        from pytest_carbon.text import parse_share

        try:
            value = parse_share(text)
        except UsageProblem as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: write a share from {least:.4%} to {most:.0%}, such as 2%")
        return value

    return share


def _run(given: argparse.Namespace) -> int:
    from pytest_carbon.baselines import comparison
    from pytest_carbon.commands import ascii_only, width
    from pytest_carbon.records import CarbonError
    from pytest_carbon.reports import comparison as report

    try:
        settings = of_project()
        base, head = (compare_sides.read(place, branch=settings.branch) for place in (given.base, given.head))
        found = comparison.compare(
            base,
            head,
            tolerance=settings.tolerance if given.tolerance is None else given.tolerance,
            false_alarms=settings.false_alarms if given.false_alarms is None else given.false_alarms,
        )
    except CarbonError as error:
        print(f"pytest-carbon: {error}", file=sys.stderr)
        return INCOMPARABLE
    if given.format == "json":
        print(report.document(found), end="")
    elif given.format == "markdown":
        print(report.markdown(found), end="")
    else:
        print("\n".join(report.text(found, verbose=given.verbose, width=width(), ascii=ascii_only())))
    return REGRESSION if found.failed else UNCHANGED
