"""Change the metadata of a model card in place: only the lines that are ours, all others stay byte for byte (pure).

A YAML writer would change quotes, comments, order and line ends. So the metadata is parsed to find the lines, these are
replaced as text, and the result is parsed again: it must be what was meant, or the card is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import inf
from typing import Any

from pytest_carbon.records import UsageProblem
from pytest_carbon.text import listing

MODEL_INDEX = "model-index"
TRAINING = "co2_eq_emissions"
OURS = "pytest_carbon_"
"""How the types of our metrics begin in ``model-index``."""
_BLOCK = re.compile(r"(\s*---(?:\r\n|\r|\n))((?:[\s\S]*?(?:\r\n|\r|\n))??)---[ \t]*(?:\r\n|\n|\Z)")
"""The hub's own pattern, but for metadata without a line."""
_BOM = "\ufeff"
_SHAPE = "write it as a list of models, each with its name and a list of results, one key in each line"


@dataclass(frozen=True, slots=True)
class Card:
    """A model card, cut in three."""

    name: str
    """Of the file, for messages."""
    head: str
    """The byte order mark and the line that begins the metadata, if there are any."""
    yaml: str
    rest: str
    """From the line that ends the metadata; without metadata all but a byte order mark."""
    newline: str

    @property
    def has_metadata(self) -> bool:
        return self.head not in ("", _BOM)

    def problem(self, at: int, what: str) -> UsageProblem:
        """Make an error about a place of the metadata, with its line."""
        before = self.head + self.yaml[:at]
        line = 1 + len(re.findall(r"\r\n|\r|\n", before))
        return UsageProblem(f"{self.name}, line {line}: {what}.")


def split(name: str, text: str) -> Card:
    """Find the metadata as the hub does. Raises :class:`UsageProblem` for metadata that do not end."""
    bom = _BOM if text.startswith(_BOM) else ""
    body = text.removeprefix(_BOM)
    newline = re.search(r"\r\n|\n", body)
    if block := _BLOCK.match(body):
        head, yaml, rest = body[: block.end(1)], block[2], body[block.end(2) :]
    elif begin := re.match(r"\s*---([ \t]*)(?:[\r\n]|\Z)", body):
        what = "the metadata begin here, and no line --- ends them; add it, or delete this line"
        if begin[1]:
            what = "blanks follow the --- here, so the hub reads no metadata; delete them"
        raise Card(name, body[: body.index("---")], "", "", "").problem(0, what)
    else:
        head, yaml, rest = "", "", body
    return Card(name, bom + head, yaml, rest, newline[0] if newline else "\n")


def with_metadata(
    card: Card, model: str, results: Sequence[Mapping[str, Any]], training: Mapping[str, Any] | None
) -> Card:
    """Replace our results in ``model-index`` by these, and the emissions of the training where they are given.

    Raises :class:`UsageProblem` for metadata that cannot be read, or are written in a way that cannot be changed by
    lines.
    """
    before, root = _read(card)
    meant = deepcopy(before)
    _set(card, meant, model, results, training)
    edits = _Edits(card, root)
    edits.set_results(before, model, results)
    if training is not None:
        edits.set_key(TRAINING, training)
    head, rest, yaml = card.head, card.rest, edits.text()
    if not card.has_metadata:
        head, rest = f"{head}---{card.newline}", f"---{card.newline}{rest}"
    after = Card(card.name, head, yaml, rest, card.newline)
    try:
        as_meant = _written(_read(after)[0]) == _written(meant)
    except (UsageProblem, RecursionError):  # about a line that nobody has
        as_meant = False
    if not as_meant:
        raise card.problem(0, f"the metadata are written in a way that cannot be changed by lines; {_SHAPE}")
    return after


def _written(data: Mapping[str, Any]) -> list[str]:
    """Write data for a comparison, in which no number is no number; the order of the keys is free.

    YAML keeps aliases: written out, ten lines of them would fill the memory.
    """
    import yaml

    return sorted(yaml.safe_dump({key: value}, sort_keys=False) for key, value in data.items())


# --- what is meant -----------------------------------------------------------------------------------


