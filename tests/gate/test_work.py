"""The verdict on counted work: what is beyond a tolerance, what is not seen, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
from builders import work, work_record
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.gate.budget import budget_for, parse
from pytest_carbon.gate.work import Tolerances, compare, effect, figures, judge
from pytest_carbon.records import Budget, MeasurementWarning, Settings
from pytest_carbon.records.work import OperatorWork, Work, WorkRecord, WorkVerdict

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0"}
STANDARD = Tolerances()
THREADS = MeasurementWarning("other-threads", "3 other threads ran while it was counted, and their work is not seen")


def verdict(
    now: Work | None,
    before: Work | None = None,
    *,
    failure: str | None = None,
    warnings: tuple[MeasurementWarning, ...] = (),
    versions: dict[str, str] = VERSIONS,
    tolerances: Tolerances = STANDARD,
    **marker: Any,
) -> WorkVerdict:
    record = None if before is None else work_record(work=before)
    budget = budget_for([parse(**marker)], "call", "work-cpu") or Budget()
    return judge(work_record().key, now, failure, warnings, record, versions, tolerances, budget)


def gemm(dtype: str, flops: int = 10**9) -> dict[str, Any]:
    return {"flops": flops, "by_class": (OperatorWork(f"gemm {dtype}", flops, 10**6, 10),), "by_module": ()}


def test_equal_counts_pass() -> None:
    same = verdict(work(), work())
    assert (same.status, same.reason) == ("pass", "as the baseline: 2.57 GFLOP, 196 MB, 79 kernels, 0 host reads")
    assert same.change == {"flops": 0.0, "bytes": 0.0, "kernels": 0.0, "host_reads": 0.0}
    assert (same.cause, same.modules, same.differences, same.failed) == (None, (), (), False)


def test_a_pass_and_an_improvement_say_what_is_not_counted() -> None:
    """Work that left torch has not become less."""
    beside = MeasurementWarning("beside-torch", "…", informs=True)
    threads = MeasurementWarning("other-threads", "…", informs=True)
    better = verdict(work(flops=10**6), work(), warnings=(beside,))
    assert (better.status, better.reason.rpartition("; ")[2]) == ("improvement", "not counted: what runs outside torch")
    same = verdict(work(), work(), warnings=(beside, threads))
    assert same.reason.endswith("; not counted: what runs outside torch and what runs in other threads")


@pytest.mark.parametrize(
    ("quantity", "before", "within", "beyond"),
    [
        ("flops", 10_000, 10_100, 10_101),
        ("bytes", 10_000, 10_100, 10_101),
        ("steps", 100, 101, 102),
        ("kernels", 100, 110, 111),
        ("host_reads", 30, 33, 34),
        ("host_reads", 0, 0, 1),
        ("host_reads", 1, 1, 2),
        ("kernels", 3, 3, 4),
    ],
)
def test_a_count_is_held_to_its_tolerance(quantity: str, before: int, within: int, beyond: int) -> None:
    """More than it is a regression, and less by more an improvement; no count is too small."""
    plain = {"flops": 10_000, "bytes": 10_000, "kernels": 100, "by_class": (), "by_module": ()}

    def of(value: int) -> Work:
        return Work(engine="cpu", **({"host_reads": 30} | plain | {quantity: value}))

    assert verdict(of(within), of(before)).status == "pass"
    worse, better = verdict(of(beyond), of(before)), verdict(of(before), of(beyond + (beyond - before)))
    assert (worse.status, worse.failed) == ("regression", True)
    assert (better.status, better.failed) == ("improvement", False)
    assert worse.cause is not None
    assert worse.reason.startswith(f"{worse.cause}. ")


def test_a_rise_from_nothing_has_no_relative_change() -> None:
    """It is beyond any tolerance; what is unknown is left out."""
    risen = verdict(work(host_reads=1, reads={"item": 1}), work(), tolerances=Tolerances(host_reads=1.0))
    assert risen.status == "regression"
    assert "host_reads" not in risen.change
    assert (
        risen.reason
        == "1 host read instead of 0: the host waits for the device (1 of item() more). 0 host reads → 1 host read"
    )


@given(st.integers(1, 10**15), st.floats(0, 1), st.integers(-3, 3))
def test_what_is_exactly_at_its_tolerance_passes(before: int, tolerance: float, more: int) -> None:
    """However large the count is."""
    now = before + int(before * tolerance) + more
    (change,) = [
        one for one in compare(work(before), work(now), Tolerances(flops=tolerance)) if one.quantity == "flops"
    ]
    if now - before > before * tolerance * (1 + 1e-9) + 1e-9:
        assert change.beyond == 1
    if before * tolerance * (1 - 1e-9) - 1e-9 > now - before >= 0:
        assert change.beyond == 0


def test_counts_that_rise_and_fall_must_be_accepted() -> None:
    mixed = verdict(work(kernels=100), work(3_000_000_000))
    assert (mixed.status, mixed.failed) == ("changed", True)
    assert mixed.reason.endswith(
        ". 3.00 GFLOP → 2.57 GFLOP (-14.5%); 79 kernels → 100 kernels (+26.6%). Some counts rise and some fall: accept"
        " it if it is intended"
    )


def test_a_wider_dtype_is_a_regression_and_a_narrower_one_an_improvement() -> None:
    """With the same FLOPs, bytes and kernels; a part of them, too."""
    half, full = work(**gemm("bfloat16")), work(**gemm("float32"))
    wider, narrower = verdict(full, half), verdict(half, full)
    assert (wider.status, narrower.status) == ("regression", "improvement")
    assert wider.cause == "the model itself, matrix products in float32 instead of bfloat16: a wider dtype"
    assert narrower.reason.startswith("less work: the dtype of matrix products. Accept it")
    classes = (OperatorWork("gemm bfloat16", 98 * 10**7, 1, 9), OperatorWork("gemm float32", 2 * 10**7, 1, 1))
    part = work(10**9, by_class=classes, by_module=())
    assert verdict(part, half).status == "regression"
    assert verdict(part, half, tolerances=Tolerances(flops=0.03)).status == "pass"


def test_a_share_that_grows_since_others_shrink_is_not_wider() -> None:
    """What was float32 stays as it was."""
    head = OperatorWork("gemm float32", 10**8, 10**6, 1)
    before, now = (
        work(flops + 10**8, by_class=(OperatorWork("gemm bfloat16", flops, 10**6, 9), head), by_module=())
        for flops in (10**9, 10**8)
    )
    assert verdict(now, before).status == "improvement"


def test_fewer_steps_do_not_hide_that_each_costs_more() -> None:
    """The sum falls, and must be accepted."""
    before = work(32_000, kernels=3200, steps=32, by_class=(), by_module=())
    assert verdict(work(16_000, kernels=1600, steps=16, by_class=(), by_module=()), before).status == "improvement"
    assert verdict(work(16_000, kernels=2000, steps=16, by_class=(), by_module=()), before).status == "changed"


def test_tolerances_of_a_marker_take_the_place_of_the_options() -> None:
    """All four; False takes the test out of the comparison, and is said so."""
    grown = work(int(2_565_811_200 * 1.04), kernels=90)
    assert verdict(grown, work()).status == "regression"
    assert verdict(grown, work(), tolerance="5%").status == "regression"
    assert verdict(grown, work(), tolerance="15%").status == "pass"
    assert verdict(work(2_565_811_201), work(), tolerance="0%").status == "regression"
    out = verdict(grown, work(), tolerance=False)
    assert (out.status, out.reason[:43]) == ("pass", "not held to a baseline (tolerance=False): 2")


def test_a_budget_goes_before_a_baseline() -> None:
    """Its sentence first, then what a change comes from; it holds without a baseline, too."""
    over = verdict(work(), work(), flops="2 GFLOP")
    assert (over.status, over.failed) == ("over-budget", True)
    assert over.reason == (
        "2.57 GFLOP per call, 28% over the budget of 2 GFLOP: make the call do less, or raise flops= in its"
        " carbon_budget marker"
    )
    both = verdict(work(4 * 10**9), work(), flops="2 GFLOP")
    assert both.cause is not None
    assert f" in its carbon_budget marker. {both.cause}. " in both.reason
    assert verdict(work(), None, kernels=78).status == "over-budget"
    assert verdict(work(), None, kernels=79).status == "new"
    elsewhere = verdict(work(), work(), flops="2 GFLOP", on="work-cuda")
    assert elsewhere.status == "pass"
    assert "shown, not enforced, since on='work-cuda' does not match work-cpu" in elsewhere.reason


def test_what_was_not_counted_is_an_error() -> None:
    """With or without a baseline; the failure is the reason."""
    assert verdict(None, work(), failure="RuntimeError: boom") == WorkVerdict("error", "RuntimeError: boom")
    assert verdict(None).reason == "nothing was counted"
    assert verdict(work(), work(), failure="it raised").status == "error"


def test_without_a_baseline_it_is_new() -> None:
    new = verdict(work(steps=32))
    assert new.status == "new"
    assert new.reason == (
        "no baseline yet: 2.57 GFLOP, 196 MB, 79 kernels, 0 host reads, 32 decode steps. Record one with"
        " --carbon-record"
    )


def test_a_baseline_of_another_engine_is_named_and_not_compared() -> None:
    new = verdict(work(), work(7, engine="hollow"))
    assert (new.status, dict(new.change)) == ("new", {})
    assert new.differences == ("engine hollow → cpu",)
    assert "no baseline of the engine cpu: the baseline was counted with hollow" in new.reason


def test_versions_that_differ_are_named_where_counts_do() -> None:
    """Always as data, in the sentence where something moved."""
    others = {"torch": "2.14.0", "diffusers": "1.0"}
    same, moved = (verdict(work(kernels=n), work(), versions=others) for n in (79, 80))
    expected = ("diffusers absent → 1.0", "torch 2.13.0 → 2.14.0", "transformers 5.23.0 → absent")
    assert same.differences == moved.differences == expected
    assert "2.14.0" not in same.reason
    assert moved.reason == (
        "within the tolerances: 79 kernels → 80 kernels (+1.3%); diffusers absent → 1.0, torch 2.13.0 → 2.14.0 and"
        " transformers 5.23.0 → absent"
    )


@pytest.mark.parametrize("now", [work(), work(9 * 10**9), work(7)])
def test_a_disqualifying_warning_leaves_it_open(now: Work) -> None:
    """Neither a pass nor a regression: what is said of the counts stays; one that informs does not."""
    open_ = verdict(now, work(), warnings=(THREADS,))
    assert (open_.status, open_.failed) == ("inconclusive", False)
    assert open_.reason.endswith(f"It cannot be decided: {THREADS.text}")
    informs = MeasurementWarning("uncompiled", "counted as it is written", informs=True)
    assert verdict(now, work(), warnings=(informs,)).status != "inconclusive"
    assert verdict(now, None, warnings=(THREADS,)).status == "inconclusive"
    assert verdict(now, work(), warnings=(THREADS,), kernels=1).status == "over-budget"


def test_unknown_operators_hide_no_change() -> None:
    """They are named; what the counts show in spite of them stands."""
    nms = {"unknown_ops": ("torchvision::nms",)}
    hidden = verdict(work(**nms), work(**nms))
    assert hidden.status == "inconclusive"
    assert hidden.reason == (
        "It cannot be decided: the FLOPs of torchvision::nms are unknown, which could hide a change"
    )
    assert verdict(work(9 * 10**9, **nms), work(**nms)).status == "regression"
    assert verdict(work(7, **nms), work(**nms)).status == "inconclusive"


def test_an_unknown_operator_that_came_or_went_may_explain_a_change() -> None:
    for now, before in (((), ("a::b",)), (("a::b",), ())):
        open_ = verdict(work(9 * 10**9, unknown_ops=now), work(unknown_ops=before))
        assert open_.status == "inconclusive"
        assert "the FLOPs of a::b are unknown (a::b is " in open_.reason


def test_unknown_operators_too_small_to_matter_are_no_obstacle() -> None:
    """A matrix product of their size would be below the tolerance."""
    small = OperatorWork("other float32", 0, 1200, 1)
    large = OperatorWork("other float32", 0, 120_000_000, 1)
    for other, status in ((small, "pass"), (large, "inconclusive")):
        counted = work(by_class=(*work().by_class, other), unknown_ops=("a::b",))
        assert verdict(counted, counted).status == status


@pytest.mark.parametrize(
    ("status", "settings", "states", "expected"),
    [
        ("error", Settings(gate="warn"), {"accepted": True}, "fails"),
        ("regression", Settings(), {}, "fails"),
        ("changed", Settings(), {}, "fails"),
        ("changed", Settings(), {"accepted": True}, "accepted"),
        ("over-budget", Settings(gate="warn"), {}, "warns"),
        ("inconclusive", Settings(), {}, "none"),
        ("inconclusive", Settings(strict=True), {}, "fails"),
        ("new", Settings(), {}, "none"),
        ("new", Settings(strict=True), {}, "fails"),
        ("new", Settings(strict=True), {"recorded": True}, "none"),
        ("regression", Settings(), {"recorded": True}, "none"),
        ("improvement", Settings(), {}, "none"),
        ("pass", Settings(strict=True), {}, "none"),
    ],
)
def test_what_follows_for_the_run(status: Any, settings: Settings, states: dict[str, bool], expected: str) -> None:
    assert effect(WorkVerdict(status, "why"), settings, **states) == expected


counts = st.integers(0, 10**18)
works = st.builds(Work, st.just("cpu"), counts, counts, counts, counts, st.none() | counts)


@given(works, works)
def test_a_verdict_is_mirrored_and_never_silent(one: Work, other: Work) -> None:
    """What is a regression one way is an improvement the other, or must be accepted both ways."""
    there, back = verdict(other, one), verdict(one, other)
    mirrored = {"regression": {"improvement", "changed"}, "improvement": {"regression", "changed"}}
    assert back.status in mirrored.get(there.status, {there.status, "regression", "improvement"})
    assert (there.status in ("regression", "changed")) == (there.cause is not None)
    assert there.reason
    assert figures(one)


def test_a_record_keeps_the_key() -> None:
    assert isinstance(work_record(), WorkRecord)
    assert work_record().key == ("tests/test_m.py::test_x[fp16]", "call")
