"""Which GPUs a process means, by its machine, its contexts and its option; and waiting for them."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_carbon.measure.devices import contexts, select, synchroniser, torch_uuids, used, visible
from pytest_carbon.records import Gpu, UsageProblem

ALIKE = tuple(
    Gpu(i, uuid, "NVIDIA H100") for i, uuid in enumerate(["GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb3333", "GPU-cccc"])
)
MIXED = (Gpu(0, "GPU-t4t4", "Tesla T4"), Gpu(1, "GPU-a100", "NVIDIA A100"), Gpu(2, "GPU-t4t5", "Tesla T4"))
MIXED_LIST = "0 (Tesla T4, GPU-t4t4), 1 (NVIDIA A100, GPU-a100), 2 (Tesla T4, GPU-t4t5)"


def indices(gpus):
    return [gpu.index for gpu in gpus]


def shown(gpus, value, device_order="FASTEST_FIRST", parents=None):
    """What CUDA shows with this value of the variable; None: it is not set."""
    environ = {"CUDA_DEVICE_ORDER": device_order} | ({} if value is None else {"CUDA_VISIBLE_DEVICES": value})
    return visible(gpus, environ, parents or {})


# --- CUDA_VISIBLE_DEVICES --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("void", []),
        ("2", [2]),
        ("2,0", [2, 0]),
        (" 1 , 3", [1, 3]),
        ("0,", [0]),
        ("1,-1,2", [1]),
        ("1,9,2", [1]),
        ("0,x,1", [0]),
        ("1gpu,2ampere", [1, 2]),
        ("0,1,0", []),
        ("0,GPU-cccc", [0]),
        ("GPU-bbbb3333", [2]),
        ("GPU-c,GPU-b", [3, 2]),
        ("GPU-aaaa", []),  # the beginning of two
        ("GPU-c,GPU-aaaa,GPU-b", [3]),
        ("GPU-c,GPU-dddd,GPU-b", [3]),
        ("GPU-c,GPU-c", []),
        ("GPU-c,GPU-cc", []),
        ("GPU-c, GPU-b", [3]),  # CUDA does not skip blanks before a UUID
        ("GPU-c,1", [3]),
        (" GPU-c", []),
        ("MIG-GPU-bbbb3333/1/0", [2]),
        ("MIG-GPU-bbbb3333/1/0,MIG-GPU-bbbb3333/2/0", [2]),
        ("MIG-5ec0,MIG-f1", [1, 0]),
        ("MIG-f1,GPU-c", [0]),
    ],
)
def test_every_form_of_cuda_visible_devices(value, expected):
    """Unset, empty, -1, indices, UUIDs and their beginnings, MIG devices old and new, duplicates, blanks, nonsense."""
    parents = {"MIG-f1f1": "GPU-aaaa1111", "MIG-f1f2": "GPU-aaaa1111", "MIG-5ec0": "GPU-aaaa2222"}
    assert indices(shown(ALIKE, value, parents=parents)) == expected


entries = st.one_of(
    st.integers(-2, 5).map(str),
    st.sampled_from(["GPU-a", "GPU-aaaa1", "GPU-aaaa2222", "GPU-b", "GPU-c", "GPU-cc", "GPU-zz", "GPU-", ""]),
    st.sampled_from([" 1", "2 ", "1gpu", "x", " GPU-c", "-", "1-2"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.lists(entries, max_size=5).map(",".join))
@example(value="")
@example(value="GPU-aaaa1,GPU-a,GPU-a")
def test_reads_cuda_visible_devices_as_torch_does(monkeypatch, value):
    """torch has its own reading of the variable, made to agree with CUDA's."""
    cuda = pytest.importorskip("torch.cuda", reason="torch is not installed")
    if "-" in value.split(","):
        return  # torch itself stumbles over a lone sign
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    ordinals = cuda._parse_visible_devices()
    if ordinals and isinstance(ordinals[0], str):
        ordinals = cuda._transform_uuid_to_ordinals(ordinals, [gpu.uuid for gpu in ALIKE])
    in_range = []
    for ordinal in ordinals:
        if ordinal >= len(ALIKE):
            break
        in_range.append(ordinal)
    assert indices(shown(ALIKE, value)) == in_range


def test_an_unknown_mig_device_is_explained():
    """Without its GPU there is no energy to count, and guessing would count another's."""
    with pytest.raises(UsageProblem) as caught:
        shown(MIXED, "MIG-1234")
    assert str(caught.value) == (
        "CUDA_VISIBLE_DEVICES=MIG-1234: NVML does not say which GPU has the MIG device MIG-1234, and only whole"
        f" GPUs count their energy. Name the GPU with --carbon-gpus; there are: {MIXED_LIST}."
    )