def _read(card: Card) -> tuple[dict[str, Any], Any]:
    """Read the metadata, and where each value stands: a node of YAML, None without any.

    Raises :class:`UsageProblem` for what is no YAML, no mapping, or has a key twice.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(re.sub(r"(?:\r\n|\r|\n)\Z", "", card.yaml))  # as the hub cuts it
        root = loader.get_single_node()
        data = None if root is None else loader.construct_document(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = mark.index if mark is not None else int(getattr(error, "position", 0) or 0)
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is not YAML"
        raise card.problem(at, f"the metadata cannot be read ({why}); mend this line") from None
    except (ValueError, TypeError, RecursionError) as error:  # the 31st of February; a list as a key
        raise card.problem(0, f"the metadata cannot be read ({error}); mend them") from None
    if data is None:
        return {}, None
    if not isinstance(data, dict):
        raise card.problem(0, "the metadata are not a mapping of keys to values; write one key: value in each line")
    keys: set[str] = set()
    for key, _ in root.value:
        if key.value in keys:
            raise card.problem(key.start_mark.index, f"the key {key.value} is here for the second time; keep one")
        keys.add(key.value)
    return data, root


def _set(
    card: Card,
    data: dict[str, Any],
    model: str,
    results: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any] | None,
) -> None:
    """Change the data as the text is to be changed."""
    if not data.get(MODEL_INDEX):
        data[MODEL_INDEX] = [{"name": model, "results": list(results)}]
    else:
        entry = data[MODEL_INDEX][_position(card, data, model)]
        old = entry.get("results") or []
        ours = [i for i, result in enumerate(old) if _is_ours(card, result)]
        at = ours[0] if ours else len(old)
        kept = [(i, result) for i, result in enumerate(old) if i not in ours]
        entry["results"] = [
            *(result for i, result in kept if i < at),
            *results,
            *(result for i, result in kept if i >= at),
        ]
    if training is not None:
        data[TRAINING] = dict(training)


def _position(card: Card, data: Mapping[str, Any], model: str) -> int:
    """Return which element of ``model-index`` is this model's. Raises :class:`UsageProblem` if that is not clear."""
    index = data[MODEL_INDEX]
    at = card.yaml.find(MODEL_INDEX)
    if not isinstance(index, list) or not all(isinstance(element, dict) for element in index):
        raise card.problem(at, f"{MODEL_INDEX} is not a list of models; {_SHAPE}")
    if not all(isinstance(element.get("results") or [], list) for element in index):
        raise card.problem(at, f"the results in {MODEL_INDEX} are not a list; {_SHAPE}")
    if len(index) == 1:
        return 0
    names = [str(element.get("name")) for element in index]
    for wanted in (model, model.rpartition("/")[2]):
        if names.count(wanted) == 1:
            return names.index(wanted)
    raise card.problem(at, f"{MODEL_INDEX} has {listing(names)}; name one of them {model}")


def _is_ours(card: Card, result: object) -> bool:
    """Tell whether we wrote a result. Raises :class:`UsageProblem` where somebody added to it."""
    metrics = result.get("metrics") if isinstance(result, dict) else None
    if not isinstance(metrics, list):
        return False
    ours = [isinstance(metric, dict) and str(metric.get("type")).startswith(OURS) for metric in metrics]
    if any(ours) and not all(ours):
        what = f"a result in {MODEL_INDEX} has other metrics beside pytest-carbon's; put them in a result of their own"
        raise card.problem(card.yaml.find(OURS), what)
    return bool(ours) and all(ours)


# --- the text ----------------------------------------------------------------------------------------


