"""Reference pages from the code, made when the site is built: each function returns a part of a page as Markdown.

A page has `<!-- reference: NAME -->` where the part belongs. As a Sphinx extension this module puts it there.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pytest_carbon
from pytest_carbon.baselines.counts import COUNTS_FORMAT
from pytest_carbon.baselines.format import CALIBRATION_FORMAT, FIELDS, FORMAT
from pytest_carbon.commands.main import main
from pytest_carbon.gate.budget import KEYWORDS
from pytest_carbon.measure.meters import protocol
from pytest_carbon.plugin import hookspecs, options
from pytest_carbon.plugin.fixture import Carbon, Window
from pytest_carbon.plugin.task_fixture import TaskFactory
from pytest_carbon.records import INFORMS, Calibration, Factors, Record
from pytest_carbon.records.work import ModuleWork, Work, WorkRecord

DOCS = Path(__file__).parents[1]
PACKAGE = Path(str(pytest_carbon.__file__)).parent
WORKFLOWS = [
    *sorted((DOCS.parent / "examples" / "ci").glob("*.yml")),
    *sorted((DOCS.parent / "templates").glob("*.yml")),
]
SCHEMA = PACKAGE / "reports" / "report.schema.json"


# --- options and marker --------------------------------------------------------------------------


def default(option: options.Option) -> tuple[str, str]:
    """The default of an option as its help says it, and the rest of the help."""
    if said := re.search(r" ?\(default: ([^()]*)\)", option.help):
        return said[1], option.help.replace(said[0], "")
    return ("off" if option.metavar is None else "–"), option.help


def option_list() -> str:
    """Every option, with its ini key, its default and its help."""
    parts = []
    for option in (options.SWITCH, *options.OPTIONS):
        value, text = default(option)
        key = f"ini key {_code(option.key)}" if option.ini else "no ini key"
        parts.append(f"## {_code(option.usage)}\n\n{text}\n\n*Default: {value}; {key}.*")
    return "\n\n".join(parts)


def marker() -> str:
    """The keywords of the marker."""
    return _table(("keyword", "meaning"), [(_code(f"{name}="), text) for name, text in KEYWORDS.items()])


# --- fixtures and hooks --------------------------------------------------------------------------


def fixtures() -> str:
    """The methods of the two fixtures."""
    return "\n\n".join(
        [
            _member("carbon", Carbon.__call__),
            _member("carbon.run", Carbon.run),
            _member("carbon.drive", Carbon.drive),
            _member("carbon.window", Carbon.window),
            _prose(inspect.getdoc(Window) or ""),
            _member('carbon["name"]', Carbon.__getitem__, signature=False),
            _member("carbon_task", TaskFactory.__call__),
        ]
    )


def hooks() -> str:
    """Every hook, with its example."""
    every = [value for name, value in vars(hookspecs).items() if name.startswith("pytest_carbon_")]
    return "\n\n".join(_member(hook.__name__, hook) for hook in every)


def meter() -> str:
    """What a meter has."""
    parts = [_prose(inspect.getdoc(protocol.Meter) or "")]
    for name, value in vars(protocol.Meter).items():
        if not name.startswith("_") and inspect.isfunction(value):
            parts.append(_member(f"Meter.{name}", value, level="###"))
    return "\n\n".join(parts)


def _member(name: str, function: Callable[..., Any], *, signature: bool = True, level: str = "##") -> str:
    heading = f"{level} {_code(name)}\n\n"
    if signature:
        heading += f"```python\n{_signature(name, function)}\n```\n\n"
    return heading + _prose(inspect.getdoc(function) or "")


def _signature(name: str, function: Callable[..., Any]) -> str:
    """A call as it is written, without types; one argument a line where it is long."""
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()]
    arguments = [str(p) for p in parameters if p.name != "self"]
    first = next((k for k, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if first is not None and all(p.kind is not p.VAR_POSITIONAL for p in parameters):
        arguments.insert(first - len(parameters), "*")
    line = f"{name}({', '.join(arguments)})"
    return line if len(line) <= 80 else "\n".join([f"{name}(", *(f"    {one}," for one in arguments), ")"])


def _prose(docstring: str) -> str:
    """A docstring as Markdown: arguments as a list, an example as code."""
    text, _, example = docstring.partition("::\n")
    lines = []
    for line in _plain(text).rstrip().splitlines():
        if line in ("Args:", "Raises:"):
            lines.append({"Args:": "Arguments:", "Raises:": "Errors:"}[line] + "\n")
        elif item := re.match(r"    (\w[\w, ]*): (.*)", line):
            lines.append(f"- `{item[1]}`: {item[2]}")
        else:
            lines.append(f"  {line.strip()}" if line.startswith("     ") else line.strip())
    prose = "\n".join(lines)
    return f"{prose}\n\n```python\n{inspect.cleandoc(example)}\n```" if example else prose


# --- warnings ------------------------------------------------------------------------------------


def warning_codes() -> dict[str, tuple[str, list[str]]]:
    """Each code that the package can give: what it does, and the sentences as far as the code has them."""
    effects: dict[str, set[bool]] = {}
    sentences: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for call in ast.walk(function):
                if not isinstance(call, ast.Call) or getattr(call.func, "id", "") != "MeasurementWarning":
                    continue
                informs = next((word.value for word in call.keywords if word.arg == "informs"), ast.Constant(False))
                may = {bool(informs.value)} if isinstance(informs, ast.Constant) else {True, False}
                for code in filter(re.compile("[a-z-]+").fullmatch, _texts(call.args[0])):
                    effects.setdefault(code, set()).update({True} if code in INFORMS else may)
                    sentences.setdefault(code, []).extend(_texts(call.args[1], function))
    words = {(True,): "informs", (False,): "disqualifies", (False, True): "either"}
    return {
        code: (words[tuple(sorted(may))], [text for text in dict.fromkeys(sentences[code]) if len(text) > 30])
        for code, may in effects.items()
    }


def _texts(node: ast.expr, function: ast.FunctionDef | None = None) -> Iterator[str]:
    """The texts that an expression may have; `…` stands for what the code fills in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value)
            if isinstance(part, ast.Constant)
            else next(_texts(part.value, function), "…")
            if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name)
            else "…"
            for part in node.values
        )
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, function)
        yield from _texts(node.orelse, function)
    elif isinstance(node, ast.Name) and function is not None:
        values = [
            statement.value
            for statement in ast.walk(function)
            if isinstance(statement, ast.Assign)
            and getattr(statement.targets[0], "id", "") == node.id
            and statement.lineno < node.lineno
        ]
        if values:
            yield from _texts(max(values, key=lambda value: value.lineno), function)


