"""A model task: its calls on the inputs of a data set, and what they count."""

from __future__ import annotations

import math
import re
import sys
from collections import UserList
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from pytest_carbon.host.machine import free_memory
from pytest_carbon.host.stdlib import time
from pytest_carbon.records import CarbonError, TaskInfo
from pytest_carbon.tasks.data import Sample
from pytest_carbon.tasks.models import DTYPES
from pytest_carbon.tasks.surroundings import device_of_model, usual_defaults


class CannotRunHere(CarbonError):
    """A library or memory is missing on this machine; the test is skipped."""


@dataclass(slots=True)
class Inputs:
    """What one call gives to the model."""

    tensors: Any
    tokens: int = 0
    """That went in, padding not counted."""
    seconds: float = 0.0
    """Of audio."""
    more: Any = None
    """What the result is read with."""


class Result(UserList[Any]):
    """The result of a call, one item for each input, read at first use."""

    def __init__(self, read: Callable[[], list[Any]]) -> None:
        self._read: Callable[[], list[Any]] | None = read

    @cached_property
    def data(self) -> list[Any]:  # type: ignore[override]
        assert self._read is not None
        read, self._read = self._read, None  # it holds the tensors
        return read()

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]


@dataclass(eq=False, kw_only=True, repr=False)
class ModelTask:
    """A task of a model on a data set: each call takes the next input, in a cycle.

    A subclass defines one call: :meth:`prepare`, :meth:`run` and :meth:`finish`. None waits for an accelerator.
    """

    name: str
    model: Any
    model_id: str
    """Its hub id; of a user's own model, its class."""
    samples: Sequence[Sample]
    dataset: str | None = None
    weights: Literal["hub", "random", "hollow", "own"] = "own"
    data: Literal["hub", "synthetic", "given"] = "given"
    dtype: str | None = None
    device: str | None = None
    batch_size: int = 1
    size: Literal["study", "small"] | None = None
    tokenizer: Any = None
    processor: Any = None
    new_tokens: int | None = None
    """For each input of a call that generates, exactly."""
    steps: int | None = None
    """Of a diffusion; None: the model's default."""
    width: int | None = None
    """Of a generated image, in pixels, as :attr:`height`; None: the model's default."""
    height: int | None = None
    seed: int = 0
    afterwards: Callable[[], Any] | None = None
    """Called when the task is freed; restores a user's own model."""

    needs: ClassVar[tuple[str, ...]] = ()
    """What a user's own model must come with: ``tokenizer``, ``processor``."""
    images = 0
    """In or out, for each input."""
    prepares: ClassVar[bool] = True
    """Whether :meth:`prepare` prepares the inputs; else the model does it itself."""

    def __post_init__(self) -> None:
        self.reset()
        self._typical: Sequence[Sample] | None = None
        self._place: Any = device_of_model(self.model) or "cpu"
        """Where tensors go: the exact device, as there may be several of a kind."""

    @property
    def _float(self) -> Any:
        """torch's dtype for the inputs; None if the model has none."""
        import torch

        return None if self.dtype is None else getattr(torch, DTYPES.get(self.dtype, self.dtype))

    def reset(self) -> None:
        """Start again with the first input, and count from 0."""
        self._next: int = 0
        self.count_anew()

    def count_anew(self) -> None:
        """Count from this moment on, for :meth:`info`."""
        self._begin = self._next
        self.calls: int = 0
        self._tokens_in: float = 0
        self._tokens_out: float = 0
        self._seconds_audio: float = 0
        self._preparation_s: float = 0

    def __call__(self) -> Any:
        """Call the model on the next ``batch_size`` inputs; return a result for each."""
        samples, begin, count = self.samples, self._next, len(self.samples)
        if not samples:
            raise RuntimeError(f"{self.name}: this task was freed when the test that made it ended; make a new one")
        self._next = (begin + self.batch_size) % count
        return self.call([samples[(begin + i) % count] for i in range(self.batch_size)])

    def typical(self) -> Any:
        """Call the model on the same inputs each time: those whose texts are nearest to the mean length.

        A measurement takes the mean over many inputs; a count takes one call, and must find the same work again.
        """
        if self._typical is None:
            self._typical = typical(self.samples, self.batch_size)
        return self.call(self._typical)

    def call(self, samples: Sequence[Sample]) -> Any:
        """Call the model on these inputs, and count what went in and came out."""
        start_s = time.perf_counter()
        with usual_defaults():
            inputs = self.prepare(samples)
        self._preparation_s += time.perf_counter() - start_s
        # A model of the user's own may need the defaults that it was made with.
        with nullcontext() if self.weights == "own" else usual_defaults():
            result = self.finish(inputs, self.run(inputs))
        self.calls += 1
        self._tokens_in += inputs.tokens
        self._seconds_audio += inputs.seconds
        return result

    def info(self) -> TaskInfo:
        """Describe the task, with means per call since counting began."""
        calls = self.calls

        def per_call(total: float) -> float | None:
            return total / calls if calls and 0 < total < math.inf else None

        same = {name: value for name, value in vars(self).items() if name in TaskInfo.__dataclass_fields__}
        means: dict[str, Any] = {
            "model": self.model_id,
            "tokens_in": per_call(self._tokens_in) or self._tokens_of_texts(),
            "tokens_out": per_call(self._tokens_out),
            "images": float(self.images * self.batch_size) if calls and self.images else None,
            "seconds_audio": per_call(self._seconds_audio),
            "preparation_s": per_call(self._preparation_s) if self.prepares else None,
        }
        return TaskInfo(**same | means)

    def free(self) -> None:
        """Release the model and its memory. Results of calls stay readable."""
        if self.afterwards is not None:
            self.afterwards()
        self.model = self.tokenizer = self.processor = self.afterwards = None
        self.samples, self._typical = (), None
        if self.weights != "own":
            free_memory()

    def prepare(self, samples: Sequence[Sample]) -> Inputs:
        """Tokenise or resize the inputs, and move them to the device."""
        raise NotImplementedError

    def run(self, inputs: Inputs) -> Any:
        """Run the model, and nothing else."""
        import torch

        with torch.inference_mode():
            return self.model(**inputs.tensors)

    def finish(self, inputs: Inputs, outputs: Any) -> Any:
        """Make the result of the call."""
        raise NotImplementedError

    def _tokens_of_texts(self) -> float | None:
        """Return the mean tokens of a call if the model itself tokenises."""
        if self.prepares or self.tokenizer is None or not self.calls:
            return None
        count = min(len(self.samples), self.calls * self.batch_size)
        taken = [self.samples[(self._begin + i) % len(self.samples)] for i in range(count)]
        values = [value if isinstance(value, tuple) else (value,) for sample in taken for value in sample.values()]
        texts = [text for value in values for text in value if isinstance(text, str)]
        if not texts:
            return None
        return sum(map(len, self.tokenizer(texts, truncation=True)["input_ids"])) / count * self.batch_size


