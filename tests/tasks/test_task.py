"""What one call of each task is: on tiny variants of the study's models, and on a user's own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from extras import library

from pytest_carbon.records import MeasurementError, TaskInfo, UsageProblem
from pytest_carbon.tasks import CannotRunHere, ModelTask, Result, build_task, building, generation, models
from pytest_carbon.tasks import task as task_module
from pytest_carbon.tasks.catalogue import SMALL, TASKS
from pytest_carbon.tasks.generation import prompted
from pytest_carbon.tasks.task import out_of_memory
from pytest_carbon.tasks.text import masked
from pytest_carbon.tasks.tokenizers import DEFAULTS, Kind, random_tokenizer
from tasks.test_models import in_cache

torch = library("torch")
transformers = library("transformers")
diffusers = library("diffusers")
pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["the war was long and the night was cold", "she had a book"]


def small(name: str, **more: Any) -> ModelTask:
    """A tiny variant, without network."""
    more.setdefault("device", "cpu")
    return build_task(name, **{"weights": "random", "data": "synthetic", "size": "small", **more})


def gpt2(**config: Any) -> Any:
    """A user's own model that writes, in training mode, as it comes of its config."""
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 2000, "bos_token_id": 1999, "eos_token_id": 1999}
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**(sizes | config)))


