"""Files of npm packages that are kept in this repository: fetch them again, or compare them with what is noted.

    python tests/vendored.py          # fetch every package anew, as its newest version of LIBRARIES (needs npm)

Each folder has a ``vendor.json``: of each package its version, licence, npm's own digest of the archive, and the
SHA-256 of each file that was taken from it, unchanged.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_carbon

PAGE = Path(pytest_carbon.__file__).parent / "reports" / "html" / "vendor"
"""In every page, and in the wheel."""
AXE = Path(__file__).parent / "axe"
"""For tests only: not in the wheel."""


@dataclass(frozen=True)
class Library:
    folder: Path
    package: str
    version: str
    """What npm understands: ``3``, ``^1.2``."""
    files: tuple[str, ...]
    licences: tuple[str, ...]
    """The files with its text, and with those of what it is made of."""

    @property
    def licence_name(self) -> str:
        return f"{self.package.rpartition('/')[2]}.LICENSE"


LIBRARIES = (
    Library(PAGE, "d3", "7", ("dist/d3.min.js",), ("LICENSE",)),
    Library(PAGE, "@observablehq/plot", "0.6", ("dist/plot.umd.min.js",), ("LICENSE",)),
    Library(PAGE, "datatables.net", "3", ("js/dataTables.min.js",), ("License.txt",)),
    Library(AXE, "axe-core", "4", ("axe.min.js",), ("LICENSE", "LICENSE-3RD-PARTY.txt")),
)


def noted(folder: Path) -> list[dict[str, Any]]:
    """The entries of a folder's vendor.json."""
    return list(json.loads((folder / "vendor.json").read_text("utf-8")))


def sha256(content: bytes) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}"


def addresses(text: str) -> set[str]:
    """The hosts of all addresses in a file."""
    return set(re.findall(r"\b(?:https?|wss?)://([\w.-]+)", text))


def fetch(library: Library) -> dict[str, Any]:
    """Take the files out of the package's archive, whose digest npm has checked; return its entry."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--json", f"{library.package}@{library.version}"]
        ran = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        packed = json.loads(ran.stdout)[0]
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:

            def content(name: str) -> bytes:
                file = archive.extractfile(f"package/{name}")
                assert file is not None, f"{name} in {packed['id']} is no file"
                return file.read()

            about = json.loads(content("package.json"))
            texts = {Path(name).name: content(name) for name in library.files}
            licence = b"\n".join(content(name) for name in library.licences)
    library.folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**texts, library.licence_name: licence}.items():
        (library.folder / name).write_bytes(text)
    return {
        "name": library.package,
        "version": packed["version"],
        "license": about["license"],
        "integrity": packed["integrity"],
        "files": {name: sha256(text) for name, text in texts.items()},
        "license_file": library.licence_name,
    }


def main() -> None:
    for folder in dict.fromkeys(library.folder for library in LIBRARIES):
        entries = [fetch(library) for library in LIBRARIES if library.folder == folder]
        for entry in entries:
            print(f"{entry['name']} {entry['version']} ({entry['license']})")
        (folder / "vendor.json").write_text(json.dumps(entries, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
