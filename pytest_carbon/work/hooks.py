"""What a counted call passes through beside operators: modules, optimizers, host reads, generate(), compiled code."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from pytest_carbon.host.stdlib import threading
from pytest_carbon.work import hollow
from pytest_carbon.work.ledger import Ledger
from pytest_carbon.work.mode import CountingMode
from pytest_carbon.work.replacing import replaced, replaced_within

__tracebackhide__ = True  # an error of a counted call is shown without the frames of this module

_READING = {"tolist": "tolist", "numpy": "numpy", "cpu": "cpu"}
"""Methods that hand values to the host without an operator where the tensor is on the CPU."""


@contextmanager
def modules(ledger: Ledger, elsewhere: Callable[[str], None]) -> Iterator[None]:
    """Note which module is called; and that a module was called in another thread."""
    thread = threading.get_ident()

    def make(original: Any) -> Any:
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                elsewhere(threading.current_thread().name)
                return original(module, *args, **kwargs)
            ledger.enter(module, args, kwargs)
            try:
                return original(module, *args, **kwargs)
            finally:
                ledger.leave()

        return call

    with replaced(torch.nn.Module, "__call__", make):
        yield


@contextmanager
def optimizers(ledger: Ledger) -> Iterator[None]:
    """Note the steps of optimizers."""
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    thread = threading.get_ident()

    def turn(begins: bool) -> Callable[..., None]:
        def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
            if threading.get_ident() == thread:
                ledger.step(begins)

        return hook

    handles = [register_optimizer_step_pre_hook(turn(True)), register_optimizer_step_post_hook(turn(False))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def reads(mode: CountingMode) -> Iterator[None]:
    """Note the host reads that are no operators on the CPU."""

    def noting(kind: str) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def method(tensor: Any, *args: Any, **kwargs: Any) -> Any:
                if threading.get_ident() == mode.thread:
                    mode.read(kind)
                return original(tensor, *args, **kwargs)

            return method

        return make

    with ExitStack() as stack:
        for name, kind in _READING.items():
            stack.enter_context(replaced(torch.Tensor, name, noting(kind)))
        yield


_OUT = ("numpy", "tolist", "data_ptr", "__dlpack__")
"""Methods that pass a tensor's values to code that is not counted; ``__array__`` calls ``numpy``."""
_IN = ("from_numpy", "from_dlpack", "frombuffer")
"""Functions that make tensors of such code's values. ``torch.tensor`` stays: scripts are compiled by its identity."""


@contextmanager
def passed(names: Counter[str]) -> Iterator[None]:
    """Note what passes values between torch and NumPy, or other code whose work is not seen."""
    thread = threading.get_ident()

    def noting(name: str) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                if threading.get_ident() == thread:
                    names[name] += 1
                return original(*args, **kwargs)

            return call

        return make

    with ExitStack() as stack:
        for owner, name in (*((torch.Tensor, name) for name in _OUT), *((torch, name) for name in _IN)):
            stack.enter_context(replaced(owner, name, noting(name)))
        yield


class Generated:
    """What ``generate()`` did: decode steps, tokens in and out."""

    def __init__(self) -> None:
        self.steps = self.tokens_in = self.tokens_out = 0
        self.happened = False


@contextmanager
def generation(ledger: Ledger, generated: Generated) -> Iterator[None]:
    """Count the decode steps and tokens of transformers' ``generate()``, where transformers is loaded."""
    utils = sys.modules.get("transformers.generation.utils")
    mixin = getattr(utils, "GenerationMixin", None)
    if mixin is None:
        yield
        return
    thread = threading.get_ident()
    busy = False

    def make(original: Any) -> Any:
        def generate(model: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal busy
            if busy or threading.get_ident() != thread:
                return original(model, *args, **kwargs)
            busy = True
            hollow.avoid(_ending(model, kwargs))
            page = ledger.pages.get(id(model))
            before = page.calls if page is not None else 0
            try:
                result = original(model, *args, **kwargs)
            finally:
                busy = False
            page = ledger.pages.get(id(model))
            _note(generated, (page.calls if page is not None else 0) - before, model, args, kwargs, result)
            return result

        return generate

    with replaced_within(mixin, "generate", make):
        yield


def _ending(model: Any, kwargs: Any) -> list[int]:
    """Return the tokens that end or pad a text."""
    found: list[int] = []
    for config in (
        getattr(model, "generation_config", None),
        getattr(model, "config", None),
        kwargs.get("generation_config"),
    ):
        for name in ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id"):
            value = kwargs.get(name, getattr(config, name, None))
            found += value if isinstance(value, list) else [value] if isinstance(value, int) else []
    return found


def _note(generated: Generated, steps: int, model: Any, args: Any, kwargs: Any, result: Any) -> None:
    generated.happened = True
    generated.steps += steps
    prompt = next(
        (
            value
            for value in (
                *args[:1],
                *(kwargs.get(n) for n in ("inputs", "input_ids", "inputs_embeds", "input_features")),
            )
            if isinstance(value, torch.Tensor)
        ),
        None,
    )
    sequences = result if isinstance(result, torch.Tensor) else getattr(result, "sequences", None)
    ids = prompt is not None and not hollow.is_hollow(prompt.dtype)
    if prompt is not None:
        embedded = prompt is kwargs.get("inputs_embeds")
        generated.tokens_in += prompt.numel() if ids else prompt.shape[0] * prompt.shape[1] if embedded else 0
    if isinstance(sequences, torch.Tensor) and sequences.dim() == 2:
        start = 0
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            given = kwargs.get("decoder_input_ids")
            start = given.shape[1] if isinstance(given, torch.Tensor) else 1
        elif ids and prompt is not None and prompt.dim() == 2:
            start = prompt.shape[1]
        generated.tokens_out += sequences.shape[0] * max(sequences.shape[1] - start, 0)


@contextmanager
def uncompiled(noted: Callable[[], None]) -> Iterator[None]:
    """Run compiled functions as they were written, and note that there was one."""
    with ExitStack() as stack:
        entered = False

        def enter() -> None:
            nonlocal entered
            eval_frame = sys.modules.get("torch._dynamo.eval_frame")
            if entered or eval_frame is None:
                return
            entered = True

            def make(original: Any) -> Any:
                def callback(given: Any) -> Any:
                    if given is not None and given is not False:
                        noted()
                    return original(given)

                return callback

            if hasattr(eval_frame, "_callback_from_stance"):
                stack.enter_context(replaced(eval_frame, "_callback_from_stance", make))
            if hasattr(torch.compiler, "set_stance"):  # torch 2.6 and newer
                stack.enter_context(torch.compiler.set_stance("force_eager"))

        def make_compile(original: Any) -> Any:
            def compile(*args: Any, **kwargs: Any) -> Any:
                made = original(*args, **kwargs)
                enter()  # the compiler is loaded now
                return made

            return compile

        enter()
        stack.enter_context(replaced(torch, "compile", make_compile))
        yield
