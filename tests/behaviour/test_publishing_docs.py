"""docs/publishing.md: its metrics are those that there are, and its diff is the one that its commands print."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from console import carbon
from extras import library

from pytest_carbon.reports.openmetrics import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text("utf-8")


def block(mark: str) -> str:
    """The block of code after a mark."""
    after = PAGE.partition(f"<!-- {mark} -->\n")[2]
    return re.match(r"```\w+\n(.*?)```\n", after, re.DOTALL)[1]  # type: ignore[index]


def undated(text: str) -> list[str]:
    """Without what differs from run to run, and from version to version of torch."""
    text = re.sub(r"\d{4}-\d\d-\d\d(?:T[\d:]+Z)?", "DATE", text)
    return re.sub(r"(value: )[\d.]+|\| \d+ ± \d+ mWh", r"\1FIGURE", text).splitlines()


def test_the_table_of_metrics_is_complete() -> None:
    shown = re.findall(r"^\| `pytest_carbon_(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert shown == [(name, text.removesuffix(".")) for name, text in METRICS.items()]


@pytest.mark.slow
def test_the_diff_is_the_one_that_its_commands_print(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any machine: the work is counted."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            library(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("README.md", "test_sentiment.py"):
        pytester.path.joinpath(name).write_text(block(f"file: {name}"), encoding="utf-8")
    count, change = block("commands").splitlines()
    assert pytester.runpytest_subprocess(*shlex.split(count)[1:]).ret == 0
    ran = carbon(*shlex.split(change)[1:])
    assert (ran.ret, ran.err) == (0, "")
    assert undated(ran.out) == undated(block("diff"))
