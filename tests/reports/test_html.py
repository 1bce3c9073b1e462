"""The page of HTML as its text: what it says without JavaScript, what it embeds, and what it lets in."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import builders
import pages
import pytest

from pytest_carbon.commands.main import main
from pytest_carbon.records import (
    Domain,
    DomainEnergy,
    Measurement,
    SuiteVerdict,
    TestResult,
    UsageProblem,
    Verdict,
)
from pytest_carbon.reports import jsonfile
from pytest_carbon.reports.html import page
from pytest_carbon.reports.html.data import CHUNK
from pytest_carbon.reports.html.ranking import rankings
from pytest_carbon.reports.html.rows import STATUSES, rows
from pytest_carbon.reports.merge import Runs
from tests.study import as_in_the_study, passing


class Parsed(HTMLParser):
    """What a browser without JavaScript makes of a page: its words, its elements, what may run."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.inside: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else None
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside is None:
            self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def parsed(runs: Runs) -> Parsed:
    return Parsed(page.text(runs))


def data_of(text: Parsed) -> list[object]:
    return pages.unpack(max(text.scripts[1:], key=lambda script: script.startswith("eN")))


def one(*tests: TestResult, **changes: object) -> Runs:
    return Runs((builders.result(*tests, machine=pages.H100, **changes),), ("carbon.json",))


@pytest.fixture(scope="module")
def mixture() -> Parsed:
    return parsed(pages.mixture())


def test_it_begins_as_a_file_of_ours() -> None:
    assert page.text(one()).startswith("<!doctype html>\n<!-- pytest-carbon-html/1 -->\n<html")


# --- without JavaScript --------------------------------------------------------------------------


def test_the_headline_says_what_fails_and_which_change_is_the_largest(mixture: Parsed) -> None:
    assert "5 of 36 measurements fail" in mixture.said
    assert "2.3× the energy, 28.2 → 65.2" in mixture.said
    for count_of in ("1 error", "1 over-budget", "3 regression", "1 blind", "1 accepted", "1 improvement", "1 new"):
        assert re.search(rf"\b{count_of}\b", mixture.said), count_of


def test_what_fails_is_there_with_its_reason_its_figures_and_the_commands(mixture: Parsed) -> None:
    assert "each call takes 2.1× the time" in mixture.said
    assert "28.2 mJ 65.2 ± 0.4 mJ 2.3×" in mixture.said
    assert "transformer.h.*.mlp 15.8× FLOPs, 512 tokens a call instead of 1" in mixture.said
    assert "pytest-carbon baseline accept carbon.json" in mixture.said
    assert "smallest detectable change 6.1%, tolerance 5%" in mixture.said
    assert "it started 18 °C warmer than its baseline" in mixture.said
    assert "--carbon-accept does not lift a budget." in mixture.said


def test_what_fails_stands_first_and_of_that_what_got_dearer_by_most(mixture: Parsed) -> None:
    tests = ("test_generate", "test_counted_only", "test_classify", "test_budget", "test_whisper", "test_accepted")
    said = mixture.said[mixture.said.index("Failures and changes regression") :]
    assert (order := [said.index(test) for test in tests]) == sorted(order)


def test_the_head_has_the_median_the_overhead_and_what_is_missing(mixture: Parsed) -> None:
    assert "Median change of energy +0.4%" in mixture.said
    assert "Overhead of measuring 512 J 52.6 mg CO2e" in mixture.said
    assert "1 measurement that has a baseline was not made" in mixture.said
    assert "test_gone: its test passed without it" in mixture.said


def test_tasks_have_their_energy_and_emissions_of_1000_calls_beside_the_study() -> None:
    said = parsed(pages.study()).said
    assert "Energy of 1,000 calls 2.29 Wh – 2.91 kWh of 5 tasks" in said
    assert "image-generation 2.91 kWh 1.16 kg 2.91 kWh" in said


def test_calls_on_text_have_their_emissions_of_a_million_tokens() -> None:
    _, *chunks = data_of(parsed(one(*passing(*as_in_the_study(("text-generation",))))))
    facts = dict(chunks[0][0]["facts"])
    assert facts["tokens"].endswith(" g CO2e per million tokens that the call produced")


