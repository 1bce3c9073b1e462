"""The nouns of the product as frozen records, and its errors; standard library only.

Times are seconds on the clock of :func:`time.perf_counter` (CLOCK_MONOTONIC on Linux, which every
process of a machine shares). Every field that carries a unit names it: ``_j`` joules, ``_w`` watts,
``_s`` seconds, ``_g`` grams of CO2 equivalent. What is unknown is ``None``, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, NamedTuple

from pytest_carbon.records.errors import BaselineError as BaselineError
from pytest_carbon.records.errors import CarbonError as CarbonError
from pytest_carbon.records.errors import DeviceFault as DeviceFault
from pytest_carbon.records.errors import MeasurementError as MeasurementError
from pytest_carbon.records.errors import MeterError as MeterError
from pytest_carbon.records.errors import UsageProblem as UsageProblem
from pytest_carbon.records.served import Served as Served
from pytest_carbon.records.served import Spread as Spread
from pytest_carbon.records.settings import Settings as Settings
from pytest_carbon.records.shard import Shard as Shard
from pytest_carbon.records.tenants import Tenants
from pytest_carbon.records.work import Work, WorkVerdict

Kind = Literal["measured", "estimated"]
Status = Literal["error", "over-budget", "regression", "inconclusive", "improvement", "new", "pass"]
Effect = Literal["none", "warns", "fails", "accepted"]
"""What a verdict does to the run: nothing, a warning, a failure; or it was accepted as intended."""
Key = tuple[str, str]
"""A measurement's identity inside a machine: the test's id and the measurement's name."""
LONGEST_NAME = 800
"""The most bytes of a measurement's name: a database indexes it together with the test's id."""
REFERENCE = "pytest-carbon"
"""In the place of a test's id: a reference workload's, which is stored beside the tests."""


def is_estimated(machine_id: str) -> bool:
    """Whether a machine's energy is estimated, by its id."""
    return machine_id.endswith("-estimated")


def label(key: Key) -> str:
    """Return a measurement's name in sentences."""
    test, name = key
    return test if name == "call" else f"{test} · {name}"


REPLAYED = "replayed: "
"""How the source of a domain begins whose counter is played from a trace, not read on this machine."""


@dataclass(frozen=True, slots=True)
class Domain:
    """One thing whose energy is counted."""

    name: str
    """``gpu:0``, ``cpu:0``, ``dram:0``; the index of a GPU is NVML's."""
    kind: Kind
    source: str
    """For people: ``nvml total energy``."""

    @property
    def family(self) -> str:
        """Return ``gpu``, ``cpu``, ``dram``, …"""
        return self.name.partition(":")[0]


class Edge(NamedTuple):
    """A moment at which a counter was seen to change, and what else was read there."""

    before_s: float
    """The last poll with the old value."""
    after_s: float
    """The first poll with the new one."""
    energy_j: float
    """The counter's new value (cumulative, already unwrapped)."""
    power_w: float | None = None
    """Instant power, where the meter has it: an independent check of the counter."""
    throttle: str | None = None
    """Why the device held its clocks back (``thermal``, ``hardware``, ``power brake``); None if it did not."""
    power_limit_w: float | None = None
    temperature_c: float | None = None
    tenants: Tenants | None = None

    @property
    def time_s(self) -> float:
        return (self.before_s + self.after_s) / 2


INFORMS = frozenset(
    {"tail", "near-limit", "trend", "other-card", "warmer", "factors", "phantom-process", "persistence-off"}
)
"""Codes of warnings that leave the figure as good as it was."""


@dataclass(frozen=True, slots=True)
class MeasurementWarning:
    """Why a measurement may not mean what it says."""

    code: str
    text: str
    informs: bool = False
    """Whether the figure stands in spite of it, though others of its code disqualify."""

    @property
    def disqualifies(self) -> bool:
        """Tell whether the figure may be wrong, and is not recorded; unknown codes count."""
        return not self.informs and self.code not in INFORMS


@dataclass(frozen=True, slots=True)
class Factors:
    """What the estimate multiplies a CPU second by."""

    cpu_w: float
    dram_w: float
    codecarbon: str
    """The version whose tables these are from."""
    share: float = 1.0
    """The part of the energy that is estimated."""

    @property
    def watts(self) -> float:
        return self.cpu_w + self.dram_w

    def scale_to(self, other: Factors) -> float:
        """Return what an energy with these factors is multiplied by, to have the other's."""
        return 1.0 - self.share + self.share * other.watts / self.watts

    def __str__(self) -> str:
        return f"{self.cpu_w:.3g} W + {self.dram_w:.3g} W of memory a thread, codecarbon {self.codecarbon}"


