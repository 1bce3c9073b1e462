"""Building models: random weights, checkpoints out of the hub's cache, and every way in which one cannot be had."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from parameters import EXCEPTIONS, parameters

from pytest_carbon.host.machine import free_memory
from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks import catalogue
from pytest_carbon.tasks.architectures import ARCHITECTURES
from pytest_carbon.tasks.models import activations, build, device_of, memory_bytes, silent

RESNET = "microsoft/resnet-18"


def one_of_each_class() -> list[str]:
    """A model id for each class of the catalogue."""
    of_class = {design.model_class: id for id, design in ARCHITECTURES.items()}
    return sorted(of_class.values())


pytestmark = pytest.mark.usefixtures("one_thread")


def small(id: str, **kwargs: Any) -> Any:
    task = catalogue.models()[id].tasks[0]
    return build(id, task=task, **{"weights": "random", "size": "small", "device": "cpu", **kwargs})


def networks(model: Any) -> dict[str, Any]:
    """The networks of a pipeline; a model is one."""
    import torch

    if isinstance(model, torch.nn.Module):
        return {"": model}
    return {name: part for name, part in model.components.items() if isinstance(part, torch.nn.Module)}


def plain(network: Any) -> Any:
    """The same network as its own class makes it: in memory from the start."""
    with silent():
        return type(network)(network.config) if hasattr(network, "tie_weights") else type(network)(**network.config)


# --- random weights -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("id", one_of_each_class())
def test_a_random_model_differs_from_a_plain_one_in_its_weights_alone(id: str) -> None:
    """Position tables, indices and statistics are what the class makes; tied weights are tied; all is finite."""
    import torch

    for network in networks(small(id).model).values():
        expected = plain(network)
        buffers = dict(expected.named_buffers())
        assert dict(network.named_buffers()).keys() == buffers.keys()
        for name, buffer in network.named_buffers():
            assert buffer.dtype == buffers[name].dtype, name
            assert torch.equal(buffer, buffers[name]), name
        # each only once where it is tied
        assert [name for name, _ in network.named_parameters()] == [name for name, _ in expected.named_parameters()]
        for name, parameter in network.named_parameters():
            assert parameter.isfinite().all(), name
            assert not parameter.requires_grad, name
        assert not network.training


@pytest.mark.parametrize("id", ["openai/whisper-large-v3", "google/pegasus-xsum"])
def test_a_table_of_positions_that_is_a_parameter_is_not_random(id: str) -> None:
    """Sinusoids stay sinusoids."""
    import torch

    network = small(id).model
    expected = dict(plain(network).named_parameters())
    tables = [name for name, _ in network.named_parameters() if "encoder.embed_positions" in name]
    assert tables
    for name in tables:
        assert torch.equal(network.get_parameter(name), expected[name]), name


def test_the_same_seed_gives_the_same_weights() -> None:
    """And another seed others; the seed of the process is left alone."""
    import torch

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (small(RESNET, seed=seed).model for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
    assert not torch.equal(first.classifier[1].weight, other.classifier[1].weight)


@pytest.mark.parametrize("id", [RESNET, "gpt2", "runwayml/stable-diffusion-v1-5"])
def test_what_others_draw_is_what_they_would_have_drawn(id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch, numpy and Python, whatever the libraries draw while a model is made, and where one cannot be."""
    import numpy as np
    import torch

    def drawn() -> list[object]:
        return [torch.rand(2).tolist(), np.random.rand(), random.random()]

    def seed() -> None:
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)

    seed()
    expected = drawn()
    seed()
    small(id)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nowhere")
    with pytest.raises(UsageProblem, match="HF_HUB_OFFLINE"):
        small(id, size="study", weights="hub")
    assert drawn() == expected