def explained_warnings() -> dict[str, tuple[str, str, str]]:
    """What happened and what to do, by code, and the page that says it."""
    every = {}
    for page in ("measuring", "work"):
        text = (DOCS / f"{page}.md").read_text("utf-8").partition("## Warnings")[2]
        for line in text.splitlines():
            if line.startswith("| `"):
                cells = re.sub(r"\]\((?!#)", "](../", re.sub(r"\]\(#", f"]({page}.md#", line)).strip("| ").split(" | ")
                codes, happened, remedy = map(str.strip, cells)
                for code in re.findall("`([a-z-]+)`", codes):
                    every[code] = happened, remedy, page
    return every


_EFFECTS = {
    "informs": "It informs: the figure stands.",
    "disqualifies": "It disqualifies the figure.",
    "either": "It disqualifies the figure, or only informs: the explanation says when.",
}


def warnings() -> str:
    """Every warning: what it does, what happened, what to do."""
    explained = explained_warnings()
    parts = []
    for code, (effect, sentences) in sorted(warning_codes().items()):
        happened, remedy, page = explained[code]
        section = f"## `{code}`\n\n{_EFFECTS[effect]} ([Explanation](../{page}.md#warnings).)\n\n"
        section += f"- **What happened**: {_up(happened)}\n- **What to do**: {_up(remedy)}\n"
        if sentences:
            section += "".join(f"- **The report says**: {sentence}\n" for sentence in sentences)
        parts.append(section)
    return "\n".join(parts)


# --- formats -------------------------------------------------------------------------------------


