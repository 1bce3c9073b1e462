"""The FLOPs of matrix products, convolutions, attention and recurrent layers; what has no formula here has torch's.

A multiplication and an addition are two. Elementwise operators, normalisations and reductions count none: they are
bound by the bytes that they move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2, prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

Formula = Callable[[Sequence[Any], Any], int]
"""Positional arguments and result → FLOPs, as for real numbers."""


def _mm(a: Any, b: Any) -> int:
    """``[…, m, k] × [k, n]``."""
    return 2 * int(a.numel()) * int(b.shape[-1])


def _bmm(a: Any, b: Any) -> int:
    return 2 * int(a.numel()) * int(b.shape[-1])


def _dot(args: Sequence[Any], out: Any) -> int:
    return 2 * int(args[0].numel())


def _convolution(args: Sequence[Any], out: Any) -> int:
    """Each weight meets each position once: of the output, or, transposed, of the input."""
    transposed = len(args) > 6 and bool(args[6])
    return _convolved(args[0] if transposed else out, args[1])


def _convolved(positions: Any, weight: Any) -> int:
    sizes = [int(size) for size in positions.shape]
    return 2 * sizes[0] * int(weight.numel()) * prod(sizes[2:])


def _plain_convolution(args: Sequence[Any], out: Any) -> int:
    return _convolved(out[0] if isinstance(out, tuple) else out, args[1])


def _convolution_backward(args: Sequence[Any], out: Any) -> int:
    """The gradients of the input and of the weight cost the forward each."""
    gradient, input, weight, transposed, mask = args[0], args[1], args[2], args[7], args[10]
    return _convolved(input if transposed else gradient, weight) * (bool(mask[0]) + bool(mask[1]))


def attention_flops(query: Any, key: Any, value: Any) -> int:
    """Return the FLOPs of attention; heads of keys that several queries share count for each query."""
    rows, scored = int(query.shape[-2]), int(key.shape[-2])
    batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    heads = prod(int(size) for size in batch) * (int(query.shape[-3]) if query.dim() > 2 else 1)
    return 2 * heads * rows * scored * (int(query.shape[-1]) + int(value.shape[-1]))


def attention_backward_flops(query: Any, key: Any, value: Any) -> int:
    """Return what the backward of attention takes: five products, as the scores are computed again."""
    forward = attention_flops(query, key, value)
    width, value_width = int(query.shape[-1]), int(value.shape[-1])
    return forward // (width + value_width) * (3 * width + 2 * value_width)


def _trilinear(args: Sequence[Any], out: Any) -> int:
    """``einsum('bi,oij,bj->bo')`` of ``bilinear``: with the weight and the one input, then with the other."""
    first, weight, second = args[0], args[1], args[2]
    sizes = torch.broadcast_shapes(
        *(_unsqueezed(tensor.shape, dims) for tensor, dims in ((first, args[3]), (weight, args[4]), (second, args[5])))
    )
    summed = set(args[6])
    left = prod(size for dim, size in enumerate(sizes) if dim not in args[5] or dim not in summed)
    return 2 * left + 2 * prod(sizes) if summed else prod(sizes)


def _unsqueezed(shape: Sequence[int], dims: Sequence[int]) -> tuple[int, ...]:
    sizes = list(shape)
    for dim in sorted(dims):
        sizes.insert(dim, 1)
    return tuple(sizes)


def recurrent_flops(tokens: int, weights: Sequence[Any]) -> int:
    """Return the FLOPs of recurrent layers: each token meets each weight matrix once."""
    return 2 * tokens * sum(int(weight.numel()) for weight in weights if weight.dim() == 2)


def _mkldnn_rnn(args: Sequence[Any], out: Any) -> int:
    input, weights = args[0], args[1:3]
    return 2 * int(input.shape[0]) * int(input.shape[1]) * sum(int(weight.numel()) for weight in weights)


def _mkldnn_rnn_backward(args: Sequence[Any], out: Any) -> int:
    return 2 * _mkldnn_rnn(args, out)


def _grouped_mm(args: Sequence[Any], out: Any) -> int:
    """Each row meets one group's matrix; where the groups part the summed dimension, that is summed once."""
    a, b = args[0], args[1]
    if a.dim() == 2 and b.dim() == 2:
        return 2 * int(a.shape[0]) * int(a.shape[1]) * int(b.shape[1])
    return 2 * int(out.numel()) * int(a.shape[-1])


def _packed_linear(args: Sequence[Any], out: Any) -> int:
    """A linear layer whose weight torch has packed: ``quantized::linear_dynamic(x, packed)``."""
    return 2 * int(args[0].numel()) * int(out.shape[-1])


def _cdist(args: Sequence[Any], out: Any) -> int:
    """Euclidean distances are made of a matrix product; each pair takes a product and two sums a dimension."""
    return 3 * int(out.numel()) * int(args[0].shape[-1])


