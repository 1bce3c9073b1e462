"""Build a task: of a model of the catalogue, or of a user's own model."""

from __future__ import annotations

import copy
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks import catalogue, models
from pytest_carbon.tasks.architectures import architecture
from pytest_carbon.tasks.catalogue import Task, find_dataset, find_model, find_task
from pytest_carbon.tasks.data import DATASETS, Samples
from pytest_carbon.tasks.diffusion import ImageGeneration
from pytest_carbon.tasks.generation import NEW_TOKENS, ImageCaptioning, SpeechRecognition, Writing
from pytest_carbon.tasks.given import brief, given
from pytest_carbon.tasks.hub import cached, from_hub, read_part
from pytest_carbon.tasks.images import ImageClassification, ObjectDetection
from pytest_carbon.tasks.models import Built
from pytest_carbon.tasks.own import Calling, CallingPipeline
from pytest_carbon.tasks.surroundings import device_of_model, usual_defaults
from pytest_carbon.tasks.synthetic import synthetic
from pytest_carbon.tasks.task import CannotRunHere, ModelTask, refuse_too_large
from pytest_carbon.tasks.text import FillMask, QuestionAnswering, SentenceSimilarity, TextClassification
from pytest_carbon.tasks.tokenizers import tokenizer_for
from pytest_carbon.text import did_you_mean

TASK_BUILDERS: Mapping[str, type[ModelTask]] = {
    "text-classification": TextClassification,
    "extractive-question-answering": QuestionAnswering,
    "fill-mask": FillMask,
    "token-classification": TextClassification,
    "image-classification": ImageClassification,
    "object-detection": ObjectDetection,
    "text-generation": Writing,
    "summarization": Writing,
    "image-captioning": ImageCaptioning,
    "image-generation": ImageGeneration,
    "zero-shot-sentiment": Writing,
    "zero-shot-question-answering": Writing,
    "zero-shot-summarization": Writing,
    "sentence-similarity": SentenceSimilarity,
    "speech-recognition": SpeechRecognition,
}


