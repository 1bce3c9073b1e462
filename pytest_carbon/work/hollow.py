"""Hollow tensors: floats without memory, for models at their full size; integers and booleans are real."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_Tensor = torch.Tensor
_aten = torch.ops.aten
_MANY = 256
"""From so many choices on, an index picks a token of a vocabulary; below, an expert, a class or a position."""
_FIRST_TOKEN = 3
"""Below lie the special tokens of most vocabularies."""


class NoValueError(RuntimeError):
    """A value of a hollow tensor was asked for."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} asks for a value of a hollow tensor, and hollow floats have none: count this call on real weights"
        )


class _State:
    avoid: frozenset[int] = frozenset()
    building = False


def avoid(tokens: Sequence[int]) -> None:
    """Never pick these tokens: those that would end a text."""
    _State.avoid = frozenset(tokens)


class Hollow(torch.Tensor):  # type: ignore[misc]
    """Says "cpu", has a shape, strides and a dtype, and no memory."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, shape: Any, strides: Any, dtype: Any, requires_grad: bool = False) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls, shape, strides=strides, dtype=dtype, device="cpu", requires_grad=requires_grad
        )

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Hollow({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        if _asked_by_a_library():
            return torch.zeros(self.shape, dtype=self.dtype).tolist()
        raise NoValueError("tolist()")

    def numpy(self, *, force: bool = False) -> Any:
        if _asked_by_a_library():  # which makes a picture of it, or a score that decides nothing
            return torch.zeros(self.shape, dtype=self.dtype).numpy()
        raise NoValueError("numpy()")


def _asked_by_a_library() -> bool:
    """Tell whether the code that asks for values is that of a model library, and not the user's."""
    frame = sys._getframe(2)
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in ("torch", "pytest_carbon"):
            return package in ("diffusers", "transformers")
        frame = frame.f_back  # type: ignore[assignment]
    return False


def like(tensor: Any) -> Any:
    """Return a hollow tensor of a tensor's shape, strides and dtype."""
    return Hollow(tensor.shape, tensor.stride(), tensor.dtype)


def is_hollow(dtype: Any) -> bool:
    """Tell whether tensors of a dtype lose their values: floats and complex numbers."""
    return bool(dtype.is_floating_point or dtype.is_complex)


def hollow(module: Any) -> Any:
    """Replace a model's weights by hollow ones, in place; return it. Buffers stay real, as code reads them."""
    made: dict[int, Any] = {}
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is None or isinstance(weight, Hollow) or not is_hollow(weight.dtype):
                continue
            if id(weight) not in made:
                made[id(weight)] = torch.nn.Parameter(like(weight.detach()), requires_grad=weight.requires_grad)
            part._parameters[name] = made[id(weight)]
    return module


class _Weights(TorchDispatchMode):  # type: ignore[misc]
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES and str(kwargs.get("device") or "cpu").partition(":")[0] == "cpu":
            dtype = kwargs.get("dtype") or torch.get_default_dtype()
            if is_hollow(dtype):
                shape = tuple(args[0])
                strides = args[1] if func is _aten.empty_strided.default else _contiguous(shape)
                return Hollow(shape, strides, dtype)
        return func(*args, **kwargs)


_FACTORIES = frozenset(
    {
        _aten.empty.memory_format,
        _aten.empty_strided.default,
        _aten.zeros.default,
        _aten.ones.default,
        _aten.full.default,
        _aten.rand.default,
        _aten.randn.default,
    }
)


@contextmanager
def weights() -> Iterator[None]:
    """Build models without memory: floats that are made within are hollow, and initialising them does nothing."""
    _State.building = True
    try:
        with _Weights():
            yield
    finally:
        _State.building = False


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


# Running an operator: a memo of shapes, and torch's own rules (the meta device) where it has none.

_MEMO: dict[Any, Any] = {}
_MEMO_SIZE = 200_000
_HOW: dict[Any, Any] = {}