@pytest.mark.parametrize("id", ["google/mobilenet_v1_0.75_192", RESNET])
def test_a_signal_keeps_its_size_through_all_layers(id: str) -> None:
    """Values that fade away or overflow would cost less than a trained model's: 27 convolutions, no norm that helps."""
    import torch

    built = build(id, task="image-classification", weights="random", device="cpu")
    (pixels,) = torch.randn(1, 1, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    hidden = built.model(pixels, output_hidden_states=True).hidden_states
    sizes = [float(layer.std()) for layer in hidden]
    assert min(sizes) > 1e-3
    assert max(sizes) < 1e3


@pytest.mark.parametrize(("dtype", "kept"), [("fp16", True), ("bf16", False)])
def test_a_model_has_the_dtype_that_was_asked_for(dtype: str, kept: bool) -> None:
    """But for what its class keeps in fp32 for its range, as a checkpoint that is loaded does."""
    import torch

    asked = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    model = small("Salesforce/blip2-flan-t5-xl", dtype=dtype).model
    assert model.vision_model.embeddings.patch_embedding.weight.dtype == asked
    assert (model.qformer.encoder.layer[0].attention.attention.query.weight.dtype == torch.float32) == kept
    assert all(part.dtype == asked for part in networks(small("segmind/tiny-sd", dtype=dtype).model).values())


def test_what_is_built_says_what_it_is() -> None:
    """For the report: which weights, where from, in which dtype, where."""
    built = small(RESNET, dtype="bf16", weights="auto")
    assert (built.weights, built.source, built.dtype, built.device) == ("random", "random", "bf16", "cpu")
    assert (built.model_id, built.size) == (RESNET, "small")


def test_a_freed_model_is_gone() -> None:
    """Nothing keeps it: the next one finds the memory."""
    import weakref

    built = small(RESNET)
    alive = weakref.ref(built.model)
    built.model = None
    free_memory()
    assert alive() is None


def test_torch_is_as_it_was() -> None:
    """What a build changes for a moment is changed back, also when a class refuses its config."""
    from torch import nn

    from pytest_carbon.tasks.models import _without_memory

    register = nn.Module.register_parameter
    with _without_memory():
        assert nn.Linear(2, 2).weight.is_meta
    with pytest.raises(TypeError), _without_memory():
        nn.Linear("two", 2)  # type: ignore[arg-type]
    assert nn.Module.register_parameter is register


def test_what_was_quiet_for_a_moment_is_as_loud_as_before() -> None:
    """Log levels, progress bars and warnings are the user's."""
    import logging
    import warnings

    from transformers.utils import logging as of_transformers

    def state() -> tuple[object, ...]:
        return (
            of_transformers.is_progress_bar_enabled(),
            [logging.getLogger(name).level for name in ("transformers", "diffusers", "huggingface_hub")],
            list(warnings.filters),
        )

    with silent("diffusers"):
        pass
    before = state()
    with silent("diffusers"):
        assert state() != before
    assert state() == before


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dtype": "float16"}, "dtype 'float16' is unknown: write one of fp32, fp16, bf16. Did you mean fp16?"),
        ({"size": "tiny"}, "size 'tiny' is unknown: write one of study, small"),
        ({"weights": "trained"}, "weights 'trained' is unknown: write one of auto, hub, random, hollow"),
        ({"device": "gpu"}, "device 'gpu' is unknown: write one of auto, cuda, mps, cpu"),
        (
            {"weights": "hub"},
            'a small variant has no checkpoint: weights="hub" needs size="study"; weights="random" builds either',
        ),
    ],
)
def test_what_there_is_not_is_refused(changed: dict[str, Any], message: str) -> None:
    """Each refusal names what there is."""
    with pytest.raises(UsageProblem) as problem:
        small(RESNET, **changed)
    assert str(problem.value) == message


def test_a_model_is_refused_for_a_task_that_is_not_its_own() -> None:
    """It names the task that is, and the models for this one."""
    with pytest.raises(UsageProblem, match=r"^'gpt2' is a model for text-generation, not for object-detection; "):
        build("gpt2", task="object-detection")


def test_a_device_that_is_not_here_is_refused() -> None:
    """It names what is here."""
    import torch

    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    here = " and ".join([*(["cuda"] if torch.cuda.is_available() else []), "cpu"])
    with pytest.raises(UsageProblem) as problem:
        device_of(absent)
    assert str(problem.value) == (
        f"device '{absent}' is not available: torch {torch.__version__} sees {here}; "
        'device="auto" takes the first of them'
    )
    assert device_of("auto") == here.split()[0]