def bert(**config: Any) -> Any:
    """A user's own classifier."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**(sizes | config))).eval()


# --- the study's tasks -----------------------------------------------------------------------------

COUNTED = {
    "text-classification": {"tokens_in"},
    "extractive-question-answering": {"tokens_in"},
    "fill-mask": {"tokens_in"},
    "token-classification": {"tokens_in"},
    "image-classification": {"images"},
    "object-detection": {"images"},
    "text-generation": {"tokens_in", "tokens_out"},
    "summarization": {"tokens_in", "tokens_out"},
    "image-captioning": {"images", "tokens_out"},
    "image-generation": {"tokens_in", "images"},
    "zero-shot-sentiment": {"tokens_in", "tokens_out"},
    "zero-shot-question-answering": {"tokens_in", "tokens_out"},
    "zero-shot-summarization": {"tokens_in", "tokens_out"},
    "sentence-similarity": {"tokens_in"},
    "speech-recognition": {"tokens_out", "seconds_audio"},
}


def test_every_task_is_there() -> None:
    """The study's 13, and AI Energy Score's two."""
    assert list(building.TASK_BUILDERS) == list(TASKS)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("name", TASKS)
def test_a_call_gives_one_result_for_each_input(name: str, batch_size: int) -> None:
    """And the task knows what it is, what went in and what came out, per call."""
    task = small(name, batch_size=batch_size)
    found = [list(task()), list(task())]
    assert [len(results) for results in found] == [batch_size, batch_size]
    info = task.info()
    dataset, model = SMALL[name]
    assert (info.name, info.model, info.dataset, info.batch_size) == (name, model, dataset, batch_size)
    assert (info.weights, info.data, info.dtype, info.device, info.size) == (
        *("random", "synthetic", "fp32", "cpu"),
        "small",
    )
    counts = {"tokens_in", "tokens_out", "images", "seconds_audio"}
    assert {count for count in counts if getattr(info, count) is not None} == COUNTED[name]
    if task.new_tokens is not None:
        assert info.tokens_out == task.new_tokens * batch_size
    if "images" in COUNTED[name]:
        assert info.images == batch_size
    assert (info.preparation_s is None) == (name == "image-generation")
    task.free()


RESULTS: dict[str, Callable[[Any], bool]] = {
    "text-classification": lambda found: found in ("LABEL_0", "LABEL_1"),
    "extractive-question-answering": lambda found: isinstance(found, str),
    "fill-mask": lambda found: isinstance(found, str) and len(found) > 0,
    "token-classification": lambda found: set(found) <= {f"LABEL_{i}" for i in range(9)},
    "image-classification": lambda found: found.startswith("LABEL_"),
    "object-detection": lambda found: set(found) == {"scores", "labels", "boxes"},
    "text-generation": lambda found: isinstance(found, str),
    "image-generation": lambda found: found.size == (16, 16) and found.mode == "RGB",
    "sentence-similarity": lambda found: -1.001 <= found <= 1.001,
    "speech-recognition": lambda found: isinstance(found, str),
}


@pytest.mark.parametrize("name", RESULTS)
def test_what_a_call_comes_to(name: str) -> None:
    """A label, words, boxes, a picture, a cosine; the same for the same seed."""
    first, again = small(name, seed=3), small(name, seed=3)
    (one,), (other,) = first(), again()
    assert RESULTS[name](one)
    if name == "image-generation":
        assert one.tobytes() == other.tobytes()
    elif name == "object-detection":
        assert torch.equal(one["boxes"], other["boxes"])
    else:
        assert one == other


CAPTIONERS = [
    "Salesforce/blip-image-captioning-base",
    "Salesforce/blip2-flan-t5-xl",
    "Salesforce/blip2-opt-2.7b",
    "microsoft/git-base",
    "nlpconnect/vit-gpt2-image-captioning",
]


@pytest.mark.parametrize("model", CAPTIONERS)
def test_a_caption_has_so_many_tokens_whatever_the_model(model: str) -> None:
    """What they give back beside the new tokens (a start, 32 image tokens) is not counted as new."""
    task = small("image-captioning", model=model, new_tokens=5)
    task()
    assert task.info().tokens_out == 5


def test_a_decoder_alone_does_not_count_its_prompt() -> None:
    """BLOOMz gives the prompt back before the answer; Flan-T5 does not."""
    for model in ("bigscience/bloomz-560m", "google/flan-t5-base"):
        task = small("zero-shot-question-answering", model=model)
        task()
        info = task.info()
        assert info.tokens_out == 3
        assert info.tokens_in is not None
        assert info.tokens_in > 50


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_the_dtype_is_the_models(dtype: str) -> None:
    """What goes in as numbers is of the same."""
    for name in ("image-classification", "speech-recognition", "sentence-similarity", "image-generation"):
        task = small(name, dtype=dtype)
        assert len(task()) == 1
        assert task.info().dtype == dtype
    for model in CAPTIONERS:
        assert len(small("image-captioning", model=model, dtype=dtype)()) == 1


def test_what_a_call_is_can_be_changed() -> None:
    """The tokens that it writes, the steps of a diffusion, the data set."""
    writing = small("text-generation", new_tokens=3, dataset="oscar")
    writing()
    assert (writing.info().tokens_out, writing.info().dataset) == (3, "oscar")
    drawing = small("image-generation", steps=2)
    drawing()
    assert drawing.model.num_timesteps == 3  # this scheduler takes one more than asked for


def test_a_checkpoints_own_way_to_generate_does_not_change_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beams, lengths, penalties and forced ends of a published generation config are left out."""
    build = models.build

    def as_published(*args: Any, **more: Any) -> models.Built:
        built = build(*args, **more)
        built.model.generation_config.update(
            num_beams=4,
            min_length=56,
            max_length=142,
            no_repeat_ngram_size=3,
            length_penalty=2.0,
            forced_eos_token_id=2,
            early_stopping=True,
        )
        return built

    plain = small("summarization", new_tokens=4)
    monkeypatch.setattr(models, "build", as_published)
    task = small("summarization", new_tokens=4)
    assert task() == plain()
    assert task.info().tokens_out == 4
    assert task.model.generation_config.num_beams in (None, 1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which cannot be asked."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_checkpoint_brings_its_processor(cache: Path) -> None:
    """Where the model is out of the hub's cache, so is what makes tensors of its images."""
    id = "google/vit-base-patch16-224"
    made = small("image-classification", model=id)
    snapshot = in_cache(cache, id, made.model)
    with pytest.raises(UsageProblem, match=f"the processor of {id} could not be read from the hub: HF_HUB_OFFLINE"):
        build_task("image-classification", model=id, device="cpu", data=[picture()])
    made.processor.image_mean = [0.1, 0.2, 0.3]
    made.processor.save_pretrained(snapshot)
    task = build_task("image-classification", model=id, device="cpu", data=[picture()])
    assert task()[0].startswith("LABEL_")
    assert (task.info().weights, list(task.processor.image_mean)) == ("hub", [0.1, 0.2, 0.3])


def test_a_hub_that_cannot_be_asked_is_said(cache: Path) -> None:
    """With what needs none."""
    with pytest.raises(UsageProblem) as error:
        build_task("text-classification", weights="hub", data=TEXTS, device="cpu")
    assert str(error.value).endswith('weights="random" needs no checkpoint: the same architecture, the same work')


# --- one call after the other ----------------------------------------------------------------------


def recorder(name: str, data: list[Any], **more: Any) -> tuple[ModelTask, list[Any]]:
    """A task of a callable that notes what it is given."""
    seen: list[Any] = []
    return build_task(name, model=seen.append, data=data, **more), seen


def test_each_call_is_on_the_next_input() -> None:
    """They are gone round; a reset begins with the first."""
    task, seen = recorder("summarization", ["a", "b", "c"])
    for _ in range(4):
        task()
    assert seen == ["a", "b", "c", "a"]
    task.reset()
    task()
    assert seen[-1] == "a"


def test_a_batch_goes_round_too() -> None:
    """Also where it is larger than the data."""
    task, seen = recorder("summarization", ["a", "b", "c"], batch_size=2)
    task()
    task()
    assert seen == [["a", "b"], ["c", "a"]]
    task, seen = recorder("summarization", ["a", "b"], batch_size=5)
    task()
    assert seen == [["a", "b", "a", "b", "a"]]


def test_counts_are_means_of_the_calls_since_the_reset() -> None:
    """Of nothing, they are unknown."""
    task = small("text-classification", model="lvwerra/distilbert-imdb", data=["the war", "the war was long"])
    assert task.info().tokens_in is None
    assert task.info().preparation_s is None
    task()
    task()
    assert task.info().tokens_in == 5  # 2 and 4 words, each within [CLS] and [SEP]
    task.reset()
    task()
    assert task.info().tokens_in == 4
    task.count_anew()
    task()
    assert (task.calls, task.info().tokens_in) == (1, 6)  # the inputs go on


def test_what_a_model_does_not_hear_is_not_counted() -> None:
    """A recording is cut to the model's window: 3 s of the tiny variant."""
    sounds = [{"audio": torch.zeros(16000 * seconds).numpy(), "rate": 16000} for seconds in (2, 9)]
    task = small("speech-recognition", data=sounds, new_tokens=2)
    task()
    assert task.info().seconds_audio == 2
    task()
    assert task.info().seconds_audio == 2.5


def test_padding_is_not_counted() -> None:
    """A batch is as long as its longest text; what went in is the texts."""
    task = small("text-classification", data=["the war", "the war was long"], batch_size=2)
    task()
    assert task.info().tokens_in == 10


def test_texts_are_cut_to_what_the_model_takes() -> None:
    """And room is left for what a decoder writes behind them."""
    task = build_task("text-generation", model=gpt2(n_positions=32), tokenizer=tokenizer(), data=["the war " * 50])
    task()
    assert task.info().tokens_in == 22
    assert task.info().tokens_out == 10


def test_a_result_is_read_when_it_is_looked_at() -> None:
    """Once; it is a sequence then."""
    read: list[str] = []

    def reading() -> list[int]:
        read.append("read")
        return [1, 2, 3]

    result = Result(reading)
    assert read == []
    assert result[0] == 1
    assert result[1:] == [2, 3]
    assert (len(result), list(result), result == [1, 2, 3], result == (1, 2), repr(result)) == (
        *(3, [1, 2, 3], True, False),
        "[1, 2, 3]",
    )
    assert read == ["read"]


def test_a_model_that_stops_early_is_an_error() -> None:
    """That is less work, and no saving."""
    model = gpt2()
    generate = model.generate
    model.generate = lambda **inputs: generate(**inputs)[:, :-4]
    task = build_task("text-generation", model=model, tokenizer=tokenizer(), data=TEXTS)
    with pytest.raises(MeasurementError) as error:
        task()
    assert str(error.value) == (
        "text-generation: the model stopped after 6 of 10 new tokens, so that this call was less work than the others: "
        "let it generate min_new_tokens=10, or ask for fewer (new_tokens=6)"
    )


def test_an_early_stop_that_padding_hides_is_an_error() -> None:
    """The tokens are looked at when all calls are done: what follows an end of text is no work."""
    model, own = gpt2(), tokenizer()
    generate, end = model.generate, model.generation_config.eos_token_id

    def hasty(**inputs: Any) -> Any:
        ids = generate(**inputs)
        ids[-1, -4:] = end
        return ids

    model.generate = hasty
    task = build_task("text-generation", model=model, tokenizer=own, data=TEXTS, batch_size=2)
    assert len(task()) == 2
    for _ in range(2):  # however often one asks
        with pytest.raises(MeasurementError, match=r"text-generation: the model stopped after 7 of 10 new tokens, so"):
            task.info()


def sometimes_hasty(model: Any, hasty: Callable[[int], bool]) -> list[int]:
    """Make a model end after 3 new tokens, and pad, in the calls of these numbers; they are noted in the list."""
    generate, end, calls = model.generate, model.generation_config.eos_token_id, []

    def sometimes(**inputs: Any) -> Any:
        ids = generate(**inputs)
        calls.append(len(calls))
        if hasty(calls[-1]):
            ids[:, -7:] = end
        return ids

    model.generate = sometimes
    return calls


@pytest.mark.parametrize("which", [0, 3, 6])
def test_an_early_stop_in_any_call_is_an_error(which: int) -> None:
    """The first, one in between, the last."""
    model = gpt2()
    sometimes_hasty(model, lambda call: call == which)
    task = build_task("text-generation", model=model, tokenizer=tokenizer(), data=TEXTS)
    for _ in range(7):
        task()
    with pytest.raises(MeasurementError, match="the model stopped after 4 of 10 new tokens"):
        task.info()


def test_an_early_stop_that_is_not_counted_is_none() -> None:
    """What went before counting began, to warm up, is no work that is told."""
    model = gpt2()
    sometimes_hasty(model, lambda call: call < 2)
    task = build_task("text-generation", model=model, tokenizer=tokenizer(), data=TEXTS)
    task()
    task.count_anew()
    task()
    task.reset()
    task()
    task()
    assert (task.calls, task.info().tokens_out) == (2, 10)


def test_tokens_are_read_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many calls at a time; none is counted twice, none is left out."""
    monkeypatch.setattr(generation, "_MOST_UNREAD_BYTES", 3 * generation._LEAST_BYTES)
    model, own = gpt2(), tokenizer()
    task = build_task("text-generation", model=model, tokenizer=own, data=TEXTS)
    unread = []
    for _ in range(7):
        task()
        unread.append(len(task._unread))  # type: ignore[attr-defined]
    assert unread == [1, 2, 0, 1, 2, 0, 1]
    assert task.info().tokens_out == task.info().tokens_out == 10
    sometimes_hasty(model, lambda call: call == 1)
    task.reset()
    task()
    task()
    with pytest.raises(MeasurementError, match="the model stopped after 4 of 10 new tokens"):
        task()


@pytest.mark.parametrize("as_numpy", [False, True])
def test_an_early_stop_is_seen_though_its_buffer_is_written_over(as_numpy: bool) -> None:
    """A model may write each answer where the last one was."""
    model, own = gpt2(), tokenizer()
    end = model.generation_config.eos_token_id
    answers = iter([[5, end, end, end], [5] * 4])
    buffer = torch.zeros(1, 6, dtype=torch.long)

    def generate(**inputs: Any) -> Any:
        buffer[0] = torch.tensor([1, 1, *next(answers)])
        return buffer.numpy() if as_numpy else buffer

    model.generate = generate
    task = build_task("text-generation", model=model, tokenizer=own, data=["the war"], new_tokens=4)
    task()
    task()
    with pytest.raises(MeasurementError, match="the model stopped after 2 of 4 new tokens"):
        task.info()


def test_more_than_was_asked_for_is_counted() -> None:
    """A model that writes on is told as it is: filling behind its end is not."""
    model, own = gpt2(), tokenizer()
    end = model.generation_config.eos_token_id
    written = iter([[5] * 6, [5] * 4 + [end] * 2])
    model.generate = lambda **inputs: torch.cat([inputs["input_ids"], torch.tensor([next(written)])], dim=1)
    task = build_task("text-generation", model=model, tokenizer=own, data=TEXTS, new_tokens=4)
    task()
    task()
    assert task.info().tokens_out == (6 + 5) / 2


def test_an_end_of_text_that_stops_nothing_is_a_token_like_others() -> None:
    """The last one of all; one with words behind it; and where the model knows no end: then nothing stopped."""
    model, own = gpt2(), tokenizer()
    generate, end = model.generate, model.generation_config.eos_token_id

    def writing(*tokens: int) -> ModelTask:
        model.generate = lambda **inputs: torch.cat([inputs["input_ids"], torch.tensor([tokens])], dim=1)
        task = build_task("text-generation", model=model, tokenizer=own, data=TEXTS, new_tokens=4)
        task()
        return task

    assert writing(5, 6, 7, end).info().tokens_out == 4
    assert writing(5, end, 7, end).info().tokens_out == 4
    assert writing(5, 5, 5, 5).info().tokens_out == 4
    with pytest.raises(MeasurementError, match="the model stopped after 1 of 4 new tokens"):
        writing(end, end, end, end).info()
    model.generation_config.eos_token_id = None
    assert writing(end, end, end, end).info().tokens_out == 4
    model.generate, model.generation_config.eos_token_id = generate, end
    model.lm_head.weight.data[:] = 0  # all tokens are as likely: greedily the first, were it not the end
    model.generation_config.eos_token_id = 0
    task = build_task("text-generation", model=model, tokenizer=own, data=TEXTS, new_tokens=4)
    task()
    assert task.info().tokens_out == 4


def test_a_diffusion_that_stops_early_is_an_error() -> None:
    """The steps really taken are looked at."""
    task = small("image-generation", steps=3)
    inner = task.model.__class__.__call__
    hasty = type("Hasty", (task.model.__class__,), {"__call__": lambda self, **a: inner(self, **{**a, STEPS: 1})})
    task.model.__class__ = hasty
    with pytest.raises(MeasurementError) as error:
        task()
    assert str(error.value) == "image-generation: the model stopped after 1 of 3 steps: set steps=1"


STEPS = "num_inference_steps"


def test_a_freed_task_holds_nothing() -> None:
    """The model is gone; what a call came to can still be looked at; another call says what is wrong."""
    task = small("text-classification")
    result = task()
    model = weakref.ref(task.model)
    task.free()
    assert model() is None
    assert result[0] in ("LABEL_0", "LABEL_1")
    with pytest.raises(RuntimeError, match="text-classification: this task was freed when the test that made it ended"):
        task()


def test_nothing_of_torchs_is_changed_for_others() -> None:
    """Neither its random numbers nor its threads."""
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    for name in ("image-captioning", "image-generation", "text-generation"):
        small(name)()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


# --- a user's own ----------------------------------------------------------------------------------


def tokenizer(kind: Kind = "bpe") -> Any:
    return random_tokenizer(2000, DEFAULTS[kind])


def test_a_users_own_model_is_called_as_it_is() -> None:
    """In eval mode while the task lives; its own beams are a part of what it costs."""
    model, own = gpt2(), tokenizer()
    model.generation_config.num_beams = 2
    steps: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: steps.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    task = build_task("text-generation", model=model, tokenizer=own, data=TEXTS, new_tokens=3)
    assert isinstance(task()[0], str)
    assert set(steps) == {2}
    assert not model.training
    info = task.info()
    assert info == TaskInfo(
        name="text-generation",
        model="GPT2LMHeadModel",
        dataset=None,
        weights="own",
        data="given",
        dtype="fp32",
        device="cpu",
        batch_size=1,
        tokens_in=9,
        tokens_out=3,
        preparation_s=info.preparation_s,
        new_tokens=3,
    )
    task.free()
    assert model.training
    assert model.generation_config.num_beams == 2


def test_a_tokenizer_without_a_pad_token_works() -> None:
    """In a batch of unequal texts; the user's own stays without."""
    own = tokenizer()
    assert own.pad_token is None
    task = build_task("text-generation", model=gpt2(), tokenizer=own, data=TEXTS, batch_size=2, new_tokens=2)
    assert len(task()) == 2
    assert task.info().tokens_in == 13
    assert own.pad_token is None


def test_a_decoder_goes_on_from_the_end_of_each_text() -> None:
    """A batch of unequal texts is padded on the left, whatever the tokenizer does otherwise; it stays as it was."""
    own, given = tokenizer(), []
    own.pad_token, own.padding_side = own.eos_token, "right"
    model = gpt2()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["attention_mask"]), with_kwargs=True
    )
    build_task("text-generation", model=model, tokenizer=own, data=TEXTS, batch_size=2, new_tokens=2)()
    assert given[0][:, -1].tolist() == [1, 1]
    assert given[0][1, 0] == 0
    assert own.padding_side == "right"


