"""Traces: what they play, how they are written, and which are refused."""

from __future__ import annotations

import json
import pickle
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.measure.meters.protocol import Meter, MeterSource, Observation
from pytest_carbon.measure.meters.replay import FORMAT, ReplayMeter, write_constant_trace, write_trace
from pytest_carbon.records import Domain, Edge, Gpu, MeterError

GPU = {"domain": "gpu:0", "kind": "measured", "source": "nvml total energy"}
CPU = {"domain": "cpu:0", "kind": "estimated", "source": "a guess"}


def trace(path: Path, *lines: object, domains: tuple[dict[str, object], ...] = (GPU,), **header: object) -> Path:
    head = {"format": FORMAT, "domains": list(domains)} | header
    path.write_text("\n".join(json.dumps(line) for line in (head, *lines)) + "\n")
    return path


def step(t_s: float, energy_j: float, domain: str = "gpu:0", **more: object) -> dict[str, object]:
    return {"t_s": t_s, "domain": domain, "energy_j": energy_j, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


def test_it_is_a_meter(path: Path) -> None:
    """It has what the protocol asks for, and a recipe for it can be sent to another process."""
    write_constant_trace(path, 100.0, 0.02)
    source = MeterSource("replay", ReplayMeter, {"path": str(path), "origin_s": 12.5})
    meter = pickle.loads(pickle.dumps(source)).open()
    assert isinstance(meter, Meter)
    assert meter.stepped
    assert meter.domains == (Domain("gpu:0", "measured", "replayed: constant 100 W"),)
    meter.close()


def test_the_counter_holds_between_steps_and_goes_on_after_the_last(path: Path) -> None:
    """A cycle ends with the last step; the next begins on top of it."""
    meter = ReplayMeter(trace(path, step(0.1, 30), step(0.3, 50)))
    times = [0.0, 0.09, 0.1, 0.29, 0.3, 0.39, 0.41, 0.59, 0.61, 0.71]
    assert [meter.energy_j(0, t_s) for t_s in times] == [0, 0, 30, 30, 50, 50, 80, 80, 100, 130]


def test_a_counter_that_does_not_step_grows_evenly(path: Path) -> None:
    """``"stepped": false`` draws lines between the points."""
    meter = ReplayMeter(trace(path, step(0.1, 30), step(0.3, 50), stepped=False))
    assert not meter.stepped
    assert [meter.energy_j(0, t_s) for t_s in (0.0, 0.05, 0.1, 0.2, 0.35)] == pytest.approx([0, 15, 30, 40, 65])


def test_domains_share_a_cycle(path: Path) -> None:
    """It is as long as the longest: one that ends earlier waits for it."""
    lines = (step(0.1, 1), step(0.05, 7, "cpu:0"), step(0.2, 2))
    meter = ReplayMeter(trace(path, *lines, domains=(GPU, CPU)))
    assert [meter.energy_j(1, t_s) for t_s in (0.04, 0.06, 0.19, 0.21, 0.26)] == [0, 7, 7, 7, 14]
    assert meter.domains[1] == Domain("cpu:0", "estimated", "replayed: a guess")
    assert [gpu.index for gpu in meter.gpus()] == [0]


def test_a_test_that_holds_the_clock_does_not_hold_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As freezegun does: the counter of a device would go on."""
    write_constant_trace(tmp_path / "trace.jsonl", 100.0, 1e-6)
    meter = ReplayMeter(tmp_path / "trace.jsonl")
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    before_j, _ = meter.read_j(0), time.sleep(0.01)
    assert meter.read_j(0) >= before_j + 0.9


def test_two_instances_play_the_same(path: Path) -> None:
    """Given the same origin: a watcher in another process sees the counter that this one sees."""
    origin_s = time.perf_counter() - 1000.0
    write_constant_trace(path, 100.0, 3600.0)
    first, second = ReplayMeter(path, origin_s - 3600.0), ReplayMeter(path, origin_s - 3600.0)
    assert first.read_j(0) == second.read_j(0) == 360_000.0


def test_before_its_origin_nothing_has_been_played(path: Path) -> None:
    """A clock that is a little behind does not play backwards."""
    write_constant_trace(path, 100.0, 0.02)
    meter = ReplayMeter(path, time.perf_counter() + 1000)
    assert meter.read_j(0) == 0
    assert meter.observe(0) == Observation()


def test_what_was_observed_is_played_too(path: Path) -> None:
    """Power, throttling, the power limit and the temperature are those of the last step."""
    seen = {"power_w": 300.0, "throttle": "thermal", "power_limit_w": 500.0, "temperature_c": -2.5}
    meter = ReplayMeter(trace(path, step(100, 30, **seen), step(200, 50)), time.perf_counter() - 150)
    assert meter.observe(0) == Observation(**seen)  # type: ignore[arg-type]
    meter = ReplayMeter(path, time.perf_counter() - 250)
    assert meter.observe(0) == Observation()


def test_a_recorded_error_is_raised_from_then_on(path: Path) -> None:
    """However often the trace was played by then; other domains go on."""
    lost = {"t_s": 3.0, "domain": "gpu:0", "error": "GPU is lost"}
    trace(path, step(0.5, 10), step(0.5, 1, "cpu:0"), lost, domains=(GPU, CPU))
    assert ReplayMeter(path, time.perf_counter() - 2).read_j(0) >= 40
    meter = ReplayMeter(path, time.perf_counter() - 4)
    with pytest.raises(MeterError) as caught:
        meter.read_j(0)
    assert str(caught.value) == f"gpu:0: GPU is lost (recorded in {path})"
    assert meter.read_j(1) >= 8


def test_gpus_are_those_of_the_header(path: Path) -> None:
    """Name, UUID, limit and memory make the machine's id; one that is not described is called replay."""
    h100 = {"name": "NVIDIA H100", "uuid": "GPU-1", "power_limit_w": 700, "memory_bytes": 85899345920}
    domains = (GPU | {"gpu": h100}, GPU | {"domain": "gpu:3"})
    meter = ReplayMeter(trace(path, step(1, 1), step(1, 1, "gpu:3"), domains=domains))
    assert meter.gpus() == (
        Gpu(0, "GPU-1", "NVIDIA H100", power_limit_w=700.0, memory_bytes=85899345920),
        Gpu(3, "replay-3", "replay"),
    )


@given(
    power_w=st.floats(min_value=0.1, max_value=1000),
    period_s=st.floats(min_value=0.001, max_value=1),
    elapsed_s=st.floats(min_value=0, max_value=1e5),
)
def test_a_constant_trace_is_constant(
    tmp_path_factory: pytest.TempPathFactory, power_w: float, period_s: float, elapsed_s: float
) -> None:
    """At any moment it shows the energy of the power so far, short of at most one step."""
    path = tmp_path_factory.getbasetemp() / "constant.jsonl"
    write_constant_trace(path, power_w, period_s)
    short_j = power_w * elapsed_s - ReplayMeter(path).energy_j(0, elapsed_s)
    assert -1e-6 * power_w * elapsed_s <= short_j <= power_w * period_s * (1 + 1e-6) + 1e-6 * power_w * elapsed_s


@given(
    st.lists(
        st.tuples(st.floats(min_value=0.001, max_value=10), st.floats(min_value=0, max_value=1e3)),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.floats(min_value=0, max_value=500), min_size=2, max_size=20),
    st.booleans(),
)
def test_no_trace_ever_goes_back(
    tmp_path_factory: pytest.TempPathFactory,
    increments: list[tuple[float, float]],
    moments_s: list[float],
    stepped: bool,
) -> None:
    """Whatever was recorded, later reads show as much or more."""
    t_s, energy_j, lines = 0.0, 0.0, []
    for more_s, more_j in increments:
        t_s, energy_j = t_s + more_s, energy_j + more_j
        lines.append(step(t_s, energy_j))
    meter = ReplayMeter(trace(tmp_path_factory.getbasetemp() / "any.jsonl", *lines, stepped=stepped))
    values_j = [meter.energy_j(0, moment_s) for moment_s in sorted(moments_s)]
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(values_j))


