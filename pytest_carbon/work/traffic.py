"""How many bytes an operator reads and writes: by the storage that it really touches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Tensor = torch.Tensor


def touched(tensor: Any) -> int:
    """Return the bytes of a tensor's elements in memory; an expanded dimension counts once."""
    if tensor.is_contiguous():
        return int(tensor.numel() * tensor.element_size())
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if stride:
            count *= size
        elif not size:
            return 0
    return int(count * tensor.element_size())


def touched_by_any(tensor: Any) -> int:
    """Return the same for tensors of every layout: sparse, nested, of a library of their own."""
    try:
        return touched(tensor)
    except (RuntimeError, NotImplementedError):
        pass
    try:
        parts = {
            torch.sparse_coo: ("_indices", "_values"),
            torch.sparse_csr: ("crow_indices", "col_indices", "values"),
            torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
            torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
            torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
        }[tensor.layout]
        return sum(touched(getattr(tensor, part)()) for part in parts)
    except (KeyError, RuntimeError, NotImplementedError):
        pass
    try:
        return int(tensor.numel() * tensor.element_size())
    except (RuntimeError, NotImplementedError):
        return 0


def all_touched(value: Any) -> int:
    """Return the bytes of all tensors in an argument or a result."""
    if isinstance(value, Tensor):
        return touched_by_any(value)
    if isinstance(value, list | tuple):
        return sum(all_touched(item) for item in value)
    return 0


def _rows(args: Sequence[Any], out: Any) -> int:
    """Count what is picked, not what it is picked from: the table of an embedding is read by its rows."""
    picked = all_touched(out)
    return 2 * picked + sum(all_touched(argument) for argument in args[1:])


def _embedding_bag(args: Sequence[Any], out: Any) -> int:
    table, indices = args[0], args[1]
    rows = int(indices.numel()) * int(table.shape[-1]) * int(table.element_size())
    return rows + sum(all_touched(argument) for argument in args[1:]) + all_touched(out)


def _indexed_elements(target: Any, indices: Sequence[Any]) -> int:
    """Return how many elements ``target[indices]`` has."""
    shapes, rest, dimension = [], 1, 0
    for index in indices:
        if index is None:
            rest *= target.shape[dimension]
            dimension += 1
        elif index.dtype in (torch.bool, torch.uint8):
            shapes.append((int(index.count_nonzero()),))
            dimension += index.dim()
        else:
            shapes.append(tuple(index.shape))
            dimension += 1
    for size in target.shape[dimension:]:
        rest *= size
    count = 1
    for size in torch.broadcast_shapes(*shapes):
        count *= size
    return int(count * rest)


def _index_put(args: Sequence[Any], out: Any) -> int:
    target, indices, values = args[0], args[1], args[2]
    written = _indexed_elements(target, indices) * int(target.element_size())
    adding = len(args) > 3 and bool(args[3])
    copied = 0 if out is None or out is target else touched_by_any(target) + touched_by_any(out)
    return written * (2 if adding else 1) + all_touched(indices) + touched_by_any(values) + copied


def _scattered(args: Sequence[Any], out: Any) -> int:
    """``scatter_(self, dim, index, src)``, ``index_add_(self, dim, index, source)`` and their relatives."""
    target, index = args[0], args[2]
    source = args[3] if len(args) > 3 and isinstance(args[3], Tensor) else None
    written = touched_by_any(source) if source is not None else int(index.numel()) * int(target.element_size())
    copied = 0 if out is None or out is target else touched_by_any(target) + touched_by_any(out)
    return 2 * written + all_touched(index) + copied


Special = Callable[[Sequence[Any], Any], int]
SPECIAL: dict[str, Special] = {
    **dict.fromkeys(("embedding", "index", "_unsafe_index", "gather", "index_select", "take", "masked_select"), _rows),
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), _embedding_bag),
    **dict.fromkeys(("index_put", "_index_put_impl", "_unsafe_index_put"), _index_put),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill"), _scattered),
}
"""Operators that touch less than their arguments, by name."""
_OVERWRITING = "copy fill zero uniform normal random bernoulli exponential cauchy geometric log_normal"
OVERWRITING = frozenset({*_OVERWRITING.split(), "_foreach_copy", "_foreach_zero"})
"""In-place operators that do not read what they write."""
