"""What measurements come to in the study's units: its own figures, put in, must come out as it has them."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_carbon.records import Domain, DomainEnergy, Measurement, MeasurementWarning, TestResult, Verdict
from pytest_carbon.tasks import figures
from pytest_carbon.tasks.catalogue import AI_ENERGY_SCORE_MODELS, TASKS, AiEnergyScore
from pytest_carbon.tasks.figures import Group, TaskRow, groups, preparing
from pytest_carbon.tasks.findings import coarse_order, multi_purpose, scores, stars, tiers
from tests.study import CPU, H100, TABLE_2_WH, as_in_the_study, info, measured, passing


def group(*measurements: Measurement) -> Group:
    (found,) = groups(passing(*measurements))
    return found


def rows(**wh: float) -> tuple[TaskRow, ...]:
    """A model for each task, whose name has underscores here."""
    return group(*(measured(info(task.replace("_", "-")), value) for task, value in wh.items())).tasks


# --- one measurement -------------------------------------------------------------------------------


def test_one_call_in_the_units_of_the_study() -> None:
    """3.6 J a call are 1 Wh for 1,000; a phone's charge is 22 Wh; power is energy over time."""
    (row,) = group(measured(info(tokens_in=20.0, tokens_out=16.0), 1.0, seconds_per_1000=30)).rows
    assert row.wh_per_1000 == pytest.approx(1.0)
    assert row.phone_charges_per_1000 == pytest.approx(1 / 22)
    assert row.seconds_per_1000 == pytest.approx(30)
    assert row.mean_power_w == pytest.approx(120)
    assert row.g_per_1000 == pytest.approx(0.4)
    assert row.j_per_unit == pytest.approx(0.1)  # tokens in and out


@pytest.mark.parametrize(
    ("task", "counts", "j_per_unit"),
    [
        ("object-detection", {"images": 2.0, "tokens_in": None}, 1.8),
        ("image-captioning", {"images": 1.0, "tokens_out": 20.0}, 3.6),
        ("speech-recognition", {"seconds_audio": 12.0, "tokens_out": 30.0}, 0.3),
        ("text-generation", {"tokens_in": None, "tokens_out": None}, None),
        ("a task of my own", {"tokens_in": 10.0, "tokens_out": 8.0, "images": 1.0, "seconds_audio": 2.0}, 0.2),
        ("a task of my own", {"tokens_in": None, "images": 4.0, "seconds_audio": 2.0}, 0.9),
        ("a task of my own", {"tokens_in": None, "seconds_audio": 2.0}, 1.8),
        ("a task of my own", {"tokens_in": None}, None),
    ],
)
def test_what_a_calls_energy_is_divided_by(
    task: str, counts: dict[str, float | None], j_per_unit: float | None
) -> None:
    """Images and seconds where the task counts those; of another's task the first that it counts; else nothing."""
    (row,) = group(measured(info(task, **counts), 1.0)).rows
    assert row.j_per_unit == (None if j_per_unit is None else pytest.approx(j_per_unit))


@pytest.mark.parametrize(
    "measurement",
    [
        Measurement("call", H100, failure="GPU 0 was lost"),
        measured(info(), None),
        measured(None, 1.0),
    ],
    ids=["failed", "out of memory", "no task"],
)
def test_what_has_no_figure_is_in_no_table(measurement: Measurement) -> None:
    """Unknown is not 0: a failed measurement lowers no mean."""
    assert groups(passing(measurement)) == []
    (row,) = group(measurement, measured(info(), 2.0)).rows
    assert row.wh_per_1000 == pytest.approx(2.0)


