"""The browser of the tests sees what is wrong with a page: a test that finds nothing there means something."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from browser import REMEDY, Browser

GOOD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Good</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  :root { color-scheme: light dark; } body { background: white; color: black; }
  @media (prefers-color-scheme: dark) { body { background: black; color: white; } }
  @media print { p::after { content: " (on paper)"; } }
</style></head>
<body><main><h1>Good</h1><p>Nothing is wrong <a id="here" href="#here">here</a>.</p>
<script>document.querySelector("p").insertAdjacentText("beforeend", " Scripts run.");</script>
</main></body></html>
"""
BAD = """<!doctype html>
<html><head><title></title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'"></head>
<body><img src="missing.png"><button></button>
<script src="https://example.org/x.js"></script>
<script>setTimeout(() => { throw new Error("it broke"); });</script>
<script>try { eval("1"); } catch (error) { console.error("no eval"); }</script>
<link rel="stylesheet" href="./style.css">
</body></html>
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "good.html").write_text(GOOD)
    return tmp_path / "good.html"


def test_a_page_without_faults(browser: Browser, good: Path) -> None:
    browser.open(good)
    assert browser.text("p") == "Nothing is wrong here. Scripts run."
    assert (browser.errors, browser.requests, browser.axe()) == ([], [], [])


def test_what_is_wrong_with_a_page(browser: Browser, good: Path, tmp_path: Path) -> None:
    """What it asks for, also in vain, what fails in it, and what a reader cannot use; of this page, not of the last."""
    bad = tmp_path / "bad.html"
    bad.write_text(BAD.replace("default-src 'none'", "default-src *"))
    browser.open(bad)
    assert {"https://example.org/x.js", (tmp_path / "missing.png").as_uri()} <= set(browser.requests)
    bad.write_text(BAD)
    browser.open(bad)
    errors = "\n".join(browser.errors)
    assert "it broke" in errors
    assert "no eval" in errors
    assert errors.count("Content Security Policy") >= 3
    findings = [finding.partition(" ")[0] for finding in browser.axe()]
    assert {"image-alt", "button-name", "document-title", "html-has-lang"} <= set(findings)
    browser.open(good)
    assert (browser.errors, browser.requests) == ([], [])


def test_who_looks_at_it(browser: Browser, good: Path, tmp_path: Path) -> None:
    """Dark, narrow, on paper, without scripts; the next test gets it as it was."""
    color = "return getComputedStyle(document.body).backgroundColor"
    browser.media("dark")
    browser.viewport(360, 640)
    browser.open(good, "here")
    assert browser.js(color) == "rgb(0, 0, 0)"
    assert browser.js("return innerWidth") == 360
    assert browser.js("return location.hash") == "#here"
    image = browser.screenshot(tmp_path / "narrow.png").read_bytes()
    assert (image[:4], struct.unpack(">II", image[16:24])) == (b"\x89PNG", (360, 640))
    browser.media(medium="print")
    assert browser.js("return getComputedStyle(document.querySelector('p'), '::after').content") == '" (on paper)"'
    assert browser.pdf(tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
    browser.scripts(False)
    browser.open(good)
    assert browser.text("p").startswith("Nothing is wrong here.")
    assert "Scripts run" not in browser.text("p")
    browser.reset()
    browser.open(good)
    assert browser.js(color) == "rgb(255, 255, 255)"
    assert browser.text("p") == "Nothing is wrong here. Scripts run."


@pytest.mark.slow
def test_without_a_browser_its_tests_fail(pytester: pytest.Pytester) -> None:
    """And say what to install. They are slow, so that the README's command does without one."""
    helpers = Path(__file__).parent
    pytester.makeini("[pytest]\nmarkers = slow")
    pytester.makeconftest((helpers / "conftest.py").read_text("utf-8"))
    pytester.makepyfile("def test_page(browser): pass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        patch.setenv("PYTHONPATH", f"{helpers}:{helpers.parent}")
        command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider", str(pytester.path)]
        failed = subprocess.run(command, capture_output=True, text=True, check=False)
        unseen = subprocess.run([*command, "-m", "not slow"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert f"the tests of pages need chromium and chromedriver: {REMEDY}" in failed.stdout
    assert "1 deselected" in unseen.stdout