def test_indices_of_different_models_are_refused_where_cuda_counts_from_the_fastest():
    """CUDA's GPU 0 is the A100 here, NVML's the T4."""
    with pytest.raises(UsageProblem) as caught:
        shown(MIXED, "0")
    assert str(caught.value) == (
        "CUDA_VISIBLE_DEVICES=0 is ambiguous: CUDA counts GPUs from the fastest, and these are of different models:"
        f" {MIXED_LIST}. Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or use UUIDs in CUDA_VISIBLE_DEVICES, or name the GPUs with"
        " --carbon-gpus."
    )
    with pytest.raises(UsageProblem):
        visible(MIXED, {"CUDA_VISIBLE_DEVICES": "0,1"}, {})


def test_indices_of_different_models_are_clear_by_bus_id_by_torch_or_where_all_are_meant(monkeypatch):
    """Three ways in which nothing is left to guess."""
    assert indices(shown(MIXED, "0", device_order="PCI_BUS_ID")) == [0]
    assert indices(shown(MIXED, "2,1,0")) == [2, 1, 0]
    assert shown(MIXED, "7") == ()
    install(monkeypatch, FakeTorch(uuids=["a100", "t4t4"]))
    assert indices(shown(MIXED, "0,1")) == [1, 0]


def test_a_torch_device_that_nvml_does_not_know_falls_back_to_the_variable(monkeypatch):
    """A MIG device has a UUID of its own."""
    install(monkeypatch, FakeTorch(uuids=["0e0e"]))
    assert indices(shown(ALIKE, "MIG-GPU-cccc/1/0")) == [3]


# --- contexts --------------------------------------------------------------------------------------


class FakeTorch(ModuleType):
    """As much of torch as is asked about devices; it notes what it was asked to wait for."""

    def __init__(self, uuids=(), initialised=True, held=(), xpus=0, mps=False):
        super().__init__("torch")
        self.waited = []
        self.cuda = SimpleNamespace(
            is_initialized=lambda: initialised,
            device_count=lambda: self._checked(initialised, len(uuids)),
            get_device_properties=lambda i: self._checked(initialised, SimpleNamespace(uuid=uuids[i])),
            synchronize=lambda i: self.waited.append(("cuda", self._checked(initialised, i))),
        )
        self._C = SimpleNamespace(_cuda_hasPrimaryContext=lambda i: i in held)
        self.xpu = SimpleNamespace(
            is_initialized=lambda: xpus > 0,
            device_count=lambda: self._checked(xpus > 0, xpus),
            synchronize=lambda i: self.waited.append(("xpu", i)),
        )
        self.backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))
        self.mps = SimpleNamespace(synchronize=lambda: self.waited.append(("mps", None)))

    @staticmethod
    def _checked(initialised, value):
        if not initialised:
            raise AssertionError("this would have initialised the device")
        return value


def install(monkeypatch, torch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


def test_contexts_are_mapped_by_uuid_not_by_torchs_order(monkeypatch):
    """torch's device 0 is NVML's GPU 1, and has a context; device 2 has none."""
    install(monkeypatch, FakeTorch(uuids=["a100", "t4t4", "t4t5"], held={0, 1}))
    assert torch_uuids() == ("GPU-a100", "GPU-t4t4", "GPU-t4t5")
    assert indices(contexts(MIXED)) == [0, 1]


@pytest.mark.parametrize(
    "torch",
    [
        FakeTorch(uuids=["a100"], initialised=False, held={0}),
        FakeTorch(uuids=[None], held={0}),  # before torch 2.4
        ModuleType("torch"),  # is being imported
        None,
    ],
)
def test_no_context_is_known_of_a_torch_that_cannot_tell(monkeypatch, torch):
    """Not initialised, too old, half imported or absent: none of them raises, and CUDA stays as it was."""
    install(monkeypatch, torch)
    assert contexts(MIXED) == ()


def test_used_are_those_of_torch_and_of_nvmls_list(monkeypatch):
    """What this process holds through torch, and what it or a child holds through anything else."""
    install(monkeypatch, FakeTorch(uuids=["a100"], held={0}))
    assert indices(used(MIXED, {}, ())) == [1]
    pids = {"GPU-t4t4": {11, 99}, "GPU-a100": {99}, "GPU-t4t5": {12}}
    assert indices(used(MIXED, pids, {10, 12})) == [1, 2]
    install(monkeypatch, None)
    assert indices(used(MIXED, pids, {10, 11})) == [0]


def test_used_without_any_context_are_those_that_torch_sees(monkeypatch):
    """Before anything has run, the machine is all there is."""
    install(monkeypatch, None)
    assert used(ALIKE, {}, ()) == ALIKE
    install(monkeypatch, FakeTorch(uuids=["a100"]))
    assert indices(used(MIXED, {}, ())) == [1]


# --- --carbon-gpus ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", [0, 1, 2, 3]),
        ("visible", [3]),
        ("2", [2]),
        ("3,1", [1, 3]),
        ("GPU-b", [2]),
        ("0, GPU-cccc, 0", [0, 3]),
        ("MIG-GPU-cccc/1/0", [3]),
        ("MIG-f1", [2]),
    ],
)
def test_select_takes_words_indices_and_uuids(monkeypatch, spec, expected):
    """In NVML's order, each once."""
    install(monkeypatch, None)
    chosen = select(spec, ALIKE, {"CUDA_VISIBLE_DEVICES": "3"}, {"MIG-f1f1": "GPU-bbbb3333"})
    assert indices(chosen) == expected


