"""The dispatch mode that counts each operator as it runs, and what is taken as one operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_carbon.host.stdlib import threading, time
from pytest_carbon.work import hollow
from pytest_carbon.work.formulas import attention_backward_flops, attention_flops, recurrent_flops
from pytest_carbon.work.ledger import Ledger, add
from pytest_carbon.work.plans import Plan
from pytest_carbon.work.traffic import all_touched, touched, touched_by_any

__tracebackhide__ = True  # an error of a counted call is shown without the frames of this module

_PLANS: dict[Any, Plan] = {}
_Tensor = torch.Tensor
_clock_ns = time.perf_counter_ns
_node: Any = torch._C._current_autograd_node
_excluded: Any = torch._C._dispatch_tls_is_dispatch_key_excluded
_exclude: Any = torch._C._dispatch_tls_set_dispatch_key_excluded
_VIEWS = torch._C.DispatchKey.ADInplaceOrView
_push: Any = torch._C._push_on_torch_dispatch_stack
_pop: Any = torch._C._pop_torch_dispatch_stack
_IMPLICIT = torch._C.DispatchKey.CompositeImplicitAutograd
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter, hollow.Hollow})
_aten = torch.ops.aten


class CountingMode(TorchDispatchMode):  # type: ignore[misc]
    """Counts the operators of the thread that entered it."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled while work is counted, and the wrapper would import the compiler

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.muted = 0
        self.thread = threading.get_ident()
        self.hollow = False
        self.inside_ns = 0
        """Time in operators."""
        self.operators = 0
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plan = _PLANS.get(func)
        if plan is None:
            if isinstance(func, torch._ops.HigherOrderOperator):
                return self._higher_order(func, args, kwargs or {})
            plan = _PLANS[func] = Plan(func)
        if types:
            for kind in types:
                if kind not in _PLAIN:
                    if kind.__module__ == "torch._subclasses.fake_tensor":
                        return func(*args, **kwargs) if kwargs else func(*args)  # traced: nothing runs
                    return (
                        NotImplemented  # a library's own tensors: they take the operator apart, and this sees the parts
                    )
                if kind is hollow.Hollow:
                    self.hollow = True
        if self.muted:
            return func(*args, **kwargs) if kwargs else func(*args)
        if plan.composite is not None:
            if func in _WHOLE:
                return self.whole(func, func, args, kwargs or {})
            if any(isinstance(value, _Tensor) and value.is_nested and value.layout is torch.strided for value in args):
                self.ledger.unknown[f"{plan.name} (nested)"] += 1  # it has kernels of its own, which call no others
                add(self.ledger.page.cells, ("other", args[0].dtype), 0, all_touched(args), 1)
                return func(*args, **kwargs) if kwargs else func(*args)
            views = not plan.aliases and _excluded(_VIEWS)
            if views:  # a view of a weight still asks for a gradient, as without this mode: products look at it
                _exclude(_VIEWS, False)
            _push(self)
            try:
                return func._op_dk(plan.composite, *args, **kwargs) if kwargs else func._op_dk(plan.composite, *args)
            finally:
                _pop(None)
                if views:
                    _exclude(_VIEWS, True)
        if not plan.own and plan.formula is None:
            return self._custom(func, plan, args, kwargs or {})
        started = _clock_ns()
        out = func(*args, **kwargs) if kwargs else func(*args)
        self.inside_ns += _clock_ns() - started
        self.operators += 1
        if plan.read is not None:
            self.read(plan.read)
        if not plan.nothing:
            self._count(plan, args, kwargs, out)
        return out

    def _count(self, plan: Plan, args: Any, kwargs: Any, out: Any) -> None:
        ledger = self.ledger
        node = _node()
        page = ledger.page if node is None else ledger.backward_page(node)
        if page is None:
            return
        first = None
        if plan.special is not None:
            first = args[0]
            if plan.name == "index" and any(index is not None and index.dtype is torch.bool for index in args[1]):
                self.read("mask")  # how many it picks is not known before
            nbytes = plan.special(args, None if plan.writes else kwargs.get("out", out) if kwargs else out)
        else:
            nbytes = 0
            position = 0
            try:
                for value in args:
                    if isinstance(value, _Tensor):
                        if first is None:
                            first = value
                        if position != plan.unread:
                            nbytes += touched(value)
                    elif isinstance(value, list | tuple):
                        for item in value:
                            if isinstance(item, _Tensor):
                                if first is None:
                                    first = item
                                if position != plan.unread:
                                    nbytes += touched(item)
                    position += 1
                for index in plan.writes:
                    value = args[index] if index < len(args) else None
                    nbytes += touched(value) if isinstance(value, _Tensor) else all_touched(value)
                if plan.fresh:
                    nbytes += touched(out) if isinstance(out, _Tensor) else all_touched(out)
            except (RuntimeError, NotImplementedError):  # sparse or nested: no strides
                first = self._odd(plan, args)
                nbytes = all_touched(args) + (all_touched(out) if plan.fresh else 0)
            if kwargs:
                for value in kwargs.values():
                    if isinstance(value, _Tensor | list | tuple):
                        nbytes += all_touched(value)
                        if first is None and isinstance(value, _Tensor):
                            first = value
        flops = 0
        if plan.formula is not None:
            try:
                flops = plan.formula(args, out)
            except (RuntimeError, TypeError, IndexError, AttributeError, ValueError, AssertionError):
                ledger.unknown[f"{plan.name} (unusual arguments)"] += 1
            if isinstance(first, _Tensor):
                if first.is_sparse or first.layout is not torch.strided:
                    ledger.unknown[f"{plan.name} (sparse)"] += 1
                    flops = 0
                elif first.is_complex() and plan.kind != "fft":
                    flops *= 4
        elif plan.unknown is not None:
            ledger.unknown[plan.unknown] += 1
        source = out if isinstance(out, _Tensor) and (plan.by_result or first is None) else first
        kind = plan.kind
        if kind == "copy" and first is not None and self._casts(plan, args, out):
            kind = "cast"
        dtype = plan.dtype or (source.dtype if isinstance(source, _Tensor) else None)
        if nbytes or flops or plan.unknown:
            self.kernels += 1
            key = (kind, dtype)
            cell = page.cells.get(key)
            if cell is None:
                page.cells[key] = [flops, nbytes, 1]
            else:
                cell[0] += flops
                cell[1] += nbytes
                cell[2] += 1
        if isinstance(source, _Tensor) and not source.is_cpu:
            ledger.devices.add(source.device.type)

    @staticmethod
    def _casts(plan: Plan, args: Any, out: Any) -> bool:
        if plan.name == "_to_copy":
            return bool(args[0].dtype != out.dtype)
        return plan.name == "copy" and isinstance(args[1], _Tensor) and bool(args[0].dtype != args[1].dtype)

    @staticmethod
    def _odd(plan: Plan, args: Any) -> Any:
        return next((value for value in args if isinstance(value, _Tensor)), None)

    def read(self, kind: str) -> None:
        """Note that the host waited for a value."""
        if self.muted:
            return
        node = _node()
        page = self.ledger.page if node is None else self.ledger.backward_page(node)
        self.ledger.reads[kind] += 1
        (page or self.ledger.page).host_reads += 1

    def whole(self, func: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Count an operator as one, whatever a device makes of it, and its backward as one."""
        ledger = self.ledger
        start = ledger.open_region()
        started = _clock_ns()
        self.muted += 1
        try:
            out = call(*args, **kwargs)
        finally:
            self.muted -= 1
        self.inside_ns += _clock_ns() - started
        self.operators += 1
        kind, flops, backward, nbytes = _WHOLE[func](args, kwargs, out)
        dtype = args[0].dtype
        node = _node()
        page = ledger.page if node is None else ledger.backward_page(node)
        if page is not None:
            add(page.cells, (kind, dtype), flops, nbytes, 1)
        ledger.close_region(start, (kind, dtype), (backward, 2 * nbytes, 1))
        return out

    def _custom(self, func: Any, plan: Plan, args: Any, kwargs: Any) -> Any:
        """Run a library's operator; count what it asks of torch, and name it, as it may do more."""
        first = next((value for value in args if isinstance(value, _Tensor)), None)
        device = "CPU" if first is None else first.device.type.upper()
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        keys = [key for key in (device, "CompositeExplicitAutograd") if hasattr(torch._C.DispatchKey, key)]
        key = next((key for key in keys if has(func.name(), key)), None)
        before, given = self.kernels, self.ledger.reads["numpy"]
        if key is None or self._is_hollow(args, kwargs):
            out = func(*args, **kwargs)
        else:
            _push(self)
            try:
                out = func._op_dk(getattr(torch._C.DispatchKey, key), *args, **kwargs)
            finally:
                _pop(None)
        parts = self.kernels > before and _is_python(func) and self.ledger.reads["numpy"] == given
        if plan.unknown is not None and not parts:
            self.ledger.unknown[plan.unknown] += 1
            if not self.muted:
                nbytes = all_touched(args) + all_touched(list(kwargs.values())) + all_touched(out)
                add(self.ledger.page.cells, ("other", None if first is None else first.dtype), 0, nbytes, 1)
        return out

    @staticmethod
    def _is_hollow(args: Any, kwargs: Any) -> bool:
        return any(isinstance(value, hollow.Hollow) for value in (*args, *kwargs.values()))

    def _higher_order(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator that takes functions: attention that is written by hand is counted as attention."""
        name = func.name()
        self.muted += 1
        try:
            out = func(*args, **kwargs)
        finally:
            self.muted -= 1
        if self.muted:
            return out
        if name == "flex_attention":
            flops = attention_flops(*args[:3])
            nbytes = sum(touched_by_any(tensor) for tensor in args[:3]) + all_touched(out)
            add(self.ledger.page.cells, ("attention", args[0].dtype), flops, nbytes, 1)
        else:
            self.ledger.unknown[f"higher_order::{name}"] += 1
        return out


def _is_python(func: Any) -> bool:
    """Tell whether an operator was made by ``torch.library.custom_op``."""
    from torch._library.custom_ops import OPDEFS

    return func._schema.name in OPDEFS


def _attention(args: Any, kwargs: Any, out: Any) -> tuple[str, int, int, int]:
    query, key, value = (args + tuple(kwargs[n] for n in ("query", "key", "value") if n in kwargs))[:3]
    mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
    nbytes = sum(touched_by_any(tensor) for tensor in (query, key, value, out)) + all_touched(mask)
    return "attention", attention_flops(query, key, value), attention_backward_flops(query, key, value), nbytes


def _recurrent(args: Any, kwargs: Any, out: Any) -> tuple[str, int, int, int]:
    packed = not isinstance(args[3], bool)  # (data, batch_sizes, hx, params, …), or (input, hx, params, …)
    data, weights = args[0], args[3] if packed else args[2]
    tokens = int(data.shape[0]) if packed else int(data.numel() // data.shape[-1])
    flops = recurrent_flops(tokens, weights)
    return "rnn", flops, 2 * flops, all_touched(args) + all_touched(out)


_WHOLE: dict[Any, Callable[[Any, Any, Any], tuple[str, int, int, int]]] = {
    _aten.scaled_dot_product_attention.default: _attention,
    **{getattr(_aten, name).input: _recurrent for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    **{getattr(_aten, name).data: _recurrent for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
}
"""What each device makes of other operators, and is asked for as one: class, FLOPs, the backward's, bytes."""


@contextmanager
def taken_whole(mode: CountingMode) -> Iterator[None]:
    """Take attention and recurrent layers as one operator each, wherever they are reached from.

    Autograd would take them apart before a mode sees them.
    """
    library = torch.library.Library("aten", "IMPL")

    def stand_in(func: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            def parts(*args: Any, **kwargs: Any) -> Any:
                return func._op_dk(_IMPLICIT, *args, **kwargs)

            if threading.get_ident() != mode.thread or mode.muted:
                return parts(*args, **kwargs)
            return mode.whole(func, parts, args, kwargs)

        return call

    try:
        for func in _WHOLE:
            for key in ("AutogradCPU", "AutogradCUDA", "AutogradMPS", "AutogradXPU"):
                library.impl(func.name().removeprefix("aten::"), stand_in(func), key)
        yield
    finally:
        library._destroy()
