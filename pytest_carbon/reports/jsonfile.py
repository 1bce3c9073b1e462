"""The JSON report of a run: written for machines, read back to accept a change from a CI artefact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pytest_carbon.baselines.disk import remedy, write_atomically
from pytest_carbon.baselines.format import Wrong, check_format, is_number, is_time, refuse_constant
from pytest_carbon.records import (
    INFORMS,
    Against,
    CarbonIntensity,
    Domain,
    DomainEnergy,
    Effect,
    Gpu,
    Kind,
    Machine,
    Measurement,
    MeasurementWarning,
    Round,
    SessionResult,
    SessionScore,
    Status,
    SuiteVerdict,
    TaskInfo,
    TestResult,
    UsageProblem,
    Verdict,
)

FORMAT = "pytest-carbon/1"

_WORK = ("new_tokens", "steps", "width", "height")

_encode = json.JSONEncoder(allow_nan=False).encode


# --- writing -------------------------------------------------------------------------------------


def write(result: SessionResult, path: Path) -> None:
    """Write a run's report: SI, unrounded, finite; what is unknown is null, never 0. One test a line.

    Makes the folders it needs, and replaces the file at once or not at all; what is no file (a pipe,
    ``/dev/stdout``) is written to. Raises :class:`UsageProblem` where that cannot be done.
    """
    if path.is_dir():
        raise UsageProblem(
            f"--carbon-json: {str(path)!r} is a directory. Give a file, such as {str(path / 'carbon.json')!r}."
        )
    head = _encode(_run(result))
    tests = ",\n".join(_encode(_test(test)) for test in result.tests)
    text = f'{head[:-1]}, "tests": [\n{tests}\n]}}\n'
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        else:
            write_atomically(path.resolve(), text)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        helps = remedy(error, "Give a file in a folder that this user may write to")
        raise UsageProblem(f"--carbon-json: cannot write {str(path)!r}: {reason}. {helps}.") from error


def _run(result: SessionResult) -> dict[str, Any]:
    cost = _finite(result.cost_energy_j)
    return {
        "format": FORMAT,
        "session": result.session,
        "created": result.created,
        "duration_s": _finite(result.duration_s),
        "exit_status": result.exit_status,
        "commit": result.commit,
        "branch": result.branch,
        "dirty": result.dirty,
        "labels": result.labels,
        "against": None if result.against is None else _against(result.against),
        "machine": machine_form(result.machine),
        "carbon": {
            "intensity_g_per_kwh": _finite(result.intensity.g_per_kwh),
            "pue": _finite(result.intensity.pue),
            "source": result.intensity.source,
            "year": result.intensity.year,
        },
        "cost_of_measuring": {
            "energy_j": cost,
            "emissions_g": None if cost is None else _finite(result.intensity.emissions_g(cost)),
        },
        "suite": _suite(result.suite),
        "other_machines": [
            {"machine": machine_form(machine), "suite": _suite(suite)} for machine, suite in result.others
        ],
        "references": [_measurement(*reference) for reference in result.references],
        "notes": list(result.notes),
    }


def _against(against: Against) -> dict[str, Any]:
    return {
        "ref": against.ref,
        "commit": against.commit,
        "label": against.label,
        "pairs": against.pairs,
        "complete": against.complete,
        "seed": against.seed,
        "base_first": list(against.base_first),
        "dirty": against.dirty,
    }


def machine_form(machine: Machine) -> dict[str, Any]:
    """A machine as the report has it; :func:`read_machine` reads it."""
    return {
        "id": machine.id,
        "gpus": [
            {
                "index": gpu.index,
                "uuid": gpu.uuid,
                "name": gpu.name,
                "power_limit_w": _finite(gpu.power_limit_w),
                "memory_bytes": gpu.memory_bytes,
            }
            for gpu in machine.gpus
        ],
        "cpu": machine.cpu,
        "cpu_count": machine.cpu_count,
        "driver": machine.driver,
        "torch": machine.torch,
        "python": machine.python,
        "pytest_carbon": machine.pytest_carbon,
        "boot": machine.boot,
    }


def _suite(suite: SuiteVerdict) -> dict[str, Any]:
    return {
        "gated": suite.gated,
        "compared": suite.compared,
        "median_change": _finite(suite.median_change),
        "false_alarm_rate": _finite(suite.false_alarm_rate),
        "status": suite.status,
        "reason": suite.reason,
        "effect": suite.effect,
        "machine_moved": suite.machine_moved,
    }


def _test(test: TestResult) -> dict[str, Any]:
    return {
        "nodeid": test.nodeid,
        "outcome": test.outcome,
        "functional_outcome": test.functional_outcome or test.outcome,
        "measurements": [_measurement(measurement, verdict) for measurement, verdict in test.measurements],
    }


def _measurement(measurement: Measurement, verdict: Verdict) -> dict[str, Any]:
    return {
        **measurement_form(measurement),
        "verdict": {
            "status": verdict.status,
            "baseline_j_per_call": _finite(verdict.baseline_j_per_call),
            "baseline_recordings": verdict.baseline_recordings,
            "baseline_sessions": verdict.baseline_sessions,
            "change": _finite(verdict.change),
            "duration_change": _finite(verdict.duration_change),
            "power_change": _finite(verdict.power_change),
            "detectable_change": _finite(verdict.detectable_change),
            "limit_j_per_call": _finite(verdict.limit_j_per_call),
            "tolerance": verdict.tolerance,
            "p_value": _finite(verdict.p_value),
            "first_change": _finite(verdict.first_change),
            "base_sessions": [_score(score) for score in verdict.base_sessions],
            "reference_change": _finite(verdict.reference_change),
            "machine_moved": verdict.machine_moved,
            "suite_moved": verdict.suite_moved,
            "blind": verdict.blind,
            "effect": verdict.effect,
            "reason": verdict.reason,
        },
    }


def measurement_form(measurement: Measurement) -> dict[str, Any]:
    """A measurement as the report has it, but for its verdict; :func:`read_measurement` reads it."""
    return {
        "name": measurement.name,
        "machine": measurement.machine,
        "calls": measurement.calls,
        "duration_s_per_call": _finite(measurement.duration_s_per_call),
        "energy_j_per_call": _finite(measurement.energy_j_per_call),
        "energy_j_per_call_error": _finite(measurement.energy_j_per_call_error),
        "energy_j_per_call_mean": _finite(measurement.energy_j_per_call_mean),
        "tail_j": _finite(measurement.tail_j),
        "after_work_j": _finite(measurement.after_work_j),
        "after_work_s": _finite(measurement.after_work_s),
        "temperature_c": _finite(measurement.temperature_c),
        "gpus": list(measurement.gpus),
        "emissions_g_per_call": _finite(measurement.emissions_g_per_call),
        "gated": list(measurement.gated),
        "domains": [
            {
                "domain": taken.domain.name,
                "kind": taken.domain.kind,
                "source": taken.domain.source,
                "energy_j_per_call": _finite(taken.energy_j_per_call),
                "mean_power_w": _finite(taken.mean_power_w),
                "idle_power_w": _finite(taken.idle_power_w),
            }
            for taken in measurement.domains
        ],
        "rounds": [{"calls": round_.calls, "duration_s": _finite(round_.duration_s)} for round_ in measurement.rounds],
        "sessions": [_score(score) for score in measurement.sessions],
        "warnings": [
            {"code": warning.code, "text": warning.text, "disqualifies": warning.disqualifies}
            for warning in measurement.warnings
        ],
        "failure": measurement.failure,
        "task": None if measurement.task is None else _task(measurement.task),
    }


def _score(score: SessionScore) -> dict[str, Any]:
    return {
        "session": score.session,
        "energy_j_per_call": _finite(score.energy_j_per_call),
        "duration_s_per_call": _finite(score.duration_s_per_call),
    }


def _task(task: TaskInfo) -> dict[str, Any]:
    return {
        "name": task.name,
        "model": task.model,
        "dataset": task.dataset,
        "weights": task.weights,
        "data": task.data,
        "dtype": task.dtype,
        "device": task.device,
        "batch_size": task.batch_size,
        "size": task.size,
        "tokens_in": _finite(task.tokens_in),
        "tokens_out": _finite(task.tokens_out),
        "images": _finite(task.images),
        "seconds_audio": _finite(task.seconds_audio),
        "preparation_s": _finite(task.preparation_s),
        "new_tokens": task.new_tokens,
        "steps": task.steps,
        "width": task.width,
        "height": task.height,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: a figure that is none is unknown."""
    return float(value) if value is not None and isfinite(value) else None