@pytest.mark.parametrize(
    ("spec", "entry"),
    [("7", "7"), ("0,GPU-x", "GPU-x"), ("usd", "usd"), ("", ""), ("0,,1", ""), ("-1", "-1"), ("MIG-9", "MIG-9")],
)
def test_select_refuses_what_is_not_there(spec, entry):
    """The value, what there is, what is allowed."""
    with pytest.raises(UsageProblem) as caught:
        select(spec, MIXED, {}, {})
    assert str(caught.value) == (
        f"--carbon-gpus={spec}: there is no GPU {entry!r}. There are: {MIXED_LIST}. "
        "Allowed: used, visible, all, or indices and UUIDs (or their beginnings) joined by commas."
    )


def test_select_refuses_the_beginning_of_two_uuids():
    """Which of them is meant is not guessed."""
    with pytest.raises(UsageProblem) as caught:
        select("GPU-aa", ALIKE, {}, {})
    assert str(caught.value) == (
        "--carbon-gpus=GPU-aa: 'GPU-aa' is the beginning of several UUIDs, so write more of it: "
        "GPU-aaaa1111, GPU-aaaa2222."
    )


# --- waiting ---------------------------------------------------------------------------------------


def test_waits_for_every_device_that_was_initialised_and_for_no_other(monkeypatch):
    """CUDA devices with a context, XPUs, MPS, and then whatever else was given."""
    torch = install(monkeypatch, FakeTorch(uuids=["a", "b", "c"], held={0, 2}, xpus=2, mps=True))
    synchroniser([lambda: torch.waited.append("jax")])()
    assert torch.waited == [("cuda", 0), ("cuda", 2), ("xpu", 0), ("xpu", 1), ("mps", None), "jax"]


def test_waits_for_all_where_torch_cannot_say_who_holds_a_context(monkeypatch):
    """Better a context too many than work not waited for."""
    torch = install(monkeypatch, FakeTorch(uuids=["a", "b"]))
    del torch._C._cuda_hasPrimaryContext
    synchroniser()()
    assert torch.waited == [("cuda", 0), ("cuda", 1)]


def test_torch_imported_later_is_found(monkeypatch):
    """The function looks anew each time."""
    install(monkeypatch, None)
    wait = synchroniser()
    wait()
    torch = install(monkeypatch, FakeTorch(uuids=["a"], held={0}))
    wait()
    assert torch.waited == [("cuda", 0)]


@pytest.mark.parametrize("torch", [FakeTorch(uuids=["a"], initialised=False, held={0}), ModuleType("torch"), None])
def test_initialises_nothing_by_waiting(monkeypatch, torch):
    """An unused, half imported or absent torch is left alone."""
    install(monkeypatch, torch)
    synchroniser()()
    assert getattr(torch, "waited", []) == []


def test_what_a_device_reports_late_is_raised(monkeypatch):
    """An assertion in a kernel belongs to the test that ran it."""
    torch = install(monkeypatch, FakeTorch(uuids=["a"], held={0}))

    def fail(ordinal):
        raise RuntimeError("CUDA error: device-side assert triggered")

    torch.cuda.synchronize = fail
    with pytest.raises(RuntimeError, match="device-side assert"):
        synchroniser()()


def test_nothing_heavy_is_imported():
    """A process without torch stays without it."""
    code = (
        "import sys; from pytest_carbon.measure.devices import synchroniser, used; "
        "from pytest_carbon.records import Gpu\n"
        "wait = synchroniser(); wait(); used([Gpu(0, 'GPU-a', 'x')], {}, ())\n"
        "heavy = {'torch', 'numpy', 'scipy', 'psutil', 'pynvml'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
