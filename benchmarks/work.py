"""How well counted work is judged: each fault red with its cause named, no refactoring red.

Run ``python -m benchmarks.work faults`` and ``python -m benchmarks.work refactorings``: tiny transformers models, built
from config classes on the CPU; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from pytest_carbon.gate.work import Tolerances, judge
from pytest_carbon.records import Budget
from pytest_carbon.records.work import Work, WorkRecord, WorkVerdict
from pytest_carbon.work.counting import count

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A change of the code: what runs before, and what runs now."""

    name: str
    before: Call
    now: Call


# --- models --------------------------------------------------------------------------------------


def generator(**changes: Any) -> Any:
    """A decoder of two layers that generates text."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_head=4, n_embd=64, vocab_size=500, n_positions=256, bos_token_id=1, eos_token_id=2)
    return _seeded(GPT2LMHeadModel, config, **changes)


def classifier(**changes: Any) -> Any:
    """An encoder of two layers that classifies text."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=500,
        max_position_embeddings=256,
    )
    return _seeded(BertForSequenceClassification, config, **changes)


def _seeded(kind: Any, config: Any, *, attention: str = "sdpa", dtype: Any = None) -> Any:
    import torch

    torch.manual_seed(0)
    config._attn_implementation = attention
    model = kind(config).eval()
    return model if dtype is None else model.to(dtype)


def _ids(items: int, length: int) -> Any:
    import torch

    return torch.randint(3, 500, (items, length), generator=torch.Generator().manual_seed(1))


def _without_gradients(call: Call) -> Call:
    def without() -> Any:
        import torch

        with torch.no_grad():
            return call()

    return without


def _generating(model: Any, tokens: int = 12, **options: Any) -> Call:
    prompt = _ids(1, 20)
    mask = prompt.new_ones(prompt.shape)
    fixed = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    return lambda: model.generate(prompt, attention_mask=mask, **(fixed | options))


def _classifying(model: Any, items: int = 8, length: int = 37) -> Call:
    ids = _ids(items, length)
    mask = ids.new_ones(ids.shape)
    return _without_gradients(lambda: model(input_ids=ids, attention_mask=mask).logits)


# --- faults --------------------------------------------------------------------------------------


FAULTS: Mapping[str, tuple[str, ...]] = {
    "cache off": ("the KV cache is not used",),
    "fp32 by mistake": ("float32 instead of bfloat16",),
    "twice the tokens": ("2.0× the decode steps",),
    "batching lost": ("batching is lost",),
    "extra forward": ("an extra forward",),
    "eager attention": ("attention is not fused", "attention.self"),
    "padded to maximum": ("256 instead of 37", "padded to the maximum"),
    "dropout left on": ("dropout is on",),
    "autocast casts weights in each call": ("cast in each call",),
    "a host read per token": ("host reads instead of", "one a token"),
    "argsort for argmin": ("argsort",),
}
"""The changes that cost more work, each a mistake that people make, and what the first line must say."""


def faults() -> list[Case]:
    """Build both sides of each fault."""
    import torch

    bert, gpt = classifier(), generator()
    half = _classifying(classifier(dtype=torch.bfloat16))
    sides = {
        "cache off": (_generating(gpt), _generating(gpt, use_cache=False)),
        "fp32 by mistake": (half, _classifying(bert)),
        "twice the tokens": (_generating(gpt), _generating(gpt, 24)),
        "batching lost": (_classifying(bert), _one_by_one(bert)),
        "extra forward": (_classifying(bert), _twice(_classifying(bert))),
        "eager attention": (_classifying(bert), _classifying(classifier(attention="eager"))),
        "padded to maximum": (_classifying(bert), _classifying(bert, length=256)),
        "dropout left on": (_classifying(bert), _classifying(classifier().train())),
        "autocast casts weights in each call": (half, _autocast(_classifying(bert))),
        "a host read per token": (_generating(gpt), _reading(gpt)),
        "argsort for argmin": (_nearest("argmin"), _nearest("argsort")),
    }
    return [Case(name, before, now) for name, (before, now) in sides.items()]


def _one_by_one(model: Any) -> Call:
    ids = _ids(8, 37)

    def call() -> Any:
        import torch

        return torch.cat([model(input_ids=one[None], attention_mask=one.new_ones((1, 37))).logits for one in ids])

    return _without_gradients(call)


def _twice(call: Call) -> Call:
    def again() -> Any:
        call()
        return call()

    return again


def _autocast(call: Call) -> Call:
    def cast() -> Any:
        import torch

        with torch.autocast("cpu", torch.bfloat16):
            return call()

    return cast


