"""Tasks with hollow weights: the work of a model at any size, without its weights."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_carbon.records import UsageProblem
from pytest_carbon.records.work import Work
from pytest_carbon.tasks.building import build_task
from pytest_carbon.tasks.catalogue import SMALL
from pytest_carbon.tasks.task import typical
from pytest_carbon.work.counting import Counting, count

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ("text-classification", "image-classification", "text-generation", "summarization")
COUNTS = ("flops", "bytes", "kernels", "host_reads", "steps", "tokens_in", "tokens_out", "by_class")


def small(name: str, weights: str, **more: Any) -> Any:
    dataset, model = SMALL[name]
    return build_task(name, model=model, dataset=dataset, weights=weights, data="synthetic", size="small", **more)


def work_of(task: Any) -> Work:
    counting = Counting()
    counting.begin()
    task.typical()
    work = counting.end().work
    assert work is not None
    return work


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SMALL]
)
def test_hollow_weights_ask_what_real_ones_do(name: str, dtype: str) -> None:
    """To the byte in fp32, but for the safety checker's blank picture; in bf16 but for the statistics of norms."""
    real, hollow = (work_of(small(name, weights, dtype=dtype)) for weights in ("random", "hollow"))
    assert (real.engine, hollow.engine) == ("cpu", "hollow")
    exact = dtype == "fp32" and name != "image-generation"
    fields = [field for field in COUNTS if exact or field not in ("bytes", "by_class")]
    assert {field: getattr(hollow, field) for field in fields} == {field: getattr(real, field) for field in fields}
    assert hollow.bytes == pytest.approx(real.bytes, rel=0.002)


def test_a_model_that_no_memory_would_hold_is_counted() -> None:
    """6.7 billion weights, in each dtype that they would have."""
    for dtype, width in (("fp32", 4), ("fp16", 2)):
        task = build_task("text-generation", model="facebook/opt-6.7b", weights="hollow", dtype=dtype, new_tokens=2)
        work = work_of(task)
        assert work.engine == "hollow"
        assert work.flops > 2 * 6.6e9 * 2
        assert 2 * 6.6e9 * width < work.bytes < 4 * 6.6e9 * width
        assert {part.operators for part in work.by_class if part.flops} <= {
            f"{kind} {'float32' if dtype == 'fp32' else 'float16'}" for kind in ("gemm", "attention")
        }
        info = task.info()
        assert (info.weights, info.dtype, info.device, info.tokens_out) == ("hollow", dtype, "cpu", 2)
        task.free()


def test_hollow_weights_have_no_other_device() -> None:
    with pytest.raises(UsageProblem, match="no device computes with them") as refused:
        small("text-classification", "hollow", device="cuda")
    assert 'device="cpu"' in str(refused.value)


def test_shared_weights_stay_shared() -> None:
    model = small("text-generation", "hollow").model
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("weights", ["random", "hollow"])
def test_the_work_of_a_typical_call_repeats(weights: str) -> None:
    """Texts differ in length, so that one call after another would be other work each time."""
    task = small("text-classification", weights)
    assert count(task.typical).warnings == ()
    assert "not-repeatable" in {warning.code for warning in count(task).warnings}


def test_typical_inputs_are_those_of_the_mean_length() -> None:
    samples = [{"text": "word " * length} for length in (1, 2, 9, 5, 3, 4)]  # 4 in the mean
    assert [sample["text"].count("word") for sample in typical(samples, 3)] == [4, 5, 3]
    assert len(typical(samples[:2], 3)) == 3
    pairs = [
        {"question": "a b", "context": "c"},
        {"sentences": ("a", "b c d e f")},
        {"question": "a", "context": "b c"},
    ]
    assert typical(pairs, 1) == [pairs[0]]
    assert typical([{"image": None}, {"image": 1}], 1) == [{"image": None}]
