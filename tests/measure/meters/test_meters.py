"""Choosing meters, and the domains that are gated."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_carbon.measure.meters import built_in_sources, choose, gated
from pytest_carbon.measure.meters.protocol import MeterSource, Observation
from pytest_carbon.measure.meters.replay import write_constant_trace
from pytest_carbon.records import Domain, Gpu, MeterError, UsageProblem


@dataclass
class Shelf:
    """Sources whose meters count these domains, or cannot be opened for this reason; knows what is open."""

    offers: dict[str, tuple[Domain, ...] | str]
    opened: list[str] = field(default_factory=list)
    open_now: list[str] = field(default_factory=list)

    @property
    def sources(self) -> dict[str, MeterSource]:
        return {name: MeterSource(name, self._open, {"name": name}) for name in self.offers}

    def _open(self, name: str) -> Any:
        offer = self.offers[name]
        self.opened.append(name)
        if isinstance(offer, str):
            raise MeterError(offer)
        self.open_now.append(name)
        return OnShelf(self, name, offer)


@dataclass
class OnShelf:
    shelf: Shelf
    name: str
    domains: tuple[Domain, ...]
    stepped: bool = True

    def read_j(self, domain: int) -> float:
        return 1.0

    def observe(self, domain: int) -> Observation:
        return Observation()

    def gpus(self) -> tuple[Gpu, ...]:
        gpus = [domain.name for domain in self.domains if domain.family == "gpu"]
        return tuple(Gpu(int(name[4:]), f"uuid-{name}", "a GPU") for name in gpus)

    def close(self) -> None:
        self.shelf.open_now.remove(self.name)


def measured(*names: str) -> tuple[Domain, ...]:
    return tuple(Domain(name, "measured", "a counter") for name in names)


def estimated(*names: str) -> tuple[Domain, ...]:
    return tuple(Domain(name, "estimated", "a guess") for name in names)


NO_DRIVER = "no NVIDIA driver is loaded."


def test_auto_takes_every_counter_there_is() -> None:
    """And no estimate beside a counter of the processor."""
    shelf = Shelf(
        {
            "nvml": measured("gpu:0", "gpu:1"),
            "amd": "no AMD GPU library.",
            "rapl": measured("cpu:0", "dram:0"),
            "estimate": estimated("cpu:0", "dram:0"),
            "wall": measured("wall:0"),
        }
    )
    choice = choose("auto", shelf.sources)
    assert [source.name for source, _ in choice.taken] == ["nvml", "rapl", "wall"]
    assert [domain.name for domain in choice.domains] == ["gpu:0", "gpu:1", "cpu:0", "dram:0", "wall:0"]
    assert [gpu.index for gpu in choice.gpus] == [0, 1]
    assert choice.not_taken == (
        ("amd", "no AMD GPU library."),
        ("estimate", "not needed: rapl counts the processor's energy."),
    )
    assert "estimate" not in shelf.opened
    choice.close()
    assert shelf.open_now == []


def test_auto_estimates_the_processor_that_it_cannot_read() -> None:
    """Beside the GPUs that it can."""
    shelf = Shelf({"estimate": estimated("cpu:0"), "nvml": measured("gpu:0"), "rapl": "masked in this container."})
    choice = choose("auto", shelf.sources)
    assert [source.name for source, _ in choice.taken] == ["nvml", "estimate"]
    assert choice.not_taken == (("rapl", "masked in this container."),)


def test_auto_counts_nothing_twice() -> None:
    """The first source that counts a domain keeps it, and the second is closed again."""
    shelf = Shelf({"nvml": measured("gpu:0"), "mine": measured("gpu:0", "fpga:0")})
    choice = choose("auto", shelf.sources)
    assert choice.not_taken == (("mine", "gpu:0 is already counted by nvml."),)
    assert shelf.open_now == ["nvml"]


def test_auto_without_any_meter_gives_every_reason() -> None:
    """Nothing is measured as 0: the run cannot begin."""
    shelf = Shelf({"nvml": NO_DRIVER, "estimate": "codecarbon has no figure."})
    with pytest.raises(MeterError) as caught:
        choose("auto", shelf.sources)
    assert str(caught.value) == (
        "Nothing can measure energy here.\n  nvml: no NVIDIA driver is loaded.\n  estimate: codecarbon has no figure."
    )


def test_meters_that_are_named_are_opened_and_no_others() -> None:
    """In the order in which they are named; an estimate as well."""
    shelf = Shelf({"nvml": measured("gpu:0"), "rapl": measured("cpu:0"), "estimate": estimated("cpu:0")})
    choice = choose(" estimate + nvml ", shelf.sources)
    assert [source.name for source, _ in choice.taken] == ["estimate", "nvml"]
    assert choice.not_taken == (("rapl", "not asked for."),)


def test_a_meter_that_is_named_must_open() -> None:
    """Its reason is the error, and what was opened before it is closed."""
    shelf = Shelf({"nvml": NO_DRIVER, "rapl": measured("cpu:0")})
    with pytest.raises(MeterError) as caught:
        choose("rapl+nvml", shelf.sources)
    assert str(caught.value) == "--carbon-meter=rapl+nvml: nvml cannot be opened: no NVIDIA driver is loaded."
    assert shelf.opened == ["rapl", "nvml"]
    assert shelf.open_now == []


def test_two_meters_for_one_domain_are_refused() -> None:
    """Their sum would count it twice."""
    shelf = Shelf({"rapl": measured("cpu:0"), "estimate": estimated("dram:0", "cpu:0")})
    with pytest.raises(UsageProblem) as caught:
        choose("rapl+estimate", shelf.sources)
    assert str(caught.value) == "--carbon-meter=rapl+estimate: rapl and estimate both count cpu:0: name one of them."
    assert shelf.open_now == []


def test_a_trace_is_a_meter(tmp_path: Path) -> None:
    """Its file may have a plus or a colon in its name; its recipe plays from one origin wherever it is opened."""
    path = tmp_path / "a+b:c.jsonl"
    write_constant_trace(path, 100, 0.02, domain="cpu:0")
    shelf = Shelf({"nvml": measured("gpu:0"), "rapl": measured("cpu:0")})
    choice = choose(f"nvml+replay:{path}", shelf.sources)
    assert [source.name for source, _ in choice.taken] == ["nvml", "replay"]
    assert [domain.name for domain in choice.domains] == ["gpu:0", "cpu:0"]
    source = choice.taken[1][0]
    assert pickle.loads(pickle.dumps(source)) == source
    assert isinstance(source.arguments["origin_s"], float)
    assert [s.name for s, _ in choose(f"replay:{path}", shelf.sources).taken] == ["replay"]


def test_a_trace_that_cannot_be_played_is_an_error(tmp_path: Path) -> None:
    """With the meter's reason."""
    path = tmp_path / "no.jsonl"
    with pytest.raises(MeterError) as caught:
        choose(f"replay:{path}", {})
    assert str(caught.value) == (
        f"--carbon-meter=replay:{path}: replay cannot be opened: "
        f"The trace {path} cannot be read: No such file or directory."
    )