LOOKED_AT = 1000
"""How many inputs at most are searched for those of the mean length."""


def typical(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return the samples whose texts are nearest to the mean length, in words; without texts, the first ones."""
    words = [_words(samples[place]) for place in range(min(len(samples), LOOKED_AT))]
    mean = sum(words) / len(words) if words else 0.0
    nearest = sorted(range(len(words)), key=lambda place: (abs(words[place] - mean), place))
    return [samples[nearest[i % len(nearest)]] for i in range(count)]


def _words(sample: Sample) -> int:
    parts = [part for value in sample.values() for part in (value if isinstance(value, tuple) else (value,))]
    return sum(len(part.split()) for part in parts if isinstance(part, str))


_CUDA_ASKED = re.compile(r"Tried to allocate ([\d.]+ \w+)")
_CUDA_FREE = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")
_SMALLER = "a smaller batch_size=, dtype='fp16' or 'bf16', a smaller model, or a device with more memory"


def out_of_memory(error: BaseException, when: str = "in the middle of a call") -> str | None:
    """Say what a device ran out of, with the remedy; None for any other error."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    text = str(error)
    on_mps = isinstance(error, RuntimeError) and text.startswith("MPS backend out of memory")
    if not on_mps and not isinstance(error, getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)):
        return None
    asked, free = _CUDA_ASKED.search(text), _CUDA_FREE.search(text)
    if asked and free:
        what = f"{asked[1]} more were asked for, and {free[2]} of {free[1]} were free"
    else:
        what = text.strip().partition("\n")[0].rstrip(".") or "the device has none left"
    return f"out of memory {when}: {what}. What helps: {_SMALLER}"


def refuse_too_large(
    model_id: str, needed_bytes: int, at_half_bytes: int | None, device: str, batch_size: int = 1
) -> None:
    """Raise CannotRunHere if memory is short; suggest fp16 if that would fit."""
    free_bytes = _free_bytes(device)
    if needed_bytes <= free_bytes:
        return
    half = f"; in fp16 or bf16 it needs {_gb(at_half_bytes)}" if at_half_bytes and at_half_bytes <= free_bytes else ""
    what = "of memory" if batch_size == 1 else f"of memory for {batch_size} inputs a call"
    batch, dtype, *others = _SMALLER.split(", ")
    remedies = [batch] * (batch_size > 1) + [dtype] * (at_half_bytes is not None) + others
    raise CannotRunHere(
        f"{model_id} needs about {_gb(needed_bytes)} {what}, and {device} has {_gb(free_bytes)} free{half}. "
        f"What helps: {', '.join(remedies)}"
    )


def _free_bytes(device: str) -> int:
    """Return the bytes that may still be taken, with torch's cache."""
    import torch

    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    if device == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    import psutil

    return int(psutil.virtual_memory().available)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