def _fft(args: Sequence[Any], out: Any) -> int:
    """5 n log2 n, the usual count; half of it where one side is real."""
    input, dims = args[0], args[1]
    size = max(int(input.numel()), int(out.numel()))
    longer = input if input.numel() >= out.numel() else out
    points = prod(int(longer.shape[dim]) for dim in dims)
    flops = 5 * size * log2(points) if points > 1 else 0.0
    return round(flops if input.is_complex() and out.is_complex() else flops / 2)


def _cubic(factor: float) -> Formula:
    """An algorithm of linear algebra on matrices ``n × n``: a known multiple of n³ each."""

    def formula(args: Sequence[Any], out: Any) -> int:
        matrix = args[0]
        return round(factor * int(matrix.numel()) * min(int(matrix.shape[-1]), int(matrix.shape[-2])))

    return formula


def _first_two(product: Callable[[Any, Any], int]) -> Formula:
    return lambda args, out: product(args[0], args[1])


def _last_two(product: Callable[[Any, Any], int]) -> Formula:
    return lambda args, out: product(args[1], args[2])


_FORMULAS: dict[str, Formula] = {
    "mm": _first_two(_mm),
    "addmm": _last_two(_mm),
    "_addmm_activation": _last_two(_mm),
    "bmm": _first_two(_bmm),
    "baddbmm": _last_two(_bmm),
    "addbmm": _last_two(_bmm),
    "mv": _dot,
    "addmv": lambda args, out: 2 * int(args[1].numel()),
    "dot": _dot,
    "vdot": _dot,
    "_int_mm": _first_two(_mm),
    "_scaled_mm": _first_two(_mm),
    "_weight_int8pack_mm": lambda args, out: 2 * int(args[0].numel()) * int(args[1].shape[0]),
    "_weight_int4pack_mm": lambda args, out: 2 * int(args[0].numel()) * int(out.shape[-1]),
    "_weight_int4pack_mm_for_cpu": lambda args, out: 2 * int(args[0].numel()) * int(out.shape[-1]),
    "_dyn_quant_matmul_4bit": lambda args, out: 2 * int(args[0].numel()) * int(out.shape[-1]),
    "_grouped_mm": _grouped_mm,
    "_scaled_grouped_mm": _grouped_mm,
    "_trilinear": _trilinear,
    "mkldnn_linear": lambda args, out: 2 * int(args[0].numel()) * int(out.shape[-1]),
    "_mkl_linear": lambda args, out: 2 * int(args[0].numel()) * int(out.shape[-1]),
    "_cdist_forward": _cdist,
    "_euclidean_dist": _cdist,
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_overrideable": _convolution,
    "mkldnn_convolution": _plain_convolution,
    "_conv_depthwise2d": _plain_convolution,
    "conv_depthwise3d": _plain_convolution,
    "_slow_conv2d_forward": _plain_convolution,
    "slow_conv3d_forward": _plain_convolution,
    "convolution_backward": _convolution_backward,
    "convolution_backward_overrideable": _convolution_backward,
    "_scaled_dot_product_flash_attention_for_cpu": lambda args, out: attention_flops(*args[:3]),
    "_scaled_dot_product_flash_attention_for_cpu_backward": lambda args, out: attention_backward_flops(*args[1:4]),
    "mkldnn_rnn_layer": _mkldnn_rnn,
    "mkldnn_rnn_layer_backward": _mkldnn_rnn_backward,
    "_fft_c2c": _fft,
    "_fft_r2c": _fft,
    "_fft_c2r": _fft,
    "linalg_cholesky_ex": _cubic(1 / 3),
    "cholesky": _cubic(1 / 3),
    "linalg_lu_factor_ex": _cubic(2 / 3),
    "linalg_inv_ex": _cubic(2),
    "_linalg_det": _cubic(2 / 3),
    "_linalg_slogdet": _cubic(2 / 3),
    "linear_dynamic": _packed_linear,
    "linear_relu_dynamic": _packed_linear,
    "linear_dynamic_fp16": _packed_linear,
    "linear_relu_dynamic_fp16": _packed_linear,
}
_QUANTISED = {"linear": _packed_linear, "linear_relu": _packed_linear}


def formula_of(func: Any, name: str) -> Formula | None:
    """Return the formula of an operator, ours or that registered with torch; None where there is none."""
    if func.namespace in ("aten", "quantized", "_quantized", "mkldnn", "prims", "onednn"):
        if func.namespace == "quantized" and name in _QUANTISED:
            return _QUANTISED[name]
        if (known := _FORMULAS.get(name)) is not None:
            return known
    registered = flop_registry.get(func._overloadpacket)
    if registered is None:
        return None
    return lambda args, out: int(registered(*args, out_val=out))