ALLOWED = "Allowed: auto, or one or several of nvml, rapl and replay:FILE, joined by +."


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("nvlm", f"--carbon-meter: there is no meter 'nvlm'. Did you mean nvml? {ALLOWED}"),
        ("RAPL", f"--carbon-meter: there is no meter 'RAPL'. Did you mean rapl? {ALLOWED}"),
        ("gauge", f"--carbon-meter: there is no meter 'gauge'. {ALLOWED}"),
        ("", f"--carbon-meter: there is no meter ''. {ALLOWED}"),
        ("nvml+", f"--carbon-meter: there is no meter ''. {ALLOWED}"),
        ("auto+nvml", f"--carbon-meter: auto cannot be joined with other meters. {ALLOWED}"),
        ("nvml+rapl+nvml", "--carbon-meter=nvml+rapl+nvml names nvml twice: name it once."),
        ("replay:", "--carbon-meter=replay names no file: write replay:FILE, with the path of a trace."),
        ("rapl+replay", "--carbon-meter=replay names no file: write replay:FILE, with the path of a trace."),
        ("raplreplay:x", f"--carbon-meter: there is no meter 'raplreplay:x'. {ALLOWED}"),
    ],
)
def test_specs_that_mean_nothing_are_refused(spec: str, text: str) -> None:
    """The value, what is allowed, what was probably meant; nothing is opened."""
    shelf = Shelf({"nvml": measured("gpu:0"), "rapl": measured("cpu:0")})
    with pytest.raises(UsageProblem) as caught:
        choose(spec, shelf.sources)
    assert str(caught.value) == text
    assert shelf.opened == []