def test_a_module_of_plain_torch_works() -> None:
    """One whose outputs have no names, and which says nothing of itself."""

    class Bag(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = torch.nn.EmbeddingBag(2000, 8), torch.nn.Linear(8, 3)

        def forward(self, input_ids: Any) -> Any:
            return self.head(self.embed(input_ids))

    task = build_task("text-classification", model=Bag(), tokenizer=tokenizer(), data=TEXTS)
    assert task()[0] in (0, 1, 2)
    assert task.info().model.endswith("Bag")


def test_a_model_without_parameters_is_on_no_device_that_is_known() -> None:
    """What it calls may run anywhere: to say the processor would be a guess."""

    class Hidden(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, input_ids: Any) -> Any:
            return torch.nn.functional.one_hot(input_ids[:, 0] % 3, 3)

    task = build_task("text-classification", model=Hidden(), tokenizer=tokenizer(), data=TEXTS)
    assert task()[0] in (0, 1, 2)
    assert (task.info().device, task.info().dtype) == (None, None)


def test_a_dtype_that_is_not_one_of_three_is_named_as_torch_does() -> None:
    """Nothing is made of it that it is not."""
    task = build_task("text-classification", model=bert().double(), tokenizer=tokenizer("wordpiece"), data=TEXTS)
    assert task.info().dtype == "float64"


def test_a_users_own_diffusers_pipeline_draws() -> None:
    """With the settings that it has, or those that are asked for; from the same noise every time."""
    pipe = small("image-generation").model
    task = build_task("image-generation", model=pipe, data=["a red house"], steps=2)
    (one,), (other,) = task(), task()
    assert one.tobytes() == other.tobytes()
    info = task.info()
    assert (info.model, info.weights, info.images, info.dtype) == ("StableDiffusionPipeline", "own", 1, "fp32")
    task.free()
    assert pipe.unet is not None


def test_a_model_of_two_dtypes_is_in_the_one_that_most_of_it_has() -> None:
    """BLIP-2 in fp16 keeps its query tokens, its first parameter, in fp32."""
    parts = small("image-captioning", model="Salesforce/blip2-opt-2.7b", dtype="fp16")
    assert next(parts.model.parameters()).dtype == torch.float32
    own = {"model": parts.model, "tokenizer": parts.tokenizer, "processor": parts.processor}
    task = build_task("image-captioning", data=[picture()], new_tokens=2, **own)
    assert len(task()) == 1
    assert task.info().dtype == "fp16"


def test_a_processor_of_several_parts_will_do() -> None:
    """As AutoProcessor gives it: what makes images of it, and what makes words."""
    parts = small("image-captioning")
    both = SimpleNamespace(image_processor=parts.processor, tokenizer=parts.tokenizer)
    task = build_task("image-captioning", model=parts.model, processor=both, data=[{"image": picture()}])
    task()
    assert task.info().tokens_out == 20


def picture(mode: str = "RGB") -> Any:
    from PIL import Image

    return Image.new(mode, (50, 40))


def test_a_pipeline_is_called_with_all_it_does() -> None:
    """Its results are its own; the tokens that went in are those of its tokenizer."""
    model, own = bert(), tokenizer("wordpiece")
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=own, device="cpu")
    task = build_task("text-classification", model=pipe, data=TEXTS)
    found = task()
    task()
    assert set(found[0]) == {"label", "score"}
    info = task.info()
    assert (info.model, info.dtype, info.device, info.preparation_s) == (
        *("TextClassificationPipeline", "fp32", "cpu"),
        None,
    )
    assert info.tokens_in == 8.5  # 9 and 4 words, and [CLS] and [SEP]


