"""Reports of several runs as one: what stands in it, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest

from pytest_carbon.records import Counted, Measurement, TestResult, UsageProblem, Verdict
from pytest_carbon.records.work import WorkVerdict
from pytest_carbon.reports.merge import Runs, merge

FAILS = Verdict("regression", "it takes more", change=0.1, effect="fails")
PASSES = Verdict("pass", "it is the same")
GROWN = WorkVerdict("regression", "more FLOPs", effect="warns")


def counted(name: str = "call", verdict: WorkVerdict = GROWN) -> Counted:
    return Counted(name, builders.work(), verdict)


def a_test(name: str, *pairs: tuple[Measurement, Verdict], counts: tuple[Counted, ...] = ()) -> TestResult:
    return TestResult(f"t.py::{name}", "passed", pairs, counted=counts, file="t.py", line=3)


def test_a_count_stands_beside_the_figures_of_its_name() -> None:
    """And by itself where nothing was measured; in the order of the report."""
    both = a_test("a", (builders.measurement(), PASSES), counts=(counted("alone"), counted()))
    (first, second) = merge([("r.json", builders.result(both))]).entries()
    assert (first.key, first.measurement, first.counted) == (("t.py::a", "call"), builders.measurement(), counted())
    assert (second.key, second.measurement, second.verdict) == (("t.py::a", "alone"), None, None)
    assert (first.label, second.label) == ("t.py::a", "t.py::a · alone")
    assert (second.machine, second.tokens, second.emissions_g_per_million_tokens) == ("a-gpu", None, None)


@pytest.mark.parametrize(
    ("verdict", "work", "effect"),
    [
        (FAILS, GROWN, "fails"),
        (PASSES, GROWN, "warns"),
        (PASSES, replace(GROWN, effect="fails"), "fails"),
        (replace(PASSES, effect="accepted"), replace(GROWN, effect="none"), "accepted"),
        (PASSES, None, "none"),
    ],
)
def test_an_entry_has_the_gravest_effect(verdict: Verdict, work: WorkVerdict | None, effect: str) -> None:
    one = a_test("a", (builders.measurement(), verdict), counts=() if work is None else (counted(verdict=work),))
    (entry,) = merge([("r.json", builders.result(one))]).entries()
    assert entry.effect == effect


def test_runs_keep_their_order_their_places_and_their_machines() -> None:
    """Shards, and a machine each: nothing is mixed."""
    there = replace(builders.MACHINE, id="another-gpu")
    one = builders.result(a_test("a", (builders.measurement(), PASSES)), session="1")
    two = builders.result(a_test("a", (builders.measurement(machine=there.id), FAILS)), session="2", machine=there)
    runs = merge([("1.json", one), ("2.json", two)])
    assert (runs.runs, runs.places) == ((one, two), ("1.json", "2.json"))
    assert [(entry.machine, entry.effect) for entry in runs.entries()] == [("a-gpu", "none"), ("another-gpu", "fails")]


def test_a_run_that_is_given_twice_is_refused_by_name() -> None:
    """Also where one of them is what it had written before it ended."""
    run = builders.result(a_test("a", (builders.measurement(), PASSES)))
    before = replace(run, incomplete=True, exit_status=None)
    with pytest.raises(UsageProblem) as error:
        merge([("a.json", run), ("other.json", replace(run, session="other")), ("copy.json", before)])
    assert str(error.value) == "copy.json: the same run as a.json (session now). Give each report once."


def test_a_run_without_measurements_has_no_entries() -> None:
    runs = merge([("r.json", builders.result())])
    assert ([*runs.entries()], runs.history) == ([], {})
    assert isinstance(runs, Runs)


@pytest.mark.parametrize("energy_j", [None, 1e-9, 1e12])
def test_a_figure_of_any_size_is_passed_on(energy_j: float | None) -> None:
    odd = replace(builders.measurement(), energy_j_per_call=energy_j, energy_j_per_call_error=None)
    (entry,) = merge([("r.json", builders.result(a_test("a", (odd, PASSES))))]).entries()
    assert entry.measurement == odd
    assert odd.relative_error is None


@pytest.mark.parametrize(
    ("nodeid", "file", "selection"),
    [
        ("test_m.py::T::test_x[a::b]", "models/test_m.py", "models/test_m.py::T::test_x[a::b]"),
        ("sub/test_m.py::test_x", "models/sub/test_m.py", "models/sub/test_m.py::test_x"),
        ("test_m.py::test_x", "models/other_test_m.py", "test_m.py::test_x"),  # another file, whose name ends alike
        ("test_m.py::test_x", "base.py", "test_m.py::test_x"),  # defined elsewhere
        ("package.test_m::test_x", "package/test_m.py", "package.test_m::test_x"),
        ("test_m.py::test_x", None, "test_m.py::test_x"),
    ],
)
def test_a_test_is_selected_from_the_top_of_the_repository(nodeid: str, file: str | None, selection: str) -> None:
    """Where its file is the one that its id names; otherwise by its id."""
    test = TestResult(nodeid, "passed", ((builders.measurement(), PASSES),), file=file)
    (entry,) = merge([("r.json", builders.result(test))]).entries()
    assert entry.selection == selection
