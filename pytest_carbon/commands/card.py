"""``pytest-carbon report REPORT --model-card README.md --model ID``: a model card with what its model takes."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_carbon.commands.console import print_text
from pytest_carbon.host import output
from pytest_carbon.host.stdlib import io, os
from pytest_carbon.records import UsageProblem
from pytest_carbon.reports.card.figures import publication
from pytest_carbon.reports.card.update import updated
from pytest_carbon.reports.merge import Runs
from pytest_carbon.text import count

_MOST_REASONS = 10
_OPTIONS = ("--model", "--training", "--write")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of a model card."""
    parser.add_argument(
        "--model-card",
        metavar="FILE",
        help="print how this card changes with the energy that --model takes; nothing is uploaded",
    )
    parser.add_argument("--model", metavar="ID", help="the model of the card, as the report names it")
    parser.add_argument(
        "--training",
        metavar="TEST",
        help="also write the emissions of all calls of this test as co2_eq_emissions: the hub's key for training",
    )
    parser.add_argument("--write", action="store_true", help="change the card, besides printing how")


def refuse(given: argparse.Namespace, outputs: Mapping[str, str]) -> None:
    """End the command for options that have no effect without others, or that share standard output."""
    if given.model_card is None:
        if alone := [option for option in _OPTIONS if getattr(given, option.lstrip("-"))]:
            given.parser.error(f"{alone[0]} has no effect without --model-card; give the card, such as README.md")
    elif not given.model:
        given.parser.error("--model-card needs --model=ID: the model as the report names it")
    elif printed := [flag for flag, file in outputs.items() if file == "-"]:
        given.parser.error(f"{printed[0]}=-: the changes of --model-card are printed there; give the path of a file")
    else:
        place = os.path.realpath(Path(given.model_card).expanduser())
        for flag, file in outputs.items():
            if os.path.realpath(Path(file).expanduser()) == place:
                raise UsageProblem(f"{flag}={file}: --model-card names the same file; give each one of its own.")


@dataclass(frozen=True, slots=True)
class Change:
    """A card and what becomes of it."""

    name: str
    """As the user gave it."""
    before: bytes
    after: bytes
    refused: tuple[str, ...]
    """What the report has of the model and is not published, with the reasons."""

    @property
    def diff(self) -> str:
        """Return a unified diff, empty if nothing changes."""
        before, after = (text.decode() for text in (self.before, self.after))
        lines = difflib.unified_diff(_lines(before), _lines(after), self.name, self.name)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def change(runs: Runs, given: argparse.Namespace) -> Change:
    """Make the card's new text. Raises :class:`UsageProblem` for what cannot be published, or a card's fault."""
    path = Path(given.model_card).expanduser()
    before = _read(path)
    chosen = publication(runs, given.model, given.training)
    try:
        text = before.decode()
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{path}: byte {error.start + 1} is not UTF-8; save the card as UTF-8.") from None
    if given.write and not output.may_write(path):
        raise UsageProblem(f"--model-card={path}: this user may not write to it; change its permissions.")
    return Change(given.model_card, before, updated(str(path), text, chosen).encode(), chosen.refused)


def apply(change: Change, *, write: bool) -> None:
    """Print how the card changes, and change it if ``write``. Raises :class:`UsageProblem` if that fails."""
    for reason in change.refused[:_MOST_REASONS]:
        print(f"pytest-carbon: not published: {reason}", file=sys.stderr)
    if (more := len(change.refused) - _MOST_REASONS) > 0:
        print(f"pytest-carbon: {count(more)} more are not published", file=sys.stderr)
    if change.before == change.after:
        print(f"pytest-carbon: {change.name} has these figures already", file=sys.stderr)
        return
    if write:
        path = Path(change.name).expanduser()
        try:
            output.replace_files([(Path(os.path.realpath(path)), change.after)])
        except OSError as error:
            helps = output.remedy(error, "Change the permissions of its folder")
            raise UsageProblem(f"cannot write {path}: {error.strerror or error}. {helps}.") from None
    print_text(change.diff, "Print into a file: … > card.diff")
    if write:
        print(f"pytest-carbon: changed {change.name}", file=sys.stderr)


def _lines(text: str) -> list[str]:
    """Split at line feeds only, as diff and patch do."""
    *whole, last = text.split("\n")
    return [*(f"{line}\n" for line in whole), *([last] if last else [])]


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise UsageProblem(
                f"--model-card={path}: this is not a file; give the path of a model card, such as README.md."
            )
        with io.open(path, "rb") as file:
            content: bytes = file.read()
    except OSError as error:
        raise UsageProblem(
            f"--model-card={path}: cannot be read ({error.strerror}); give the path of an existing model card."
        ) from None
    return content