def test_a_pipeline_for_another_task_is_refused() -> None:
    """One that writes may write a summary, and what needs no training is anybody's."""
    pipe = transformers.pipeline("text-generation", model=gpt2(), tokenizer=tokenizer(), device="cpu")
    with pytest.raises(UsageProblem) as refused:
        build_task("text-classification", model=pipe, data=TEXTS)
    assert str(refused.value) == (
        "the pipeline given as model= does text-generation, and this task is text-classification: measure what it "
        "does, with carbon_task('text-generation', model=…), or give a pipeline for text-classification"
    )
    for task in ("summarization", "zero-shot-summarization", "zero-shot-sentiment"):
        assert build_task(task, model=pipe, data=TEXTS, new_tokens=1).info().name == task


def test_a_pipeline_that_writes_writes_so_many_tokens() -> None:
    """They are counted where they are made; fewer are an error."""
    model, own = gpt2().eval(), tokenizer()
    own.pad_token = own.eos_token
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=own, device="cpu")
    task = build_task("text-generation", model=pipe, data=TEXTS, new_tokens=4)
    assert "generated_text" in task()[0]
    assert task.info().tokens_out == 4
    generate = model.generate
    model.generate = lambda *args, **more: generate(*args, **{**more, "min_new_tokens": 2, "max_new_tokens": 2})
    with pytest.raises(MeasurementError, match="the model stopped after 2 of 4 new tokens"):
        task()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_pipeline_with_beams_writes_no_more(batch_size: int) -> None:
    """Its beams are a part of what it costs, and none of what it writes: an early stop is seen behind them."""
    model, own = gpt2().eval(), tokenizer()
    own.pad_token = own.eos_token
    model.generation_config.num_beams = 2
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=own, device="cpu")
    task = build_task("text-generation", model=pipe, data=TEXTS, new_tokens=4, batch_size=batch_size)
    task()
    task()
    assert task.info().tokens_out == 4 * batch_size
    generate = model.generate
    model.generate = lambda *args, **more: generate(*args, **{**more, "min_new_tokens": 3, "max_new_tokens": 3})
    with pytest.raises(MeasurementError, match="the model stopped after 3 of 4 new tokens"):
        task()