class _How:
    """How an operator runs on hollow tensors, found out once."""

    __slots__ = ("composite", "name", "places", "returns", "writes")

    def __init__(self, func: Any) -> None:
        arguments = func._schema.arguments
        self.name = func._schema.name.partition("::")[2]
        self.returns = len(func._schema.returns)
        written = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        positional = [a.name for a in arguments if not a.kwarg_only]
        self.places = [(positional.index(name) if name in positional else None, name) for name in written]
        self.writes = bool(written) and not self.name.startswith(("_native_batch_norm", "native_batch_norm", "_batch_"))
        if self.writes and torch.Tag.inplace_view in func.tags:
            raise NotImplementedError(f"hollow tensors cannot change their shape in place: {func}")
        self.composite = None
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        if has(func.name(), "CompositeImplicitAutograd") and not has(func.name(), "CPU"):
            self.composite = torch._C.DispatchKey.CompositeImplicitAutograd

    def written(self, args: Any, kwargs: Any) -> Any:
        results = [
            args[place] if place is not None and place < len(args) else kwargs.get(name) for place, name in self.places
        ]
        return None if not self.returns else results[0] if self.returns == 1 else tuple(results)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    how = _HOW.get(func)
    if how is None:
        how = _HOW[func] = _How(func)
    if how.composite is not None:
        return func._op_dk(how.composite, *args, **kwargs)
    if how.writes:
        return how.written(args, kwargs)
    if (handler := _HANDLERS.get(how.name)) is not None:
        with _no_inference_tensors():
            handled = handler(func, args, kwargs)
        if handled is not NotImplemented:
            return handled
    key = (func, _described(args), _described(tuple(kwargs.items())) if kwargs else None)
    known = _MEMO.get(key)
    if known is None:
        known = _on_meta(func, args, kwargs)
        if len(_MEMO) > _MEMO_SIZE:
            _MEMO.clear()
        _MEMO[key] = known
    with _no_inference_tensors():
        return _built(known, how.name, args)


