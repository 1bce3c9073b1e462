"""What the terminal says of tasks, as the user reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import pytest
from _pytest._io.wcwidth import wcswidth

from pytest_carbon.records import (
    CarbonIntensity,
    Machine,
    Measurement,
    MeasurementWarning,
    SessionResult,
    TestResult,
)
from pytest_carbon.reports.jsonfile import read, write
from pytest_carbon.reports.layout import Page
from pytest_carbon.reports.study import tables
from pytest_carbon.reports.summary import Stored, summary
from pytest_carbon.tasks.catalogue import SMALL
from tests.study import CPU, H100, as_in_the_study, info, measured, passing

TDP = "estimated: 215 W TDP / 32 threads × CPU seconds (codecarbon 3.3.2)"


def run(*measurements: Measurement, **rest: Any) -> SessionResult:
    intensity = CarbonIntensity(400.0, 1.0, "given", None)
    return builders.result(*passing(*measurements), machine=Machine(H100), intensity=intensity, **rest)


def report(*measurements: Measurement, width: int = 80, ascii: bool = False, quiet: bool = False) -> list[str]:
    return [line.text for line in tables(run(*measurements), Page(width, ascii), quiet=quiet)]


def joined(*measurements: Measurement, **options: Any) -> str:
    """The whole report on one line, so that a sentence is found wherever it is broken."""
    return " ".join(" ".join(report(*measurements, **options)).split())


def small(**wh: float) -> list[Measurement]:
    """Tiny variants on an estimated processor; names have underscores here."""
    found = []
    for name, value in wh.items():
        task = name.replace("_", "-")
        dataset, model = SMALL[task]
        counts = {"images": 1.0, "seconds_audio": 2.0}
        found.append(
            measured(info(task, model, dataset, size="small", device="cpu", **counts), value, 2.0, CPU, source=TDP)
        )
    return found


SMALL_RUN = small(
    image_generation=0.02,
    text_classification=0.0002,
    zero_shot_question_answering=0.0015,
    image_classification=0.0004,
    speech_recognition=0.005,
)


def test_the_small_suite_at_80_columns() -> None:
    """One line a task, the cheapest first; estimated, and held against nothing of the study but the order of kinds."""
    assert report(*SMALL_RUN) == [
        "-------- small variants of the study's tasks (estimated, not measured) ---------",
        "1x-amd-epyc-9554-cpu-estimated · cpu · fp32 · batch 1 · random weights ·",
        "  synthetic data",
        "energy: 215 W TDP / 32 threads × CPU seconds (codecarbon 3.3.2)",
        "task, 1,000 calls               energy     CO2e    time    power        J per",
        "text-classification            200 µWh  80.0 µg  2.00 s   360 mW  25.7 µJ/tok",
        "image-classification           400 µWh   160 µg  2.00 s   720 mW  1.44 mJ/img",
        "zero-shot-question-answering  1.50 mWh   600 µg  2.00 s  2.70 W    174 µJ/tok",
        "speech-recognition            5.00 mWh  2.00 mg  2.00 s  9.00 W   9.00 mJ/s",
        "image-generation              20.0 mWh  8.00 mg  2.00 s  36.0 W   72.0 mJ/img",
        "",
        "holds: by the medians over tasks, forward-only tasks < generating ones < image",
        "  generation (generating ones 3.25 mWh, image generation 20.0 mWh)",
        "",
        "small variants are not the study's models: neither its figures nor its tiers are",
        "  held against them",
        "1,000 calls of the dearest, image-generation, are 0.00091 phone charges of",
        "  0.022 kWh (the study's newer versions; its first had 0.012)",
        "J per tok (token, in or out), img (image), s (second of audio)",
        "",
    ]


def test_the_study_at_80_columns() -> None:
    """Its Table 2 with the study's beside, then the models under their tasks."""
    cells = as_in_the_study(["text-classification", "image-generation"])
    lines = report(*cells)
    assert lines[:12] == [
        "------------------------------ the study's tasks -------------------------------",
        "1x-nvidia-h100-80gb-hbm3-700w-gpu · cuda · fp32 · batch 1 · random weights ·",
        "  synthetic data",
        "energy: nvml total energy",
        "task                    Wh per 1,000     in the study  models  charges",
        "text-classification  2.29 ± 0.99 Wh   2.29 ± 0.99 Wh        8     0.10",
        "image-generation     2.91 ± 3.53 kWh  2.91 ± 3.53 kWh       8      132",
        "",
        "model, 1,000 calls                energy     CO2e     time    power        J per",
        "text-classification (one text, one forward pass)",
        "  sbcBI/sentim…_analysis_model  1.35 Wh    540 mg   5.03 s   965 W    173 mJ/tok",
        "  lvwerra/distilbert-imdb       1.37 Wh    547 mg   5.06 s   973 W    176 mJ/tok",
    ]
    assert "image-generation (one prompt, the model's default steps and size)" in lines