def test_a_pipeline_that_trains_is_measured_at_rest() -> None:
    """And trains again afterwards: those of its parts that did."""
    model = bert()
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer("wordpiece"), device="cpu")
    model.train()
    model.bert.embeddings.eval()
    task = build_task("text-classification", model=pipe, data=TEXTS)
    assert not any(part.training for part in model.modules())
    task.free()
    assert model.training
    assert model.classifier.training
    assert not model.bert.embeddings.training


def test_a_pipeline_that_cannot_write_is_not_told_to() -> None:
    """Whatever the task: a subclass of one's own may take no other arguments."""

    class Mine(transformers.TextClassificationPipeline):  # type: ignore[misc,name-defined]
        def _forward(self, model_inputs: Any, **more: Any) -> Any:
            return self.model(**model_inputs, **more)

    pipe = Mine(model=bert(), tokenizer=tokenizer("wordpiece"), device="cpu")
    task = build_task("zero-shot-sentiment", model=pipe, data=TEXTS)
    assert set(task()[0]) == {"label", "score"}
    assert task.info().tokens_out is None


def test_a_callable_may_say_what_went_in_and_out() -> None:
    """By the keys or attributes of what it returns; else it is unknown."""
    task = build_task("summarization", model=lambda text: {"tokens_out": len(text)}, data=["four", "six ab"])
    task()
    task()
    assert (task.info().tokens_in, task.info().tokens_out) == (None, 5)
    task = build_task("summarization", model=lambda text: SimpleNamespace(tokens_in=7, tokens_out="?"), data=["a"])
    task()
    assert (task.info().tokens_in, task.info().tokens_out) == (7, None)
    task = build_task("summarization", model=str.upper, data=["a"])
    assert task() == "A"
    assert (task.info().tokens_in, task.info().model, task.info().device) == (None, "str.upper", None)


def test_what_a_callable_tells_of_some_calls_only_is_not_known() -> None:
    """A mean of those that do would be told of all."""
    told = iter([{"tokens_out": 4}, {}, {"tokens_out": 4}])
    task = build_task("summarization", model=lambda text: next(told), data=["a"])
    task()
    assert task.info().tokens_out == 4
    task()
    task()
    assert task.info().tokens_out is None