def test_a_model_is_the_mean_over_its_data_sets() -> None:
    """Energy, time and carbon; power is that of all calls together, and J per token that of all tokens."""
    (row,) = group(
        measured(info(dataset="sst2", tokens_in=10.0), 1.0, 10), measured(info(dataset="imdb", tokens_in=90.0), 3.0, 50)
    ).rows
    assert (row.wh_per_1000, row.seconds_per_1000) == (pytest.approx(2.0), pytest.approx(30))
    assert row.mean_power_w == pytest.approx(240)
    assert row.j_per_unit == pytest.approx(4 * 3.6 / 100)


def test_what_may_not_stand_together_does_not() -> None:
    """Machines, devices, precisions, batch sizes, sources of weights and data, small variants and real sizes."""
    different = [
        measured(info(), 1.0),
        measured(info(), 1.0, machine=CPU),
        measured(info(dtype="fp16"), 1.0),
        measured(info(batch_size=8), 1.0),
        measured(info(size="small"), 1.0),
        measured(info(device="cpu"), 1.0),
        measured(info(weights="hub"), 1.0),
        measured(info(data="hub"), 1.0),
        measured(info(data="given"), 1.0),
    ]
    found = groups(passing(*different))
    assert len(found) == len(different)
    assert [g.comparable for g in found] == [True, True, True, False, False, True, True, True, False]
    assert [g.estimated for g in found] == [False, True, *[False] * 7]


def test_a_models_own_figure_in_the_study_is_over_the_same_data_sets() -> None:
    """And there is none for a data set, a size or a model that it does not have."""
    model = "lvwerra/distilbert-imdb"
    cells = {c.dataset: c.energy_wh_per_1000 for c in figures.study_cells() if c.model == model}
    two = [measured(info(model=model, dataset=d), 1.0) for d in ("sst2", "imdb")]
    (row,) = group(*two).rows
    assert row.study_wh_per_1000 == pytest.approx((cells["sst2"] + cells["imdb"]) / 2)
    odd_ones = [
        {"dataset": "mine"},
        {"model": "my/model"},
        {"size": None},
        {"size": "small"},
        {"batch_size": 8},
        {"data": "given"},
    ]
    for odd in (info(**{"model": model, **each}) for each in odd_ones):
        (row,) = group(measured(odd, 1.0)).rows
        assert row.study_wh_per_1000 is None


def named(*measurements: Measurement) -> list[tuple[str, float]]:
    return [(row.name, round(row.wh_per_1000, 3)) for row in group(*measurements).rows]


def test_data_sets_are_the_only_thing_that_is_averaged_over() -> None:
    """Another number of new tokens is other work, and what was measured again is another measurement."""
    ten = [measured(info("text-generation", dataset=d), wh) for d, wh in (("wikitext", 1.0), ("oscar", 3.0))]
    fifty = measured(info("text-generation", dataset="wikitext", tokens_out=50.0), 9.0)
    assert named(*ten, fifty) == [("gpt2 · 10 new tokens", 2.0), ("gpt2 · 50 new tokens", 9.0)]
    again = measured(info("text-generation", dataset="wikitext"), 5.0)
    assert named(*ten, again) == [("gpt2 · wikitext, oscar", 2.0), ("gpt2 · wikitext", 5.0)]
    assert named(ten[0], again) == [("gpt2 · t[0]", 1.0), ("gpt2 · t[1]", 5.0)]
    (task,) = group(ten[0], again).tasks
    assert (task.wh_per_1000, dict(task.models)) == (pytest.approx(3.0), {"gpt2": pytest.approx(3.0)})


def test_own_models_have_a_row_for_each_measurement() -> None:
    """Two lambdas are two models; their tests, or the measurements' names, say which is which."""
    one, other = (measured(info(model="Linear", dataset=d, size=None), wh) for d, wh in (("sst2", 1.0), ("imdb", 3.0)))
    assert named(one) == [("Linear (own)", 1.0)]
    assert named(one, other) == [("Linear (own) · t[0]", 1.0), ("Linear (own) · t[1]", 3.0)]
    twice = replace(one, name="fast"), replace(other, name="slow")
    assert named(*twice) == [("Linear (own) · fast", 1.0), ("Linear (own) · slow", 3.0)]
    tests = [TestResult(f"{m}.py::t", "passed", ((one, Verdict("new", "")),)) for m in ("a", "b")]
    (found,) = groups(tests)
    assert [row.name for row in found.rows] == ["Linear (own) · a.py::t · call", "Linear (own) · b.py::t · call"]