def test_a_wide_terminal_shows_charges_and_each_models_figure_in_the_study() -> None:
    """And whole hub ids."""
    lines = report(*as_in_the_study(["image-generation"]), width=140)
    (header,) = [line for line in lines if line.startswith("model, 1,000")]
    assert header.split()[-5:] == ["per", "charges", "in", "the", "study"]
    (line,) = [
        line for line in lines if line.startswith("  stabilityai/stable-diffusion-xl-base-1.0 ") and "g" in line
    ][:1]
    assert " ".join(line.split()[1:]) == "11.3 kWh 4.52 kg 33750 s 1.20 kW 40.7 kJ/img 513 11.3 kWh"


def test_each_tier_is_a_line() -> None:
    """Those that hold, those that do not, those that this run cannot say."""
    dear = [measured(info("text-classification"), 9.0), measured(info("image-classification"), 7.0)]
    text = joined(*dear, measured(info("object-detection", images=1.0), 30.0), measured(info("fill-mask"), 2.0))
    assert (
        "does not hold: text-classification, extractive-question-answering, fill-mask and token-classification cost"
        " less than image-classification (text-classification 9.00 Wh, image-classification 7.00 Wh;"
        " not all were measured)"
    ) in text
    assert "holds: image-classification costs far less than object-detection, text-generation and summarization" in text
    assert "not measured here: image-captioning costs far less than image-generation" in text
    lines = tables(run(*dear), Page(80))
    assert [line.markup for line in lines if line.text.startswith("does not hold")] == [{"yellow": True}]


def test_multi_purpose_models_are_said_with_the_studys_ratio() -> None:
    """Where both tasks were measured at real size."""
    pair = [measured(info("text-classification"), 2.0), measured(info("zero-shot-sentiment"), 10.0)]
    text = joined(*pair)
    assert "zero-shot-sentiment took 5 times what text-classification took; 8.65 times in the study" in text
    assert "times what" not in joined(*small(text_classification=0.1, zero_shot_sentiment=0.2))


def test_why_absolute_figures_differ_is_said() -> None:
    """And that an estimate is none of a GPU's, where it is one."""
    text = joined(measured(info(), 1.0))
    differ = "absolute figures differ from the study's: the study's node counts 7 idle GPUs and 430.8 W of RAM"
    assert differ in text
    assert "an estimate for a processor" not in text
    text = joined(measured(info(), 1.0, machine=CPU, source=TDP))
    assert differ in text
    assert "and an estimate for a processor is no GPU's figure" in text
    assert differ not in joined(*SMALL_RUN)


def test_ai_energy_score_stands_beside_measured_gpus_only() -> None:
    """With its bands explained, its range, and its own figure of a model that it has."""
    cells = as_in_the_study(["text-generation"])
    lines = report(*cells)
    assert "text-generation (median 17.1 Wh, 1.3 to 3426 Wh, 40 models)" in lines
    (line,) = [line for line in lines if line.startswith("  distilgpt2 ") and "*" in line]
    assert line.split() == ["distilgpt2", "7.68", "Wh", "*****", "1.31", "Wh"]
    assert "five bands of equal width, from a task's least figure to its greatest" in joined(*cells)
    for nothing in (SMALL_RUN, [measured(info("text-generation"), 1.0, machine=CPU)]):
        assert "AI Energy Score" not in joined(*nothing)