@pytest.mark.parametrize("stopping_early", [0, 1, 2])
def test_a_callable_that_tells_fewer_tokens_than_asked_for_is_an_error(stopping_early: int) -> None:
    """Whichever call it is."""
    told = iter([3 if call == stopping_early else 10 for call in range(3)])
    task = build_task("text-generation", model=lambda text: {"tokens_out": next(told)}, data=TEXTS, new_tokens=10)
    for _ in range(stopping_early):
        task()
    with pytest.raises(MeasurementError) as error:
        task()
    assert str(error.value) == (
        "text-generation: the model stopped after 3 of 10 new tokens, so that this call was less work than the others: "
        "let it generate min_new_tokens=10, or ask for fewer (new_tokens=3)"
    )


def test_a_callable_that_tells_more_tokens_than_asked_for_is_an_error() -> None:
    """Both numbers are known, and only one of them can be what the report says."""
    task = build_task("text-generation", model=lambda text: {"tokens_out": 12}, data=TEXTS, new_tokens=10)
    with pytest.raises(MeasurementError) as error:
        task()
    assert str(error.value) == (
        "text-generation: the model wrote 12 new tokens instead of 10: let it generate max_new_tokens=10, or leave "
        "new_tokens= out"
    )


@pytest.mark.parametrize("tells", ["text", {"tokens_out": "10"}, {"tokens_out": None}, {"tokens_out": True}, [10]])
def test_new_tokens_of_a_callable_that_tells_none_are_refused(tells: Any) -> None:
    """The report would claim what nobody checked."""

    def answer(text: str) -> Any:
        return tells

    task = build_task("text-generation", model=answer, data=TEXTS, new_tokens=10)
    with pytest.raises(UsageProblem) as error:
        task()
    name = answer.__qualname__
    assert str(error.value) == (
        f"text-generation: new_tokens=10 cannot be checked: what {name} returned has no number tokens_out (an "
        'attribute, or a key of a mapping). Return {"tokens_out": …}, or leave new_tokens= out'
    )
    assert build_task("text-generation", model=answer, data=TEXTS).info().new_tokens is None


def test_new_tokens_of_a_callable_that_tells_as_many_are_reported() -> None:
    """numpy's numbers are numbers; of a batch each input's, or those of all."""
    import numpy

    for batch_size, tells in (
        (1, {"tokens_out": 3}),
        (1, SimpleNamespace(tokens_out=numpy.int64(3))),
        (2, [{"tokens_out": 3}, {"tokens_out": 3}]),
        (2, {"tokens_out": 6}),
        (2, [{"tokens_out": 6}]),
    ):
        task = build_task(
            "text-generation", model=lambda given, t=tells: t, data=TEXTS, new_tokens=3, batch_size=batch_size
        )
        task()
        assert (task.info().new_tokens, task.info().tokens_out) == (3, 3 * batch_size)
    uneven = [{"tokens_out": 2}, {"tokens_out": 4}]
    task = build_task("text-generation", model=lambda given: uneven, data=TEXTS, new_tokens=3, batch_size=2)
    with pytest.raises(MeasurementError, match="the model stopped after 2 of 3 new tokens"):
        task()


def test_what_a_callable_is_given() -> None:
    """The bare input where it has one field; what a language model is asked; the recording with its rate."""
    question = {"question": "who", "context": "the man"}
    for name, data, expected in [
        ("text-classification", ["a b"], "a b"),
        ("fill-mask", ["a b"], "a [MASK]"),
        ("extractive-question-answering", [question], question),
        ("zero-shot-sentiment", ["a"], "what is the binary sentiment of the following sentence? a"),
        ("sentence-similarity", [("a", "b")], ("a", "b")),
    ]:
        task, seen = recorder(name, data)
        task()
        assert seen == [expected]
    task, seen = recorder("image-classification", [picture("L")])
    task()
    assert seen[0].mode == "RGB"
    assert task.info().images == 1
    task, seen = recorder("speech-recognition", [{"audio": torch.zeros(8000).numpy(), "rate": 8000}])
    task()
    assert seen[0]["rate"] == 16000
    assert task.info().seconds_audio == 1.0


def test_the_word_that_is_masked() -> None:
    """The last one, unless the text has a mask already."""
    assert masked("the red house", "<mask>") == "the red <mask>"
    assert masked("the <mask> house", "<mask>") == "the <mask> house"
    assert masked("house", "[MASK]") == "[MASK]"


def test_the_prompts() -> None:
    """The study's own, around the input; other tasks take the text as it is."""
    question = {"question": "who came", "context": "the man came"}
    assert prompted("zero-shot-question-answering", question) == (
        'who came? Find the answer to the question in the following text: "the man came". Answer:'
    )
    assert prompted("zero-shot-summarization", {"text": "a"}) == "summarize the following text: a"
    assert prompted("summarization", {"text": "a"}) == "a"