def _reading(model: Any) -> Call:
    from transformers import LogitsProcessor, LogitsProcessorList

    class Reading(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            self.best = float(scores.max())
            return scores

    return _generating(model, logits_processor=LogitsProcessorList([Reading()]))


def _nearest(method: str) -> Call:
    import torch

    points = torch.rand(2000, 16, generator=torch.Generator().manual_seed(2))
    distances = torch.cdist(points[:64], points)

    def call() -> Any:
        return distances.argmin(1) if method == "argmin" else distances.argsort(1)[:, 0]

    return call


# --- refactorings --------------------------------------------------------------------------------


def refactorings() -> list[Case]:
    """Return changes of the code that leave the work as it is."""
    import torch

    bert, gpt = classifier(), generator()
    ids = _ids(8, 37)
    mask, flipped = ids.new_ones(ids.shape), ids.flip(0)
    plain = _classifying(bert)

    class Wrapper(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, **inputs: Any) -> Any:
            return self.model(**inputs)

    wrapped = Wrapper(bert)

    @contextmanager
    def nothing() -> Any:
        yield

    def in_a_function(**inputs: Any) -> Any:
        outputs = bert(**inputs)
        return outputs.logits

    def inference() -> Any:
        with torch.inference_mode():
            return bert(input_ids=ids, attention_mask=mask).logits

    def with_view() -> Any:
        return bert(input_ids=ids.view(4, 74).view(8, 37), attention_mask=mask).logits

    def in_a_context() -> Any:
        with nothing(), nullcontext():
            return bert(input_ids=ids, attention_mask=mask)[0]

    copied = classifier()
    copied.load_state_dict(bert.state_dict())
    same = {
        "a wrapper around the model": _without_gradients(lambda: wrapped(input_ids=ids, attention_mask=mask).logits),
        "a function of its own": _without_gradients(lambda: in_a_function(input_ids=ids, attention_mask=mask)),
        "inference_mode for no_grad": inference,
        "a copy of the weights": _classifying(copied),
        "other weights": _classifying(_reseeded()),
        "views of the inputs": _without_gradients(with_view),
        "context managers": _without_gradients(in_a_context),
        "other token ids": _without_gradients(lambda: bert(input_ids=flipped, attention_mask=mask).logits),
    }
    cases = [Case(name, plain, now) for name, now in same.items()]
    generates = _generating(gpt)
    return [
        *cases,
        Case("one beam, spelled out", generates, _generating(generator(), num_beams=1)),
        Case("a GenerationConfig for keywords", generates, _by_config(gpt)),
    ]


def _by_config(model: Any) -> Call:
    from transformers import GenerationConfig

    prompt = _ids(1, 20)
    mask = prompt.new_ones(prompt.shape)
    config = GenerationConfig(max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=2)
    return lambda: model.generate(prompt, attention_mask=mask, generation_config=config)


def _reseeded() -> Any:
    import torch

    model = classifier()
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.02)
    return model


# --- running -------------------------------------------------------------------------------------


def counted(call: Call) -> tuple[Work, tuple[Any, ...]]:
    """Count a call; raise where nothing was counted."""
    one = count(call, (), {})
    if one.work is None:
        raise RuntimeError(one.failure)
    return one.work, one.warnings


def verdict_of(case: Case) -> WorkVerdict:
    """Judge a change: its first side is the baseline."""
    return judged(counted(case.before)[0], case.now)


def judged(before: Work, call: Call) -> WorkVerdict:
    """Judge a call by a count from before."""
    now, warnings = counted(call)
    record = WorkRecord("test_work.py::test", "call", "2026-11-01T10:00:00Z", None, "main", {}, before)
    return judge(record.key, now, None, warnings, record, {}, Tolerances(), Budget())


def run_faults() -> int:
    """Print each fault's verdict; return how many are not red or do not name their cause."""
    missed = 0
    for case in faults():
        verdict = verdict_of(case)
        first = verdict.reason.split(". ")[0]
        named = verdict.failed and all(word in first for word in FAULTS[case.name])
        missed += not named
        print(f"{'ok    ' if named else 'MISSED'} {case.name}: {verdict.status}: {verdict.reason}")
    print(f"{len(FAULTS) - missed} of {len(FAULTS)} faults red, with their cause in the first line")
    return missed


def run_refactorings(times: int) -> int:
    """Print each refactoring's verdict; return how many runs are red."""
    red, cases = 0, refactorings()
    for case in cases:
        before, _ = counted(case.before)
        verdicts = [judged(before, case.now) for _ in range(times)]
        failed = [verdict for verdict in verdicts if not verdict.reason.startswith("as the baseline")]
        red += len(failed)
        print(f"{'ok ' if not failed else 'RED'} {case.name}: {(failed or verdicts)[0].reason}", flush=True)
    print(f"{red} of {times * len(cases)} runs of refactorings with another count")
    return red


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "faults": lambda given: run_faults(),
    "refactorings": lambda given: run_refactorings(given.times),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=sorted(COMMANDS))
    parser.add_argument("--times", type=int, default=100, help="how often each refactoring is judged")
    given = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)  # tiny operators: two threads wait for each other
    return min(COMMANDS[given.what](given), 1)


if __name__ == "__main__":
    sys.exit(main())
