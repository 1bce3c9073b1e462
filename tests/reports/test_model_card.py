"""Model cards: what may be published of a model, how it is written, and that all else in a card stays as it was."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import builders
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from rendered import HOSTILE as RENDERED
from rendered import Rendered
from study import info

from pytest_carbon.records import (
    CarbonIntensity,
    Counted,
    Domain,
    DomainEnergy,
    Gpu,
    Machine,
    Measurement,
    MeasurementWarning,
    SessionResult,
    SessionScore,
    SuiteVerdict,
    TaskInfo,
    TestResult,
    UsageProblem,
    Verdict,
)
from pytest_carbon.records.work import WorkVerdict
from pytest_carbon.reports.card.entries import plain
from pytest_carbon.reports.card.figures import Publication, publication
from pytest_carbon.reports.card.section import BEGIN, END
from pytest_carbon.reports.card.update import updated
from pytest_carbon.reports.merge import merge

H100 = Machine(
    "1x-nvidia-h100-80gb-hbm3-700w-gpu",
    (Gpu(0, "GPU-1234", "NVIDIA H100 80GB HBM3", 700.0), Gpu(1, "GPU-5678", "another GPU")),
    pytest_carbon="0.1.0",
)
CPU = Machine("amd-epyc-9554-128c-cpu-dram-estimated", cpu="AMD EPYC 9554", cpu_count=128, pytest_carbon="0.1.0")
CPU_DOMAINS = (
    DomainEnergy(Domain("cpu:0", "estimated", "estimated: 2.8 W a thread"), 1.0, 2.8, None),
    DomainEnergy(Domain("dram:0", "estimated", "estimated: 0.2 W a thread"), 0.1, 0.2, None),
)
TEST = "tests/test_m.py::test_x[fp16]"
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script>",
    "{{7*7}}",
    "@everyone",
    "]]>",
    "::error::",
    "a\nb: c\n---\n",
    "| a | *b* `c` [d](http://e) _f_ ~~g~~ #1 $x$ www.example.com",
    END,
    "\u202eright to left\x00\x1b[31m\u2028\x85",
    "a" * 10_000,
    "\ud800",
    "'\"\\",
    "- x",
    "null",
    "1e3",
    "&a *a !!str %TAG ? :",
)


def measured(
    joules: float = 1.21, machine: Machine = H100, task: TaskInfo | None = None, **changes: Any
) -> Measurement:
    """What a test measured of a model's task."""
    fields: dict[str, Any] = {
        "machine": machine.id,
        "energy_j_per_call_error": joules / 100,
        "energy_j_per_call_mean": joules,
        "emissions_g_per_call": joules * 369.5 / 3.6e6,
        "task": task or info(model="gpt2", dtype="fp16"),
        "gated": ("gpu:0",),
        "domains": (DomainEnergy(Domain("gpu:0", "measured", "nvml total energy"), joules, 295.0, 70.1),),
    }
    return builders.measurement(joules, **(fields | changes))


def run_of(
    *measurements: Measurement, machine: Machine = H100, verdict: Verdict | None = None, **changes: Any
) -> SessionResult:
    """A run whose one test passed."""
    pairs = tuple((measurement, verdict or Verdict("new", "")) for measurement in measurements)
    fields = {"machine": machine, "intensity": CarbonIntensity(369.5, 1.0, "Our World in Data, Ember", 2023)}
    return builders.result(TestResult(TEST, "passed", pairs), **(fields | changes))


def published(*runs: SessionResult, model: str = "gpt2", training: str | None = None) -> Publication:
    named = [(f"{i}.json", replace(run, session=f"s{i}")) for i, run in enumerate(runs)]
    return publication(merge(named), model, training)


def card_of(text: str, *runs: SessionResult, model: str = "gpt2", training: str | None = None) -> str:
    return updated("README.md", text, published(*(runs or (run_of(measured()),)), model=model, training=training))


def data_of(card: str) -> Any:
    """The metadata as the hub reads it."""
    body = card.removeprefix("\ufeff")
    block = re.match(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))", body)
    assert block is not None
    return yaml.safe_load(block[2])