def test_beside_energy_each_fact_of_the_work_has_a_label_of_its_own() -> None:
    """And none says that no energy was measured; of a count alone one does."""
    made = rows(pages.mixture())
    both = [row for row in made if row.entry.measurement is not None and row.entry.counted is not None]
    assert len(both) == 2
    for row in both:
        labels = [label for label, _ in row.facts if not label.startswith(("warning", "machine"))]
        assert sorted(labels) == sorted(set(labels)), labels
        assert not [text for _, text in row.facts if "not energy measured" in text]
        assert dict(row.facts)["counted"] == "with engine cpu; counts have no noise, and are no energy"
    assert dict(both[1].facts)["work"].startswith("the same as its baseline")
    (alone,) = [row for row in made if row.entry.measurement is None and row.status == "regression"]
    assert dict(alone.facts)["work"].startswith("counted, not energy measured")


def test_scores_stand_beside_the_figures_that_may_be_compared() -> None:
    runs = pages.study()
    (ranking,) = rankings(runs, rows(runs))
    kinds = {mark.kind for bar in ranking.bars for mark in bar.marks}
    assert kinds == {"study", "score", "range"}
    resnet = next(bar for bar in ranking.bars if bar.label == "microsoft/resnet-50")
    assert [mark.value for mark in resnet.marks if mark.kind == "score"] == [0.39]
    small = one(*passing(*as_in_the_study(("text-classification",), size="small")))
    assert not any(bar.marks for bar in rankings(small, [])[0].bars)


def test_a_large_failing_suite_is_told_in_full_up_to_a_number_then_counted() -> None:
    text = parsed(pages.many(400, failing=True))
    assert text.said.count("Can I believe it?") == 25
    assert "Not listed here: 275 regression." in text.said
    assert "400 of 400 measurements fail" in text.said


# --- never green for what is not -----------------------------------------------------------------

PASS = pages.measured("t.py::test_a", "pass", 1.0, 1.0)


@pytest.mark.parametrize(
    ("runs", "tone", "says"),
    [
        (one(PASS), "good", "No measurement fails: 1 measurement"),
        (one(), "warn", "Nothing was measured"),
        (one(exit_status=1), "bad", "Nothing was measured, and the run ended with exit status 1"),
        (one(PASS, incomplete=True, exit_status=None), "bad", "The run did not finish"),
        (one(PASS, exit_status=1), "bad", "the run ended with exit status 1"),
        (one(PASS, unmeasured=pages.mixture().runs[0].unmeasured), "warn", "1 with a baseline was not made"),
        (one(replace(PASS, outcome="failed", functional_outcome="failed")), "bad", "1 test failed by itself"),
        (one(PASS, TestResult("t.py::b", "failed")), "bad", "1 test failed by itself"),
        (one(pages.measured("t.py::a", "new")), "plain", "Nothing was compared: no baseline yet"),
        (one(PASS, pages.measured("t.py::b", "new")), "plain", "No measurement fails; 1 has no baseline yet"),
        (
            one(
                PASS,
                *(pages.measured(f"t.py::{test}", "new") for test in "bc"),
                pages.measured("t.py::d", "pass", 1.0, 1.0, blind=True),
            ),
            "plain",
            "No measurement fails; 1 could not be decided and 2 have no baseline yet",
        ),
        (one(pages.measured("t.py::a", "pass", 1.0, 1.0, blind=True)), "plain", "1 could not be decided"),
        (one(pages.measured("t.py::a", "inconclusive", 1.0, 1.0)), "plain", "1 could not be decided"),
        (one(pages.measured("t.py::a", "regression", 2.0, 1.0, effect="warns")), "warn", "would fail without"),
        (
            one(PASS, suite=SuiteVerdict(9, 9, 0.01, 0.07, "regression", "the suite is up: x", None, "warns")),
            "warn",
            "The suite would fail without --carbon-gate=warn",
        ),
        (
            one(PASS, suite=SuiteVerdict(9, 9, 0.01, 0.07, "regression", "the whole suite is 7% up: x", None, "fails")),
            "bad",
            "The whole suite is 7% up",
        ),
    ],
)
def test_the_title_is_green_only_where_all_was_judged(runs: Runs, tone: str, says: str) -> None:
    text = parsed(runs)
    assert text.of("body")[0]["class"] == f"tone-{tone}"
    assert says in text.said


