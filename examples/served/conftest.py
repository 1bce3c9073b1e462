"""Servers that the tests start, and end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

STARTS_WITHIN_S = 60


@contextlib.contextmanager
def running(module, *arguments, path):
    """A server of a Python module on a free port, once it answers; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, *arguments, "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        command, cwd=Path(__file__).parent, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet
    ) as one:
        try:
            until_s = time.monotonic() + STARTS_WITHIN_S
            url = f"http://127.0.0.1:{port}"
            while True:
                assert one.poll() is None, f"the server ended with status {one.returncode}: {' '.join(command)}"
                assert time.monotonic() < until_s, f"no answer within {STARTS_WITHIN_S} s: {' '.join(command)}"
                with contextlib.suppress(OSError), urllib.request.urlopen(url + path, timeout=5):
                    break
                time.sleep(0.1)
            yield url
        finally:
            one.kill()


@pytest.fixture(scope="module")
def uvicorn():
    """The model of app.py behind uvicorn."""
    pytest.importorskip("uvicorn")
    with running("uvicorn", "app:app", path="/") as url:
        yield url


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """A tiny Llama behind `transformers serve`, which speaks OpenAI's protocol: its URL, and its name."""
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        pytest.skip("transformers serve needs pip install 'transformers[serving]'")
    folder = tmp_path_factory.mktemp("chat") / "tiny-llama"
    write_model(folder)
    with running("transformers.cli.transformers", "serve", str(folder), "--device", "cpu", path="/health") as url:
        yield url, str(folder)


def write_model(folder):
    """Write a model and its tokenizer. Each answer has 16 tokens, whatever the weights want to say."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(996))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        **tokens,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(min_new_tokens=16, max_new_tokens=16, do_sample=False, **tokens)
    model.save_pretrained(folder)