def row_of(card: str) -> list[str]:
    """The cells of the table's first row."""
    return re.findall(r"^\| (.*) \|$", card, re.MULTILINE)[2].split(" | ")


def refusal(text: str, *runs: SessionResult, **options: Any) -> str:
    with pytest.raises(UsageProblem) as error:
        card_of(text, *runs, **options)
    return str(error.value)


# --- what is written ---------------------------------------------------------------------------------


def test_the_section() -> None:
    """Wh and grams of 1,000 calls with their error, hardware, grid, dtype, batch size, and how it is known."""
    card = card_of("# GPT-2\n")
    assert row_of(card) == [
        "text-classification",
        "synthetic, shaped as sst2",
        "1 × NVIDIA H100 80GB HBM3 (700 W)",
        "fp16",
        "1",
        "336.1 ± 3.4 mWh",
        "124.2 ± 1.2 mg",
        "4.44 ± 0.04 g (read)",
        "240",
        "measured (GPU: nvml total energy)",
    ]
    assert "- Electricity: 369.5 g CO2e per kWh (Our World in Data, Ember, 2023), PUE 1.\n" in card
    assert "- Written by pytest-carbon 0.1.0 from 1 figure of 2026-11-22.\n" in card
    assert "GPU-1234" not in card


def test_the_metadata() -> None:
    """As the hub's own library reads them."""
    data = data_of(card_of("---\nlicense: mit\n---\n"))
    assert list(data) == ["license", "model-index"]
    (entry,) = data["model-index"]
    assert entry["name"] == "gpt2"
    (result,) = entry["results"]
    assert result["task"] == {"type": "text-classification", "name": "text-classification"}
    assert result["dataset"] == {"type": "synthetic", "name": "synthetic, shaped as sst2"}
    energy, emissions, of_tokens = result["metrics"]
    assert energy["type"] == "pytest_carbon_measured_energy_wh_per_1000_calls"
    assert energy["value"] == 0.3361
    assert emissions["type"] == "pytest_carbon_measured_emissions_g_per_1000_calls"
    assert emissions["value"] == 0.1242
    assert of_tokens["type"] == "pytest_carbon_measured_emissions_g_per_million_tokens_read"
    assert of_tokens["value"] == 4.435
    assert energy["args"] == {
        "hardware": "1 × NVIDIA H100 80GB HBM3 (700 W)",
        "energy_of": "GPU: nvml total energy",
        "relative_error": 0.01,
        "calls": 240,
        "batch_size": 1,
        "dtype": "fp16",
        "weights": "random",
        "intensity_g_per_kwh": 369.5,
        "pue": 1.0,
        "grid": "Our World in Data, Ember",
        "grid_year": 2023,
        "created": "2026-11-22T10:00:00Z",
        "pytest_carbon": "0.1.0",
    }


def test_the_hubs_library_reads_the_card() -> None:
    """With the results of others beside ours."""
    theirs = (
        "---\nmodel-index:\n- name: GPT-2\n  results:\n  - task: {type: text-generation}\n"
        "    dataset: {name: w, type: w}\n    metrics: [{type: perplexity, value: 29}]\n---\n"
    )
    results = ModelCard(card_of(theirs)).data.eval_results
    assert results is not None
    assert [(result.metric_type, result.metric_value) for result in results] == [
        ("perplexity", 29),
        ("pytest_carbon_measured_energy_wh_per_1000_calls", 0.3361),
        ("pytest_carbon_measured_emissions_g_per_1000_calls", 0.1242),
        ("pytest_carbon_measured_emissions_g_per_million_tokens_read", 4.435),
    ]


