"""The section of a model card that people read: what a call takes, on what hardware and grid, and how it is known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_carbon.records import CarbonIntensity, UsageProblem
from pytest_carbon.reports.card.entries import plain
from pytest_carbon.reports.card.figures import Figure, Publication, Training
from pytest_carbon.reports.card.metadata import Card
from pytest_carbon.tasks.figures import JOULES_PER_WH
from pytest_carbon.text import UNKNOWN, count, counted, known, listing, quantity

BEGIN = "<!-- pytest-carbon:begin -->"
END = "<!-- pytest-carbon:end -->"
_TITLES = (
    "task",
    "data",
    "hardware",
    "dtype",
    "batch size",
    "energy of 1,000 calls",
    "CO2e of 1,000 calls",
    "CO2e of 1 million tokens",
    "calls",
    "the energy is",
)
_SPECIAL = re.compile(r"[\\`*\[\]{}<>#|!~$&@^=]|:(?=//)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE)
"""What Markdown, HTML or a website could take for more than text."""


def with_section(card: Card, section: str) -> Card:
    """Replace our section of a card, or add it at the end. Raises :class:`UsageProblem` if it is not clear which."""
    begins, ends = _lines(card.rest, BEGIN), _lines(card.rest, END)
    text = section.replace("\n", card.newline)
    if not begins and not ends:
        return Card(card.name, card.head, card.yaml, card.rest + _gap(card) + text + card.newline, card.newline)
    if len(begins) != 1 or len(ends) != 1 or begins[0][0] > ends[0][0]:
        before = 1 + len(re.findall(r"\r\n|\r|\n", card.head + card.yaml))
        marks = [(begins, BEGIN), (ends, END)]
        where = [f"{mark} in line {before + line}" for spans, mark in marks for line, _, _ in spans]
        raise UsageProblem(
            f"{card.name} has {listing(where, 10)}: keep one section, between one line {BEGIN} and one line {END} after"
            " it, or delete all of them."
        )
    (_, start, _), (_, _, end) = begins[0], ends[0]
    return Card(card.name, card.head, card.yaml, card.rest[:start] + text + card.rest[end:], card.newline)


def _lines(text: str, mark: str) -> list[tuple[int, int, int]]:
    """Find the lines that are a mark: their number, and where they begin and end."""
    lines = re.finditer(r"([^\r\n]*)(?:\r\n|\r|\n|\Z)", text)
    return [(number, line.start(1), line.end(1)) for number, line in enumerate(lines) if line[1].strip(" \t") == mark]


def _gap(card: Card) -> str:
    """Return the line ends between the text and a section after it."""
    text = card.rest
    if not text or text.endswith(2 * card.newline):
        return ""
    return card.newline if text.endswith(("\r", "\n")) else 2 * card.newline


# --- its text ----------------------------------------------------------------------------------------


def section(publication: Publication) -> str:
    """Write the section, between its marks."""
    rows = [_row(figure) for figure in publication.figures]
    table = [_cells(_TITLES), _cells(["---"] * len(_TITLES)), *map(_cells, rows)]
    notes = [f"- {note}" for note in _notes(publication)]
    return "\n".join([BEGIN, "## Energy of inference", "", *table, "", *notes, END])


def _cells(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _row(figure: Figure) -> list[str]:
    task, emissions_g = figure.task, figure.emissions_g
    energy_wh = 1000 * figure.energy_j / JOULES_PER_WH
    error_g = None if figure.error is None or emissions_g is None else 1000 * emissions_g * figure.error
    return [
        escaped(task.name),
        escaped(figure.data),
        escaped(figure.hardware),
        escaped(task.dtype or UNKNOWN),
        count(task.batch_size),
        str(quantity(energy_wh, "Wh", None if figure.error is None else energy_wh * figure.error)),
        str(known(None if emissions_g is None else 1000 * emissions_g, "g", error_g)),
        _of_tokens(figure),
        UNKNOWN if figure.calls is None else count(figure.calls),
        f"{figure.origin} ({escaped(figure.source)})",
    ]


def _of_tokens(figure: Figure) -> str:
    grams = figure.emissions_g_per_million_tokens
    if grams is None:
        return UNKNOWN
    return f"{quantity(grams, 'g', None if figure.error is None else grams * figure.error)} ({figure.tokens})"


def _notes(publication: Publication) -> Iterator[str]:
    figures = publication.figures
    yield f"A call is one batch. {UNKNOWN} means unknown."
    origins = {figure.origin for figure in figures}
    if origins - {"predicted"}:
        yield "± is half of the 95% interval."
    if "estimated" in origins:
        yield "Estimated is not measured: the processor's time × its power by a table."
    if "predicted" in origins:
        yield "Predicted is not measured: ± is how far such predictions are off in the mean."
    if any(figure.task.weights in ("random", "hollow") for figure in figures):
        yield "The weights were random. A call with a fixed amount of work takes the same energy with trained ones."
    grids: dict[str, list[str]] = {}
    for figure in figures:
        if figure.intensity is not None and figure.emissions_g is not None:
            grids.setdefault(_grid(figure.intensity), []).append(escaped(figure.hardware))
    for grid, machines in grids.items():
        of = f" ({listing(list(dict.fromkeys(machines)))})" if len(grids) > 1 else ""
        yield f"Electricity{of}: {grid}."
    if publication.training is not None:
        yield _training(publication.training)
    days = sorted({figure.created[:10] for figure in figures})
    version = next((f" {escaped(figure.version)}" for figure in figures if figure.version), "")
    yield f"Written by pytest-carbon{version} from {counted(len(figures), 'figure')} of {listing(days)}."


def _grid(grid: CarbonIntensity) -> str:
    year = "" if grid.year is None else f", {grid.year}"
    return f"{grid.g_per_kwh:g} g CO2e per kWh ({escaped(grid.source)}{year}), PUE {grid.pue:g}"


def _training(training: Training) -> str:
    energy = quantity(training.energy_j / JOULES_PER_WH, "Wh")
    emissions = quantity(training.emissions_g, "g")
    return (
        f"Training ({escaped(training.test)}, {counted(training.calls, 'call')}): {energy}, {emissions} CO2e;"
        f" {training.origin} ({escaped(training.source)}) on {escaped(training.hardware)}; {_grid(training.intensity)}."
    )


def escaped(text: str) -> str:
    """Write any text so that it stays text, in one line and also in a table."""
    text = _SPECIAL.sub(lambda special: f"&#{ord(special[0])};", plain(text))
    return text.replace("&#64;", "&#64;<!-- -->") or UNKNOWN  # an address of mail would become a link all the same
