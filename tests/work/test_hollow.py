"""Hollow tensors: the same counts as on real ones, no memory, and no values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import pytest

from pytest_carbon.records.work import Work
from pytest_carbon.work.counting import count

torch = pytest.importorskip("torch")
hollow = pytest.importorskip("pytest_carbon.work.hollow")
nn = torch.nn

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

IDS = torch.randint(5, 90, (2, 12), generator=torch.Generator().manual_seed(0))
SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
GENERATE = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}


def built(name: str, **config: Any) -> Callable[[], Any]:
    def make() -> Any:
        transformers = pytest.importorskip("transformers")
        kind = getattr(transformers, name)
        return kind(kind.config_class(**config)).eval()

    return make


def unet() -> Any:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
    ).eval()  # fmt: skip


def generating(**more: Any) -> Callable[[Any], Any]:
    return lambda model: model.generate(IDS, **GENERATE, **more)


def training(model: Any) -> None:
    model.zero_grad()
    model(IDS, labels=IDS).loss.backward()


GPT2 = built("GPT2LMHeadModel", vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64)
LLAMA = built("LlamaForCausalLM", **SMALL, num_key_value_heads=2)
T5 = built("T5ForConditionalGeneration", vocab_size=300, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
           decoder_start_token_id=0)  # fmt: skip
WHISPER = built(
    "WhisperForConditionalGeneration", vocab_size=300, d_model=32, encoder_layers=2, decoder_layers=2,
    encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=16,
    max_source_positions=50, max_target_positions=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
)  # fmt: skip
slow = pytest.mark.slow
CALLS = {
    "gpt2": (GPT2, lambda m: m(IDS)),
    "gpt2 in inference mode": (GPT2, torch.inference_mode()(lambda m: m(IDS))),
    "gpt2, a training step": (GPT2, training),
    "gpt2 sampling": (GPT2, lambda m: m.generate(IDS, **GENERATE | {"do_sample": True, "top_p": 0.9, "top_k": 20})),
    "bert": (built("BertModel", **SMALL), lambda m: m(IDS, attention_mask=torch.ones_like(IDS))),
    "vit": (
        built("ViTModel", image_size=32, patch_size=8, **{k: v for k, v in SMALL.items() if k != "vocab_size"}),
        torch.inference_mode()(lambda m: m(torch.ones(1, 3, 32, 32))),
    ),
    "llama": (LLAMA, generating()),
    "mixtral": (built("MixtralForCausalLM", **SMALL, num_key_value_heads=2, num_local_experts=4), lambda m: m(IDS)),
    "resnet": (
        built("ResNetModel", embedding_size=16, hidden_sizes=[16, 32], depths=[1, 2], layer_type="basic"),
        lambda m: m(torch.ones(2, 3, 32, 32)),
    ),
    "unet": (unet, torch.no_grad()(lambda m: m(torch.ones(1, 4, 8, 8), 3, torch.ones(1, 7, 16)))),
}
SLOW = {
    "gpt2 without a cache": (GPT2, generating(use_cache=False)),
    "gpt2, beams": (GPT2, generating(num_beams=3)),
    "t5": (T5, generating()),
    "t5, beams": (T5, generating(num_beams=2)),
    "whisper": (WHISPER, lambda m: m.generate(torch.ones(1, 16, 100), max_new_tokens=4, min_new_tokens=4)),
    "llama, a static cache": (LLAMA, generating(cache_implementation="static")),
}


def counted(model: Any, call: Callable[[Any], Any]) -> Work:
    counted = count(call, (model,))
    assert counted.failure is None
    allowed = {"beside-torch"}  # transformers reads Whisper's tokens as a list
    if psutil.Process().children():  # started by other tests, as the server of a database: it works at any time
        allowed.add("other-processes")
    assert {one.code for one in counted.warnings} <= allowed
    assert counted.work is not None
    return counted.work


@pytest.mark.slow_beyond(3)
@pytest.mark.parametrize("name", [*CALLS, *(pytest.param(name, marks=slow) for name in SLOW)])
def test_hollow_weights_count_as_real_ones_do(name: str) -> None:
    make, call = {**CALLS, **SLOW}[name]
    torch.manual_seed(0)
    real = counted(make(), call)
    with hollow.weights():
        model = make()
    empty = counted(model, call)
    assert (real.engine, empty.engine) == ("cpu", "hollow")
    assert (empty.by_class, empty.by_module, empty.reads) == (real.by_class, real.by_module, real.reads)
    assert (empty.steps, empty.tokens_in, empty.tokens_out) == (real.steps, real.tokens_in, real.tokens_out)
    assert real.unknown_ops == ()


def test_a_model_made_hollow_afterwards_counts_as_it_did() -> None:
    torch.manual_seed(0)
    model = GPT2()
    real = counted(model, lambda m: m(IDS))
    assert hollow.hollow(model) is model
    assert model.lm_head.weight is model.transformer.wte.weight  # still tied
    assert counted(model, lambda m: m(IDS)).flops == real.flops


def test_generating_says_its_steps_and_tokens() -> None:
    with hollow.weights():
        model = GPT2()
    work = counted(model, generating())
    assert (work.steps, work.tokens_in, work.tokens_out) == (4, 24, 8)
    assert {m.module: m.calls for m in work.by_module}["transformer.h.*.mlp"] == 8
    bound = count(model.generate, (IDS,), GENERATE).work  # bound before anything is counted
    assert bound is not None
    assert (bound.steps, bound.flops) == (4, work.flops)
    assert counted(model, generating(use_cache=False)).flops > 3 * work.flops


def llama_7b() -> Any:
    transformers = pytest.importorskip("transformers")
    with hollow.weights():
        return transformers.LlamaForCausalLM(transformers.LlamaConfig()).eval()


def test_llama_7b_at_its_full_size_is_the_closed_form() -> None:
    ids = torch.randint(5, 30_000, (1, 512))
    work = counted(llama_7b(), torch.no_grad()(lambda m: m(ids, use_cache=False)))
    width, inner, layers, vocabulary, s = 4096, 11008, 32, 32000, 512
    products = layers * (4 * width * width + 3 * width * inner) + vocabulary * width
    assert work.flops == 2 * s * products + layers * 4 * s * s * width
    assert work.flops == pytest.approx(6903.4e9, rel=1e-4)


@pytest.mark.slow
def test_llama_7b_generates_within_20_seconds_and_600_mib() -> None:
    import subprocess
    import sys

    code = """
