"""Two counts of a call → what made it do more work, in a sentence (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pytest_carbon.records.work import ModuleWork, OperatorWork, Work
from pytest_carbon.text import change, count, counted, listing

MOST = 0.6
"""The share of the growth that a module must explain, with those inside it, to be named for it."""
_EQUAL = 0.02
"""How much two counts may differ relatively that a sentence calls the same."""
_GROWN = 1.2
_PRODUCTS = ("gemm", "convolution", "attention", "rnn")
"""The classes whose operators are matrix products."""
_NOUNS = {
    "gemm": "matrix product",
    "convolution": "convolution",
    "attention": "fused attention",
    "rnn": "recurrent layer",
}
"""What operators of a class are called in sentences, where it is not after the class."""
ROOT = "the model itself"
"""In sentences: the module without a name."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What made a call do more work."""

    kind: str
    """``cache``, ``longer``, ``steps``, ``dtype``, …; ``unknown`` where no single cause was found."""
    text: str
    """``15.8× the FLOPs: h.*.mlp, 16 calls, each over 512 tokens instead of 1: the KV cache is not used``."""


def find(before: Work, now: Work, rises: Sequence[str]) -> Cause:
    """Name what made quantities rise, the most specific cause that the counts show.

    ``rises`` are the quantities that rose beyond their tolerance, by their field in :class:`Work`; ``dtype`` where the
    matrix products got wider.
    """
    pair = Pair(before, now)
    leading = next((name for name in ("flops", "bytes", "kernels", "host_reads") if name in rises), "bytes")
    by_shape = (_steps, _rows, _calls, _dtype, _attention, _split, _widened_class)
    for look in (*by_shape, _casts, _dropout, _sort, _larger, _host_reads, _one_class):
        if (cause := look(pair, leading, rises)) is not None:
            return cause
    module = pair.grown(leading)
    where = f" most of it in {_named(module)}" if module is not None else ""
    return Cause("unknown", f"{_more(before, now, leading)}: no single cause was found;{where or ' in many modules'}")


def changed_modules(before: Work, now: Work) -> tuple[tuple[str, str], ...]:
    """Return the modules that changed, each with a phrase.

    First those with the most growth of the first quantity that changed in all: FLOPs, bytes, kernels or host reads.
    """
    pair = Pair(before, now)
    totals = [(name, _of(before, name), _of(now, name)) for name in _OF_MODULE]
    leading = next((name for name, old, new in totals if not _same(old, new)), "bytes")
    phrases = []
    for name in sorted(pair.before.keys() | pair.now.keys()):
        old, new = pair.before.get(name), pair.now.get(name)
        moved = [_moved(old, new, quantity) for quantity in _OF_MODULE]
        parts = [*filter(None, moved), *_shape(old, new)]
        if parts:
            phrases.append((_of(old, leading) - _of(new, leading), _named(name), ", ".join(parts)))
    return tuple((name, phrase) for _, name, phrase in sorted(phrases))


# --- two counts, module by module ----------------------------------------------------------------

_OF_MODULE = ("flops", "bytes", "kernels", "host_reads")
_WORDS = {"flops": "FLOPs", "bytes": "bytes", "kernels": "kernels", "host_reads": "host reads", "steps": "decode steps"}


