"""The cause of a change, named from two counts alone: which module, how many times over, and what kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.gate import causes
from pytest_carbon.records.work import ModuleWork, OperatorWork, Work

LAYERS = 16


def classes(**kinds: tuple[int, int, int]) -> tuple[OperatorWork, ...]:
    """``gemm_float32=(flops, bytes, kernels)``."""
    return tuple(OperatorWork(name.replace("_", " "), *figures) for name, figures in sorted(kinds.items()))


def module(name: str, calls: int, rows: int, batch: int, *by_class: OperatorWork, reads: int = 0) -> ModuleWork:
    sums = (
        sum(one.flops for one in by_class),
        sum(one.bytes for one in by_class),
        sum(one.kernels for one in by_class),
    )
    return ModuleWork(name, calls, rows, batch, *sums, reads, by_class)


def total(*modules: ModuleWork, **changes: Any) -> Work:
    """The work of these modules."""
    sums: dict[str, list[int]] = {}
    for one in modules:
        for operators, *figures in one.by_class:
            sums[operators] = [a + b for a, b in zip(sums.get(operators, [0, 0, 0]), figures, strict=True)]
    fields: dict[str, Any] = {
        "engine": "cpu",
        "flops": sum(one.flops for one in modules),
        "bytes": sum(one.bytes for one in modules),
        "kernels": sum(one.kernels for one in modules),
        "host_reads": sum(one.host_reads for one in modules),
        "by_class": tuple(OperatorWork(name, *figures) for name, figures in sorted(sums.items())),
        "by_module": tuple(sorted(modules)),
    }
    return Work(**(fields | changes))


def decoder(
    rows: int = 1, calls: int = LAYERS, batch: int = 1, dtype: str = "float32", attention: bool = True, **changes: Any
) -> Work:
    """A decoder whose modules are called so often, over so many rows each."""
    n, all_rows = rows * calls, batch * calls
    gemm = {f"gemm_{dtype}": (1000 * n, 4000 * calls + n, 2 * calls)}
    core = (
        {f"attention_{dtype}": (10 * n, 40 * n, calls)}
        if attention
        else {f"gemm_{dtype}": (10 * n, 40 * n, 2 * calls), f"softmax_{dtype}": (0, 60 * n, calls)}
    )
    return total(
        module("", calls // LAYERS, n // LAYERS, all_rows // LAYERS),
        module("transformer.h.*", calls, n, all_rows, *classes(elementwise_float32=(0, 8 * n, calls))),
        module("transformer.h.*.attn", calls, n, all_rows, *classes(**core)),
        module("transformer.h.*.mlp", calls, n, all_rows, *classes(**gemm)),
        **changes,
    )


def found(before: Work, now: Work, *rises: str) -> causes.Cause:
    return causes.find(before, now, rises)


GENERATED = {"steps": 8, "tokens_in": 32, "tokens_out": 8}


def test_an_unused_cache_is_told_from_longer_inputs() -> None:
    """By the tokens and steps, which stay."""
    before, now = decoder(1, **GENERATED), decoder(512, **GENERATED)
    cause = found(before, now, "flops", "bytes")
    assert cause.kind == "cache"
    assert cause.text == (
        "512× the FLOPs: transformer.h.*.mlp, 16 calls, each over 512 tokens instead of 1; tokens unchanged: the KV"
        " cache is not used"
    )
    longer = found(before, replace(now, tokens_in=512 * 8), "flops", "bytes")
    assert longer.kind == "longer"
    assert longer.text.endswith(
        ": longer inputs, 4,096 prompt tokens instead of 32, as when they are padded to the maximum length"
    )
    longer = found(decoder(1), decoder(512), "flops")
    assert longer.text.endswith(
        ": longer inputs, 512 instead of 1 an item, as when they are padded to the maximum length"
    )


def test_a_larger_batch_is_told_from_longer_inputs() -> None:
    cause = found(decoder(32, batch=4), decoder(64, batch=8), "flops")
    assert (cause.kind, cause.text.partition(": ")[0]) == ("batch", "2.0× the FLOPs")
    assert cause.text.endswith("each over 64 rows instead of 32: a larger batch, 8 items instead of 4")


def test_more_steps_are_more_tokens() -> None:
    cause = found(
        decoder(1, **GENERATED), decoder(1, calls=32, steps=16, tokens_in=32, tokens_out=16), "steps", "flops"
    )
    assert cause == causes.Cause("steps", "2.0× the decode steps: 16 instead of 8, more tokens are generated")


def test_a_lost_batch_is_more_calls_of_fewer_items() -> None:
    """At the outermost module that is called more often; with the same FLOPs, so it is the kernels that tell."""
    cause = found(decoder(64, batch=8), decoder(8, calls=8 * LAYERS, batch=1), "kernels")
    assert cause.kind == "batch-lost"
    assert cause.text == (
        "8.0× the kernels: the model itself, 8 calls instead of 1, 1 instead of 8 items each: batching is lost"
    )


def test_an_extra_forward_is_more_calls_of_the_same_length() -> None:
    twice, often = (found(decoder(8), decoder(8, calls=n * LAYERS), "flops", "kernels") for n in (2, 5))
    assert twice.text == (
        "2.0× the FLOPs: the model itself, 2 calls instead of 1, each as long as before: an extra forward"
    )
    assert (twice.kind, often.kind) == ("extra-forward", "extra-forward")
    assert often.text.endswith(": more forwards")


def test_a_wider_dtype_is_named_with_its_module() -> None:
    cause = found(decoder(8, dtype="bfloat16"), decoder(8), "dtype", "bytes")
    assert cause.kind == "dtype"
    assert cause.text.endswith("transformer.h.*.mlp, matrix products in float32 instead of bfloat16: a wider dtype")


def test_attention_that_is_not_fused() -> None:
    """Products and a softmax in the module that had it."""
    cause = found(decoder(8), decoder(8, attention=False), "bytes", "kernels")
    assert cause.kind == "attention"
    assert cause.text.endswith(
        ": transformer.h.*.attn, 16 fused attentions became 32 matrix products, 16 softmaxes and more: attention is not"
        " fused"
    )


@pytest.mark.parametrize(
    ("kind", "cause", "ends"),
    [
        ("random_float32", "dropout", "32 kernels that draw random numbers instead of 0: dropout is on (model.eval()"),
        (
            "cast_float32",
            "casts",
            "32 casts to another dtype instead of 0: weights or inputs are cast in each call, as",
        ),
        ("sort_float32", "sort", "32 sorts instead of 0: a sort, as argsort where argmin is enough"),
    ],
)
def test_a_class_of_operators_that_appears(kind: str, cause: str, ends: str) -> None:
    """In the module that has them now."""
    before = decoder(8)
    extra = classes(**{kind: (0, 10**6, 2 * LAYERS)})
    changed = [
        module(m.module, m.calls, m.rows, m.batch, *m.by_class, *(extra if m.module.endswith(".mlp") else ()))
        for m in before.by_module
    ]
    named = found(before, total(*changed), "bytes", "kernels")
    assert named.kind == cause
    assert f": transformer.h.*.mlp, {ends}" in named.text


def test_random_numbers_outside_the_layers_are_no_dropout() -> None:
    """What samples tokens is no module."""
    before = decoder(8)
    root, *others = before.by_module
    sampled = module("", root.calls, root.rows, root.batch, *classes(random_float32=(0, 10**6, 4)))
    cause = found(before, total(sampled, *others), "bytes")
    assert (cause.kind, cause.text.rpartition(": ")[2]) == ("random", "something is sampled, or dropout is on")


def test_more_beams_are_no_unused_cache() -> None:
    """Though tokens and steps stay: there are more items."""
    cause = found(decoder(2, batch=1, **GENERATED), decoder(8, batch=4, **GENERATED), "flops")
    assert cause.text.endswith("each over 8 tokens instead of 2: a larger batch, 4 items instead of 1")


def test_more_layers_are_told_from_an_extra_forward() -> None:
    """The module around them is called as often as before."""
    before, now = decoder(8), decoder(8, calls=24)
    root = before.by_module[0]
    cause = found(before, total(root, *now.by_module[1:]), "flops", "kernels")
    assert cause.text.endswith(
        ": transformer.h.*, 24 calls instead of 16, each as long as before: more layers, or an extra forward in each"
        " call of the model itself"
    )


def test_larger_and_more_matrix_products_in_the_same_calls() -> None:
    def products(flops: int, kernels: int) -> Work:
        return total(module("mlp", 2, 8, 2, *classes(gemm_float32=(flops, 100, kernels))))

    larger, more = (found(products(1000, 4), now, "flops") for now in (products(2000, 4), products(3000, 12)))
    assert larger.text == "2.0× the FLOPs: mlp, 2 calls over as many rows as before: its layers are larger"
    assert more.text == (
        "3.0× the FLOPs: mlp, 2 calls over as many rows as before: 12 matrix products instead of 4, as a backward pass"
        " adds"
    )


def test_host_reads_are_told_by_kind_and_by_token() -> None:
    before, now = (decoder(1, **GENERATED, host_reads=n, reads={"item": n - 1, "bool": 1}) for n in (3, 11))
    cause = found(before, now, "host_reads")
    assert cause.kind == "host-reads"
    assert cause.text == "11 host reads instead of 3: the host waits for the device (8 of item() more, one a token)"


def test_added_copies_are_named_with_their_module() -> None:
    before = decoder(8)
    copying = [m for m in before.by_module if m.module != "transformer.h.*.attn"]
    core = next(m for m in before.by_module if m.module == "transformer.h.*.attn").by_class
    more = classes(copy_float32=(0, 10**6, 2 * LAYERS))
    now = total(*copying, module("transformer.h.*.attn", LAYERS, 8 * LAYERS, LAYERS, *core, *more))
    cause = found(before, now, "bytes", "kernels")
    assert cause.kind == "copies"
    assert cause.text.endswith(
        ": transformer.h.*.attn, 32 copy operators instead of 0: tensors are copied, as contiguous() does"
    )


def test_operators_in_a_wider_dtype_are_named() -> None:
    """They are no matrix products, and no module may be called at all."""

    def of(dtype: str, size: int) -> Work:
        gemm = {"gemm_float32": (10**6, 10**3, 2)}
        return total(module("", 0, 0, 0, *classes(**gemm, **{f"elementwise_{dtype}": (0, size, 8)})))

    cause = found(of("float32", 10**6), of("float64", 2 * 10**6), "bytes")
    assert cause == causes.Cause(
        "dtype", "2.0× the bytes: elementwise operators in float64 instead of float32: a wider dtype"
    )


def test_a_product_over_a_batch_that_became_many_is_a_lost_batch() -> None:
    """Without modules, too: the FLOPs stay, and the results are put together."""
    before = total(module("", 0, 0, 0, *classes(gemm_float32=(64_000, 96_000, 1))))
    loop = classes(gemm_float32=(64_000, 96_000, 64), copy_float32=(0, 64_000, 1))
    cause = found(before, total(module("", 0, 0, 0, *loop)), "bytes", "kernels")
    assert cause.kind == "batch-lost"
    assert cause.text == (
        "65.0× the kernels: the model itself, 64 matrix products instead of 1, with as many FLOPs together:"
        " batching is lost"
    )


def test_operators_of_one_class_are_named_where_nothing_else_is() -> None:
    """More of them, or as many over larger tensors; and of matrix products without modules."""

    def of(**kinds: tuple[int, int, int]) -> Work:
        return total(module("", 0, 0, 0, *classes(**kinds)))

    before = of(gemm_float32=(10**4, 10**3, 2), reduction_float32=(0, 10**4, 5))
    more = of(gemm_float32=(10**4, 10**3, 2), reduction_float32=(0, 10**5, 9))
    assert found(before, more, "bytes").text.endswith(" the bytes: 9 reduction operators instead of 5")
    larger = of(gemm_float32=(10**5, 10**3, 2), reduction_float32=(0, 10**4, 5))
    assert found(before, larger, "flops").text.endswith(" the FLOPs: 2 matrix products, over larger tensors")


def test_the_layers_of_a_list_are_called_layers() -> None:
    cause = found(
        total(module("*", 2, 8, 2, *classes(gemm_float32=(100, 10, 2)))),
        total(module("*", 4, 16, 4, *classes(gemm_float32=(200, 20, 4)))),
        "flops",
    )
    assert "2.0× the FLOPs: layer *, 4 calls instead of 2" in cause.text


def test_where_no_cause_is_found_it_says_so() -> None:
    """With the module that grew most, or that there are many."""
    before = decoder(8)
    heavier = tuple(
        m._replace(flops=3 * m.flops, by_class=tuple(c._replace(flops=3 * c.flops) for c in m.by_class))
        for m in before.by_module
    )
    cause = found(before, total(*heavier), "bytes")
    assert cause.text.endswith(": no single cause was found; in many modules")
    moved = tuple(m._replace(bytes=3 * m.bytes) for m in before.by_module)
    cause = found(before, total(*moved), "bytes")
    assert cause == causes.Cause(
        "unknown", "3.0× the bytes: no single cause was found; most of it in transformer.h.*.mlp"
    )


def test_a_module_is_named_only_for_most_of_the_growth() -> None:
    """With what is inside it; of equals the deepest."""
    before = total(module("a.b", 1, 1, 1, *classes(gemm_float32=(10, 1, 1))), module("a.c", 1, 1, 1))
    half = total(
        module("a.b", 1, 1, 1, *classes(gemm_float32=(50, 1, 1))),
        module("a.c", 1, 1, 1, *classes(gemm_float32=(41, 1, 1))),
        module("d", 1, 1, 1, *classes(gemm_float32=(41, 1, 1))),
    )
    pair = causes.Pair(before, half)
    assert pair.grown("flops") == "a"
    assert causes.Pair(before, before).grown("flops") is None


def test_the_modules_that_changed_are_listed() -> None:
    """By the growth of their FLOPs where these changed, with what moved in each; new and gone ones, too."""
    before = total(
        module("a", 2, 8, 2, *classes(gemm_float32=(1000, 10, 2))),
        module("gone", 1, 1, 1, *classes(copy_int64=(0, 5, 1))),
    )
    now = total(
        module("a", 2, 16, 2, *classes(gemm_float32=(2000, 10, 2))),
        module("new", 1, 1, 1, *classes(copy_int64=(0, 5, 1))),
    )
    assert dict(causes.changed_modules(before, now)) == {
        "a": "FLOPs 2.0×, 2 calls over 8 rows instead of 4",
        "gone": "bytes 5 → 0, kernels 1 → 0, gone",
        "new": "bytes 0 → 5, kernels 0 → 1, new",
    }
    assert [name for name, _ in causes.changed_modules(before, now)] == ["a", "gone", "new"]
    assert causes.changed_modules(before, before) == ()
    copies = total(*before.by_module, module("z", 1, 1, 1, *classes(copy_int64=(0, 900, 9))))
    assert [name for name, _ in causes.changed_modules(before, copies)] == ["z"]


names = st.sampled_from(["", "h", "h.*", "h.*.attn", "h.*.mlp", "head"])
figures = st.tuples(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**6))
kinds = st.sampled_from(
    [
        "gemm float32",
        "gemm bfloat16",
        "attention float32",
        "softmax float32",
        "cast float32",
        "random float32",
        "sort int64",
    ]
)
operators = st.dictionaries(kinds, figures, max_size=4).map(
    lambda of: tuple(OperatorWork(name, *counts) for name, counts in sorted(of.items()))
)
modules = st.lists(
    st.builds(
        lambda name, calls, rows, batch, of, reads: module(name, calls, rows, batch, *of, reads=reads),
        *(names, st.integers(0, 100), st.integers(0, 10**6), st.integers(0, 1000), operators, st.integers(0, 50)),
    ),
    unique_by=lambda m: m.module,
    max_size=5,
)
works = st.builds(
    lambda of, steps, tokens: total(*of, steps=steps, tokens_in=tokens, tokens_out=steps),
    *(modules, st.none() | st.integers(0, 100), st.none() | st.integers(0, 1000)),
)
RISES = st.lists(
    st.sampled_from(["flops", "bytes", "kernels", "host_reads", "steps", "dtype"]), unique=True, min_size=1
)


@given(works, works, RISES)
def test_any_two_counts_have_a_sentence(before: Work, now: Work, rises: list[str]) -> None:
    """One line, that speaks of work and never of energy, and names a module that exists."""
    cause = causes.find(before, now, rises)
    assert cause.text
    assert "\n" not in cause.text
    assert "energy" not in cause.text
    assert "nan" not in cause.text
    assert "inf" not in cause.text.replace("single", "")
    for name, phrase in causes.changed_modules(before, now):
        assert name == causes.ROOT or name in {m.module for m in (*before.by_module, *now.by_module)}
        assert phrase


@given(works)
def test_nothing_changed_in_equal_counts(one: Work) -> None:
    assert causes.changed_modules(one, one) == ()
    assert causes.widened(one, one, 0.0) is None
    assert causes.Pair(one, one).grown("flops") is None


@given(works, works)
def test_what_explains_a_growth_explains_most_of_it(before: Work, now: Work) -> None:
    """The sum over the module and what is inside it; nothing inside it does by itself."""
    pair = causes.Pair(before, now)
    name = pair.grown("flops")
    growth = now.flops - before.flops
    assert (name is None) == (growth <= 0)
    if name is None:
        return

    def inside(prefix: str) -> int:
        own = {m.module: m.flops for m in now.by_module}
        for m in before.by_module:
            own[m.module] = own.get(m.module, 0) - m.flops
        return sum(n for other, n in own.items() if not prefix or other == prefix or other.startswith(f"{prefix}."))

    assert inside(name) >= causes.MOST * growth