import time
import torch
from pytest_carbon.work import hollow
from pytest_carbon.work.counting import count
from transformers import LlamaConfig, LlamaForCausalLM
with hollow.weights():
    model = LlamaForCausalLM(LlamaConfig()).eval()
options = dict(max_new_tokens=32, min_new_tokens=32, do_sample=False, pad_token_id=0)
counted = count(model.generate, (torch.full((1, 32), 7),), options)
with open("/proc/self/status") as status:  # ru_maxrss begins with what the parent had when it forked
    peak_kib = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(counted.work.steps, counted.work.tokens_out, time.process_time(), peak_kib)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    steps, tokens, cpu_s, kib = map(float, done.stdout.split())
    assert (steps, tokens) == (32, 32)
    assert cpu_s < 20
    assert kib < 600 * 1024


def test_values_of_hollow_tensors_are_refused_in_a_sentence() -> None:
    with hollow.weights():
        x = torch.empty(3, 4)
        layer = nn.Linear(4, 4)
    y = layer(torch.ones(3, 4))
    for read in (
        lambda: y.sum().item(),
        lambda: float(y[0, 0]),
        lambda: y.tolist(),
        lambda: y.detach().numpy(),
        lambda: y.nonzero(),
    ):
        with pytest.raises(hollow.NoValueError, match="count this call on real weights"):
            read()
    assert isinstance(x, hollow.Hollow)
    assert repr(x) == "Hollow((3, 4), torch.float32)"


def test_hollow_tensors_behave_like_tensors_on_the_cpu() -> None:
    with hollow.weights():
        x = torch.empty(3, 4)
        layer = nn.Linear(4, 4)
        ints = torch.zeros(3, dtype=torch.long)
    assert (x.device.type, x.shape, x.dtype) == ("cpu", (3, 4), torch.float32)
    assert not isinstance(ints, hollow.Hollow)
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.half().weight.dtype == torch.float16
    assert layer.to("cpu", torch.float32).weight.shape == (4, 4)
    layer(torch.ones(2, 4)).sum().backward()
    assert layer.weight.grad.shape == (4, 4)
    torch.optim.Adam(layer.parameters()).step()
    assert isinstance(x[torch.tensor([True, False, True])], hollow.Hollow)
    assert x[torch.tensor([True, False, True])].shape == (2, 4)
    assert x.argmax(-1).tolist() == [0, 0, 0]
    import copy

    assert isinstance(copy.deepcopy(layer).weight, hollow.Hollow)


def test_an_operator_without_a_rule_for_shapes_is_named() -> None:
    with hollow.weights():
        x = torch.empty(3, 4)
    with torch.library._scoped_library("carbon_hollow", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CPU")
        with pytest.raises(NotImplementedError, match="hollow tensors cannot run carbon_hollow::twice"):
            torch.ops.carbon_hollow.twice(x)


def test_picked_tokens_never_end_a_text() -> None:
    with hollow.weights():
        logits = torch.empty(2, 1000)
    hollow.avoid([3, 4])
    assert logits.argmax(-1).tolist() == [5, 5]
    assert logits.topk(3).indices.tolist() == [[5, 6, 7]] * 2
    assert logits.softmax(-1).multinomial(1).tolist() == [[5], [5]]
    hollow.avoid([])


def test_experts_are_picked_in_turn() -> None:
    with hollow.weights():
        scores = torch.empty(4, 8)
    assert sorted(scores.topk(2).indices.flatten().tolist()) == list(range(8))


@pytest.mark.parametrize("name", ["gpt2", "bert", "mixtral", "resnet", "llama forward"])
@pytest.mark.parametrize("weights", ["real", "hollow"])
def test_models_count_the_same_without_gradients_and_in_inference_mode(name: str, weights: str) -> None:
    make, call = {**CALLS, "llama forward": (LLAMA, lambda m: m(IDS))}[name]
    torch.manual_seed(0)
    model = hollow.hollow(make()) if weights == "hollow" else make()
    without = counted(model, torch.no_grad()(call))
    assert counted(model, torch.inference_mode()(call)) == without