def test_what_is_recorded_is_what_is_played(path: Path) -> None:
    """Times and energies count from the start; the rest of an edge is kept."""
    domains = [Domain("gpu:1", "measured", "nvml total energy"), Domain("cpu:0", "measured", "rapl package")]
    edges = {
        "gpu:1": [
            Edge(9.0, 9.0, 1000.0, 70.0),
            Edge(10.0, 10.2, 1010.0, 70.0),
            Edge(11.0, 11.2, 1110.0, 100.0, "thermal", 500.0, 61.0),
        ],
        "cpu:0": [Edge(10.5, 10.7, 55.0), Edge(11.5, 11.7, 65.0)],
    }
    gpu = Gpu(1, "GPU-1", "NVIDIA H100", 700.0)
    write_trace(path, domains, edges, start_s=9.5, gpus=[gpu])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {
            "format": FORMAT,
            "domains": [
                {
                    "domain": "gpu:1",
                    "kind": "measured",
                    "source": "nvml total energy",
                    "gpu": {"uuid": "GPU-1", "name": "NVIDIA H100", "power_limit_w": 700.0, "memory_bytes": None},
                },
                {"domain": "cpu:0", "kind": "measured", "source": "rapl package"},
            ],
        },
        {"t_s": pytest.approx(0.6), "domain": "gpu:1", "energy_j": 10.0, "power_w": 70.0},
        {"t_s": pytest.approx(1.1), "domain": "cpu:0", "energy_j": 0.0},
        {
            "t_s": pytest.approx(1.6),
            "domain": "gpu:1",
            "energy_j": 110.0,
            "power_w": 100.0,
            "throttle": "thermal",
            "power_limit_w": 500.0,
            "temperature_c": 61.0,
        },
        {"t_s": pytest.approx(2.1), "domain": "cpu:0", "energy_j": 10.0},
    ]
    meter = ReplayMeter(path)
    assert [d.source for d in meter.domains] == ["replayed: nvml total energy", "replayed: rapl package"]
    assert [(d.name, d.kind) for d in meter.domains] == [(d.name, d.kind) for d in domains]
    assert meter.gpus() == (gpu,)
    assert [meter.energy_j(0, t_s) for t_s in (0.5, 0.7, 1.7)] == [0, 10, 110]


