"""The tables of figures in the docs are those that the benchmarks wrote, digit by digit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gate, recordings, served
from pytest_carbon.baselines.format import FIELDS, wrong_field
from pytest_carbon.measure.meters.replay import ReplayMeter

ROOT = Path(__file__).parents[1]


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def results(name: str) -> Any:
    return json.loads(page(f"benchmarks/results/{name}.json"))


def says(shown: str, value: float) -> bool:
    """Whether a percentage is this value, rounded to the digits that it has."""
    number = shown.rstrip("%")
    return number == f"{100 * value:.{len(number.partition('.')[2])}f}"


def table(text: str, head: str) -> list[list[str]]:
    """The rows of the table that begins so."""
    lines = text[text.index(head) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_gate_with_confirmation() -> None:
    """False alarms and what is found, beside three other rules."""
    rows = iter(results("gate-confirmed")["rows"])
    for cells in gate.CONFIRMED:
        assert gate.confirmed_line([next(rows) for _ in cells]) in page("docs/gate-evidence.md")
    assert next(rows, None) is None


def test_a_served_model() -> None:
    """The largest errors, each within the bar."""
    found = results("served")
    shown = page("docs/howto/served.md").partition("<!-- table: benchmarks/results/served.json -->\n")[2]
    assert shown.partition("\n<!-- end of the table -->")[0] == served.table(found["rows"])
    assert found["met"]


def test_what_is_recorded() -> None:
    """The three rules of what a run records."""
    kinds = ("all", "not failed", "only passes")
    found = {
        (row["measurements"], row["spread"], row["estimated"], row["recorded"]): row["suites_failed"]
        for row in results("gate-recorded")["rows"]
    }
    shown = table(page("docs/gate-evidence.md"), "| tests | σ | assumed |")
    assert len(shown) == len({key[:3] for key in found})
    for tests, spread, assumed, *figures in shown:
        key = int(tests), float(spread.rstrip("%")) / 100, "estimated" in assumed
        of_row = [found.get((*key, kind)) for kind in kinds]
        assert figures == ["–" if figure is None else f"{figure:.1%}" for figure in of_row]


def test_the_smallest_detectable_changes() -> None:
    """As the gate has them now, not as it had them when the benchmark ran."""
    assert "\n".join(recordings.sees_lines(recordings.sees())) in page("docs/gate-decides.md")


TOOLS = ("pytest-carbon", "zeus", "codecarbon")


def test_the_errors_of_windows_and_loops() -> None:
    """The first table of the README: the worst error, beside zeus and codecarbon."""
    rows = [row for row in results("measurement")["table"] if row["part"] == "exponential"]
    shown = table(page("README.md"), "| power follows, what is measured |")
    assert [first for first, *_ in shown] == [f"{row['device']}: {row['what']}" for row in rows]
    for (first, *figures), row in zip(shown, rows, strict=True):
        for figure, tool in zip(figures, TOOLS, strict=True):
            assert says(figure, row["worst_error"][tool]), (first, tool)


def test_the_errors_beside_a_plateau() -> None:
    """The second table of the README; zeus and codecarbon where they measured too."""
    rows = {
        f"{row['device']}: {row['what']}": row for row in results("measurement")["table"] if row["part"] == "plateaus"
    }
    shown = table(page("README.md"), "| power after work, what is measured |")
    assert len(shown) == 8
    for first, ours, *others in shown:
        row = rows[first]
        assert says(ours, max(abs(row["low"]), abs(row["high"]))), first
        worst = row.get("worst_error")
        assert others == ["", ""] if worst is None else all(map(says, others, (worst[tool] for tool in TOOLS[1:])))


def test_the_places_of_baselines() -> None:
    """How long a gate takes to open with a million sessions."""
    shown = [row[1:] for row in table(page("docs/baselines.md"), "| baselines | opening the gate, s |")]
    keys = ("opening_s", "opening_cpu_s", "opening_s_at_most")
    assert [list(map(float, row)) for row in shown] == [
        [pytest.approx(row[key], abs=0.06) for key in keys] for row in results("stores")["baselines"]
    ]


def test_the_study_counted() -> None:
    """What is said of all cells beside the study's figures, and what counting costs."""
    figures, text = results("work_study"), " ".join(page("docs/suite.md").split())
    study, ratios = figures["study"], figures["study"]["ratio_within_a_task"]
    for said in (
        f"rank correlation with the study's figures: {study['rank_correlation']:.3f} over {study['cells']} cells.",
        f"{study['times_the_prediction']['median']:.1f} times the predicted GPU (median)",
        f"is off by a factor of {ratios['all']:.2f} (median)",
        f"{ratios['summarization']:.1f} for summarization and image generation",
        f"{ratios['image-classification']:.1f} for image classification",
        f"{figures['generate']['cpu_s']:.1f} s of processor time and {figures['generate']['mib']:.0f} MiB",
        f"the small suite is counted in {figures['small']['seconds']:.0f} s",
    ):
        assert said in text


def indented(text: str, after: str) -> list[str]:
    """The lines of the first indented block after a place, joined where they were wrapped."""
    lines = text[text.index(after) :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    {"))
    block: list[str] = []
    for line in lines[first:]:
        if line.startswith("    {"):
            block.append(line.strip())
        elif line.startswith("    "):
            block[-1] += " " + line.strip()
        else:
            break
    return block


def test_the_lines_of_a_baseline() -> None:
    """The record has every field, in order, each with a value that a run could have written."""
    header, record = map(json.loads, indented(page("docs/baselines.md"), "## What is in a file"))
    assert list(header) == ["format", "machine"]
    assert list(record) == [name for name in FIELDS if name not in ("labels", "factors")]
    assert wrong_field({"labels": None, "factors": None, **record}) is None


def test_the_lines_of_a_trace(tmp_path: Path) -> None:
    """They are read as a trace."""
    text = page("docs/extending.md")
    lines: Sequence[str] = [*indented(text, "The first line lists"), *indented(text, "Each other line is a step")]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    meter = ReplayMeter(path)
    assert [domain.name for domain in meter.domains] == ["gpu:0"]


def test_1000_gpus() -> None:
    """What the Ray engine costs, and what follows from it."""
    made, scale = results("ray_engine"), results("scale")
    assert made["met"]
    assert (made["ray"]["measured_once"], made["nodes"]) == (10_000, 4)
    text = " ".join(page("docs/many-gpus.md").split())
    cpu_ms = 1000 * made["ray"]["cpu_s"] / made["ray"]["tests"]
    for figure in (
        f"{made['ms_a_test']:.1f} ms a test",
        f"{made['own_ms_a_test']:.1f} ms a test",
        f"At {cpu_ms:.1f} ms a test, one core takes about {round(1000 / cpu_ms, -1):.0f} tests a second",
        f"{made['ray']['memory_mb']:.0f} MB with 10,000 tests",
        f"{made['ray']['report_mb']:.1f} MB with 10,000 tests",
        f"| {scale['where']}, for 10,000 measurements |",
        f"| {scale['seconds']['load']:.2f} s |",
        f"| {scale['seconds']['gate']:.2f} s |",
    ):
        assert figure in text, figure