def _no_inference_tensors() -> Any:
    """Make the usual tensors in inference mode, too: a view of a weight is one."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


def _described(values: Any) -> Any:
    described: list[Any] = []
    for value in values:
        if isinstance(value, _Tensor):
            described.append((value.shape, value.stride(), value.dtype))
        elif isinstance(value, list | tuple):
            described.append(_described(value))
        else:
            described.append((type(value), value))
    return tuple(described)


def _to_meta(value: Any) -> Any:
    if isinstance(value, _Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, list):
        return [_to_meta(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_to_meta(item) for item in value)
    return torch.device("meta") if isinstance(value, torch.device) else value


def _on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    try:
        with torch.no_grad():
            out = func(*_to_meta(args), **{name: _to_meta(value) for name, value in kwargs.items()})
    except NotImplementedError as error:
        raise NotImplementedError(
            f"hollow tensors cannot run {func.name()}, whose result has no known shape: count this call on real weights"
        ) from error
    return _spec(out)


def _spec(out: Any) -> Any:
    """Return what a result looks like: a tuple for a hollow tensor, else a list or what it is."""
    if isinstance(out, _Tensor):
        spec = (tuple(out.shape), out.stride(), out.dtype)
        return spec if is_hollow(out.dtype) else ["integers", spec]
    if isinstance(out, list | tuple):
        return ["many", type(out), [_spec(item) for item in out]]
    return ["plain", out]


def _built(spec: Any, name: str, args: Any) -> Any:
    if type(spec) is tuple:
        return Hollow(*spec)
    if spec[0] == "integers":
        return _integers(name, args, *spec[1])
    if spec[0] == "many":
        items = [_built(item, name, args) for item in spec[2]]
        return items if spec[1] is list else tuple(items)
    return spec[1]


def _integers(name: str, args: Any, shape: Any, strides: Any, dtype: Any) -> Any:
    """Return stand-ins for integers and booleans that come of values which are not there."""
    if name in ("zeros_like", "new_zeros", "empty_like", "new_empty", "_to_copy"):
        return torch.zeros(shape, dtype=dtype)
    if name in ("ones_like", "new_ones", "isfinite", "ne"):
        return torch.ones(shape, dtype=dtype)
    if name in ("full_like", "new_full"):
        return torch.full(shape, args[1 if name == "full_like" else 2], dtype=dtype)
    if name == "eq":
        return torch.full(shape, len(args) > 1 and args[0] is args[1], dtype=dtype)
    if dtype is torch.bool:  # a better beam is always possible; no initial weight lies outside its bounds
        return torch.full(shape, name in ("gt", "ge") and not _State.building, dtype=dtype)
    if name in ("argmax", "argmin", "max", "min", "multinomial", "topk", "sort", "argsort", "kthvalue", "mode"):
        dim = -1 if name in ("multinomial", "topk") else next((a for a in args[1:] if type(a) is int), -1)
        if name == "topk" and len(args) > 2:
            dim = args[2]
        return _picked(name, args[0], shape, dim).to(dtype)
    return torch.zeros(shape, dtype=dtype)


def _picked(name: str, source: Any, shape: Any, dim: int) -> Any:
    """Pick indices: tokens of a vocabulary never end a text; experts are picked in turn."""
    choices = source.shape[dim] if source.dim() else 1
    if name in ("sort", "argsort") and shape:
        line = torch.arange(choices)
        return line.view([-1 if d == dim % len(shape) else 1 for d in range(len(shape))]).expand(shape).contiguous()
    count = math.prod(shape)
    if choices < _MANY:
        return (torch.arange(count) % choices).view(shape) if name == "topk" else torch.zeros(shape, dtype=torch.long)
    if name != "topk":
        token = next(t for t in range(_FIRST_TOKEN, choices) if t not in _State.avoid)
        return torch.full(shape, token)
    width = shape[dim]
    tokens = [t for t in range(_FIRST_TOKEN, choices) if t not in _State.avoid][:width] if width < choices // 2 else []
    line = torch.tensor(tokens) if len(tokens) == width else torch.arange(width)
    return line.view([-1 if d == dim % len(shape) else 1 for d in range(len(shape))]).expand(shape).contiguous()


def _refuse(func: Any, args: Any, kwargs: Any) -> Any:
    if any(isinstance(value, Hollow) for value in args[:1]):
        raise NoValueError(f"{func.name().removeprefix('aten::')}")
    return NotImplemented


def _item(func: Any, args: Any, kwargs: Any) -> Any:
    if _asked_by_a_library():
        return 0.0
    raise NoValueError("item()")


def _equal(func: Any, args: Any, kwargs: Any) -> bool:
    return args[0] is args[1]


def _index(func: Any, args: Any, kwargs: Any) -> Any:
    """Masks are real: turn them into positions, as shapes depend on them."""
    source, indices = args[0], args[1]
    if not any(isinstance(i, _Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices):
        return NotImplemented
    positions: list[Any] = []
    for index in indices:
        if isinstance(index, _Tensor) and index.dtype in (torch.bool, torch.uint8):
            positions.extend(index.nonzero(as_tuple=True))
        else:
            positions.append(index)
    return _run(func, (source, positions), kwargs)


def _masked_select(func: Any, args: Any, kwargs: Any) -> Any:
    if not isinstance(args[0], Hollow):
        raise NoValueError("masked_select")
    shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
    count = int(args[1].expand(shape).count_nonzero())
    return Hollow((count,), (1,), args[0].dtype)


def _as_strided(func: Any, args: Any, kwargs: Any) -> Any:
    return Hollow(tuple(args[1]), tuple(args[2]), args[0].dtype)


def _grouped(func: Any, args: Any, kwargs: Any) -> Any:
    """On the meta device torch takes bfloat16 only."""
    a, b = args[0], args[1]
    offsets = args[2] if len(args) > 2 else kwargs.get("offs")
    shape: tuple[int, ...]
    if a.dim() == 2 and b.dim() == 2:
        shape = (offsets.shape[0], a.shape[0], b.shape[1])
    elif a.dim() == 2:
        shape = (a.shape[0], b.shape[2])
    elif b.dim() == 2:
        shape = (a.shape[1], b.shape[1])
    else:
        shape = (a.shape[0], a.shape[1], b.shape[2])
    return Hollow(shape, _contiguous(shape), kwargs.get("out_dtype") or a.dtype)


def _batch_norm(func: Any, args: Any, kwargs: Any) -> Any:
    """Without training the CPU keeps no statistics."""
    if args[5]:
        return NotImplemented
    return like(args[0]), Hollow((0,), (1,), args[0].dtype), Hollow((0,), (1,), args[0].dtype)


def _kernel_choice(func: Any, args: Any, kwargs: Any) -> int:
    """Choose the kernel of attention as the CPU does, which asks for more than shapes."""
    query, value = args[0], args[2]
    dropout = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
    return int(dropout == 0.0 and query.dim() == 4 and query.shape[-1] == value.shape[-1])


_HANDLERS = {
    "_local_scalar_dense": _item,
    "nonzero": _refuse,
    "_unique2": _refuse,
    "unique_dim": _refuse,
    "unique_consecutive": _refuse,
    "bincount": _refuse,
    "equal": _equal,
    "index": _index,
    "masked_select": _masked_select,
    "as_strided": _as_strided,
    "_grouped_mm": _grouped,
    "native_batch_norm": _batch_norm,
    "_fused_sdp_choice": _kernel_choice,
}
