"""The page of HTML in a real Chromium: found, sorted, opened, read aloud, printed, and with names that attack it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import builders
import pages
import pytest
from browser import Browser
from selenium.webdriver.common.keys import Keys

from pytest_carbon.records import TestResult
from pytest_carbon.reports.html import text
from pytest_carbon.reports.merge import Runs

pytestmark = pytest.mark.slow
GENERATE = "tests/test_text.py::test_generate[gpt2]"
Open = Callable[..., Browser]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], Runs]], Path]:
    """Each kind of page, written once."""
    folder, written = tmp_path_factory.mktemp("pages"), {}

    def write(make: Callable[[], Runs]) -> Path:
        name = f"{make.__module__}.{make.__qualname__}"
        if name not in written:
            written[name] = folder / f"{len(written)}.html"
            written[name].write_text(text(make()), encoding="utf-8")
        return written[name]

    return write


@pytest.fixture
def opened(browser: Browser, files: Callable[[Callable[[], Runs]], Path]) -> Open:
    """Open a page, and wait until its scripts have started."""

    def show(make: Callable[[], Runs] = pages.mixture, fragment: str = "") -> Browser:
        browser.open(files(make), fragment)
        until(lambda: browser.js("return document.documentElement.dataset.ready !== undefined"))
        return browser

    return show


def until(holds: Callable[[], Any]) -> Any:
    """Wait for what scripts do in their own time."""
    end = monotonic() + 20
    while not (result := holds()):
        assert monotonic() < end, "it did not happen within 20 s"
        sleep(0.02)
    return result


def shown(browser: Browser) -> list[str]:
    """The measurements in the table, in its order."""
    script = "return [...document.querySelectorAll('#rows tr[data-row] .function')].map(e => e.textContent)"
    return list(browser.js(script))


def click(browser: Browser, css: str) -> None:
    browser.js("document.querySelector(arguments[0]).click()", css)


def expanded(browser: Browser) -> list[str]:
    script = "return [...document.querySelectorAll('.open[aria-expanded=true] .function')].map(e => e.textContent)"
    return list(browser.js(script))


def all_seen(browser: Browser) -> None:
    """Scroll to each chart: it is drawn when it comes into sight."""
    for chart in browser.all(".chart"):
        if chart.is_displayed():
            browser.js("arguments[0].scrollIntoView()", chart)
            until(lambda chart=chart: browser.js("return arguments[0].querySelector('svg') !== null", chart))
    assert browser.all(".chart svg")


@pytest.mark.parametrize(
    "make", [pages.mixture, pages.study, pages.hostile, pages.nothing, pages.two_machines, pages.counted_only]
)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_asks_for_nothing_complains_of_nothing_and_can_be_read_aloud(
    opened: Open, browser: Browser, files: Any, make: Callable[[], Runs], scheme: str
) -> None:
    """With every kind of content opened; axe-core finds nothing serious."""
    browser.media(scheme)
    if make is pages.nothing:
        browser.open(files(make))
    else:
        opened(make)
        all_seen(browser)
        browser.js("document.querySelectorAll('.open').forEach((b, i) => i < 6 && b.click())")
        until(lambda: browser.js("return document.querySelectorAll('tr.detail .why').length") >= 1)
    assert browser.axe() == []
    assert (browser.errors, browser.requests) == ([], [])


def test_hostile_names_run_nothing(opened: Open) -> None:
    browser = opened(pages.hostile)
    browser.js("window.alert = () => { window.attacked = true }")
    browser.js("document.querySelectorAll('.open').forEach(b => b.click())")
    until(lambda: browser.js("return document.querySelectorAll('tr.detail .why').length") >= 10)
    all_seen(browser)
    assert browser.js("return window.attacked") is None
    assert browser.js("return document.querySelectorAll('img, iframe, body script script').length") == 0
    assert "<img src=x onerror=alert(1)>" in browser.text("#rows")


# --- the table -----------------------------------------------------------------------------------


def test_the_gravest_stand_first_and_a_click_sorts_by_a_column(opened: Open) -> None:
    browser = opened()
    assert shown(browser)[0] == "test_whisper"
    click(browser, "#rows th.energy")
    assert shown(browser)[:2] == ["test_layer[23-bf16]", "test_layer[22-fp32]"]
    assert sorted_by(browser) == ("energy", "descending")
    assert set(shown(browser)[-3:]) == {"test_whisper", "test_counted_only[llama]", "test_counted_same"}
    click(browser, "#rows th.energy")
    assert shown(browser)[0] == "test_layer[0-fp32]"
    assert set(shown(browser)[-3:]) == {"test_whisper", "test_counted_only[llama]", "test_counted_same"}


def sorted_by(browser: Browser) -> tuple[str, str]:
    """The column that the table is sorted by, as a screen reader has it, and how."""
    (head,) = browser.all("#rows th[aria-sort]")
    return head.get_attribute("class").split()[0], head.get_attribute("aria-sort")


def test_a_column_is_sorted_with_the_keyboard(opened: Open) -> None:
    browser = opened()
    browser.js("document.querySelector('th.test [tabindex]').focus()")
    assert browser.js("return getComputedStyle(document.querySelector('th.test')).outlineStyle") == "solid"
    for key, direction in ((Keys.SPACE, "ascending"), (Keys.ENTER, "descending"), (Keys.SPACE, "ascending")):
        browser.driver.switch_to.active_element.send_keys(key)
        assert sorted_by(browser) == ("test", direction)


@pytest.mark.parametrize("words", ["onerror=alert(1)>", "</script>", "{{7*7}}", "]]> @everyone"])
def test_a_search_for_markup_finds_it(opened: Open, words: str) -> None:
    browser = opened(pages.hostile)
    browser.one(".dt-search input").send_keys(words)
    until(lambda: browser.text(".dt-info").endswith(" of 16 measurements"))
    assert not browser.text(".dt-info").startswith("0")
    assert (browser.errors, browser.requests) == ([], [])


def test_filters_by_status_and_search_leave_what_they_name_and_say_how_many(opened: Open) -> None:
    browser = opened()
    click(browser, "[data-status=regression]")
    assert sorted(shown(browser)) == ["test_classify[vit-base]", "test_counted_only[llama]", "test_generate[gpt2]"]
    click(browser, "[data-status=blind]")
    assert browser.text(".dt-info") == "4 of 36 measurements"
    browser.one(".dt-search input").send_keys("TEXT.py gpt2")
    until(lambda: shown(browser) == ["test_generate[gpt2]"])
    assert browser.text(".dt-info") == "1 of 36 measurements"
    assert browser.one(".dt-info").get_attribute("aria-live") == "polite"


def test_10000_are_shown_a_page_at_a_time(opened: Open) -> None:
    browser = opened(thousands)
    assert browser.text(".dt-info") == "1,000 measurements, page 1 of 10"
    assert len(shown(browser)) == 100
    first = shown(browser)
    browser.js("[...document.querySelectorAll('.dt-paging button')].find(b => b.textContent === 'Next').click()")
    assert browser.text(".dt-info").endswith("page 2 of 10")
    assert not set(first) & set(shown(browser))


def thousands() -> Runs:
    return pages.many(1000)


# --- an opened row -------------------------------------------------------------------------------


def test_an_opened_row_shows_why_whether_to_believe_it_what_to_do_and_its_charts(opened: Open) -> None:
    browser = opened(fragment="tests/test_text.py::test_generate%5Bgpt2%5D")
    until(lambda: browser.js("return document.querySelectorAll('tr.detail .chart svg').length") == 2)
    said = browser.text("tr.detail")
    assert "each call takes 2.1× the time" in said
    assert "smallest detectable change 6.1%, tolerance 5%" in said
    assert "it started 18 °C warmer than its baseline" in said
    assert "torch 2.12.1 → 2.13.0" in said
    assert "pytest-carbon baseline accept carbon.json" in said
    assert "transformer.h.*.mlp 15.8× FLOPs, 512 tokens a call instead of 1" in said
    labels = browser.js("return [...document.querySelectorAll('tr.detail svg[role=img]')].map(s => s.ariaLabel)")
    assert labels[0].startswith("History: 9 records from 2026-10-01 to 2026-10-09, 20.9 mJ to 28.4 mJ per call")
    assert "a change was accepted on 2026-10-05" in labels[0]
    assert labels[1] == "Time against power: now 9.3 ms at 7.01 W; baseline 4.26 ms at 6.61 W."
    assert "accepted" in browser.js("return document.querySelector('tr.detail svg').textContent")


def test_what_was_counted_without_a_gpu_has_its_charts(opened: Open) -> None:
    browser = opened(pages.counted_only)
    all_seen(browser)
    assert "Largest change of what was counted per call from the baseline" in browser.text("#changes")
    labels = browser.js("return [...document.querySelectorAll('svg[role=img]')].map(s => s.ariaLabel)")
    assert labels[0] == "Changes of 4 measurements. test_regression[10]: 16× FLOPs, regression."
    assert labels[1].startswith("Work per call (counted, not energy measured): 5 figures, from 3.70 GFLOP")
    assert "16× FLOPs" in browser.text("#rows")


def test_what_nobody_opens_is_not_drawn(opened: Open) -> None:
    browser = opened(thousands)
    assert browser.js("return document.querySelectorAll('tr.detail').length") == 0
    assert browser.js("return document.querySelectorAll('.ranking .chart svg').length") == 0


def test_a_command_is_copied_or_selected(opened: Open) -> None:
    browser = opened()
    click(browser, ".command .copy")
    until(lambda: browser.text(".command .copy") != "Copy")
    assert browser.errors == []


@pytest.mark.parametrize("encoded", [True, False])
def test_an_address_opens_its_row_also_after_a_filter(opened: Open, encoded: bool) -> None:
    browser = opened()
    click(browser, "[data-status=pass]")
    browser.one(".dt-search input").send_keys("layer")
    until(lambda: len(shown(browser)) == 24)
    browser.js("location.hash = arguments[0]", "tests/test_text.py::test_generate%5Bgpt2%5D" if encoded else GENERATE)
    until(lambda: expanded(browser) == ["test_generate[gpt2]"])
    assert browser.js("return document.activeElement.querySelector('.function').textContent") == "test_generate[gpt2]"
    assert browser.one(".dt-search input").get_attribute("value") == ""


def test_an_address_opens_a_row_of_another_page_of_the_table(opened: Open) -> None:
    last = pages.many(1000).runs[0].tests[-1].nodeid
    browser = opened(thousands, last)
    until(lambda: expanded(browser) == [last.partition("::")[2]])


def test_an_address_opens_all_of_a_test_with_several_names_or_machines(opened: Open) -> None:
    test = "tests/test_both.py::test_it"
    browser = opened(pages.two_machines, test)
    until(lambda: len(expanded(browser)) == 4)
    browser = opened(pages.two_machines, f"{test} · decode @ 1x-nvidia-a100")
    until(lambda: expanded(browser) == ["test_it · decode"])
    browser = opened(pages.two_machines)
    assert "test_it · decode on 1x-nvidia-h100-80gb-hbm3-700w-gpu" in browser.text(".card")
    click(browser, ".card:last-child a.name")
    until(lambda: expanded(browser) == ["test_it · decode"])
    assert "1x-nvidia-a100" in browser.text("tr.detail .where")


def test_a_link_in_a_card_opens_the_row_again(opened: Open) -> None:
    browser = opened()
    for _ in range(2):
        click(browser, ".card a.name")
        until(lambda: expanded(browser) == ["test_generate[gpt2]"])
        click(browser, ".open[aria-expanded=true]")
        until(lambda: expanded(browser) == [])


def test_rows_open_with_the_keyboard_and_the_focus_is_seen(opened: Open) -> None:
    browser = opened()
    browser.js("document.querySelector('.open').focus()")
    focused = browser.driver.switch_to.active_element
    focused.send_keys(Keys.ENTER)
    until(lambda: expanded(browser) == ["test_whisper"])
    assert browser.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    detail = focused.get_attribute("aria-controls")
    assert browser.js("return document.getElementById(arguments[0]) !== null", detail)
    focused.send_keys(Keys.SPACE)
    until(lambda: expanded(browser) == [])


# --- everywhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pages.mixture, pages.study, pages.hostile])
def test_it_is_no_wider_than_a_telephone(opened: Open, browser: Browser, make: Callable[[], Runs]) -> None:
    browser.viewport(360, 740)
    opened(make)
    browser.js("document.querySelectorAll('.open').forEach((b, i) => i < 4 && b.click())")
    all_seen(browser)
    assert browser.js("return document.documentElement.scrollWidth") <= 360


def test_the_button_changes_the_colours(opened: Open, browser: Browser) -> None:
    opened()
    colours = []
    for _ in range(3):
        colours.append(browser.js("return getComputedStyle(document.body).backgroundColor"))
        click(browser, "#theme")
    assert colours[0] == colours[1] != colours[2]
    assert browser.text("#theme") == "Theme: auto"


def test_without_javascript_it_shows_what_fails_why_and_the_commands(browser: Browser, files: Any) -> None:
    browser.scripts(False)
    browser.open(files(pages.mixture))
    said = browser.text()
    assert "5 of 36 measurements fail" in said
    assert "Each call takes" not in said
    assert "2.3× the energy, 28.2 → 65.2 mJ" in said
    assert "pytest-carbon baseline accept carbon.json" in said
    assert "Not listed here: 1 new, 26 pass." in said
    assert not browser.one("#all").is_displayed()


def test_an_old_browser_gets_what_there_is_without_javascript(browser: Browser, files: Any) -> None:
    script = {"source": "delete window.DecompressionStream"}
    added = browser.cdp("Page.addScriptToEvaluateOnNewDocument", **script)["identifier"]
    try:
        browser.open(files(pages.mixture))
        until(lambda: "This browser cannot show the table and the charts" in browser.text())
        assert not browser.one("#all").is_displayed()
    finally:
        browser.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=added)


def test_print_shows_all_that_fails_without_buttons(opened: Open, browser: Browser, tmp_path: Path) -> None:
    opened()
    browser.media("dark", medium="print")
    assert browser.js("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not browser.one(".copy").is_displayed()
    assert browser.pdf(tmp_path / "page.pdf").stat().st_size > 20_000


def test_figures_of_any_size_are_drawn(opened: Open) -> None:
    browser = opened(extremes)
    all_seen(browser)
    browser.js("document.querySelectorAll('.open').forEach(b => b.click())")
    until(lambda: browser.js("return document.querySelectorAll('tr.detail .why').length") == 6)
    until(lambda: browser.js("return document.querySelectorAll('tr.detail .chart svg').length") >= 6)
    assert browser.errors == []
    assert "NaN" not in browser.js("return document.getElementById('main').innerHTML")


def extremes() -> Runs:
    tests: list[TestResult] = [
        pages.measured("t.py::tiny", "regression", 1e-9, 1e-10),
        pages.measured("t.py::huge", "regression", 1e12, 1e-9),
        pages.measured("t.py::gone", "improvement", 1e-12, 1e12),
        pages.measured("t.py::null", "error", None),
        pages.measured("t.py::new", "new", 1.0),
        pages.measured("t.py::same", "pass", 1.0, 1.0),
    ]
    run = builders.result(*tests, machine=pages.H100, exit_status=1)
    records = {(test, "call"): pages.history(test, [1.0]) for test in ("t.py::null", "t.py::same", "t.py::huge")}
    return Runs((run,), ("r.json",), {pages.H100.id: records})
