"""A real headless Chromium for the tests of pages: what a page requests and complains of, how it looks and is read."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

REMEDY = "apt-get install chromium chromium-driver"
AXE = Path(__file__).parent / "axe" / "axe.min.js"
_WIDTH, _HEIGHT = 1280, 900
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_OWN = ("data:", "about:")
"""Addresses that ask nobody for anything."""
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # as root, in a container
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


def why_not() -> str | None:
    """Why no browser can be started, and what to do; None if one can."""
    try:
        import selenium  # noqa: F401
    except ImportError as error:
        return f"the tests of pages need selenium ({error}): pip install -e '.[test]'"
    missing = [names[0] for names in (_BROWSERS, ("chromedriver",)) if _found(*names) is None]
    return f"the tests of pages need {' and '.join(missing)}: {REMEDY}" if missing else None


def _found(*names: str) -> str | None:
    """The first of these programs that is installed."""
    return next(filter(None, map(shutil.which, names)), None)


def version() -> str:
    """What the browser calls itself, with its version."""
    command = [_found(*_BROWSERS) or "chromium", "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def chromium() -> Iterator[Any]:
    """Selenium's driver of a browser of its own, which notes all that pages request and print."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = _found(*_BROWSERS) or ""
    for flag in (*_FLAGS, f"--window-size={_WIDTH},{_HEIGHT}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, ChromeService(_found("chromedriver")))
    try:
        driver.set_page_load_timeout(60)
        driver.set_script_timeout(60)
        yield driver
    finally:
        driver.quit()


class Browser:
    """One page at a time. ``driver`` is selenium's: it finds elements, clicks and types."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self._console: list[dict[str, Any]] = []
        self._requests: list[str] = []

    def reset(self) -> None:
        """Forget what an earlier test has set."""
        self.driver.get("about:blank")
        self.viewport(_WIDTH, _HEIGHT)
        self.media()
        self.scripts(True)
        self._forget()

    # --- what it shows -------------------------------------------------------------------------------

    def open(self, page: Path | str, fragment: str = "") -> None:
        """Open a file or an address, and wait until it is loaded. Forget what an earlier page did."""
        address = page.absolute().as_uri() if isinstance(page, Path) else page
        if self.driver.current_url.partition("#")[0] == address:
            self.driver.get("about:blank")  # another fragment of the same page does not load it
        self._forget()
        self.driver.get(f"{address}#{fragment}" if fragment else address)

    def js(self, script: str, *args: Any) -> Any:
        """Run the body of a function in the page, and return what it returns; also where scripts are off."""
        return self.driver.execute_script(script, *args)

    def js_async(self, script: str, *args: Any) -> Any:
        """The same, where the script passes its result to its last argument; not where scripts are off."""
        return self.driver.execute_async_script(script, *args)

    def one(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def text(self, css: str = "body") -> str:
        """The visible text of an element, each stretch of white space as one blank."""
        return " ".join(self.one(css).text.split())

    # --- what it did ---------------------------------------------------------------------------------

    @property
    def errors(self) -> list[str]:
        """What is in the console as an error since the page was opened: exceptions, what its policy forbids."""
        self._listen()
        return [entry["message"] for entry in self._console if entry["level"] == "SEVERE"]

    @property
    def console(self) -> list[str]:
        """All that is in the console, each with its level."""
        self._listen()
        return [f"{entry['level']}: {entry['message']}" for entry in self._console]

    @property
    def requests(self) -> list[str]:
        """Each address that the page wanted, but its own and those that carry their data themselves."""
        self._listen()
        own = self.driver.current_url.partition("#")[0]
        return [url for url in self._requests if url.partition("#")[0] != own and not url.startswith(_OWN)]

    def _listen(self) -> None:
        """Take what the driver has noted: it tells everything once."""
        self._console += self.driver.get_log("browser")
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"]["url"])

    def _forget(self) -> None:
        self._listen()
        self._console.clear()
        self._requests.clear()

    # --- who looks at it -----------------------------------------------------------------------------

    def cdp(self, command: str, **parameters: Any) -> Any:
        """Send a command of the Chrome DevTools Protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def viewport(self, width: int, height: int = _HEIGHT) -> None:
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def media(self, scheme: str = "light", *, medium: str = "", motion: str = "no-preference") -> None:
        """``media("dark")``; ``media(medium="print")``; ``media(motion="reduce")``."""
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        self.cdp(
            "Emulation.setEmulatedMedia", media=medium, features=[{"name": n, "value": v} for n, v in features.items()]
        )

    def scripts(self, on: bool) -> None:
        """Whether the scripts of pages that are opened from now on run."""
        self.cdp("Emulation.setScriptExecutionDisabled", value=not on)

    def screenshot(self, file: Path, *, whole: bool = False) -> Path:
        """Write a PNG of what is in view, or of the whole page."""
        image = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(image["data"]))
        return file

    def pdf(self, file: Path) -> Path:
        """Print it, on A4."""
        printed = self.cdp("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)
        file.write_bytes(base64.b64decode(printed["data"]))
        return file

    def axe(self, within: str = "", impacts: Sequence[str] = ("serious", "critical")) -> list[str]:
        """What axe-core finds, each with its rule and the first elements that break it."""
        self.scripts(True)  # its own; those of a page that was opened without them stay out
        self.js(_axe())
        result = self.js_async(
            "const done = arguments[1];"
            "axe.run(arguments[0] || document, {preload: false, resultTypes: ['violations'], elementRef: false})"
            ".then(r => done({violations: r.violations}), e => done({error: String(e)}));",
            within,
        )
        if "error" in result:
            raise AssertionError(f"axe-core could not look at the page: {result['error']}")
        return [
            f"{found['id']} ({found['impact']}): {found['help']}: "
            + ", ".join(str(node["target"][0]) for node in found["nodes"][:5])
            for found in result["violations"]
            if found["impact"] in impacts
        ]


@cache
def _axe() -> str:
    return AXE.read_text("utf-8")