@pytest.mark.parametrize(
    ("measurements", "title"),
    [
        (SMALL_RUN, "small variants of the study's tasks (estimated, not measured)"),
        ([measured(info(), 1.0)], "the study's tasks"),
        (
            [measured(info(), 1.0, source="replayed: nvml total energy")],
            "the study's tasks (replayed, not measured)",
        ),
        (
            [measured(info(), 1.0, machine="1x-simulated-h100-700w-gpu")],
            "the study's tasks (simulated, not measured)",
        ),
        ([measured(info(size=None), 1.0)], "tasks"),
    ],
)
def test_the_headline_says_what_kind_of_figures_these_are(
    measurements: list[Measurement], title: str, tmp_path: Path
) -> None:
    """Nothing estimated, replayed or simulated is taken for a measurement, also when it is read from a report."""
    result = run(*measurements)
    write(result, tmp_path / "report.json")
    for each in (result, read(tmp_path / "report.json")):
        assert tables(each, Page(80))[0].text.strip("- ") == title


def test_quiet_shows_the_tables_over_tasks() -> None:
    """They are what the suite was run for; of a user's own tests nothing."""
    lines = report(*SMALL_RUN, quiet=True)
    assert len(lines) == 10
    assert lines[-1].startswith("image-generation")
    lines = report(*as_in_the_study(["summarization"]), quiet=True)
    assert [line.split()[0] for line in lines[-2:]] == ["task", "summarization"]
    assert report(measured(info(size=None), 1.0), quiet=True) == []


def test_small_and_real_sizes_have_a_table_each() -> None:
    """And machines, and precisions."""
    titles = [
        line for line in report(*SMALL_RUN, measured(info(), 1.0), measured(info(dtype="fp16"), 0.6)) if "---" in line
    ]
    assert len(titles) == 3


def test_a_users_own_task_and_model_are_shown() -> None:
    """Marked; per what it counts, and where it counts nothing there is no such column, and no word of it."""
    mine = info("rerank", "Mine", None, size=None, tokens_in=36.0)
    lines = report(measured(mine, 1.0), measured(replace(mine, model="Other", tokens_in=None), 1.0))
    assert "rerank" in lines
    assert [line.split()[-2:] for line in lines if "(own)" in line] == [["mJ/tok", "0.045"], ["–", "0.045"]]
    assert "J per tok (token, in or out)" in lines
    assert "J per" not in joined(measured(replace(mine, tokens_in=None), 1.0))


def test_a_column_that_has_no_room_is_not_explained() -> None:
    """What J per token is, only where there is one."""
    assert "J per" in joined(*SMALL_RUN, width=80)
    assert "J per" not in joined(*SMALL_RUN, width=60)


def test_unsure_figures_are_marked() -> None:
    """With how many, and why; only the digits that their error leaves; what a failed test did is in no mean."""
    vague = measured(info(dataset="sst2"), 6.1234)
    vague = replace(vague, energy_j_per_call_error=9 * 3.6)
    strange = measured(info(model="other", dataset="imdb"), 2.0)
    strange = replace(strange, warnings=(MeasurementWarning("throttled", "the GPU was hot"),))
    tests = [*passing(vague, strange, measured(info(model="third"), 4.0))]
    tests.append(TestResult("t.py::bad", "failed", passing(measured(info(model="bad"), 9.0))[0].measurements))
    lines = [line.text for line in tables(replace(run(), tests=tuple(tests)), Page(80))]
    assert lines[4:14] == [
        "task                    Wh per 1,000    in the study  models  charges",
        "text-classification  ~4.04 ± 2.06 Wh  2.29 ± 0.99 Wh       3     0.18",
        "",
        "model, 1,000 calls    energy     CO2e    time    power        J per  charges",
        "text-classification (one text, one forward pass)",
        "  other             ~2.00 Wh   800 mg  10.0 s   720 W    257 mJ/tok    0.091",
        "  third              4.00 Wh  1.60 g   10.0 s  1.44 kW   514 mJ/tok     0.18",
        "  gpt2                 ~6 Wh     2 g   10.0 s     2 kW   800 mJ/tok     0.28",
        "  bad               ~9.00 Wh  3.60 g   10.0 s  3.24 kW  1.16 J/tok      0.41",
        "~ with a warning, see below: 3 of 4 (throttled, error of more than 5%, failed",
    ]


def test_the_dearest_is_one_that_is_sure() -> None:
    """And where another one seems dearer, it is said which of them this is."""
    sure, vague = measured(info("fill-mask"), 22.0), measured(info("text-generation"), 44.0)
    vague = replace(vague, warnings=(MeasurementWarning("unsteady", "the halves differ"),))
    assert "1,000 calls of the dearest, fill-mask, are 1.0 phone charges" in joined(sure)
    assert "1,000 calls of the dearest that has no warning, fill-mask, are 1.0 phone charges" in joined(sure, vague)


