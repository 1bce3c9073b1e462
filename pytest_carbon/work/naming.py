"""What a module is called in a report: its name from the root, layers' numbers folded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def names(roots: Sequence[Any]) -> dict[int, str]:
    """Name the modules of those that were called from outside any; by identity.

    The root with the most weights is the model, and its parts are named from there; other roots are named by their
    class. A root within another is a part. Wrappers that hold one module and nothing else are left out, so that a
    model is named alike with and without one.
    """
    parts = {id(root): {id(part) for part in root.modules()} for root in roots}
    outer = [r for r in roots if not any(id(r) in parts[id(o)] for o in roots if o is not r)]
    if not outer:
        return {}
    model = max(outer, key=_weight)  # the first of equals
    named: dict[int, str] = {}
    for root in (model, *(root for root in outer if root is not model)):
        prefix = "" if root is model else type(root).__name__
        for wrapper in _wrappers(root):
            named.setdefault(id(wrapper), prefix)
        for name, part in _unwrapped(root).named_modules():
            named.setdefault(id(part), ".".join(filter(None, (prefix, folded(name)))))
    return named


def folded(name: str) -> str:
    """Return ``h.*.attn`` for ``h.11.attn``."""
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def _weight(module: Any) -> int:
    try:
        return sum(int(weight.numel()) for weight in module.parameters())
    except (ValueError, RuntimeError):  # a lazy module
        return 0


def _only_part(module: Any) -> Any:
    children = [child for child in module._modules.values() if child is not None]
    holds = any(value is not None for value in (*module._parameters.values(), *module._buffers.values()))
    return children[0] if len(children) == 1 and not holds else None


def _wrappers(root: Any) -> list[Any]:
    wrappers = []
    while (inner := _only_part(root)) is not None:
        wrappers.append(root)
        root = inner
    return wrappers


def _unwrapped(root: Any) -> Any:
    while (inner := _only_part(root)) is not None:
        root = inner
    return root
