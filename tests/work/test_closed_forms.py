"""FLOPs, bytes and kernels of modules against what is computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_carbon.records.work import Work
from pytest_carbon.work.counting import count

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional


def counted(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Work:
    call = count(fn, args, kwargs)
    assert call.failure is None
    assert call.work is not None
    return call.work


def by_class(work: Work) -> dict[str, tuple[int, int, int]]:
    return {one.operators: (one.flops, one.bytes, one.kernels) for one in work.by_class}


def quantised(width: int, out: int) -> Any:
    model = nn.Sequential(nn.Linear(width, out))
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def grouped_query(x: Any, heads: int, shared: int) -> Any:
    b, s, width = x.shape
    d = width // heads
    q = x.view(b, s, heads, d).transpose(1, 2)
    k = x[..., : shared * d].view(b, s, shared, d).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, k, enable_gqa=True)


def experts(x: Any, weights: Any, sizes: list[int]) -> Any:
    return torch._grouped_mm(x, weights, offs=torch.tensor(sizes).cumsum(0).to(torch.int32))


r = torch.randn
FORMS = {
    "linear": (lambda: (nn.Linear(8, 16), r(3, 5, 8)), 2 * 15 * 8 * 16),
    "grouped convolution": (lambda: (nn.Conv2d(8, 12, 3, groups=4), r(2, 8, 10, 10)), 2 * 2 * 64 * 12 * 2 * 9),
    "transposed convolution": (
        lambda: (nn.ConvTranspose2d(6, 4, 3, 2, groups=2), r(2, 6, 5, 7)),
        2 * 2 * 35 * 6 * 2 * 9,
    ),
    "1-d convolution": (lambda: (nn.Conv1d(4, 8, 3, padding=1), r(2, 4, 20)), 2 * 2 * 20 * 8 * 4 * 3),
    "grouped-query attention": (lambda: (lambda x: grouped_query(x, 8, 2), r(2, 6, 32)), 2 * 2 * 8 * 6 * 6 * 8),
    "attention with a mask": (
        lambda: (lambda q: F.scaled_dot_product_attention(q, q, q, attn_mask=torch.zeros(7, 7)), r(2, 4, 7, 16)),
        4 * 2 * 4 * 7 * 7 * 16,
    ),
    "attention, values of another width": (
        lambda: (lambda q, v: F.scaled_dot_product_attention(q, q, v), r(2, 4, 7, 16), r(2, 4, 7, 8)),
        2 * 2 * 4 * 7 * 7 * (16 + 8),
    ),
    "multi-head attention": (
        lambda: (
            lambda m, x: m(x, x, x, need_weights=False),
            nn.MultiheadAttention(16, 4, batch_first=True),
            r(2, 6, 16),
        ),
        2 * 12 * 16 * 16 * 4 + 4 * 2 * 6 * 6 * 16,
    ),
    "LSTM, two layers, both ways": (
        lambda: (nn.LSTM(5, 7, num_layers=2, bidirectional=True), r(9, 3, 5)),
        2 * 9 * 3 * 2 * 4 * 7 * ((5 + 7) + (14 + 7)),
    ),
    "GRU": (lambda: (nn.GRU(5, 7), r(9, 3, 5)), 2 * 27 * 3 * 7 * 12),
    "RNN": (lambda: (nn.RNN(5, 7), r(9, 3, 5)), 2 * 27 * 7 * 12),
    "LSTM over packed sequences": (
        lambda: (nn.LSTM(5, 7), nn.utils.rnn.pack_padded_sequence(r(9, 3, 5), torch.tensor([9, 4, 2]))),
        2 * 15 * 4 * 7 * 12,
    ),
    "LSTM cell": (lambda: (nn.LSTMCell(5, 7), r(3, 5)), 2 * 3 * 4 * 7 * 12),
    "dynamic int8 linear": (lambda: (quantised(16, 24), r(3, 16)), 2 * 3 * 16 * 24),
    "int8 product": (
        lambda: (torch._int_mm, torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 24, dtype=torch.int8)),
        2 * 32 * 16 * 24,
    ),
    "int8 weights": (
        lambda: (
            torch._weight_int8pack_mm,
            r(4, 32).bfloat16(),
            torch.ones(24, 32, dtype=torch.int8),
            torch.ones(24).bfloat16(),
        ),
        2 * 4 * 32 * 24,
    ),
    "experts": (
        lambda: (lambda x, w: experts(x, w, [3, 5, 8]), r(16, 8).bfloat16(), r(3, 8, 16).bfloat16()),
        2 * 16 * 8 * 16,
    ),
    "bilinear": (lambda: (nn.Bilinear(3, 4, 5), r(6, 3), r(6, 4)), 2 * 6 * 5 * 3 * 4 + 2 * 6 * 5 * 4),
    "einsum": (lambda: (lambda a, b: torch.einsum("bij,bjk->bik", a, b), r(2, 3, 4), r(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
    "baddbmm": (lambda: (torch.baddbmm, r(2, 3, 5), r(2, 3, 4), r(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
    "matrix × vector": (lambda: (torch.mv, r(3, 4), r(4)), 2 * 3 * 4),
    "complex product": (lambda: (torch.mm, r(3, 4, dtype=torch.cfloat), r(4, 5, dtype=torch.cfloat)), 8 * 3 * 4 * 5),
    "layer norm": (lambda: (nn.LayerNorm(8), r(3, 8)), 0),
    "embedding": (lambda: (nn.Embedding(1000, 8), torch.arange(5)), 0),
    "embedding bag": (lambda: (nn.EmbeddingBag(1000, 8), torch.arange(6).view(2, 3)), 0),
    "transformer layer": (
        lambda: (nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True).eval(), r(2, 6, 16)),
        2 * 12 * 16 * (4 * 16 + 2 * 32) + 4 * 2 * 6 * 6 * 16,
    ),
    "Fourier transform": (lambda: (torch.fft.fft, r(4, 64, dtype=torch.cfloat)), 5 * 4 * 64 * 6),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference"])
@pytest.mark.parametrize("form", FORMS)
def test_flops_are_those_of_the_closed_form(form: str, mode: str) -> None:
    make, flops = FORMS[form]
    fn, *args = make()
    with {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}[mode]():
        work = counted(fn, *args)
    assert (work.flops, work.unknown_ops) == (flops, ())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("form", FORMS)
def test_counts_are_the_same_without_gradients_and_in_inference_mode(form: str) -> None:
    fn, *args = FORMS[form][0]()
    with torch.no_grad():
        without = counted(fn, *args)
    with torch.inference_mode():
        assert counted(fn, *args) == without


TRAINED = {
    "linear": (lambda: (nn.Linear(8, 16), r(5, 8)), 2 * 5 * 8 * 16 * 3),
    "convolution": (lambda: (nn.Conv2d(8, 12, 3, groups=4), r(2, 8, 10, 10)), 2 * 2 * 64 * 12 * 2 * 9 * 3),
    "transposed convolution": (
        lambda: (nn.ConvTranspose2d(6, 4, 3, 2, groups=2), r(2, 6, 5, 7)),
        2 * 2 * 35 * 6 * 2 * 9 * 3,
    ),
    "LSTM": (lambda: (lambda m, x: m(x)[0], nn.LSTM(5, 7), r(9, 3, 5)), 2 * 27 * 4 * 7 * 12 * 3),
    "attention": (
        lambda: (lambda q: F.scaled_dot_product_attention(q, q, q), r(2, 4, 7, 16)),
        (2 + 5) * 2 * 2 * 4 * 7 * 7 * 16,
    ),
    "attention by its parts": (
        lambda: (lambda q: F.scaled_dot_product_attention(q, q, q, r(7, 7, requires_grad=True)), r(2, 4, 7, 16)),
        (2 + 5) * 2 * 2 * 4 * 7 * 7 * 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", TRAINED)
def test_a_training_step_takes_three_times_the_forward(form: str) -> None:
    """Attention apart, whose backward computes the scores again."""
    make, flops = TRAINED[form]
    fn, *args = make()
    leaf = args[-1].requires_grad_()

    def step() -> None:
        leaf.grad = None
        fn(*args).sum().backward()

    assert counted(step).flops == flops


def test_bytes_are_those_that_are_touched() -> None:
    table, ids = r(1000, 8), torch.arange(5)
    assert counted(F.embedding, ids, table).bytes == 5 * 8 + 2 * 5 * 8 * 4  # the rows, and not the table
    assert counted(torch.add, r(1, 8).expand(100, 8), 1.0).bytes == 8 * 4 + 800 * 4  # an expanded input is small
    assert counted(torch.mm, r(3, 4), r(4, 5)).bytes == 4 * (12 + 20 + 15)
    assert counted(lambda x: x.add_(1.0), r(6)).bytes == 4 * 12  # reads and writes
    assert counted(lambda x: x.fill_(1.0), r(6)).bytes == 4 * 6
    assert counted(lambda x, y: x.copy_(y), r(6), r(6).half()).bytes == 6 * (4 + 2)
    assert counted(torch.index_select, table, 0, ids).bytes == 5 * 8 + 2 * 5 * 8 * 4
    zeros = torch.zeros(8)
    assert counted(lambda t: t.index_put_((ids,), zeros), table).bytes == 5 * 8 + 8 * 4 + 5 * 8 * 4
    assert counted(lambda x, y: torch.add(x, x, out=y), r(6), r(6)).bytes == 3 * 6 * 4
    assert counted(torch.add, r(10, 10)[:, ::2], 1.0).bytes == 2 * 50 * 4  # not contiguous
    assert counted(lambda x: torch._foreach_add_([x, x[:2]], 1.0), r(6)).bytes == 2 * 4 * 8


def test_views_and_questions_are_no_kernels() -> None:
    def look(x: Any) -> Any:
        y = x.view(2, 6).t()[1:].unsqueeze(0).expand(3, 5, 2).detach().reshape(3, 5, 2)
        return torch.empty_like(y), x.is_contiguous(), x.shape, x * 2

    assert counted(look, r(12)).kernels == 1


def test_classes_keep_kinds_and_dtypes_apart() -> None:
    def call(x: Any) -> Any:
        y = (x.bfloat16() @ x.bfloat16().t()).float().softmax(-1)
        return F.dropout(y, 0.5), y.argsort(-1), y.argmin(-1), y.clone(), F.layer_norm(y, y.shape[-1:])

    assert counted(call, r(4, 8)).by_class
    names = set(by_class(counted(call, r(4, 8))))
    assert names >= {
        "cast bfloat16", "cast float32", "gemm bfloat16", "softmax float32", "random float32", "sort float32",
        "reduction float32", "copy float32", "normalisation float32",
    }  # fmt: skip


def test_autocast_is_counted_as_it_casts() -> None:
    layer, x = nn.Linear(8, 8), r(2, 8)

    def call() -> Any:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            return layer(x)

    classes = by_class(counted(call))
    assert classes["gemm bfloat16"][0] == 2 * 2 * 8 * 8
    assert classes["cast bfloat16"][2] == 3