def test_own_models_stand_beside_the_catalogues_on_the_same_device() -> None:
    """With their own weights and data; where there are none such, in a table of their own."""
    own = info(model="Mine", weights="own", data="given", size=None)
    assert [row.name for row in group(measured(own, 1.0), measured(info(), 2.0)).rows] == ["Mine (own)", "gpt2"]
    assert len(groups(passing(measured(own, 1.0), measured(info(device="cpu"), 2.0)))) == 2


@pytest.mark.parametrize(
    "other",
    [
        measured(info("text-generation", "distilgpt2", "wikitext", tokens_out=50.0), 90.0),
        measured(info("text-generation", "distilgpt2", "wikitext", tokens_out=None), 90.0),
        measured(info("text-generation", "distilgpt2", "wikitext", size=None), 90.0),
        measured(info("text-generation", "distilgpt2", "wikitext", new_tokens=10, tokens_out=9.0), 90.0),
        replace(
            measured(info("text-generation", "distilgpt2", "wikitext"), 90.0),
            warnings=(MeasurementWarning("other-device", "the task ran on the processor"),),
        ),
    ],
    ids=["more tokens", "unknown tokens", "own", "fewer tokens", "other device"],
)
def test_only_the_studys_work_enters_what_is_held_against_it(other: Measurement) -> None:
    """Means, tiers, ratios and scores; it is listed all the same."""
    found = group(measured(info("text-generation", "gpt2", "wikitext"), 10.0), other)
    assert [row.model for row in found.rows] == ["gpt2", "distilgpt2"]
    (task,) = found.tasks
    assert task.wh_per_1000 == pytest.approx(10.0)
    assert [score.row.model for score in scores(found)] == ["gpt2"]
    assert found.rows[1].study_wh_per_1000 is None


SD = "runwayml/stable-diffusion-v1-5"
AS_ASKED = {"images": 1.0, "tokens_in": 25.0, "steps": 50, "width": 512, "height": 512}


@pytest.mark.parametrize("other", [{"steps": 2}, {"width": 256}, {"height": 768}], ids=str)
def test_fewer_steps_are_other_work(other: dict[str, Any]) -> None:
    """Never beside the study's figure, in no mean, and in a row of its own."""
    of = ("image-generation", SD)
    usual = [measured(info(*of, d, **AS_ASKED), wh) for d, wh in (("diffusiondb", 90.0), ("ImageRewardDB", 110.0))]
    less = measured(info(*of, "stable-diffusion-prompts", **AS_ASKED | other), 4.0)
    found = group(*usual, less)
    (task,) = found.tasks
    assert task.wh_per_1000 == pytest.approx(100.0)
    assert {row.name: row.study_wh_per_1000 is None for row in found.rows} == {
        f"{SD} · 50 steps, 512×512": False,
        SD + " · {steps} steps, {width}×{height}".format(**AS_ASKED | other): True,
    }
    assert [score.row for score in scores(found)] == [row for row in found.rows if row.study_wh_per_1000 is not None]
    (alone,) = group(less).rows
    assert alone.name == SD + " · {steps} steps, {width}×{height}".format(**AS_ASKED | other)


def test_a_small_variants_own_work_is_usual() -> None:
    """Its steps, its size of an image and its new tokens are those that it is called with."""
    small = {"size": "small", "images": 1.0}
    found = group(
        measured(info("image-generation", SD, **small, steps=4, width=16, height=16), 9.0),
        measured(info("image-captioning", "Salesforce/blip-image-captioning-base", **small, tokens_out=4.0), 5.0),
    )
    assert [task.task for task in found.tasks] == ["image-captioning", "image-generation"]


