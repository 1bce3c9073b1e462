"""``--carbon-shard``: the suite divided among the jobs of a CI matrix."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MACHINE, CarbonRunner, Run
from hypothesis import given
from hypothesis import strategies as st
from worklab import WorkRunner

from pytest_carbon.baselines.files import FileStore
from pytest_carbon.plugin.shards import divide, durations, measuring_s
from pytest_carbon.records import Settings

SUITE = """
import pytest
from battery import draw

@pytest.mark.carbon_budget
@pytest.mark.parametrize("n", range(5))
def test_measures(n):
    draw(1.0)

@pytest.mark.carbon_budget
def test_marked():
    draw(2.0)

@pytest.mark.parametrize("n", range(7))
def test_plain(n): ...
"""
ALL = {f"test_it.py::test_{name}" for name in (*(f"measures[{n}]" for n in range(5)), "marked")}
PLAIN = {f"test_it.py::test_plain[{n}]" for n in range(7)}

IDS = st.text(min_size=1, max_size=8)
WEIGHTS = st.dictionaries(IDS, st.floats(0.001, 1e4), max_size=40)


# --- how it divides ------------------------------------------------------------------------------


@given(WEIGHTS, st.sets(IDS, max_size=40), st.integers(1, 12), st.randoms(use_true_random=False))
def test_each_test_is_in_one_shard_whatever_the_order(
    weights: dict[str, float], others: set[str], shards: int, order: random.Random
) -> None:
    """Complete, disjoint, within the number of shards; other orders of the same tests give the same."""
    parts = divide(weights, others, shards)
    assert parts.keys() == weights.keys() | others
    assert all(1 <= number <= shards for number in parts.values())
    shuffled, rest = list(weights.items()), list(others)
    order.shuffle(shuffled)
    order.shuffle(rest)
    assert divide(dict(shuffled), rest, shards) == parts


@given(WEIGHTS, st.sets(IDS, max_size=40), st.integers(1, 12))
def test_shards_are_balanced(weights: dict[str, float], others: set[str], shards: int) -> None:
    """By greedy division no shard is heavier than another by more than its own lightest test; the rest is even."""
    parts = divide(weights, others, shards)
    own: dict[int, list[float]] = {number: [] for number in range(1, shards + 1)}
    for test, weight in weights.items():
        own[parts[test]].append(weight)
    lightest = min(sum(several) for several in own.values())
    for several in own.values():
        if several:
            assert sum(several) - min(several) <= lightest * (1 + 1e-9)
    rest = [[parts[test] for test in others - weights.keys()].count(number) for number in range(1, shards + 1)]
    assert max(rest) - min(rest) <= 1


def test_neighbours_that_do_not_measure_stay_together() -> None:
    parts = divide({}, [f"t{n}" for n in range(8)], 3)
    assert [parts[f"t{n}"] for n in range(8)] == [3, 3, 3, 2, 2, 2, 1, 1]


def test_a_measurement_takes_the_warm_up_and_the_time_of_its_calls() -> None:
    """About the same for calls of a millisecond as for those of 10 ms; the calls of an hour are what they are."""
    settings = Settings()
    assert measuring_s(settings, 0.001) == pytest.approx(2.001)
    assert measuring_s(settings, 0.01) == pytest.approx(2.01)
    assert measuring_s(settings, 0.5) == pytest.approx(0.5 + 1 + 2.5)
    assert measuring_s(settings, 3.0) == pytest.approx(3 + 3 + 10)
    assert measuring_s(settings, 60.0) == pytest.approx(3 * 60)


# --- what a run selects --------------------------------------------------------------------------


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    pytester.makepyfile(test_it=SUITE)
    return pytester.path


def ran(run: Run) -> set[str]:
    """The ids of the tests that ran, which -v lists."""
    ended = (" PASSED", " FAILED", " SKIPPED")
    return {line.partition(" ")[0] for line in run.lines if any(end in line for end in ended) and "::" in line}


def shards_of(run_carbon: CarbonRunner, count: int, *args: str) -> list[Run]:
    runs = [run_carbon(f"--carbon-shard={index}/{count}", "-v", *args) for index in range(1, count + 1)]
    assert len({run.report["shard"]["division"] for run in runs}) == 1
    return runs


def keys(run: Run) -> set[str]:
    return {test["nodeid"] for test in run.report["tests"]}


@pytest.mark.usefixtures("project")
def test_all_shards_together_run_each_test_once(run_carbon: CarbonRunner) -> None:
    """Those that measure and the others, and each says what it selects; the report has it, too."""
    runs = shards_of(run_carbon, 3)
    selected = [test for run in runs for test in ran(run)]
    assert sorted(selected) == sorted(ALL | PLAIN)
    assert [len(keys(run)) for run in runs] == [2, 2, 2]
    assert set.union(*map(keys, runs)) == ALL
    assert "carbon: shard 2 of 3: 4 of 13 tests, 2 of 6 measuring tests, for about 10 s" in runs[1].text
    assert [run.ret for run in runs] == [0, 0, 0]
    shard = runs[1].report["shard"]
    assert [shard[name] for name in ("index", "count", "tests", "tests_total")] == [2, 3, 4, 13]
    assert (shard["gate"], shard["strict"], shard["failed"]) == ("fail", False, False)


@pytest.mark.slow_beyond(2)
@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-k", "measures"), {test for test in ALL if "measures" in test}),
        (("-k", "plain or marked"), PLAIN | {"test_it.py::test_marked"}),
        (("-m", "carbon_budget"), ALL),
        (("--carbon-sessions=2",), ALL | PLAIN),
        (("test_it.py::test_plain", "test_it.py::test_marked"), PLAIN | {"test_it.py::test_marked"}),
    ],
    ids=["-k", "-k with others", "-m", "sessions", "ids"],
)
def test_a_selection_is_divided(run_carbon: CarbonRunner, options: tuple[str, ...], expected: set[str]) -> None:
    """What other options leave is what is divided."""
    runs = shards_of(run_carbon, 2, *options)
    assert sorted(test for run in runs for test in ran(run)) == sorted(expected)
    assert [run.ret for run in runs] == [0, 0]
    assert set.union(*map(keys, runs)) == expected & ALL


def test_tests_of_an_installed_package_are_divided(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    package = pytester.path / "outside" / "shardpack"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "test_it.py").write_text(SUITE)
    (pytester.path / "here").mkdir()
    pytester.syspathinsert(package.parent)
    runs = shards_of(run_carbon, 2, "--pyargs", "shardpack", f"--rootdir={pytester.path / 'here'}")
    assert sorted(len(keys(run)) for run in runs) == [3, 3]
    assert {key.partition("::")[0] for run in runs for key in keys(run)} == {"shardpack.test_it"}


def test_the_division_does_not_depend_on_the_hash_seed(project: Path) -> None:
    """The same in processes whose sets have other orders."""
    code = (
        "from pytest_carbon.plugin.shards import divide\n"
        "print(sorted(divide({f'm{n}': n % 3 for n in range(30)}, {f't{n}' for n in range(30)}, 7).items()))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


@pytest.mark.usefixtures("project")
def test_a_shard_without_tests_passes_and_has_a_report(run_carbon: CarbonRunner) -> None:
    """There are fewer tests than shards: that is no failure of the job, and merging needs the report."""
    runs = shards_of(run_carbon, 4, "-k", "marked")
    assert [run.ret for run in runs] == [0, 0, 0, 0]
    assert [run.report["shard"]["tests"] for run in runs] == [1, 0, 0, 0]
    assert "shard 4 of 4: 0 of 1 test" in runs[3].text
    nothing = run_carbon("--carbon-shard=1/2", "-k", "nosuchtest")
    assert nothing.ret == 5


@pytest.mark.slow
def test_recorded_durations_balance_it(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """The three long ones are apart, though their ids are neighbours; the others weigh the median."""
    source = "import time, pytest\nfrom battery import draw\ndef slow():\n    draw(1.0)\n    time.sleep(0.15)\n"
    source += "".join(f"def test_a{n}(carbon): carbon(slow)\n" for n in range(2))
    source += "".join(f"def test_b{n}(carbon): carbon(draw, 1.0)\n" for n in range(4))
    pytester.makepyfile(test_it=source)
    assert run_carbon("--carbon-record").ret == 0
    runs = shards_of(run_carbon, 2)
    long = [[key for key in keys(run) if "_a" in key] for run in runs]
    assert [len(several) for several in long] == [1, 1]
    (store,) = [FileStore(pytester.path / "carbon-baselines")]
    known = durations(store, ALL | {f"test_it.py::test_a{n}" for n in range(2)}, None)
    assert {key for key, _ in known} == {"test_it.py::test_a0", "test_it.py::test_a1"}
    assert all(call_s > 0.14 for call_s in known.values())


def test_what_other_shards_record_does_not_change_the_division(
    run_carbon: CarbonRunner, pytester: pytest.Pytester
) -> None:
    """Each records before the next one divides: into the same place, of the same commit."""
    pytester.makepyfile(test_it=SUITE)
    for command in (("init", "-q"), ("add", "test_it.py"), ("commit", "-qm", "x")):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@y", *command], check=True, cwd=pytester.path)
    runs = shards_of(run_carbon, 3, "--carbon-record")
    assert set.union(*map(keys, runs)) == ALL
    assert len(FileStore(pytester.path / "carbon-baselines").keys(MACHINE)) == 6


# --- what it does not say of the others ----------------------------------------------------------


def test_the_tests_of_other_shards_are_not_missing(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """They are neither gone nor unmeasured, with --carbon-strict, too; a test that is gone is, in each shard."""
    pytester.makepyfile(test_it=SUITE)
    assert run_carbon("--carbon-record").ret == 0
    for run in shards_of(run_carbon, 2, "--carbon-strict", "--carbon-max-detectable=900%"):
        assert run.ret == 0
        assert run.report["unmeasured"] == []
        assert run.report["suite"]["gated"] == 6
        assert "3 with a baseline were not run in this shard" in run.text
    pytester.makepyfile(test_it=SUITE.replace("test_marked", "test_renamed"))
    for run in shards_of(run_carbon, 2, "--carbon-strict", "--carbon-max-detectable=900%"):
        assert "test_marked has a baseline" in run.text
        assert (run.ret, run.report["shard"]["failed"]) == (1, True)


def test_a_name_that_another_shard_measures_is_no_mistake(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest
        from battery import draw
        @pytest.mark.carbon_budget(energy="9 J", name="own")
        class TestIt:
            def test_a(self, carbon): carbon.run(draw, (1.0,), name="own")
            def test_b(self, carbon): carbon.run(draw, (1.0,), name="other")
        """
    )
    for run in shards_of(run_carbon, 2):
        assert "has no effect" not in run.text