@dataclass(frozen=True, slots=True)
class DomainEnergy:
    """What one domain took for one call."""

    domain: Domain
    energy_j_per_call: float
    mean_power_w: float
    idle_power_w: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """A stretch of back-to-back calls, synchronised at both ends."""

    calls: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class SessionScore:
    """What the gate compares: mean power over the whole loop × the median over rounds of seconds per call."""

    session: str
    energy_j_per_call: float
    duration_s_per_call: float


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task of a model on a data set; counts are means per call, of ``batch_size`` inputs, None if unknown."""

    name: str
    """``text-classification``, …: the study's name, or the one it was registered under."""
    model: str
    """Its hub id; of a user's own model, its class."""
    dataset: str | None
    weights: Literal["hub", "random", "hollow", "own"]
    data: Literal["hub", "synthetic", "given"]
    dtype: str | None
    """``fp32``, ``fp16``, ``bf16``; as torch names it where it is another."""
    device: str | None
    batch_size: int
    size: Literal["study", "small"] | None = None
    """The real architecture or its tiny variant; None: a user's own model."""
    tokens_in: float | None = None
    tokens_out: float | None = None
    """Tokens that the calls really produced."""
    images: float | None = None
    """Into the model, or out of an image generation."""
    seconds_audio: float | None = None
    preparation_s: float | None = None
    """The part of the call for tokenising, resizing or the spectrogram."""
    new_tokens: int | None = None
    """The fixed length of each input's answer; ``tokens_out`` is the real one."""
    steps: int | None = None
    """Of a diffusion; None: the model's own default, or no diffusion."""
    width: int | None = None
    """Of a generated image, in pixels."""
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One named thing a test measured.

    The energies are sums over the gated domains; ``domains`` lists every domain that was read. A measurement that
    failed has a ``failure`` and no figures; one that ran out of memory has no figures and a warning.
    """

    name: str
    machine: str
    """The machine's id."""
    calls: int = 0
    duration_s_per_call: float | None = None
    energy_j_per_call: float | None = None
    """What is judged and shown: mean power × median time per call; of a window its energy."""
    energy_j_per_call_error: float | None = None
    """Half-width of the 95% interval."""
    energy_j_per_call_mean: float | None = None
    """Energy of all calls / number of calls."""
    tail_j: float | None = None
    """The fast fall: energy of the whole window after the work had ended, above the line after."""
    after_work_j: float | None = None
    """Energy after a burst of work, above the settled power; in no other figure."""
    after_work_s: float | None = None
    temperature_c: float | None = None
    """Of the hottest gated device, at the start."""
    gpus: tuple[str, ...] = ()
    """The UUIDs of the gated GPUs."""
    emissions_g_per_call: float | None = None
    gated: tuple[str, ...] = ()
    """The names of the domains that ``energy_j_per_call`` sums."""
    domains: tuple[DomainEnergy, ...] = ()
    rounds: tuple[Round, ...] = ()
    sessions: tuple[SessionScore, ...] = ()
    warnings: tuple[MeasurementWarning, ...] = ()
    failure: str | None = None
    task: TaskInfo | None = None
    factors: Factors | None = None
    """Of an estimate."""
    served: Served | None = None
    """Of a served model: a call is a request."""

    def failed(self, why: str) -> Measurement:
        """Return it without figures, for a failure."""
        return Measurement(self.name, self.machine, failure=why)

    @property
    def estimated(self) -> bool:
        return is_estimated(self.machine)

    @property
    def has_figures(self) -> bool:
        """Whether it was measured, with an energy and a duration above 0 in each session."""
        figures = [f for s in self.sessions for f in (s.energy_j_per_call, s.duration_s_per_call)]
        return self.failure is None and bool(figures) and all(isfinite(f) and f > 0 for f in figures)

    @property
    def disqualifying(self) -> tuple[MeasurementWarning, ...]:
        """Return the warnings for which it is neither recorded nor accepted."""
        return tuple(warning for warning in self.warnings if warning.disqualifies)

    @property
    def power_w(self) -> float | None:
        energy_j, duration_s = self.energy_j_per_call, self.duration_s_per_call
        return energy_j / duration_s if energy_j is not None and duration_s else None

    @property
    def relative_error(self) -> float | None:
        """Return the half-width of the energy's 95% interval, relative to the energy."""
        energy_j, error_j = self.energy_j_per_call, self.energy_j_per_call_error
        return error_j / energy_j if energy_j and error_j is not None else None