def report_format() -> str:
    """The JSON report, by its schema."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    parts = {"The report": schema, **schema["$defs"]}
    sections = []
    for name, part in parts.items():
        table = _table(("key", "type", "meaning"), _properties(part))
        sections.append(f"### {name}\n\n{part.get('description', '')}\n\n{table}")
    return "\n\n".join(sections)


def _properties(schema: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str, str]]:
    """The keys of an object, and of the objects inside it; those of an object with a name are in its own section."""
    for base in schema.get("allOf", []):
        yield "", _type(base), "has these keys, too"
    for key, part in schema.get("properties", {}).items():
        if "allOf" not in schema or "description" in part:  # else it only narrows what that describes
            yield _code(within + key), _type(part), part.get("description", "")
        for inner in (part, part.get("items"), part.get("additionalProperties"), *part.get("anyOf", [])):
            if isinstance(inner, Mapping) and "$ref" not in inner:
                yield from _properties(inner, f"{within}{key}.")


def _type(part: Mapping[str, Any]) -> str:
    """A type, in words."""
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        return f"[{name}](#{_slug(name)})"
    if choices := part.get("anyOf") or part.get("oneOf") or part.get("allOf"):
        return " or ".join(map(_type, choices))
    if "const" in part or "enum" in part:
        return ", ".join(_code(json.dumps(value)) for value in part.get("enum", [part.get("const")]))
    if isinstance(part.get("items"), Mapping):
        return f"list of {_type(part['items'])}"
    types = part.get("type", "anything")
    words = [_JSON.get(name, name) for name in ([types] if isinstance(types, str) else types)]
    return " or ".join(words)


_JSON = {"string": "text", "integer": "whole number", "boolean": "true or false", "array": "list"}


def baseline_format() -> str:
    """The lines of a file of baselines, and of the calibration beside it."""
    allowed = {name: what for name, (_, what) in FIELDS.items()}
    head = ("key", "type", "meaning")
    return "\n\n".join(
        [
            f"### Energy: `{FORMAT}`\n\nEach line after the first is a session of a measurement:",
            _table(head, [(key, allowed[key.strip("`")], said) for key, _, said in _fields(Record)]),
            "`factors` are those of an estimate:",
            _table(head, _fields(Factors)),
            f"### Counted work: `{COUNTS_FORMAT}`\n\nEach line after the first is a measurement:",
            _table(head, [*_fields(WorkRecord, but="work"), *_fields(Work, but="engine")]),
            "`by_class` has the FLOPs, bytes and kernels of each class of operators. Each entry of `by_module` has"
            " these keys; the last two may be missing:",
            _table(head, _fields(ModuleWork)),
            f"### Calibration: `{CALIBRATION_FORMAT}`",
            _table(head, _fields(Calibration)),
        ]
    )


_TYPES = (
    (r"tuple\[OperatorWork, \.\.\.\]|Mapping\[.*\]", "object"),
    (r"tuple\[\w+, \.\.\.\]", "list"),
    (r"\bstr\b", "text"),
    (r"\bint\b", "whole number"),
    (r"\bfloat\b", "number"),
    (r"\bbool\b", "true or false"),
    (r" \| None", ", or null"),
)


def _fields(record: type, but: str = "") -> list[tuple[str, str, str]]:
    """The fields of a class: its keys, their types in JSON, and what the code says of them."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    assert isinstance(node, ast.ClassDef)
    rows = []
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            said = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                said = _plain(str(following.value.value))
            kind = ast.unparse(statement.annotation)
            for annotation, name in _TYPES:
                kind = re.sub(annotation, name, kind)
            if statement.target.id != but:
                rows.append((_code(statement.target.id), kind, said))
    return rows


def _plain(docstring: str) -> str:
    """A docstring without the roles of reStructuredText."""
    return re.sub(r":\w+:`~?\.*([^`]+)`", r"`\1`", docstring).replace("``", "`")


# --- commands and exit statuses ------------------------------------------------------------------


def helps() -> dict[str, str]:
    """What `--help` prints, by command."""
    every: dict[str, str] = {}
    waiting = [()]
    while waiting:
        command: tuple[str, ...] = waiting.pop(0)
        every[" ".join(("pytest-carbon", *command))] = text = _help(command)
        listed = text.partition("COMMAND\n")[2] or text.partition("positional arguments:\n")[2].partition("\n\n")[0]
        if "COMMAND" in text.partition("\n\n")[0]:
            waiting += [(*command, name) for name in re.findall(r"^    ([a-z-]+)(?: |$)", listed, re.M)]
    return every


def _help(command: Sequence[str]) -> str:
    before = dict(os.environ)
    os.environ.update(COLUMNS="96", NO_COLOR="1")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*command, "--help"])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return printed.getvalue().rstrip()


def commands() -> str:
    """Every command, with its help."""
    return "\n\n".join(f"## {name}\n\n```text\n{text}\n```" for name, text in helps().items())


