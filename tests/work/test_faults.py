"""What people do by mistake, on tiny models: each is red, and the first line names it; what changes nothing is not."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import work
from benchmarks.work import Case, verdict_of

pytestmark = pytest.mark.usefixtures("one_thread")
_GENERATING = ("cache off", "twice the tokens", "a host read per token")


@pytest.fixture(scope="module")
def faults() -> dict[str, Case]:
    return {case.name: case for case in work.faults()}


@pytest.fixture(scope="module")
def refactorings() -> dict[str, Case]:
    return {case.name: case for case in work.refactorings()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in _GENERATING else name for name in work.FAULTS]
)
def test_a_fault_is_red_and_its_cause_named(faults: dict[str, Case], name: str) -> None:
    verdict, words = verdict_of(faults[name]), work.FAULTS[name]
    assert verdict.status in ("regression", "changed")
    assert verdict.cause is not None
    assert verdict.reason.startswith(verdict.cause)
    assert all(word in verdict.cause for word in words)
    assert "energy" not in verdict.reason


def test_every_fault_has_its_words(faults: dict[str, Case]) -> None:
    assert list(faults) == list(work.FAULTS)


@pytest.mark.slow
def test_a_refactoring_leaves_the_count_as_it_is(refactorings: dict[str, Case]) -> None:
    reasons = {name: verdict_of(case).reason for name, case in refactorings.items()}
    assert {name: reason for name, reason in reasons.items() if not reason.startswith("as the baseline: ")} == {}
    assert len(reasons) == 10


def test_mistakes_outside_modules_are_named_too() -> None:
    """Functions alone: copies, a wider dtype where no product is, a batch of products taken one by one."""
    torch = pytest.importorskip("torch")
    x, y = torch.ones(64, 8, 8), torch.ones(64, 8, 8)
    wide = x.double()

    def waves(x: Any) -> Any:
        for _ in range(4):
            x = x.sin() + 1
        return x

    cases = {
        "tensors are copied": (lambda: waves(x.mT), lambda: waves(x.mT.contiguous().mT.contiguous().mT.contiguous())),
        "elementwise operators in float64 instead of float32": (lambda: waves(x), lambda: waves(wide)),
        "64 matrix products instead of 1": (
            lambda: x @ y,
            lambda: torch.stack([a @ b for a, b in zip(x, y, strict=True)]),
        ),
    }
    for words, (before, now) in cases.items():
        verdict = verdict_of(Case(words, before, now))
        assert verdict.status == "regression", words
        assert words in verdict.reason