def test_given_data_are_not_the_studys() -> None:
    """Whatever they are called."""
    found = group(
        measured(info("fill-mask", data="given"), 1.0), measured(info("image-classification", data="given"), 9.0)
    )
    assert found.tasks == ()
    assert not found.comparable


def test_what_a_failed_test_measured_enters_no_mean() -> None:
    """Nobody knows what it did; a gate that failed it after it had passed says nothing of that."""
    good, bad = measured(info(dataset="sst2"), 1.0), measured(info(dataset="imdb"), 9.0)
    failed = TestResult("t.py::bad", "failed", ((bad, Verdict("new", "")),))
    (found,) = groups([*passing(good), failed])
    assert [(row.name, row.counts, row.unsure) for row in found.rows] == [
        ("gpt2 · sst2", True, False),
        ("gpt2 · imdb", False, True),
    ]
    assert [task.wh_per_1000 for task in found.tasks] == [pytest.approx(1.0)]
    expected = TestResult("t.py::bad", "xfailed", ((bad, Verdict("new", "")),))
    (found,) = groups([*passing(good), expected])
    assert [f.unsure for f in found.figures] == [(), ("xfailed test",)]
    assert [task.wh_per_1000 for task in found.tasks] == [pytest.approx(1.0)]
    gated = replace(failed, functional_outcome="passed")
    (found,) = groups([*passing(good), gated])
    assert [task.wh_per_1000 for task in found.tasks] == [pytest.approx(5.0)]


def test_why_a_figure_is_with_warning() -> None:
    """An error of more than 5%, and warnings about the figure: a tail is a part of it."""
    fine = measured(info(), 1.0)
    energy_j = fine.energy_j_per_call
    assert energy_j is not None
    warnings = (MeasurementWarning("tail", "…"), MeasurementWarning("throttled", "…"))
    worse = replace(fine, energy_j_per_call_error=0.06 * energy_j, warnings=warnings)
    assert [f.unsure for f in group(fine, worse).figures] == [(), ("error of more than 5%", "throttled")]


def test_preparing_is_told_where_it_takes_long() -> None:
    """More than 5% of a task's time, the mean over its calls."""
    calls = [
        measured(info("fill-mask", preparation_s=0.0004), 1.0),
        measured(info(preparation_s=0.001), 1.0),
        measured(info(dataset="imdb", preparation_s=0.003), 1.0),
        measured(info("image-classification", preparation_s=None), 1.0),
    ]
    assert preparing(group(*calls)) == [("text-classification", pytest.approx(0.002), pytest.approx(0.2))]


# --- tasks -----------------------------------------------------------------------------------------


def test_the_studys_figures_come_out_as_its_table_2() -> None:
    """The mean over models, each the mean over its data sets, is what reproduces it, the cheapest task first."""
    found = group(*as_in_the_study())
    assert [row.task for row in found.tasks] == list(TABLE_2_WH)
    for row in found.tasks:
        assert row.wh_per_1000 == pytest.approx(TABLE_2_WH[row.task], rel=0.003)
        assert len(row.rows) == 8
        assert row.wh_per_1000 == pytest.approx(TASKS[row.task].study_wh_per_1000)
        assert row.sd_wh == pytest.approx(TASKS[row.task].study_sd_wh)


def test_the_spread_is_between_models_not_data_sets() -> None:
    """One model on three data sets has none."""
    cells = [m for m in as_in_the_study(["image-generation"]) if m.task and m.task.model == "segmind/tiny-sd"]
    assert len(cells) == 3
    (row,) = group(*cells).tasks
    assert row.sd_wh is None
    (row,) = group(*as_in_the_study(["image-generation"])).tasks
    assert row.sd_wh == pytest.approx(statistics.stdev(r.wh_per_1000 for r in row.rows))


