"""A real pretrained model on real text: one test holds both how good the answers are and what they cost."""

from __future__ import annotations

import builtins
import re

import pytest

# The data comes with Python: its built-in exceptions, and the sentence that documents each of them.
EXCEPTIONS = [e for e in vars(builtins).values() if isinstance(e, type) and issubclass(e, BaseException) and e.__doc__]
NAMES = [re.sub("([a-z])([A-Z])", r"\1 \2", e.__name__) for e in EXCEPTIONS]  # "Zero Division Error"
SENTENCES = [e.__doc__.splitlines()[0] for e in EXCEPTIONS]  # "Second argument to a division … was zero."


def closest(encoder, queries, answers):
    """For each query the index of the answer that is closest in meaning."""
    queries, answers = (
        encoder.encode(texts, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False)
        for texts in (queries, answers)
    )
    return (queries @ answers.T).argmax(dim=1).tolist()


# The limit is a hundred times what an ordinary CPU takes: it stops blunders, wherever the test runs (on="*": also
# where energy is only estimated). What the code costs here, to the percent, is for the baseline to know.
@pytest.mark.carbon_budget(energy="500 J", on="*")
def test_sentences_find_their_exception(carbon, encoder):
    found = carbon(closest, encoder, SENTENCES, NAMES)
    right = sum(index == expected for expected, index in enumerate(found))
    assert right / len(SENTENCES) > 0.65  # three in four of some seventy; by chance it would be one