@usual_defaults()
def build_task(
    name: str,
    *,
    model: Any = None,
    dataset: str | None = None,
    weights: str = "auto",
    data: Any = "auto",
    tokenizer: Any = None,
    processor: Any = None,
    dtype: str | None = None,
    device: str = "auto",
    batch_size: int = 1,
    size: str = "study",
    new_tokens: int | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> ModelTask:
    """Build a task that can be called; ``docs/suite.md`` explains the arguments.

    ``model`` is a hub id, a torch module, a pipeline or any callable; None means the small suite's, as for ``dataset``.
    ``new_tokens`` and ``steps`` default to the study's. ``seed`` decides random weights, inputs and noise.
    Raises UsageProblem for an impossible argument or an unreachable hub, and CannotRunHere if a library or memory is
    missing.
    """
    task = find_task(name)
    fixed = {what: count for what, count in (("new_tokens", new_tokens), ("steps", steps)) if count is not None}
    for what, count in {"batch_size": batch_size, "seed": seed, **fixed}.items():
        least = 0 if what == "seed" else 1
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise UsageProblem(f"{what}={count!r} is not possible: write a whole number, {least} or more")
    if tokenizer is not None and not callable(tokenizer):
        raise UsageProblem(
            f"tokenizer={brief(tokenizer)} cannot be called: give the tokenizer that the model was trained with, "
            "as AutoTokenizer.from_pretrained(…) reads it"
        )
    if new_tokens is not None and name not in NEW_TOKENS:
        raise UsageProblem(f"{name} takes no new_tokens=; the tasks that write do: {', '.join(NEW_TOKENS)}")
    if steps is not None and task.kind != "diffuse":
        raise UsageProblem(f"{name} takes no steps=; image-generation does")
    if model is None:
        model = catalogue.SMALL[name][1]
    if isinstance(model, str):
        dtype = dtype or "fp32"
        device = _fitting(task, model, dataset, dtype, device, size, batch_size, weights)
    samples = _samples(task, dataset, data, seed)
    if isinstance(model, str):
        built = models.build(
            model, task=name, weights=weights, size=size, dtype=dtype or "fp32", device=device, seed=seed
        )
        kind, parts = _of_catalogue(task, built, tokenizer, processor)
    else:
        kind, parts = _own(task, model, tokenizer, processor, dtype, device)
    try:
        return kind(
            name=name,
            samples=samples.items,
            dataset=None if samples.source == "given" else samples.name,
            data=samples.source,
            batch_size=batch_size,
            seed=seed,
            **parts | fixed,
        )
    except UsageProblem:
        parts.get("afterwards", lambda: None)()  # put a training model back into training mode
        raise


def arguments_known(arguments: Iterable[str]) -> None:
    """Raise UsageProblem for an argument that :func:`build_task` does not take."""
    known = list(inspect.signature(build_task).parameters)[1:]
    for argument in arguments:
        if argument not in known:
            raise UsageProblem(
                f"a task takes no {argument}=; it takes {', '.join(known)}.{did_you_mean(argument, known)}"
            )


def _fitting(
    task: Task,
    model_id: str,
    dataset: str | None,
    dtype: str,
    device: str,
    size: str,
    batch_size: int,
    weights: str,
) -> str:
    """Check that the model can be built, before anything large; return its device."""
    try:
        find_model(model_id, task.name)
    except UsageProblem as problem:
        stop = "" if str(problem).endswith((".", "?")) else "."
        raise UsageProblem(f"{problem}{stop} A model of your own: give the module itself, or a callable") from None
    if dataset is not None:
        find_dataset(task.name, dataset)
    further = ["diffusers"] * (task.kind == "diffuse") + ["PIL"] * (task.modality in ("image", "multimodal"))
    _refuse_missing(task.name, ["torch", "transformers", *further])
    if weights == "hollow":
        return models.hollow_device(device)
    device = models.device_of(device)
    half = models.memory_bytes(model_id, "fp16", size, batch_size) if dtype == "fp32" else None
    refuse_too_large(model_id, models.memory_bytes(model_id, dtype, size, batch_size), half, device, batch_size)
    return device


def _of_catalogue(task: Task, built: Built, tokenizer: Any, processor: Any) -> tuple[type[ModelTask], dict[str, Any]]:
    """Return the class that calls the model, and its arguments."""
    if task.kind == "diffuse":
        tokenizer = tokenizer or built.model.tokenizer
    elif task.modality != "image" and tokenizer is None:
        tokenizer = tokenizer_for(built.model_id, built.model.config, weights=built.weights, source=built.source)
    if processor is None and task.modality != "text" and task.kind != "diffuse":
        processor = _processor_of(built)
    call = architecture(built.model_id).sized(built.size)[2]
    return TASK_BUILDERS[task.name], {
        **{name: value for name, value in vars(built).items() if name != "source"},
        "tokenizer": tokenizer,
        "processor": processor,
        "new_tokens": call.get("max_new_tokens", NEW_TOKENS.get(task.name)),
        "steps": call.get("num_inference_steps"),
        "width": call.get("width"),
        "height": call.get("height"),
    }


def _processor_of(built: Built) -> Any:
    """Make what turns images or sound into tensors. Raises UsageProblem."""
    _, settings, _ = architecture(built.model_id).sized(built.size)
    kind = models.named(settings.pop("class"))
    if built.weights != "hub":
        return kind(**settings)
    return read_part("processor", built.model_id, built.source, kind.from_pretrained)


def _samples(task: Task, dataset: str | None, data: Any, seed: int) -> Samples:
    data = "auto" if data is None else data
    if not isinstance(data, str):
        if dataset is not None:
            raise UsageProblem(f"dataset={dataset!r} and data= were both given: leave one of them out")
        return given(task.name, data)
    if data == "hub":
        _refuse_missing(task.name, ["datasets"])
    return load(task.name, dataset or catalogue.SMALL[task.name][0], data=data, seed=seed)


def load(task: str, dataset: str, *, data: str = "synthetic", count: int = 1000, seed: int = 0) -> Samples:
    """Make ``count`` inputs of a data set for a task; equal seeds give equal inputs.

    ``hub`` reads the local cache of the ``datasets`` library, else streams; it may have fewer than ``count``. ``auto``
    is the hub's data if cached, else synthetic. Raises UsageProblem.
    """
    row = DATASETS[find_dataset(task, dataset)]
    sources = ("synthetic", "hub", "auto")
    if data not in sources:
        raise UsageProblem(
            f"data={data!r} is not a source of inputs: write one of {', '.join(sources)}, or a list of your own "
            f"inputs.{did_you_mean(str(data), sources)}"
        )
    if count < 1:
        raise UsageProblem(f"count={count}: a task needs at least one input; the study took 1000")
    rows = None if data == "synthetic" else cached(row)
    if data == "hub" or rows is not None:
        return Samples(dataset, "hub", from_hub(task, dataset, count, seed, rows))
    return Samples(dataset, "synthetic", synthetic(task, dataset, count, seed))


def _refuse_missing(task: str, libraries: Iterable[str]) -> None:
    missing = [{"PIL": "pillow"}.get(library, library) for library in libraries if find_spec(library) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise CannotRunHere(
            f"{task} needs {' and '.join(missing)}, which {are} not installed: pip install 'pytest-carbon[tasks]'"
        )


def _refuse_other_work(task: Task, theirs: str) -> None:
    """Refuse a pipeline for another task, except for zero-shot tasks."""
    does = catalogue.ELSEWHERE.get(theirs, theirs)
    writes = {"text-generation", "summarization"} >= {does, task.name}
    if does in TASK_BUILDERS and does != task.name and not writes and not task.name.startswith("zero-shot"):
        raise UsageProblem(
            f"the pipeline given as model= does {theirs}, and this task is {task.name}: measure what it does, with "
            f"carbon_task({does!r}, model=…), or give a pipeline for {task.name}"
        )


def _own(
    task: Task, model: Any, tokenizer: Any, processor: Any, dtype: str | None, device: str
) -> tuple[type[ModelTask], dict[str, Any]]:
    """Return the class that calls a user's model, and its arguments."""
    torch = sys.modules.get("torch")
    if inspect.isclass(model):
        raise UsageProblem(
            f"model={model.__qualname__} is a class: give an instance of it, "
            f"{model.__qualname__}(…), or {model.__qualname__}.from_pretrained(…) where it has that"
        )
    is_module = torch is not None and isinstance(model, torch.nn.Module)
    if not is_module and not callable(model):
        raise UsageProblem(
            f"model={brief(model)} cannot be called: give the hub id of a model of the catalogue, a torch module, a "
            "pipeline, or a callable that takes the next input"
        )
    parts: dict[str, Any] = {"model": model, "model_id": _name_of(model), "new_tokens": NEW_TOKENS.get(task.name)}
    parts |= {"tokenizer": tokenizer, "processor": processor}
    if _is_from("transformers.pipelines", model):
        _refuse_other_work(task, model.task)
        parts["tokenizer"] = tokenizer or model.tokenizer
        parts |= _place(model.model, dtype, device)
        return CallingPipeline, parts | _resting(model.model)
    if task.kind == "diffuse" and _is_from("diffusers", model):
        parts["tokenizer"] = tokenizer or getattr(model, "tokenizer", None)
        return ImageGeneration, parts | _place(model.unet if hasattr(model, "unet") else model, dtype, device)
    if not is_module:
        if dtype is not None or device != "auto":
            raise UsageProblem("leave dtype= and device= out: a callable has its own")
        return Calling, parts | {"new_tokens": None}
    kind = TASK_BUILDERS[task.name]
    of_processor = [getattr(processor, name, None) for name in ("image_processor", "feature_extractor")]
    parts["processor"] = next((part for part in of_processor if part is not None), processor)
    if "tokenizer" in kind.needs:
        parts["tokenizer"] = tokenizer or getattr(processor, "tokenizer", None)
    if parts["processor"] is not None and not callable(parts["processor"]):
        raise UsageProblem(
            f"processor={brief(parts['processor'])} cannot be called: give what the model was trained with, as "
            "AutoProcessor.from_pretrained(…) reads it"
        )
    for need in kind.needs:
        if parts[need] is None:
            raise UsageProblem(
                f"{task.name} with a model of your own ({_name_of(model)}) needs {need}=, which it was trained with; "
                f"or give a callable that takes the next input"
            )
    if kind in (Writing, ImageCaptioning, SpeechRecognition) and not hasattr(model, "generate"):
        raise UsageProblem(
            f"{task.name} calls generate(), which {_name_of(model)} does not have: give a model with a head that "
            "writes (AutoModelForCausalLM, AutoModelForSeq2SeqLM, …), or a callable that takes the next input"
        )
    if parts["tokenizer"] is not None:
        parts["tokenizer"] = _padding(parts["tokenizer"])
    parts |= _place(model, dtype, device)
    return kind, parts | _resting(model)


def _padding(tokenizer: Any) -> Any:
    """Return the tokenizer; without a pad token, a copy that pads with its end token."""
    if getattr(tokenizer, "pad_token", "") is not None:
        return tokenizer
    padding = copy.deepcopy(tokenizer)
    padding.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return padding


def _resting(model: Any) -> dict[str, Callable[[], None]]:
    """Put a model into eval mode; return what restores parts that were training."""
    training = [part for part in getattr(model, "modules", list)() if part.training]
    if not training:
        return {}
    model.eval()

    def back() -> None:
        for part in training:
            part.training = True

    return {"afterwards": back}


def _place(module: Any, dtype: str | None, device: str) -> dict[str, str | None]:
    """Return a model's dtype and device; refuse others, since it is not moved."""
    parameters = list(module.parameters()) if callable(getattr(module, "parameters", None)) else []
    if not parameters:
        return {"dtype": None, "device": None}
    numbers: Counter[str] = Counter()  # some models keep a few parameters in fp32
    for parameter in parameters:
        numbers[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
    name = numbers.most_common(1)[0][0]
    short = {long: short for short, long in models.DTYPES.items()}
    has = {"dtype": short.get(name, name), "device": device_of_model(module).type}
    for what, asked in (("dtype", dtype), ("device", None if device == "auto" else device)):
        if asked is not None and asked != has[what]:
            raise UsageProblem(
                f"{what}={asked!r}, but the model is {'in' if what == 'dtype' else 'on'} {has[what]}: a model of your "
                f"own is not converted; call model.to(…) first, or leave {what}= out"
            )
    return has


def _is_from(package: str, model: Any) -> bool:
    return any(base.__module__.startswith(package) for base in type(model).__mro__)


def _name_of(model: Any) -> str:
    named = model if inspect.isroutine(model) or inspect.isclass(model) else type(model)
    return str(getattr(named, "__qualname__", named))