# --- reading -------------------------------------------------------------------------------------


def read(path: Path) -> SessionResult:
    """A report as the run that wrote it had it, but for ``settings``.

    Raises :class:`UsageProblem` for what is no report, cannot be trusted, or was written by a newer version.
    """
    try:
        return _result(_Object(_json(path), ""))
    except Wrong as wrong:
        remedy = wrong.remedy or "Give the file that pytest --carbon --carbon-json wrote, as it wrote it."
        raise UsageProblem(f"{path}: {wrong.what}. {remedy}") from None


def _json(path: Path) -> Any:
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise Wrong(f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise Wrong("not UTF-8 text, so not a report") from None
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        if not text.rstrip().endswith("}"):
            raise Wrong(
                f"the file ends in the middle of a report, in line {error.lineno}"
                if text.strip()
                else "the file is empty"
            ) from None
        raise Wrong(f"not JSON ({error.msg}, line {error.lineno}, column {error.colno})") from None
    except (RecursionError, ValueError):
        raise Wrong("not JSON that a report can hold") from None


class _Object:
    """A JSON object at a place of a report; each method gives one value, or says where another stands."""

    def __init__(self, value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise Wrong(f"{place or 'a report'} must be an object, not {_brief(value)}")
        self._values = value
        self._place = place

    def _at(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key

    def _get(self, key: str) -> Any:
        if key not in self._values:
            raise Wrong(f"{self._at(key)} is missing")
        return self._values[key]

    def _must(self, good: bool, key: str, what: str) -> None:
        if not good:
            raise Wrong(f"{self._at(key)} must be {what}, not {_brief(self._values[key])}")

    def child(self, key: str) -> _Object:
        return _Object(self._get(key), self._at(key))

    def child_or_none(self, key: str) -> _Object | None:
        return None if self._get(key) is None else self.child(key)

    def objects(self, key: str) -> Iterator[_Object]:
        value = self._get(key)
        self._must(isinstance(value, list), key, "a list")
        for i, item in enumerate(value):
            yield _Object(item, f"{self._at(key)}[{i}]")

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key)
        self._must(isinstance(value, list) and all(isinstance(item, str) for item in value), key, "a list of texts")
        return tuple(value)

    def text(self, key: str) -> str:
        value = self._get(key)
        self._must(isinstance(value, str), key, "a text")
        return cast(str, value)

    def text_or_none(self, key: str) -> str | None:
        return None if self._get(key) is None else self.text(key)

    def time(self, key: str) -> str:
        value = self._get(key)
        self._must(is_time(value), key, "a UTC time such as '2026-11-22T10:00:00Z'")
        return cast(str, value)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self._get(key)
        self._must(value in allowed, key, f"one of {', '.join(allowed)}")
        return cast(str, value)

    def choice_or_none(self, key: str, allowed: tuple[str, ...]) -> str | None:
        return None if self._get(key) is None else self.choice(key, allowed)

    def number(self, key: str) -> float:
        value = self._get(key)
        self._must(is_number(value), key, "a number")
        return float(value)

    def number_or_none(self, key: str) -> float | None:
        return None if self._get(key) is None else self.number(key)

    def count(self, key: str) -> int:
        value = self._get(key)
        self._must(isinstance(value, int) and not isinstance(value, bool) and value >= 0, key, "a count")
        return cast(int, value)

    def count_or_none(self, key: str) -> int | None:
        return None if self._get(key) is None else self.count(key)

    def has(self, key: str) -> bool:
        return key in self._values

    def format(self) -> object:
        return self._values.get("format")

    def flags(self, key: str) -> tuple[bool, ...]:
        value = self._get(key)
        self._must(isinstance(value, list) and all(isinstance(item, bool) for item in value), key, "a list of booleans")
        return tuple(value)

    def tolerance(self) -> float | Literal[False] | None:
        """A marker's: false where it takes its test out of the comparison; unknown in reports that do not have it."""
        value = self._values.get("tolerance")
        self._must(value in (None, False) or (is_number(value) and value >= 0), "tolerance", "a share, false or null")
        return None if value is None else float(value) if value is not False else False

    def flag(self, key: str) -> bool:
        value = self._get(key)
        self._must(isinstance(value, bool), key, "true or false")
        return cast(bool, value)

    def flag_or_none(self, key: str) -> bool | None:
        value = self._get(key)
        self._must(value is None or isinstance(value, bool), key, "true, false or null")
        return cast("bool | None", value)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _result(report: _Object) -> SessionResult:
    check_format(report.format(), FORMAT)
    machine, carbon = _read_machine(report.child("machine")), report.child("carbon")
    return SessionResult(
        session=report.text("session"),
        created=report.time("created"),
        duration_s=report.number("duration_s"),
        exit_status=report.count("exit_status"),
        machine=machine,
        intensity=CarbonIntensity(
            carbon.number("intensity_g_per_kwh"),
            carbon.number("pue"),
            carbon.text("source"),
            carbon.count_or_none("year"),
        ),
        suite=_read_suite(report.child("suite")),
        others=tuple(
            (_read_machine(other.child("machine")), _read_suite(other.child("suite")))
            for other in report.objects("other_machines")
        ),
        tests=tuple(map(_read_test, report.objects("tests"))),
        references=tuple(map(_read_measurement, report.objects("references"))) if report.has("references") else (),
        cost_energy_j=report.child("cost_of_measuring").number_or_none("energy_j"),
        commit=report.text_or_none("commit"),
        branch=report.text_or_none("branch"),
        dirty=report.flag_or_none("dirty"),
        labels=report.text_or_none("labels") if report.has("labels") else None,  # which came later
        against=_read_against(report.child_or_none("against")) if report.has("against") else None,  # and this
        notes=report.texts("notes"),
    )


def _read_against(against: _Object | None) -> Against | None:
    if against is None:
        return None
    return Against(
        ref=against.text("ref"),
        commit=against.text("commit"),
        label=against.text("label"),
        pairs=against.count("pairs"),
        complete=against.count("complete"),
        seed=against.count("seed"),
        base_first=against.flags("base_first"),
        dirty=bool(against.flag_or_none("dirty")),
    )


def _read_machine(machine: _Object) -> Machine:
    return Machine(
        id=machine.text("id"),
        gpus=tuple(
            Gpu(
                gpu.count("index"),
                gpu.text("uuid"),
                gpu.text("name"),
                gpu.number_or_none("power_limit_w"),
                gpu.count_or_none("memory_bytes"),
            )
            for gpu in machine.objects("gpus")
        ),
        cpu=machine.text_or_none("cpu"),
        cpu_count=machine.count_or_none("cpu_count"),
        driver=machine.text_or_none("driver"),
        torch=machine.text_or_none("torch"),
        python=machine.text_or_none("python"),
        pytest_carbon=machine.text_or_none("pytest_carbon"),
        boot=machine.text_or_none("boot"),
    )


def _read_suite(suite: _Object) -> SuiteVerdict:
    return SuiteVerdict(
        gated=suite.count("gated"),
        compared=suite.count("compared"),
        false_alarm_rate=suite.number("false_alarm_rate"),
        median_change=suite.number_or_none("median_change"),
        status=cast(Any, suite.choice("status", ("pass", "regression", "improvement"))),
        reason=suite.text_or_none("reason"),
        effect=cast(Effect, suite.choice("effect", get_args(Effect))),
        machine_moved=suite.text_or_none("machine_moved") if suite.has("machine_moved") else None,
    )


def _read_test(test: _Object) -> TestResult:
    outcome, own_outcome = test.text("outcome"), test.text("functional_outcome")
    return TestResult(
        nodeid=test.text("nodeid"),
        outcome=outcome,
        measurements=tuple(map(_read_measurement, test.objects("measurements"))),
        functional_outcome=None if own_outcome == outcome else own_outcome,
    )


def _read_measurement(found: _Object) -> tuple[Measurement, Verdict]:
    return _read_figures(found), _read_verdict(found.child("verdict"))


def read_measurement(form: Any) -> Measurement:
    """What :func:`measurement_form` gave."""
    return _read_figures(_Object(form, "measurement"))


def read_machine(form: Any) -> Machine:
    """What :func:`machine_form` gave."""
    return _read_machine(_Object(form, "machine"))


def _read_figures(found: _Object) -> Measurement:
    return Measurement(
        name=found.text("name"),
        machine=found.text("machine"),
        calls=found.count("calls"),
        duration_s_per_call=found.number_or_none("duration_s_per_call"),
        energy_j_per_call=found.number_or_none("energy_j_per_call"),
        energy_j_per_call_error=found.number_or_none("energy_j_per_call_error"),
        energy_j_per_call_mean=found.number_or_none("energy_j_per_call_mean"),
        tail_j=found.number_or_none("tail_j"),
        after_work_j=found.number_or_none("after_work_j"),
        after_work_s=found.number_or_none("after_work_s"),
        temperature_c=found.number_or_none("temperature_c"),
        gpus=found.texts("gpus"),
        emissions_g_per_call=found.number_or_none("emissions_g_per_call"),
        gated=found.texts("gated"),
        domains=tuple(
            DomainEnergy(
                Domain(taken.text("domain"), cast(Kind, taken.choice("kind", get_args(Kind))), taken.text("source")),
                taken.number("energy_j_per_call"),
                taken.number("mean_power_w"),
                taken.number_or_none("idle_power_w"),
            )
            for taken in found.objects("domains")
        ),
        rounds=tuple(Round(round_.count("calls"), round_.number("duration_s")) for round_ in found.objects("rounds")),
        sessions=_read_scores(found, "sessions"),
        warnings=tuple(map(_read_warning, found.objects("warnings"))),
        failure=found.text_or_none("failure"),
        task=_read_task(found.child_or_none("task")),
    )


def _read_warning(found: _Object) -> MeasurementWarning:
    code, disqualifies = found.text("code"), found.flag("disqualifies")
    if disqualifies and code in INFORMS:
        raise Wrong(f"a warning {json.dumps(code)} never disqualifies a figure, and here it does")
    return MeasurementWarning(code, found.text("text"), informs=not disqualifies and code not in INFORMS)


def _read_scores(there: _Object, key: str) -> tuple[SessionScore, ...]:
    return tuple(
        SessionScore(score.text("session"), score.number("energy_j_per_call"), score.number("duration_s_per_call"))
        for score in there.objects(key)
    )


def _read_verdict(verdict: _Object) -> Verdict:
    return Verdict(
        status=cast(Status, verdict.choice("status", get_args(Status))),
        reason=verdict.text("reason"),
        baseline_j_per_call=verdict.number_or_none("baseline_j_per_call"),
        baseline_recordings=verdict.count("baseline_recordings"),
        baseline_sessions=verdict.count("baseline_sessions"),
        change=verdict.number_or_none("change"),
        detectable_change=verdict.number_or_none("detectable_change"),
        duration_change=verdict.number_or_none("duration_change"),
        power_change=verdict.number_or_none("power_change"),
        limit_j_per_call=verdict.number_or_none("limit_j_per_call"),
        tolerance=verdict.tolerance(),
        p_value=verdict.number_or_none("p_value") if verdict.has("p_value") else None,  # these came later
        first_change=verdict.number_or_none("first_change") if verdict.has("first_change") else None,
        base_sessions=_read_scores(verdict, "base_sessions") if verdict.has("base_sessions") else (),
        reference_change=verdict.number_or_none("reference_change") if verdict.has("reference_change") else None,
        machine_moved=verdict.has("machine_moved") and verdict.flag_or_none("machine_moved") is True,
        suite_moved=verdict.flag("suite_moved"),
        blind=verdict.flag("blind"),
        effect=cast(Effect, verdict.choice("effect", get_args(Effect))),
    )


def _read_task(task: _Object | None) -> TaskInfo | None:
    if task is None:
        return None
    return TaskInfo(
        name=task.text("name"),
        model=task.text("model"),
        dataset=task.text_or_none("dataset"),
        weights=cast(Any, task.choice("weights", ("hub", "random", "own"))),
        data=cast(Any, task.choice("data", ("hub", "synthetic", "given"))),
        dtype=task.text_or_none("dtype"),
        device=task.text_or_none("device"),
        batch_size=task.count("batch_size"),
        size=cast(Any, task.choice_or_none("size", ("study", "small"))),
        tokens_in=task.number_or_none("tokens_in"),
        tokens_out=task.number_or_none("tokens_out"),
        images=task.number_or_none("images"),
        seconds_audio=task.number_or_none("seconds_audio"),
        preparation_s=task.number_or_none("preparation_s"),
        **{name: task.count_or_none(name) for name in _WORK if task.has(name)},  # which came later
    )