@dataclass(frozen=True, slots=True)
class Budget:
    """What a marker allows. Limits are for one call, in joules, grams, FLOPs, bytes and kernels."""

    energy_j_per_call: float | None = None
    emissions_g_per_call: float | None = None
    flops_per_call: float | None = None
    bytes_per_call: float | None = None
    kernels_per_call: float | None = None
    per: float = 1
    """The calls the limits were written for: messages speak of them as the user wrote them."""
    tolerance: float | Literal[False] | None = None
    """Relative; ``None``: the session's; ``False``: not held to a baseline."""
    name: str | None = None
    """The measurement it is for; ``None``: each of the test's."""
    on: str | None = None
    """A pattern of machine ids in which the limits hold; ``None``: every measured one.

    Limits on counted work hold wherever work is counted, whatever the machine; a pattern that begins with ``work-``
    names engines, and is for them: ``work-cuda``.
    """
    energy_text: str | None = None
    """As the marker has it, for messages."""
    emissions_text: str | None = None
    flops_text: str | None = None
    bytes_text: str | None = None
    kernels_text: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided, against what, and why, in a sentence."""

    status: Status
    reason: str
    baseline_j_per_call: float | None = None
    baseline_recordings: int = 0
    baseline_sessions: int = 0
    change: float | None = None
    """Relative: 0.008 is +0.8%."""
    detectable_change: float | None = None
    """The smallest true change found with 80% power."""
    duration_change: float | None = None
    power_change: float | None = None
    """Energy = power × time: the part of ``change`` that is power."""
    limit_j_per_call: float | None = None
    tolerance: float | Literal[False] | None = None
    p_value: float | None = None
    """The probability that an unchanged measurement shows such an increase."""
    base_sessions: tuple[SessionScore, ...] = ()
    """With ``--carbon-against``: the other revision's, in the order of the pairs."""
    first_change: float | None = None
    """The ``change`` that made it suspect, if it was measured again."""
    reference_change: float | None = None
    """Of the reference workload, if it was subtracted before judging."""
    machine_moved: bool = False
    """Whether it is ``inconclusive`` because the machine itself changed; it can be accepted."""
    suite_moved: bool = False
    """Whether it exceeds its tolerance together with the whole suite."""
    blind: bool = False
    """Whether it passes, but the gate could not have detected ``--carbon-max-detectable``."""
    differences: tuple[MeasurementWarning, ...] = ()
    """Differences from the baseline's conditions that may explain a change; they inform."""
    effect: Effect = "none"
    """Decided once, after recording."""

    @property
    def failed(self) -> bool:
        """Whether this fails a test while ``--carbon-gate`` is ``fail`` (an error always does)."""
        return self.status in ("error", "over-budget", "regression")


@dataclass(frozen=True, slots=True)
class SuiteVerdict:
    """What the measurements of one machine share."""

    gated: int
    """Measurements that have a baseline on this machine (``m``), whatever was selected."""
    compared: int
    false_alarm_rate: float
    median_change: float | None = None
    status: Literal["pass", "regression", "improvement"] = "pass"
    """Whether the median moved: up is a regression, down an improvement."""
    reason: str | None = None
    """The sentence, when the whole suite moved."""
    machine_moved: str | None = None
    """The sentence, when the reference workload moved."""
    effect: Effect = "none"


class Record(NamedTuple):
    """One session's figure for one measurement, as a baseline stores it (a tuple: there may be 200,000)."""

    test: str
    name: str
    epoch: str
    """``"0"`` until a change is accepted, then the time it was (ISO 8601, UTC): the newest sorts last."""
    session: str
    created: str
    """ISO 8601, UTC, ``2026-11-22T10:00:00Z``."""
    boot: str | None
    commit: str | None
    branch: str | None
    energy_j_per_call: float
    energy_j_per_call_error: float | None
    duration_s_per_call: float
    torch: str | None = None
    driver: str | None = None
    labels: str | None = None
    """``pool=a,team=nlp``, sorted."""
    temperature_c: float | None = None
    gpus: tuple[str, ...] = ()
    factors: Factors | None = None

    @property
    def key(self) -> Key:
        return (self.test, self.name)