# --- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("text-clasification", {}, "there is no task 'text-clasification'; there are text-classification, extra"),
        ("text-clasification", {}, " Did you mean text-classification?"),
        ("text-classification", {"model": "lvwerra/distilbert-imbd"}, "there is no model 'lvwerra/distilbert-imbd' in"),
        ("text-classification", {"model": "lvwerra/distilbert-imbd"}, "Did you mean lvwerra/distilbert-imdb?"),
        ("text-classification", {"model": ""}, "there is no model '' in the catalogue"),
        ("text-classification", {"model": "gpt2"}, "'gpt2' is a model for text-generation, not for text-classi"),
        ("text-classification", {"model": "gpt2"}, "A model of your own: give the module itself, or a callable"),
        (
            "text-classification",
            {"model": "gpt2"},
            "siebert/sentiment-roberta-large-english. A model of your own:",
        ),
        ("text-classification", {"model": "nothing"}, "siebert/sentiment-roberta-large-english. A model of your own:"),
        ("text-classification", {"seed": "x"}, "seed='x' is not possible: write a whole number, 0 or more"),
        ("text-classification", {"seed": -1}, "seed=-1 is not possible: write a whole number, 0 or more"),
        (
            "text-classification",
            {"model": torch.nn.Linear},
            "model=Linear is a class: give an instance of it, Linear(…), or "
            "Linear.from_pretrained(…) where it has that",
        ),
        ("text-classification", {"tokenizer": "gpt2"}, "tokenizer='gpt2' cannot be called: give the tokenizer that"),
        ("text-classification", {"model": 7}, "model=7 cannot be called: give the hub id of a model of the catalogue"),
        ("text-classification", {"dataset": "sst"}, "has no data set 'sst'; it has imdb, rotten_tomatoes, sst2. Did"),
        (
            "text-classification",
            {"dtype": "float16"},
            "dtype 'float16' is unknown: write one of fp32, fp16, bf16. Did you mean fp16?",
        ),
        ("text-classification", {"weights": "rnd"}, "weights 'rnd' is unknown: write one of auto, hub, random"),
        ("text-classification", {"size": "tiny"}, "size 'tiny' is unknown: write one of study, small"),
        ("text-classification", {"device": "gpu"}, "device 'gpu' is unknown: write one of auto, cuda, mps, cpu"),
        ("text-classification", {"data": "synth"}, "data='synth' is not a source of inputs"),
        ("text-classification", {"data": []}, "data=[] is empty: text-classification needs at least one input"),
        (
            "text-classification",
            {"data": ["a"], "dataset": "sst2"},
            "dataset='sst2' and data= were both given: leave one",
        ),
        ("text-classification", {"batch_size": 0}, "batch_size=0 is not possible: write a whole number, 1 or more"),
        ("text-classification", {"batch_size": True}, "batch_size=True is not possible"),
        (
            "text-classification",
            {"new_tokens": 3},
            "text-classification takes no new_tokens=; the tasks that write do: text-gen",
        ),
        ("text-generation", {"steps": 3}, "text-generation takes no steps=; image-generation does"),
    ],
)
def test_what_cannot_be_is_refused(name: str, arguments: dict[str, Any], says: str) -> None:
    """With what was asked for, what there is, and what may have been meant."""
    with pytest.raises(UsageProblem) as error:
        build_task(name, **{"size": "small", "weights": "random", "data": "synthetic", **arguments})
    assert says in str(error.value)


@pytest.mark.parametrize("wanted", [64, 100])
@pytest.mark.parametrize("text", ["a b", "the war " * 50])
def test_more_new_tokens_than_a_model_has_room_for_are_refused(wanted: int, text: str) -> None:
    """Beside a prompt of at least one token; the model is put back as it was."""
    model, own = gpt2(n_positions=64), tokenizer()
    with pytest.raises(UsageProblem) as error:
        build_task("text-generation", model=model, tokenizer=own, data=[text], new_tokens=wanted)
    assert str(error.value) == (
        f"text-generation: new_tokens={wanted} is too many: the model takes 64 tokens, prompt and new ones together. "
        "Ask for 63 or fewer"
    )
    assert model.training
    task = build_task("text-generation", model=model, tokenizer=own, data=[text], new_tokens=63)
    task()
    assert (task.info().tokens_in, task.info().tokens_out) == (1, 63)


def test_the_smaller_of_a_tokenizers_and_a_models_limit_holds() -> None:
    """A tokenizer may know of more than the model has places for."""
    own = tokenizer()
    own.model_max_length = 1024
    task = build_task("text-generation", model=gpt2(n_positions=32), tokenizer=own, data=["the war " * 50])
    task()
    assert task.info().tokens_in == 22
    own.model_max_length = 16
    with pytest.raises(UsageProblem, match=r"the model takes 16 tokens, prompt and new ones together\. Ask for 15 or"):
        build_task("text-generation", model=gpt2(n_positions=32), tokenizer=own, data=TEXTS, new_tokens=16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("summarization", "facebook/bart-large-cnn"),
        ("summarization", "google/pegasus-xsum"),
        ("speech-recognition", "openai/whisper-large-v3"),
        ("summarization", "pszemraj/led-large-book-summary"),
        *(("image-captioning", model) for model in CAPTIONERS if "t5" not in model),
    ],
)
def test_what_starts_anew_has_its_own_room(name: str, model: str) -> None:
    """A decoder beside an encoder: as many as it has places for, which do fit, and no more."""
    with pytest.raises(
        UsageProblem, match=f"^{name}: new_tokens=99999 is too many: the model has places for "
    ) as error:
        small(name, model=model, new_tokens=99_999)
    most = int(str(error.value).split()[-3])
    assert str(error.value).endswith(f"the model has places for {most}. Ask for {most} or fewer")
    task = small(name, model=model, new_tokens=most)
    task()
    assert task.info().tokens_out == most


def test_a_pipeline_has_no_more_room_than_its_model() -> None:
    """The same is said of it."""
    own = tokenizer()
    own.pad_token = own.eos_token
    pipe = transformers.pipeline("text-generation", model=gpt2(n_positions=64), tokenizer=own, device="cpu")
    with pytest.raises(UsageProblem, match="new_tokens=64 is too many: the model takes 64 tokens, prompt and new one"):
        build_task("text-generation", model=pipe, data=TEXTS, new_tokens=64)


def test_a_model_without_a_limit_writes_what_is_asked_for() -> None:
    """T5 knows no places."""
    task = small("zero-shot-summarization", model="google/flan-t5-base", new_tokens=600)
    task()
    assert task.info().tokens_out == 600