class _Edits:
    """Replacements of whole lines of the metadata."""

    def __init__(self, card: Card, root: Any) -> None:
        self._card = card
        self._yaml = card.yaml
        self._root = root
        self._edits: list[tuple[int, int, str]] = []
        if root is not None and root.flow_style:
            raise card.problem(root.start_mark.index, "the metadata are in braces; write one key in each line")

    def text(self) -> str:
        """Return the metadata with all replacements made."""
        pieces, at = [], 0
        for start, end, lines in sorted(self._edits, key=lambda edit: edit[:2]):  # two at one place in their order
            pieces += [self._yaml[at:start], lines]
            at = end
        return "".join([*pieces, self._yaml[at:]])

    def set_key(self, key: str, value: object) -> None:
        """Replace the lines of a key, or add them at the end."""
        column = self._root.value[0][0].start_mark.column if self._root is not None and self._root.value else 0
        start, end = self._lines_of(self._root, key) or ((at := self._place_of_new_keys()), at)
        self._replace(start, end, {key: value}, column)

    def _place_of_new_keys(self) -> int:
        """Return the end of the metadata; their beginning where the last value is a text of several lines.

        The hub leaves out the line end before the closing line: a text before our keys would get one more.
        """
        if self._root is not None and getattr(self._last(self._root), "style", None) in ("|", ">"):
            return self._line_start(self._root.start_mark.index)
        return len(self._yaml)

    def set_results(self, data: Mapping[str, Any], model: str, results: Sequence[Mapping[str, Any]]) -> None:
        """Replace our results among those of the model, or add them after the last."""
        if not data.get(MODEL_INDEX):
            self.set_key(MODEL_INDEX, [{"name": model, "results": list(results)}])
            return
        models = self._block(self._value(self._root, MODEL_INDEX))
        entry = self._block(models.value[_position(self._card, data, model)])
        existing = self._value(entry, "results")
        if existing is None or not existing.value:
            start, end = self._lines_of(entry, "results") or ((line := self._after(entry)), line)
            self._replace(start, end, {"results": list(results)}, entry.start_mark.column)
            return
        items = self._block(existing)
        position = _position(self._card, data, model)
        old = data[MODEL_INDEX][position]["results"]
        ours = [i for i, result in enumerate(old) if _is_ours(self._card, result)]
        column = items.start_mark.column
        spans = {i: (self._dash(items, i), self._after(items.value[i])) for i in ours}
        for start, end in spans.values():
            self._edits.append((start, end, ""))
        if ours:
            start, end = spans[ours[0]]
            self._edits.remove((start, end, ""))
        else:
            start = end = self._after(items.value[-1])
        self._replace(start, end, list(results), column)

    def _value(self, mapping: Any, key: str) -> Any:
        for name, value in mapping.value:
            if name.value == key and value.start_mark.index < name.start_mark.index:
                raise self._card.problem(name.start_mark.index, f"{key} is an alias of another key's value; {_SHAPE}")
            if name.value == key:
                return value
        return None

    def _block(self, node: Any) -> Any:
        """Return a node whose children stand in lines of their own."""
        if not isinstance(node.value, list) or node.flow_style:
            what = f"{MODEL_INDEX} is in brackets or braces"
            raise self._card.problem(node.start_mark.index, f"{what}; {_SHAPE}")
        return node

    def _lines_of(self, mapping: Any, key: str) -> tuple[int, int] | None:
        """Return where a key begins, and where its lines end; None where a mapping has no such key."""
        for name, value in mapping.value if mapping is not None else ():
            if name.value == key:
                return name.start_mark.index, max(self._after(name), self._after(value))
        return None

    def _dash(self, sequence: Any, position: int) -> int:
        """Return where the line begins that has the hyphen of an item."""
        column, at = sequence.start_mark.column, sequence.value[position].start_mark.index
        while True:
            start = self._line_start(at)
            if self._yaml[start : start + column].strip(" ") == "" and self._yaml[start + column] == "-":
                return start
            if start <= sequence.start_mark.index:
                raise self._card.problem(start, f"{MODEL_INDEX} has two things in this line; {_SHAPE}")
            at = start - 1

    def _after(self, node: Any) -> int:
        """Return where the line after a node begins."""
        at = self._last(node).end_mark.index
        if at and self._yaml[at - 1] in "\r\n":  # a text of several lines takes its last line end
            return int(at)
        line_end = re.compile(r"\r\n|\r|\n").search(self._yaml, at)
        return len(self._yaml) if line_end is None else line_end.end()

    def _last(self, node: Any) -> Any:
        """Return the last value inside a node: one that has no lines of its own inside."""
        while isinstance(node.value, list) and node.value and not node.flow_style:
            last = node.value[-1]
            node = last[1] if isinstance(last, tuple) else last
        return node

    def _line_start(self, at: int) -> int:
        return 1 + max(self._yaml.rfind("\n", 0, at), self._yaml.rfind("\r", 0, at))

    def _replace(self, start: int, end: int, value: object, column: int) -> None:
        import yaml

        lines = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=inf, default_flow_style=False)
        indented = "".join(f"{' ' * column}{line}{self._card.newline}" for line in lines.rstrip("\n").split("\n"))
        if start != self._line_start(start):  # what is before it in its line stays: blanks, or a hyphen
            indented = indented[column:]
        self._edits.append((start, end, indented))