@dataclass(frozen=True, slots=True)
class Gpu:
    index: int
    uuid: str
    name: str
    power_limit_w: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine is; ``id`` is what must match before two measurements may be compared."""

    id: str
    gpus: tuple[Gpu, ...] = ()
    cpu: str | None = None
    cpu_count: int | None = None
    driver: str | None = None
    torch: str | None = None
    python: str | None = None
    pytest_carbon: str | None = None
    boot: str | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Properties of a machine's counters, measured once and kept beside its baselines."""

    settle_s: float
    """How long the power falls fast after the work has ended: half a second at most."""
    part_time_sampling: bool | None = None
    """Whether a counter samples only a part of each of its periods."""
    created: str | None = None
    after_work_j: float | None = None
    """As in :class:`Measurement`."""
    after_work_s: float | None = None
    latency_s: float | None = None
    """How late a counter shows energy."""
    latency_error_s: float | None = None


@dataclass(frozen=True, slots=True)
class CarbonIntensity:
    """Grams of CO2 equivalent per kWh of electricity, and where that figure comes from."""

    g_per_kwh: float
    pue: float
    source: str
    year: int | None

    def emissions_g(self, energy_j: float) -> float:
        """Convert joules of the gated domains into grams, facility overhead included."""
        return energy_j / 3.6e6 * self.pue * self.g_per_kwh


@dataclass(frozen=True, slots=True)
class Against:
    """The revision that a run has compared the working tree with, and how."""

    ref: str
    """As the user gave it."""
    commit: str
    label: str
    """Its name in sentences: ``main (1a2b3c4)``."""
    pairs: int
    """Requested pairs of sessions, one of each revision."""
    seed: int
    """Of the order."""
    base_first: tuple[bool, ...]
    """The order: for each pair, whether the other revision ran first."""
    dirty: bool
    """Whether the working tree had uncommitted changes."""
    complete: int = 0
    """Pairs that were completed."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One named thing of a test whose work was counted, and the verdict; one that failed has a failure and no work."""

    name: str
    work: Work | None
    verdict: WorkVerdict
    warnings: tuple[MeasurementWarning, ...] = ()
    failure: str | None = None
    task: TaskInfo | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what decides what is asked, as in :class:`.work.WorkRecord`."""

    @property
    def disqualifying(self) -> tuple[MeasurementWarning, ...]:
        """Return the warnings for which it is neither recorded nor accepted."""
        return tuple(warning for warning in self.warnings if warning.disqualifies)


@dataclass(frozen=True, slots=True)
class TestResult:
    """A test and what it measured, as reports take it."""

    __test__ = False  # not a test class, whatever its name makes pytest think

    nodeid: str
    outcome: str
    measurements: tuple[tuple[Measurement, Verdict], ...] = ()
    functional_outcome: str | None = None
    """The outcome before the gate; ``None``: the same."""
    counted: tuple[Counted, ...] = ()
    file: str | None = None
    """Relative to the top of the repository, or to the root dir where there is none."""
    line: int | None = None
    """Of the test's definition; the first is 1."""


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A measurement that has a baseline on a machine of the run, and that its test did not make."""

    test: str
    name: str
    machine: str
    why: str
    """What became of the test: ``its test passed without it``, ``skipped: no GPU``."""

    @property
    def key(self) -> Key:
        return (self.test, self.name)


@dataclass(frozen=True, slots=True)
class SessionResult:
    """A whole run, as reports take it."""

    session: str
    created: str
    duration_s: float
    exit_status: int | None
    """None of an incomplete run."""
    machine: Machine
    intensity: CarbonIntensity | None
    """None where work was counted and nothing measured."""
    suite: SuiteVerdict
    tests: tuple[TestResult, ...] = ()
    others: tuple[tuple[Machine, SuiteVerdict], ...] = ()
    """Further machines (a test opened a second GPU), and their suites."""
    references: tuple[tuple[Measurement, Verdict], ...] = ()
    """The reference workload of each machine, and its verdict."""
    cost_energy_j: float | None = None
    """The overhead: energy of the gated domains during the run, without the calls."""
    metered_s: float | None = None
    """How long the meters were read for that, with the calls; ``None``: as long as the run took."""
    commit: str | None = None
    branch: str | None = None
    dirty: bool | None = None
    labels: str | None = None
    against: Against | None = None
    settings: Settings = field(default_factory=Settings)
    shard: Shard | None = None
    unmeasured: tuple[Unmeasured, ...] = ()
    incomplete: bool = False
    """Whether the run was ended before it had measured and judged everything."""
    notes: tuple[str, ...] = ()
    """Sentences for the end of the run."""
    project: tuple[str, ...] = ()
    """The options with which commands find its ini file, root dir and baselines from the top of the repository."""
