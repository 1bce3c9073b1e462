"""How well counted work is judged, what it holds, and what it costs; ``--json`` keeps the figures.

Run ``python -m benchmarks.work`` for all, or name some: ``python -m benchmarks.work faults refactorings``. The models
are built from config classes, tiny or without weights; nothing is downloaded, and no GPU is used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import work_checks as checks
from benchmarks.report import made_by, what_made
from benchmarks.work_checks import Figures, judged, work_of
from benchmarks.work_models import Call, classifier, classifying, generating, generator, ids_of, without_gradients
from pytest_carbon.records.work import WorkVerdict


@dataclass(frozen=True, slots=True)
class Case:
    """A change of the code: what runs before, and what runs now."""

    name: str
    before: Call
    now: Call


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
    half = classifying(classifier(dtype=torch.bfloat16))
    sides = {
        "cache off": (generating(gpt), generating(gpt, use_cache=False)),
        "fp32 by mistake": (half, classifying(bert)),
        "twice the tokens": (generating(gpt), generating(gpt, 24)),
        "batching lost": (classifying(bert), _one_by_one(bert)),
        "extra forward": (classifying(bert), _twice(classifying(bert))),
        "eager attention": (classifying(bert), classifying(classifier(attention="eager"))),
        "padded to maximum": (classifying(bert), classifying(bert, length=256)),
        "dropout left on": (classifying(bert), classifying(classifier().train())),
        "autocast casts weights in each call": (half, _autocast(classifying(bert))),
        "a host read per token": (generating(gpt), _reading(gpt)),
        "argsort for argmin": (_nearest("argmin"), _nearest("argsort")),
    }
    return [Case(name, before, now) for name, (before, now) in sides.items()]


def _one_by_one(model: Any) -> Call:
    ids = ids_of(8, 37)

    def call() -> Any:
        import torch

        return torch.cat([model(input_ids=one[None], attention_mask=one.new_ones((1, 37))).logits for one in ids])

    return without_gradients(call)


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

    return generating(model, logits_processor=LogitsProcessorList([Reading()]))


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
    ids = ids_of(8, 37)
    mask, flipped = ids.new_ones(ids.shape), ids.flip(0)
    plain = classifying(bert)

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
        "a wrapper around the model": without_gradients(lambda: wrapped(input_ids=ids, attention_mask=mask).logits),
        "a function of its own": without_gradients(lambda: in_a_function(input_ids=ids, attention_mask=mask)),
        "inference_mode for no_grad": inference,
        "a copy of the weights": classifying(copied),
        "other weights": classifying(_reseeded()),
        "views of the inputs": without_gradients(with_view),
        "context managers": without_gradients(in_a_context),
        "other token ids": without_gradients(lambda: bert(input_ids=flipped, attention_mask=mask).logits),
    }
    cases = [Case(name, plain, now) for name, now in same.items()]
    generates = generating(gpt)
    return [
        *cases,
        Case("one beam, spelled out", generates, generating(generator(), num_beams=1)),
        Case("a GenerationConfig for keywords", generates, _by_config(gpt)),
    ]


def _by_config(model: Any) -> Call:
    from transformers import GenerationConfig

    prompt = ids_of(1, 20)
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


def verdict_of(case: Case) -> WorkVerdict:
    """Judge a change: its first side is the baseline."""
    return judged(work_of(case.before), case.now)


def run_faults() -> Figures:
    """Judge each fault: it must be red, with its cause in the first line."""
    missed, verdicts = 0, {}
    for case in faults():
        verdict = verdict_of(case)
        first = verdict.reason.split(". ")[0]
        named = verdict.failed and all(word in first for word in FAULTS[case.name])
        missed += not named
        verdicts[case.name] = {"status": verdict.status, "first": first, "named": named}
        print(f"{'ok    ' if named else 'MISSED'} {case.name}: {verdict.status}: {verdict.reason}")
    print(f"{len(FAULTS) - missed} of {len(FAULTS)} faults red, with their cause in the first line")
    return {"faults": verdicts, "met": missed == 0}


def run_refactorings(times: int) -> Figures:
    """Judge each refactoring many times: no count may differ."""
    red, cases = 0, refactorings()
    for case in cases:
        before = work_of(case.before)
        verdicts = [judged(before, case.now) for _ in range(times)]
        failed = [verdict for verdict in verdicts if not verdict.reason.startswith("as the baseline")]
        red += len(failed)
        print(f"{'ok ' if not failed else 'RED'} {case.name}: {(failed or verdicts)[0].reason}", flush=True)
    print(f"{red} of {times * len(cases)} runs of refactorings with another count")
    return {"refactorings": len(cases), "runs": times * len(cases), "red": red, "met": red == 0}


COMMANDS: Mapping[str, Callable[[argparse.Namespace], Figures]] = {
    "faults": lambda given: run_faults(),
    "refactorings": lambda given: run_refactorings(given.times),
    "silent": lambda given: checks.silent(),
    "forms": lambda given: checks.forms(),
    "compiled": lambda given: checks.compiled_once(),
    "cache": lambda given: checks.cache(),
    "cost": lambda given: checks.cost(),
    "invariance": lambda given: checks.invariance(given.suite_runs),
    "startup": lambda given: checks.start_up(given.runs, given.before),
    "versions": lambda given: checks.versions(given.older),
}
NEEDS_MORE = {"startup": "before", "versions": "older"}
"""What runs only with an option."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"some of {', '.join(COMMANDS)}; all that need no option by default")
    parser.add_argument("--times", type=int, default=100, help="how often each refactoring is judged")
    parser.add_argument("--suite-runs", type=int, default=9, help="runs of the small suite, each with other settings")
    parser.add_argument("--runs", type=int, default=100, help="starts of pytest on each side")
    parser.add_argument("--before", help="the revision that startup compares with")
    parser.add_argument("--older", type=Path, help="a folder into which pip has put another transformers")
    parser.add_argument("--json", type=Path, help="keep the figures here, beside those of other parts")
    given = parser.parse_args(arguments)
    for name in given.what:
        if name not in COMMANDS:
            parser.error(f"there is no {name!r}; there are {', '.join(COMMANDS)}")
        if name in NEEDS_MORE and getattr(given, NEEDS_MORE[name]) is None:
            parser.error(f"{name} needs --{NEEDS_MORE[name]}")
    import torch

    torch.set_num_threads(1)  # tiny operators: two threads wait for each other
    met = True
    for name in given.what or [name for name in COMMANDS if name not in NEEDS_MORE]:
        print(f"--- {name}", flush=True)
        figures = COMMANDS[name](given)
        met = met and figures["met"]
        if given.json is not None:
            kept = json.loads(given.json.read_text("utf-8")) if given.json.exists() else {}
            kept[name] = {**what_made(made_by("work", arguments)), **figures}
            given.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
