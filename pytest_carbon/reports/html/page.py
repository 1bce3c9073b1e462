"""The page as text: the template with its values, styles, scripts and packed data, in one file."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from pytest_carbon.host.ci import CiRun
from pytest_carbon.records import UsageProblem
from pytest_carbon.reports.html.data import pack
from pytest_carbon.reports.html.headline import head
from pytest_carbon.reports.html.ranking import rankings
from pytest_carbon.reports.html.rows import STATUSES, Row, believable, rows, shortened, suite_cards
from pytest_carbon.reports.merge import Runs
from pytest_carbon.text import count, counted

FORMAT = "pytest-carbon-html/1"
BEGINNING = f"<!doctype html>\n<!-- {FORMAT} -->\n"

LIBRARIES = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "vendor/dataTables.min.js")
SCRIPTS = ("dom.js", "charts.js", "detail.js", "table.js", "page.js")
_MOST_CARDS = 25
"""What does not pass is told in full up to this number, without JavaScript, too."""
_MOST_LINES = 100
"""And then in a line each, up to this number."""
_PLAIN = frozenset({"pass", "not compared", "new"})
_UNDECIDED = frozenset({"inconclusive", "blind"})
_GRAVEST = ("fails", "warns", "accepted", "none")


def text(runs: Runs, *, ci_run: CiRun | None = None) -> str:
    """Return the page of one run or several; ``ci_run``: the run of a CI service that has their reports.

    Raises :class:`UsageProblem` without Jinja2.
    """
    made = rows(runs, ci_run=ci_run)
    ranked = rankings(runs, made)
    shown = sorted((row for row in made if _concerns(row)), key=_gravity)
    top = head(runs, made, ranked)
    scripts = [_source(name) for name in (*LIBRARIES, *SCRIPTS)] if made else []
    theme = _source("theme.js")
    whole: str = BEGINNING + _template().render(
        head=top,
        suites=suite_cards(runs, ci_run=ci_run),
        cards=shown[:_MOST_CARDS],
        lines=shown[_MOST_CARDS : _MOST_CARDS + _MOST_LINES],
        rest=_rest(shown[_MOST_CARDS + _MOST_LINES :]),
        quiet=_rest([row for row in made if not _concerns(row)]),
        rankings=ranked,
        tasks=any(ranking.tasks for ranking in ranked),
        rows=made,
        several=len({row.entry.machine for row in made}) > 1,
        statuses=STATUSES,
        believable=believable,
        shortened=shortened,
        count=count,
        counted=counted,
        style=_source("style.css"),
        theme=theme,
        scripts=scripts,
        data=pack(made, ranked) if made else "",
        policy=_policy([theme, *scripts]),
    )
    return whole.encode("utf-8", "backslashreplace").decode()  # a lone surrogate of a broken name is no text


def _concerns(row: Row) -> bool:
    return row.effect != "none" or row.status not in _PLAIN


def _gravity(row: Row) -> tuple[int, bool, float, int]:
    """Order what is told in full: what fails first, and of that what got dearer by most."""
    size = 0.0 if row.change is None else abs(row.change)
    return _GRAVEST.index(row.effect), row.status in _UNDECIDED, -size, list(STATUSES).index(row.status)


def _rest(left: Sequence[Row]) -> str:
    """Count rows by status: ``1,970 regression, 3 blind``."""
    tally: dict[str, int] = {}
    for row in left:
        tally[row.status] = tally.get(row.status, 0) + 1
    return ", ".join(f"{count(tally[status])} {status}" for status in STATUSES if status in tally)


def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise UsageProblem(
            "a page of HTML needs jinja2, which is not installed: pip install 'pytest-carbon[report]'"
        ) from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_source("template.html.j2"))


def _source(name: str) -> str:
    """Read a file of this folder; what ends a script inside a string is escaped, and means the same."""
    source = files("pytest_carbon.reports.html").joinpath(name).read_text(encoding="utf-8")
    return re.sub(r"<(/script|!--)", r"\\x3c\1", source) if name.endswith(".js") else source


def _policy(scripts: Sequence[str]) -> str:
    """Allow the scripts of the page by their hashes, and nothing else: no request, no script in an attribute.

    Styles are allowed by being inline: the charts set some in their elements.
    """
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{hash}'" for hash in hashes)
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