def test_a_bug_in_a_meter_is_not_hidden() -> None:
    """Only a meter's own refusal is a reason; and what was open is closed."""
    shelf = Shelf({"nvml": measured("gpu:0")})

    def broken() -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        choose("auto", shelf.sources | {"broken": MeterSource("broken", broken)})
    assert shelf.open_now == []


def test_the_built_in_sources() -> None:
    """Every meter of the package, as recipes that can be sent to another process."""
    sources = built_in_sources()
    assert list(sources) == ["nvml", "amd", "apple", "windows", "rapl", "estimate"]
    assert pickle.loads(pickle.dumps(sources)) == sources


def test_this_machine_has_a_meter() -> None:
    """Whatever it is: at worst an estimate. In a process that has loaded no simulated driver."""
    code = (
        "from pytest_carbon.measure.meters import built_in_sources, choose\n"
        "choice = choose('auto', built_in_sources())\n"
        "print(bool(choice.domains) and all(reason for _, reason in choice.not_taken))\n"
        "choice.close()"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"


GPUS, CPUS, GUESS = measured("gpu:0", "gpu:1"), measured("cpu:0", "dram:0"), estimated("cpu:0", "dram:0")


@pytest.mark.parametrize(
    ("domains", "choice", "names"),
    [
        ((*GPUS, *CPUS), "auto", ["gpu:0", "gpu:1"]),
        ((*GPUS, *GUESS), "auto", ["gpu:0", "gpu:1"]),
        (CPUS, "auto", ["cpu:0", "dram:0"]),
        ((*CPUS, *measured("wall:0")), "auto", ["cpu:0", "dram:0"]),
        ((*measured("wall:0"), *GUESS), "auto", ["wall:0"]),
        (GUESS, "auto", ["cpu:0", "dram:0"]),
        ((*GUESS, *estimated("gpu:0")), "auto", ["cpu:0", "dram:0", "gpu:0"]),
        ((*CPUS, *GPUS), "gpu", ["gpu:0", "gpu:1"]),
        ((*GPUS, *GUESS), "measured", ["gpu:0", "gpu:1"]),
        ((*GPUS, *CPUS), "measured", ["gpu:0", "gpu:1", "cpu:0", "dram:0"]),
        ((*GPUS, *GUESS), "total", ["gpu:0", "gpu:1", "cpu:0", "dram:0"]),
    ],
)
def test_what_is_gated(domains: tuple[Domain, ...], choice: Any, names: list[str]) -> None:
    """Estimates are in the sum only where there is nothing else, or where they are asked for."""
    assert [domain.name for domain in gated(domains, choice)] == names


@pytest.mark.parametrize(
    ("domains", "choice", "there"),
    [
        (GUESS, "gpu", "cpu:0 (estimated), dram:0 (estimated)"),
        (GUESS, "measured", "cpu:0 (estimated), dram:0 (estimated)"),
        ((), "auto", "none"),
        ((), "total", "none"),
    ],
)
def test_gating_what_is_not_there_is_refused(domains: tuple[Domain, ...], choice: Any, there: str) -> None:
    """Instead of gating nothing."""
    with pytest.raises(UsageProblem) as caught:
        gated(domains, choice)
    assert str(caught.value) == (
        f"--carbon-domains={choice}: no such domain is counted here. There are: {there}. "
        "Allowed: auto, gpu, measured, total; `pytest-carbon doctor` says what can be counted and how."
    )
