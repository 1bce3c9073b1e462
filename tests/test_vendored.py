"""Libraries of others that are kept here: unchanged, with their licences, and nothing that a page's policy forbids."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from vendored import AXE, LIBRARIES, PAGE, addresses, noted, sha256

from pytest_carbon.reports.html import page

ENTRIES = [(folder, entry) for folder in (PAGE, AXE) for entry in noted(folder)]
each = pytest.mark.parametrize(("folder", "entry"), ENTRIES, ids=[entry["name"] for _, entry in ENTRIES])
LICENCES = {
    "ISC": "Permission to use, copy, modify, and/or distribute",
    "MIT": "Permission is hereby granted, free of charge",
    "MPL-2.0": "Mozilla Public License, version 2.0",
}
FORBIDDEN = re.compile(
    r"\beval\(|\bnew Function\b|[^\w.]Function\(|\bimport\(|document\.write|(?<![\w.])fetch\(|new XMLHttpRequest"
    r"|\bWebSocket\b|\bEventSource\b|\bsendBeacon\b|@import|(?<![\w.])url\((?!#)"
)
UNUSED = {
    "d3.min.js": {"new Function": 1, "fetch(": 4},  # d3.csvParse; d3.csv, d3.json and their like
    "dataTables.min.js": {"new XMLHttpRequest": 1},  # its option "ajax"
}
"""What no page calls: the tests of pages would see it in the browser's console, or among its requests."""
MENTIONED = {"www.w3.org", "d3js.org", "datatables.net"}
"""Hosts in the names of XML's name spaces, in comments and in texts."""


def test_every_file_is_noted() -> None:
    """And each package of the script that fetches them; pages have all of those that are for them."""
    for folder in (PAGE, AXE):
        entries = noted(folder)
        names = [name for entry in entries for name in (*entry["files"], entry["license_file"])]
        kept = [path.name for path in folder.iterdir() if path.suffix not in (".py", ".pyc") and path.is_file()]
        assert sorted(kept) == sorted([*names, "vendor.json"])
        assert [entry["name"] for entry in entries] == [one.package for one in LIBRARIES if one.folder == folder]
    assert {f"vendor/{name}" for entry in noted(PAGE) for name in entry["files"]} == {*page.LIBRARIES}


@each
def test_it_is_what_npm_has(folder: Path, entry: dict[str, Any]) -> None:
    """To renew it: python tests/vendored.py, which takes the files from the archive that npm has checked."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"])
    assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", entry["integrity"])
    for name, digest in entry["files"].items():
        assert sha256((folder / name).read_bytes()) == digest


@each
def test_it_has_its_licence(folder: Path, entry: dict[str, Any]) -> None:
    text = " ".join((folder / entry["license_file"]).read_text("utf-8").split())
    assert (folder == AXE) == (entry["license"] == "MPL-2.0")
    assert LICENCES[entry["license"]] in text


@pytest.mark.parametrize("name", [name for entry in noted(PAGE) for name in entry["files"]])
def test_nothing_in_a_page_runs_text_or_asks_a_server(name: str) -> None:
    """The policy of a page forbids both: what needs them would fail in front of a reader."""
    text = (PAGE / name).read_text("utf-8")
    assert Counter(match[0] for match in FORBIDDEN.finditer(text)) == UNUSED.get(name, {})
    assert addresses(text) <= MENTIONED
    assert "</script" not in text.lower()