def test_every_status_has_its_sign() -> None:
    symbols = {attrs.get("id") for attrs in parsed(one()).of("symbol")}
    assert symbols == {f"icon-{status.replace(' ', '-')}" for status in STATUSES}


# --- what it embeds ------------------------------------------------------------------------------


def test_the_data_has_every_row_and_what_it_shows_when_it_is_opened() -> None:
    runs = pages.many(2 * CHUNK + 1)
    main, *details = data_of(parsed(runs))
    assert main["rows"] == 2 * CHUNK + 1
    assert [len(chunk) for chunk in details] == [CHUNK, CHUNK, 1]
    assert len(main["columns"]["energy"]) == main["rows"]
    assert main["columns"]["tolerance"] == {"all": 0.05}
    assert (
        details[0][0]["figures"][0] == ["energy", "1.00 mJ", "1.187 ± 0.007 mJ", "+18.7%"] or details[0][0]["figures"]
    )


def test_history_has_the_accepted_changes_and_the_newest_records() -> None:
    _, first = data_of(parsed(pages.mixture()))
    history = first[0]["history"]
    assert history["energy"] == [0.021, 10, -5, 5, 338, 348, 343, 352, 333]  # thousandths of the first
    assert history["epoch"] == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert len(history["accepted"]) == 1
    assert "history" not in first[1]


def test_figures_that_the_script_shows_are_text_of_python() -> None:
    main, *_ = data_of(parsed(pages.mixture()))
    assert main["columns"]["energy_text"][0] == "65.2 ± 0.4 mJ"
    assert main["columns"]["change_text"][0] == "2.3×"
    assert main["columns"]["work_change_text"][0] == "16× FLOPs"


@pytest.mark.parametrize("energy_j", [1e-9, 1e12, None])
def test_figures_of_any_size_are_shown(energy_j: float | None) -> None:
    text = parsed(one(pages.measured("t.py::a", "error" if energy_j is None else "new", energy_j)))
    main, *_ = data_of(text)
    assert main["columns"]["energy"] == {"all": energy_j and float(f"{energy_j:.5g}")}
    shown = {1e-9: "1.000 ± 0.006 nJ", 1e12: "1000 ± 6 GJ", None: ""}[energy_j]
    assert main["columns"]["energy_text"] == {"all": shown}


def test_what_has_no_error_and_no_emissions_is_unknown_not_0() -> None:
    measurement = Measurement("call", "m", energy_j_per_call=1.0, duration_s_per_call=None)
    main, *_ = data_of(parsed(one(TestResult("t.py::a", "passed", ((measurement, Verdict("new", "x")),)))))
    assert [main["columns"][name] for name in ("error", "time", "co2e", "change")] == [{"all": None}] * 4


