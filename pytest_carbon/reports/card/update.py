"""A model card with what runs measured of its model: its section and its metadata (pure)."""

from __future__ import annotations

from pytest_carbon.reports.card.entries import emissions, plain, results
from pytest_carbon.reports.card.figures import Publication
from pytest_carbon.reports.card.metadata import split, with_metadata
from pytest_carbon.reports.card.section import section, with_section


def updated(name: str, text: str, publication: Publication) -> str:
    """Return a card with our section and our metadata; all else in it stays as it is.

    ``name``: the card's file, for messages. Raises :class:`UsageProblem` for a card that cannot be changed.
    """
    training = None if publication.training is None else emissions(publication.training)
    card = with_section(split(name, text), section(publication))  # first, for its messages name the card's own lines
    card = with_metadata(card, plain(publication.model), results(publication.model, publication.figures), training)
    return card.head + card.yaml + card.rest