class Pair:
    """The modules of two counts, by their names."""

    def __init__(self, before: Work, now: Work) -> None:
        self.works = before, now
        self.before = _merged(before.by_module)
        self.now = _merged(now.by_module)
        self.sides = self.before, self.now

    def grown(self, quantity: str) -> str | None:
        """Return the deepest module that explains most of a quantity's growth, with the modules inside it."""
        growth: dict[str, int] = {}
        for name in self.before.keys() | self.now.keys():
            own = _of(self.now.get(name), quantity) - _of(self.before.get(name), quantity)
            for ancestor in _ancestors(name):
                growth[ancestor] = growth.get(ancestor, 0) + own
        total = growth.get("", 0)
        if total <= 0:
            return None
        # Of equals the deepest: a container adds nothing to what is inside it.
        explaining = [name for name, grown in growth.items() if grown >= MOST * total]
        return max(explaining, key=lambda name: (name.count(".") + bool(name), growth[name], name))

    def of(self, name: str | None) -> tuple[ModuleWork, ModuleWork] | None:
        """Return a module before and now, where it was called in both."""
        old, new = (modules.get(name or "") for modules in (self.before, self.now))
        return (old, new) if old is not None and new is not None and old.calls and new.calls else None

    def called(self, name: str | None) -> tuple[ModuleWork, ModuleWork] | None:
        """Return a module before and now, or the one in it or around it that was called."""
        if name is None:
            return None
        inside = [other for other in self.now if other == name or name in _ancestors(other)]
        inside.sort(key=lambda other: (other.count("."), -self.now[other].flops))
        for other in (name, *inside, *reversed([*_ancestors(name)])):
            if (pair := self.of(other)) is not None:
                return pair
        return None


def _merged(modules: Iterable[ModuleWork]) -> dict[str, ModuleWork]:
    return {module.module: module for module in modules}


def _ancestors(name: str) -> Iterable[str]:
    """Yield a module's name and those of the modules around it, the root first."""
    yield ""
    parts = name.split(".") if name else []
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])


def _of(module: ModuleWork | Work | None, quantity: str) -> int:
    value: int | None = getattr(module, quantity, 0)
    return value or 0


def by_kind(classes: Iterable[OperatorWork]) -> dict[str, OperatorWork]:
    """Add up operators over their dtypes: ``gemm``, ``softmax``."""
    sums: dict[str, OperatorWork] = {}
    for one in classes:
        kind = one.operators.partition(" ")[0]
        before = sums.get(kind, OperatorWork(kind, 0, 0, 0))
        sums[kind] = OperatorWork(
            kind, before.flops + one.flops, before.bytes + one.bytes, before.kernels + one.kernels
        )
    return sums


def _kernels(classes: Mapping[str, OperatorWork], kind: str) -> int:
    return classes[kind].kernels if kind in classes else 0


def bits(operators: str) -> int:
    """Return the width of a class's dtype: 16 for ``gemm bfloat16``."""
    width = re.search(r"\d+", operators.partition(" ")[2])
    return int(width[0]) if width else 0


def products(work: Work) -> dict[str, int]:
    """Return the FLOPs of matrix products by dtype."""
    flops: dict[str, int] = {}
    for one in work.by_class:
        kind, _, dtype = one.operators.partition(" ")
        if kind in _PRODUCTS:
            flops[dtype] = flops.get(dtype, 0) + one.flops
    return flops


def widened(before: Work, now: Work, share: float) -> tuple[str, str] | None:
    """Return from which dtype to which more than this share of the matrix products' FLOPs moved to a wider one."""
    old, new = products(before), products(now)
    all_old, all_new = sum(old.values()), sum(new.values())
    if not all_old or not all_new:
        return None
    for width in sorted({bits(f" {dtype}") for dtype in new}, reverse=True):
        wide_old, wide_new = (sum(n for d, n in one.items() if bits(f" {d}") >= width) for one in (old, new))
        if wide_new / all_new - wide_old / all_old > share and wide_new - wide_old > share * all_old:
            narrow = {d: n for d, n in old.items() if bits(f" {d}") < width}
            wide = {d: n for d, n in new.items() if bits(f" {d}") >= width}
            return max(narrow, key=lambda d: narrow[d]), max(wide, key=lambda d: wide[d])
    return None


# --- sentences -----------------------------------------------------------------------------------


def times(factor: float) -> str:
    """Write ``15.8×``, ``7.4×``, ``158×``."""
    return f"{factor:,.{1 if factor < 99.5 else 0}f}×"


def _more(before: Work, now: Work, quantity: str) -> str:
    """Write how much a quantity rose: ``15.8× the FLOPs``, ``31% more bytes``, ``32 host reads instead of 0``."""
    old, new, word = _of(before, quantity), _of(now, quantity), _WORDS[quantity]
    if old and new >= 1.995 * old:
        return f"{times(new / old)} the {word}"
    if old < 100 or new <= old:
        return f"{counted(new, word.removesuffix('s'))} instead of {count(old)}"
    return f"{change(new / old - 1).lstrip('+')} more {word}"