# --- what it lets in -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pages.mixture, pages.hostile, pages.study])
def test_no_element_can_ask_for_anything(make: object) -> None:
    text = parsed(make())
    for tag, attrs in text.elements:
        assert tag not in {"img", "link", "iframe", "object", "embed", "form", "base", "audio", "video", "source"}
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "style", "srcdoc", "action")]
        for name in ("href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", page.text(one()), re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_the_policy_allows_the_scripts_of_the_page_by_their_hashes_and_no_others() -> None:
    text = parsed(pages.mixture())
    policy = next(a["content"] for a in text.of("meta") if a.get("http-equiv") == "Content-Security-Policy") or ""
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    runs = [script for script, attrs in zip(text.scripts, text.of("script"), strict=True) if "type" not in attrs]
    assert {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in runs} == allowed
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")


def test_hostile_names_are_text_everywhere() -> None:
    text, plain = parsed(pages.hostile()), parsed(pages.mixture())
    assert {tag for tag, _ in text.elements} <= {tag for tag, _ in plain.elements} | {"h4"}
    assert len(text.scripts) == len(plain.scripts)
    for name in ("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "{{7*7}} {% raw %}"):
        assert name in text.said
    assert "7*7" in text.said
    assert all("alert(1)" not in script for script in text.scripts)


def test_a_name_of_10000_characters_is_shortened_until_its_row_is_opened() -> None:
    raw = page.text(pages.hostile())
    assert "x" * 2000 not in re.sub("<code.*?</code>", "", raw, flags=re.S)
    main, *_ = data_of(Parsed(raw))
    assert any(len(test) > 10_000 for test in main["columns"]["test"])


def test_lone_surrogates_do_not_stop_it() -> None:
    assert page.text(one(pages.measured("t.py::test_\udcff", "regression", 2.0, 1.0))).encode("utf-8")


def test_several_runs_say_which_machine_each_figure_is_of() -> None:
    first = pages.mixture().runs[0]
    other = replace(pages.H100, id="1x-nvidia-a100")
    second = builders.result(pages.measured("t.py::b", "pass", 1.0, 1.0, machine=other), machine=other, session="2")
    text = parsed(Runs((first, second), ("a.json", "b.json")))
    assert "Median change of energy (1x-nvidia-a100)" in text.said
    main, *_ = data_of(text)
    assert "1x-nvidia-a100" in main["words"]


@pytest.mark.parametrize(
    ("machine", "source", "short", "long"),
    [
        ("amd-epyc-2c-cpu-estimated", "estimated: 7 W", "estimated", "estimated from the processor's time"),
        ("1x-nvidia-h100", "replayed: a lab", "replayed", "replayed"),
        ("1x-simulated-h100-gpu", "nvml total energy", "simulated", "simulated"),
    ],
)
def test_energy_that_was_not_measured_is_called_so(machine: str, source: str, short: str, long: str) -> None:
    """In the head, beside its verdict, among the facts, and above its chart."""
    one = replace(pages.H100, id=machine)
    test = pages.measured("t.py::a", "regression", 2.0, 1.0, machine=one)
    (measurement, verdict) = test.measurements[0]
    domains = (DomainEnergy(Domain("gpu:0", "measured", source), 2.0, 1.0, None),)
    test = replace(test, measurements=((replace(measurement, domains=domains), verdict),))
    runs = Runs((builders.result(test, machine=one),), ())
    said = parsed(runs).said
    assert said.index(f"{machine}: energy is {long}, not measured") < said.index("Failures and changes regression")
    assert f"regression ({short}, not measured) t.py" in said
    assert f"energy {long}, not measured" in said
    assert [ranking.title for ranking in rankings(runs, rows(runs))] == [f"Energy per call ({short}, not measured)"]


def test_energy_that_was_measured_is_only_called_energy(mixture: Parsed) -> None:
    assert "not measured)" not in mixture.said
    assert "energy is" not in mixture.said


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jsonfile.write(pages.mixture().runs[0], tmp_path / "r.json")
    assert main(["report", "r.json", "--html", "page.html"]) == 0
    assert "pytest-carbon baseline accept r.json" in Parsed((tmp_path / "page.html").read_text("utf-8")).said
    assert main(["report", "r.json", "--html", "page.html"]) == 0, "a page of ours may be replaced"


def test_shards_are_one_suite_and_what_holds_for_all_is_said_once() -> None:
    shards = [
        builders.result(
            pages.measured(f"t.py::t[{number}]", "pass", 1.0 + number / 100, 1.0),
            machine=pages.H100,
            session=str(number),
            cost_energy_j=100.0,
            incomplete=number == 4,
        )
        for number in range(5)
    ]
    said = parsed(Runs(tuple(shards), tuple(f"shard{number}.json" for number in range(5)))).said
    assert "5 runs 2026-11-22" in said
    assert said.count("Median change of energy +2.0% compared 5 of 5") == 1
    assert "Overhead of measuring 500 J 51.3 mg CO2e, 5 runs took 5 min" in said
    assert said.count("CO2e at 369.5 gCO2e/kWh, PUE 1.0: given") == 1
    assert "shard4.json: the run ended before it had measured and judged everything" in said
    assert "Not all runs finished" in said


def test_without_jinja2_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(UsageProblem, match=r"pip install 'pytest-carbon\[report\]'"):
        page.text(pages.mixture())