def test_a_users_own_model_stands_beside_them_and_in_no_mean() -> None:
    """Even one with the name of a study's model."""
    found = group(measured(info(model="gpt2"), 1.0), measured(info(model="gpt2", size=None), 100.0))
    assert [(row.name, row.own) for row in found.rows] == [("gpt2", False), ("gpt2 (own)", True)]
    (task,) = found.tasks
    assert task.wh_per_1000 == pytest.approx(1.0)
    assert not group(measured(info(size=None), 1.0)).comparable


# --- tiers -----------------------------------------------------------------------------------------


def test_the_studys_figures_hold_its_tiers() -> None:
    """Each of them, with all tasks measured."""
    claims = [coarse_order(group(*as_in_the_study()).tasks), *tiers(group(*as_in_the_study()).tasks)]
    assert [(claim.outcome, claim.partly) for claim in claims] == [("holds", False)] * 7


def test_the_medians_of_ai_energy_score_hold_the_tiers_that_they_speak_of() -> None:
    """Another GPU, another scheme, other models: the same tiers, so far as it has the tasks."""
    medians = {task: t.ai_energy_score.median_wh for task, t in TASKS.items() if t.ai_energy_score}
    outcomes = [claim.outcome for claim in tiers(rows(**{t.replace("-", "_"): wh for t, wh in medians.items()}))]
    # question answering (0.99) is dearer there than image classification (0.83)
    assert outcomes == ["does not hold", "holds", "holds", "holds", "not measured here", "not measured here"]


def test_a_tier_names_the_two_that_decide_it() -> None:
    """The dearest of what should cost less, the cheapest of what should cost more."""
    claim = tiers(rows(text_classification=1.0, fill_mask=5.0, image_classification=4.0))[0]
    assert claim.outcome == "does not hold"
    assert claim.dearest_below == ("fill-mask", pytest.approx(5.0))
    assert claim.cheapest_above == ("image-classification", pytest.approx(4.0))
    assert claim.partly


@pytest.mark.parametrize(("generation", "outcome"), [(2.99, "does not hold"), (3.01, "holds")])
def test_far_is_three_times(generation: float, outcome: str) -> None:
    """Less is not "far less"."""
    assert tiers(rows(image_captioning=1.0, image_generation=generation))[3].outcome == outcome


def test_what_was_not_measured_is_no_claim() -> None:
    """Neither that it holds nor that it does not."""
    assert {claim.outcome for claim in tiers(rows(text_classification=1.0))} == {"not measured here"}
    assert coarse_order(rows(text_classification=1.0, text_generation=5.0)).outcome == "not measured here"


def test_the_coarse_order_is_of_medians() -> None:
    """One dear task of a kind (object detection in the study) does not decide it; the narrowest step is named."""
    one_dear = rows(
        text_classification=1.0, fill_mask=1.1, object_detection=9.0, summarization=4.0, image_generation=80
    )
    claim = coarse_order(one_dear)
    assert claim.outcome == "holds"
    assert claim.dearest_below == ("forward-only tasks", pytest.approx(1.1))
    assert claim.cheapest_above == ("generating ones", pytest.approx(4.0))
    claim = coarse_order(rows(text_classification=1.0, summarization=4.0, image_generation=3.0))
    assert claim.outcome == "does not hold"
    assert claim.dearest_below == ("generating ones", pytest.approx(4.0))


@given(st.dictionaries(st.sampled_from(sorted(TASKS)), st.floats(1e-9, 1e9), min_size=1))
def test_a_claim_holds_exactly_where_its_two_figures_do(wh: dict[str, float]) -> None:
    """Whatever was measured."""
    tasks = rows(**{task.replace("-", "_"): value for task, value in wh.items()})
    for claim in [coarse_order(tasks), *tiers(tasks)]:
        if claim.dearest_below is None or claim.cheapest_above is None:
            assert claim.outcome == "not measured here"
        elif claim.outcome == "holds":
            assert claim.dearest_below[1] <= claim.cheapest_above[1]