def _named(module: str | None) -> str:
    """Write a module's name; ``*`` alone, a layer of a list or of a Sequential, says little."""
    return f"layer {module}" if (module or "").startswith("*") else module or ROOT


def _mean(total: int, number: int) -> str:
    mean = total / number
    if mean == round(mean) or mean >= 99.5:
        return f"{mean:,.0f}"
    return f"{mean:.3g}"


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= _EQUAL * max(abs(one), abs(other))


def _rows_word(pair: Pair) -> str:
    return "tokens" if any(work.tokens_in is not None or work.steps is not None for work in pair.works) else "rows"


def _moved(old: ModuleWork | None, new: ModuleWork | None, quantity: str) -> str | None:
    before, now = _of(old, quantity), _of(new, quantity)
    if before == now:
        return None
    if min(before, now) < 100:
        return f"{_WORDS[quantity]} {count(before)} → {count(now)}"
    return f"{_WORDS[quantity]} {change(now / before - 1)}"


def _shape(old: ModuleWork | None, new: ModuleWork | None) -> list[str]:
    if old is None or new is None:
        return ["new" if old is None else "gone"]
    if (old.calls, old.rows) == (new.calls, new.rows):
        return []
    if not old.calls or not new.calls:
        return [f"calls {count(old.calls)} → {count(new.calls)}"]
    before, now = _mean(old.rows, old.calls), _mean(new.rows, new.calls)
    calls = f"{counted(new.calls, 'call')}" + ("" if old.calls == new.calls else f" instead of {count(old.calls)}")
    return [calls + (f" over {now} rows" + (f" instead of {before}" if now != before else ""))]


# --- the causes ----------------------------------------------------------------------------------


