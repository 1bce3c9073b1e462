"""What is not counted is said: nothing counted, other threads and processes, unknown operators, calls that vary."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_carbon.work.counting import CountedCall, Counting, count

torch = pytest.importorskip("torch")
nn = torch.nn
r = torch.randn


def codes(counted: CountedCall) -> set[str]:
    return {warning.code for warning in counted.warnings}


def busy(seconds: float) -> None:
    import time

    start = time.thread_time()
    while time.thread_time() - start < seconds:
        sum(range(1000))


def test_a_call_without_torch_has_a_failure() -> None:
    counted = count(lambda: sum(range(10)))
    assert counted.work is None
    assert counted.failure is not None
    assert "no operator of torch" in counted.failure


def test_numpy_alone_has_a_failure() -> None:
    numpy = pytest.importorskip("numpy")
    assert count(lambda: numpy.ones((50, 50)) @ numpy.ones((50, 50))).failure is not None


def test_a_view_alone_has_a_failure() -> None:
    assert count(r(3, 4).view, (12,)).failure is not None


def test_work_beside_torch_is_said() -> None:
    def call() -> Any:
        busy(0.2)
        return r(3) + 1

    assert codes(count(call)) == {"beside-torch"}


class Doubled(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        return torch.from_numpy(gradients[0].numpy() * 2)


def _in_numpy(x: torch.Tensor) -> torch.Tensor:
    array = x.numpy()
    for _ in range(3):
        array = array @ array
    return torch.from_numpy(array) + 1


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (_in_numpy, ("from_numpy() 1×", "numpy() 1×")),
        (lambda x: torch.from_numpy(pytest.importorskip("numpy").ones(3)) + 1, ("from_numpy() 1×",)),
        (lambda x: torch.from_numpy(pytest.importorskip("numpy").asarray(x)) + 1, ("numpy() 1×",)),
        (lambda x: torch.from_dlpack(pytest.importorskip("numpy").from_dlpack(x)) + 1, ("__dlpack__() 1×",)),
        (lambda x: x + sum(x[0].tolist()), ("tolist() 1×",)),
        (lambda x: x + x.data_ptr() % 2, ("data_ptr() 1×",)),
        (lambda x: Doubled.apply(x.requires_grad_()).sum().backward(), ("from_numpy() 2×", "numpy() 2×")),
    ],
)
def test_values_passed_to_other_code_are_said_however_short_it_takes(call: Any, named: tuple[str, ...]) -> None:
    counted = count(call, setup=lambda: ((torch.eye(4),), {}))
    warning = next(one for one in counted.warnings if one.code == "beside-torch")
    assert not warning.disqualifies
    assert all(name in warning.text for name in named), warning.text


def test_values_that_stay_in_torch_are_not_said() -> None:
    counted = count(lambda x: (x @ x).sum().item(), (torch.eye(4),))
    assert "beside-torch" not in codes(counted)


def test_a_library_that_runs_models_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class InferenceSession:
        def run(self) -> int:
            return 7

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=InferenceSession))
    session, original = InferenceSession(), InferenceSession.run
    counted = count(lambda: (session.run(), r(3) + 1))
    assert counted.result[0] == 7
    assert [(w.code, "onnxruntime" in w.text) for w in counted.warnings] == [("other-libraries", True)]
    assert count(lambda: session.run()).failure is not None
    assert InferenceSession.run is original


def test_a_subprocess_is_said() -> None:
    def call() -> Any:
        subprocess.run([sys.executable, "-c", "sum(range(2_000_000))"], check=True)
        return r(3) + 1

    counted = count(call)
    assert [w.disqualifies for w in counted.warnings if w.code == "other-processes"] == [True]


def test_a_subprocess_alone_is_named_in_the_failure() -> None:
    failure = count(lambda: subprocess.run([sys.executable, "-c", "sum(range(2_000_000))"], check=True)).failure
    assert failure is not None
    assert "child processes used" in failure


@pytest.mark.parametrize("start", [lambda: subprocess.run(["true"], check=True), lambda: os.system("true")])
def test_a_process_that_takes_no_time_is_said(start: Any) -> None:
    counted = count(lambda: (start(), r(3) + 1))
    warning = next(one for one in counted.warnings if one.code == "other-processes")
    assert not warning.disqualifies
    assert "(1 started)" in warning.text


def test_a_little_work_of_a_process_made_before_is_said() -> None:
    """More than a hundred microseconds, less than the 10 ms of a tick."""
    serve = "for line in __import__('sys').stdin: print(sum(range(100_000)), flush=True)"
    with subprocess.Popen([sys.executable, "-c", serve], stdin=-1, stdout=-1, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def call() -> Any:
            server.stdin.write("\n")
            server.stdin.flush()
            server.stdout.readline()
            return r(3) + 1

        assert "other-processes" in codes(count(call))


def test_a_thread_that_has_ended_is_said() -> None:
    def call() -> Any:
        thread = threading.Thread(target=lambda: sum(range(1000)))
        thread.start()
        thread.join()
        return r(3) + 1

    (warning,) = count(call).warnings
    assert (warning.code, warning.disqualifies) == ("other-threads", False)
    assert "1 thread started" in warning.text


class Slowly(torch.utils.data.Dataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        busy(0.05)
        return r(3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_that_load_data_are_said_and_no_more() -> None:
    model, loader = nn.Linear(3, 3), torch.utils.data.DataLoader(Slowly(), batch_size=2, num_workers=1)
    counted = count(lambda: [model(batch) for batch in loader])
    assert [(w.code, w.disqualifies) for w in counted.warnings if w.code == "other-processes"] == [
        ("other-processes", False)
    ]


def test_a_thread_of_the_call_is_named() -> None:
    def call() -> Any:
        thread = threading.Thread(target=lambda: r(30, 30) @ r(30, 30), name="helping")
        thread.start()
        thread.join()
        return r(3) + 1

    counted = count(call)
    assert [(w.disqualifies, "helping" in w.text) for w in counted.warnings if w.code == "other-threads"] == [
        (True, True)
    ]


def test_a_pool_made_by_the_warm_up_is_named() -> None:
    pool: list[ThreadPoolExecutor] = []

    def call() -> Any:
        if not pool:
            pool.append(ThreadPoolExecutor(1))
        pool[0].submit(lambda: r(30, 30) @ r(30, 30)).result()
        return r(3) + 1

    assert "other-threads" in codes(count(call))
    pool[0].shutdown()


def test_a_model_that_a_thread_made_before_calls_is_named() -> None:
    model = nn.Linear(3, 3)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()

        def call() -> Any:
            pool.submit(model, r(2, 3)).result()
            return model(r(2, 3))

        counted = count(call)
    assert "other-threads" in codes(counted)
    assert counted.work is not None
    assert counted.work.flops == 2 * 2 * 3 * 3


def test_numpy_in_a_thread_made_before_is_said() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()

        def call() -> Any:
            pool.submit(busy, 0.1).result()
            return r(3) + 1

        assert "other-threads" in codes(count(call))


def test_an_operator_of_a_library_without_a_formula_is_unknown() -> None:
    with torch.library._scoped_library("carbon_test", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CPU")
        work = count(torch.ops.carbon_test.twice, (r(4),)).work
    assert work is not None
    assert work.unknown_ops == ("carbon_test::twice",)


def test_a_python_operator_is_counted_by_its_parts() -> None:
    @torch.library.custom_op("carbon_test2::project", mutates_args=())
    def project(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x @ w

    @torch.library.custom_op("carbon_test2::hidden", mutates_args=())
    def hidden(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        out.numpy()[:] = 2
        return out

    work = count(project, (r(3, 4), r(4, 5))).work
    assert work is not None
    assert (work.flops, work.unknown_ops) == (120, ())
    work = count(hidden, (r(3),)).work
    assert work is not None
    assert work.unknown_ops == ("carbon_test2::hidden",)


def test_a_formula_registered_with_torch_counts() -> None:
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    @torch.library.custom_op("carbon_test3::fast", mutates_args=())
    def fast(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    register_flop_formula(torch.ops.carbon_test3.fast)(lambda shape, *args, out_shape=None, **kwargs: 77)
    try:
        work = count(fast, (r(3),)).work
    finally:
        del flop_registry[torch.ops.carbon_test3.fast]
    assert work is not None
    assert (work.flops, work.unknown_ops) == (77, ())


def test_operators_of_torch_whose_flops_are_unknown_are_named() -> None:
    work = count(torch.linalg.svd, (r(4, 4),)).work
    assert work is not None
    assert work.unknown_ops == ("aten::_linalg_svd",)


def test_sparse_products_are_named() -> None:
    work = count(torch.sparse.mm, (r(4, 4).to_sparse(), r(4, 5))).work
    assert work is not None
    assert any("mm" in name for name in work.unknown_ops)


def test_a_call_that_varies_is_said_with_both_figures() -> None:
    sizes = iter((1, 2, 3))
    counted = count(lambda: r(next(sizes), 4) @ r(4, 5))
    (warning,) = counted.warnings
    assert (warning.code, warning.disqualifies) == ("not-repeatable", True)
    assert "80 and then 120 FLOPs" in warning.text


def test_a_window_counts_the_mean_of_its_calls() -> None:
    window = Counting()
    window.begin()
    for size in (1, 2, 3):
        r(size, 4) @ r(4, 5)
    counted = window.end(3)
    assert counted.work is not None
    assert (counted.work.flops, counted.warnings) == (80, ())


def test_what_raises_raises_and_leaves_nothing_behind() -> None:
    before = (nn.Module.__call__, torch.compile, threading.Thread._bootstrap_inner)  # type: ignore[attr-defined]

    class Broken(nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        count(Broken(), (r(2),))
    model, calls = Broken(), iter((False, True))

    def later() -> Any:
        return model(r(2)) if next(calls) else r(2) + 1

    with pytest.raises(ValueError, match="on purpose"):
        count(later)
    assert before == (nn.Module.__call__, torch.compile, threading.Thread._bootstrap_inner)  # type: ignore[attr-defined]
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert "tolist" not in vars(torch.Tensor)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("call", "flops"),
    [
        (torch.inference_mode()(lambda: r(2, 3) @ nn.Linear(3, 6).weight.chunk(2)[0].t()), 2 * 2 * 3 * 3),
        (lambda: torch.vmap(torch.mv, (None, 0))(r(3, 4), r(5, 4)), 2 * 5 * 3 * 4),
        (lambda: torch.func.grad(lambda w: (r(2, 3) @ w).sum())(r(3, 4)), 2 * 2 * 2 * 3 * 4),
        (lambda: torch.func.functional_call(nn.Linear(3, 4), {"weight": r(4, 3)}, r(2, 3)), 2 * 2 * 3 * 4),
        (lambda: torch.nested.nested_tensor([r(2, 3), r(5, 3)], layout=torch.jagged) @ r(3, 4), 2 * 7 * 3 * 4),
        (lambda: r(4, 3).t() @ r(4, 5)[:, ::2], 2 * 3 * 4 * 3),
        (lambda: r(6).view(2, 3).t_().mul_(2).sum(), 0),
        (lambda: torch.view_as_real(torch.mm(r(2, 3).cfloat(), r(3, 4).cfloat())), 8 * 2 * 3 * 4),
        (lambda: torch.jit.script(nn.Linear(3, 4))(r(2, 3)), 2 * 2 * 3 * 4),
    ],
    ids=[
        "chunked weights",
        "vmap",
        "func.grad",
        "functional_call",
        "nested",
        "not contiguous",
        "views in place",
        "complex",
        "script",
    ],
)
def test_unusual_tensors_are_counted(call: Any, flops: int) -> None:
    work = count(call).work
    assert work is not None
    assert (work.flops, work.unknown_ops) == (flops, ())


def test_a_small_product_in_a_pool_made_before_is_said() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()

        def call() -> Any:
            for _ in range(20):
                pool.submit(lambda: r(60, 60) @ r(60, 60)).result()
            return r(3) + 1

        assert "other-threads" in codes(count(call))


def test_a_python_operator_that_works_in_numpy_is_unknown() -> None:
    @torch.library.custom_op("carbon_test4::hidden", mutates_args=())
    def hidden(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(x.shape[0], w.shape[1])
        out.numpy()[:] = x.numpy() @ w.numpy()
        return out

    work = count(hidden, (r(3, 4), r(4, 5))).work
    assert work is not None
    assert work.unknown_ops == ("carbon_test4::hidden",)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_script_made_for_inference_is_unknown() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval())
    work = count(torch.jit.optimize_for_inference(scripted), (r(1, 3, 8, 8),)).work
    assert work is not None
    assert work.flops or work.unknown_ops


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_of_nested_tensors_are_counted_or_named() -> None:
    parts = [r(2, 3), r(5, 3)]
    jagged = count(nn.Linear(3, 4), (torch.nested.nested_tensor(parts, layout=torch.jagged),)).work
    assert jagged is not None
    assert jagged.flops == 2 * 7 * 3 * 4
    strided = count(nn.Linear(3, 4), (torch.nested.nested_tensor(parts),)).work
    assert strided is not None
    assert strided.unknown_ops == ("linear (nested)",)


def test_tracing_is_no_work() -> None:
    model, x = nn.Linear(3, 4), r(2, 3)
    work = count(lambda: torch.export.export(model, (x,)).module()(x)).work
    assert work is not None
    assert work.flops == 2 * 2 * 3 * 4


@pytest.mark.parametrize(("reads", "warned"), [(8, False), (2, True), (11, True), (16, False)])
def test_a_window_whose_mean_would_hide_a_change_is_said(reads: int, warned: bool) -> None:
    x = r(4)
    window = Counting()
    window.begin()
    for _ in range(8):
        x + 1
    for _ in range(reads):
        x[0].item()
    counted = window.end(8)
    assert [(w.code, w.disqualifies, "host reads" in w.text) for w in counted.warnings] == [
        ("not-repeatable", True, True)
    ] * (warned and 1)


def test_a_window_of_less_than_a_kernel_a_call_has_work() -> None:
    window = Counting()
    window.begin()
    r(2, 3) @ r(3, 4)
    counted = window.end(100)
    assert counted.failure is None
    assert "not-repeatable" in codes(counted)