def test_an_estimate_is_called_one() -> None:
    measurement = measured(machine=CPU, gated=("cpu:0", "dram:0"), domains=CPU_DOMAINS)
    card = card_of("", run_of(measurement, machine=CPU))
    assert row_of(card)[2] == "AMD EPYC 9554 (128 threads)"
    assert row_of(card)[-1] == "estimated (processor and memory: 2.8 W a thread, 0.2 W a thread)"
    assert "- Estimated is not measured" in card
    metrics = data_of(card)["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["type"] == "pytest_carbon_estimated_energy_wh_per_1000_calls"
    assert metrics[0]["name"] == "Energy of 1,000 calls in Wh (estimated)"


def test_counted_work_is_predicted_where_nothing_is_measured() -> None:
    """For each GPU that figures are published of, without grams; a measurement makes predictions superfluous."""
    counted = Counted("call", builders.work(), WorkVerdict("new", ""), task=info(model="gpt2"))
    run = builders.result(TestResult(TEST, "passed", counted=(counted,)), machine=H100, intensity=None)
    card = card_of("", run)
    cells = row_of(card)
    assert cells[-1] == "predicted (counted work and published figures of the GPU)"
    assert cells[6:9] == ["–", "–", "–"]
    assert "±" in cells[5]
    assert "- Predicted is not measured" in card
    results = data_of(card)["model-index"][0]["results"]
    types = {metric["type"] for result in results for metric in result["metrics"]}
    assert types == {"pytest_carbon_predicted_energy_wh_per_1000_calls"}
    assert "predicted" not in card_of("", run, run_of(measured()))


def test_what_is_unknown_is_not_zero() -> None:
    """No error, no grid, no dtype, no data set."""
    task = info(model="gpt2", dataset=None, dtype=None)  # type: ignore[arg-type]
    measurement = measured(task=task, energy_j_per_call_error=None, emissions_g_per_call=None)
    card = card_of("", run_of(measurement, intensity=None))
    assert row_of(card)[1] == "synthetic"
    assert row_of(card)[3] == "–"
    assert row_of(card)[5:8] == ["336 mWh", "–", "–"]
    assert "Electricity" not in card
    args = data_of(card)["model-index"][0]["results"][0]["metrics"][0]["args"]
    assert not {"relative_error", "dtype", "pue", "intensity_g_per_kwh"} & set(args)
    assert "emissions" not in card.partition(BEGIN)[0]


@pytest.mark.parametrize(("joules", "shown"), [(1e-9, "0.278 nWh"), (1e12, "278 GWh")])
def test_tiny_and_huge_figures(joules: float, shown: str) -> None:
    card = card_of("", run_of(measured(joules, energy_j_per_call_error=None)))
    assert row_of(card)[5] == shown
    metric = data_of(card)["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == pytest.approx(joules / 3.6, rel=1e-3)


def test_every_measurement_and_machine_has_a_row() -> None:
    """With the grid of each."""
    at_home = run_of(measured(machine=CPU, gated=("cpu:0", "dram:0"), domains=CPU_DOMAINS), machine=CPU)
    at_home = replace(at_home, intensity=CarbonIntensity(56.0, 1.2, "France", None))
    card = card_of("", run_of(measured(1.0), measured(2.0, name="fp32")), at_home)
    assert len(re.findall(r"^\| text-classification ", card, re.MULTILINE)) == 3
    assert "- Electricity (1 × NVIDIA H100 80GB HBM3 (700 W)): 369.5 g CO2e per kWh" in card
    assert "- Electricity (AMD EPYC 9554 (128 threads)): 56 g CO2e per kWh (France), PUE 1.2." in card
    results = data_of(card)["model-index"][0]["results"]
    assert sum(len(result["metrics"]) for result in results) == 9


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_text(text: str) -> None:
    """Of tests, tasks, models, data sets, GPUs, processors and sources: one line, no Markdown, HTML or YAML."""
    machine = Machine(text, (Gpu(0, "u", text),), cpu=text, pytest_carbon=text)
    task = TaskInfo(text, text, text, "own", "hub", text, text, 1)
    domains = (DomainEnergy(Domain("gpu:0", "measured", text), 1.0, 1.0, None),)
    run = run_of(measured(machine=machine, task=task, domains=domains), machine=machine)
    run = replace(run, intensity=CarbonIntensity(1.0, 1.0, text, 2023))
    run = replace(run, tests=(replace(run.tests[0], nodeid=text),))
    card = card_of("---\nlicense: mit\n---\n# A card\n", run, model=text, training=text)
    data = data_of(card)
    assert list(data) == ["license", "model-index", "co2_eq_emissions"]
    assert [line for line in card.splitlines() if line in (BEGIN, END)] == [BEGIN, END]
    inside = card.partition(BEGIN)[2].partition(END)[0].replace("<!-- -->", "")
    assert not re.search(r"[<>`*\[\]{}@$~\\]|://|www\.[a-z]", inside)
    assert {line.replace("&#", "").count("|") for line in inside.splitlines() if line.startswith("|")} == {11}
    assert {line.count("#") - line.count("&#") for line in inside.splitlines()} == {0, 2}
    assert all(c.isprintable() or c == "\n" for c in card)
    ModelCard(card)


@pytest.mark.parametrize("text", [*HOSTILE, *RENDERED])
def test_a_renderer_makes_text_of_names(text: str) -> None:
    """The parser that websites use sees the name in its cell, and no tag or link in it."""
    machine = Machine("m", (Gpu(0, "u", text),))
    run = run_of(measured(machine=machine, task=info(text, "gpt2", text, data="hub")), machine=machine)
    page = Rendered(card_of("---\na: 1\n---\n", run).partition(BEGIN)[2].partition(END)[0])
    assert set(page.tags) == {"h2", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert page.attributes == set()
    name = plain(text) or "–"
    assert page.cells[10:13] == [name, name, plain(f"1 × {text}")]


# --- training ----------------------------------------------------------------------------------------


def test_training_is_the_energy_of_all_calls_of_its_test() -> None:
    """In grams, and only if it is asked for; not the inference."""
    epochs = [
        measured(100.0, name="warm", calls=2, task=None, energy_j_per_call_mean=110.0),
        measured(200.0, name="train", calls=3, task=None),
    ]
    epochs = [replace(measurement, task=None) for measurement in epochs]
    run = run_of(*epochs)
    training = replace(run.tests[0], nodeid="t.py::test_train")
    both = replace(run, tests=(*run_of(measured()).tests, training))
    joules = 2 * 110 + 3 * 200
    data = data_of(card_of("", both, training="t.py::test_train"))
    assert data["co2_eq_emissions"] == {
        "emissions": pytest.approx(joules / 3.6e6 * 369.5, rel=1e-3),
        "source": "pytest-carbon 0.1.0: energy measured (GPU: nvml total energy), 369.5 g CO2e per kWh (Our World in"
        " Data, Ember, 2023), PUE 1",
        "hardware_used": "1 × NVIDIA H100 80GB HBM3 (700 W)",
    }
    assert "co2_eq_emissions" not in data_of(card_of("", both))
    assert "- Training (t.py::test&#95;train" not in card_of("", both)
    assert "- Training (t.py::test_train, 5 calls): 228 mWh, 84.2 mg CO2e; measured" in card_of(
        "", both, training="t.py::test_train"
    )


def test_emissions_of_a_training_that_are_there_already() -> None:
    """They stay, unless they are asked for."""
    card = "---\na: 1\nco2_eq_emissions:\n  emissions: 5   # theirs\n  source: guess\nb: 2\n---\n"
    assert "  emissions: 5   # theirs\n" in card_of(card)
    data = data_of(card_of(card, training=TEST))
    assert list(data) == ["a", "co2_eq_emissions", "b", "model-index"]
    assert data["co2_eq_emissions"]["source"].startswith("pytest-carbon 0.1.0")


def test_a_training_that_is_not_there() -> None:
    assert refusal("", training="tests/test_m.py::test_y[fp16]") == (
        f"--training=tests/test_m.py::test_y[fp16]: the report has no measurement of this test. Did you mean {TEST}?"
    )
    assert "several of the reports have this test" in refusal("", run_of(measured()), run_of(measured()), training=TEST)
    assert "has no emissions of it" in refusal("", run_of(measured(), intensity=None), training=TEST)


# --- what may not be published -----------------------------------------------------------------------


WRONG = MeasurementWarning("contention", "another process used the GPU")


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (run_of(measured(), incomplete=True), "its run was ended before everything was measured and judged"),
        (
            replace(run_of(measured()), tests=(replace(run_of(measured()).tests[0], functional_outcome="failed"),)),
            "its test did not pass (failed)",
        ),
        (
            run_of(measured(), verdict=Verdict("regression", "", effect="fails")),
            "its verdict fails the run (regression); mend it, or accept the change",
        ),
        (
            run_of(measured(), suite=SuiteVerdict(9, 9, 0.01, 0.2, "regression", effect="fails")),
            "the verdict of its whole suite fails the run (regression); mend it, or accept the change",
        ),
        (
            run_of(measured(warnings=(WRONG, MeasurementWarning("tail", "informs")))),
            "it has 1 warning for which the figure may be wrong (contention)",
        ),
        (
            run_of(Measurement("call", H100.id, failure="GPU 0 is lost", task=info(model="gpt2"))),
            "it has no energy (GPU 0 is lost)",
        ),
        (
            run_of(measured(task=info(model="gpt2", size="small"))),
            "it is of a small variant of the model, not of the model",
        ),
        (
            run_of(measured(domains=(DomainEnergy(Domain("gpu:0", "measured", "replayed: a lab"), 1.0, 1.0, 1.0),))),
            "its energy is replayed, not measured",
        ),
        (
            run_of(measured(machine=Machine("1x-simulated-h100-gpu"))),
            "its GPU is simulated, so its energy is not measured",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_figure_that_may_be_wrong_is_not_published(run: SessionResult, reason: str) -> None:
    """Alone it is refused; beside another it is left out, and said."""
    assert refusal("", run) == f"there is no figure of gpt2 to publish: {TEST}: {reason}."
    chosen = published(run, run_of(measured(2.0)))
    assert [figure.energy_j for figure in chosen.figures] == [2.0]
    assert chosen.refused == (f"{TEST}: {reason}",)
    assert refusal("", run_of(measured()), run, training=TEST).startswith(f"--training={TEST}: ")


def test_an_accepted_change_is_published() -> None:
    verdict = Verdict("regression", "", effect="accepted")
    assert len(published(run_of(measured(), verdict=verdict)).figures) == 1


def test_a_model_that_the_report_does_not_have() -> None:
    """With the one that is perhaps meant; and a report that knows no model."""
    assert refusal("", model="gtp2") == (
        "--model=gtp2: the report has no measurement of it. Did you mean gpt2? The report has gpt2."
    )
    no_task = replace(measured(), task=None)
    assert refusal("", run_of(no_task)) == (
        "--model=gpt2: no measurement of the report names its model. Measure a task: carbon(carbon_task(…))."
    )


# --- all else stays ----------------------------------------------------------------------------------


def test_a_section_and_results_of_before_are_replaced() -> None:
    """Where they stand; what others wrote around them stays."""
    first = card_of("---\nlicense: mit\n---\n# GPT-2\n", run_of(measured(1.0)))
    amended = first.replace("---\n# GPT-2", "tags: [x]   # theirs\n---\n# GPT-2") + "\nAfter it.\n"
    second = card_of(amended, run_of(measured(2.0)))
    assert second == amended.replace(*_between(amended, second, "model-index:", "tags:")).replace(
        *_between(amended, second, BEGIN, END)
    )
    assert "After it." in second
    assert [m["value"] for m in data_of(second)["model-index"][0]["results"][0]["metrics"]] == [0.5556, 0.2053, 7.331]
    assert card_of(second, run_of(measured(2.0))) == second
    assert card_of(second, run_of(measured(1.0))) == amended


def _between(before: str, after: str, begin: str, end: str) -> tuple[str, str]:
    old, new = (text[text.index(begin) : text.index(end)] for text in (before, after))
    return old, new


KEYS = (
    "license: mit",
    "# a comment: with a colon",
    "tags: [a,  b]   # flow",
    "language:\n- en\n-  fr",
    "widget:\n  - text: 'it''s'\n    example_title: \"x\\ty\"",
    "description: |\n  several\n\n  lines",
    "folded: >-\n    a\n    b",
    "date: 2024-01-02",
    "number: 1e-3",
    "empty:",
    "",
    "anchor: &a {x: 1}\nalias: *a",
    "título: ¿é? 🤗",
    "co2: yes",
)
THEIRS = (
    "{d}  - task:\n{d}      type: x   # theirs\n{d}    metrics:\n{d}    - type: ppl\n{d}      value: 1.50",
    "{d}  -   task: {{type: x}}\n\n{d}      # a comment\n{d}      metrics: [{{type: y, value: .nan}}]",
    "{d}  # before\n{d}  - metrics: []",
)
BODIES = ("", "# A card", "# A card\n", "text\n\n---\n\nmore\n\n", "```\n---\n```\n", " \n<!-- c -->")


@given(
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]),
    st.lists(st.sampled_from(KEYS), unique=True, max_size=6),
    st.integers(0, 6),
    st.sampled_from(["", "  "]),
    st.lists(st.sampled_from(THEIRS), max_size=3),
    st.sampled_from(["none", "null", "empty", "results"]),
    st.sampled_from(BODIES),
)
def test_all_else_stays_byte_for_byte(
    newline: str, bom: str, keys: list[str], at: int, indent: str, theirs: list[str], index: str, body: str
) -> None:
    """Without our lines a card is what it was, and the values in it too; done again, nothing changes."""
    others = "".join(text.format(d=indent) + "\n" for text in theirs)
    results = f"{indent}  results:\n{others}" if theirs else ""
    indexes = {
        "none": "",
        "null": "model-index:\n",
        "empty": "model-index: []\n",
        "results": f"model-index:\n{indent}- name: m\n{results}{indent}  x: y\n",
    }
    before, after = ("".join(f"{key}\n" for key in some) for some in (keys[:at], keys[at:]))
    pieces = (f"{bom}---\n{before}", indexes[index], f"{after}---\n{body}")
    card = "".join(pieces).replace("\n", newline)
    new = card_of(card, training=TEST)

    kept, section, tail = new.partition(BEGIN)
    assert section
    assert tail.endswith(f"{END}{newline}")
    assert new.count("\r") == (new.count("\n") if newline == "\r\n" else 0)
    unix = kept.replace("\r\n", "\n")
    unix, trainings = re.subn(r"^co2_eq_emissions:\n(?:  .*\n)+", "", unix, count=1, flags=re.MULTILINE)
    head = "" if theirs else f"{indent}  results:\n"
    column = f"{indent}  "
    if index != "results":
        head, column = "model-index:\n- name: gpt2\n  results:\n", "  "
    ours = rf"^{head}{column}- task:\n{column}    type: text-classification\n(?:{column}  .*\n)+"
    unix, replaced = re.subn(ours, indexes[index] if index in ("null", "empty") else "", unix, flags=re.MULTILINE)
    assert (trainings, replaced) == (1, 1)
    assert unix in ("".join(pieces) + gap for gap in ("", "\n", "\n\n"))

    old, now = data_of(card) if "".join(keys) + indexes[index] else {}, data_of(new)
    old_results, now_results = (data.pop("model-index", None) or [{}] for data in (old or {}, now))
    known = old_results[0].get("results") or []
    assert repr(now_results[0]["results"][: len(known)]) == repr(known)
    del now["co2_eq_emissions"]
    assert repr(now) == repr(old or {})
    assert card_of(new, training=TEST) == new


@pytest.mark.parametrize("body", ["", "x", "# A card\r\ntext", "\n\ntext\n", "\ufeff# A card\n", "text\r"])
def test_a_card_without_metadata_gets_them(body: str) -> None:
    bom = "\ufeff" if body.startswith("\ufeff") else ""
    new = card_of(body)
    assert new.startswith(f"{bom}---")
    assert data_of(new)["model-index"][0]["name"] == "gpt2"
    assert new.partition(BEGIN)[0].rstrip("\r\n").endswith(body.removeprefix("\ufeff").rstrip("\r\n") or "---")
    assert body.removeprefix("\ufeff") in new
    assert card_of(new) == new


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("a: [1", "line 2: the metadata cannot be read (expected ',' or ']', but got '<stream end>'); mend this line"),
        ("a: 1\n\tb: 2", "line 3: the metadata cannot be read"),
        ("a: \x00", "line 2: the metadata cannot be read (special characters are not allowed)"),
        ("a: 2024-02-31", "the metadata cannot be read (day is out of range for month)"),
        ("- a", "line 2: the metadata are not a mapping of keys to values"),
        ("just text", "line 2: the metadata are not a mapping"),
        ("{a: 1}", "line 2: the metadata are in braces; write one key in each line"),
        ("a: 1\nb: 2\na: 3", "line 4: the key a is here for the second time; keep one"),
        ("a: 1\nmodel-index: {name: x}", "line 3: model-index is not a list of models"),
        ("model-index: x", "line 2: model-index is not a list of models"),
        ("model-index:\n- name: x\n  results: {a: 1}", "the results in model-index are not a list"),
        ("model-index: [{name: x, results: [{a: 1}]}]", "line 2: model-index is in brackets or braces"),
        ("model-index:\n- {name: x, results: []}", "line 3: model-index is in brackets or braces"),
        ("model-index:\n- name: x\n- name: y", "line 2: model-index has x and y; name one of them gpt2"),
        ("x: &x\n- name: a\nmodel-index: *x", "line 4: model-index is an alias of another key's value"),
        ("a: 1\n...", "cannot be changed by lines"),
        (
            "model-index:\n- name: x\n  results:\n  - metrics:\n    - type: pytest_carbon_x\n    - type: bleu",
            "line 6: a result in model-index has other metrics beside pytest-carbon's; put them in a result of their",
        ),
    ],
)
def test_metadata_that_cannot_be_changed(metadata: str, message: str) -> None:
    """They are refused with the file, the line and the remedy; nothing is guessed."""
    text = refusal(f"---\n{metadata}\n---\n# A card\n")
    assert text.startswith("README.md, line ")
    assert message in text
    assert text.endswith(".")