def test_a_trace_of_a_replay_says_so_once(path: Path) -> None:
    """However often it is recorded and played again."""
    domains = [Domain("gpu:0", "measured", "replayed: nvml total energy")]
    write_trace(path, domains, {"gpu:0": [Edge(1.0, 1.0, 5.0), Edge(2.0, 2.0, 9.0)]}, start_s=0.5)
    assert ReplayMeter(path).domains == tuple(domains)


def test_nothing_recorded_is_refused(path: Path) -> None:
    """A domain without a step cannot be played, so it is not written."""
    with pytest.raises(MeterError, match=r"gpu:0 did not change after the start of the trace: record for longer\."):
        write_trace(path, [Domain("gpu:0", "measured", "x")], {"gpu:0": [Edge(1, 1, 5.0)]}, start_s=2.0)
    assert not path.exists()


@pytest.mark.parametrize(
    ("lines", "number", "problem"),
    [
        (['{"format": "pytest-carbon-trace/1"'], 1, "not JSON (Expecting ',' delimiter, column 35)"),
        (["[]"], 1, "not a JSON object"),
        (['{"energy": 1}'], 1, "it names no format, and must name 'pytest-carbon-trace/1'"),
        ([{"format": FORMAT}], 1, "domains is missing"),
        (
            [{"format": FORMAT, "domains": []}],
            1,
            '"domains" must list at least one {"domain": …, "kind": …, "source": …}',
        ),
        (
            [{"format": FORMAT, "domains": [GPU | {"kind": "guessed"}]}],
            1,
            'domains[0].kind must be one of measured, estimated, not "guessed"',
        ),
        ([{"format": FORMAT, "domains": [{"domain": "gpu:0", "kind": "measured"}]}], 1, "domains[0].source is missing"),
        ([{"format": FORMAT, "domains": [GPU, GPU]}], 1, "gpu:0 is described twice"),
        (
            [{"format": FORMAT, "domains": [GPU | {"domain": "gpu:a"}]}],
            1,
            "the domain is 'gpu:a': write gpu: and a number, such as gpu:0",
        ),
        (
            [{"format": FORMAT, "domains": [GPU | {"gpu": "H100"}]}],
            1,
            'domains[0].gpu must be an object or null, not "H100"',
        ),
        ([{"format": FORMAT, "domains": [GPU | {"gpu": {"name": "H100"}}]}], 1, "domains[0].gpu.uuid is missing"),
        (
            [{"format": FORMAT, "domains": [GPU], "stepped": "no"}, step(1, 1)],
            1,
            'stepped must be true or false, not "no"',
        ),
        ([{"format": FORMAT, "domains": [GPU], "step": False}], 1, "it has an unknown 'step': did you mean 'stepped'?"),
        (
            [{"format": FORMAT, "domains": [GPU | {"stepped": False}]}],
            1,
            "domains[0] has an unknown 'stepped': known are 'domain', 'kind', 'source', 'gpu'",
        ),
        (
            [{"format": FORMAT, "domains": [GPU | {"gpu": {"name": "H100", "uid": "GPU-1"}}]}],
            1,
            "domains[0].gpu has an unknown 'uid': did you mean 'uuid'?",
        ),
        ([None, "{"], 2, "not JSON (Expecting property name enclosed in double quotes, column 2)"),
        ([None, step(1, 1, power=3)], 2, "it has an unknown 'power': did you mean 'power_w'?"),
        (
            [None, {"t_s": 1, "domain": "gpu:0", "error": "lost", "energy": 1}],
            2,
            "it has an unknown 'energy': known are 't_s', 'domain', 'error'",
        ),
        ([None, step(0.1, 1), step(0.2, 2, "gpu:1")], 3, "domain 'gpu:1' is not in the header, which has gpu:0"),
        ([None, step(0.2, 1), step(0.1, 2)], 3, "t_s 0.1 of gpu:0 is not later than the 0.2 before it"),
        ([None, step(0, 1)], 2, "t_s 0 of gpu:0 is not later than the 0 before it"),
        ([None, step(0.1, 2), step(0.2, 1)], 3, "energy_j 1 of gpu:0 is less than the 2 before it"),
        ([None, step(0.1, float("nan"))], 2, "NaN is not a finite number"),
        ([None, step(float("inf"), 1)], 2, "Infinity is not a finite number"),
        ([None, step(0.1, True)], 2, "energy_j must be a finite number from 0, not true"),
        ([None, step(0.1, 1, power_w=-3)], 2, "power_w must be a finite number from 0 or null, not -3"),
        ([None, {"t_s": 1, "domain": "gpu:0"}], 2, "energy_j is missing"),
        ([None, step(0.1, 1, temperature_c="61")], 2, 'temperature_c must be a number or null, not "61"'),
        ([None, {"t_s": 1, "domain": "gpu:0", "error": 5}], 2, "error must be a text that is not empty, not 5"),
    ],
)
def test_a_malformed_trace_is_refused_with_its_line(path: Path, lines: list[object], number: int, problem: str) -> None:
    """The file, the line, and what is wrong there."""
    header = {"format": FORMAT, "domains": [GPU]}
    texts = [line if isinstance(line, str) else json.dumps(line or header) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    with pytest.raises(MeterError) as caught:
        ReplayMeter(path)
    remedy = "Correct the line, or record the trace again: pytest-carbon record-trace FILE"
    assert str(caught.value) == f"The trace {path}, line {number}: {problem}. {remedy}"


def test_a_trace_of_another_version_is_refused(path: Path) -> None:
    """It says which version this one reads."""
    path.write_text('{"format": "pytest-carbon-trace/2", "domains": []}\n')
    with pytest.raises(MeterError) as caught:
        ReplayMeter(path)
    assert str(caught.value) == (
        f"The trace {path}, line 1: written in the format 'pytest-carbon-trace/2', and this version reads"
        " 'pytest-carbon-trace/1'. Another version of pytest-carbon wrote it: use that version, or write the file again"
        " with this one."
    )


def test_files_that_are_no_traces_are_refused(path: Path) -> None:
    """Absent, empty, without steps, not text."""
    with pytest.raises(MeterError, match=r"trace\.jsonl cannot be read: No such file or directory\."):
        ReplayMeter(path)
    path.write_text("")
    with pytest.raises(MeterError, match="is empty: its first line must be"):
        ReplayMeter(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MeterError, match="is not text in UTF-8"):
        ReplayMeter(path)
    trace(path, step(1, 1), domains=(GPU, CPU))
    with pytest.raises(MeterError, match="has no step for cpu:0: record for longer, or remove it from the header"):
        ReplayMeter(path)


def test_a_trace_that_never_takes_anything_can_be_played(path: Path) -> None:
    """A counter that stands still is a fault worth replaying."""
    meter = ReplayMeter(trace(path, step(1, 0)))
    assert meter.energy_j(0, 1000.5) == 0
