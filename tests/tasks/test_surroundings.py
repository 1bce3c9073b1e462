"""Models that are not plain, and suites that change torch's defaults: inputs go where the model runs."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from extras import library

from pytest_carbon.tasks import build_task
from pytest_carbon.tasks.surroundings import device_of_model
from pytest_carbon.tasks.tokenizers import DEFAULTS, random_tokenizer
from tasks.test_task import bert, gpt2, small

torch = library("torch")
accelerate = library("accelerate")
transformers = library("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["the war was long and the night was cold", "she had a book"]


def offloaded(model: Any) -> Any:
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def offloaded_to_disk(model: Any) -> Any:
    return accelerate.disk_offload(model, "offloaded", execution_device=torch.device("cpu"))


def dispatched(model: Any) -> Any:
    return accelerate.dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)


@pytest.mark.parametrize("place", [offloaded, offloaded_to_disk, dispatched])
@pytest.mark.parametrize("task", ["text-classification", "text-generation"])
def test_a_model_that_accelerate_places(
    task: str, place: Callable[[Any], Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are on meta until a layer is called; the results are those of the plain model."""
    monkeypatch.chdir(tmp_path)
    tokenizer = random_tokenizer(2000, DEFAULTS["wordpiece" if task == "text-classification" else "bpe"])
    config = {"vocab_size": len(tokenizer)}

    def results(model: Any) -> tuple[list[Any], Any]:
        more = {"new_tokens": 3} if task == "text-generation" else {}
        made = build_task(task, model=model, tokenizer=tokenizer, data=TEXTS, **more)
        return [list(made()), list(made())], made.info()

    torch.manual_seed(0)
    plain = bert(**config) if task == "text-classification" else gpt2(**config)
    plain.eval()
    expected, _ = results(plain)
    found, info = results(place(plain))
    assert found == expected
    assert (info.device, info.dtype) == ("cpu", "fp32")


class Hook:
    """As accelerate's, for a device that is not here."""

    def __init__(self, execution_device: Any = None, hooks: Any = None) -> None:
        self.execution_device = execution_device
        if hooks is not None:
            self.hooks = hooks


def test_the_device_on_which_a_model_runs() -> None:
    """From accelerate's hooks, else from transformers' map, else from the parameters."""
    plain = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert device_of_model(plain) == torch.device("cpu")
    plain.hf_device_map = {"a": "disk", "b": "cpu", "c": "cuda:1"}
    assert device_of_model(plain) == torch.device("cuda", 1)
    plain[0]._hf_hook = Hook(hooks=[Hook(), Hook(execution_device="cuda:0")])
    assert device_of_model(plain) == torch.device("cuda", 0)
    meta = torch.nn.Linear(2, 2, device="meta")
    meta._hf_hook = Hook(execution_device="cpu")
    assert device_of_model(meta) == torch.device("cpu")
    assert device_of_model(print) is None
    assert device_of_model(torch.nn.ReLU()) is None


def test_a_pipeline_that_offloads_draws_its_noise_elsewhere() -> None:
    """diffusers' sequential offload leaves its modules on meta."""
    task = small("image-generation")
    pipeline = task.model
    first = next(iter(task()))
    accelerate.cpu_offload(pipeline.unet, execution_device=torch.device("cpu"))
    made = build_task("image-generation", model=pipeline, data=["a cat"], steps=task.steps)
    assert first.size
    assert next(iter(made())).mode == "RGB"


# --- what a test suite has set ---------------------------------------------------------------------


@contextlib.contextmanager
def default_dtype(dtype: Any) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype  # a task has not set it back
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
        assert torch.get_default_device() == torch.device(device)
    finally:
        torch.set_default_device(None)


CHANGED: dict[str, Callable[[], Any]] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "within a block": lambda: torch.device("meta"),
    "no gradients": lambda: torch.no_grad(),
    "gradients": lambda: torch.enable_grad(),
}


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize("name", ["text-classification", "image-classification", "text-generation", "image-generation"])
def test_changed_defaults_are_not_inherited(name: str, changed: str) -> None:
    """A task of the study is the same model, with the same results, whatever the suite's defaults are."""
    plain = small(name)
    expected, weights = list(plain()), first_weights(plain)
    with CHANGED[changed]():
        task = small(name)
        found = list(task())
    assert torch.equal(first_weights(task), weights)
    assert np.asarray(found[0]).tolist() == np.asarray(expected[0]).tolist()


def first_weights(task: Any) -> Any:
    model = getattr(task.model, "unet", task.model)
    return next(iter(model.parameters()))


@pytest.mark.parametrize("changed", ["meta", "within a block"])
def test_an_own_model_gets_its_inputs_where_it_is(changed: str) -> None:
    """The tokens are made on no other device."""
    tokenizer = random_tokenizer(2000, DEFAULTS["wordpiece"])
    model = bert(vocab_size=len(tokenizer))
    with CHANGED[changed]():
        inputs = build_task("text-classification", model=model, tokenizer=tokenizer, data=TEXTS)
        seen: list[Any] = []
        model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
        with contextlib.suppress(Exception):  # what the model itself makes is its own affair
            inputs()
    assert [str(ids.device) for ids in seen] == ["cpu"]


def state() -> dict[str, Any]:
    """What a task may change."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "precision": torch.get_float32_matmul_precision(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
        "verbosity": transformers.logging.get_verbosity(),
    }


@pytest.mark.parametrize("name", ["text-classification", "summarization", "image-classification", "image-generation"])
def test_a_task_leaves_nothing_behind(name: str) -> None:
    """Built, called, and freed; also where a call raises."""
    before = state()
    task = small(name)
    list(task())
    task.run = lambda inputs: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        task()
    task.free()
    assert state() == before