_STATUSES: Mapping[str, str] = {
    "OK": "Every test passed, and the gate found nothing that fails.",
    "TESTS_FAILED": "A test failed, also by a verdict, or the run failed as a whole: the suite moved, a"
    " measurement is missing, nothing was measured.",
    "INTERRUPTED": "The run was interrupted, or tests could not be collected.",
    "INTERNAL_ERROR": "An internal error of pytest or of a plugin.",
    "USAGE_ERROR": "An option, a marker, an ini key, a meter or a baseline cannot be used. Nothing was"
    " measured, or nothing was recorded: the message says which.",
    "NO_TESTS_COLLECTED": "No test was collected.",
    "MAX_WARNINGS_ERROR": "There were more warnings than `--max-warnings` of pytest allows.",
}


def exit_statuses() -> str:
    """The exit statuses of a run, and of each command."""
    of_run = _table(("status", "meaning"), [(_code(str(int(code))), _STATUSES[code.name]) for code in pytest.ExitCode])
    of_commands = []
    for name, text in helps().items():
        if said := re.search(r"Exit status: (.*?)(?=\n\n|\Z)", text, re.S):
            of_commands.append((_code(name), _up(" ".join(said[1].split()))))
    return (
        f"## pytest\n\n{of_run}\n\n## pytest-carbon\n\n{_table(('command', 'exit status'), of_commands)}\n\n"
        "An interrupted command ends with `130`."
    )


# --- pages that are elsewhere --------------------------------------------------------------------


def examples() -> str:
    """The page of the examples, with its links from here."""
    text = (DOCS.parent / "examples" / "README.md").read_text("utf-8")
    return re.sub(r"\]\((?!\.\./|#|https?:)", "](../examples/", text).replace("](../docs/", "](")


def workflows() -> str:
    """The files that docs/ci.md explains, as they are to be copied."""
    return "\n\n".join(f"## {path.name}\n\n```yaml\n{path.read_text('utf-8').rstrip()}\n```" for path in WORKFLOWS)


def from_the_top(name: str) -> str:
    """A page of the repository's top folder, with its links from here."""
    text = (DOCS.parent / name).read_text("utf-8")
    return re.sub(r"\]\((?!docs/|#|https?:)", "](../", text).replace("](docs/", "](")


# --- Markdown ------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`"


def _up(text: str) -> str:
    return text[:1].upper() + text[1:]


def _slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


PARTS: Mapping[str, Callable[[], str]] = {
    "readme": partial(from_the_top, "README.md"),
    "options": option_list,
    "marker": marker,
    "fixtures": fixtures,
    "hooks": hooks,
    "meter": meter,
    "warnings": warnings,
    "report": report_format,
    "baselines": baseline_format,
    "commands": commands,
    "exit-statuses": exit_statuses,
    "examples": examples,
    "workflows": workflows,
    "changes": partial(from_the_top, "CHANGELOG.md"),
    "contributing": partial(from_the_top, "CONTRIBUTING.md"),
}
PAGES = {
    "README.md": "overview.md",
    "examples/README.md": "examples.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/ci": "workflows.md",
    **{str(path.relative_to(DOCS.parent)): f"workflows.md#{_slug(path.name)}" for path in WORKFLOWS},
}
"""Files outside of the docs, and the pages of the site that have their text."""


def filled(source: str) -> str:
    """A page with its parts; links to what is a page here, too, lead to that page."""
    source = re.sub(r"^<!-- reference: ([\w-]+) -->$", lambda part: PARTS[part[1]](), source, flags=re.M)
    for path, name in PAGES.items():
        source = re.sub(rf"\]\((?:\.\./)+{re.escape(path)}(?=[#)])", f"](/{name}", source)
    return source


def setup(app: Any) -> dict[str, bool]:
    """Let Sphinx read the pages with their parts, and know a console by its `$` only."""
    from pygments.lexer import RegexLexer
    from pygments.token import Generic, Text

    class Console(RegexLexer):
        tokens = {  # noqa: RUF012
            "root": [(r"\$ ", Generic.Prompt, "command"), (r".*\n", Generic.Output)],
            "command": [(r".*\n", Text, "#pop")],
        }

    def read(app: Any, name: str, content: list[str]) -> None:
        content[0] = filled(content[0])

    app.add_lexer("console", Console)
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
