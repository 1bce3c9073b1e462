"""The words that a person reads: those of docs/glossary.md, and none of those that they replaced."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLD = {
    "warning": r"\bdoubt(s|ed|ful)?\b",
    "machine": r"(?<!asyncio )(?<!virtual )\benvironments?\b(?! variable)(?!s? markers?)",
    "recording": r"\bbatch(es)? (?=on other days|of sessions|\(\d+ session)",
    "since the last accepted change": r"\bepochs?\b",
    "smallest detectable change": r"\bdetects\b|\bgate sees\b|\bpairs see\b|\bsees? changes\b",
    "overhead": r"\bmeasuring cost\b",
    "a usual sentence": r"\bso (many|long)\b|\b(is|are) told\b",
}
"""What to write, and what not."""
ALLOWED = re.compile(
    r"unlike an environment|`epoch`|\"epoch\"|epoch (=|IN|TEXT)|virtual environments?|environment variables?"
)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """What a file shows: a page its paragraphs, a module its strings, but neither docstrings nor comments."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        prose = re.sub(r"```.*?```|`[^`]*`", "", source, flags=re.DOTALL)
        yield from ((0, " ".join(paragraph.split())) for paragraph in prose.split("\n\n"))
        return
    tree = ast.parse(source)
    silent = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value


def old_words(path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {found[0]!r} in {text[:80]!r}: write {new!r}"
        for line, text in texts(path)
        for new, old in OLD.items()
        if " " in text and (found := re.search(old, ALLOWED.sub("", text), re.IGNORECASE))
    ]


def files() -> list[Path]:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return sorted([*pages, *(ROOT / "pytest_carbon").rglob("*.py")])


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in files()])
def test_a_file_has_none_of_the_old_words(path: Path) -> None:
    """In what a user reads. "Environment" stays for variables and virtual environments, "batch" for a model's."""
    assert old_words(path) == []