# --- memory ---------------------------------------------------------------------------------------


def test_memory_is_known_without_torch() -> None:
    """A suite says what does not fit before it loads anything."""
    code = (
        "import sys; from pytest_carbon.tasks import models\n"
        "print(models.memory_bytes('facebook/opt-6.7b', 'fp16'))\n"
        "assert not {'torch', 'transformers', 'diffusers', 'numpy'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 13e9 < int(run.stdout) < 18e9  # 6.66e9 parameters × 2 bytes, and what a call takes


def test_every_model_needs_more_than_its_weights() -> None:
    """In each dtype; half in half the precision, but for a VAE that always works in fp32; more for more inputs."""
    for id in ARCHITECTURES:
        least = (catalogue.models()[id].parameters or 0) * 4
        whole, half, two = memory_bytes(id, "fp32"), memory_bytes(id, "fp16"), memory_bytes(id, "fp32", batch_size=2)
        assert whole > max(least, 2**28), id
        assert half == memory_bytes(id, "bf16")
        assert two - whole > 2**22, id
        if "xl-base" in id:
            assert half - whole / 2 > 2**30
        else:
            assert half - 2**28 == pytest.approx((whole - 2**28) / 2, rel=0.01, abs=2**20)
        assert memory_bytes(id, "fp32", "small") < 2**28


@pytest.mark.parametrize(
    "id",
    [
        "microsoft/git-base",  # the largest heads
        "microsoft/beit-base-patch16-224-pt22k-ft22k",
        "sentence-transformers/all-MiniLM-L6-v2",  # not in the study
        "openai/whisper-large-v3",
        *sorted(EXCEPTIONS),
    ],
)
def test_memory_is_for_all_of_the_parameters(id: str) -> None:
    """Also where the study counts none, without a large head, or another model's."""
    weights = parameters(id, on_study_terms=False) * 4
    assert weights * 1.03 < memory_bytes(id, "fp32") < weights * 1.06 + 1.5 * 2**30


@pytest.mark.parametrize(
    "id", ["distilgpt2", "facebook/detr-resnet-50", "sshleifer/distilbart-cnn-12-6", "google/vit-base-patch16-224"]
)
def test_activations_are_those_of_a_call(id: str) -> None:
    """What ships is what a call keeps alive at most, found anew; a batch takes as much for each of its inputs."""
    from activations import peak_bytes

    for_one, for_four = peak_bytes(id), peak_bytes(id, batch=4)
    assert for_one == pytest.approx(activations()[id], rel=0.2)  # versions of transformers differ by some copies
    assert for_four == pytest.approx(4 * for_one, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(catalogue.SMALL))
def test_live_bytes_are_what_torch_allocates(name: str) -> None:
    """Counted as tensors that somebody holds, a call of each task takes about what torch's profiler sees allocated."""
    import torch
    from activations import LiveBytes

    from pytest_carbon.tasks import build_task

    batch = 16  # the less does it matter what a kernel takes for itself, some 100 kB
    task = build_task(name, weights="random", data="synthetic", size="small", device="cpu", batch_size=batch)
    inputs = task.prepare([task.samples[i] for i in range(batch)])
    task.run(inputs)
    with LiveBytes() as live:
        task.run(inputs)
    with torch.profiler.profile(profile_memory=True) as profiler:
        task.run(inputs)
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert peak > 0
    few = 2**17
    assert 0.6 * peak - few < live.peak < 1.25 * peak + few  # a processor's kernels take some for themselves
    assert peak < memory_bytes(task.model_id, size="small", batch_size=batch)
    task.free()


# --- out of the cache ------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_cache(cache: Path, id: str, model: Any) -> Path:
    """A checkpoint where the hub's client would have put it."""
    repository = cache / f"models--{id.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    with silent():
        model.save_pretrained(snapshot)
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def with_published_tokenizer(pipeline: Any) -> Any:
    """A random tokenizer has a class of its own, which a checkpoint cannot name."""
    from transformers import CLIPTokenizer

    pipeline.register_modules(tokenizer=CLIPTokenizer())
    return pipeline


@pytest.mark.parametrize("weights", ["auto", "hub"])
def test_a_cached_checkpoint_is_taken(weights: str, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With its own weights, in the dtype asked for, and without a line on the terminal."""
    import torch

    saved = small(RESNET, seed=3).model
    in_cache(cache, RESNET, saved)
    capfd.readouterr()
    built = build(RESNET, task="image-classification", weights=weights, dtype="bf16", device="cpu")
    assert (built.weights, built.source) == ("hub", RESNET)
    assert capfd.readouterr() == ("", "")
    for name, parameter in built.model.named_parameters():
        assert torch.equal(parameter, saved.get_parameter(name).bfloat16()), name
        assert not parameter.requires_grad
    assert not built.model.training


def test_a_cached_pipeline_is_taken(cache: Path) -> None:
    """A generator's parts are all there, or it is not there."""
    id = "segmind/tiny-sd"
    snapshot = in_cache(cache, id, with_published_tokenizer(small(id).model))
    built = build(id, task="image-generation", weights="auto", device="cpu")
    assert (built.weights, type(built.model).__name__) == ("hub", "StableDiffusionPipeline")
    assert built.model.unet.config.block_out_channels == [16, 32]
    for file in (snapshot / "vae").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UsageProblem, match="segmind/tiny-sd is not in the hub's cache"):
        _offline_build(id)


def _offline_build(id: str) -> None:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        build(id, task=catalogue.models()[id].tasks[0], weights="hub", device="cpu")
    finally:
        constants.HF_HUB_OFFLINE = before


def test_a_checkpoint_that_has_moved_is_found_where_it_is(cache: Path) -> None:
    """The study's id of Stable Diffusion 1.5 is gone from the hub."""
    from pytest_carbon.tasks.models import architecture, find_checkpoint

    id, now = "runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"
    in_cache(cache, now, with_published_tokenizer(small(id).model))
    found = find_checkpoint(id, architecture(id), "auto")
    assert found is not None
    assert (found.id, found.cached) == (now, True)


def test_a_half_downloaded_checkpoint_is_not_taken(cache: Path) -> None:
    """Of two shards one is missing: auto is random, as if nothing were there."""
    snapshot = in_cache(cache, RESNET, small(RESNET).model)
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert build(RESNET, task="image-classification", weights="auto", device="cpu").weights == "random"


def test_a_broken_checkpoint_is_refused_and_not_replaced(cache: Path) -> None:
    """Random weights in the place of a checkpoint that is there would say something else than they are."""
    snapshot = in_cache(cache, RESNET, small(RESNET).model)
    (snapshot / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(UsageProblem, match=f"^{RESNET} cannot be loaded from the hub's cache: ") as problem:
        build(RESNET, task="image-classification", weights="auto", device="cpu")
    assert str(problem.value).endswith('weights="random" needs no checkpoint: the same architecture, the same work')


def test_a_model_whose_class_is_gone_has_no_checkpoint() -> None:
    """The reason, and what to do instead."""
    with pytest.raises(UsageProblem) as problem:
        build("jozhang97/deta-swin-large", task="object-detection", weights="hub", device="cpu")
    assert str(problem.value) == (
        "jozhang97/deta-swin-large cannot be loaded from the hub: transformers 5 has no DETA any more: it is built as "
        "the Deformable DETR it descends from, two-stage and with the same Swin-L backbone, five feature levels and "
        '900 queries. weights="random" needs no checkpoint: the same architecture, the same work'
    )


# --- the hub ---------------------------------------------------------------------------------------

ASK = """
import json, sys, time
from pytest_carbon.records import UsageProblem
from pytest_carbon.tasks.models import build, silent

with silent():  # the import of torch and transformers is not what is timed
    import torch
answers = {}
for id, task in json.loads(sys.argv[1]).items():
    began = time.perf_counter()
    try:
        built = build(id, task=task, weights="hub", device="cpu")
        answers[id] = [built.weights, time.perf_counter() - began]
    except UsageProblem as problem:
        answers[id] = [str(problem), time.perf_counter() - began]
print(json.dumps(answers))
"""


def ask(cache: Path, models: dict[str, str], **variables: str) -> dict[str, tuple[str, float]]:
    """What a process with these environment variables says of these models, and how long each took, in seconds."""
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    clean = {name: value for name, value in clean.items() if not name.startswith(("HF_", "HUGGING"))}
    run = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(models)],
        env={**clean, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.stderr == ""
    answers: dict[str, tuple[str, float]] = json.loads(run.stdout)
    return answers


class Hub(BaseHTTPRequestHandler):
    """A hub on the loopback: files of one model, and what the hub says of others."""

    files: Path
    refusals: ClassVar = {
        "gpt2": (403, "GatedRepo"),
        "distilgpt2": (401, "RepoNotFound"),
        "facebook/opt-1.3b": (404, "EntryNotFound"),
        "gpt2-medium": (503, ""),
    }

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        id, separator, name = self.path.lstrip("/").partition("/resolve/")
        status, code = self.refusals.get(id, (404, "EntryNotFound"))
        file = self.files / name.partition("/")[2] if separator else self.files / "none"
        if id == RESNET and file.is_file():
            body = file.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{file.name}"')
            self.send_header("X-Repo-Commit", COMMIT)
        else:
            body = b""
            self.send_response(status)
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """Its address."""
    with silent():
        small(RESNET, seed=5).model.save_pretrained(tmp_path / "on_hub")
    Hub.files = tmp_path / "on_hub"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
def test_what_the_hub_says_is_said(hub: str, tmp_path: Path) -> None:
    """A checkpoint is downloaded; one that cannot be had is a sentence with its remedy."""
    models = dict.fromkeys(Hub.refusals, "text-generation") | {RESNET: "image-classification"}
    answers = ask(tmp_path / "cache", models, HF_ENDPOINT=hub)
    remedy = 'weights="random" needs no checkpoint: the same architecture, the same work'
    assert {id: said for id, (said, _) in answers.items()} == {
        RESNET: "hub",
        "gpt2": f"gpt2 is gated: its licence has to be accepted at {hub}/gpt2, and a token set (`hf auth login`, or "
        f"HF_TOKEN). {remedy}",
        "distilgpt2": f"the hub at {hub} has no model distilgpt2 that this token may see. {remedy}",
        "facebook/opt-1.3b": f"facebook/opt-1.3b has no config.json on the hub: nothing to load. {remedy}",
        "gpt2-medium": f"the hub at {hub} answered 503 for gpt2-medium: try again later. {remedy}",
    }


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_said_at_once(tmp_path: Path) -> None:
    """Not after minutes of tries; and that random weights need none."""
    import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    models = {RESNET: "image-classification", "segmind/tiny-sd": "image-generation"}
    answers = ask(tmp_path, models, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    for id, (said, seconds) in answers.items():
        start = f"the hub at http://127.0.0.1:{port} cannot be reached ("
        end = (
            f"), and {id} is not in its cache ({tmp_path}). "
            'weights="random" needs no checkpoint: the same architecture, the same work'
        )
        assert said.startswith(start), said
        assert said.endswith(end), said
        assert "refused" in said
        assert seconds < 30, "the sentence waited for tries to be repeated"


@pytest.mark.slow
def test_without_leave_to_ask_the_hub_it_is_not_asked(hub: str, tmp_path: Path) -> None:
    """HF_HUB_OFFLINE is named, since it is what forbids it."""
    ((said, _),) = ask(
        tmp_path / "cache", {RESNET: "image-classification"}, HF_ENDPOINT=hub, HF_HUB_OFFLINE="1"
    ).values()
    assert said == (
        f"{RESNET} is not in the hub's cache ({tmp_path / 'cache'}), and HF_HUB_OFFLINE forbids downloading it. "
        'weights="random" needs no checkpoint: the same architecture, the same work'
    )