def test_an_own_model_without_its_tokenizer_is_refused() -> None:
    """And one without what its task calls, or asked to be what it is not."""
    for name, model, more, says in [
        (
            "summarization",
            gpt2(),
            {},
            "summarization with a model of your own (GPT2LMHeadModel) needs tokenizer=, which it was trained with; or "
            "give a callable that takes the next input",
        ),
        (
            "image-classification",
            bert(),
            {"data": [picture()]},
            "image-classification with a model of your own (BertForSequenceClassification) needs processor=, which it "
            "was trained with; or give a callable that takes the next input",
        ),
        (
            "summarization",
            torch.nn.Linear(2, 2),
            {"tokenizer": tokenizer()},
            "summarization calls generate(), which Linear does not have: give a model with a head that writes "
            "(AutoModelForCausalLM, AutoModelForSeq2SeqLM, …), or a callable that takes the next input",
        ),
        (
            "text-classification",
            bert(),
            {"tokenizer": tokenizer("wordpiece"), "dtype": "fp16"},
            "dtype='fp16', but the model is in fp32: a model of your own is not converted; call model.to(…) first, "
            "or leave dtype= out",
        ),
        (
            "text-classification",
            bert(),
            {"tokenizer": tokenizer("wordpiece"), "device": "cuda"},
            "device='cuda', but the model is on cpu: a model of your own is not converted; call model.to(…) first, "
            "or leave device= out",
        ),
        (
            "image-classification",
            bert(),
            {"data": [picture()], "processor": "vit"},
            "processor='vit' cannot be called: give what the model was trained with, as "
            "AutoProcessor.from_pretrained(…) reads it",
        ),
        (
            "text-classification",
            str.upper,
            {"dtype": "fp16"},
            "leave dtype= and device= out: a callable has its own",
        ),
    ]:
        with pytest.raises(UsageProblem) as error:
            build_task(name, model=model, **{"data": TEXTS, **more})
        assert str(error.value) == says


def test_a_library_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it; a callable needs none of them."""
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CannotRunHere) as error:
        small("text-classification")
    assert str(error.value) == (
        "text-classification needs transformers, which is not installed: pip install 'pytest-carbon[tasks]'"
    )
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(CannotRunHere, match="image-generation needs transformers and diffusers, which are not inst"):
        small("image-generation")
    assert build_task("summarization", model=str.upper, data=["a"])() == "A"


def test_what_does_not_fit_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said with the figures, and what would help."""

    def loaded(*args: Any, **more: Any) -> None:
        pytest.fail("it was loaded")

    monkeypatch.setattr(models, "build", loaded)
    monkeypatch.setattr(task_module, "_free_bytes", lambda device: 10_000_000_000)
    needed = models.memory_bytes("bigscience/bloomz-3b", "fp32", "study") / 1e9
    half = models.memory_bytes("bigscience/bloomz-3b", "fp16", "study") / 1e9
    with pytest.raises(CannotRunHere) as error:
        build_task("zero-shot-sentiment", model="bigscience/bloomz-3b", weights="random", device="cpu")
    assert str(error.value) == (
        f"bigscience/bloomz-3b needs about {needed:.1f} GB of memory, and cpu has 10.0 GB free; in fp16 or bf16 it "
        f"needs {half:.1f} GB. What helps: dtype='fp16' or 'bf16', a smaller model, or a device with more memory"
    )


def test_a_batch_that_does_not_fit_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One input may fit where a hundred do not: what they need is said, and that fewer would help."""
    needed = [models.memory_bytes("facebook/opt-1.3b", "fp16", batch_size=count) for count in (1, 100)]
    assert needed[1] > 2 * needed[0]
    monkeypatch.setattr(task_module, "_free_bytes", lambda device: needed[0])
    monkeypatch.setattr(models, "build", lambda *args, **more: pytest.fail("it was loaded"))
    what = {"model": "facebook/opt-1.3b", "weights": "random", "device": "cpu", "dtype": "fp16"}
    with pytest.raises(pytest.fail.Exception, match="it was loaded"):
        build_task("text-generation", **what)
    with pytest.raises(CannotRunHere) as error:
        build_task("text-generation", **what, batch_size=100)
    assert str(error.value) == (
        f"facebook/opt-1.3b needs about {needed[1] / 1e9:.1f} GB of memory for 100 inputs a call, and cpu has "
        f"{needed[0] / 1e9:.1f} GB free. What helps: a smaller batch_size=, a smaller model, or a device with more "
        "memory"
    )


def test_memory_that_is_free_is_not_refused() -> None:
    """What this machine has."""
    task_module.refuse_too_large("m", 1000, None, "cpu")
    with pytest.raises(CannotRunHere, match=r"m needs about 1000000000\.0 GB of memory, and cpu has [\d.]+ GB free"):
        task_module.refuse_too_large("m", 10**18, None, "cpu")


CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB of which 14.75 MiB is "
    "free. Process 1 has 79.08 GiB memory in use."
)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (torch.OutOfMemoryError(CUDA), "20.00 MiB more were asked for, and 14.75 MiB of 79.10 GiB were free"),
        (torch.OutOfMemoryError("no room.\nSee the docs."), "no room"),
        (torch.OutOfMemoryError(""), "the device has none left"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)."), "MPS backend out of memory (MPS allo"),
    ],
)
def test_out_of_memory_is_said(error: BaseException, what: str) -> None:
    """What was asked for and what was free, as far as the error has it, and what would help."""
    found = out_of_memory(error)
    assert found is not None
    assert found.startswith(f"out of memory in the middle of a call: {what}")
    assert found.endswith(
        "What helps: a smaller batch_size=, dtype='fp16' or 'bf16', a smaller model, or a device with more memory"
    )


def test_other_errors_are_not_out_of_memory() -> None:
    """They stay what they are."""
    assert out_of_memory(RuntimeError("CUDA error: device-side assert triggered")) is None
    assert out_of_memory(MemoryError()) is None


def test_tasks_do_not_hold_each_other() -> None:
    """One after the other in one process: of the first nothing is left when the second is there."""
    first = small("image-generation")
    first()
    unet = weakref.ref(first.model.unet)
    first.free()
    gc.collect()
    assert unet() is None