def test_counted_work_is_divided(run_work: WorkRunner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest, torch
        @pytest.mark.parametrize("n", range(3))
        def test_counts(carbon, n): carbon(torch.mm, torch.ones(2, 2), torch.ones(2, 2))
        def test_plain(): ...
        """
    )
    runs = [run_work(f"--carbon-shard={index}/2") for index in (1, 2)]
    assert [run.ret for run in runs] == [0, 0]
    assert sorted(len(run.report["tests"]) for run in runs) == [1, 2]
    assert "shard 1 of 2: 2 of 4 tests, 2 of 3 measuring tests" in runs[0].text


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("value", ["9/8", "0/8", "x/y", "3", "3/8/1", "-1/8", "1/0", "1/99999", "³/8"])
def test_a_shard_that_does_not_exist_is_refused(run_carbon: CarbonRunner, value: str) -> None:
    run = run_carbon(f"--carbon-shard={value}")
    assert run.ret == 4
    says = f"--carbon-shard={value}: write which shard of how many, such as 3/8: two whole numbers"
    assert says in run.errors.replace("'", "")


@pytest.mark.usefixtures("project")
def test_it_is_a_flag_of_measuring(run_carbon: CarbonRunner, pytester: pytest.Pytester) -> None:
    """Without --carbon it has no effect, and an ini file, which is the same in each job, cannot have it."""
    run = run_carbon("--carbon-shard=1/2", carbon=False)
    assert run.outcomes() == {"passed": 13}
    assert "--carbon-shard has no effect without --carbon" in run.text
    both = run_carbon("--carbon-shard=1/2", "--carbon-against=HEAD")
    assert "the two revisions are judged in one run, and shards of it cannot be merged" in both.errors
    pytester.makeini("[pytest]\ncarbon_shard = 1/2\n")
    ini = run_carbon()
    assert (ini.ret, "this has no ini key; give --carbon-shard on the command line" in ini.errors) == (4, True)