@pytest.mark.parametrize("depth", [480, 3000])
def test_metadata_of_any_depth(depth: int) -> None:
    """Changed, or refused; no fault."""
    card = f"---\nx: {'[' * depth}{']' * depth}\n---\n"
    try:
        came_to = card_of(card)
    except UsageProblem as problem:
        came_to = str(problem)
    assert BEGIN in came_to or came_to.startswith("README.md, line ")


def test_aliases_of_aliases_stay_short() -> None:
    """Nine lines that stand for a thousand million values take no more than nine lines."""
    few = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"]
    few += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)]
    card = f"---\n{''.join(few)}---\n# A card\n"
    assert card_of(card).startswith(f"---\n{''.join(few)}model-index:\n")


def test_metadata_without_an_end() -> None:
    assert refusal("---\nlicense: mit\n\n# A card\n") == (
        "README.md, line 1: the metadata begin here, and no line --- ends them; add it, or delete this line."
    )
    assert refusal("\n--- \nlicense: mit\n---\n# A card\n") == (
        "README.md, line 2: blanks follow the --- here, so the hub reads no metadata; delete them."
    )


@pytest.mark.parametrize(
    "body",
    [
        f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n",
        f"{BEGIN}\n",
        f"{END}\n",
        f"{END}\n{BEGIN}\n",
        f"{BEGIN}\n{BEGIN}\n{END}\n",
    ],
)
def test_sections_that_are_not_clear(body: str) -> None:
    """Two of them, or half a one."""
    text = refusal(f"---\na: 1\n---\n{body}")
    assert text.startswith("README.md has <!-- pytest-carbon:")
    assert "in line 4" in text
    assert text.endswith("or delete all of them.")


def test_one_of_several_models_is_named() -> None:
    """By its id or the id's last part."""
    index = "---\nmodel-index:\n- name: other\n- name: m\n---\n"
    data = data_of(card_of(index, run_of(measured(task=info(model="me/m"))), model="me/m"))
    assert "results" not in data["model-index"][0]
    assert len(data["model-index"][1]["results"]) == 1


def test_suites_of_further_machines_name_their_hardware() -> None:
    run = run_of(
        measured(machine=CPU, gated=("cpu:0",), domains=CPU_DOMAINS[:1]), others=((CPU, SuiteVerdict(0, 0, 0.01)),)
    )
    assert row_of(card_of("", run))[2] == "AMD EPYC 9554 (128 threads)"


def test_several_sessions_are_one_figure() -> None:
    sessions = (SessionScore("a", 1.2, 0.004), SessionScore("b", 1.2, 0.004))
    assert len(published(run_of(measured(sessions=sessions))).figures) == 1
