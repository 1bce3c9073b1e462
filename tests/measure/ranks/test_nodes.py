"""One measurement from those of several nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_carbon.measure.ranks.nodes import OfNode, on_node, over_nodes
from pytest_carbon.records import (
    Domain,
    DomainEnergy,
    Gpu,
    Machine,
    Measurement,
    MeasurementWarning,
    Round,
    SessionScore,
)


def of_node(node: int, joules: tuple[float, ...], error_j: float = 0.3, model: str = "NVIDIA H100") -> OfNode:
    gpus = tuple(Gpu(index, f"GPU-{node}{index}", model, 700.0) for index in range(len(joules)))
    domains = tuple(
        DomainEnergy(Domain(f"gpu:{index}", "measured", "nvml"), energy_j, energy_j / 0.5, 70.0)
        for index, energy_j in enumerate(joules)
    )
    energy_j = sum(joules)
    measurement = Measurement(
        "call",
        f"{len(joules)}x",
        calls=10,
        duration_s_per_call=0.5,
        energy_j_per_call=energy_j,
        energy_j_per_call_error=error_j,
        energy_j_per_call_mean=energy_j,
        tail_j=0.1,
        gpus=tuple(gpu.uuid for gpu in gpus),
        gated=tuple(f"gpu:{index}" for index in range(len(joules))),
        domains=domains,
        rounds=(Round(10, 5.0),),
        sessions=(SessionScore("s", energy_j, 0.5),),
    )
    return node, measurement, Machine(f"{len(joules)}x", gpus)


def test_joules_add_up() -> None:
    """The duration is that of rank 0's node, whose clock it is; errors are independent."""
    whole, machine = over_nodes([of_node(0, (1.0, 2.0)), of_node(1, (4.0, 8.0, 16.0), error_j=0.4)], g_per_j=2.0)
    assert whole.energy_j_per_call == whole.sessions[0].energy_j_per_call == 31.0
    assert whole.energy_j_per_call_error == pytest.approx(0.5)
    assert (whole.duration_s_per_call, whole.calls, whole.emissions_g_per_call) == (0.5, 10, 62.0)
    assert whole.gated == ("gpu:0", "gpu:1", "gpu:2", "gpu:3", "gpu:4")
    assert [d.energy_j_per_call for d in whole.domains] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert whole.domains[3].domain.source == "nvml (gpu:1 of node 1)"
    assert whole.gpus == ("GPU-00", "GPU-01", "GPU-10", "GPU-11", "GPU-12")
    assert whole.machine == machine.id == "5x-nvidia-h100-700w-gpu"
    assert [gpu.index for gpu in machine.gpus] == [0, 1, 2, 3, 4]


def test_an_unknown_error_stays_unknown() -> None:
    first, (node, m, machine) = of_node(0, (1.0,)), of_node(1, (1.0,))
    whole, _ = over_nodes([first, (node, replace(m, energy_j_per_call_error=None), machine)], g_per_j=None)
    assert whole.energy_j_per_call_error is None
    assert whole.energy_j_per_call == 2.0


def test_a_node_that_fails_fails_all() -> None:
    """Named; half of the energy is no figure."""
    first, (node, m, machine) = of_node(0, (1.0,)), of_node(1, (1.0,))
    whole, _ = over_nodes([first, (node, m.failed("its counter stood still"), machine)], g_per_j=None)
    assert whole.failure == "node 1: its counter stood still"
    assert whole.energy_j_per_call is None


def test_nodes_of_different_kinds_are_refused() -> None:
    whole, _ = over_nodes([of_node(0, (1.0,)), of_node(1, (1.0,), model="NVIDIA A100")], g_per_j=None)
    assert whole.failure is not None
    assert "node 0 has NVIDIA H100; node 1 has NVIDIA A100" in whole.failure


def test_warnings_name_their_node() -> None:
    """Of each code the first that disqualifies."""
    tail = MeasurementWarning("tail", "a tail")
    shared = (
        MeasurementWarning("shared-gpu", "one that informs", informs=True),
        MeasurementWarning("shared-gpu", "no"),
    )
    parts = [of_node(0, (1.0,)), of_node(1, (1.0,))]
    warned = [
        (node, replace(m, warnings=(tail, own)), machine) for (node, m, machine), own in zip(parts, shared, strict=True)
    ]
    whole, _ = over_nodes(warned, g_per_j=None)
    assert {w.code: (w.text, w.disqualifies) for w in whole.warnings} == {
        "tail": ("node 0: a tail", False),
        "shared-gpu": ("node 1: no", True),
    }


@pytest.mark.parametrize(
    ("ranks", "used", "idle", "says"),
    [
        (4, 4, 0, []),
        (2, 8, 0, []),
        (8, 2, 0, []),
        (3, 4, 0, ["node 1: 3 ranks do not divide evenly among 4 GPUs; each figure is of all 4"]),
        (
            2,
            2,
            1,
            ["node 1: the ranks see gpu:9 and hold no context there, so no figure has them (together 140 W at rest)"],
        ),
    ],
)
def test_what_is_said_of_a_node(ranks: int, used: int, idle: int, says: list[str]) -> None:
    names = [f"gpu:{number}" for number in range(used)]
    assert list(on_node(1, ranks, names, ["gpu:9"][:idle], 140.0)) == says
