"""Whose work it is: modules, their backward, optimizers; calls, rows and batch; generate() and compiled code."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_carbon.records.work import ModuleWork, Work
from pytest_carbon.work.counting import count

torch = pytest.importorskip("torch")
nn = torch.nn
r = torch.randn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(8, 8)
        self.mlp = nn.Linear(8, 16)
        self.back = nn.Linear(16, 8)

    def forward(self, x: Any) -> Any:
        x = self.attn(x)
        return x + self.back(torch.relu(self.mlp(x)))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 50)

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def counted(fn: Any, *args: Any) -> Work:
    work = count(fn, args).work
    assert work is not None
    totals = [sum(getattr(m, field) for m in work.by_module) for field in ("flops", "bytes", "kernels", "host_reads")]
    assert totals == [work.flops, work.bytes, work.kernels, work.host_reads]
    assert [sum(getattr(c, field) for c in work.by_class) for field in ("flops", "bytes", "kernels")] == totals[:3]
    return work


def modules(work: Work) -> dict[str, ModuleWork]:
    return {module.module: module for module in work.by_module}


IDS = torch.arange(10).view(2, 5)


def test_modules_are_named_from_the_root_with_layers_folded() -> None:
    by_name = modules(counted(Model(), IDS))
    assert sorted(by_name) == ["", "embed", "head", "layers.*", "layers.*.attn", "layers.*.back", "layers.*.mlp"]
    mlp = by_name["layers.*.mlp"]
    assert (mlp.calls, mlp.rows, mlp.batch, mlp.flops) == (3, 3 * 10, 3 * 2, 3 * 2 * 10 * 8 * 16)
    assert (by_name[""].rows, by_name[""].batch) == (10, 2)  # token ids are rows each


def test_a_wrapper_changes_no_name() -> None:
    class Wrapper(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, **kwargs: Any) -> Any:
            return self.model(kwargs["ids"])

    model = Model()
    bare, wrapped = counted(model, IDS), counted(lambda: Wrapper(model)(ids=IDS))
    assert sorted(modules(bare)) == sorted(modules(wrapped))
    assert (bare.flops, bare.bytes, bare.kernels) == (wrapped.flops, wrapped.bytes, wrapped.kernels)


def test_work_outside_modules_and_of_other_roots_is_apart() -> None:
    model, loss = Model(), nn.CrossEntropyLoss()
    by_name = modules(counted(lambda: loss(model(IDS).flatten(0, 1), IDS.flatten()).view(1, 1) @ r(1, 1)))
    assert by_name["CrossEntropyLoss"].kernels > 0
    assert by_name[""].flops == 2
    assert "layers.*.mlp" in by_name


def test_backward_work_is_the_modules_whose_forward_made_it() -> None:
    model, optimizer = Model(), None
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model(IDS).logsumexp(-1).sum().backward()
        optimizer.step()

    by_name = modules(counted(step))
    forward = modules(counted(torch.no_grad()(model), IDS))
    for name in ("layers.*.attn", "layers.*.mlp", "layers.*.back", "head"):
        assert by_name[name].flops == 3 * forward[name].flops
        assert (by_name[name].calls, by_name[name].rows) == (forward[name].calls, forward[name].rows)
    assert any(c.operators.startswith("embedding") and c.bytes for c in by_name["embed"].by_class)
    assert by_name["optimizer"].kernels > 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_repeats_is_its_modules(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(Model):
        def forward(self, ids: Any) -> Any:
            x = self.embed(ids)
            for layer in self.layers:
                x = checkpoint(layer, x, use_reentrant=reentrant)
            return self.head(x)

    model = Checkpointed()
    by_name = modules(counted(lambda: model(IDS).sum().backward()))
    forward = modules(counted(torch.no_grad()(Model()), IDS))
    for name, times in (("layers.*.mlp", 4), ("head", 3)):
        assert by_name[name].flops == times * forward[name].flops
    assert by_name["layers.*.mlp"].calls == 6


def test_attention_is_one_operator_forward_and_backward_wherever_it_is_called_from() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.inner(x, x, x, need_weights=False)[0]

    model, x = Attending(), r(2, 5, 8)
    work = counted(lambda: model(x).sum().backward())
    assert [c.kernels for c in work.by_class if c.operators == "attention float32"] == [2]
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    work = counted(torch.inference_mode()(encoder), x)
    assert [c.kernels for c in work.by_class if c.operators == "attention float32"] == [1]


def test_shared_and_recursive_modules_are_counted_for_each_call() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = self.first
            self.other = nn.Linear(8, 8)

        def forward(self, x: Any, depth: int = 2) -> Any:
            return self.second(self.first(self(x, depth - 1) if depth else x))

    by_name = modules(counted(Shared(), r(2, 8)))
    assert (by_name["first"].calls, by_name[""].calls) == (6, 3)
    assert "second" not in by_name


def test_a_module_that_raises_and_is_caught_hands_back() -> None:
    class Raising(nn.Module):
        def forward(self, x: Any) -> Any:
            raise KeyError

    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.raising, self.last = Raising(), nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            try:
                self.raising(x)
            except KeyError:
                return self.last(x) @ x.t()

    by_name = modules(counted(Catching(), r(2, 3)))
    assert (by_name[""].flops, by_name["last"].flops) == (2 * 2 * 2 * 3, 2 * 2 * 3 * 3)


def test_host_reads_are_counted_by_kind_and_module() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            y = self.inner(x).detach()
            if y.sum() > 0 or True:
                float(y[0, 0]), y.tolist(), y.numpy(), y.cpu()
            y[y > 0], y.nonzero(), y.unique(), torch.equal(y, y)
            return y

    work = counted(Reading(), r(2, 3))
    assert dict(work.reads) == {
        "cpu": 1,
        "equal": 1,
        "item": 2,
        "nonzero": 1,
        "numpy": 1,
        "tolist": 1,
        "unique": 1,
        "mask": 1,
    }
    assert modules(work)[""].host_reads == work.host_reads == 9


def test_compiled_functions_are_counted_uncompiled_and_compile_afterwards() -> None:
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    model = nn.Linear(3, 4)
    function = torch.compile(model, backend=backend)
    plain, called = count(model, (r(2, 3),)), count(function, (r(2, 3),))
    assert [w.code for w in called.warnings] == ["uncompiled"]
    assert plain.work is not None
    assert called.work is not None
    assert (called.work.flops, called.work.bytes, called.work.kernels) == (
        plain.work.flops, plain.work.bytes, plain.work.kernels,
    )  # fmt: skip
    assert sorted(m.module for m in called.work.by_module) == sorted(m.module for m in plain.work.by_module)
    assert not compiled
    torch._dynamo.reset()
    for _ in range(3):
        function(r(2, 3))
    assert len(compiled) == 1


def test_items_within_a_dict_are_seen() -> None:
    """As sentence-transformers passes them: whether a batch is lost shows in the items of a call."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, features: dict[str, Any]) -> Any:
            return self.layer(features["x"])

    work = count(Model(), ({"x": torch.ones(6, 2, 3)},)).work
    assert work is not None
    assert {(one.rows / one.calls, one.batch / one.calls) for one in work.by_module} == {(12, 6)}, work.by_module