def test_multi_purpose_models_over_those_made_for_the_task() -> None:
    """8.6, 13 and 2.7 times in the study; only where both were measured."""
    found = multi_purpose(group(*as_in_the_study()).tasks)
    assert [(r.multi_purpose, round(r.measured, 1), round(r.study, 1)) for r in found] == [
        ("zero-shot-sentiment", 8.6, 8.6),
        ("zero-shot-question-answering", 13.1, 13.1),
        ("zero-shot-summarization", 2.7, 2.7),
    ]
    (ratio,) = multi_purpose(rows(text_classification=2.0, zero_shot_sentiment=5.0, zero_shot_summarization=1.0))
    assert (ratio.specific, ratio.measured) == ("text-classification", pytest.approx(2.5))


# --- AI Energy Score -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wh", "expected"), [(0.1, 5), (1.0, 5), (2.9, 5), (3.1, 4), (5.0, 3), (7.1, 2), (10.9, 1), (11.0, 1), (500, 1)]
)
def test_stars_are_five_bands_of_equal_width(wh: float, expected: int) -> None:
    """From 1 to 11 Wh each is 2 wide; what lies outside has the nearest band's."""
    assert stars(wh, AiEnergyScore(2.0, 1.0, 11.0, 10)) == expected


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.sampled_from([t for t in TASKS.values() if t.ai_energy_score]))
def test_less_energy_has_no_fewer_stars(one: float, other: float, task: object) -> None:
    """In every task's range, and never none or six."""
    score = task.ai_energy_score  # type: ignore[attr-defined]
    assert 1 <= stars(max(one, other), score) <= stars(min(one, other), score) <= 5


def test_only_the_gpus_own_energy_is_held_against_ai_energy_score() -> None:
    """Not the processor's beside it; and of the study's node, the GPUs' share."""
    domains = (
        DomainEnergy(Domain("gpu:0", "measured", "nvml total energy"), 3.6, 100.0, None),
        DomainEnergy(Domain("cpu:0", "measured", "rapl"), 36.0, 100.0, None),
    )
    whole = Measurement(
        "call",
        H100,
        calls=10,
        duration_s_per_call=0.1,
        energy_j_per_call=39.6,
        gated=("gpu:0", "cpu:0"),
        domains=domains,
        task=info("text-generation", "distilgpt2"),
    )
    (score,) = scores(group(whole))
    assert score.wh_per_1000 == pytest.approx(1.0)
    assert score.row.wh_per_1000 == pytest.approx(11.0)
    assert score.stars == 5
    assert score.beside.median_wh == 17.1


@pytest.mark.parametrize(
    "measurement",
    [
        measured(info(), 1.0, machine=CPU),
        measured(info(size="small"), 1.0),
        measured(info(batch_size=8), 1.0),
        measured(info("fill-mask"), 1.0),
        measured(info(device="cpu"), 1.0),
        measured(info(data="given"), 1.0),
    ],
    ids=["estimated processor", "small", "batch of 8", "not in it", "on the processor", "own data"],
)
def test_what_ai_energy_score_says_nothing_of_gets_no_stars(measurement: Measurement) -> None:
    """Its figures are of whole models on GPUs that are measured, one input a call."""
    assert scores(group(measurement)) == []


def test_ai_energy_scores_own_models_are_within_its_ranges() -> None:
    """The figures of the catalogue agree with each other, give or take their rounding."""
    for model, wh in AI_ENERGY_SCORE_MODELS.items():
        within = [
            t.ai_energy_score
            for t in TASKS.values()
            if t.ai_energy_score and t.ai_energy_score.least_wh * 0.99 <= wh <= t.ai_energy_score.most_wh * 1.01
        ]
        assert within, model
        assert all(math.isfinite(s.median_wh) for s in within)