def _steps(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """More tokens are generated."""
    before, now = pair.works
    if "steps" not in rises or not before.steps or not now.steps:
        return None
    steps = f"{count(now.steps)} instead of {count(before.steps)}"
    return Cause("steps", f"{times(now.steps / before.steps)} the decode steps: {steps}, more tokens are generated")


def _rows(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """The same number of calls, each over more rows: no cache, longer or padded inputs, a larger batch."""
    before, now = pair.works
    name = pair.grown(leading)
    modules = pair.called(name)
    if modules is None:
        return None
    old, new = modules
    if not old.rows or not _same(old.calls, new.calls) or new.rows < _GROWN * old.rows:
        return None
    word = _rows_word(pair)
    rows = f"each over {_mean(new.rows, new.calls)} {word} instead of {_mean(old.rows, old.calls)}"
    first = f"{_more(before, now, leading)}: {_named(name)}, {counted(new.calls, 'call')}, {rows}"
    if old.batch and new.batch >= _GROWN * old.batch:
        batches = f"{_mean(new.batch, new.calls)} items instead of {_mean(old.batch, old.calls)}"
        longer = "" if _same(new.rows / new.batch, old.rows / old.batch) else ", of another length"
        return Cause("batch", f"{first}: a larger batch, {batches}{longer}")
    generates = before.steps is not None and before.steps == now.steps and (before.steps or 0) > 1
    if generates and before.tokens_in == now.tokens_in and before.tokens_out == now.tokens_out:
        return Cause("cache", f"{first}; tokens unchanged: the KV cache is not used")
    if "convolution" in _inside(pair.now, name or ""):
        return Cause("longer", f"{first}: larger inputs")
    if before.tokens_in and now.tokens_in and before.tokens_in != now.tokens_in:
        items = f", {count(now.tokens_in)} prompt tokens instead of {count(before.tokens_in)}"
    else:
        items = f", {_mean(new.rows, new.batch)} instead of {_mean(old.rows, old.batch)} an item" if old.batch else ""
    return Cause("longer", f"{first}: longer inputs{items}, as when they are padded to the maximum length")


def _calls(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """More calls of a module: a batch that became single items, or the same work once more."""
    grown = pair.grown(leading)
    if grown is None:
        return None
    around = None
    for name in _ancestors(grown):  # the outermost that is called more often: what is inside follows from it
        modules = pair.of(name) or (pair.called(name) if name == grown else None)
        if modules is not None and modules[1].calls >= _GROWN * modules[0].calls:
            return _more_calls(pair, leading, name, *modules, around)
        around = name if modules is not None else around
    return None


def _more_calls(pair: Pair, leading: str, name: str, old: ModuleWork, new: ModuleWork, around: str | None) -> Cause:
    """``around`` is the module outside it that is called as often as before."""
    calls = f"{counted(new.calls, 'call')} instead of {count(old.calls)}"
    first = f"{_more(*pair.works, leading)}: {_named(name)}, {calls}"
    if old.batch and _same(old.batch, new.batch):
        items = f"{_mean(new.batch, new.calls)} instead of {_mean(old.batch, old.calls)} items each"
        return Cause("batch-lost", f"{first}, {items}: batching is lost")
    if old.rows and _same(old.rows / old.calls, new.rows / new.calls):
        what = "an extra forward" if new.calls < 2.5 * old.calls else "more forwards"
        if around is not None:
            what = f"more layers, or {what} in each call of {_named(around)}"
        return Cause("extra-forward", f"{first}, each as long as before: {what}")
    return Cause("more-calls", f"{first}: more calls")


def _dtype(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """Matrix products in a wider dtype."""
    before, now = pair.works
    if "dtype" not in rises or (wider := widened(before, now, 0.0)) is None:
        return None
    narrow, wide = wider
    name = _widened_module(pair, wide)
    what = f"matrix products in {wide} instead of {narrow}: a wider dtype"
    grown = f"{_more(before, now, leading)}: " if leading in rises else ""
    return Cause("dtype", f"{grown}{_named(name)}, {what}")


def _widened_module(pair: Pair, wide: str) -> str | None:
    """Return the deepest module in which most of the FLOPs became wide."""
    growth: dict[str, int] = {}
    for name in pair.before.keys() | pair.now.keys():
        old, new = (
            sum(one.flops for one in modules[name].by_class if one.operators.endswith(f" {wide}"))
            if name in modules
            else 0
            for modules in (pair.before, pair.now)
        )
        for ancestor in _ancestors(name):
            growth[ancestor] = growth.get(ancestor, 0) + new - old
    total = growth.get("", 0)
    explaining = [name for name, grown in growth.items() if total > 0 and grown >= MOST * total]
    return max(explaining, key=lambda name: (name.count(".") + bool(name), growth[name], name)) if explaining else None


def _attention(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """Fused attention became matrix products and a softmax, in the same module."""
    before, now = pair.works
    for name in sorted(pair.before.keys() & pair.now.keys()):
        old, new = by_kind(pair.before[name].by_class), by_kind(pair.now[name].by_class)
        lost = _kernels(old, "attention") - _kernels(new, "attention")
        if lost <= 0 or not all(_kernels(new, kind) > _kernels(old, kind) for kind in ("gemm", "softmax")):
            continue
        products, softmaxes = (_kernels(new, kind) - _kernels(old, kind) for kind in ("gemm", "softmax"))
        made = f"{counted(products, 'matrix product')}, {count(softmaxes)} softmax{'es' if softmaxes > 1 else ''}"
        what = f"{counted(lost, 'fused attention')} became {made} and more: attention is not fused"
        return Cause("attention", f"{_more(before, now, leading)}: {_named(name)}, {what}")
    return None


def _risen(pair: Pair, kind: str) -> tuple[OperatorWork, OperatorWork] | None:
    """Return a class before and now, if it has more kernels."""
    old, new = (by_kind(work.by_class).get(kind, OperatorWork(kind, 0, 0, 0)) for work in pair.works)
    return (old, new) if new.kernels > old.kernels else None


def _module_of(pair: Pair, kind: str) -> str:
    """Return the deepest module with most of the new kernels of a class."""
    growth: dict[str, int] = {}
    for name in pair.before.keys() | pair.now.keys():
        old, new = (
            _kernels(by_kind(modules[name].by_class), kind) if name in modules else 0
            for modules in (pair.before, pair.now)
        )
        for ancestor in _ancestors(name):
            growth[ancestor] = growth.get(ancestor, 0) + new - old
    total = growth.get("", 0)
    explaining = [name for name, grown in growth.items() if total > 0 and grown >= MOST * total]
    deepest = max(explaining, key=lambda n: (n.count(".") + bool(n), growth[n], n)) if explaining else ""
    return _named(deepest)


def _split(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """One product over a batch became many that do as much together, inside the same calls of modules."""
    if leading == "flops" or "kernels" not in rises:
        return None
    for kind in _PRODUCTS:
        risen = _risen(pair, kind)
        if risen is None or not _explains(pair, risen, "kernels", MOST):
            continue
        old, new = risen
        if old.kernels and new.kernels >= _GROWN * old.kernels and _same(old.flops, new.flops):
            many = f"{counted(new.kernels, _NOUNS[kind])} instead of {count(old.kernels)}, with as many FLOPs together"
            return Cause(
                "batch-lost", f"{_more(*pair.works, 'kernels')}: {_module_of(pair, kind)}, {many}: batching is lost"
            )
    return None


def _widened_class(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """Operators that are no matrix products, in a wider dtype."""
    if leading != "bytes":
        return None
    old, new = ({one.operators: one for one in work.by_class} for work in pair.works)
    total = pair.works[1].bytes - pair.works[0].bytes
    for name in sorted(new, key=lambda name: -new[name].bytes):
        kind, _, dtype = name.partition(" ")
        fell = [
            other.partition(" ")[2]
            for other, one in old.items()
            if other.partition(" ")[0] == kind
            and bits(other) < bits(name)
            and one.kernels > (new[other].kernels if other in new else 0)
        ]
        if not fell or kind in _PRODUCTS:
            continue
        sums = [sum(one.bytes for one in of.values() if one.operators.partition(" ")[0] == kind) for of in (old, new)]
        if sums[1] - sums[0] >= MOST * total:
            what = f"{_NOUNS.get(kind, f'{kind} operator')}s in {dtype} instead of {listing(sorted(fell))}"
            return Cause("dtype", f"{_more(*pair.works, leading)}: {_where(pair, leading)}{what}: a wider dtype")
    return None


def _one_class(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """Operators of one class have most of the growth."""
    if leading == "host_reads":
        return None
    old, new = (by_kind(work.by_class) for work in pair.works)
    none = OperatorWork("", 0, 0, 0)
    growth = {kind: getattr(one, leading) - getattr(old.get(kind, none), leading) for kind, one in new.items()}
    total = _of(pair.works[1], leading) - _of(pair.works[0], leading)
    kind = max(growth, key=lambda kind: (growth[kind], kind), default="")
    if total <= 0 or growth.get(kind, 0) < MOST * total:
        return None
    noun = _NOUNS.get(kind, f"{kind} operator")
    before, now = _kernels(old, kind), new[kind].kernels
    what = f"{counted(now, noun)}{f' instead of {count(before)}' if now > before else ', over larger tensors'}"
    copies = ": tensors are copied, as contiguous() does" if kind == "copy" and now > before else ""
    return Cause(
        "copies" if copies else "class", f"{_more(*pair.works, leading)}: {_where(pair, leading)}{what}{copies}"
    )


def _where(pair: Pair, leading: str) -> str:
    """Return the module with most of the growth, before what happened there; nothing of a call without modules."""
    name = pair.grown(leading)
    return f"{_named(name)}, " if name else ""


def _casts(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """Weights or activations are converted to another dtype in each call."""
    risen = _risen(pair, "cast")
    if risen is None or not _explains(pair, risen, leading):
        return None
    old, new = risen
    casts = f"{counted(new.kernels, 'cast')} to another dtype instead of {count(old.kernels)}"
    return Cause(
        "casts",
        f"{_more(*pair.works, leading)}: {_module_of(pair, 'cast')}, {casts}: weights or inputs are cast in each call,"
        " as autocast does with float32 weights",
    )


def _dropout(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """Random numbers are drawn that were not: dropout is on."""
    risen = _risen(pair, "random")
    if risen is None or leading == "flops":
        return None
    old, new = risen
    module = _module_of(pair, "random")
    draw = "draws" if new.kernels == 1 else "draw"
    kernels = f"{counted(new.kernels, 'kernel')} that {draw} random numbers instead of {count(old.kernels)}"
    first = f"{_more(*pair.works, leading)}: {module}, {kernels}"
    if module == ROOT:  # none of its layers: what samples tokens is no module
        return Cause("random", f"{first}: something is sampled, or dropout is on")
    return Cause("dropout", f"{first}: dropout is on (model.eval() turns it off)")


def _sort(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """Something is sorted that was not: ``argsort`` where ``argmin`` is meant."""
    risen = _risen(pair, "sort")
    if risen is None or leading == "flops":
        return None
    old, new = risen
    before, now = (_kernels(by_kind(work.by_class), "reduction") for work in pair.works)
    instead = f", and {counted(before - now, 'reduction')} fewer" if before > now else ""
    return Cause(
        "sort",
        f"{_more(*pair.works, leading)}: {_module_of(pair, 'sort')}, {counted(new.kernels, 'sort')} instead of"
        f" {count(old.kernels)}{instead}: a sort, as argsort where argmin is enough",
    )


def _larger(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """The same calls over the same rows, with larger matrix products or with more of them."""
    name = pair.grown("flops")
    if leading != "flops" or name is None or (modules := pair.called(name)) is None:
        return None
    old, new = modules
    if (old.calls, old.rows, old.batch) != (new.calls, new.rows, new.batch):
        return None
    before, now = (
        {kind: one.kernels for kind, one in _inside(of, name).items() if kind in _PRODUCTS} for of in pair.sides
    )
    same = f"{counted(new.calls, 'call')} over as many {_rows_word(pair)} as before"
    first = f"{_more(*pair.works, leading)}: {_named(name)}, {same}"
    if before and before == now:
        return Cause("larger", f"{first}: its layers are larger")
    then, more = sum(before.values()), sum(now.values())
    if not then or more <= then:
        return None
    backward = ", as a backward pass adds" if more >= 1.9 * then else ""
    return Cause("more-products", f"{first}: {count(more)} matrix products instead of {count(then)}{backward}")


def _inside(modules: Mapping[str, ModuleWork], name: str) -> dict[str, OperatorWork]:
    """Add up the operators of a module and of those inside it, by kind."""
    return by_kind(one for other, module in modules.items() if name in _ancestors(other) for one in module.by_class)


def _explains(pair: Pair, risen: tuple[OperatorWork, OperatorWork], leading: str, share: float = 0.3) -> bool:
    """Tell whether a class explains much of a quantity's growth; of FLOPs, which casts have none of, never."""
    before, now = (_of(work, leading) for work in pair.works)
    old, new = (getattr(one, leading, 0) for one in risen)
    return bool(new - old >= share * (now - before))


def _host_reads(pair: Pair, leading: str, rises: Sequence[str]) -> Cause | None:
    """The host waits for values of the device."""
    before, now = pair.works
    if "host_reads" not in rises:
        return None
    more = {kind: n - before.reads.get(kind, 0) for kind, n in now.reads.items() if n > before.reads.get(kind, 0)}
    kinds = ", ".join(f"{count(n)} of {kind}()" for kind, n in sorted(more.items(), key=lambda item: -item[1])[:3])
    extra = now.host_reads - before.host_reads
    per = ""
    if now.steps and extra >= now.steps - 1:
        each = round(extra / now.steps)
        per = f", {'one' if each <= 1 else count(each)} a token"
    name = pair.grown("host_reads")
    where = "" if not name else f"{_named(name)}, "
    more_text = f" ({kinds} more{per})" if kinds else per
    return Cause(
        "host-reads",
        f"{counted(now.host_reads, 'host read')} instead of {count(before.host_reads)}: {where}the host waits for the"
        f" device{more_text}",
    )