def test_what_is_in_no_mean_is_counted_with_the_reason() -> None:
    """A failure that is expected is one, too."""
    failed, expected, elsewhere, other = (measured(info(model=f"m{i}"), 9.0) for i in range(4))
    tests = [
        *passing(measured(info(), 1.0)),
        TestResult("t.py::bad", "failed", passing(failed)[0].measurements),
        TestResult("t.py::xfail", "xfailed", passing(expected)[0].measurements),
        *passing(replace(elsewhere, warnings=(MeasurementWarning("other-device", "the task ran on the processor"),))),
        *passing(replace(other, task=info("image-generation", "segmind/tiny-sd", steps=2))),
    ]
    lines = [line.text for line in tables(replace(run(), tests=tuple(tests)), Page(200))]
    assert (
        "in no mean, tier or score: 1 whose test failed, 1 whose test is expected to fail,"
        " 1 whose work ran where nothing is counted, 1 at other work than the study's"
    ) in lines


def test_two_own_models_of_one_class_are_told_apart() -> None:
    """On a line of their own where their names are too long for the table."""
    tests = [
        TestResult(f"t.py::test_of_mine[{size}-{'x' * 30}-model]", "passed", passing(m)[0].measurements)
        for size, m in (
            ("large", measured(info(model="Classifier", size=None, data="given"), 2.0)),
            ("small", measured(info(model="Classifier", size=None, data="given"), 1.0)),
        )
    ]
    lines = [line.text for line in tables(replace(run(), tests=tuple(tests)), Page(80))]
    long = "x" * 30
    assert lines[4:10] == [
        "model, 1,000 calls   energy    CO2e    time  power       J per  charges",
        "text-classification",
        f"  Classifier (own) · test_of_mine[small-{long}-model]",
        "                    1.00 Wh  400 mg  10.0 s  360 W  129 mJ/tok    0.045",
        f"  Classifier (own) · test_of_mine[large-{long}-model]",
        "                    2.00 Wh  800 mg  10.0 s  720 W  257 mJ/tok    0.091",
    ]


def test_what_one_call_is_is_not_said_over_other_work() -> None:
    """A user's own data, or more tokens, are not what the sentence says."""
    sentence = "text-generation (20 words in, 10 new tokens)"
    usual = info("text-generation")
    assert sentence in report(measured(usual, 1.0))
    for other in (
        replace(usual, tokens_out=50.0),
        replace(usual, data="given"),
        replace(usual, size=None, data="given"),
    ):
        lines = report(measured(other, 1.0))
        assert "text-generation" in lines
        assert sentence not in lines
        assert "in the study" not in " ".join(lines)


def test_how_long_preparing_takes_is_told() -> None:
    """Of the tasks of which it is a good part."""
    text = joined(measured(info(preparation_s=0.0025), 1.0), measured(info("fill-mask"), 1.0))
    assert (
        "share of the time for preparing inputs (tokenising, resizing), if more than 5%: text-classification 25%"
        " (2.50 ms a call) "
    ) in text
    assert "preparing" not in joined(measured(info(), 1.0))


def test_what_measured_no_task_says_nothing() -> None:
    """Nor a task whose measurement failed."""
    assert report(measured(None, 1.0), measured(info(), None)) == []


def test_a_report_read_back_gives_the_same_tables(tmp_path: Path) -> None:
    """What the terminal showed can be shown again from the JSON report, elsewhere."""
    result = run(*SMALL_RUN, *as_in_the_study(["summarization"]))
    write(result, tmp_path / "report.json")
    assert tables(read(tmp_path / "report.json"), Page(80)) == tables(result, Page(80))


def test_the_tables_stand_before_the_gates() -> None:
    """Whose sentences are what a red build must end with."""
    lines = [line.text for line in summary(run(*SMALL_RUN), {H100: Stored()}, width=80, quiet=False, verbose=False)]
    assert lines[0] == report(*SMALL_RUN)[0]
    (gate,) = [i for i, line in enumerate(lines) if line.startswith("=")]
    assert gate == len(report(*SMALL_RUN))


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("ascii", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, ascii: bool) -> None:
    """At any width; and ASCII where the terminal has no more."""
    for line in report(*SMALL_RUN, *as_in_the_study(), width=width, ascii=ascii):
        assert wcswidth(line) <= width
        assert not ascii or line.isascii()
